"""Text, conversations and questions from the Hugging Face hub.

A text source is a data set of parquet shards with a column `text`, shuffled, so that any prefix is a sample. Its last
shard is the validation shard, no matter how many shards are fetched: so results stay comparable. Every shard is
downloaded into `.fetching/`, checked, and only then renamed. Two files are beside the shards: `manifest.json` says
where the text comes from, so that it is never mixed with other text, and `.listing.json` keeps the hub's list of files
of that revision, so that a complete folder needs no network and a larger `-n` continues the same revision.

HF_ENDPOINT names another hub with the same layout. A new corpus is one entry in `HUB` for `nanochat.dataset --source`;
a recipe's --text takes it when its name is also in the choices of nanochat/recipe.py. runs/laptop.py refuses every text
but TinyStories and has the size of its shards, runs/speedrun.py has the size of FineWeb-Edu's. A data set of
conversations or questions is an entry too: its parquet files become JSONL files, which `--mixture` and the tasks read.
"""
import functools
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field
from multiprocessing.pool import IMapIterator, ThreadPool
from pathlib import Path
from typing import Any, TypeVar

import pyarrow.parquet as pq

from nanochat.data import download, shards
from nanochat.system import files, log
from nanochat.system.files import UserError

T = TypeVar("T")
FETCHING = ".fetching"
LISTING = ".listing.json"  # hidden: an import of the folder must not read it
THREADS = 4  # downloads at a time; the hub slows down clients that make more


@dataclass(frozen=True)
class HubSource:
    """A data set on the hub. `note` is printed: the licence, which a user must know before using the data.

    The shards of a text source are in `folder`, "" for the data set's root; the last shard by name is for validation.
    `lessons` maps the beginning of a parquet file's name to a JSONL file in the data folder; a text source has none.
    """

    repo: str
    note: str
    lessons: dict[str, str] = field(default_factory=dict)
    folder: str = ""


HUB = {
    "fineweb-edu": HubSource("karpathy/fineweb-edu-100b-shuffle", "FineWeb-Edu, licence ODC-By 1.0 (attribution)"),
    "climbmix": HubSource("karpathy/climbmix-400b-shuffle",
                          "ClimbMix, licence reported as non-commercial: read it before you use the data"),
    "tinystories": HubSource("roneneldan/TinyStories", "TinyStories, licence CDLA-Sharing-1.0", folder="data/"),
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
                 "prompt", "entry_point", "canonical_solution", "test")  # the fields of a row that are kept


@dataclass(frozen=True)
class RemoteShard:
    """One parquet file of a hub data set; `num_bytes` 0 and `sha256` "" if the hub does not know them."""

    name: str
    num_bytes: int
    sha256: str

    @property
    def local(self) -> str:
        """Its name in our folder, which has no folders inside."""
        return self.name.replace("/", "--")


def hub_shards(source: HubSource, folder: Path, revision: str = "") -> tuple[str, list[RemoteShard]]:
    """(the commit, its parquet files in order), from `folder`/.listing.json if an earlier call has asked the hub.

    UserError if the hub does not answer or has no such data set.
    """
    try:
        saved = files.read_json(folder / LISTING)
        if saved["repo"] == source.repo and saved["revision"] == (revision or saved["revision"]):
            return saved["revision"], [RemoteShard(*row) for row in saved["shards"]]
    except (UserError, KeyError, TypeError):  # missing, damaged, or of another version
        pass
    try:
        commit, remote = download.Attempts().run(
            f"list of {source.repo}", lambda: _ask_for_shards(source, revision), download.LISTING_ATTEMPTS)
    except UserError:
        raise
    except Exception as error:  # the client raises many types of errors; the user can do the same about all
        raise UserError(f"cannot list {source.repo} on {download.endpoint()}: {_explain(error, source.repo)}; "
                        "or use --source=kindergarten or --data=FOLDER") from error
    # Saved before the first byte of data: an interrupted download continues without a second request.
    files.write_json(folder / LISTING, {"repo": source.repo, "revision": commit,
                                        "shards": [astuple(shard) for shard in remote]})
    return commit, remote


def _ask_for_shards(source: HubSource, revision: str) -> tuple[str, list[RemoteShard]]:
    url = f"{download.endpoint()}/api/datasets/{source.repo}" + (f"/revision/{revision}" if revision else "")
    with download.get(url, params={"blobs": "true"}) as response:
        if response.status_code != 200:
            raise download.HttpError(response)
        try:
            info = json.loads(response.read())
            remote = [_remote_shard(entry) for entry in info["siblings"] if _is_needed(source, entry["rfilename"])]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise download.BadContent("the answer is not a listing; does the network ask for a login, or is "
                                      "HF_ENDPOINT not a hub") from error
    for start in source.lessons:
        if not any(shard.name.startswith(start) for shard in remote):
            raise UserError(f"{source.repo} has no parquet files {start}…")
    if len(remote) < 2 and not source.lessons:
        raise UserError(f"{source.repo} has {len(remote)} parquet files in its folder /{source.folder}; expected at "
                        "least 2")
    return info.get("sha") or revision or "main", sorted(remote, key=lambda shard: shard.name)


