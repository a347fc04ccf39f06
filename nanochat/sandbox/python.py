"""Run a Python program that a model wrote, where it can compute and print and do nothing else.

    result = run(completion + tests)      # Result(ok=False, …, reason="AssertionError", seconds=0.004)

How: the first call starts a fork server (server.py), a bare interpreter with an environment from scratch; it forks a child per
program, and the child locks itself (locks.py) before the program begins. Here, on the outside, are the wall clock and the
judgement: `ok` means that the secret given to the child came back in a file that only the harness writes, after the program's
last line. No exit code and no printed text can stand in for that.

Where a lock does not hold, `run` refuses with one line, unless a recipe was given `--unsafe-execution` (`allow_unsafe()`).
Callable from many threads; as many programs run at once as there are processors, the others wait outside their time limit.

Not covered: a program that searches the harness's frames for the secret, or returns objects equal to everything, can pass
its tests without solving them. docs/security.md has the whole list.
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

from nanochat.system.files import UserError

MAX_OUTPUT_BYTES = 1 << 20                  # of stdout, of stderr, and of any file it may write: RLIMIT_FSIZE
MAX_FOLDER_BYTES, MAX_FILES = 64 << 20, 1000  # in the folder of files=True
SERVER = Path(__file__).with_name("server.py")
REQUIRED = {"linux": ("rlimits", "capabilities", "landlock", "seccomp"), "darwin": ("sandbox-exec",)}
OUTSIDE = ["clean environment", "output cap", "wall clock", "group kill"]
# The server's environment: nothing of ours. A fixed hash seed gives a set the same order in every run.
ENVIRONMENT = {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8"}
# macOS, untested: it may read the system's and Python's own files, and fork.
PROFILE = """(version 1) (deny default) (allow process-fork) (allow process-exec (literal "{python}")) (allow sysctl-read)
(allow file-read-metadata) (allow file-read* (subpath "{prefix}") (subpath "{folder}") (subpath "/usr/lib")
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
    """The fork server has ended or could not fork: the program has not been judged."""


def run(code: str, *, stdin: str = "", seconds: float = 5, memory_mib: int = 256, files: bool = False) -> Result:
    """Runs `code` for at most `seconds` of wall clock and `memory_mib` beyond what a bare interpreter takes.

    `files` gives it an empty folder of its own as working directory (64 MiB, no subfolders), which is removed afterwards;
    without it nothing can be written anywhere. Raises UserError where this machine cannot isolate it.
    """
    with _slots:
        folder = tempfile.mkdtemp(prefix="nanochat-") if files else ""
        request = {"nonce": secrets.token_hex(16), "seconds": seconds, "memory_mib": memory_mib, "folder": folder,
                   "file_bytes": MAX_OUTPUT_BYTES}
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


def layers() -> list[str]:
    """What stands between a program and this machine, for the report, e.g. ["rlimits", …, "wall clock", "group kill"]."""
    return [*_ready_server().in_force, *OUTSIDE]


def _attempt(request: dict, code: bytes, stdin: bytes) -> Result:
    server = _ready_server()
    life, their_life = socket.socketpair()
    program, out, err, note = fds = [_memory_file() for _ in range(4)]
    try:
        os.pwrite(program, code + stdin, 0)
        started = time.monotonic()
        with their_life:
            server.send(request | {"code_bytes": len(code)}, [*fds, their_life.fileno()])
        reason = _wait(life, started + request["seconds"], request["folder"])
        status = _status(life, time.monotonic() + 10)
        texts = [os.pread(fd, MAX_OUTPUT_BYTES, 0).decode("utf8", "replace") for fd in (out, err)]
        if not reason and max(os.fstat(out).st_size, os.fstat(err).st_size) >= MAX_OUTPUT_BYTES:
            reason = f"more than {MAX_OUTPUT_BYTES:,} bytes of output"
        ok = not reason and os.pread(note, 64, 0) == request["nonce"].encode()
        return Result(ok, *texts, "" if ok else reason or _why(status, texts[1]), time.monotonic() - started)
    finally:
        life.close()
        for fd in fds:
            os.close(fd)


def _memory_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("sandbox")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _wait(life: socket.socket, deadline: float, folder: str) -> str:
    """Until the program ends by itself (""), or a limit is reached and the server is asked to end it (which limit)."""
    while time.monotonic() < deadline:
        pause = max(0, deadline - time.monotonic())
        if select.select([life], [], [], min(pause, 0.02) if folder else pause)[0]:
            return ""
        if folder and _too_heavy(folder):
            life.shutdown(socket.SHUT_WR)
            return f"more than {MAX_FOLDER_BYTES >> 20} MiB or {MAX_FILES} files"
    life.shutdown(socket.SHUT_WR)
    return "time limit"


def _too_heavy(folder: str) -> bool:
    sizes = [entry.stat(follow_symlinks=False).st_blocks * 512 for entry in os.scandir(folder)]
    return len(sizes) > MAX_FILES or sum(sizes) > MAX_FOLDER_BYTES


def _status(life: socket.socket, deadline: float) -> int:
    """The exit code of a child that is gone for good (negative: the signal that killed it)."""
    life.settimeout(max(0.001, deadline - time.monotonic()))
    try:
        answer = life.recv(4)
    except OSError:
        answer = b""
    if len(answer) < 4:
        raise ServerGone("its server has ended or cannot start a process")
    return struct.unpack("i", answer)[0]


def _why(status: int, stderr: str) -> str:
    if status < 0:
        return f"killed by signal {-status}"
    lines = stderr.strip().splitlines()
    return lines[-1][:200] if status == 1 and lines else "the program ended before its last line"


class _Server:
    """The fork server's process and our end of its socket."""

    def __init__(self) -> None:
        self.sending, python = threading.Lock(), os.path.realpath(sys.executable)
        command = [python, "-S", "-s", "-B", "-X", "utf8", str(SERVER)]
        if sys.platform == "darwin":
            profile = PROFILE.format(python=python, prefix=sys.base_prefix, folder=SERVER.parent)
            command = ["sandbox-exec", "-p", profile, *command]
        self.control, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(command, stdin=theirs, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                            env=ENVIRONMENT, cwd="/", start_new_session=True)
        with self.control.makefile("rb") as answer:
            self.found: dict[str, str] = json.loads(answer.readline() or "{}")
        self.in_force = [name for name, problem in self.found.items() if not problem]

    def send(self, request: dict, fds: list[int]) -> None:
        try:
            with self.sending:
                socket.send_fds(self.control, [json.dumps(request).encode()], fds)
        except OSError as error:
            raise ServerGone(f"its server has ended ({error})") from None

    def close(self) -> None:
        """Ends the server and with it every program."""
        self.control.close()
        self.process.wait()


def _ready_server() -> _Server:
    """The running server, started if need be. UserError if locks are missing and nobody allowed that."""
    global _server
    if sys.platform not in REQUIRED:
        raise UserError(f"model-written code cannot be isolated on {sys.platform}: use Linux or macOS")
    with _starting:
        if _server is None or _server.process.poll() is not None:
            _stop()
            _server = _Server()
        server = _server
    missing = [f"{name}: {server.found.get(name, 'no answer')}" for name in REQUIRED[sys.platform] if name not in server.in_force]
    if missing and not _unsafe:
        raise UserError(f"model-written code cannot be isolated on this machine ({'; '.join(missing)}): "
                        "add --unsafe-execution to run it with your own rights")
    return server


def _stop() -> None:
    global _server
    if _server is not None:
        _server.close()
        _server = None


def _reset() -> None:
    """Also in a forked copy of this process: it starts a server of its own, as the other's lock may have been held."""
    global _server, _starting, _slots
    if _server is not None:
        _server.control.close()
    _server, _starting = None, threading.Lock()
    _slots = threading.BoundedSemaphore(max(2, os.cpu_count() or 1))


_unsafe, _server = False, None
_reset()
atexit.register(_stop)
os.register_at_fork(after_in_child=_reset)
