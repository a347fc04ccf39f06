"""Words to ids: nearly every word was seen before, so look it up; if not, merge it by a table of pairs.

- The vocabulary is a table from bytes to id, the same kind that counts words in training (`count.WordCounts`).
- The pair table maps (left id, right id) → id for *every* way to make a token out of two. So the rule is tiktoken's: a word
  that is a token is that token; otherwise the neighbours that make the lowest id are joined, the leftmost first.
- A cache of words with their ids. It has a fixed size: a new word takes the first of two places, what was there moves to
  the second, and what was there is forgotten. Word, ids and the other place are one cache line.
- Words of more than 48 bytes go through a heap, so that a megabyte of "a" takes n log n steps and not n².
"""
import heapq
from collections.abc import Iterable
from queue import SimpleQueue

import numpy as np
from numba import njit

from nanochat.tokenizer import parallel, scan
from nanochat.tokenizer.count import (BATCH, HIGH_BYTES, LONG, LOW_BYTES, WordCounts, load8, long_hash, same_bytes, slot_of,
                                      table_shift)
from nanochat.tokenizer.machine import prefetch

NO_TOKEN = (1 << 21) - 1  # ids take 21 bits: three fit a 64-bit number, a pair and its token as well
ID_BITS = np.uint64(NO_TOKEN)
CACHED_WORDS = 1 << 18
MOST_CACHED_IDS = 6
LONG_WORD = 48


