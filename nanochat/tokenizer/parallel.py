"""Work on documents on all cores: in pieces of 256 Ki characters, with the results in order.

Threads are enough, because the compiled loops release Python's lock. Few pieces are in flight at a time, so that the
memory stays small, and a piece with its results fits into a core's cache.
"""
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from nanochat.system import container

PIECE = 1 << 18  # characters in one unit of work


def num_threads() -> int:
    """This process's share of the cores, but at most 16: more threads wait for Python's lock."""
    return min(16, container.share_of_cores())


def pieces(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts in lists of at most 256 Ki characters; a longer text has a list of its own."""
    piece: list[str] = []
    size = 0
    for text in texts:
        if size + len(text) > PIECE and piece:  # a single text is never cut: its words could change
            yield piece
            piece, size = [], 0
        piece.append(text)
        size += len(text)
    if piece:
        yield piece


def in_order(work: Callable[[Any], Any], items: Iterable[Any]) -> Iterator[Any]:
    """`map(work, items)` on all cores, in order; at most 2 · threads + 1 results exist at a time."""
    workers = num_threads()
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[Any]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * workers:  # enough work for every thread while the caller uses the oldest result
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
