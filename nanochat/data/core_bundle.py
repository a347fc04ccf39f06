"""The files of CORE (nanochat/eval/core.py): fetched, checked, and written in our layout.

The bundle is the one that karpathy/nanochat publishes, a zip file of 162 MB:

    eval_bundle/core.yaml            22 tasks: label, file, kind, shots, delimiter
    eval_bundle/eval_meta_data.csv   the accuracy of a blind guess for each, in percent
    eval_bundle/eval_data/…          a JSONL file for each

It becomes `core_tasks.yaml` and `core/…` in the data folder. `core_tasks.yaml` is written last: if it exists, all files
exist. If the bundle cannot be fetched, its files are fetched one by one from the repository from which DataComp-LM,
which chose the tasks, took them. --core names another source: an address, a zip file, or a folder with the unpacked
bundle.
"""
import csv
import functools
import hashlib
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from nanochat.data import download
from nanochat.system import files, log
from nanochat.system.files import UserError

URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
SHA256 = "90a7c19e28ee7a52b4f6e1f87658deb9fde7f63deba2379045bdb1fe9ea5d200"  # five other projects give this digest
NUM_TASKS = 22
FIELDS = {"multiple_choice": {"query", "choices", "gold"}, "schema": {"context_options", "continuation", "gold"},
          "language_modeling": {"context", "continuation"}}


# The second source: a commit of mosaicml/llm-foundry (Apache-2.0).
FOUNDRY = ("https://raw.githubusercontent.com/mosaicml/llm-foundry/8c8dd48f72168c5d51e2f7b151595892a8fba43d/"
           "scripts/eval/local_data/")
# A task a line: label, shots, accuracy of a blind guess in percent as in the bundle (DataComp-LM's first table, which
# published scores of nanochats use), delimiter, file, and the beginning of the name that Git gives to its content.
TASKS = Path(__file__).with_name("core_files.txt").read_text(encoding="ascii")
DELIMITER = "\nAnswer: "


def fetch(data_dir: Path, source: str = "") -> None:
    """CORE's files in `data_dir`, from `source` (default: NANOCHAT_CORE; without it URL, then FOUNDRY). Existing files
    stay."""
    if (data_dir / "core_tasks.yaml").exists():
        return log.say(f"{data_dir / 'core_tasks.yaml'} is there: nothing to fetch")
    given = source or os.environ.get("NANOCHAT_CORE", "")
    folder = data_dir / ".fetching" / "core"
    with download.alone_in(folder):
        try:
            _take_bundle(given or URL, folder / "eval_bundle.zip", data_dir)
        except UserError as error:
            if given:  # never other files than the user named: their scores would be mistaken for the named files'
                raise
            log.say(f"{str(error).split(';')[0]}; fetching its files one by one instead")
            _take_files(folder / "files", data_dir)
            (folder / "eval_bundle.zip").unlink(missing_ok=True)  # a part of it may have arrived


def _take_bundle(source: str, archive: Path, data_dir: Path) -> None:
    is_address = "://" in source
    if is_address:
        _download(source, archive, _not_a_zip_file)
        digest = hashlib.file_digest(archive.open("rb"), "sha256").hexdigest()
        if source == URL and digest != SHA256:
            log.say(f"warning: CORE's bundle is not the one that others measured with (SHA-256 {digest}, known "
                    f"{SHA256}); it is used if it has the 22 tasks")
    place = archive if is_address else Path(source).expanduser()
    try:
        root: Any = place if place.is_dir() else zipfile.Path(place)
        bundle = root if (root / "core.yaml").exists() else root / "eval_bundle"
        _write(bundle / "eval_data", *_listed(bundle), data_dir)
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError, IndexError, yaml.YAMLError) as error:
        raise UserError(f"{source} is not CORE's bundle ({type(error).__name__}: {error}); run the same command again, "
                        "or name another copy of eval_bundle.zip: --core=FILE") from error
    finally:
        if is_address:
            place.unlink(missing_ok=True)


