import json
import sys

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
    with open(path, "a") as lines:
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
        for step in range(1001, 2001):  # resumed after step 1,000: what went before says nothing about the speed
            now[0] += 1
            bar.update(step, loss=2.3456789, tokens_per_second=21_000.4)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 100  # every tenth update, the last of which is the last step
    assert lines[0].startswith("base: 1,010/2,000 steps  loss 2.346  tokens per second 21,000  ")
    assert lines[49].endswith("  8m21s left")  # 500 steps of a second, and a little for the first, not yet timed
    assert lines[-1] == "base: 2,000/2,000 steps  loss 2.346  tokens per second 21,000"


def test_progress_always_shows_the_end(capsys):
    with log.Progress("rl", 3) as bar:
        for step in (1, 2, 3):
            bar.update(step)
    assert capsys.readouterr().out == "rl: 3/3 steps  \n"


def test_progress_on_a_terminal_is_a_bar(monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with log.Progress("base", 3) as bar:
        bar.update(2, loss=1.5)
        assert bar.bar.tasks[0].completed == 2 and bar.bar.tasks[0].fields["numbers"] == "loss 1.5"
    assert bar.bar.finished or not bar.bar.live.is_started


@pytest.mark.parametrize("seconds, said", [(0, "0m00s"), (75, "1m15s"), (3599.9, "59m59s"), (3725, "1h02m"),
                                           (360_000, "100h00m")])
def test_clock(seconds, said):
    assert log._clock(seconds) == said
