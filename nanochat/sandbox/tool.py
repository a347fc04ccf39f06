"""The chat's tool as an engine calls it: `calculate`, in a small process of its own.

The calculator is bounded by construction (calculator.py). Here stands the second wall: what the model wrote is parsed
where there is no model, no key and no conversation, behind the sandbox's locks where they hold, and an expression that
twice takes more than a second, or the process with it, is refused (once can be the machine, not the expression). A call
costs 20 to 120 µs, of which the calculator takes 7, the rest is waking a processor; the start, once, 60 ms.
"""

import atexit
import json
import os
import select
import subprocess
import sys
import threading

MEMORY_BYTES, SECONDS = 256 << 20, 1.0

if __name__ == "__main__":  # started by its path: this folder is importable, the package is not
    import locks
    from calculator import calculate

    MUCH = 1 << 30  # CPU seconds: it lives as long as its caller
    for lock in (lambda: locks.limit_resources(MEMORY_BYTES, MUCH, 0), locks.drop_capabilities,
                 lambda: locks.landlock(locks.landlock_rules(())), lambda: locks.seccomp(locks.seccomp_filter(False))):
        try:
            lock()
        except (OSError, ValueError, AttributeError):
            pass  # not on this machine: the calculator's own bounds remain
    sys.stdout.buffer.write(b"ready\n")
    sys.stdout.buffer.flush()
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(json.dumps(calculate(json.loads(line))).encode() + b"\n")
        sys.stdout.buffer.flush()
    os._exit(0)


def tool(expression: str) -> str | None:
    """The value of an expression as text, or None where it is refused. Many threads may call it."""
    global _process
    with _asking:
        for _ in range(2):
            if _process is None or _process.poll() is not None:
                _process = _start()
            try:
                os.write(_process.stdin.fileno(), json.dumps(expression[:10_000]).encode() + b"\n")
                in_time = select.select([_process.stdout], [], [], SECONDS)[0]
                if in_time and (line := _process.stdout.readline()):
                    return json.loads(line)
            except OSError:
                pass  # killed from outside
            _stop()
        return None


def _start() -> subprocess.Popen:
    command = [os.path.realpath(sys.executable), "-S", "-s", "-B", "-X", "utf8", __file__]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                               env={}, cwd="/", start_new_session=True)
    process.stdout.readline()  # "ready": starting is no part of a call's second
    return process


def _stop() -> None:
    global _process
    if _process is not None:
        _process.kill()
        _process.communicate()
    _process = None


def _forget() -> None:
    """In a forked copy of this process, which starts its own."""
    global _process, _asking
    if _process is not None:
        _process.stdin.close(), _process.stdout.close()
    _process, _asking = None, threading.Lock()


_process: subprocess.Popen | None = None
_forget()
atexit.register(_stop)
os.register_at_fork(after_in_child=_forget)
