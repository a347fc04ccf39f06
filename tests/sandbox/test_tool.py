"""The tool in its own process: the calculator's answers, from any thread, whatever becomes of that process."""
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from nanochat.sandbox import calculate, tool

module = sys.modules["nanochat.sandbox.tool"]


@pytest.mark.parametrize("expression", ["123*456", "10/1", "9**9**9", "'é'.upper()", "", "1\n+2", "'\ud800'", "1 +",
                                        "open('x')"])
def test_it_says_what_the_calculator_says(expression):
    assert tool(expression) == calculate(expression)


def test_it_computes_elsewhere_behind_locks():
    assert tool("1+1") == "2" and module._process.pid != os.getpid()
    if Path("/proc/self/status").exists():
        status = Path(f"/proc/{module._process.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status and "CapEff:\t0000000000000000" in status
        assert Path(f"/proc/{module._process.pid}/environ").read_bytes() == b""


def test_many_threads_get_their_own_answers():
    answers = {}
    threads = [threading.Thread(target=lambda n=n: answers.update({n: tool(f"{n}*1001")})) for n in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {n: str(n * 1001) for n in range(40)}


def test_a_killed_one_is_started_again():
    before = tool("1+1") and module._process.pid
    os.kill(before, signal.SIGKILL)
    assert tool("2+2") == "4" and module._process.pid != before


def test_one_that_hangs_is_replaced_and_asked_again():
    before = tool("1+1") and module._process.pid
    os.kill(before, signal.SIGSTOP)
    assert tool("2+2") == "4" and module._process.pid != before


def test_what_hangs_twice_is_refused(monkeypatch):
    start = module._start

    def hanging():
        process = start()
        os.kill(process.pid, signal.SIGSTOP)
        return process

    module._stop()
    monkeypatch.setattr(module, "SECONDS", 0.05)
    monkeypatch.setattr(module, "_start", hanging)
    assert tool("2+2") is None and module._process is None
    monkeypatch.undo()
    assert tool("2+2") == "4"


def test_a_forked_copy_has_its_own():
    mine = tool("1+1") and module._process.pid
    pid = os.fork()
    if pid == 0:
        os._exit(0 if tool("6*7") == "42" and module._process.pid != mine else 1)
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended == (pid, 0) and tool("6*7") == "42" and module._process.pid == mine
