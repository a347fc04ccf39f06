"""Real processes, really killed: on one rank and on two the run ends in the bits of an undisturbed one."""
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanochat.system import files

STEPS = 60
PATIENCE_SECONDS = 300


def start(out: Path, world_size: int, pause: float, **more) -> list[subprocess.Popen]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {**os.environ, "NANOCHAT_BASE_DIR": str(out), "WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": port, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        shared["GLOO_SOCKET_IFNAME"] = "lo"
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, **more}
    return [subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("killed.py")), str(STEPS), str(pause)],
        env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}, **streams) for rank in range(world_size)]


def wait(ranks: list[subprocess.Popen], code: int = 0) -> str:
    try:
        said = "\n".join(rank.communicate(timeout=PATIENCE_SECONDS)[0] for rank in ranks)
    finally:
        for rank in ranks:
            rank.kill()
    assert [rank.returncode for rank in ranks] == [code] * len(ranks), said
    return said


def recorded(out: Path) -> int:
    path = out / "results/base/metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def stop(out: Path, world_size: int, after: int, sign: signal.Signals) -> str:
    """Starts the run and stops it when so many steps are recorded; what it said."""
    ranks, deadline = start(out, world_size, 0.02), time.monotonic() + PATIENCE_SECONDS
    while recorded(out) < after:
        assert all(rank.poll() is None for rank in ranks) and time.monotonic() < deadline
        time.sleep(0.005)
    for rank in ranks:
        rank.send_signal(sign)
    return wait(ranks, 130 if sign is signal.SIGTERM else -sign)


def ended(out: Path) -> tuple[list, bytes, bytes]:
    rows = files.read_jsonl(out / "results/base/metrics.jsonl")
    folder = out / f"checkpoints/base/d2/step_{STEPS:06d}"
    return ([(row["step"], row["train/loss_nats"]) for row in rows], (folder / "model.safetensors").read_bytes(),
            (folder / "optimizer.pt").read_bytes())


@pytest.mark.parametrize("world_size", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_killed_and_started_again_it_ends_in_the_same_bits(tmp_path, world_size):
    """SIGKILL with no checkpoint yet or right in the first ones, then SIGTERM, which saves."""
    undisturbed = start(tmp_path / "whole", world_size, 0)
    stop(tmp_path / "cut", world_size, 16, signal.SIGKILL)
    said = stop(tmp_path / "cut", world_size, recorded(tmp_path / "cut") + 10, signal.SIGTERM)
    assert "interrupted: run the same command with --resume to go on" in said
    last = recorded(tmp_path / "cut")
    said = wait(start(tmp_path / "cut", world_size, 0))
    assert f"goes on after step {last} of {STEPS}" in said, "the step that ran at SIGTERM was finished and saved"
    wait(undisturbed)
    assert ended(tmp_path / "cut") == ended(tmp_path / "whole")


def until_recorded(out: Path, run: subprocess.Popen, steps: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while recorded(out) < steps:
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)


def on_a_terminal(out: Path) -> tuple[subprocess.Popen, int]:
    """The run in the foreground of a terminal of its own, and that terminal's other end."""
    import fcntl
    import pty
    import termios
    ours, theirs = pty.openpty()
    [run] = start(out, 1, 0.02, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
                  preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    os.close(theirs)
    return run, ours


def last_saved(out: Path) -> int:
    return max(int(path.name[5:]) for path in out.glob("checkpoints/base/d2/step_*"))


@pytest.mark.skipif(sys.platform != "linux", reason="pseudo-terminals differ")
def test_a_closed_terminal_saves_the_run(tmp_path):
    run, terminal = on_a_terminal(tmp_path)
    until_recorded(tmp_path, run, 10)
    os.close(terminal)
    assert run.wait(PATIENCE_SECONDS) == 130
    assert last_saved(tmp_path) == recorded(tmp_path) < STEPS


@pytest.mark.skipif(sys.platform != "linux", reason="pseudo-terminals differ")
@pytest.mark.parametrize("how", ["nohup", "reader gone", "terminal gone"])
def test_output_that_nobody_reads_ends_nothing(tmp_path, how):
    """nohup keeps SIGHUP from the run; `| tee` dies; the terminal of a run that does not belong to it is closed."""
    if how == "terminal gone":
        ours, theirs = os.openpty()
        [run] = start(tmp_path, 1, 0.02, stdout=theirs, stderr=theirs, start_new_session=True)
        os.close(theirs)
    else:
        [run] = start(tmp_path, 1, 0.02, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    until_recorded(tmp_path, run, 10)
    if how == "nohup":
        run.send_signal(signal.SIGHUP)
        assert "60 steps" in wait([run])
    else:
        os.close(ours) if how == "terminal gone" else run.stdout.close()
        assert run.wait(PATIENCE_SECONDS) == 0
    assert last_saved(tmp_path) == STEPS and (tmp_path / "results/base/run.json").exists()


@pytest.mark.slow
@pytest.mark.parametrize("world_size", [1, 2])
def test_killed_again_and_again_at_any_moment(tmp_path, world_size):
    wait(start(tmp_path / "whole", world_size, 0))
    for after in (1, 7, 8, 13, 20, 21, 35, 36, 50):
        stop(tmp_path / "cut", world_size, min(after, STEPS - 1), signal.SIGKILL)
    wait(start(tmp_path / "cut", world_size, 0))
    assert ended(tmp_path / "cut") == ended(tmp_path / "whole")
