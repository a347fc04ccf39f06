"""Runs a Python program that a model wrote; the program can compute and print and do nothing else.

The first call starts a fork server (server.py): a bare interpreter with a clean environment. It forks one child per
program, and the child confines itself (confine.py) before the program begins. This process keeps the wall clock and
decides about success: a program is `ok` if the child sends back a random number (the nonce), which it does only after
the program's last line, on a pipe that the program does not know. No exit code and no output can imitate this. If a
layer of the confinement does not work, `run` refuses, unless the user gave --unsafe-execution. Any number of threads
may call `run`; as many programs run at the same time as there are processors, but at least two.

Not covered: a program can search the frames of its caller for the nonce, and can return an object that equals
everything. Such a program passes tests without a solution. docs/security.md has the whole list.
"""
import atexit
import json
import os
import secrets
import select
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from nanochat.system.container import usable_cores
from nanochat.system.files import UserError

MAX_OUTPUT_BYTES = 1 << 20  # limit for stdout, and the same for stderr
PAUSES_SECONDS = (0.05, 0.5, 2)  # pause after each attempt without a server: memory may be free again later
SERVER = Path(__file__).with_name("server.py")  # started by its path, not imported
REQUIRED = {"linux": ("rlimits", "capabilities", "landlock", "seccomp"), "darwin": ("sandbox-exec",)}
OUTSIDE = ["clean environment", "output cap", "wall clock", "group kill"]  # layers that this process adds
ENVIRONMENT = {"PYTHONHASHSEED": "0", "TZ": "UTC", "LC_ALL": "C.UTF-8"}  # a set has the same order in every run
PROFILE = """(version 1) (deny default) (allow process-fork) (allow process-exec (literal "{python}"))
(allow sysctl-read) (allow file-read-metadata)
(allow file-read* (subpath "{prefix}") (subpath "{folder}") (subpath "/usr/lib")
(subpath "/System/Library") (literal "/dev/urandom")) (allow file-read* file-write* (literal "/dev/null"))"""


@dataclass(frozen=True)
class Result:
    """The outcome of a program. `ok`: it ran to its end; `reason`: "", or one line with the reason why it did not."""

    ok: bool
    stdout: str
    stderr: str
    reason: str


class ServerGone(Exception):
    """The fork server has ended or cannot fork: nothing is known about the program."""


def run(code: str, *, seconds: float = 5, memory_mib: int = 256) -> Result:
    """Runs `code` for at most `seconds` of wall clock, with `memory_mib` more memory than a bare interpreter has.

    The program gets no input on stdin and can write no file. UserError if this machine cannot isolate it.
    """
    request = {"seconds": seconds, "memory_mib": memory_mib, "output_bytes": MAX_OUTPUT_BYTES}
    with _slots:
        for pause in PAUSES_SECONDS:
            try:
                return _attempt(request, code.encode("utf8", "replace"))
            except ServerGone as error:
                problem = error
                time.sleep(pause)
    raise UserError(f"model-written code cannot be run: {problem}; is there memory and room for another process?")


def allow_unsafe() -> None:
    """From now on `run` works even if layers are missing: for --unsafe-execution."""
    global _unsafe
    _unsafe = True


def can_isolate() -> bool:
    """Whether `run` can isolate a program on this machine. The first call takes 60 ms, later calls no time."""
    return not _problem()


def require() -> None:
    """Raises UserError if `run` would refuse: for commands that would otherwise find out after hours."""
    if not _unsafe and (problem := _problem()):
        raise UserError(f"model-written code cannot be isolated on this machine ({problem}): "
                        "add --unsafe-execution to run it with your own rights")


def _problem() -> str:
    """The reason why programs cannot be isolated here, in one line; "" if they can."""
    if sys.platform not in REQUIRED:
        return f"no means on {sys.platform}: use Linux or macOS"
    try:
        server = _running_server()
    except OSError as error:  # no process or no memory is left
        return f"its server cannot start: {error.strerror or error}"
    if not server.problems:
        return "its server ended at once: is /proc mounted, is there room for another process?"
    missing = [name for name in REQUIRED[sys.platform] if name not in server.in_force]
    return "; ".join(f"{name}: {server.problems[name]}" for name in missing)


def layers() -> list[str]:
    """The layers between a program and this machine, for the report, e.g. ["rlimits", …, "group kill"]."""
    require()
    return [*_running_server().in_force, *OUTSIDE]


