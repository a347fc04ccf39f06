"""Counting words: a hash table per thread, and nothing else is kept of the text.

A word of up to 15 bytes is its own key: two 64-bit numbers, its length in the last byte. A longer one (1 % of English)
has its hash as key and its bytes in a store beside the table, and is compared byte by byte. An entry is 32 bytes (key,
key, count, place in the store), half a cache line. Words are hashed 32 at a time and their entries asked for before any
is looked up, so that the processor waits for 32 entries at once. The order in which threads count cannot matter: counts
are sums.
"""
from collections.abc import Iterable
from queue import SimpleQueue

import numpy as np
from numba import njit

from nanochat.tokenizer import parallel, split
from nanochat.tokenizer.intrinsics import prefetch

LONG = np.uint64(255 << 56)  # instead of a length: the key is a hash
BATCH = 32
MIX_LOW, MIX_HIGH = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # odd, half of their bits set
LOW_BYTES = np.array([(1 << 8 * min(size, 8)) - 1 for size in range(16)], np.uint64)
HIGH_BYTES = np.array([(1 << 8 * max(size - 8, 0)) - 1 for size in range(16)], np.uint64)


class WordCounts:
    """Words and how often each was added."""

    def __init__(self) -> None:
        self.table = np.zeros((1 << 12, 4), np.uint64)
        self.store = np.empty(1 << 12, np.uint8)
        self.used = np.zeros(2, np.int64)  # entries, bytes in the store

    def add(self, data: np.ndarray, starts: np.ndarray, weights: np.ndarray) -> None:
        """Counts the words of a buffer; weights[i] for the one at starts[i], or 1 each if there are none."""
        entries = int(self.used[0] + (np.count_nonzero(weights) if len(weights) else len(starts)))  # if all were new
        if 2 * entries > len(self.table):
            old, self.table = self.table, np.zeros((1 << (2 * entries).bit_length(), 4), np.uint64)
            _move(old, self.table)
        if self.used[1] + len(data) > len(self.store):
            self.store = np.concatenate([self.store, np.empty(len(self.store) + len(data), np.uint8)])
        _count(data, data.view(np.uint64), starts, weights, self.table, self.store, self.used)

    def export(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """All words of two bytes or more as (buffer, starts, weights), ready to be added elsewhere."""
        sizes = self.table[:, 1] >> np.uint64(56)
        sizes = np.where(sizes == 255, self.table[:, 1] & ~LONG, sizes).astype(np.int64)
        entries = np.flatnonzero(sizes > 1)
        ends = np.cumsum(sizes[entries] + 1)
        length = int(ends[-1]) + 1 if len(ends) else 1
        data = np.full(length + 128 - length % 64, 255, np.uint8)
        starts = np.stack([ends - sizes[entries], ends], axis=1).astype(np.int32).ravel()
        weights = np.stack([self.table[entries, 2].astype(np.int64), np.zeros(len(ends), np.int64)], axis=1).ravel()
        _spell(self.table, entries, sizes, starts, self.store, data)
        return data, starts, weights


def count_words(texts: Iterable[str], digits: int) -> WordCounts:
    """The words of all texts, counted by all cores."""
    workers = [(split.Scanner(digits), WordCounts()) for _ in range(parallel.num_threads())]
    free: SimpleQueue = SimpleQueue()
    for worker in workers:
        free.put(worker)

    def count(piece: list[str]) -> None:
        scanner, counts = worker = free.get()
        counts.add(*scanner.words(piece), np.empty(0, np.int64))
        free.put(worker)

    for _ in parallel.in_order(count, parallel.pieces(texts)):
        pass
    _, total = workers.pop()
    while workers:
        total.add(*workers.pop()[1].export())
    return total


@njit(nogil=True, cache=True)
def load8(data64, i):
    """Eight bytes from byte i on as a little-endian uint64."""
    shift = np.uint64(8 * (i & 7))
    return data64[i >> 3] >> shift | data64[(i >> 3) + 1] << np.uint64(1) << (np.uint64(63) - shift)


@njit(nogil=True, cache=True)
def long_hash(data64, i, size):
    """64 bits that depend on all bytes of a word of eight bytes or more."""
    mixed = np.uint64(size)
    for k in range(i, i + size - 7, 8):
        mixed = (mixed ^ load8(data64, k)) * MIX_LOW
        mixed ^= mixed >> np.uint64(29)
    return (mixed ^ load8(data64, i + size - 8)) * MIX_HIGH


@njit(nogil=True, cache=True)
def slot_of(low, high, last):
    """Where a key belongs in a table of `last` + 1 entries, a power of two."""
    return np.int64((low ^ high * MIX_HIGH) * MIX_LOW >> np.uint64(32)) & last


@njit(nogil=True, cache=True)
def _count(data, data64, starts, weights, table, store, used):
    lows, highs, slots = np.empty(BATCH, np.uint64), np.empty(BATCH, np.uint64), np.empty(BATCH, np.int64)
    last, address = len(table) - 1, np.uint64(table.ctypes.data)
    for base in range(0, len(starts) - 1, BATCH):
        batch = min(BATCH, len(starts) - 1 - base)
        for k in range(batch):
            i, size = np.int64(starts[base + k]), np.int64(starts[base + k + 1] - starts[base + k])
            if size < 16:
                lows[k] = load8(data64, i) & LOW_BYTES[size]
                highs[k] = load8(data64, i + 8) & HIGH_BYTES[size] | np.uint64(size) << np.uint64(56)
            else:
                lows[k], highs[k] = long_hash(data64, i, size), LONG | np.uint64(size)
            slots[k] = slot_of(lows[k], highs[k], last)
            prefetch(address + np.uint64(32) * np.uint64(slots[k]))
        for k in range(batch):
            i = np.int64(starts[base + k])
            if data[i] == 255:
                continue
            slot = slots[k]
            low, high = lows[k], highs[k]
            while table[slot, 1] and (table[slot, 0] != low or table[slot, 1] != high or high >= LONG
                                      and not same_bytes(store, table[slot, 3], data, i, np.int64(high & ~LONG))):
                slot = (slot + 1) & last
            if not table[slot, 1]:
                table[slot, 0], table[slot, 1], table[slot, 3] = low, high, np.uint64(used[1])
                used[0] += 1
                if high >= LONG:
                    for at in range(i, starts[base + k + 1]):
                        store[used[1]] = data[at]
                        used[1] += 1
            table[slot, 2] += np.uint64(weights[base + k]) if len(weights) else np.uint64(1)


@njit(nogil=True, cache=True)
def same_bytes(store, place, data, i, size):
    """Whether the bytes at `place` in the store are those of the long word at i."""
    for k in range(size):
        if store[np.int64(place) + k] != data[i + k]:
            return False
    return True


@njit(nogil=True, cache=True)
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


@njit(nogil=True, cache=True)
def _spell(table, entries, sizes, starts, store, data):
    """Writes the bytes of the words where `starts` says."""
    for n in range(len(entries)):
        entry = entries[n]
        start, size = starts[2 * n], sizes[entry]
        for k in range(size):
            if size < 16:
                data[start + k] = table[entry, k >> 3] >> np.uint64(8 * (k & 7)) & np.uint64(255)
            else:
                data[start + k] = store[np.int64(table[entry, 3]) + k]
