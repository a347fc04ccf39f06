"""Counting words: a hash table per thread; nothing else of the text is kept.

A word of up to 15 bytes is its own key: its bytes fill two 64-bit numbers, and the last byte is its length, so that
"ab" and "ab\\0" differ. Two such words are compared in two instructions. A longer word (1 % of English) has a hash as
its key; its bytes are in a store beside the table and are compared one by one. An entry of the table is 32 bytes (key,
key, count, index in the store), half a cache line.

Words are processed 32 at a time: all are hashed and their entries requested from memory, then all are looked up. So the
processor waits for 32 entries together instead of one after the other. The threads' tables are added at the end; counts
are sums, so their order has no effect.
"""
from collections.abc import Iterable
from queue import SimpleQueue

import numpy as np

from nanochat.system.jit import njit
from nanochat.tokenizer import parallel, split
from nanochat.tokenizer.intrinsics import prefetch

LONG = np.uint64(255 << 56)  # instead of a length: marks a key that is a hash
BATCH = 32  # words whose entries are requested together
# Multipliers of the hash: 2^64 / golden ratio, and a prime of xxHash. Both are odd, with about half of their bits set.
MIX_LOW, MIX_HIGH = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
# Masks by size: the bits that a word of this size (in bytes) fills in the low and in the high half of its key.
LOW_BYTES = np.array([(1 << 8 * min(size, 8)) - 1 for size in range(16)], np.uint64)
HIGH_BYTES = np.array([(1 << 8 * max(size - 8, 0)) - 1 for size in range(16)], np.uint64)


