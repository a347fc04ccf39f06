"""Run a Python program that a model wrote, in a child process of its own.

Success is a nonce that the harness writes to a private pipe after the program has returned, never the exit code.
"""

import os
import secrets
import selectors
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

MAX_OUTPUT = 1 << 20  # bytes of stdout and stderr together; more ends the program

HARNESS = """
import os, resource, sys
memory, seconds, size = map(int, sys.argv[1:4])
for kind, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_FSIZE, 0),
                    (resource.RLIMIT_NOFILE, 64), (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(kind, (value, value))
def main():
    import os
    with open(3, "rb") as pipe:
        nonce, code = pipe.read(32), pipe.read().decode()
    exec(compile(code, "<program>", "exec"), {"__name__": "__main__"})
    os.write(4, nonce)
main()
"""


@dataclass(frozen=True)
class Result:
    """What became of a program. `ok`: it ran to its end; `reason`: "" or one line that says why not."""

    ok: bool
    stdout: str
    stderr: str
    reason: str
    seconds: float


def run(code: str, *, stdin: str = "", seconds: float = 5, memory_mib: int = 256, files: bool = False) -> Result:
    """Run `code` for at most `seconds` of wall clock and `memory_mib` of memory; `files` gives it a folder to write to."""
    started, nonce = time.monotonic(), secrets.token_hex(16).encode()
    inputs, outputs = os.pipe(), os.pipe()
    command = [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", HARNESS, str((memory_mib + 256) << 20), str(int(seconds) + 1), "0"]
    child = subprocess.Popen(
        ["/bin/sh", "-c", f'exec "$@" 3<&{inputs[0]} 4>&{outputs[1]}', "sh", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}, start_new_session=True, cwd="/",
        pass_fds=(inputs[0], outputs[1]))
    os.close(inputs[0])
    os.close(outputs[1])
    feeds = {inputs[1]: nonce + code.encode("utf8", "surrogatepass"), child.stdin.fileno(): stdin.encode("utf8", "replace")}
    try:
        out, err, note, reason = _talk(child, feeds, outputs[0], started + seconds)
    finally:
        try:
            os.killpg(child.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        child.wait()
        child.stdout.close()
        child.stderr.close()
        os.close(outputs[0])
    ok = not reason and note == nonce
    if not ok and not reason:
        reason = err.strip().splitlines()[-1] if err.strip() else "the program ended before its last line"
    return Result(ok, out, err, "" if ok else reason, time.monotonic() - started)


def _talk(child, feeds, note_fd, deadline):
    """Feed and read the child until it ends: (stdout, stderr, nonce, reason)."""
    chunks = {child.stdout.fileno(): b"", child.stderr.fileno(): b"", note_fd: b""}
    watch = selectors.DefaultSelector()
    for fd in feeds:
        os.set_blocking(fd, False)
        watch.register(fd, selectors.EVENT_WRITE)
    for fd in chunks:
        watch.register(fd, selectors.EVENT_READ)
    reason = ""
    while not reason and child.poll() is None:
        for key, _ in watch.select(0.01):
            if key.fd in feeds:
                try:
                    feeds[key.fd] = feeds[key.fd][os.write(key.fd, feeds[key.fd][:65536]):]
                except BrokenPipeError:
                    feeds[key.fd] = b""
                if not feeds[key.fd]:
                    watch.unregister(key.fd)
                    os.close(key.fd) if key.fd != child.stdin.fileno() else child.stdin.close()
                    del feeds[key.fd]
            else:
                data = os.read(key.fd, 65536)
                chunks[key.fd] += data
                if not data:
                    watch.unregister(key.fd)
        if sum(map(len, chunks.values())) > MAX_OUTPUT:
            reason = f"more than {MAX_OUTPUT:,} bytes of output"
        elif time.monotonic() > deadline:
            reason = "time limit"
    for fd in chunks:
        os.set_blocking(fd, False)
        try:
            chunks[fd] += os.read(fd, MAX_OUTPUT)
        except BlockingIOError:
            pass
    watch.close()
    for fd in feeds:
        os.close(fd) if fd != child.stdin.fileno() else child.stdin.close()
    out, err, note = (chunks[fd] for fd in (child.stdout.fileno(), child.stderr.fileno(), note_fd))
    return out.decode("utf8", "replace"), err.decode("utf8", "replace"), note, reason
