"""Where text and questions come from: the Hugging Face hub, or a folder of plain files. (The kindergarten has a room.)

A hub source is a data set of parquet shards with a column `text`, shuffled, so that any prefix is a sample. Its last
shard is the validation shard, however many are fetched: numbers stay comparable. Every shard is fetched into
`.fetching/`, goes on where an interrupted one stopped, is checked for size and SHA-256, and only then renamed to its
place. `manifest.json` says where a folder's text comes from, and nothing is mixed with text from elsewhere.
HF_ENDPOINT names another hub with the same layout. Adding a corpus is one entry in `HUB`, and so is a data set of
conversations or questions: its parquet files become the JSONL that `--mixture` and the tasks read.
"""
import hashlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event

import pyarrow.parquet as pq

from nanochat.data import shards
from nanochat.system import files, log
from nanochat.system.files import UserError

FETCHING = ".fetching"
PARALLEL = 4  # fetches at a time; the hub throttles above that
ATTEMPTS = 5  # per shard, in a row and without a new byte
PAUSE_SECONDS = 1  # after the first failure, then twice as long each time: 15 s in all


@dataclass(frozen=True)
class HubSource:
    """A data set on the hub; `note` is what a user must know before using it and is printed.

    `lessons` maps the beginning of a parquet file's name to a JSONL below the data folder; without any it is text.
    """

    repo: str
    note: str
    lessons: dict[str, str] = field(default_factory=dict)


HUB = {
    "fineweb-edu": HubSource("karpathy/fineweb-edu-100b-shuffle", "FineWeb-Edu, licence ODC-By 1.0 (attribution)"),
    "climbmix": HubSource("karpathy/climbmix-400b-shuffle",
                          "ClimbMix, licence reported as non-commercial: read it before you use the data"),
    "smoltalk": HubSource("HuggingFaceTB/smol-smoltalk", "SmolTalk for small models, licence Apache-2.0",
                          {"data/train-": "chat/smoltalk.jsonl"}),
    "mmlu": HubSource("cais/mmlu", "MMLU, licence MIT", {
        "auxiliary_train/": "mmlu/auxiliary_train.jsonl", "all/test-": "mmlu/test.jsonl"}),
    "gsm8k": HubSource("openai/gsm8k", "GSM8K, licence MIT", {
        "main/train-": "gsm8k/train.jsonl", "main/test-": "gsm8k/test.jsonl"}),
    "arc": HubSource("allenai/ai2_arc", "ARC, licence CC BY-SA 4.0", {
        f"ARC-{level}/{split}-": f"arc/ARC-{level}-{split}.jsonl" for level in ("Easy", "Challenge")
        for split in ("train", "test")}),
    "humaneval": HubSource("openai/openai_humaneval", "HumanEval, licence MIT", {
        "openai_humaneval/test-": "humaneval/HumanEval.jsonl"}),
}
LESSON_FIELDS = ("messages", "question", "choices", "answer", "subject",
                 "prompt", "entry_point", "canonical_solution", "test")  # what is kept of a row


@dataclass(frozen=True)
class RemoteShard:
    """One parquet file of a hub data set; `sha256` is "" where the hub does not know it."""

    name: str
    num_bytes: int
    sha256: str

    @property
    def local(self) -> str:
        """Its name here, where there are no folders."""
        return self.name.replace("/", "--")


