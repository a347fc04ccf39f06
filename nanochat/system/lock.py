"""One run per out folder: a lock that ends with the last process of the run, even after `kill -9`."""
import contextlib
import errno
import fcntl
import hashlib
import os
import platform
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from nanochat.system import caches, log
from nanochat.system.files import UserError

PATIENCE_SECONDS = 2.5  # the processes of a run that was killed need a moment to end
FILE = ".lock"  # in the locked folder


@contextlib.contextmanager
def run_lock(folder: Path) -> Iterator[int | None]:
    """Holds the lock of `folder`; yields the descriptor that every child process must inherit (`pass_fds`), or None.

    UserError names the folder and the process that is writing to it.
    """
    # The kernel's lock (flock) belongs to the open file: children that inherit the descriptor hold it as well, so after
    # `kill -9` of the parent the folder stays locked until its last child has ended.
    with contextlib.ExitStack() as stack:  # closes the files at the end, which releases the lock
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if (folder / FILE).is_dir():  # the lock of an older nanochat on a machine without flock
                shutil.rmtree(folder / FILE)
            descriptor = _opened(folder / FILE, stack)
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {error.strerror}; free space, or choose another "
                            "folder") from error
        try:
            _lock(descriptor, folder)
        except OSError as error:  # the file system has no locks: a file on this machine is locked instead
            log.say(f"warning: {folder} cannot be locked ({error.strerror}); start no second run on it from another "
                    "machine")
            yield _substitute(folder, stack)
            return
        yield descriptor


def _opened(path: Path, stack: contextlib.ExitStack) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    stack.callback(os.close, descriptor)
    return descriptor


def _substitute(folder: Path, stack: contextlib.ExitStack) -> int | None:
    """The lock of `folder` in this machine's temporary folder; None if this cannot be locked either."""
    private = caches.private_folder()
    with contextlib.suppress(OSError):
        if private:
            descriptor = _opened(private / f"{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()}.lock", stack)
            _lock(descriptor, folder)
            return descriptor
    return None


def _lock(descriptor: int, folder: Path) -> None:
    """Takes the kernel's lock. OSError if the file system has no locks; UserError if another run holds it."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):  # EACCES: the answer of some network folders
                raise
        if time.monotonic() > deadline:
            owner = os.pread(descriptor, 1000, 0).decode(errors="replace").strip() or "unknown"
            raise UserError(f"another run ({owner}) is writing to {folder}; wait for it, or choose another folder")
        time.sleep(0.1)
    os.ftruncate(descriptor, 0)  # the new content is only for the error message of a second run
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    os.pwrite(descriptor, f"process {os.getpid()} on {platform.node()}, since {since}".encode(), 0)


def is_locked(folder: Path) -> bool:
    """Whether a run is writing to `folder`. False if the file system has no locks. Nothing is written."""
    with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
        descriptor = os.open(Path(folder) / FILE, os.O_RDONLY)
        stack.callback(os.close, descriptor)  # also releases the shared lock; a run that starts waits longer than this
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in (errno.EAGAIN, errno.EACCES)
    return False
