"""Batches from a corpus, the same on any number of ranks, and resumable from three integers.

A corpus is a sequence of groups of documents. A group is packed into rows on its own and its rows are shuffled by
(seed, epoch, group), so the place in the stream is (epoch, group, row) and nothing else has to be saved. All ranks walk
the same stream: of every N micro-batches rank r keeps the r-th, so one rank that accumulates N micro-batches sees what
N ranks see.
"""
import atexit
import multiprocessing
import os
import queue
import signal
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np

from nanochat.data import shards
from nanochat.data.packing import Batch, Document, pack, to_batch
from nanochat.system.files import UserError

START = {"epoch": 0, "group": 0, "row": 0}


class Corpus(Protocol):
    """Groups of documents, as token ids with masks."""

    def num_groups(self) -> int: ...

    def group(self, index: int) -> list[Document]: ...


class TextCorpus:
    """Slices of at most 1,024 documents of parquet shards; every token is a target."""

    def __init__(self, paths: Sequence[Path], tokenizer):
        self.tokenizer, self.reader = tokenizer, shards.Reader()
        self.places = [place for path in paths for place in shards.places(path)]

    def num_groups(self) -> int:
        return len(self.places)

    def group(self, index: int) -> list[Document]:
        ids, offsets = self.tokenizer.encode_batch(self.reader.read(*self.places[index]))
        ids = np.insert(ids, offsets[:-1], self.tokenizer.bos_id)
        starts = offsets + np.arange(len(offsets))  # each document before this one has grown by its <|bos|>
        every = np.ones(len(ids), dtype=bool)
        return [(ids[start:end], every[start:end]) for start, end in zip(starts[:-1], starts[1:])]


class ListCorpus:
    """Documents already rendered (conversations), in the order given, cut into groups."""

    def __init__(self, documents: Sequence[Document], group_size: int = shards.DOCUMENTS_PER_GROUP):
        self.documents, self.group_size = documents, group_size

    def num_groups(self) -> int:
        return -(-len(self.documents) // self.group_size)

    def group(self, index: int) -> list[Document]:
        return list(self.documents[index * self.group_size:(index + 1) * self.group_size])


def batches(corpus: Corpus, rows: int, sequence_len: int, bos_id: int, *, seed: int = 0, rank: int = 0,
            world_size: int = 1, state: dict[str, int] | None = None, epochs: int | None = None,
            workers: int = 0) -> Iterator[Batch]:
    """Micro-batches of `rows` rows of `sequence_len` tokens; endless, or `epochs` passes. `workers` processes tokenise
    and pack groups ahead; 0 = the caller does. The batches are the same.

    Rows flow over the borders of groups and epochs, so only the very last batch can be short; then there may be none
    for the last ranks. UserError where a whole epoch has no row.
    """
    at = dict(state or START)
    held: list[np.ndarray] = []  # rows (row_len, 2) waiting for their batch
    packed = _packed(corpus, sequence_len + 1, bos_id, _groups(corpus, at, epochs), workers)
    for epoch in _count(at["epoch"], epochs):
        empty = at["group"] == at["row"] == 0  # of a resumed epoch the rows may all have been seen
        for group in range(at["group"], corpus.num_groups()):
            ids, mask = next(packed)
            order = np.random.default_rng((seed, epoch, group)).permutation(len(ids))
            for row in range(at["row"], len(ids)):
                empty = False
                held.append((ids[order[row]], mask[order[row]]))
                if len(held) == rows * world_size:
                    mine = held[rank * rows:(rank + 1) * rows]
                    yield _batch(mine, {"epoch": epoch, "group": group, "row": row + 1})
                    held = []
            at["row"] = 0
        if empty:
            raise UserError(f"the training data has no row with a target at --max_seq_len={sequence_len}; "
                            "give longer rows or other data")
        at["group"] = 0
    if mine := held[rank * rows:(rank + 1) * rows]:
        yield _batch(mine, {"epoch": epoch + 1, "group": 0, "row": 0})


def _count(first: int, epochs: int | None) -> Iterator[int]:
    while epochs is None or first < epochs:
        yield first
        first += 1


def _groups(corpus: Corpus, at: dict[str, int], epochs: int | None) -> Iterator[int]:
    """The groups in the order in which `batches` asks for them."""
    for epoch in _count(at["epoch"], epochs):
        yield from range(at["group"] if epoch == at["epoch"] else 0, corpus.num_groups())


def _packed(corpus: Corpus, row_len: int, bos_id: int, groups: Iterator[int],
            workers: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What `pack` makes of each of `groups`, in order; at most two groups a worker are ahead."""
    if not workers:
        yield from (pack(corpus.group(group), row_len, bos_id) for group in groups)
        return
    context = multiprocessing.get_context("spawn")  # a fork would take CUDA's and other threads' state along
    pool = ProcessPoolExecutor(workers, context, _start_worker, (corpus, row_len, bos_id))
    try:
        ahead = deque(pool.submit(_pack_group, group) for group in islice(groups, 2 * workers))
        while ahead:
            packed = ahead.popleft().result()
            ahead.extend(pool.submit(_pack_group, group) for group in islice(groups, 1))
            yield packed
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(*corpus_row_len_bos: object) -> None:
    """Ctrl-C is the trainer's to handle; a worker ends with the trainer, also when that is killed."""
    global _work
    _work = corpus_row_len_bos
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    trainer = multiprocessing.parent_process()
    threading.Thread(target=lambda: (trainer.join(), os._exit(1)), daemon=True).start()


def _pack_group(group: int) -> tuple[np.ndarray, np.ndarray]:
    corpus, row_len, bos_id = _work
    return pack(corpus.group(group), row_len, bos_id)


def _batch(held: list[tuple[np.ndarray, np.ndarray]], state: dict[str, int]) -> Batch:
    return to_batch(np.stack([ids for ids, _ in held]), np.stack([mask for _, mask in held]), state)


def prefetched(items: Iterator, depth: int = 4) -> Iterator:
    """The same items, made ahead by a thread; an exception in it is raised here, at its place."""
    ready: queue.Queue = queue.Queue(depth)
    stop = threading.Event()

    def put(item: object) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def fill() -> None:
        try:
            for item in items:
                put((item, None))
                if stop.is_set():
                    return
            put((None, StopIteration()))
        except Exception as error:  # handed to the consumer, who raises it
            put((None, error))

    def close() -> None:
        stop.set()
        thread.join(5)

    thread = threading.Thread(target=fill, daemon=True, name="prefetch")
    atexit.register(close)  # a thread that is inside of PyTorch when Python ends aborts the process
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item
    finally:
        close()
        atexit.unregister(close)
