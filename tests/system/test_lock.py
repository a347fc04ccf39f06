"""The lock of an out folder: flock, the file that takes its place, and neither."""
import errno
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.system import lock
from nanochat.system.files import UserError

ROOT = Path(__file__).parents[2]
HOLD = """
import subprocess, sys, time
from nanochat.system import lock
with lock.run_lock(sys.argv[1]) as descriptor:
    child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor] if descriptor else [], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.2)


@pytest.fixture(params=[None, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL], ids=["flock", "ENOLCK", "ENOTSUP", "EINVAL"])
def flock(request, monkeypatch):
    """The file system's answer to flock: None = it works."""
    def refuse(*_):
        raise OSError(request.param, "No locks available")

    if request.param:
        monkeypatch.setattr(lock.fcntl, "flock", refuse)
    return request.param


def test_one_run_at_a_time_and_then_the_next(tmp_path, flock):
    for _ in range(2):
        with lock.run_lock(tmp_path / "out") as descriptor:
            assert (descriptor is None) == bool(flock)
            with pytest.raises(UserError) as refused, lock.run_lock(tmp_path / "out"):
                pass
            assert str(tmp_path / "out") in str(refused.value) and f"process {os.getpid()}" in str(refused.value)
            with lock.run_lock(tmp_path / "another"):
                pass


def test_an_error_inside_releases_it(tmp_path, flock):
    with pytest.raises(ValueError), lock.run_lock(tmp_path):
        raise ValueError
    with lock.run_lock(tmp_path):
        pass


def test_a_child_keeps_the_folder_after_kill_9_of_its_parent(tmp_path):
    parent = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    try:
        with pytest.raises(UserError, match=f"process {parent.pid}"), lock.run_lock(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
    lock.PATIENCE_SECONDS = 5  # (the fixture puts it back) the child takes a moment to be gone
    with lock.run_lock(tmp_path):
        pass


@pytest.mark.parametrize("owner, taken", [
    ({"host": platform.node(), "pid": 2**22 + 1, "started": "1"}, False),  # no such process
    ({"host": platform.node(), "pid": os.getpid(), "started": "an hour ago"}, False),  # its number is another's now
    ({"host": platform.node(), "pid": os.getppid(), "started": lock._start_of(os.getppid())}, True),
    ({"host": "elsewhere", "pid": 2**22 + 1, "started": "1"}, True),  # a network folder: nobody can tell from here
    ({}, True), ([1], True), (None, True)])
def test_owners_that_are_gone(tmp_path, monkeypatch, owner, taken):
    monkeypatch.setattr(lock.fcntl, "flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "no locks")))
    (tmp_path / lock.OWNER_FILE).write_text(json.dumps(owner) if owner is not None else "{half", encoding="utf-8")
    if taken:
        with pytest.raises(UserError, match=f"remove {tmp_path / lock.OWNER_FILE}"), lock.run_lock(tmp_path):
            pass
    else:
        with lock.run_lock(tmp_path):
            assert json.loads((tmp_path / lock.OWNER_FILE).read_text(encoding="utf-8"))["pid"] == os.getpid()
        assert not (tmp_path / lock.OWNER_FILE).exists()


def test_without_any_lock_it_goes_on_with_a_warning(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    make = os.open
    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    monkeypatch.setattr(lock.os, "open", lambda path, flags, *mode: refuse() if flags & os.O_EXCL
                        else make(path, flags, *mode))
    with lock.run_lock(tmp_path) as descriptor:
        assert descriptor is None
    printed = capsys.readouterr().out
    assert "warning" in printed and str(tmp_path) in printed and printed.count("\n") == 1


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to .*file/out"), lock.run_lock(tmp_path / "file/out"):
        pass
