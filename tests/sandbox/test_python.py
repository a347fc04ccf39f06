"""`run` as its callers see it: what a program may do, what a Result says, threads, limits, refusals, no leaks."""

import gc
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from nanochat import sandbox
from nanochat.sandbox import python
from nanochat.system.files import UserError

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform not in python.REQUIRED, reason="no sandbox on this system")


@pytest.mark.parametrize("code, stdout", [
    ("print(1 + 1)", "2\n"),
    ("import sys; print(len(sys.stdin.read()))", "0\n"),
    ("from typing import List; import math, re, collections, heapq; print(math.sqrt(16))", "4.0\n"),
    ("import colorsys, csv, email, html.parser, logging, argparse, shlex; print('imported')", "imported\n"),
    ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nprint(P(1), __name__)",
     "P(x=1) __main__\n"),
    ("import os; print(sorted(os.environ), os.getcwd())", "['LC_ALL', 'PYTHONHASHSEED', 'TZ'] /\n"),
    ("import time; time.sleep(0.01); print(time.localtime().tm_zone)", "UTC\n"),
    ("", ""),
])
def test_programs_that_end_well(code, stdout):
    result = sandbox.run(code)
    assert (result.ok, result.stdout, result.stderr, result.reason) == (True, stdout, "", "")


@pytest.mark.parametrize("code, reason", [
    ("assert 1 == 2", "AssertionError"),
    ("1/0", "ZeroDivisionError: division by zero"),
    ("def f(:", "SyntaxError: invalid syntax"),
    ("import sys; sys.exit(0)", "it ended before its last line"),
    ("import os; os._exit(0)", "it ended before its last line"),
    ("x = [0] * 10**9", "MemoryError"),
    ("import ctypes; ctypes.string_at(0)", "killed by signal 11"),
    ("import numpy", "ModuleNotFoundError: No module named 'numpy'"),
    ("while True: pass", "time limit"),
    ("import time; time.sleep(9)", "time limit"),
    ("print('x' * 2_000_000)", "more than 1,048,576 bytes of output"),
    ("try: print('x' * 2_000_000, flush=True)\nexcept OSError: pass", "more than 1,048,576 bytes of output"),
    ("open('/etc/passwd')", "PermissionError: [Errno 13] Permission denied: '/etc/passwd'"),
    ("exec('x = ' + '(' * 10**5)", None),
    ("raise KeyboardInterrupt", "KeyboardInterrupt"),
    ("class E(Exception):\n    def __str__(self): raise SystemExit\nraise E", None),
    ("import sys; sys.stdout = sys.stderr = None; 1/0", None),
    ("import traceback; traceback.print_exception = None; 1/0", None),
    ("def f(): f()\nimport sys; sys.setrecursionlimit(10**9); f()", None),
    ("import os; os.closerange(0, 99)", None),
    ("\ud800", None),
    ("\0", None),
])
def test_programs_that_do_not(code, reason):
    endless = reason is None or reason == "time limit"
    result = sandbox.run(code, seconds=0.5 if endless else 30)
    assert not result.ok
    assert len(result.stdout) + len(result.stderr) <= 2 * python.MAX_OUTPUT_BYTES
    assert result.reason and "\n" not in result.reason
    assert reason in (None, result.reason)


def test_a_traceback_shows_the_program_and_nothing_of_the_harness():
    stderr = sandbox.run("x = 1\nx / 0").stderr
    assert 'File "program.py", line 2' in stderr and "x / 0" in stderr and str(ROOT) not in stderr


def test_no_descriptor_but_its_own():
    code = "import os\nfor fd in range(4, 64):\n    try: os.fstat(fd); print(fd)\n    except OSError: pass"
    assert sandbox.run(code).stdout == ""


def test_the_same_program_gives_the_same_output():
    code = "print({'a', 'b', 'c', 'd'}, hash('x'))"
    assert sandbox.run(code).stdout == sandbox.run(code).stdout


def test_programs_do_not_see_each_other():
    sandbox.run("import math; math.pi = 3")
    assert sandbox.run("import math; print(math.pi)").stdout == "3.141592653589793\n"


def test_memory_limit():
    assert sandbox.run("x = bytearray(100 << 20)", memory_mib=150).ok
    assert sandbox.run("x = bytearray(100 << 20)", memory_mib=50).reason == "MemoryError"