class WordCounts:
    """A hash table from words to counts. The tokens of a vocabulary with their ids fit into it as well (encode.py)."""

    def __init__(self) -> None:
        self.table = np.zeros((1 << 12, 4), np.uint64)
        self.store = np.empty(1 << 12, np.uint8)
        self.used = np.zeros(2, np.int64)  # entries of the table, bytes of the store

    def add(self, data: np.ndarray, starts: np.ndarray, weights: np.ndarray) -> None:
        """Counts the words of a buffer: weights[i] times the word at starts[i], or once if `weights` is empty."""
        # The table and the store grow before the loop, as if all words were new, so that the loop needs no test for
        # space. Separators have weight 0 and get no entry.
        entries = int(self.used[0] + (np.count_nonzero(weights) if len(weights) else len(starts)))
        if 2 * entries > len(self.table):  # when more than half is full, runs of occupied entries become long
            old, self.table = self.table, np.zeros((1 << (2 * entries).bit_length(), 4), np.uint64)
            _move(old, self.table)
        if self.used[1] + len(data) > len(self.store):
            self.store = np.concatenate([self.store, np.empty(len(self.store) + len(data), np.uint8)])
        _count(data, data.view(np.uint64), starts, weights, self.table, self.store, self.used)

    def export(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All words as (buffer, starts, weights) for `add`, except single bytes, which contain no pair."""
        sizes = self.table[:, 1] >> np.uint64(56)
        sizes = np.where(sizes == 255, self.table[:, 1] & ~LONG, sizes).astype(np.int64)
        entries = np.flatnonzero(sizes > 1)
        ends = np.cumsum(sizes[entries] + 1)
        length = int(ends[-1]) + 1 if len(ends) else 1
        # Words stand between 0xFF bytes, and the 0xFF after each word counts as a word of weight 0. The end is padded
        # because loops read whole blocks of 64 bytes (both as in split.py).
        data = np.full(length + 128 - length % 64, 255, np.uint8)
        starts = np.stack([ends - sizes[entries], ends], axis=1).astype(np.int32).ravel()
        weights = np.stack([self.table[entries, 2].astype(np.int64), np.zeros(len(ends), np.int64)], axis=1).ravel()
        _write_words(self.table, entries, sizes, starts, self.store, data)
        return data, starts, weights


def count_words(texts: Iterable[str], digits: int) -> WordCounts:
    """The words of all texts, counted on all cores."""
    # One table per thread: a thread takes a free one, so none has to wait for a lock.
    workers = [(split.Splitter(digits), WordCounts()) for _ in range(parallel.num_threads())]
    free: SimpleQueue[tuple[split.Splitter, WordCounts]] = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def count_piece(piece: list[str]) -> None:
        splitter, counts = worker = free.get()
        counts.add(*splitter.words(piece), np.empty(0, np.int64))
        free.put(worker)

    for _ in parallel.in_order(count_piece, parallel.pieces(texts)):
        pass  # the results are in the tables
    _, total = workers.pop()
    while workers:
        total.add(*workers.pop()[1].export())
    return total


@njit(nogil=True)
def load8(data64: np.ndarray, i: int) -> np.uint64:
    """Eight bytes from byte i on as a little-endian uint64."""
    # Of two aligned numbers. The second is shifted by 1 and then by 63 − shift: a shift by 64 (for 0) is undefined.
    shift = np.uint64(8 * (i & 7))
    return data64[i >> 3] >> shift | data64[(i >> 3) + 1] << np.uint64(1) << (np.uint64(63) - shift)


@njit(nogil=True)
def long_hash(data64: np.ndarray, i: int, size: int) -> np.uint64:
    """A 64-bit hash of all bytes of a word of eight bytes or more."""
    mixed = np.uint64(size)
    for k in range(i, i + size - 7, 8):
        mixed = (mixed ^ load8(data64, k)) * MIX_LOW
        mixed ^= mixed >> np.uint64(29)
    return (mixed ^ load8(data64, i + size - 8)) * MIX_HIGH  # the last eight bytes; some may be hashed already


@njit(nogil=True)
def slot_of(low: np.uint64, high: np.uint64, last: int) -> np.int64:
    """The index of a key in a table of `last` + 1 entries, a power of two. If it is taken, callers try the next."""
    return np.int64((low ^ high * MIX_HIGH) * MIX_LOW >> np.uint64(32)) & last


@njit(nogil=True)
def _count(data, data64, starts, weights, table, store, used):
    lows, highs, slots = np.empty(BATCH, np.uint64), np.empty(BATCH, np.uint64), np.empty(BATCH, np.int64)
    last, address = len(table) - 1, np.uint64(table.ctypes.data)
    for base in range(0, len(starts) - 1, BATCH):
        batch = min(BATCH, len(starts) - 1 - base)
        for k in range(batch):
            i = np.int64(starts[base + k])
            size = np.int64(starts[base + k + 1]) - i
            if size < 16:  # as in encode._find; a shared function would not be inlined, which is a fifth slower
                lows[k] = load8(data64, i) & LOW_BYTES[size]
                highs[k] = load8(data64, i + 8) & HIGH_BYTES[size] | np.uint64(size) << np.uint64(56)
            else:
                lows[k], highs[k] = long_hash(data64, i, size), LONG | np.uint64(size)
            slots[k] = slot_of(lows[k], highs[k], last)
            prefetch(address + np.uint64(32) * np.uint64(slots[k]))  # 32 bytes per entry
        for k in range(batch):
            i = np.int64(starts[base + k])
            if data[i] == 255:  # a separator
                continue
            # Written out here: in a function that takes all these arrays, counting took twice as long.
            slot, low, high = slots[k], lows[k], highs[k]
            while table[slot, 1] and (table[slot, 0] != low or table[slot, 1] != high or high >= LONG
                                      and not same_bytes(store, table[slot, 3], data, i, np.int64(high & ~LONG))):
                slot = (slot + 1) & last  # taken by another word: try the next entry
            if not table[slot, 1]:  # a new word
                table[slot, 0], table[slot, 1], table[slot, 3] = low, high, np.uint64(used[1])
                used[0] += 1
                used[1] += _keep_long(data, i, high, store, used[1])
            table[slot, 2] += np.uint64(weights[base + k]) if len(weights) else np.uint64(1)


@njit(nogil=True)
def _keep_long(data, i, high, store, end):
    """Appends the bytes of a long word to the store and returns their number; 0 for a short word."""
    size = np.int64(high & ~LONG) if high >= LONG else 0
    for k in range(size):
        store[end + k] = data[i + k]
    return size


@njit(nogil=True)
def same_bytes(store: np.ndarray, place: np.uint64, data: np.ndarray, i: int, size: int) -> bool:
    """Whether the bytes at `place` in the store are those of the long word at i."""
    for k in range(size):
        if store[np.int64(place) + k] != data[i + k]:
            return False
    return True


@njit(nogil=True)
def _move(old, table):
    """Puts all entries into a larger table."""
    last = len(table) - 1
    for entry in range(len(old)):
        if old[entry, 1]:
            slot = slot_of(old[entry, 0], old[entry, 1], last)
            while table[slot, 1]:
                slot = (slot + 1) & last
            for column in range(4):
                table[slot, column] = old[entry, column]


@njit(nogil=True)
def _write_words(table, entries, sizes, starts, store, data):
    """Writes the bytes of the words where `starts` says."""
    for n in range(len(entries)):
        entry = entries[n]
        start, size = starts[2 * n], sizes[entry]
        for k in range(size):
            if size < 16:
                data[start + k] = table[entry, k >> 3] >> np.uint64(8 * (k & 7)) & np.uint64(255)
            else:
                data[start + k] = store[np.int64(table[entry, 3]) + k]
