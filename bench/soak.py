"""Rude clients, round after round: errors, lost answers, and memory that the server does not give back.

    python -m bench.serve --soak --seconds=120         # starts the server and its 200 clients

The clients ask, leave in the middle, hang up and send rubbish. After each round all of them go, and the server counts
what it still holds: Python's memory blocks, and the bytes in use of C's heap. Both are exact, while the resident memory
also contains what the allocators keep for later, and grows with the busiest moment so far. A server that warms up holds
more after its first rounds, and then no more. A server that forgets to free something holds more after every round.
"""
import asyncio
import contextlib
import ctypes
import gc
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import httpx

from nanochat.system import cli
from scripts import chat_web

REJECTED = {400, 404, 405, 413, 429}  # what rubbish may be answered
ROUNDS = 8
# A request that is kept costs more than this: it has a prompt, settings and events.
LEAKED_BLOCKS, LEAKED_BYTES = 2, 300
MIN_REQUESTS = 1000  # fewer say nothing: caches of a fixed size fill up meanwhile


class Held(NamedTuple):
    """What a server holds when nobody asks anything."""

    requests: int  # so far
    blocks: int  # of Python's allocator
    heap: int  # bytes that C programs such as PyTorch have allocated and not freed; 0 where nobody counts them
    resident: int  # bytes of the process


def leaks(held: list[Held]) -> list[str]:
    """What grows with the number of requests in the second half of the rounds.

    >>> leaks([Held(1000 * n, 5000 + min(n, 3) * 9000, 0, 0) for n in range(8)])
    []
    >>> leaks([Held(1000 * n, 5000 + n * 9000, 0, 0) for n in range(8)])
    ['9.0 blocks more with every request, from 32,000 to 68,000 in 4,000 requests']
    """
    later = held[len(held) // 2 - 1:]
    num_requests = later[-1].requests - later[0].requests
    found = []
    for name, limit in (("blocks", LEAKED_BLOCKS), ("heap", LEAKED_BYTES)):
        values = [getattr(one, name) for one in later]
        rate = (values[-1] - values[0]) / max(num_requests, 1)
        if num_requests >= MIN_REQUESTS and rate > limit and all(a < b for a, b in zip(values, values[1:])):
            unit = name.replace("heap", "bytes of the heap")
            found.append(f"{rate:.1f} {unit} more with every request, from {values[0]:,} to {values[-1]:,} in "
                         f"{num_requests:,} requests")
    return found


# ---------------------------------------------------------------- the server


def main() -> None:
    """scripts.chat_web, which also says at SIGUSR1 what it holds."""
    signal.signal(signal.SIGUSR1, lambda *_: print("holds", *count(), flush=True))
    chat_web.main()


def count() -> tuple[int, int, int]:
    """Blocks, heap and resident bytes of this process."""
    gc.collect()

    class Info(ctypes.Structure):  # struct mallinfo2 of glibc
        _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "mapped", "usmblks",
                                                         "fsmblks", "in_use", "free", "keepcost")]

    heap, libc = 0, ctypes.CDLL(None)
    with contextlib.suppress(AttributeError):  # not glibc, or an old one
        libc.mallinfo2.restype = Info
        info = libc.mallinfo2()
        heap = info.in_use + info.mapped
    resident = 0
    with contextlib.suppress(OSError):  # not Linux
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return sys.getallocatedblocks(), heap, resident


