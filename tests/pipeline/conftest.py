"""The recipe that users run, once undisturbed at toy size (`toy`), for all tests of this folder."""
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanochat.system import files

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 3600  # of a machine that has other things to do
# Set where the tests run, and not meant for the recipe; no GPU, one thread: sums in one order; no network.
FOREIGN = ("NANOCHAT_", "RANK", "WORLD_SIZE", "LOCAL_RANK")
ENVIRONMENT = {**{name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)},
               "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "https_proxy": "http://127.0.0.1:9"}
TRIAL = ("--depth=1", "--minutes=0.4", "--seed=3")


class Run:
    """The laptop's recipe, a trial of one layer, on an out folder of its own. What it says goes to a log beside it."""

    def __init__(self, out: Path):
        self.out, self.log, self.process = out, out.with_suffix(".log"), None

    def start(self) -> int:
        """Where in the log this start begins."""
        begin = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "runs.laptop", *TRIAL, "--out", self.out],
                cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        return begin

    def said(self, begin: int) -> str:
        return self.log.read_bytes()[begin:].decode()

    def finish(self) -> str:
        """Runs to the end; what it said."""
        begin = self.start()
        code = self.process.wait(PATIENCE_SECONDS)
        assert code == 0, f"exit code {code}: {self.said(begin)}"
        return self.said(begin)

    def interrupt(self, stage: str, how: signal.Signals) -> tuple[int, str]:
        """Starts it, stops all its processes in `stage` after a step that no checkpoint has; exit code and words."""
        saved_before, begin, deadline = self.saved(stage), self.start(), time.monotonic() + PATIENCE_SECONDS
        while not self.recorded(stage) > self.saved(stage) > saved_before:
            assert self.process.poll() is None, f"{stage} was over before it could be stopped: {self.said(begin)}"
            assert time.monotonic() < deadline, f"no progress in {stage}: {self.said(begin)}"
            time.sleep(0.01)
        os.killpg(self.process.pid, how)
        code = self.process.wait(PATIENCE_SECONDS)
        while not self.is_gone() and time.monotonic() < deadline:
            time.sleep(0.01)
        return code, self.said(begin)

    def is_gone(self) -> bool:
        """No process of the recipe's group is left: a killed child may outlive its parent for a moment."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def saved(self, stage: str) -> int:
        return max((int(path.name[5:]) for path in self.out.glob(f"checkpoints/{stage}/d1/step_*")), default=0)

    def recorded(self, stage: str) -> int:
        path = self.out / "results" / stage / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def end(self) -> None:
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """`runs(name)` → a Run; none outlives the tests."""
    made = []

    def make(name: str) -> Run:
        made.append(Run(tmp_path_factory.mktemp("pipeline") / name))
        return made[-1]

    yield make
    for run in made:
        run.end()


@pytest.fixture(scope="session")
def toy(runs):
    """The undisturbed run."""
    run = runs("toy")
    run.finish()
    return run


def exams(out: Path, stage: str) -> dict:
    """A stage's chat_eval.json, without what the clock says."""
    found = files.read_json(out / "results" / stage / "chat_eval.json")
    for score in found["tasks"].values():
        score.pop("seconds")
    return found


def curve(out: Path, stage: str) -> list[dict]:
    """A stage's metrics, without what the clock says."""
    return [{key: value for key, value in line.items() if not key.startswith(("speed/", "time/"))}
            for line in files.read_jsonl(out / "results" / stage / "metrics.jsonl")]


def contents(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file but the locks, in which a command writes its process number."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"}


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])
