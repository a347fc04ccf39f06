"""Learning the merges from counted words, as `reference.learn` does, without ever counting the same pair twice.

The words lie in one flat array of ids, -1 between them; a token's id stands at its first and at its last byte, so both
neighbours of a token are one step away. Every pair of ids is a record: how often it occurs, and a list of where.

What makes it simple: a pair that contains the id `new` can only arise when `new` is made. So its record is complete
when it is written, its count can only fall, and its list only has places too many. When `new` is made, what changes is
summed up by neighbour; then each neighbour costs one new record, and an old one that is lowered, found by a hash table.

Only records with a count of at least `floor` are in the heap, perhaps with a count that has fallen since. When the heap
is empty the floor is halved and all records are looked through: most never matter, and the heap fits the cache.
"""
import heapq
from collections.abc import Iterable

import numpy as np
from numba import njit

from nanochat.tokenizer.count import count_words, slot_of
from nanochat.tokenizer.intrinsics import prefetch

AHEAD = 16  # places, for the processor to fetch in time
GONE = -2  # a byte inside a token
FIRST, SECOND, PLACE, LENGTH = range(4)  # the columns of a record: the pair, and where its list of occurrences is
RECORDS, PLACES, TOKENS = range(3)  # what is used of each


def learn_tokens(texts: Iterable[str], num_tokens: int, digits: int) -> list[bytes]:
    """The 256 bytes and the merged tokens, `num_tokens` in all, or fewer if no pair is left."""
    merges = Merges(*count_words(texts, digits).export())
    tokens = [bytes([byte]) for byte in range(256)]
    distinct = dict.fromkeys(tokens)
    while len(distinct) < num_tokens and len(pairs := merges.more(num_tokens - len(distinct))):
        for first, second in pairs.tolist():
            tokens.append(tokens[first] + tokens[second])
            distinct[tokens[-1]] = None  # two pairs may spell the same bytes: one token is enough
    return list(distinct)


class Merges:
    """The merges of counted words, as many as one asks for; the arguments are those of `WordCounts.export`."""

    def __init__(self, data: np.ndarray, starts: np.ndarray, weights: np.ndarray):
        self.ids = np.where(data == 255, np.int32(-1), data)
        narrow = np.int32 if weights.max(initial=0) < 1 << 31 else np.int64
        self.weights = np.repeat(weights.astype(narrow), np.diff(starts, append=len(data)))  # of the word around a byte
        self.counts, self.records = np.empty(1 << 17, np.int64), np.empty((1 << 17, 4), np.int64)
        # A merge makes one token of two and at most two new pairs: 3 places per byte suffice. Most are never touched.
        self.places = np.empty(3 * len(data) + AHEAD, np.int32)
        self.pairs, self.sizes = np.empty((256, 2), np.int32), np.ones(256, np.int32)
        self.used = np.array([0, 0, 256])
        self.index = np.full(1 << 18, -1, np.int32)  # a hash table: the records by their pair
        _first_records(self.ids, self.weights, self.counts, self.records, self.index, self.places, self.used)
        self.floor = int(self.counts[:self.used[RECORDS]].max(initial=0))

    def more(self, number: int) -> np.ndarray:
        """The next pairs, int32 (number, 2); fewer when none is left. The first pair of all makes token 256."""
        begin = self.used[TOKENS]
        self.pairs, self.sizes = _grown(self.pairs, begin + number), _grown(self.sizes, begin + number)
        while self.floor and self.used[TOKENS] < begin + number:
            if 2 * (self.used[RECORDS] + len(self.sizes)) > len(self.counts):
                self.counts, self.records = (_grown(array, 2 * len(array)) for array in (self.counts, self.records))
                self.index = np.full(2 * len(self.index), -1, np.int32)
                _index(self.records, 0, self.used[RECORDS], self.index)
            if _merge(self.ids, self.weights, self.counts, self.records, self.index, self.places, self.used, self.pairs,
                      self.sizes, self.floor, begin + number):
                self.floor //= 2
        return self.pairs[begin:self.used[TOKENS]]


def _grown(array: np.ndarray, length: int) -> np.ndarray:
    larger = np.empty((length, *array.shape[1:]), array.dtype)
    larger[:len(array)] = array
    return larger


@njit(cache=True)
def _first_records(ids, weights, counts, records, index, places, used):
    """The pairs of bytes."""
    lengths, sums = np.zeros(1 << 16, np.int64), np.zeros(1 << 16, np.int64)
    for p in range(len(ids) - 1):
        if ids[p] >= 0 and ids[p + 1] >= 0:
            lengths[ids[p] << 8 | ids[p + 1]] += 1
            sums[ids[p] << 8 | ids[p + 1]] += weights[p]
    for pair in range(1 << 16):
        if lengths[pair]:
            _record(pair >> 8, pair & 255, sums[pair], lengths, pair, counts, records, used)
    _index(records, 0, used[RECORDS], index)
    for p in range(len(ids) - 1):
        if ids[p] >= 0 and ids[p + 1] >= 0:
            places[lengths[ids[p] << 8 | ids[p + 1]]] = p
            lengths[ids[p] << 8 | ids[p + 1]] += 1


