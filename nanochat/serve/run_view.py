"""The data of the page /run: stages, metrics, sample answers and exams, read from the out folder at each request.

The server keeps no state between two requests, so it costs nothing while nobody has the page open. The page sends how
far it has read each file of metrics (a cursor: the file's inode and the number of bytes) and gets the lines after it.

A run on another machine is named on the command line by the address of its own page (chat_web --runs), and this server
fetches the data from there. A visitor can choose among these runs only: a server that fetched any address it is given
would let every visitor send requests to other machines in this server's name, and a page that asks other servers itself
would need a weaker content policy.
"""
import contextlib
import json
import os
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat.run_folder import RunFolder
from nanochat.system import files, paths
from nanochat.system.files import UserError
from nanochat.system.lock import is_locked
from nanochat.train import checkpoint

MAX_LINES = 600  # lines of a stage's metrics in one answer: a curve on a screen has no more points
MAX_BYTES = 64 << 20  # bytes read from a file, or from another server's answer
SECONDS = 10  # time limit for another server's answer
KEPT = ("words", "val/bpb", "rl/test_pass_at_1")  # metrics that only few steps have: never left out
Record = dict[str, Any]


class Runs:
    """The runs that this server shows, by name. `places`: out folders, and addresses of servers like this one."""

    def __init__(self, places: Sequence[str]):
        self.places = places

    def names(self) -> dict[str, tuple[str, str]]:
        """{name: (place, tag)}; the tag names another model than the run's own (results/<stage>/models/<tag>)."""
        found = {}
        for place in self.places:
            name = place if is_address(place) else Path(place).name
            name = place if name in found else name
            found[name] = (place, "")
            if not is_address(place):
                tags = {path.name for path in Path(place).glob("results/*/models/*") if path.is_dir()}
                found |= {f"{name}: {tag}": (place, tag) for tag in sorted(tags)}
        return found

    def read(self, name: str, cursors: Mapping[str, str]) -> Record:
        """The state of a run (default: the first), with the metrics after the cursors."""
        names = self.names()
        name = name if name in names else next(iter(names))
        place, tag = names[name]
        state = ask(place, cursors) if is_address(place) else read_run(Path(place), tag, cursors)
        return {**state, "run": name, "runs": list(names)}


def is_address(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def ask(address: str, cursors: Mapping[str, str]) -> Record:
    """The state of the first run that another server shows. UserError if no such server answers."""
    url = f"{address.rstrip('/')}/run/data?{urllib.parse.urlencode(cursors)}"
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as response:
            state = json.loads(response.read(MAX_BYTES))
    except (OSError, ValueError) as error:
        raise UserError(f"{address} does not answer as a page of nanochat does ({error}); is its server running?"
                        ) from None
    if not isinstance(state, dict) or not isinstance(state.get("stages"), list):
        raise UserError(f"{address} answers, but not with a run")
    return state


def read_run(folder: Path, tag: str, cursors: Mapping[str, str]) -> Record:
    results = {stage: folder / "results" / stage / (f"models/{tag}" if tag else "") for stage in paths.STAGES}
    exams: dict[str, Record] = {}
    for stage, place in results.items():
        for exam, score in (files.read_object(place / "chat_eval.json").get("tasks") or {}).items():
            exams.setdefault(exam, {})[stage] = {name: score.get(name) for name in (
                "accuracy", "stderr", "chance", "num_items")}
    return {"stages": [] if tag else stages_of(folder), "exams": exams, "newest": newest(folder),
            "metrics": {stage: new for stage, place in results.items()
                        if (new := appended(place / "metrics.jsonl", cursors.get(stage, "")))}}


def stages_of(folder: Path) -> list[Record]:
    """Every stage of the recipe: {"name", "expected" seconds, "state", "seconds" so far}."""
    run = RunFolder(folder)
    records, expected = run.records(), files.read_object(folder / "run.json").get("stages") or {}
    is_running, rows = is_locked(folder), []
    for name in dict.fromkeys((*expected, *records)):
        state, seconds = "to come", 0.0
        begun = run.stages / f"{name}.begun.json"
        if name in records:
            state, seconds = "done", records[name].get("seconds", 0.0)
        elif begun.exists():
            state = "running" if is_running else "stopped"
            with contextlib.suppress(OSError):  # finished a moment ago
                seconds = max(0.0, time.time() - begun.stat().st_mtime) if is_running else 0.0
        rows.append({"name": name, "expected": expected.get(name, 0.0), "state": state, "seconds": seconds})
    return rows


def newest(folder: Path) -> Record | None:
    """The checkpoint that was written last: {"stage", "tag", "step"}."""
    saved = [path for stage in paths.STAGES for path in (folder / "checkpoints" / stage).glob("*/step_*")]
    with contextlib.suppress(OSError, ValueError):  # replaced by a newer one at this moment
        path = max(saved, key=lambda path: path.stat().st_mtime)
        [(step, _)] = [pair for pair in checkpoint.steps(path.parent) if pair[1] == path]
        return {"stage": path.parent.parent.name, "tag": path.parent.name, "step": step}
    return None


def appended(path: Path, cursor: str) -> Record | None:
    """The lines after a cursor: {"cursor": the end of these lines, "fresh": they begin the file, "lines"}.

    A resumed run replaces the file, and an interrupted run may leave half a line. None if there is no file.
    """
    inode, _, offset = cursor.partition(".")
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            start = int(offset) if inode == str(status.st_ino) and offset.isdecimal() else 0
            start = start if start <= status.st_size else 0
            file.seek(start)
            content = file.read(MAX_BYTES)
    except OSError:
        return None
    whole = content[:content.rfind(b"\n") + 1]
    lines = []
    for line in whole.splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return {"cursor": f"{status.st_ino}.{start + len(whole)}", "fresh": not start, "lines": thinned(lines)}


def thinned(lines: list[Record]) -> list[Record]:
    """About MAX_LINES of the lines at most, evenly spaced, with the last line and all lines that have rare metrics.

    >>> len(thinned([{"step": step} for step in range(3000)]))
    601
    """
    every = -(-len(lines) // MAX_LINES)
    return [line for number, line in enumerate(lines)
            if number % every == 0 or line is lines[-1] or any(name in line for name in KEPT)]