def _remote_shard(entry: dict[str, Any]) -> RemoteShard:
    lfs = entry.get("lfs") or {}
    return RemoteShard(entry["rfilename"], entry.get("size") or lfs.get("size") or 0, lfs.get("sha256") or "")


def _is_needed(source: HubSource, name: str) -> bool:
    if source.lessons:
        is_in_place = name.startswith(tuple(source.lessons))
    else:
        is_in_place = name.startswith(source.folder) and "/" not in name.removeprefix(source.folder)
    return is_in_place and name.endswith(".parquet") and not name.rpartition("/")[2].startswith(".")


def fetch(source: HubSource, count: int, text_dir: Path) -> None:
    """Fetches the first `count` training shards (−1: all) and the validation shard; existing shards stay.

    UserError when a shard cannot be fetched, after all others were tried; a second call continues.
    """
    if count == 0:
        raise UserError("-n 0 fetches no training shards; give at least 1, or -1 for all")
    log.say(f"fetching {count if count > 0 else 'all'} training shards and the validation shard of {source.repo} "
            f"to {text_dir}")
    with download.alone_in(text_dir):
        has_begun = any(text_dir.iterdir())  # an empty folder is claimed only after the hub has answered
        manifest = {"files": {}, **(shards.claim(text_dir, source.repo) if has_begun else {})}
        if _is_complete(manifest, count, text_dir):
            log.say(f"{text_dir} is complete: nothing to fetch")
            return
        # The revision stays when the data set grows: otherwise we would train on the old validation shard.
        revision, remote = hub_shards(source, text_dir, manifest.get("revision", ""))
        train, validation = remote[:-1], remote[-1]
        if count > len(train):
            log.say(f"{source.repo} has {len(train)} training shards, fewer than the {count} asked for; fetching all")
        manifest |= {"origin": source.repo, "revision": revision, "validation": [validation.local]}
        files.write_json(text_dir / shards.MANIFEST, manifest)  # first of all: it pins the validation shard
        needed = [validation, *(train if count < 0 else train[:count])]
        missing = [shard for shard in needed if not _is_there(shard, manifest, text_dir)]
        extra = len(shards.in_folder(text_dir)) - len(needed) + len(missing)
        if extra > 0:
            log.say(f"{extra} more training shards are in {text_dir} from before; they are used too")
        _fetch_all(source.repo, revision, missing, text_dir, manifest)
        shutil.rmtree(text_dir / FETCHING, ignore_errors=True)


def _is_complete(manifest: dict[str, Any], count: int, text_dir: Path) -> bool:
    """Whether a folder without a listing, as older versions left it, has `count` shards: then it needs no listing."""
    present = {name for name in manifest["files"] if (text_dir / name).exists()}
    pinned = set(manifest.get("validation", []))
    return (not (text_dir / LISTING).exists() and bool(pinned) and pinned <= present
            and 0 < count <= len(present - pinned))


def _is_there(shard: RemoteShard, manifest: dict[str, Any], text_dir: Path) -> bool:
    path = text_dir / shard.local
    return (manifest["files"].get(shard.name) == shard.sha256 and path.exists()
            and path.stat().st_size == (shard.num_bytes or path.stat().st_size))


def fetch_lessons(source: HubSource, data_dir: Path) -> dict[str, int]:
    """Makes the JSONL files of a data set of conversations or questions: {file: rows}. Existing files stay."""
    missing_files = {start: name for start, name in source.lessons.items() if not (data_dir / name).exists()}
    if not missing_files:
        return {}
    folder = data_dir / FETCHING / source.repo.replace("/", "--")
    num_rows: dict[str, int] = {}
    with download.alone_in(folder):
        revision, remote = hub_shards(source, folder)
        needed = [shard for shard in remote if shard.name.startswith(tuple(missing_files))]
        missing = [shard for shard in needed if not (folder / shard.local).exists()]
        _fetch_all(source.repo, revision, missing, folder, {"files": {}}, space=4)  # JSONL is not compressed
        for start, name in missing_files.items():
            rows = [row for shard in needed if shard.name.startswith(start) for row in _lessons(folder / shard.local)]
            files.write_jsonl(data_dir / name, rows)
            num_rows[name] = len(rows)
        shutil.rmtree(folder, ignore_errors=True)  # the parquet files are no longer needed
    return num_rows


def _lessons(path: Path) -> Iterator[dict[str, Any]]:
    try:
        yield from map(_lesson, pq.read_table(path).to_pylist())
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(f"{path} has rows that are not as expected ({type(error).__name__}: "
                        f"{shards.first_line(error)}); remove the file and run the same command again") from error


def _lesson(row: dict[str, Any]) -> dict[str, Any]:
    row = row.get("train") or row  # MMLU's auxiliary set has its rows in a column of this name
    if "answerKey" in row:  # ARC: the choices' own labels are letters or numbers
        row = {**row, "choices": row["choices"]["text"], "answer": row["choices"]["label"].index(row["answerKey"])}
    return {name: row[name] for name in LESSON_FIELDS if name in row}


