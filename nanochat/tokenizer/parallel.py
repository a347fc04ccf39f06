"""Work on documents by all cores: pieces of 256 Ki characters, results in order, few pieces in flight.

Threads are enough: the compiled loops let go of Python's lock. A piece and what is computed from it fit a core's cache.
"""
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nanochat.system import container

PIECE = 1 << 18  # characters


def num_threads() -> int:
    """This process's share of the cores, at most 16: beyond that Python's lock is the limit."""
    return min(16, container.share_of_cores())


def pieces(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in lists of at most 256 Ki characters; a longer text is alone in its list."""
    piece, size = [], 0
    for text in texts:
        if size + len(text) > PIECE and piece:
            yield piece
            piece, size = [], 0
        piece.append(text)
        size += len(text)
    if piece:
        yield piece


def in_order(work: Callable, items: Iterable) -> Iterator[Any]:
    """`map(work, items)` on all cores."""
    workers = num_threads()
    if workers == 1:
        yield from map(work, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
