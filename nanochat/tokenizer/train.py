"""Learning the merges from counted words, as `reference.learn` does, without counting any pair twice.

All words are in one flat array of ids, with −1 between them. The id of a token is stored at its first and at its last
byte, so that the neighbours of a token are one step away; the bytes between them are GONE:

    "abab" with ab = 256:   97 98 97 98  →  256 256 256 256        with abab = 257:  →  257 GONE GONE 257

Every pair of ids has a record: the pair's count, and a list of its positions in the array. This is simple because a
pair that contains the id `new` can only appear when `new` is made. So a record is complete when it is written.
Afterwards its count can only fall, and its list may keep positions where the pair no longer is. When `new` is made, the
changes are summed by neighbour; each neighbour costs one new record and one lowered count, which a hash table finds.

The heap holds only records with a count of at least `floor`; a count may have fallen since it was pushed. When the heap
is empty, the floor is halved and all records are searched again. Most records never reach the heap, so it stays small
enough for the processor's cache.
"""
import heapq
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from nanochat.system.jit import njit
from nanochat.tokenizer.bpe import BYTES, SPECIALS, Tokenizer
from nanochat.tokenizer.count import count_words, slot_of
from nanochat.tokenizer.intrinsics import prefetch

AHEAD = 16  # list entries between a prefetch and the use of the prefetched memory
GONE = -2  # a byte inside a token
FIRST, SECOND, PLACE, LENGTH = range(4)  # columns of a record: the pair; start and length of its list in `places`
RECORDS, PLACES, TOKENS = range(3)  # indices of PairTable.used


class PairTable(NamedTuple):
    """The records of all pairs."""

    counts: np.ndarray   # int64, for each record: the pair's count in the text
    records: np.ndarray  # int64 (·, 4)
    slots: np.ndarray    # int32, a hash table: pair → number of its record
    places: np.ndarray   # int32, the lists of positions, concatenated
    used: np.ndarray     # int64: number of records and of places written so far, and the next token's id


def train_tokenizer(texts: Iterable[str], vocab_size: int, digits: int = 2) -> Tokenizer:
    """Learns from `texts` on all cores. `vocab_size` includes the special tokens; the result is smaller if the texts
    have no pair left to merge."""
    return Tokenizer(learn_tokens(texts, vocab_size - len(SPECIALS), digits), digits)


def learn_tokens(texts: Iterable[str], num_tokens: int, digits: int) -> list[bytes]:
    """The 256 bytes and the merged tokens, `num_tokens` in all, or fewer if no pair is left."""
    merges = Merges(*count_words(texts, digits).export())
    tokens = list(BYTES)
    distinct = dict.fromkeys(tokens)  # a set that keeps the order
    while len(distinct) < num_tokens and len(pairs := merges.more(num_tokens - len(distinct))):
        for first, second in pairs.tolist():
            tokens.append(tokens[first] + tokens[second])
            distinct[tokens[-1]] = None  # "ab" + "c" and "a" + "bc" are the same bytes: one token is enough
    return list(distinct)


class Merges:
    """The merges of counted words, computed as `more` asks for them; the arguments are those of `WordCounts.export`."""

    def __init__(self, data: np.ndarray, starts: np.ndarray, weights: np.ndarray):
        self.ids = np.where(data == 255, np.int32(-1), data)
        # For each byte the count of its word. 32 bits if they suffice: half the memory to read.
        dtype = np.int32 if weights.max(initial=0) < 1 << 31 else np.int64
        self.weights = np.repeat(weights.astype(dtype), np.diff(starts, append=len(data)))
        self.pairs, self.sizes = np.empty((256, 2), np.int32), np.ones(256, np.int32)  # each token's pair and bytes
        # A merge makes one token of two and at most two new pairs, so 3 places per byte suffice. The operating system
        # gives memory only to pages that are written, and most never are.
        places = np.empty(3 * len(data) + AHEAD, np.int32)
        self.table = PairTable(np.empty(1 << 17, np.int64), np.empty((1 << 17, 4), np.int64),
                               np.full(1 << 18, -1, np.int32), places, np.array([0, 0, 256]))
        _first_records(self.ids, self.weights, *self.table)
        self.floor = int(self.table.counts[:self.table.used[RECORDS]].max(initial=0))

    def more(self, number: int) -> np.ndarray:
        """The next pairs to merge, int32 (number, 2); fewer if none is left. The first pair of all makes token 256."""
        used = self.table.used
        begin = used[TOKENS]
        self.pairs, self.sizes = _grown(self.pairs, begin + number), _grown(self.sizes, begin + number)
        while self.floor and used[TOKENS] < begin + number:
            if 2 * (used[RECORDS] + len(self.sizes)) > len(self.table.counts):
                self._grow_table()
            if _merge(self.ids, self.weights, self.table, self.pairs, self.sizes, self.floor, begin + number):
                self.floor //= 2
        return self.pairs[begin:used[TOKENS]]

    def _grow_table(self) -> None:
        counts, records = (_grown(array, 2 * len(array)) for array in (self.table.counts, self.table.records))
        slots = np.full(2 * len(self.table.slots), -1, np.int32)
        _index(records, 0, self.table.used[RECORDS], slots)
        self.table = self.table._replace(counts=counts, records=records, slots=slots)


def _grown(array: np.ndarray, length: int) -> np.ndarray:
    larger = np.empty((length, *array.shape[1:]), array.dtype)
    larger[:len(array)] = array
    return larger