def _fetch_all(repo: str, revision: str, missing: list[RemoteShard], folder: Path, manifest: dict[str, Any],
               space: int = 1) -> None:
    """Downloads in parallel and notes each finished shard in the manifest. UserError names a failed shard and why."""
    if not missing:
        return
    _check_space(folder, missing, space)
    attempts, left = download.Attempts(), len(missing)
    failed: list[str] = []
    total = sum(shard.num_bytes for shard in missing) // 10**6
    knows_sizes = all(shard.num_bytes for shard in missing)

    def fetch_one(shard: RemoteShard) -> tuple[RemoteShard, bool]:
        """(the shard, whether it is there now); in a thread."""
        try:
            url = hf_hub_url(repo, shard.name, repo_type="dataset", revision=revision, endpoint=download.endpoint())
            partial = folder / FETCHING / shard.local
            check = functools.partial(download.check_parquet, sha256=shard.sha256)
            download.fetch(url, partial, attempts, check, shard.num_bytes)
            os.replace(partial, folder / shard.local)  # from now on all other code sees it as a shard
        except Exception as error:
            if not attempts.stop.is_set():  # otherwise another download has failed and stopped this thread
                failed.append(f"{shard.name} ({_explain(error, repo)})")
            if not (isinstance(error, download.BadContent) or getattr(error, "status", 0) == 404):
                attempts.stop.set()  # the other shards would fail in the same way
            return shard, False
        return shard, True

    from huggingface_hub import hf_hub_url
    bar = log.Progress("fetch", *((total, "MB") if knows_sizes else (left, "shards")))
    # The threads are daemons, and `attempts` ends them at their next bytes: Ctrl-C need not wait for a silent server.
    with ThreadPool(min(THREADS, left)) as pool, attempts, bar:
        for result in _each_second(pool.imap_unordered(fetch_one, missing)):
            megabytes = sum(_bytes_there(folder, shard) for shard in missing) // 10**6
            left -= bool(result)
            bar.update(megabytes if knows_sizes else len(missing) - left,
                       **({} if knows_sizes else {"MB": megabytes}), shards_left=left)
            shard, is_there = result or (None, False)
            if shard and is_there:
                manifest["files"][shard.name] = shard.sha256
                files.write_json(folder / shards.MANIFEST, manifest)
            if attempts.stop.is_set():
                break
    if failed:
        raise UserError(f"{len(failed)} of {len(missing)} shards failed: {failed[0]}; run the same command again, "
                        "finished shards are kept")


def _each_second(results: "IMapIterator[T]") -> Iterator[T | None]:
    """The results as they come, and None after each second without a result, so that the progress line moves."""
    while True:
        try:
            yield results.next(timeout=1)
        except multiprocessing.TimeoutError:
            yield None
        except StopIteration:
            return


def _bytes_there(folder: Path, shard: RemoteShard) -> int:
    return download.file_size(folder / shard.local) or download.file_size(folder / FETCHING / shard.local)


def _check_space(folder: Path, missing: list[RemoteShard], space: int) -> None:
    """UserError if the disk has no room for `space` times the missing bytes (JSONL is larger than parquet)."""
    needed = space * sum(max(0, shard.num_bytes - download.file_size(folder / FETCHING / shard.local))
                         for shard in missing)
    free = shutil.disk_usage(folder).free
    if free < needed * 1.05:  # with 5 % to spare
        raise UserError(f"{folder} has {free / 1e9:.1f} GB free; the shards need {needed / 1e9:.1f} GB: take fewer "
                        "(-n) or another folder (--out)")


def _explain(error: Exception, repo: str) -> str:
    """One line that says what went wrong and what the user can do."""
    message, kind = shards.first_line(error), type(error).__name__
    if isinstance(error, download.HttpError):
        return message + _cure(error, repo)
    if kind == "OfflineModeIsEnabled":
        return "HF_HUB_OFFLINE is set; unset it"
    if kind in ("UnsupportedProtocol", "InvalidURL", "LocalProtocolError"):
        return f"{message}; expected HF_ENDPOINT=https://…, a proxy like HTTPS_PROXY=http://…, a token without spaces"
    if isinstance(error, (download.BadContent, UserError)):
        return message
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}; free space, take fewer shards (-n), or choose another folder with --out"
    return f"{message}; check the network, a proxy (HTTPS_PROXY) or HF_ENDPOINT"


def _cure(error: download.HttpError, repo: str) -> str:
    message = error.headers.get("X-Error-Message", "")
    if "Invalid" in message or "expired" in message:
        return f": {message}; set HF_TOKEN to a valid token, or unset it: public data needs none"
    if error.headers.get("X-Error-Code") == "GatedRepo":
        return (f": {repo} is gated; accept its terms on {download.endpoint()}/datasets/{repo} and set HF_TOKEN to a "
                "token of that account")
    if error.status in (401, 403):  # the hub gives the same answer for a private and a missing data set
        return (f": {repo} does not exist or is not public; check its name, or set HF_TOKEN to a token of an account "
                "that may read it")
    if error.status == 404:
        return f": {download.endpoint()} does not have it; check HF_ENDPOINT and the name {repo}"
    return ""
