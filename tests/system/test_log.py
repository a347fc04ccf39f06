import fcntl
import json
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import sys
import termios

import pytest

from nanochat.system import files, log, paths


def steps(path):
    return [row["step"] for row in files.read_jsonl(path)]


def test_metrics_are_one_object_a_line(base_dir):
    path = paths.results_dir("base") / "metrics.jsonl"
    metrics = log.Metrics(path)
    metrics.write(1, **{"train/loss_nats": 2.123456789, "speed/tokens_per_second": 123456.789, "note": "x", "rows": 3})
    assert json.loads(path.read_text()) == {"step": 1, "train/loss_nats": 2.12346, "speed/tokens_per_second": 123457.0,
                                            "note": "x", "rows": 3}


def test_after_a_resume_the_lines_beyond_are_dropped(base_dir):
    path = base_dir / "metrics.jsonl"
    metrics = log.Metrics(path)
    for step in range(1, 8):
        metrics.write(step, loss=1.0 / step)
    with open(path, "a", encoding="utf-8") as lines:
        lines.write('{"step": 8, "lo')  # killed while writing
    before = path.read_text()
    log.Metrics(path, start=5).write(6, loss=1.0 / 6)
    assert steps(path) == [1, 2, 3, 4, 5, 6] and before.startswith(path.read_text())
    log.Metrics(path, start=0).write(1, loss=1.0)  # no resume: a new curve
    assert steps(path) == [1]


def test_after_a_resume_nothing_whole_is_lost_to_a_damaged_line(base_dir):
    path = base_dir / "metrics.jsonl"
    files.write_atomic(path, '{"step": 1}\n{"st}\n\x00\x00\n{"step": 2}\n')
    log.Metrics(path, start=9).write(10, loss=1.0)
    assert steps(path) == [1, 2, 10]


def test_a_run_that_fails_before_its_first_step_leaves_the_old_curve(base_dir):
    path = base_dir / "metrics.jsonl"
    log.Metrics(path).write(1, loss=1.0)
    log.Metrics(path)
    assert steps(path) == [1]