def _attempt(request: dict[str, Any], code: bytes) -> Result:
    require()  # the server may have been replaced by one without a layer
    server, nonce, deadline = _running_server(), secrets.token_hex(16), time.monotonic() + request["seconds"]
    (note, note_write), (life, their_life) = os.pipe(), socket.socketpair()
    with _memory_file() as program, _memory_file() as out, _memory_file() as err, life, open(note, "rb"):
        program.write(code)
        program.seek(0)  # the child inherits the position
        with their_life, open(note_write, "wb"):
            descriptors = [program.fileno(), out.fileno(), err.fileno(), note_write, their_life.fileno()]
            server.send(request | {"nonce": nonce}, descriptors)
        is_in_time, answer = _wait(note, deadline)
        ok = is_in_time and answer == nonce.encode()
        status = 0 if ok else _end(life)
        outputs = [os.pread(file.fileno(), MAX_OUTPUT_BYTES, 0) for file in (out, err)]
    stdout, stderr = (output.decode("utf8", "replace") for output in outputs)
    reason = ""
    if not is_in_time:
        reason = "time limit"
    elif max(map(len, outputs)) == MAX_OUTPUT_BYTES:
        reason = f"more than {MAX_OUTPUT_BYTES:,} bytes of output"
    elif status < 0:
        reason = f"killed by signal {-status}"
    elif not ok:
        reason = stderr.strip().rpartition("\n")[2][:200] or "it ended before its last line"
    return Result(not reason, stdout, stderr, reason)


def _end(life: socket.socket) -> int:
    """Makes the server kill the rest of the child's group, and waits: the child's exit code, or minus the signal."""
    life.shutdown(socket.SHUT_WR)
    life.settimeout(10)
    try:
        return int(struct.unpack("i", life.recv(4))[0])
    except (OSError, struct.error):
        raise ServerGone("its server has ended or cannot start a process") from None


def _memory_file() -> BinaryIO:
    if hasattr(os, "memfd_create"):
        return open(os.memfd_create("sandbox"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _wait(note: int, deadline: float) -> tuple[bool, bytes]:
    """Waits until the child closes its pipe, which happens when it ends: (whether this was in time, the bytes read)."""
    answer = b""
    while (pause := deadline - time.monotonic()) > 0:
        if select.select([note], [], [], pause)[0]:
            piece = os.read(note, 4096)
            if not piece:
                return True, answer
            answer = (answer + piece)[:64]  # a program that finds the pipe may write without end
    return False, answer


class _Server:
    """The process of the fork server, and our end of its socket."""

    def __init__(self) -> None:
        python = os.path.realpath(sys.executable)
        command = [python, "-S", "-s", "-B", "-X", "utf8", str(SERVER)]
        if sys.platform == "darwin":  # untested: the profile allows fork, and reading the system's files and Python's
            profile = PROFILE.format(python=python, prefix=sys.base_prefix, folder=SERVER.parent)
            command = ["sandbox-exec", "-p", profile, *command]
        self.sending = threading.Lock()
        self.control, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(command, stdin=theirs.fileno(), stdout=subprocess.DEVNULL,
                                            stderr=subprocess.DEVNULL, env=ENVIRONMENT, cwd="/", start_new_session=True)
        with self.control.makefile("rb") as answer:
            self.problems: dict[str, str] = json.loads(answer.readline() or "{}")  # layer → "", or why it fails
        self.in_force = [name for name, problem in self.problems.items() if not problem]

    def send(self, request: dict[str, Any], descriptors: list[int]) -> None:
        try:
            with self.sending:  # requests of two threads must not mix
                socket.send_fds(self.control, [json.dumps(request).encode()], descriptors)
        except OSError as error:
            raise ServerGone(f"its server has ended ({error})") from None


def _running_server() -> _Server:
    """The server. It is started if there is none, or if it has ended."""
    global _server
    with _starting:
        if _server is None or _server.process.poll() is not None:  # e.g. killed by the kernel for lack of memory
            _stop()
            _server = _Server()
        return _server


def _stop() -> None:
    """Ends the server, and with it every program."""
    if _server is not None:
        _server.control.close()
        _server.process.wait()


def _forget() -> None:
    """A forked copy of this process starts its own server, with new locks: the old ones may be held for ever."""
    global _server, _starting, _slots
    if _server is not None:
        _server.control.close()
    _server, _starting, _slots = None, threading.Lock(), threading.BoundedSemaphore(max(2, usable_cores()))


_unsafe = False  # --unsafe-execution was given
_server: _Server | None = None
_starting: threading.Lock  # only one thread starts the server
_slots: threading.BoundedSemaphore  # one per processor: a program that waits for its turn uses none of its time
_forget()
atexit.register(_stop)
os.register_at_fork(after_in_child=_forget)
