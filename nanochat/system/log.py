"""The output of a run: metrics as JSON lines, a progress line, a run.json at the end.

Numbers are named `area/quantity_unit`; nanochat/report.py makes tables and figures of them later. Only
the main rank writes.
"""
import contextlib
import json
import math
import os
import re
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from nanochat.system import files, paths

CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a model's bytes must not control the terminal
CLEAR = "\x1b[K"  # the terminal's command to clear the rest of the line
DRAW_SECONDS = 0.1  # minimum time between two drawings of a progress line
_line_is_drawn = False  # the terminal's cursor is at the end of a progress line


def is_main() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def is_terminal(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal with control codes; False for TERM=dumb, which only shows text."""
    return stream is not None and stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def say(text: str) -> None:
    """One line to the user, from the main rank. It replaces a progress line, which is drawn again later."""
    global _line_is_drawn
    if is_main():
        _write(f"\r{CLEAR}" * _line_is_drawn + text + "\n")
        _line_is_drawn = False


def note(text: str) -> None:
    """Prints one line to stderr if it is a terminal: for a person who waits, not for a program that reads us."""
    if is_main() and sys.stderr is not None and sys.stderr.isatty():
        with contextlib.suppress(OSError):
            print(text, file=sys.stderr, flush=True)


def _write(text: str) -> None:
    """Writes to stdout, and continues if stdout is gone. A closed terminal (EIO), a reader that has ended (EPIPE) or a
    full disk under a log file must not end a training run of hours, which is worth more than its output."""
    try:
        print(text, end="", flush=True)
    except BlockingIOError:  # another process has made the pipe non-blocking, and it is full: this text is lost
        pass
    except OSError:
        silence(sys.stdout)


def silence(stream: Any) -> None:
    """Sends everything that is written to this stream to /dev/null, also the rest that Python writes at its exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Metrics:
    """Appends one JSON object per line to `path`. With the first line, old lines after step `start` are dropped, so
    that a run that was killed and resumed has the curve of an uninterrupted run. A run that fails before its first line
    leaves the old curve."""

    def __init__(self, path: Path, start: int = 0):
        self.path, self.start, self.begun = Path(path), start, False

    def _earlier_lines(self) -> str:
        old = self.path.read_text(encoding="utf-8", errors="replace") if self.start and self.path.exists() else ""
        return "".join(line + "\n" for line in old.splitlines() if _step(line) <= self.start)

    def write(self, step: int, **numbers: Any) -> None:
        """`metrics.write(10, **{"train/loss_nats": 2.1})`; floats are rounded to six digits."""
        if not is_main():
            return
        rounded = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in numbers.items()}
        line = json.dumps({"step": step, **rounded}) + "\n"
        if not self.begun:  # the only rewrite; later lines are appended
            files.write_atomic(self.path, self._earlier_lines() + line)
            self.begun = True
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)  # if a user has removed it, the run must not fail
        with open(self.path, "a", encoding="utf-8") as lines:
            lines.write(line)


def _step(line: str) -> float:
    """The step of a line of metrics; infinite for half a line, which a killed process may leave."""
    try:
        return float(json.loads(line)["step"])
    except ValueError:
        return math.inf


def write_run(name: str, *, seconds: float, folder: Path | None = None, **facts: Any) -> None:
    """Writes `run.json` into `folder` (default: `out/results/<name>`): the record of a command, for the report."""
    if is_main():
        # The path of the program as a module, because `python scripts/base_train.py` would not find our packages.
        module = ".".join(Path(sys.argv[0]).with_suffix("").parts[-2:])  # scripts.base_train
        command = shlex.join(["python", "-m", module, *sys.argv[1:]])
        files.write_json((folder or paths.results_dir(name)) / "run.json", {
            "name": name, "command": command, "seconds": round(seconds, 2),
            "finished": time.strftime("%Y-%m-%d %H:%M:%S"), **facts})


class Progress:
    """The progress of a command: a line that is redrawn on a terminal; elsewhere a new line at most every
    `every_seconds`. On a narrow terminal numbers are left out, but never name, step and time left.

    with Progress("base", total=800, unit="steps") as bar:
        bar.update(step, loss=2.31, tokens_per_second=21_000)
    """

    def __init__(self, title: str, total: int, unit: str = "steps", every_seconds: float = 10.0):
        self.title, self.total, self.unit, self.every_seconds = title, total, unit, every_seconds
        self.last = ""

    def __enter__(self) -> "Progress":
        self.last_line = time.monotonic()
        self.first: int | None = None
        self.on_terminal = is_main() and is_terminal(sys.stdout)
        return self

    def update(self, done: int, **numbers: float) -> None:
        """`done` units of the total are finished (a total of 0 is unknown); the numbers are shown after them."""
        if not is_main():
            return
        now = time.monotonic()
        if self.first is None:
            # The rate counts from here: without the steps before a resume, and without the compilation in step 1.
            self.first, self.started = done, now
        # A command may call this thousands of times a second; the end is always shown.
        if now - self.last_line < (DRAW_SECONDS if self.on_terminal else self.every_seconds) and done != self.total:
            return
        self.last_line = now
        rate = (done - self.first) / max(now - self.started, 1e-9)
        left = clock((self.total - done) / rate) if rate and done < self.total else ""
        texts = [f"{name.replace('_', ' ')} {_short(value)}" for name, value in numbers.items()]
        self.last = self._line(f"{done:,}/{self.total:,}" if self.total else f"{done:,}", left, texts)
        self._draw() if self.on_terminal else _write(self.last + "\n")

    def _line(self, step: str, left: str, numbers: list[str]) -> str:
        """Name, step and time left, then as many numbers as fit into the terminal."""
        # Asked each time, because a window can be resized. Some terminals wrap after the last column.
        width = shutil.get_terminal_size().columns - 1 if self.on_terminal else sys.maxsize
        ends = f"  {left} left" * bool(left)
        lines = [f"{self.title}: {step} {self.unit}{ends}", f"{self.title}: {step}{ends}"]
        line = next((line for line in lines if len(line) <= width), lines[1][:width])
        for number in numbers:
            if len(line) + 2 + len(number) > width:
                break
            line += f"  {number}"
        return line

    def _draw(self) -> None:
        global _line_is_drawn
        _write(f"\r{self.last}{CLEAR}")
        _line_is_drawn = True

    def __exit__(self, *_: object) -> None:
        if self.on_terminal and self.last:
            self._draw()
            say(self.last)  # the last state stays on the screen


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def clock(seconds: float) -> str:
    """`clock(3725)` → "1h02m", `clock(75)` → "1m15s"."""
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}h{minutes % 60:02d}m" if minutes >= 60 else f"{minutes}m{seconds:02d}s"