@contextlib.contextmanager
def served(*flags: str):
    """(address, process) of a chat server on the checkpoint in the folder in use."""
    command = [sys.executable, "-m", "bench.soak", "--device_type=cpu", "-p", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        # Warnings may stand in front of the line with the address.
        addresses = (re.search(r"http://[\w.:]+", line) for line in process.stdout)
        yield next(filter(None, addresses))[0], process
    finally:
        process.terminate()
        process.wait()


# ---------------------------------------------------------------- the clients


def question(draw: random.Random, tokens: int) -> dict:
    text = " ".join("".join(draw.choices("abcdefgh", k=4)) for _ in range(8))
    return {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "stream": True,
            "stream_options": {"include_usage": True}}


class Clients:
    """What rude clients do, what they were answered (`seen`), and what should not have been (`problems`)."""

    def __init__(self, http: httpx.AsyncClient, url: str):
        self.http, self.url = http, url
        self.seen: dict[str, int] = {}
        self.problems: list[str] = []

    def count(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1

    async def whole(self, draw: random.Random) -> None:
        body = {**question(draw, draw.randrange(1, 40)), "stream": False, "n": draw.choice([1, 1, 2])}
        response = await self.http.post(f"{self.url}/v1/chat/completions", json=body)
        self.count(f"whole {response.status_code}")
        if response.status_code not in (200, 429):
            self.problems.append(f"{response.status_code}: {response.text[:200]}")
        elif response.status_code == 200 and not response.json()["choices"][0]["finish_reason"]:
            self.problems.append("an answer without an end")
        if response.status_code == 429:
            await asyncio.sleep(draw.random())

    async def streamed(self, draw: random.Random) -> None:
        leaves = draw.random() < 0.4
        lines = []
        async with self.http.stream("POST", f"{self.url}/v1/chat/completions", json=question(draw, 40)) as response:
            async for line in response.aiter_lines():
                lines += [line] if line else []
                if leaves and len(lines) > draw.randrange(1, 20):
                    return self.count("left")
        self.count(f"stream {response.status_code}")
        if response.status_code == 200 and lines[-1] != "data: [DONE]" or any('"error"' in one for one in lines[:-1]):
            self.problems.append(f"a stream that ends in {lines[-2:]}")

    async def impatient(self, draw: random.Random) -> None:
        with contextlib.suppress(httpx.ReadTimeout):
            await self.http.post(f"{self.url}/v1/chat/completions", json={**question(draw, 200), "stream": False},
                                 timeout=httpx.Timeout(600, read=draw.random() / 5))
        self.count("hung up")

    async def rubbish(self, draw: random.Random) -> None:
        body = draw.choice([b"", b"{", b"[]", b'{"messages": 7}', draw.randbytes(200), b"[" + b" " * (5 << 20),
                            json.dumps({**question(draw, 1), "temperature": 9}).encode()])
        path = draw.choice(["/v1/chat/completions", "/v1/completions", "/nothing"])
        response = await self.http.post(self.url + path, content=body, headers={"content-type": "application/json"})
        self.count(f"rubbish {response.status_code}")
        if response.status_code not in REJECTED or "error" not in response.json():
            self.problems.append(f"rubbish was answered {response.status_code}: {response.text[:200]}")

    async def live(self, number: int, end: float) -> None:
        """One of them, until `end`."""
        draw = random.Random(number)
        while time.monotonic() < end:
            try:
                await draw.choices([self.whole, self.streamed, self.impatient, self.rubbish], [3, 4, 1, 1])[0](draw)
            except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
                self.count("closed by the server")  # while the client still wrote a body that is too long
            except Exception as error:
                self.problems.append(repr(error))


async def soak(url: str, process: subprocess.Popen, seconds: float, num_clients: int) -> dict:
    """Rounds of such clients; what they were answered, what was wrong, and what the server held after each round."""
    held: list[Held] = []
    limits = httpx.Limits(max_connections=None)
    for number in range(ROUNDS):
        async with httpx.AsyncClient(timeout=600, limits=limits) as http:
            if not number:
                clients = Clients(http, url)
            clients.http = http
            end = time.monotonic() + seconds / ROUNDS
            await asyncio.gather(*(clients.live(number * num_clients + i, end) for i in range(num_clients)))
            gauges = await until_quiet(http, url)
        process.send_signal(signal.SIGUSR1)
        counts = next(line for line in process.stdout if line.startswith("holds"))
        held.append(Held(sum(clients.seen.values()), *map(int, counts.split()[1:])))
    if gauges["open"] or gauges["running"]:
        clients.problems.append(f"requests are still open when all clients have gone: {gauges}")
    return {"seen": dict(sorted(clients.seen.items())), "problems": [*clients.problems[:20], *leaks(held)],
            "tokens": gauges["generated_tokens"], "blocks": [one.blocks for one in held],
            "heap_mib": [round(one.heap / 2**20, 1) for one in held],
            "resident_mib": [one.resident >> 20 for one in held]}


async def until_quiet(http: httpx.AsyncClient, url: str) -> dict[str, float]:
    """The server's gauges, once no request is open, or after five seconds."""
    for _ in range(50):
        gauges = read_gauges((await http.get(f"{url}/metrics")).text)
        if not gauges["open"] and not gauges["running"]:
            break
        await asyncio.sleep(0.1)
    return gauges


def read_gauges(metrics: str) -> dict[str, float]:
    """{"running": 0.0, "open": 0.0, …}: the numbers without labels of the server's /metrics."""
    return {name: float(value) for name, value in re.findall(r"^nanochat_(\w+) (\S+)$", metrics, re.MULTILINE)}


if __name__ == "__main__":
    cli.run(main)
