"""What a run says: metrics as JSON lines, a progress bar on a terminal, plain lines elsewhere, a run.json at the end.

Numbers are named `area/quantity_unit`; prose and pictures are rendered from them later (nanochat/report.py).
Only the main rank writes.
"""
import contextlib
import json
import math
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any

from nanochat.system import files, paths


def is_main() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def say(text: str) -> None:
    """One line to the user, from the main rank."""
    if is_main():
        _print(text)


_outlives_output = False


def outlive_output() -> None:
    """From here on, output that cannot be written is dropped: hours of training must not end with a closed terminal or
    a dead `| tee`. (Other commands do end when nobody reads them.)"""
    global _outlives_output
    _outlives_output = True


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError:
        if not _outlives_output:
            raise
        silence(sys.stdout)


def silence(stream: Any) -> None:
    """Everything written to this stream from now on goes nowhere."""
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


class Metrics:
    """Appends one JSON object per line to `path`. Before the first, lines beyond `start` are dropped, so that a killed
    run and an undisturbed one leave the same curve; a run that fails before it leaves the old curve as it was."""

    def __init__(self, path: Path, start: int = 0):
        self.path, self.start, self.begun = Path(path), start, False

    def _kept(self) -> str:
        old = self.path.read_text(encoding="utf-8", errors="replace") if self.start and self.path.exists() else ""
        return "".join(line + "\n" for line in old.splitlines() if _step(line) <= self.start)

    def write(self, step: int, **numbers: float | int | str) -> None:
        """`metrics.write(10, **{"train/loss_nats": 2.1})`; floats are kept to six digits."""
        if not is_main():
            return
        rounded = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in numbers.items()}
        line = json.dumps({"step": step, **rounded}) + "\n"
        if not self.begun:
            files.write_atomic(self.path, self._kept() + line)
            self.begun = True
            return
        with open(self.path, "a", encoding="utf-8") as lines:
            lines.write(line)


def _step(line: str) -> float:
    """The step of a line of metrics; infinite for half a line, which a kill may have left."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf


def write_run(name: str, *, seconds: float, folder: Path | None = None, **facts: Any) -> None:
    """`run.json` in `folder` (default: `out/results/<name>`): what the command did; the report is made from these."""
    if is_main():
        module = ".".join(Path(sys.argv[0]).with_suffix("").parts[-2:])  # scripts.base_train
        command = shlex.join(["python", "-m", module, *sys.argv[1:]])
        files.write_json((folder or paths.results_dir(name)) / "run.json", {
            "name": name, "command": command, "seconds": round(seconds, 2),
            "finished": time.strftime("%Y-%m-%d %H:%M:%S"), **facts})


class Progress:
    """A progress bar with ETA and numbers (rich) on a terminal; elsewhere a plain line at most every `every_seconds`.

    with Progress("base", total=800, unit="steps") as bar:
        bar.update(step, loss=2.31, tokens_per_second=21_000)
    """

    def __init__(self, title: str, total: int, unit: str = "steps", every_seconds: float = 10.0):
        self.title, self.total, self.unit, self.every_seconds = title, total, unit, every_seconds
        self.bar = None

    def __enter__(self) -> "Progress":
        self.started = self.last_line = time.monotonic()
        self.first: int | None = None
        if is_main() and sys.stdout.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress
            self.bar = RichProgress(TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(),
                                    TextColumn("{task.fields[numbers]}"), TimeRemainingColumn())
            self.bar.start()
            self.task = self.bar.add_task(self.title, total=self.total, numbers="")
        return self

    def update(self, done: int, **numbers: float) -> None:
        """`done` units of the total are finished; the numbers are shown beside the bar."""
        if not is_main():
            return
        if self.first is None:
            self.first = done  # a resumed run's ETA counts from where it resumed
        now = time.monotonic()
        text = "  ".join(f"{name.replace('_', ' ')} {_short(value)}" for name, value in numbers.items())
        if self.bar:
            self.bar.update(self.task, completed=done, numbers=text)
        elif now - self.last_line >= self.every_seconds or done == self.total:
            self.last_line = now
            rate = (done - self.first) / max(now - self.started, 1e-9)
            left = f"  {_clock((self.total - done) / rate)} left" if rate and done < self.total else ""
            _print(f"{self.title}: {done:,}/{self.total:,} {self.unit}  {text}{left}")

    def __exit__(self, *_: object) -> None:
        if self.bar:
            with contextlib.suppress(OSError):  # the terminal is gone
                self.bar.stop()


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _clock(seconds: float) -> str:
    """`_clock(3725)` → "1h02m", `_clock(75)` → "1m15s"."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m{seconds:02d}s"