def test_only_the_main_rank_writes(base_dir, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    log.Metrics(base_dir / "metrics.jsonl").write(1, loss=1.0)
    log.write_run("base", seconds=1.0)
    log.say("hello")
    with log.Progress("base", 1, every_seconds=0) as bar:
        bar.update(1)
    assert not base_dir.exists() and capsys.readouterr().out == ""


@pytest.mark.parametrize("module", ["scripts.base_train", "nanochat.dataset"])
def test_run_json_names_a_command_that_can_be_repeated(base_dir, monkeypatch, module):
    program = paths.REPO / (module.replace(".", "/") + ".py")
    assert program.exists()
    monkeypatch.setattr(sys, "argv", [str(program), "--depth=4", "--run=two words"])
    log.write_run("base", seconds=1.23456, tokens=7)
    run = files.read_json(base_dir / "results" / "base" / "run.json")
    assert run["command"] == f"python -m {module} --depth=4 '--run=two words'"
    assert (run["name"], run["seconds"], run["tokens"]) == ("base", 1.23, 7)


def test_progress_is_plain_lines_where_there_is_no_terminal(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    with log.Progress("base", 2000, "steps", every_seconds=10) as bar:
        now[0] += 40  # the first step compiles the model, and no other step waits for that again
        for step in range(1001, 2001):  # resumed after step 1,000: what went before says nothing about the speed
            now[0] += 1
            bar.update(step, loss=2.3456789, tokens_per_second=21_000.4)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 101  # the first update, then every tenth, and the last step
    assert lines[0] == "base: 1,001/2,000 steps  loss 2.346  tokens per second 21,000"  # no speed is known yet
    assert "  8m19s left  " in lines[50]  # 499 steps of a second
    assert lines[-1] == "base: 2,000/2,000 steps  loss 2.346  tokens per second 21,000"


def test_progress_always_shows_the_end(capsys):
    with log.Progress("rl", 3) as bar:
        for step in (1, 2, 3):
            bar.update(step)
    assert capsys.readouterr().out == "rl: 3/3 steps\n"


@pytest.fixture
def terminal(monkeypatch):
    """`terminal(columns)` makes stdout a terminal of that width and starts it; what was written is in `.text()`."""
    class Terminal:
        def __init__(self):
            self.mine, theirs = pty.openpty()
            self.stream = open(theirs, "w", encoding="utf-8")

        def __call__(self, columns):
            for name in ("stdout", "__stdout__"):  # here: pytest sets its own after a fixture
                monkeypatch.setattr(sys, name, self.stream)
            fcntl.ioctl(self.mine, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            return self

        def text(self):
            pieces = b""
            while select.select([self.mine], [], [], 0.05)[0]:
                pieces += os.read(self.mine, 1 << 16)
            return pieces.decode()

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(log, "DRAW_SECONDS", 0)
    terminal = Terminal()
    yield terminal
    terminal.stream.close()
    os.close(terminal.mine)


NUMBERS = dict(loss=2.345, tokens_per_second=21_000, bpb=1.05, stall_fraction=0.001, learning_rate=0.5)


def drawn(text: str) -> list[str]:
    """Every state of the line that a terminal has shown."""
    return [line.replace(log.CLEAR, "") for line in re.split("[\r\n]+", text) if line.replace(log.CLEAR, "")]


@pytest.mark.parametrize("columns, environment, numbers", [
    (80, {}, 2), (40, {}, 0), (200, {}, 5), (0, {}, 2), (0, {"COLUMNS": "200"}, 5), (200, {"COLUMNS": "80"}, 2),
    (80, {"COLUMNS": "nonsense"}, 2), (80, {"COLUMNS": "0"}, 2)])
def test_a_narrow_terminal_loses_numbers_and_nothing_else(terminal, monkeypatch, columns, environment, numbers):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    now = [100.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    terminal(columns)
    with log.Progress("base", 12_000) as bar:
        for step in range(1000, 1015):  # a terminal holds 4 KiB that nobody has read
            now[0] += 7
            bar.update(step, **NUMBERS)
    lines = drawn(terminal.text())
    assert len(lines) > 10
    for line in lines[1:]:  # before the second step nobody knows the time left
        assert len(line) < (columns or int(environment.get("COLUMNS", 80)))
        assert line.startswith("base: 1,0") and "/12,000" in line and line.count("h") and " left" in line
        assert sum(name.replace("_", " ") in line for name in NUMBERS) == numbers


def test_a_terminal_that_is_resized_and_one_that_is_tiny(terminal):
    terminal(100)
    with log.Progress("base", 12_000) as bar:
        for columns, length in ((100, 94), (40, 36), (12, 11), (100, 94)):
            terminal(columns)
            bar.update(1000, **NUMBERS)
            assert len(drawn(terminal.text())[-1]) == length


def test_what_is_said_meanwhile_has_a_line_of_its_own(terminal):
    terminal(80)
    with log.Progress("base", 3) as bar:
        bar.update(1)
        log.say("out of memory")
        bar.update(2)
    first, said, *later = drawn(terminal.text())
    assert (first, said) == ("base: 1/3 steps", "out of memory")
    assert {line[:15] for line in later} == {"base: 2/3 steps"}


@pytest.mark.parametrize("term", ["dumb", None])
def test_a_terminal_that_cannot_go_back_gets_plain_lines(terminal, monkeypatch, term):
    monkeypatch.setenv("TERM", term) if term else monkeypatch.delenv("TERM")
    terminal(80)
    with log.Progress("base", 3) as bar:
        bar.update(3, **NUMBERS)
    text = terminal.text()
    assert text.count("\r\n") == text.count("\r") == 1 and log.CLEAR not in text


def test_a_progress_without_a_total(capsys):
    with log.Progress("contamination", 0, unit="documents", every_seconds=0) as bar:
        bar.update(1234, runs=5)
    assert capsys.readouterr().out == "contamination: 1,234 documents  runs 5\n"


GONE = """
import os, sys
from nanochat.system import log
with log.Progress("base", 300, every_seconds=0) as bar:
    for step in range(300):
        log.say("a line " * 300)
        bar.update(step, loss=1)
print("to nobody", flush=True)
open(sys.argv[1], "w").close()
"""


@pytest.mark.parametrize("kind", ["pipe", "terminal", "full disk", "closed"])
def test_a_run_goes_on_when_nobody_hears_it(tmp_path, kind):
    """A log reader that ends, a terminal that is closed, a disk that is full under the log, no stdout at all."""
    mine, theirs = pty.openpty() if kind == "terminal" else os.pipe()
    if kind == "full disk":
        theirs = os.open("/dev/full", os.O_WRONLY)
    command = [sys.executable, "-c", GONE, str(tmp_path / "end")]
    if kind == "closed":
        command = ["sh", "-c", 'exec "$@" >&-', "sh", *command]
    run = subprocess.Popen(command, stdout=theirs, cwd=paths.REPO, stderr=subprocess.PIPE, encoding="utf-8")
    os.close(theirs)
    if kind != "full disk":
        os.close(mine)
    assert (run.communicate(timeout=60)[1], run.returncode) == ("", 0) and (tmp_path / "end").exists()


def test_an_out_folder_that_was_removed_does_not_end_the_run(base_dir):
    metrics = log.Metrics(base_dir / "results/base/metrics.jsonl")
    metrics.write(1, loss=1.0)
    shutil.rmtree(base_dir)
    metrics.write(2, loss=1.0)
    assert steps(base_dir / "results/base/metrics.jsonl") == [2]


def test_notes_are_for_people(terminal, monkeypatch, capsys):
    log.note("compiling")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    log.note("compiling")
    assert "compiling" in terminal.text()


@pytest.mark.parametrize("seconds, said", [(0, "0m00s"), (75, "1m15s"), (3599.9, "59m59s"), (3725, "1h02m"),
                                           (360_000, "100h00m")])
def test_clock(seconds, said):
    assert log.clock(seconds) == said
