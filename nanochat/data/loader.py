"""Batches from a corpus: the same on any number of ranks, and resumable from three integers.

A corpus is a sequence of groups of documents. Each group is packed into rows by itself; (seed, epoch, group) alone
determine how, so the rows differ in every epoch (packing.py says why). The position in the stream is (epoch, group,
row), and nothing else has to be saved to resume. All ranks read the same stream: of every N micro-batches rank r keeps
the r-th. Therefore one rank that accumulates N micro-batches sees the same rows as N ranks.
"""
import itertools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from nanochat.data import shards
from nanochat.data.packing import Batch, Document, Rows, pack, to_batch
from nanochat.system.files import UserError
from nanochat.system.numbers import ceil_div

START = {"epoch": 0, "group": 0, "row": 0}  # the position in the stream
PackingKey = tuple[int, int, int]  # (seed, epoch, group): determines how a group is packed
T = TypeVar("T")
_work: tuple["Corpus", int, int]  # in a worker process: the corpus, the length of a row, the id of <|bos|>


class Corpus(Protocol):
    """Groups of documents, as token ids with masks."""

    def num_groups(self) -> int: ...

    def group(self, index: int) -> list[Document]: ...


class Encoder(Protocol):
    """The part of a tokenizer that a corpus of text needs: this room must not import tokenizer/ (docs/design.md)."""

    @property
    def bos_id(self) -> int: ...

    def encode_batch(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]: ...


class TextCorpus:
    """Text in parquet shards. A group is a slice of at most 1,024 documents; every token may be a target."""

    def __init__(self, paths: Sequence[Path], tokenizer: Encoder):
        self.tokenizer, self.reader = tokenizer, shards.Reader()
        self.slices = [place for path in paths for place in shards.places(path)]

    def num_groups(self) -> int:
        return len(self.slices)

    def group(self, index: int) -> list[Document]:
        ids, offsets = self.tokenizer.encode_batch(self.reader.read(*self.slices[index]))
        ids = np.insert(ids, offsets[:-1], self.tokenizer.bos_id)
        starts = offsets + np.arange(len(offsets))  # each earlier document has got a <|bos|>
        mask = np.ones(len(ids), dtype=bool)
        return [(ids[start:end], mask[start:end]) for start, end in zip(starts[:-1], starts[1:])]


class ListCorpus:
    """Documents that are token ids already (conversations), cut into groups in their order."""

    def __init__(self, documents: Sequence[Document], group_size: int = shards.DOCUMENTS_PER_GROUP):
        self.documents, self.group_size = documents, group_size

    def num_groups(self) -> int:
        return ceil_div(len(self.documents), self.group_size)

    def group(self, index: int) -> list[Document]:
        return list(self.documents[index * self.group_size:(index + 1) * self.group_size])


def batches(corpus: Corpus, rows: int, sequence_len: int, bos_id: int, *, seed: int = 0, rank: int = 0,
            world_size: int = 1, state: dict[str, int] | None = None, epochs: int | None = None,
            workers: int = 0) -> Iterator[Batch]:
    """Micro-batches of `rows` rows of `sequence_len` tokens; endless, or `epochs` passes. With `workers` > 0 this many
    processes tokenise and pack groups ahead; the batches are the same.

    A batch may mix rows of two groups or two epochs, so only the last batch of the last epoch can be short; the last
    ranks may then get no batch. UserError if a whole epoch has no row.
    """
    at, num_groups = state or START, corpus.num_groups()
    no_row = UserError(f"the training data has no row with a target at --max_seq_len={sequence_len}; "
                       "give longer rows or other data")
    if not num_groups:
        raise no_row
    waiting: list[tuple[np.ndarray, np.ndarray]] = []  # (ids, mask) of rows that wait for their batch
    first_row = at["row"]
    has_rows = at["group"] > 0 or first_row > 0  # after a resume the rest of the epoch may be empty: no error
    packings = _packings(num_groups, at, epochs, seed)
    for (_, epoch, group), (ids, mask) in _packed(corpus, sequence_len + 1, bos_id, packings, workers):
        for row in range(first_row, len(ids)):
            has_rows = True
            waiting.append((ids[row], mask[row]))
            if len(waiting) == rows * world_size:
                yield _batch(waiting[rank * rows:(rank + 1) * rows], epoch, group, row + 1)
                waiting = []
        first_row = 0
        if group == num_groups - 1:
            if not has_rows:
                raise no_row
            has_rows = False
    if rest := waiting[rank * rows:(rank + 1) * rows]:
        yield _batch(rest, epoch + 1, 0, 0)


def _batch(rows: list[tuple[np.ndarray, np.ndarray]], epoch: int, group: int, row: int) -> Batch:
    """A batch of these rows; (epoch, group, row) is the position after it."""
    ids, mask = (np.stack(column) for column in zip(*rows, strict=True))
    return to_batch(ids, mask, {"epoch": epoch, "group": group, "row": row})


def _packings(num_groups: int, at: dict[str, int], epochs: int | None, seed: int) -> Iterator[PackingKey]:
    first = at["group"]
    for epoch in itertools.count(at["epoch"]) if epochs is None else range(at["epoch"], epochs):
        yield from ((seed, epoch, group) for group in range(first, num_groups))
        first = 0


def _packed(corpus: Corpus, row_len: int, bos_id: int, packings: Iterator[PackingKey],
            workers: int) -> Iterator[tuple[PackingKey, Rows]]:
    """The rows of each of `packings`, in order; each worker is at most two groups ahead."""
    if not workers:
        yield from ((packing, _pack_group(corpus, row_len, bos_id, packing)) for packing in packings)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy CUDA's state, and locks that threads hold
    pool = ProcessPoolExecutor(workers, context, _start_worker, (corpus, row_len, bos_id))
    try:
        ahead = deque((packing, pool.submit(_pack_in_worker, packing)) for packing in islice(packings, 2 * workers))
        while ahead:
            packing, future = ahead.popleft()
            rows = future.result()
            ahead.extend((packing, pool.submit(_pack_in_worker, packing)) for packing in islice(packings, 1))
            yield packing, rows
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(corpus: Corpus, row_len: int, bos_id: int) -> None:
    """Ignores Ctrl-C, which the trainer handles. The worker ends when the trainer ends, even if it is killed."""
    global _work
    _work = corpus, row_len, bos_id
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends Ctrl-C to all processes of the command
    threading.Thread(target=_end_with_the_trainer, daemon=True).start()


def _end_with_the_trainer() -> None:
    if trainer := multiprocessing.parent_process():
        trainer.join()
        os._exit(1)  # without waiting for the main thread, which may be packing a group


def _pack_in_worker(packing: PackingKey) -> Rows:
    return _pack_group(*_work, packing)


def _pack_group(corpus: Corpus, row_len: int, bos_id: int, packing: PackingKey) -> Rows:
    return pack(corpus.group(packing[-1]), row_len, bos_id, np.random.default_rng(packing))


def prefetched(items: Iterator[T], depth: int = 4) -> Iterator[T]:
    """The same items; a thread makes at most `depth` of them ahead. An error is raised when its item is requested."""
    end = object()
    # A pool waits for its thread when Python ends: a thread that still runs PyTorch then would abort the process.
    pool = ThreadPoolExecutor(1, "prefetch")
    try:
        ahead: deque[Future[Any]] = deque(pool.submit(next, items, end) for _ in range(depth))
        while (item := ahead.popleft().result()) is not end:
            ahead.append(pool.submit(next, items, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
