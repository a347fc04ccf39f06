"""Run a Python program that a model wrote, where it can compute and print and do nothing else.

The first call starts a fork server (server.py), a bare interpreter with an environment from scratch. It forks a child
per program, and the child locks itself (confine.py) before the program begins. Out here are the wall clock and the
judgement: `ok` means that the nonce given to the child came back on a pipe that only the harness writes to, after the
program's last line; no exit code and no output can stand in for it. Where a lock does not hold, `run` refuses, unless a
recipe was given --unsafe-execution. Many threads may call it; as many programs run at once as there are processors.

Not covered: a program that searches the harness's frames for the nonce, or whose objects equal everything, can pass
tests without solving them. docs/security.md has the whole list.
"""

import atexit
import json
import os
import secrets
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from nanochat.system.container import usable_cores
from nanochat.system.files import UserError

MAX_FILE_BYTES = 1 << 20  # of stdout, of stderr, and of any file it may write
MAX_FOLDER_BYTES, MAX_FILES = 64 << 20, 1000  # in the folder of files=True
SERVER = Path(__file__).with_name("server.py")
REQUIRED = {"linux": ("rlimits", "capabilities", "landlock", "seccomp"), "darwin": ("sandbox-exec",)}
OUTSIDE = ["clean environment", "output cap", "wall clock", "group kill"]
ENVIRONMENT = {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8"}  # a set has the same order in every run
PROFILE = """(version 1) (deny default) (allow process-fork) (allow process-exec (literal "{python}"))
(allow sysctl-read) (allow file-read-metadata)
(allow file-read* (subpath "{prefix}") (subpath "{folder}") (subpath "/usr/lib")
(subpath "/System/Library") (literal "/dev/urandom")) (allow file-read* file-write* (literal "/dev/null"))"""


@dataclass(frozen=True)
class Result:
    """What became of a program. `ok`: it came to its end; `reason`: "" or one line that says why it did not."""

    ok: bool
    stdout: str
    stderr: str
    reason: str
    seconds: float


class ServerGone(Exception):
    """The fork server has ended or cannot fork: the program has not been judged."""


def run(code: str, *, stdin: str = "", seconds: float = 5, memory_mib: int = 256, files: bool = False) -> Result:
    """Runs `code` for at most `seconds` of wall clock and `memory_mib` beyond what a bare interpreter takes.

    `files` makes its working directory an empty folder that it may fill (64 MiB, no subfolders), removed afterwards;
    without it nothing can be written anywhere. UserError where this machine cannot isolate it.
    """
    with _slots:
        folder = tempfile.mkdtemp(prefix="nanochat-") if files else ""
        request = {"seconds": seconds, "memory_mib": memory_mib, "folder": folder, "file_bytes": MAX_FILE_BYTES}
        try:
            for patience in (0.05, 0.5, 2):
                try:
                    return _attempt(request, code.encode("utf8", "replace"), stdin.encode("utf8", "replace"))
                except ServerGone as error:
                    problem = error
                    time.sleep(patience)
        finally:
            shutil.rmtree(folder, ignore_errors=True) if folder else None
    raise UserError(f"model-written code cannot be run: {problem}; is there memory and room for another process?")


def allow_unsafe() -> None:
    """From now on `run` goes ahead where locks are missing: for recipes that were given --unsafe-execution."""
    global _unsafe
    _unsafe = True


def can_isolate() -> bool:
    """Whether `run` can isolate a program on this machine. The first call takes 60 ms, later ones nothing."""
    return not _problem()


def require() -> None:
    """UserError if `run` would refuse: for commands that would otherwise find out after hours."""
    if not _unsafe and (problem := _problem()):
        raise UserError(f"model-written code cannot be isolated on this machine ({problem}): "
                        "add --unsafe-execution to run it with your own rights")


def _problem() -> str:
    """Why programs cannot be isolated here, in one line; "" where they can."""
    if sys.platform not in REQUIRED:
        return f"no means on {sys.platform}: use Linux or macOS"
    try:
        server = _running_server()
    except OSError as error:  # no process or no memory is left
        return f"its server cannot start: {error.strerror or error}"
    if not server.found:
        return "its server ended at once: is /proc mounted, is there room for another process?"
    return "; ".join(f"{name}: {server.found[name]}" for name in REQUIRED[sys.platform] if name not in server.in_force)


def layers() -> list[str]:
    """What stands between a program and this machine, for the report, e.g. ["rlimits", …, "group kill"]."""
    require()
    return [*_running_server().in_force, *OUTSIDE]


def _attempt(request: dict, code: bytes, stdin: bytes) -> Result:
    require()
    server, nonce, started = _running_server(), secrets.token_hex(16), time.monotonic()
    request = request | {"nonce": nonce, "code_bytes": len(code)}
    (note, note_write), (life, their_life) = os.pipe(), socket.socketpair()
    with _memory_file() as program, _memory_file() as out, _memory_file() as err, life, open(note, "rb"):
        program.write(code + stdin)
        program.seek(0)
        with their_life, open(note_write, "wb"):
            server.send(request, [program.fileno(), out.fileno(), err.fileno(), note_write, their_life.fileno()])
        reason, said = _wait(note, started + request["seconds"], request["folder"])
        ended_well = not reason and said == nonce.encode()
        status = 0 if ended_well else _end(life)
        texts = [os.pread(file.fileno(), MAX_FILE_BYTES, 0) for file in (out, err)]
    if not reason and max(map(len, texts)) == MAX_FILE_BYTES:
        reason = f"more than {MAX_FILE_BYTES:,} bytes of output"
    stdout, stderr = (text.decode("utf8", "replace") for text in texts)
    if not reason and not ended_well:
        last = stderr.strip().rpartition("\n")[2][:200]
        reason = f"killed by signal {-status}" if status < 0 else last or "it ended before its last line"
    return Result(not reason, stdout, stderr, reason, time.monotonic() - started)


def _end(life: socket.socket) -> int:
    """Has the server kill what is left of the child, and waits: its exit code, or minus the signal."""
    life.shutdown(socket.SHUT_WR)
    life.settimeout(10)
    try:
        return struct.unpack("i", life.recv(4))[0]
    except (OSError, struct.error):
        raise ServerGone("its server has ended or cannot start a process") from None


def _memory_file() -> BinaryIO:
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("sandbox"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _wait(note: int, deadline: float, folder: str) -> tuple[str, bytes]:
    """Until the child closes its pipe, by ending: ("" or the limit it reached, what it wrote there)."""
    said = b""
    while (pause := deadline - time.monotonic()) > 0:
        if select.select([note], [], [], min(pause, 0.02) if folder else pause)[0]:
            piece = os.read(note, 4096)
            said = (said + piece)[:64]
            if not piece:
                return "", said
        if folder and _overweight(folder):
            return f"more than {MAX_FOLDER_BYTES >> 20} MiB or {MAX_FILES} files", said
    return "time limit", said


def _overweight(folder: str) -> bool:
    sizes = [entry.stat(follow_symlinks=False).st_blocks * 512 for entry in os.scandir(folder)]
    return len(sizes) > MAX_FILES or sum(sizes) > MAX_FOLDER_BYTES


class _Server:
    """The fork server's process and our end of its socket."""

    def __init__(self) -> None:
        python = os.path.realpath(sys.executable)
        command = [python, "-S", "-s", "-B", "-X", "utf8", str(SERVER)]
        if sys.platform == "darwin":  # untested: it may read the system's and Python's own files, and fork
            profile = PROFILE.format(python=python, prefix=sys.base_prefix, folder=SERVER.parent)
            command = ["sandbox-exec", "-p", profile, *command]
        self.sending = threading.Lock()
        self.control, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                            env=ENVIRONMENT, cwd="/", start_new_session=True)
        with self.control.makefile("rb") as answer:
            self.found: dict[str, str] = json.loads(answer.readline() or "{}")  # lock → "" or why it does not hold
        self.in_force = [name for name, problem in self.found.items() if not problem]

    def send(self, request: dict, fds: list[int]) -> None:
        try:
            with self.sending:
                socket.send_fds(self.control, [json.dumps(request).encode()], fds)
        except OSError as error:
            raise ServerGone(f"its server has ended ({error})") from None


def _running_server() -> _Server:
    """The server, started if need be."""
    global _server
    with _starting:
        if _server is None or _server.process.poll() is not None:
            _stop()
            _server = _Server()
        return _server


def _stop() -> None:
    """Ends the server, and with it every program."""
    if _server is not None:
        _server.control.close()
        _server.process.wait()


def _forget() -> None:
    """In a forked copy of this process, which starts its own server: the parent's locks may have been held."""
    global _server, _starting, _slots
    if _server is not None:
        _server.control.close()
    _server, _starting, _slots = None, threading.Lock(), threading.BoundedSemaphore(max(2, usable_cores()))


_unsafe, _server = False, None
_forget()
atexit.register(_stop)
os.register_at_fork(after_in_child=_forget)
