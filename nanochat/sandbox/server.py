"""The fork server: a small clean interpreter that forks one locked child per program. Not imported: started by its path.

Starting Python costs 15 ms, forking a started one 1 ms. This process begins with an empty environment and knows nothing worth
stealing: no model, no keys, none of the trainer's memory. It imports what programs like to import, says on its socket which
locks hold here, and waits. A request is a JSON object with five descriptors:

    program   memory file: the code, then the program's stdin
    out, err  memory files: the program's stdout and stderr, capped by RLIMIT_FSIZE
    note      memory file: the child writes the nonce here when the program has come to its end, and in no other case
    life      socket: hung up by the caller to end the program; the server writes the exit status when the child is gone

The child never sees `life`, and its exit status decides nothing: `sys.exit(0)` and `os._exit(0)` do not look like success.
"""

import json
import os
import select
import signal
import socket
import struct
import sys
import traceback
import types
from collections.abc import Callable

if __name__ == "__main__":  # started by its path: this folder is importable, the package is not
    import locks

# Imported before the locks close: saves each program the time, and their shared libraries need not be readable.
PRELOADED = """abc array ast bisect bz2 calendar cmath collections contextlib copy dataclasses datetime decimal enum fractions
    functools hashlib heapq inspect io itertools json linecache lzma math numbers operator pprint queue random re secrets
    statistics string struct textwrap threading time typing unicodedata uuid warnings zlib""".split()
LINUX = sys.platform == "linux"
LIBRARY = [os.path.dirname(os.__file__), "/usr/share/zoneinfo"]  # what a program may read


def serve() -> None:
    """Answers requests on descriptor 0 until the caller closes it; then ends every program."""
    control = socket.socket(fileno=os.dup(0))
    os.dup2(1, 0)  # /dev/null
    for name in PRELOADED:
        __import__(name)
    wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if LINUX else os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    pages = int(open("/proc/self/statm").read().split()[0]) if LINUX else 0
    always = {"base_bytes": pages * os.sysconf("SC_PAGE_SIZE"), "server": os.getpid()}
    found = probe(always)
    always["locks"] = [name for name, problem in found.items() if not problem]
    control.sendall(json.dumps(found).encode() + b"\n")
    running: dict[int, int] = {}  # life → pid
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(wake, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd == wake:
                os.read(wake, 4096)
                reap(running, poll)
            elif fd == control.fileno():
                line, fds, *_ = socket.recv_fds(control, 1 << 16, 5)  # never two requests: descriptors end a message
                if not line:
                    return [kill(pid) for pid in running.values()]
                start(json.loads(line) | always, fds, running, poll)
            elif fd in running:  # the caller hung up: a limit was reached, or it died
                poll.modify(fd, 0)
                kill(running[fd])


def start(request: dict, fds: list[int], running: dict[int, int], poll: select.poll) -> None:
    *files, life = fds
    try:
        pid = os.fork()
    except OSError:  # no more processes: the caller sees `life` close without a status
        files, pid = fds, -1
    if pid == 0:
        child(request, files)
    for fd in files:
        os.close(fd)
    if pid > 0:
        running[life] = pid
        poll.register(life, select.POLLIN)


def kill(pid: int) -> None:
    for send in (os.killpg, os.kill):  # its group; itself, if it has not got as far as a group
        try:
            send(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def reap(running: dict[int, int], poll: select.poll) -> None:
    """Buries the children that have ended and tells their callers."""
    for life, pid in list(running.items()):
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            continue
        kill(pid)  # what may be left of its group, while the number is still its own
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        del running[life]
        poll.unregister(life)
        with socket.socket(fileno=life) as caller:
            try:
                caller.send(struct.pack("i", status), socket.MSG_DONTWAIT)
            except OSError:
                pass  # nobody is waiting


def child(request: dict, files: list[int]) -> None:
    """The forked child: locks itself, runs the program, writes the nonce if that came to its end. Does not return."""
    try:
        os.setsid()
        for target, fd in enumerate(files):
            os.dup2(fd, target)
        os.closerange(len(files), 1 << 20)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        locks.die_with_parent(request["server"])
        if request["folder"]:
            os.chdir(request["folder"])
        code = os.read(0, request["code_bytes"]).decode()
        lock(request)
        execute(code)
        os.write(3, request["nonce"].encode())
    except BaseException as error:
        if not isinstance(error, SystemExit):
            error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next and error.__traceback__.tb_next.tb_next
            traceback.print_exception(error, limit=-10)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(1)
    finally:
        os._exit(0)


def lock(request: dict) -> None:
    """Puts on all locks that hold on this machine, in order. An error here ends the child before the program begins."""
    memory, folder = request["base_bytes"] + (request["memory_mib"] << 20), request["folder"]
    steps = {
        "rlimits": lambda: locks.limit_resources(memory, int(request["seconds"]) + 1, request["file_bytes"]),
        "capabilities": locks.drop_capabilities,
        "landlock": lambda: locks.landlock(LIBRARY, folder),
        "seccomp": lambda: locks.seccomp(bool(folder)),
        "sandbox-exec": lambda: None,  # macOS: this process was started under it
    }
    for name in request["locks"]:
        steps[name]()


def execute(code: str) -> None:
    """Runs the program as `__main__`, with its own streams; what it raises goes through."""
    for name, mode, fd in (("stdin", "r", 0), ("stdout", "w", 1), ("stderr", "w", 2)):
        setattr(sys, name, open(fd, mode, encoding="utf8", errors="surrogateescape", closefd=False))
    sys.argv = ["program.py"]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    sys.modules["linecache"].cache["program.py"] = (len(code), None, code.splitlines(True), "program.py")
    exec(compile(code, "program.py", "exec", dont_inherit=True), main.__dict__)
    sys.stdout.flush()


def refused(attempt: Callable[..., object], *values: object) -> bool:
    try:
        attempt(*values)
    except (OSError, MemoryError):
        return True
    return False


def probe(always: dict) -> dict[str, str]:
    """Lock → "" if it holds here, else why not. A child puts each on, then does what it forbids and what it must allow."""
    proofs = {
        "rlimits": lambda: not LINUX or refused(bytearray, 1 << 30),
        "capabilities": lambda: "CapEff:\t0000000000000000" in open("/proc/self/status").read(),
        "landlock": lambda: refused(open, "/etc/passwd"),
        "seccomp": lambda: refused(socket.socket) and bool(__import__("colorsys")),
        "sandbox-exec": lambda: refused(open, "/etc/passwd"),
    }
    receive, send = os.pipe()
    if os.fork() == 0:
        found = {}
        for name in locks.NAMES:
            try:
                lock(always | {"memory_mib": 64, "seconds": 5, "folder": "", "file_bytes": 1 << 16, "locks": [name]})
                found[name] = "" if proofs[name]() else "it is on, but what it forbids is possible"
            except Exception as error:
                found[name] = str(error)
        os.write(send, json.dumps(found).encode())
        os._exit(0)
    os.close(send)
    with open(receive, "rb") as answer:
        text = answer.read()
    os.wait()
    return json.loads(text or "{}")


if __name__ == "__main__":
    sys.path.pop(0)
    serve()