def test_many_threads_at_once():
    wrong, threads = [], []

    def work(number: int) -> None:
        for i in range(5):
            result = sandbox.run(f"print({number} * 100 + {i})")
            if result.stdout != f"{number * 100 + i}\n":
                wrong.append(result)

    for number in range(12):
        threads.append(threading.Thread(target=work, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_waiting_for_a_turn_is_not_on_the_programs_clock():
    results = []

    def work() -> None:
        results.append(sandbox.run("import time; time.sleep(0.25)", seconds=2))

    threads = [threading.Thread(target=work) for _ in range(10 * max(2, os.cpu_count() or 1))]  # 2.5 s for all
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [result.reason for result in results] == [""] * len(threads)


def test_a_killed_server_is_replaced():
    sandbox.run("pass")
    os.kill(python._server.process.pid, 9)
    assert sandbox.run("print(1)").stdout == "1\n"


def test_a_forked_copy_of_this_process_has_a_server_of_its_own():
    sandbox.run("pass")
    script = ("import os\nfrom nanochat import sandbox\nsandbox.run('pass')\n"
              "pid = os.fork()\nassert sandbox.run('print(6 * 7)', seconds=60).stdout == '42\\n'\n"
              "if pid: assert os.waitpid(pid, 0)[1] == 0\nelse: sandbox.python._stop(); os._exit(0)")
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=120)


def test_programs_end_with_their_caller():
    script = ("from nanochat import sandbox\nsandbox.run('print(1)')\n"
              "print(sandbox.python._server.process.pid, flush=True)\nsandbox.run('while True: pass', seconds=60)")
    caller = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    server = int(caller.stdout.readline())
    time.sleep(0.2)
    caller.kill()
    caller.communicate()
    wait_until(lambda: (Path(f"/proc/{server}").exists(), children_of(server)), (False, []))


def wait_until(value, expected, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while value() != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    assert value() == expected


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        found += [int(path.parent.name)] if parent == pid else []
    return found


def belongings() -> dict[str, object]:
    """What a run could leave behind: descriptors here and in the server, processes, temporary files, shared memory."""
    server = python._server.process.pid
    return {"here": len(os.listdir("/proc/self/fd")), "server": len(os.listdir(f"/proc/{server}/fd")),
            "programs": children_of(server), "others": [pid for pid in children_of(os.getpid()) if pid != server],
            "files": [*os.listdir(tempfile.gettempdir()), *Path("/dev/shm").glob("leaked-by-a-program*")],
            "threads": threading.active_count()}


@pytest.fixture
def own_temporary_folder(tmp_path, monkeypatch):
    """So that what others put into /tmp meanwhile does not count."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


LEAKY = ["print(1)", "1/0", "import os; os._exit(0)", "import os; os.fork()", "print('x' * 2_000_000)",
         "while True: pass", "open('f', 'w').write('x')",
         "import multiprocessing.shared_memory as m; m.SharedMemory('leaked-by-a-program', create=True, size=9)"]


@pytest.mark.parametrize("runs", [80, pytest.param(10_000, marks=pytest.mark.slow)])
def test_nothing_is_left_behind(runs, own_temporary_folder):
    sandbox.run("raise SystemExit")  # a program that fails is buried when `run` returns, one that ends well soon after
    gc.collect()
    time.sleep(0.5)  # those of earlier tests as well
    before, server = belongings(), python._server.process.pid
    for i in range(runs):
        code = LEAKY[i % len(LEAKY)]
        sandbox.run(code, seconds=0.05 if "while" in code else 5)
    gc.collect()
    wait_until(belongings, before)
    assert python._server.process.pid == server, "the server had to be restarted"


WITHOUT = """
import sys
from nanochat import sandbox
from nanochat.system.files import UserError
print(sandbox.can_isolate(), sandbox.calculate("6*7"))
for refused in (sandbox.require, lambda: sandbox.run("print('ran')"), sandbox.layers):
    try:
        refused()
    except UserError as error:
        print(error)
sandbox.allow_unsafe()
sandbox.require()
print(sandbox.can_isolate(), sandbox.run("print('ran')").stdout + str(sandbox.layers()))
"""


def test_a_missing_lock_refuses_unless_unsafe_execution_is_allowed():
    done = subprocess.run([sys.executable, ROOT / "tests/sandbox/no_landlock.py", sys.executable, "-c", WITHOUT],
                          cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120)
    first, *refusals, ran, layers = done.stdout.splitlines()
    assert first == "False 42" and len(refusals) == 3 and len(set(refusals)) == 1
    assert "landlock: [Errno 38]" in refusals[0] and "--unsafe-execution" in refusals[0]
    assert ran == "False ran"
    assert "landlock" not in layers and "seccomp" in layers and "rlimits" in layers


@pytest.mark.parametrize("problem", [
    "import nanochat.sandbox.python as p, subprocess\ndef no(*a, **k): raise BlockingIOError(11, 'no more processes')\n"
    "p.subprocess.Popen = no",  # ulimit -u
    "import nanochat.sandbox.python as p; p.SERVER = p.Path('/no/such/server.py')",  # it ends at once, as without /proc
    "import sys; sys.platform = 'win32'"])
def test_a_machine_that_cannot_start_the_sandbox_says_so_and_calculates(problem):
    code = f"{problem}\n{WITHOUT.partition('sandbox.allow_unsafe')[0]}"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120)
    first, *refusals = done.stdout.splitlines()
    assert first == "False 42" and len(refusals) == 3 and "cannot be isolated" in refusals[0], done.stderr


def test_whether_it_can_is_known_at_once_the_second_time():
    assert sandbox.can_isolate() is True
    started = time.monotonic()
    assert sandbox.can_isolate() and time.monotonic() - started < 0.01


def test_the_layers_in_force():
    assert sandbox.layers() == ["rlimits", "capabilities", "landlock", "seccomp",
                                "clean environment", "output cap", "wall clock", "group kill"]


def test_another_system_is_refused(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UserError, match="use Linux or macOS"):
        sandbox.run("pass")