@njit(cache=True)
def _record(first, second, count, lengths, i, counts, records, used):
    """Writes a record and reserves its list; lengths[i], the length of the list, becomes the place of the list."""
    counts[used[RECORDS]] = count
    records[used[RECORDS], FIRST], records[used[RECORDS], SECOND] = first, second
    records[used[RECORDS], PLACE], records[used[RECORDS], LENGTH] = used[PLACES], lengths[i]
    used[RECORDS] += 1
    used[PLACES] += lengths[i]
    lengths[i] = used[PLACES] - lengths[i]


@njit(cache=True)
def _slot(first, second, records, index):
    """Where in `index` the record of a pair is, or is to be."""
    slot = slot_of(np.uint64(first), np.uint64(second), len(index) - 1)
    while index[slot] >= 0 and (records[index[slot], FIRST] != first or records[index[slot], SECOND] != second):
        slot = (slot + 1) & (len(index) - 1)
    return slot


@njit(cache=True)
def _index(records, begin, end, index):
    for r in range(begin, end):
        index[_slot(records[r, FIRST], records[r, SECOND], records, index)] = r


@njit(cache=True)
def _merge(ids, weights, counts, records, index, places, used, pairs, sizes, floor, limit):
    """Merges while there are records of at least `floor` (True when there are no more), tokens to make, and room."""
    heap = [(-counts[r], records[r, FIRST] << 32 | records[r, SECOND], r)
            for r in range(used[RECORDS]) if counts[r] >= floor]
    heapq.heapify(heap)
    lengths, sums = np.zeros((2, limit), np.int64), np.zeros((2, limit), np.int64)  # by neighbour: left, right
    while heap and used[TOKENS] < limit:
        if used[RECORDS] + 2 * limit > len(counts):
            return False
        count, pair, r = heapq.heappop(heap)
        if counts[r] < -count:
            if counts[r] >= floor:
                heapq.heappush(heap, (-counts[r], pair, r))
            continue
        old_records = used[RECORDS]
        pairs[used[TOKENS], 0], pairs[used[TOKENS], 1] = records[r, FIRST], records[r, SECOND]
        _join(ids, weights, records[r], places, used, sizes, counts, records, index, lengths, sums)
        counts[r] = 0
        _index(records, old_records, used[RECORDS], index)
        for n in range(old_records, used[RECORDS]):
            if counts[n] >= floor:
                heapq.heappush(heap, (-counts[n], records[n, FIRST] << 32 | records[n, SECOND], n))
    return len(heap) == 0


@njit(cache=True)
def _join(ids, weights, record, places, used, sizes, counts, records, index, lengths, sums):
    """Makes the pair a token wherever it occurs, with a record of every pair that this token is part of."""
    new, first, second = used[TOKENS], record[FIRST], record[SECOND]
    size = sizes[first] + sizes[second]
    sizes[new] = size
    used[TOKENS] += 1
    begin = end = record[PLACE]
    address = np.uint64(ids.ctypes.data)
    for k in range(begin, begin + record[LENGTH]):
        prefetch(address + np.uint64(ids.itemsize) * np.uint64(places[k + AHEAD]))  # a quarter faster
        p = places[k]
        q = p + sizes[first]
        if ids[p] == first and ids[q] == second:  # not if one of the two has become part of something else
            ids[q - 1] = ids[q] = GONE
            ids[p] = ids[p + size - 1] = new
            places[end] = p
            end += 1
    neighbours = [(0, 0) for _ in range(0)]
    for k in range(begin, end):
        p = places[k]
        left, right = ids[p - 1], ids[p + size]
        if left >= 0 and left != new:  # if it is `new`, this is its right neighbour
            if not lengths[0, left]:
                neighbours.append((0, left))
            lengths[0, left] += 1
            sums[0, left] += weights[p]
        if right >= 0:
            if not lengths[1, right]:
                neighbours.append((1, right))
            lengths[1, right] += 1
            sums[1, right] += weights[p]
    for side, other in neighbours:
        pair = (new, other) if side else (other, new)
        lost = (second, first if other == new else other) if side else (other, first)
        counts[index[_slot(lost[0], lost[1], records, index)]] -= sums[side, other]
        _record(pair[0], pair[1], sums[side, other], lengths[side], other, counts, records, used)
    for k in range(begin, end):
        p = places[k]
        left, right = ids[p - 1], ids[p + size]
        if left >= 0 and left != new:
            places[lengths[0, left]] = p - sizes[left]
            lengths[0, left] += 1
        if right >= 0:
            places[lengths[1, right]] = p
            lengths[1, right] += 1
    for side, other in neighbours:
        lengths[side, other] = sums[side, other] = 0
