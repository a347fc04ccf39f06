"""The fork server: a small clean interpreter that forks one locked child per program. Started by its path.

Starting Python costs 15 ms, forking a started one 1 ms. This process begins with an empty environment and knows nothing
worth stealing: no model, no keys, none of the trainer's memory. It imports what programs like to import, says on its
socket which locks hold here, and waits. A request is a JSON object with five descriptors:

    program   memory file: the code, then the program's stdin
    out, err  memory files: the program's stdout and stderr, capped by RLIMIT_FSIZE
    note      pipe: the child writes the nonce when the program has come to its end, and in no other case
    life      socket: when the caller hangs up, the child and its group are killed and buried, and the status sent back

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

if __name__ == "__main__":  # started by its path: this folder is importable, the package is not
    import confine

# Imported before the locks close: saves each program the time, and their shared libraries need not be readable.
# Not threading: what it does after a fork would cost each program 0.6 ms, and threads are refused.
PRELOADED = """abc array ast bisect bz2 calendar cmath collections contextlib copy dataclasses datetime decimal enum
    fractions functools hashlib heapq inspect io itertools json linecache lzma math numbers operator pprint random
    re secrets statistics string struct textwrap time typing unicodedata uuid warnings zlib""".split()
LIBRARY = (os.path.dirname(os.__file__), "/usr/share/zoneinfo")  # what a program may read


def serve() -> None:
    """Answers requests on descriptor 0 until the caller closes it; then ends every program."""
    control = socket.socket(fileno=os.dup(0))
    os.dup2(1, 0)  # /dev/null
    for name in PRELOADED:
        __import__(name)
    pages = int(open("/proc/self/statm", encoding="ascii").read().split()[0]) if confine.LINUX else 0
    always = {"base_bytes": pages * os.sysconf("SC_PAGE_SIZE"), "server": os.getpid()}
    found = probe(always)
    always["locks"] = [name for name, problem in found.items() if not problem and name != "capabilities"]
    if not found.get("capabilities", "not asked for"):  # the rest of this is done once, here, for all children
        confine.drop_capabilities()
    if "landlock" in always["locks"]:
        confine.landlock_rules(LIBRARY, "")
    if "seccomp" in always["locks"]:
        confine.seccomp_filter(False), confine.seccomp_filter(True)
    gc.freeze()  # a collection in a child must not touch, and so copy, every page
    control.sendall(json.dumps(found).encode() + b"\n")
    running: dict[int, int] = {}  # life → pid
    poll = select.poll()
    poll.register(control, select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd in running:
                poll.unregister(fd)
                end(fd, running.pop(fd))
                continue
            line, fds, *_ = socket.recv_fds(control, 1 << 16, 5)  # never two requests: descriptors end a message
            if not line:
                return [end(*pair) for pair in running.items()]
            if pid := start(json.loads(line) | always, fds):
                running[fds[-1]] = pid
                poll.register(fds[-1], select.POLLIN)


def start(request: dict, fds: list[int]) -> int:
    """The pid of the child, or 0 if there can be none: the caller sees its pipe and its socket close."""
    try:
        pid = os.fork() or child(request, fds[:-1])
    except OSError:
        pid = 0
    for fd in fds[:-1] if pid else fds:
        os.close(fd)
    return pid


def end(life: int, pid: int) -> None:
    """Kills a child and its group while the number is still its own, buries it, and tells the caller how it ended."""
    for kill in (os.killpg, os.kill):  # the second, if it has not got as far as a group
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
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
        if confine.LINUX:
            confine.prctl(confine.PR_SET_PDEATHSIG, signal.SIGKILL)
        assert os.getppid() == request["server"], "the server has ended"
        if request["folder"]:
            os.chdir(request["folder"])
        code = os.read(0, request["code_bytes"]).decode()
        lock(request)
        os.closerange(len(files), 1 << 20)
        execute(code)
        os.write(3, request["nonce"].encode())
        os._exit(0)
    except BaseException as error:
        if not isinstance(error, SystemExit):
            frames = error.__traceback__.tb_next  # without those of this file
            traceback.print_exception(error.with_traceback(frames and frames.tb_next), limit=-10)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(1)


def lock(request: dict) -> None:
    """Puts on all locks that hold on this machine. An error here ends the child before the program begins."""
    memory, folder = request["base_bytes"] + (request["memory_mib"] << 20), request["folder"]
    steps = {
        "rlimits": lambda: confine.limit_resources(memory, int(request["seconds"]) + 1, request["file_bytes"]),
        "capabilities": lambda: confine.drop_capabilities(),
        "landlock": lambda: confine.landlock(confine.landlock_rules(LIBRARY, folder)),
        "seccomp": lambda: confine.seccomp(confine.seccomp_filter(bool(folder))),
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


def refused(attempt, *values: object) -> bool:
    try:
        attempt(*values)
    except (OSError, MemoryError):
        return True
    return False


PROOFS = {
    "rlimits": lambda: refused(bytearray, 1 << 30),
    "capabilities": lambda: "CapEff:\t0000000000000000" in open("/proc/self/status", encoding="utf-8").read(),
    "landlock": lambda: refused(open, "/etc/passwd"),
    "seccomp": lambda: refused(socket.socket) and __import__("colorsys"),  # and importing goes on working
    "sandbox-exec": lambda: refused(open, "/etc/passwd"),
}


def probe(always: dict) -> dict[str, str]:
    """Lock → "" if it holds here, else why not: a child puts each on, then does what it forbids."""
    request = always | {"memory_mib": 64, "seconds": 5, "folder": "", "file_bytes": 1 << 16}
    receive, send = os.pipe()
    if os.fork() == 0:
        found = {}
        for name in confine.NAMES:
            try:
                lock(request | {"locks": [name]})
                found[name] = "" if PROOFS[name]() else "it is on, but what it forbids is possible"
            except Exception as error:
                found[name] = str(error)
        os.write(send, json.dumps(found).encode())
        os._exit(0)
    os.close(send)
    os.wait()
    return json.loads(os.read(receive, 1 << 16) or "{}")


if __name__ == "__main__":
    sys.path.pop(0)
    serve()
