"""The files of CORE (nanochat/eval/core.py): fetched, checked, and written in our layout.

The bundle is the one that karpathy/nanochat publishes, a zip file of 162 MB:

    eval_bundle/core.yaml            22 tasks: label, file, kind, shots, delimiter
    eval_bundle/eval_meta_data.csv   the accuracy of a blind guess for each, in percent
    eval_bundle/eval_data/…          a JSONL file for each

Out of it come `core_tasks.yaml` and `core/…` below the data folder. `core_tasks.yaml` is written last, so where it is,
everything is. Another source can be named: an address, a zip file, or a folder into which it was unpacked.
"""
import csv
import hashlib
import json
import os
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from nanochat.data import download
from nanochat.system import files, log
from nanochat.system.files import UserError

URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
SHA256 = "90a7c19e28ee7a52b4f6e1f87658deb9fde7f63deba2379045bdb1fe9ea5d200"  # as five other projects noted it
NUM_TASKS = 22
FIELDS = {"multiple_choice": {"query", "choices", "gold"}, "schema": {"context_options", "continuation", "gold"},
          "language_modeling": {"context", "continuation"}}


def fetch(data_dir: Path, source: str = "") -> None:
    """CORE's files in `data_dir`, from `source` (default: NANOCHAT_CORE, else URL); what is there stays."""
    if (data_dir / "core_tasks.yaml").exists():
        return log.say(f"{data_dir / 'core_tasks.yaml'} is there: nothing to fetch")
    source = source or os.environ.get("NANOCHAT_CORE", "") or URL
    folder = data_dir / ".fetching" / "core"
    with download.alone_in(folder):
        place = _download(source, folder / "eval_bundle.zip") if "://" in source else Path(source).expanduser()
        try:
            root: Any = place if place.is_dir() else zipfile.Path(place)
            _write(root if (root / "core.yaml").exists() else root / "eval_bundle", data_dir)
        except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError, IndexError, yaml.YAMLError) as error:
            if "://" in source:
                place.unlink(missing_ok=True)
            raise UserError(f"{source} is not CORE's bundle ({type(error).__name__}: {error}); run the same command "
                            "again, or name another copy of eval_bundle.zip: --core=FILE") from error
        if "://" in source:
            place.unlink(missing_ok=True)


def _download(url: str, target: Path) -> Path:
    from huggingface_hub import get_session  # its client, without the hub's token, which is not for other servers
    log.say(f"fetching CORE's files from {url}")

    def attempt() -> None:
        have = download.file_size(target)
        ranges = {"Range": f"bytes={have}-"} if have else {}
        with get_session().stream("GET", url, headers=ranges, follow_redirects=True,
                                  timeout=download.TIMEOUT_SECONDS) as response:
            if response.status_code == 416:
                target.unlink()  # more than there is: not this file
            if response.status_code not in (200, 206):
                raise download.HttpError(response)
            with target.open("ab" if response.status_code == 206 else "wb") as out:
                for block in response.iter_bytes():
                    out.write(block)
        if not zipfile.is_zipfile(target):
            target.unlink()
            raise download.BadContent("what arrived is not a zip file; does the network ask for a login?")

    try:
        download.Attempts().run(target.name, attempt, download.ATTEMPTS, lambda: download.file_size(target))
    except UserError:
        raise
    except Exception as error:  # the client raises many kinds; the way out is the same
        raise UserError(f"cannot fetch {url} ({type(error).__name__}: {error}); run the same command again, or fetch "
                        "eval_bundle.zip by hand and name it: --core=FILE") from error
    digest = hashlib.file_digest(target.open("rb"), "sha256").hexdigest()
    if url == URL and digest != SHA256:
        log.say(f"warning: CORE's bundle is not the one that others measured with (SHA-256 {digest}, known {SHA256}); "
                "it is used if it has the 22 tasks")
    return target


def _write(bundle: Any, data_dir: Path) -> None:
    """`bundle` is a Path or a zipfile.Path. ValueError or KeyError where it has another form."""
    lines = (bundle / "eval_meta_data.csv").read_text(encoding="utf-8").splitlines()
    baselines = {row["Eval Task"]: float(row["Random baseline"]) for row in csv.DictReader(lines)}
    rows = yaml.safe_load((bundle / "core.yaml").read_text(encoding="utf-8"))["icl_tasks"]
    if len({row["label"] for row in rows}) != NUM_TASKS:
        raise ValueError(f"it has {len(rows)} tasks, expected {NUM_TASKS}")
    tasks = [_converted(row, baselines[row["label"]]) for row in rows]
    for uri, kind in {(row["dataset_uri"], row["icl_task_type"]) for row in rows}:
        if ".." in PurePosixPath(uri).parts or uri.startswith("/"):
            raise ValueError(f"{uri} lies outside of the bundle")
        content = (bundle / "eval_data" / uri).read_bytes()
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