@njit()
def _first_records(ids, weights, counts, records, slots, places, used):
    """Writes the records of all pairs of bytes."""
    lengths, sums = np.zeros(1 << 16, np.int64), np.zeros(1 << 16, np.int64)
    for p in range(len(ids) - 1):
        if ids[p] >= 0 and ids[p + 1] >= 0:
            lengths[ids[p] << 8 | ids[p + 1]] += 1
            sums[ids[p] << 8 | ids[p + 1]] += weights[p]
    for pair in range(1 << 16):
        if lengths[pair]:
            _record(pair >> 8, pair & 255, sums[pair], lengths, pair, counts, records, used)
    _index(records, 0, used[RECORDS], slots)
    for p in range(len(ids) - 1):  # `lengths` now says where the next place of each pair goes
        if ids[p] >= 0 and ids[p + 1] >= 0:
            places[lengths[ids[p] << 8 | ids[p + 1]]] = p
            lengths[ids[p] << 8 | ids[p + 1]] += 1


@njit()
def _record(first, second, count, lengths, i, counts, records, used):
    """Writes a record and reserves its list of lengths[i] places; lengths[i] becomes the start of this list."""
    counts[used[RECORDS]] = count
    records[used[RECORDS], FIRST], records[used[RECORDS], SECOND] = first, second
    records[used[RECORDS], PLACE], records[used[RECORDS], LENGTH] = used[PLACES], lengths[i]
    used[RECORDS] += 1
    used[PLACES] += lengths[i]
    lengths[i] = used[PLACES] - lengths[i]


@njit()
def _slot(first, second, records, slots):
    """The index in `slots` of the number of a pair's record, or of the free entry for it."""
    slot = slot_of(np.uint64(first), np.uint64(second), len(slots) - 1)
    while slots[slot] >= 0 and (records[slots[slot], FIRST] != first or records[slots[slot], SECOND] != second):
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@njit()
def _index(records, begin, end, slots):
    for r in range(begin, end):
        slots[_slot(records[r, FIRST], records[r, SECOND], records, slots)] = r


@njit()
def _merge(ids, weights, table, pairs, sizes, floor, limit):
    """Merges until there are `limit` tokens, or no record of at least `floor` (then True), or no space for records."""
    counts, records, slots, places, used = table
    # Sorted by the highest count, then by the smallest pair: the rule of `reference.learn`.
    heap = [(-counts[r], records[r, FIRST] << 32 | records[r, SECOND], r)
            for r in range(used[RECORDS]) if counts[r] >= floor]
    heapq.heapify(heap)
    lengths, sums = np.zeros((2, limit), np.int64), np.zeros((2, limit), np.int64)  # by neighbour, left and right
    while heap and used[TOKENS] < limit:
        if used[RECORDS] + 2 * limit > len(counts):
            return False
        count, pair, r = heapq.heappop(heap)
        if counts[r] < -count:  # the count has fallen since: push the record again with its present count
            if counts[r] >= floor:
                heapq.heappush(heap, (-counts[r], pair, r))
            continue
        old_records = used[RECORDS]
        pairs[used[TOKENS], 0], pairs[used[TOKENS], 1] = records[r, FIRST], records[r, SECOND]
        _join(ids, weights, records[r], table, sizes, lengths, sums)
        counts[r] = 0
        _index(records, old_records, used[RECORDS], slots)
        for n in range(old_records, used[RECORDS]):
            if counts[n] >= floor:
                heapq.heappush(heap, (-counts[n], records[n, FIRST] << 32 | records[n, SECOND], n))
    return len(heap) == 0


@njit()
def _join(ids, weights, record, table, sizes, lengths, sums):
    """Makes the pair a token wherever it occurs, and writes the records of all pairs with this token."""
    counts, records, slots, places, used = table
    new, first, second = used[TOKENS], record[FIRST], record[SECOND]
    size = sizes[first] + sizes[second]
    sizes[new] = size
    used[TOKENS] += 1
    begin = end = record[PLACE]
    address = np.uint64(ids.ctypes.data)
    # 1. Write the token at each place. The places that still have the pair move to the start of its list: begin … end.
    for k in range(begin, begin + record[LENGTH]):
        prefetch(address + np.uint64(ids.itemsize) * np.uint64(places[k + AHEAD]))  # a quarter faster
        p = places[k]
        q = p + sizes[first]
        if ids[p] == first and ids[q] == second:  # otherwise one of the two has become part of another token
            ids[q - 1] = ids[q] = GONE
            ids[p] = ids[p + size - 1] = new
            places[end] = p
            end += 1
    # 2. For each neighbour: the number of places where the token is beside it, and the sum of their weights.
    neighbours = [(0, 0) for _ in range(0)]  # an empty list whose type Numba knows
    for k in range(begin, end):
        p = places[k]
        left, right = ids[p - 1], ids[p + size]
        if left >= 0 and left != new:  # new, new is one pair: its left token counts it
            if not lengths[0, left]:
                neighbours.append((0, left))
            lengths[0, left] += 1
            sums[0, left] += weights[p]
        if right >= 0:
            if not lengths[1, right]:
                neighbours.append((1, right))
            lengths[1, right] += 1
            sums[1, right] += weights[p]
    # 3. For each neighbour: a record for the new pair, and a lower count for the pair that stood there before.
    for side, other in neighbours:
        pair = (new, other) if side else (other, new)
        lost = (second, first if other == new else other) if side else (other, first)
        counts[slots[_slot(lost[0], lost[1], records, slots)]] -= sums[side, other]
        _record(pair[0], pair[1], sums[side, other], lengths[side], other, counts, records, used)
    # 4. Fill the new records' lists: `lengths` is now the index for the next place of each.
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
