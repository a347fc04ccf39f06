"""The fork server: a small clean interpreter that forks one confined child per program. It is started by its path.

Starting Python costs 15 ms, forking a running interpreter 1 ms. This process begins with an empty environment and has
no secrets: no model, no keys, none of the trainer's memory. It imports the modules that programs usually import, writes
to its socket which layers of confinement work here, and waits. A request is a JSON object with five descriptors:

    program   memory file with the code; it becomes stdin, which is at its end when the program begins
    out, err  memory files: the program's stdout and stderr, whose size is limited by RLIMIT_FSIZE
    note      pipe: the child writes the nonce when the program has reached its end, and in no other case
    life      socket: when the caller closes it, the child's group is killed, and the caller gets the exit status

The child never sees `life`, and its exit status decides nothing: `sys.exit(0)` does not look like success.
"""
import gc
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
from typing import Any, NoReturn

if __name__ == "__main__":  # started by its path: this folder is importable, the package is not
    import confine

# Imported before the confinement: this saves each program the time, and the child need not read shared libraries.
# Not threading: its work after a fork would cost each program 0.6 ms, and threads are refused.
PRELOADED = """abc array ast bisect bz2 calendar cmath collections contextlib copy dataclasses datetime decimal enum
    fractions functools hashlib heapq inspect io itertools json linecache lzma math numbers operator pprint random
    re secrets statistics string struct textwrap time typing unicodedata uuid warnings zlib""".split()
LIBRARY = (os.path.dirname(os.__file__), "/usr/share/zoneinfo")  # the folders that a program may read


def serve() -> None:
    """Answers requests on descriptor 0 until the caller closes it; then ends every program."""
    control = socket.socket(fileno=os.dup(0))
    os.dup2(1, 0)  # stdin becomes /dev/null, as stdout is
    for name in PRELOADED:
        __import__(name)
    pages = int(open("/proc/self/statm", encoding="ascii").read().split()[0]) if confine.LINUX else 0
    common: dict[str, Any] = {"base_bytes": pages * os.sysconf("SC_PAGE_SIZE"), "server": os.getpid()}
    problems = probe(common)
    common["layers"] = [name for name, problem in problems.items() if not problem and name != "capabilities"]
    # Capabilities are dropped here and inherited. The other layers' rules are prepared here and applied in each child.
    if problems.get("capabilities") == "":
        confine.drop_capabilities()
    if "landlock" in common["layers"]:
        confine.landlock_rules(LIBRARY)
    if "seccomp" in common["layers"]:
        confine.seccomp_filter()
    gc.freeze()  # a garbage collection in a child must not write to, and so copy, every shared page
    control.sendall(json.dumps(problems).encode() + b"\n")
    running: dict[int, int] = {}  # the descriptor `life` of a child → its pid
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in running:
                poll.unregister(descriptor)
                end(descriptor, running.pop(descriptor))
                continue
            # One request: a message with descriptors is never joined with the next message.
            line, descriptors, *_ = socket.recv_fds(control, 1 << 16, 5)
            if not line:
                return end_all(running)
            if pid := start(json.loads(line) | common, descriptors):
                running[descriptors[-1]] = pid
                poll.register(descriptors[-1], select.POLLIN)


def start(request: dict[str, Any], descriptors: list[int]) -> int:
    """The pid of the child, or 0 if the fork fails: then the caller sees its pipe and its socket close."""
    try:
        pid = os.fork() or child(request, descriptors[:-1])  # in the child fork returns 0, and `child` never returns
    except OSError:
        pid = 0
    for descriptor in descriptors[:-1] if pid else descriptors:  # the caller's `life` stays open while the child lives
        os.close(descriptor)
    return pid


def end_all(running: dict[int, int]) -> None:
    for life, pid in running.items():
        end(life, pid)


def end(life: int, pid: int) -> None:
    """Kills a child and its group, waits for the child, and sends its exit status to the caller.

    Until this process has waited for the child, its pid cannot belong to another process.
    """
    for kill in (os.killpg, os.kill):  # the second works if the child has not made its group yet
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with socket.socket(fileno=life) as caller:
        try:
            caller.send(struct.pack("i", status), socket.MSG_DONTWAIT)
        except OSError:
            pass  # the caller no longer waits for it


def child(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """The forked child: confines itself, runs the program, writes the nonce if the program reached its end."""
    try:
        os.setsid()
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
        if confine.LINUX:
            confine.prctl(confine.PR_SET_PDEATHSIG, signal.SIGKILL)
        assert os.getppid() == request["server"], "the server has ended"
        code = os.read(0, os.fstat(0).st_size).decode()
        apply(request)
        os.closerange(len(descriptors), 1 << 20)
        execute(code)
        os.write(3, request["nonce"].encode())
        os._exit(0)
    except BaseException as error:
        if not isinstance(error, SystemExit):
            frames = error.__traceback__ and error.__traceback__.tb_next  # without the two frames of this file
            traceback.print_exception(error.with_traceback(frames and frames.tb_next), limit=-10)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(1)


def apply(request: dict[str, Any]) -> None:
    """Applies all layers that work on this machine. An error here ends the child before the program begins."""
    memory = request["base_bytes"] + (request["memory_mib"] << 20)
    steps: dict[str, Callable[[], object]] = {
        "rlimits": lambda: confine.limit_resources(memory, int(request["seconds"]) + 1, request["output_bytes"]),
        "capabilities": confine.drop_capabilities,
        "landlock": lambda: confine.landlock(confine.landlock_rules(LIBRARY)),
        "seccomp": lambda: confine.seccomp(confine.seccomp_filter()),
        "sandbox-exec": lambda: None,  # macOS: this process was started under it
    }
    for name in request["layers"]:
        steps[name]()


def execute(code: str) -> None:
    """Runs the program as `__main__`, with its own streams; its exceptions reach the caller."""
    for name, mode, descriptor in (("stdin", "r", 0), ("stdout", "w", 1), ("stderr", "w", 2)):
        setattr(sys, name, open(descriptor, mode, encoding="utf8", errors="surrogateescape", closefd=False))
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


PROOFS: dict[str, Callable[[], object]] = {  # layer → a test that is true if the layer forbids what it should
    "rlimits": lambda: refused(bytearray, 1 << 30),
    "capabilities": lambda: "CapEff:\t0000000000000000" in open("/proc/self/status", encoding="utf-8").read(),
    "landlock": lambda: refused(open, "/etc/passwd"),
    "seccomp": lambda: refused(socket.socket) and __import__("colorsys"),  # and imports still work
    "sandbox-exec": lambda: refused(open, "/etc/passwd"),
}


def probe(common: dict[str, Any]) -> dict[str, str]:
    """Layer → "" if it works here, otherwise why not: a child applies each layer, then tries a forbidden action."""
    request = common | {"memory_mib": 64, "seconds": 5, "output_bytes": 1 << 16}
    receive, send = os.pipe()
    if os.fork() == 0:
        problems = {}
        for name in confine.NAMES:
            try:
                apply(request | {"layers": [name]})
                problems[name] = "" if PROOFS[name]() else "it is on, but what it forbids is possible"
            except Exception as error:
                problems[name] = str(error)
        os.write(send, json.dumps(problems).encode())
        os._exit(0)
    os.close(send)
    os.wait()
    return dict(json.loads(os.read(receive, 1 << 16) or "{}"))


if __name__ == "__main__":
    sys.path.pop(0)
    serve()