def hub_shards(source: HubSource) -> tuple[str, list[RemoteShard]]:
    """(the commit, its parquet files in order). UserError when the hub does not answer or knows no such data set."""
    from huggingface_hub import HfApi
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        info = HfApi(endpoint=endpoint).dataset_info(source.repo, files_metadata=True, timeout=60)
    except Exception as error:  # the client raises its own, httpx's and OSError; the user's way out is the same
        raise UserError(f"cannot list {source.repo} on {endpoint or 'the hub'}: {_first_line(error)}; check the "
                        "network, set HF_ENDPOINT, or use --source=kindergarten or --data=FOLDER") from error
    found = [RemoteShard(one.rfilename, one.size or 0, one.lfs.sha256 if one.lfs else "")
             for one in info.siblings if one.rfilename.endswith(".parquet")
             and (one.rfilename.startswith(tuple(source.lessons)) if source.lessons else "/" not in one.rfilename)]
    absent = [start for start in source.lessons if not any(shard.name.startswith(start) for shard in found)]
    if absent or len(found) < 2 and not source.lessons:
        raise UserError(f"{source.repo} has no parquet files {absent[0]}…" if absent else
                        f"{source.repo} has {len(found)} parquet files at its root; expected at least 2")
    return info.sha, sorted(found, key=lambda shard: shard.name)


def claim(text_dir: Path, origin: str) -> dict:
    """The manifest of a folder that holds (or will hold) text of this origin and no other, else UserError."""
    path = text_dir / shards.MANIFEST
    if not path.exists() and not any(text_dir.glob("*.parquet")):
        files.write_json(path, {"origin": origin, "validation": []})  # first of all, so that an interrupted run goes on
    manifest = files.read_json(path) if path.exists() else {"origin": "another place"}
    found = manifest.get("origin", "kindergarten")  # which writes its own manifest, without an origin
    if found != origin:
        raise UserError(f"{text_dir} holds text from {found}, not {origin}; remove it, or choose another with --out")
    return manifest


def fetch(source: HubSource, count: int, text_dir: Path) -> None:
    """The first `count` training shards (−1: all) and the validation shard into `text_dir`; what is there stays.

    UserError when a shard can't be had, after all others were tried; a second run goes on where this one stopped.
    """
    revision, remote = hub_shards(source)
    train, validation = remote[:-1], remote[-1]
    manifest = {"files": {}, **claim(text_dir, source.repo), "revision": revision, "validation": [validation.name]}
    have = manifest["files"]
    missing = [shard for shard in [validation, *(train if count < 0 else train[:count])]
               if have.get(shard.name) != shard.sha256 or not (text_dir / shard.name).exists()]
    _check_space(text_dir, sum(shard.num_bytes for shard in missing))
    failed = _fetch_all(source.repo, revision, missing, text_dir, manifest) if missing else []
    if failed:
        raise UserError(f"{len(failed)} of {len(missing)} shards failed: {failed[0]}; run the same command again, "
                        "finished shards are kept")
    shutil.rmtree(text_dir / FETCHING, ignore_errors=True)


def fetch_lessons(source: HubSource, data_dir: Path) -> dict[str, int]:
    """The JSONL files of a data set of conversations or questions: {file: rows}; what is there stays."""
    written: dict[str, int] = {}
    wanted = {start: target for start, target in source.lessons.items() if not (data_dir / target).exists()}
    if not wanted:
        return written
    revision, remote = hub_shards(source)
    folder = data_dir / FETCHING / source.repo.replace("/", "--")
    needed = [shard for shard in remote if shard.name.startswith(tuple(wanted))]
    _check_space(folder, 4 * sum(shard.num_bytes for shard in needed))
    missing = [shard for shard in needed if not (folder / shard.local).exists()]
    failed = _fetch_all(source.repo, revision, missing, folder, {"files": {}}, pq.ParquetFile) if missing else []
    if failed:
        raise UserError(f"{len(failed)} of {len(missing)} files failed: {failed[0]}; run the same command again, "
                        "finished ones are kept")
    for start, target in wanted.items():
        rows = [_lesson(row) for shard in needed if shard.name.startswith(start)
                for row in pq.read_table(folder / shard.local).to_pylist()]
        files.write_jsonl(data_dir / target, rows)
        written[target] = len(rows)
    shutil.rmtree(folder)
    return written


def _lesson(row: dict) -> dict:
    row = row.get("train") or row  # MMLU's auxiliary set has its rows in a column of this name
    if "answerKey" in row:  # ARC: the choices' own labels are letters or numbers
        row = {**row, "choices": row["choices"]["text"], "answer": row["choices"]["label"].index(row["answerKey"])}
    return {name: row[name] for name in LESSON_FIELDS if name in row}