class Encoder:
    """Texts to ids with the given tokens; may be used by several threads."""

    def __init__(self, tokens: list[bytes], digits: int):
        assert len(tokens) < NO_TOKEN, f"{len(tokens)} tokens, at most {NO_TOKEN - 1} are possible"
        self.digits = digits
        self._vocabulary = WordCounts()
        data, _ = scan.buffer(tokens)
        starts = np.cumsum([0] + [size for token in tokens for size in (1, len(token))], dtype=np.int32)
        weights = np.stack([np.zeros(len(tokens), np.int64), np.arange(1, len(tokens) + 1)], axis=1).ravel()
        self._vocabulary.add(data, starts, np.append(weights, 0))  # a token's count is its id + 1
        found = _all_pairs(data, data.view(np.uint64), starts, self._vocabulary.table, self._vocabulary.store)
        self._pairs = np.zeros(1 << (2 * len(found)).bit_length(), np.uint64)
        _fill(self._pairs, found)
        self._idle: SimpleQueue = SimpleQueue()  # (scanner, cache) of threads that are done

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """All ids, int32, and where the ids of each text end, int64."""
        scanner, cache = worker = self._worker()
        data, starts = scanner.words(texts)
        ids, ends = np.empty(len(data), np.int32), np.empty(len(texts) + 1, np.int64)
        _encode(data, data.view(np.uint64), starts, self._vocabulary.table, self._vocabulary.store, self._pairs, cache,
                ids, ends)
        self._idle.put(worker)
        return ids[:ends[-1]], ends[1:]

    def _worker(self) -> tuple[scan.Scanner, np.ndarray]:
        if self._idle.empty():
            return scan.Scanner(self.digits), np.zeros((CACHED_WORDS, 4), np.uint64)
        return self._idle.get()

    def encode_batch(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """All ids, int32, and offsets, int64: text i has ids[offsets[i]:offsets[i + 1]]. On all cores."""
        ids, offsets, total = [], [np.zeros(1, np.int64)], 0
        for piece_ids, ends in parallel.in_order(self.encode, parallel.pieces(texts)):
            ids.append(piece_ids.copy())  # the copy has the size of the ids, the original that of the text
            offsets.append(ends + total)
            total += len(piece_ids)
        return np.concatenate([np.empty(0, np.int32), *ids]), np.concatenate(offsets)


@njit(nogil=True, cache=True)
def _encode(data, data64, starts, vocabulary, store, pairs, cache, ids, ends):
    """Fills `ids`, and `ends` with their number at each 0xFF."""
    lows, highs, slots = np.empty(BATCH, np.uint64), np.empty(BATCH, np.uint64), np.empty(BATCH, np.int64)
    shift, address = table_shift(cache), np.uint64(cache.ctypes.data)
    ranks, shifts = np.empty(LONG_WORD, np.int64), (table_shift(vocabulary), table_shift(pairs))
    found = text = 0
    for base in range(0, len(starts), BATCH):
        batch = min(BATCH, len(starts) - base)
        for k in range(batch):
            i = np.int64(starts[base + k])
            size = starts[base + k + 1] - i if base + k + 1 < len(starts) else 1
            lows[k], highs[k] = load8(data64, i) & LOW_BYTES[min(size, 15)], load8(data64, i + 8)
            if size < 16:
                highs[k] = highs[k] & HIGH_BYTES[size] | np.uint64(size) << np.uint64(56)
            slots[k] = slot_of(lows[k], highs[k], shift)
            prefetch(address + np.uint64(32) * np.uint64(slots[k]))
        for k in range(batch):
            i = np.int64(starts[base + k])
            if data[i] == 255:
                ends[text] = found
                text += 1
                continue
            size, slot, low, high = starts[base + k + 1] - i, slots[k], lows[k], highs[k]
            if size < 16:
                hit = slot if cache[slot, 0] == low and cache[slot, 1] == high else slot ^ 1
                known = cache[hit, 0] == low and cache[hit, 1] == high
            else:
                slot &= ~1
                hit = slot + 1
                third, fourth = load8(data64, i + 16) & LOW_BYTES[min(size - 16, 8)], _last_bytes(data64, i, size)
                known = (cache[slot, 1] == LONG | np.uint64(size) and cache[hit, 1] == LONG and cache[slot, 0] == low
                         and cache[slot, 2] == high and cache[slot, 3] == third and cache[hit, 0] == fourth)
            if known:
                for column in range(2, 4):
                    three = cache[hit, column]
                    while three:  # ids + 1, the first in the lowest bits
                        ids[found] = np.int32(three & ID_BITS) - 1
                        found += 1
                        three >>= np.uint64(21)
                continue
            count = _encode_word(data, data64, i, size, vocabulary, store, pairs, shifts, ranks, ids, found)
            if count <= MOST_CACHED_IDS and size < 32:
                if size < 16:
                    hit = slot
                    for column in range(4):
                        cache[slot ^ 1, column] = cache[slot, column]
                    cache[slot, 0], cache[slot, 1] = low, high
                else:
                    cache[slot, 0], cache[slot, 1], cache[slot, 2] = low, LONG | np.uint64(size), high
                    cache[slot, 3], cache[hit, 0], cache[hit, 1] = third, fourth, LONG
                cache[hit, 2], cache[hit, 3] = _packed(ids, found, min(count, 3)), _packed(ids, found + 3, count - 3)
            found += count


@njit(nogil=True, cache=True)
def _last_bytes(data64, i, size):
    """Bytes 24 to 31 of a word."""
    return load8(data64, i + 24) & LOW_BYTES[min(size - 24, 8)] if size > 24 else np.uint64(0)


@njit(nogil=True, cache=True)
def _packed(ids, start, count):
    packed = np.uint64(0)
    for k in range(count):
        packed |= np.uint64(ids[start + k] + 1) << np.uint64(21 * k)
    return packed


@njit(nogil=True, cache=True)
def _find(data, data64, i, size, vocabulary, store, shift):
    """The token with these bytes, or NO_TOKEN."""
    if size < 16:
        low = load8(data64, i) & LOW_BYTES[size]
        high = load8(data64, i + 8) & HIGH_BYTES[size] | np.uint64(size) << np.uint64(56)
    else:
        low, high = long_hash(data64, i, size), LONG | np.uint64(size)
    slot = slot_of(low, high, shift)
    while vocabulary[slot, 1]:
        if vocabulary[slot, 0] == low and vocabulary[slot, 1] == high and (
                high < LONG or same_bytes(store, vocabulary[slot, 3], data, i, size)):
            return np.int64(vocabulary[slot, 2]) - 1
        slot = (slot + 1) & (len(vocabulary) - 1)
    return NO_TOKEN


@njit(nogil=True, cache=True)
def _all_pairs(data, data64, starts, vocabulary, store):
    """Every way to make a token out of two, as left id, right id and token id, 21 bits each."""
    found, number = np.empty(len(data), np.uint64), 0  # fewer than bytes
    shift = table_shift(vocabulary)
    for token in range(256, (len(starts) - 1) // 2):
        i, end = np.int64(starts[2 * token + 1]), np.int64(starts[2 * token + 2])
        for cut in range(i + 1, end):
            left = _find(data, data64, i, cut - i, vocabulary, store, shift)
            right = _find(data, data64, cut, end - cut, vocabulary, store, shift) if left != NO_TOKEN else NO_TOKEN
            if right != NO_TOKEN:
                found[number] = (left << 21 | right) << 21 | token
                number += 1
    return found[:number]


@njit(nogil=True, cache=True)
def _fill(pairs, found):
    """Puts the pairs into their table."""
    shift, last = table_shift(pairs), len(pairs) - 1
    for k in range(len(found)):
        slot = slot_of(found[k] >> np.uint64(21), np.uint64(0), shift)
        while pairs[slot]:
            slot = (slot + 1) & last
        pairs[slot] = found[k]


@njit(nogil=True, cache=True)
def _joined(left, right, pairs, shift):
    """The token that two neighbours make, or NO_TOKEN."""
    pair = np.uint64(left) << np.uint64(21) | np.uint64(right)
    slot = slot_of(pair, np.uint64(0), shift)
    while pairs[slot]:
        if pairs[slot] >> np.uint64(21) == pair:
            return np.int64(pairs[slot] & ID_BITS)
        slot = (slot + 1) & (len(pairs) - 1)
    return NO_TOKEN


@njit(nogil=True, cache=True)
def _encode_word(data, data64, i, size, vocabulary, store, pairs, shifts, ranks, ids, found):
    """Writes the ids of one word at ids[found:] and returns how many."""
    token = _find(data, data64, i, size, vocabulary, store, shifts[0])
    if token != NO_TOKEN:
        ids[found] = token
        return 1
    shift = shifts[1]
    parts = ids[found:found + size]
    for k in range(size):
        parts[k] = data[i + k]
    if size > LONG_WORD:
        return _merge_long(parts, pairs, shift)
    for k in range(size - 1):
        ranks[k] = _joined(parts[k], parts[k + 1], pairs, shift)
    while True:
        at, rank = 0, NO_TOKEN
        for k in range(size - 1):
            if ranks[k] < rank:
                at, rank = k, ranks[k]
        if rank == NO_TOKEN:
            return size
        parts[at] = rank
        size -= 1
        for k in range(at + 1, size):
            parts[k] = parts[k + 1]
            ranks[k] = ranks[k + 1]
        if at > 0:
            ranks[at - 1] = _joined(parts[at - 1], parts[at], pairs, shift)
        if at < size - 1:
            ranks[at] = _joined(parts[at], parts[at + 1], pairs, shift)


@njit(nogil=True, cache=True)
def _merge_long(parts, pairs, shift):
    """The same with a heap of (token, position) and a linked list; ids end up at the front of `parts`."""
    size = len(parts)
    before, after = np.arange(-1, size - 1), np.arange(1, size + 1)
    heap = [_joined(parts[k], parts[k + 1], pairs, shift) << 40 | k for k in range(size - 1)]
    heapq.heapify(heap)
    while heap:
        rank, k = heap[0] >> 40, heap[0] & ((1 << 40) - 1)
        heapq.heappop(heap)
        if rank == NO_TOKEN:
            break
        right = after[k]
        if parts[k] < 0 or right == size or _joined(parts[k], parts[right], pairs, shift) != rank:
            continue  # one of the two was joined to another since
        parts[k], parts[right], after[k] = rank, -1, after[right]
        if after[k] < size:
            before[after[k]] = k
            heapq.heappush(heap, _joined(parts[k], parts[after[k]], pairs, shift) << 40 | k)
        if before[k] >= 0:
            heapq.heappush(heap, _joined(parts[before[k]], parts[k], pairs, shift) << 40 | before[k])
    count = 0
    for k in range(size):
        if parts[k] >= 0:
            parts[count] = parts[k]
            count += 1
    return count
