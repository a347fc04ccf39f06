"""One run per out folder: a lock that ends with the last process of the run, even after `kill -9`."""
import contextlib
import errno
import fcntl
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from nanochat.system import log
from nanochat.system.files import UserError

PATIENCE_SECONDS = 2.5  # a run that was killed takes a moment to be gone
FILE, OWNER_FILE = ".lock", ".lock.owner"


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[int | None]:
    """Holds the lock of `folder`; yields the descriptor that every child process must inherit (`pass_fds`), or None.

    The kernel's lock (flock) belongs to the open file: children that inherit the descriptor hold it as well, so after
    `kill -9` of the parent the folder stays locked until its last child is gone. Where the file system has no locks,
    a file that only one process can create takes its place. Where that fails too, the run goes on with a warning.
    UserError names the folder and who is writing to it.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / FILE).is_dir():  # the lock of an older nanochat on a machine without flock
            shutil.rmtree(folder / FILE)
        descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"cannot write to {folder}: {error.strerror}; free space, or choose another folder") from error
    try:
        try:
            _flock(descriptor, folder)
        except OSError as error:
            with _owner_file(folder, error):
                yield None
            return
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(_me()).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)  # releases the lock, unless a child still has the descriptor


def _flock(descriptor: int, folder: Path) -> None:
    """Takes the kernel's lock. OSError where the file system has none; UserError where another run holds it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):  # EACCES: what some network folders answer
                raise
        if time.monotonic() > deadline:
            raise _taken(folder, _owner(os.pread(descriptor, 1000, 0)))
        time.sleep(0.1)


@contextlib.contextmanager
def _owner_file(folder: Path, problem: OSError) -> Iterator[None]:
    """The lock of a folder without flock: a file with host, process and start time of its owner."""
    path = folder / OWNER_FILE
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
            os.write(descriptor, json.dumps(_me()).encode())
            os.close(descriptor)
            break
        except FileExistsError:
            owner = _owner(path.read_bytes() if path.exists() else b"")
            if _is_gone(owner):
                path.unlink(missing_ok=True)
            elif time.monotonic() > deadline:
                raise _taken(folder, owner, f" If no run is going on there, remove {path}.") from None
            else:
                time.sleep(0.1)
        except OSError:
            log.say(f"warning: {folder} cannot be locked ({problem.strerror}); start no second run on it")
            yield
            return
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()


def _me() -> dict:
    return {"host": platform.node(), "pid": os.getpid(), "started": _start_of(os.getpid()),
            "since": time.strftime("%Y-%m-%d %H:%M:%S")}


def _owner(data: bytes) -> dict:
    """Who holds the lock; {} where the file says nothing that we know."""
    with contextlib.suppress(ValueError):
        owner = json.loads(data)
        return owner if isinstance(owner, dict) else {}
    return {}


def _is_gone(owner: dict) -> bool:
    """Whether the owner was a process of this machine that has ended; its number may belong to another one by now."""
    if owner.get("host") != platform.node() or not isinstance(owner.get("pid"), int):
        return False
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return True
    except OSError:  # a process of another user
        pass
    return _start_of(owner["pid"]) != owner.get("started")


def _start_of(pid: int) -> str:
    """When a process started, in the kernel's ticks; "" where /proc does not say."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    return ""


def _taken(folder: Path, owner: dict, advice: str = "") -> UserError:
    who = f"process {owner['pid']} on {owner.get('host')}, since {owner.get('since')}" if "pid" in owner else "unknown"
    return UserError(f"another run ({who}) is writing to {folder}; wait for it, or choose another folder.{advice}")