def _take_files(folder: Path, data_dir: Path) -> None:
    rows, baselines = [], {}
    for label, shots, baseline, delimiter, uri, name in map(str.split, TASKS.splitlines()):
        target = folder / uri
        target.parent.mkdir(parents=True, exist_ok=True)
        _download(FOUNDRY + uri, target, functools.partial(_not_of_the_commit, name))
        # The table has no column for the kind of a task, because the fields of an item show it.
        with target.open(encoding="utf-8") as lines:
            fields = json.loads(next(lines)).keys()
        rows.append({"label": label, "dataset_uri": uri, "num_fewshot": int(shots),
                     "icl_task_type": next(kind for kind, needed in FIELDS.items() if needed <= fields),
                     **({} if delimiter == "-" else {"continuation_delimiter": DELIMITER})})
        baselines[label] = float(baseline)
    _write(folder, rows, baselines, data_dir)
    shutil.rmtree(folder)


def _not_a_zip_file(path: Path) -> str:
    return "" if zipfile.is_zipfile(path) else "the answer is not a zip file; does the network ask for a login?"


def _not_of_the_commit(name: str, path: Path) -> str:
    content = path.read_bytes()
    digest = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return "" if digest.startswith(name) else f"Git's name of the fetched file is {digest[:12]}, expected {name}"


def _download(url: str, target: Path, problem_of: Callable[[Path], str]) -> None:
    """Fetches the file at `url` as `target`, and resumes an earlier attempt. `problem_of` says what is wrong with a
    complete file, or ""."""
    if target.exists() and not problem_of(target):  # it is complete: an earlier attempt was interrupted at a later file
        return
    log.say(f"fetching {url}")

    def check(path: Path, num_bytes: int) -> None:
        if problem := problem_of(path):
            path.unlink()
            raise download.BadContent(problem)

    try:
        download.fetch(url, target, download.Attempts(), check, with_token=False)
    except UserError:
        raise
    except Exception as error:  # the client raises many types of errors; the user can do the same about all
        raise UserError(f"cannot fetch {url} ({type(error).__name__}: {error}); run the same command again, or fetch "
                        "eval_bundle.zip by hand and name it: --core=FILE") from error


def _listed(bundle: Any) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """(the bundle's tasks, {label: accuracy of a blind guess}); `bundle` is a Path or a zipfile.Path."""
    lines = (bundle / "eval_meta_data.csv").read_text(encoding="utf-8").splitlines()
    baselines = {row["Eval Task"]: float(row["Random baseline"]) for row in csv.DictReader(lines)}
    return yaml.safe_load((bundle / "core.yaml").read_text(encoding="utf-8"))["icl_tasks"], baselines


def _write(source: Any, rows: list[dict[str, Any]], baselines: dict[str, float], data_dir: Path) -> None:
    """`source` is the folder of the items. ValueError or KeyError if a file or a field is missing."""
    if len({row["label"] for row in rows}) != NUM_TASKS:
        raise ValueError(f"it has {len(rows)} tasks, expected {NUM_TASKS}")
    tasks = [_converted(row, baselines[row["label"]]) for row in rows]
    for uri, kind in {(row["dataset_uri"], row["icl_task_type"]) for row in rows}:
        if ".." in PurePosixPath(uri).parts or uri.startswith("/"):
            raise ValueError(f"{uri} lies outside of the bundle")
        content = (source / uri).read_bytes()
        if missing := FIELDS[kind] - json.loads(content.splitlines()[0]).keys():
            raise ValueError(f"{uri} has items without {', '.join(sorted(missing))}")
        files.write_atomic(data_dir / "core" / uri, content)
    files.write_atomic(data_dir / "core_tasks.yaml", yaml.safe_dump({"icl_tasks": tasks}, sort_keys=False))
    log.say(f"CORE: {NUM_TASKS} tasks in {data_dir / 'core'}")


def _converted(row: dict[str, Any], baseline: float) -> dict[str, Any]:
    """A task as nanochat/eval/core.py reads it."""
    shots = row["num_fewshot"]
    task = {"label": row["label"], "dataset_uri": f"core/{row['dataset_uri']}", "icl_task_type": row["icl_task_type"],
            "num_fewshot": shots[0] if isinstance(shots, list) else shots, "random_baseline_percent": baseline}
    if "continuation_delimiter" in row:
        task["continuation_delimiter"] = row["continuation_delimiter"]
    return task
