"""The lock of an out folder: flock, a file elsewhere on this machine in its place, and neither."""
import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.system import lock
from nanochat.system.files import UserError

ROOT = Path(__file__).parents[2]
HOLD = """
import pathlib, subprocess, sys, time
from nanochat.system import lock
with lock.run_lock(pathlib.Path(sys.argv[1])) as descriptor:
    child = subprocess.Popen(["sleep", "60"], pass_fds=[descriptor] if descriptor else [], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.2)


@pytest.fixture(params=[None, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL], ids=["flock", "ENOLCK", "ENOTSUP", "EINVAL"])
def flock(request, monkeypatch, tmp_path):
    """The out folder's answer to flock: None = it works. In this machine's temporary folder it always works."""
    works = fcntl.flock
    monkeypatch.setattr(lock.caches, "private_folder", lambda: tmp_path)

    def refuse_in_the_out_folder(descriptor, *rest):
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith("/.lock"):
            raise OSError(request.param, "No locks available")
        works(descriptor, *rest)

    if request.param:
        monkeypatch.setattr(lock.fcntl, "flock", refuse_in_the_out_folder)
    return request.param


def test_one_run_at_a_time_and_then_the_next(tmp_path, flock, capsys):
    def is_refused(name):
        with pytest.raises(UserError, match=f"{tmp_path}/{name}") as refused, lock.run_lock(tmp_path / name):
            pass
        return f"process {os.getpid()}" in str(refused.value)

    (tmp_path / "same").symlink_to("out")
    for _ in range(2):
        with lock.run_lock(tmp_path / "out") as descriptor:
            assert descriptor is not None, "children inherit it"
            assert is_refused("out") and is_refused("same")
            with lock.run_lock(tmp_path / "another"):
                pass
    assert ("warning" in capsys.readouterr().out) == bool(flock)


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


@pytest.mark.parametrize("temporary", ["a folder", "none"])
def test_without_any_lock_it_goes_on_with_a_warning(tmp_path, monkeypatch, capsys, temporary):
    def refuse(*_):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", refuse)
    monkeypatch.setattr(lock.caches, "private_folder", lambda: tmp_path if temporary == "a folder" else None)
    with lock.run_lock(tmp_path / "out") as descriptor:
        assert descriptor is None
    printed = capsys.readouterr().out
    assert "warning" in printed and str(tmp_path) in printed and printed.count("\n") == 1


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write to .*file/out"), lock.run_lock(tmp_path / "file/out"):
        pass