def _fetch_all(repo: str, revision: str, wanted: list[RemoteShard], text_dir: Path, manifest: dict,
               check: Callable[[Path], object] = shards.open_shard) -> list[str]:
    """Fetches in parallel and notes each finished shard in the manifest; what failed, with reasons."""
    failed: list[str] = []
    stop = Event()
    total = sum(shard.num_bytes for shard in wanted) // 10**6
    with log.Progress("fetch", total, "MB") as bar, ThreadPoolExecutor(PARALLEL) as pool:
        shard_of = {pool.submit(_fetch_one, repo, revision, shard, text_dir, stop, check): shard for shard in wanted}
        waiting = set(shard_of)
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=1, return_when=FIRST_COMPLETED)
                ended = [(shard_of[one], one.exception()) for one in finished]
                failed += [f"{shard.name} ({_first_line(error)})" for shard, error in ended if error]
                manifest["files"] |= {shard.name: shard.sha256 for shard, error in ended if not error}
                if finished:
                    files.write_json(text_dir / shards.MANIFEST, manifest)
                there = sum(_size(text_dir / one.local) or _size(text_dir / FETCHING / one.local) for one in wanted)
                bar.update(there // 10**6, failed=len(failed))
        finally:  # also on Ctrl-C: the threads end at their next megabyte, and what they have stays
            stop.set()
            pool.shutdown(cancel_futures=True)
    return failed


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _fetch_one(repo: str, revision: str, shard: RemoteShard, text_dir: Path, stop: Event,
               check: Callable[[Path], object]) -> None:
    """One shard to its place, from the byte on that an earlier attempt or an earlier run reached."""
    from huggingface_hub import hf_hub_url
    url = hf_hub_url(repo, shard.name, repo_type="dataset", revision=revision, endpoint=os.environ.get("HF_ENDPOINT"))
    partial = text_dir / FETCHING / shard.local
    partial.parent.mkdir(exist_ok=True)
    failures = 0
    while True:
        before = _size(partial)
        try:
            _download(url, partial, shard, stop)
            check(partial)
            os.replace(partial, text_dir / shard.local)
            return
        except Exception as error:  # the client's own kinds, OSError, UserError: all deserve another attempt, but a no
            failures = 1 if _size(partial) > before else failures + 1
            status = getattr(getattr(error, "response", None), "status_code", 0)
            if failures == ATTEMPTS or stop.is_set() or (400 <= status < 500 and status != 429):
                raise
            stop.wait(PAUSE_SECONDS * 2 ** (failures - 1))


def _download(url: str, partial: Path, shard: RemoteShard, stop: Event) -> None:
    """Appends what is missing to `partial`; a file that is not what the hub announced is removed, UserError."""
    if (have := _size(partial)) < shard.num_bytes:
        _append(url, partial, have, stop)
    with partial.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if partial.stat().st_size != shard.num_bytes or digest != (shard.sha256 or digest):
        partial.unlink()
        raise UserError("size or SHA-256 differs from what the hub announced")


def _append(url: str, partial: Path, have: int, stop: Event) -> None:
    """Everything from byte `have` on, to the end of `partial`; from the beginning where the server knows no ranges."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status
    headers = {**build_hf_headers(), "Accept-Encoding": "identity", "Range": f"bytes={have}-"}
    with get_session().stream("GET", url, headers=headers, follow_redirects=True, timeout=60) as response:
        hf_raise_for_status(response)
        with partial.open("ab" if response.status_code == 206 else "wb") as out:
            for chunk in response.iter_bytes(1 << 20):
                out.write(chunk)
                if stop.is_set():
                    raise UserError("interrupted")


def _check_space(folder: Path, num_bytes: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < num_bytes * 1.05:
        raise UserError(f"{folder} has {free / 1e9:.1f} GB free; the shards need {num_bytes / 1e9:.1f} GB: take fewer "
                        "(-n) or another folder (--out)")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
