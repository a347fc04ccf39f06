"""Words to ids: nearly every word was seen before and is looked up; a new word is merged with a table of pairs.

- The vocabulary is a table from bytes to id, of the same kind that counts words in training (`count.WordCounts`).
- The pair table maps two ids to the token they form, for *every* pair that forms a token. So the rule is tiktoken's: a
  word that is a token is this token; otherwise the adjacent pair that forms the lowest id is merged first, on ties the
  leftmost.
- The cache holds words of up to six ids in 32 bytes each. Its size is fixed. Every word has two possible entries, as in
  cuckoo hashing: a new word takes the first, the word that was there moves to the second, and the word that was in the
  second is dropped. A word of 16 to 31 bytes takes both entries.
- A word of more than 48 bytes is merged with a heap, so that a megabyte of "a" takes n log n steps and not n².
"""
import heapq
import re
from collections.abc import Iterable, Iterator
from queue import Empty, SimpleQueue

import numpy as np

from nanochat.system.jit import njit
from nanochat.tokenizer import count, parallel, split
from nanochat.tokenizer.count import BATCH, HIGH_BYTES, LONG, LOW_BYTES, load8, long_hash, same_bytes, slot_of
from nanochat.tokenizer.intrinsics import prefetch

NO_TOKEN = (1 << 21) - 1  # ids have 21 bits: three of them fit into a 64-bit number, and so do a pair and its token
ID_MASK = np.uint64(NO_TOKEN)  # the lowest 21 bits
CACHED_WORDS = 1 << 19  # 16 MiB per thread; with half of it, 70 MB of English took 15 % longer
MOST_CACHED_IDS = 6  # two 64-bit numbers of three ids
LONG_WORD = 48  # bytes; longer words are merged with a heap
WORD_BORDER = re.compile(r"(?<=[A-Za-z])(?= [A-Za-z])|(?<=\n)(?=[^\W_])")  # finds some borders, only real ones


class Encoder:
    """Texts to ids with the given tokens. Threads may share it."""

    def __init__(self, tokens: list[bytes], digits: int):
        assert len(tokens) < NO_TOKEN, f"{len(tokens)} tokens, at most {NO_TOKEN - 1} are possible"
        data, _ = split.buffer(tokens)  # 0xFF, token, 0xFF, token, …: every second start is the start of a token
        starts = np.cumsum([0] + [size for token in tokens for size in (1, len(token))], dtype=np.int32)
        ids = np.zeros(len(starts), np.int64)
        ids[1::2] = np.arange(1, len(tokens) + 1)
        vocabulary = count.WordCounts()
        vocabulary.add(data, starts, ids)  # used as a dictionary: a token's "count" is id + 1, a separator's is 0
        all_pairs = _all_pairs(data, data.view(np.uint64), starts, vocabulary.table, vocabulary.store)
        pairs = np.zeros(1 << (2 * len(all_pairs) + 1).bit_length(), np.uint64)  # at least half of it stays free
        _fill(pairs, all_pairs)
        self.digits, self._tables = digits, (vocabulary.table, vocabulary.store, pairs)
        # Splitters and caches that no thread uses now. A cache keeps its words from call to call.
        self._idle: SimpleQueue[tuple[split.Splitter, np.ndarray]] = SimpleQueue()

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """All ids, int32, and the index after the last id of each text, int64."""
        try:
            splitter, cache = worker = self._idle.get_nowait()
        except Empty:
            splitter, cache = worker = split.Splitter(self.digits), np.zeros((CACHED_WORDS, 4), np.uint64)
        data, starts = splitter.words(texts)
        ids, ends = np.empty(len(data), np.int32), np.empty(len(texts) + 1, np.int64)
        _encode(data, data.view(np.uint64), starts, *self._tables, cache, ids, ends)
        self._idle.put(worker)
        return ids[:ends[-1]], ends[1:]

    def encode_batch(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """All ids, int32, and offsets, int64: text i has ids[offsets[i]:offsets[i + 1]]. On all cores."""
        ids, offsets, total = [np.empty(0, np.int32)], [np.zeros(1, np.int64)], 0
        ends_text = [True]  # for each offset, whether a text ends there; a long text is encoded in parts

        def parts() -> Iterator[str]:
            for text in texts:
                for part in cut(text, parallel.PIECE):
                    ends_text.append(False)
                    yield part
                ends_text[-1] = True

        for piece_ids, ends in parallel.in_order(self.encode, parallel.pieces(parts())):
            ids.append(piece_ids.copy())  # `piece_ids` is a view of a buffer that is as long as the text
            offsets.append(ends + total)
            total += len(piece_ids)
        return np.concatenate(ids), np.concatenate(offsets)[ends_text]


def cut(text: str, size: int = parallel.PIECE) -> Iterator[str]:
    """Cuts a long text into parts of `size` characters or more, only where the split pattern always cuts. So the ids of
    the parts are the ids of the text, and a text of 300 MB is encoded on all cores and in little memory.

    >>> list(cut("a long text, line 2", 4))
    ['a long', ' text, line 2']
    """
    start = 0
    while len(text) - start > size and (place := WORD_BORDER.search(text, start + size)):
        yield text[start:place.start()]
        start = place.start()
    yield text[start:] if start else text


@njit(nogil=True)
def _encode(data, data64, starts, vocabulary, store, pairs, cache, ids, ends):
    """Fills `ids`, and `ends` with the number of ids before each separator (0xFF)."""
    lows, highs, slots = np.empty(BATCH, np.uint64), np.empty(BATCH, np.uint64), np.empty(BATCH, np.int64)
    ranks, last, address = np.empty(LONG_WORD, np.int64), len(cache) - 1, np.uint64(cache.ctypes.data)
    num_ids = num_ends = 0
    for base in range(0, len(starts), BATCH):  # as in count.py: first request the entries of 32 words, then use them
        batch = min(BATCH, len(starts) - base)
        for k in range(batch):
            i = np.int64(starts[base + k])
            size = starts[base + k + 1] - i if base + k + 1 < len(starts) else 1  # the last is a separator, one byte
            # From 8 bytes on, all masks in LOW_BYTES are equal, and the table ends at 15.
            lows[k], highs[k] = load8(data64, i) & LOW_BYTES[min(size, 15)], load8(data64, i + 8)
            if size < 16:
                highs[k] = highs[k] & HIGH_BYTES[size] | np.uint64(size) << np.uint64(56)
            slots[k] = slot_of(lows[k], highs[k], last)
            prefetch(address + np.uint64(32) * np.uint64(slots[k]))
        for k in range(batch):
            i = np.int64(starts[base + k])
            if data[i] == 255:
                ends[num_ends] = num_ids
                num_ends += 1
                continue
            size, slot, low, high = starts[base + k + 1] - i, slots[k], lows[k], highs[k]
            if size < 16:  # the word is its own key, in its first entry or in the second
                hit = slot if cache[slot, 0] == low and cache[slot, 1] == high else slot ^ 1
                known = cache[hit, 0] == low and cache[hit, 1] == high
            else:  # entry `slot`: bytes 0–7, LONG + size, bytes 8–15, 16–23; entry `hit`: bytes 24–31, LONG, ids, ids
                slot &= ~1  # the two entries begin at an even index
                hit = slot + 1
                known = (cache[slot, 1] == LONG | np.uint64(size) and cache[hit, 1] == LONG and cache[slot, 0] == low
                         and cache[slot, 2] == high and cache[slot, 3] == _tail(data64, i, size, 16)
                         and cache[hit, 0] == _tail(data64, i, size, 24))
            if known:
                num_ids = _unpack(cache[hit, 2], ids, num_ids)
                num_ids = _unpack(cache[hit, 3], ids, num_ids) if cache[hit, 3] else num_ids
                continue
            number = _encode_word(data, data64, i, size, vocabulary, store, pairs, ranks, ids[num_ids:])
            if number <= MOST_CACHED_IDS and size < 32:
                _remember(cache, slot, low, high, data64, i, size, ids[num_ids:num_ids + number])
            num_ids += number


@njit(nogil=True)
def _remember(cache, slot, low, high, data64, i, size, ids):
    """Puts a word and its ids into the cache."""
    entry = slot
    if size < 16:
        for column in range(4):  # the word that was here moves to its second entry
            cache[slot ^ 1, column] = cache[slot, column]
        cache[slot, 0], cache[slot, 1] = low, high
    else:
        entry += 1
        cache[slot, 0], cache[slot, 1], cache[slot, 2] = low, LONG | np.uint64(size), high
        cache[slot, 3], cache[entry, 0] = _tail(data64, i, size, 16), _tail(data64, i, size, 24)
        cache[entry, 1] = LONG
    cache[entry, 2] = cache[entry, 3] = 0
    for k in range(len(ids)):  # as id + 1, so that 0 means "no id"
        cache[entry, 2 + k // 3] |= np.uint64(ids[k] + 1) << np.uint64(21 * (k % 3))


@njit(nogil=True)
def _tail(data64, i, size, begin):
    """Eight bytes of a word from `begin` on, 0 after its end."""
    return load8(data64, i + begin) & LOW_BYTES[min(size - begin, 8)] if size > begin else np.uint64(0)


@njit(nogil=True)
def _unpack(three, ids, at):
    """Writes up to three ids, stored as id + 1, and returns the index after them."""
    second, third = three >> np.uint64(21), three >> np.uint64(42)
    ids[at] = np.int32(three & ID_MASK) - 1
    # Always written, because a branch on the number of ids is often mispredicted. The next word overwrites the rest.
    ids[at + 1] = np.int32(second & ID_MASK) - 1
    ids[at + 2] = np.int32(third) - 1
    return at + 1 + np.int64(second > 0) + np.int64(third > 0)


@njit(nogil=True)
def _find(data, data64, i, size, vocabulary, store):
    """The token with these bytes, or NO_TOKEN."""
    if size < 16:
        low = load8(data64, i) & LOW_BYTES[size]
        high = load8(data64, i + 8) & HIGH_BYTES[size] | np.uint64(size) << np.uint64(56)
    else:
        low, high = long_hash(data64, i, size), LONG | np.uint64(size)
    slot = slot_of(low, high, len(vocabulary) - 1)
    while vocabulary[slot, 1]:
        if vocabulary[slot, 0] == low and vocabulary[slot, 1] == high and (
                high < LONG or same_bytes(store, vocabulary[slot, 3], data, i, size)):
            return np.int64(vocabulary[slot, 2]) - 1
        slot = (slot + 1) & (len(vocabulary) - 1)
    return NO_TOKEN


@njit(nogil=True)
def _all_pairs(data, data64, starts, vocabulary, store):
    """Every pair that forms a token: left id, right id and token id, 21 bits each."""
    triples, number = np.empty(len(data), np.uint64), 0  # enough: a token has fewer inner cuts than bytes
    for token in range(256, len(starts) // 2):
        i, end = np.int64(starts[2 * token + 1]), np.int64(starts[2 * token + 2])
        for cut in range(i + 1, end):
            left = _find(data, data64, i, cut - i, vocabulary, store)
            right = _find(data, data64, cut, end - cut, vocabulary, store) if left != NO_TOKEN else NO_TOKEN
            if right != NO_TOKEN:
                triples[number] = (left << 21 | right) << 21 | token
                number += 1
    return triples[:number]


@njit(nogil=True)
def _fill(pairs, triples):
    """Puts the pairs into their hash table, by their two ids."""
    for k in range(len(triples)):
        slot = slot_of(triples[k] >> np.uint64(21), np.uint64(0), len(pairs) - 1)
        while pairs[slot]:
            slot = (slot + 1) & (len(pairs) - 1)
        pairs[slot] = triples[k]


@njit(nogil=True)
def _joined(left, right, pairs):
    """The token that two adjacent tokens form, or NO_TOKEN."""
    pair = np.uint64(left) << np.uint64(21) | np.uint64(right)
    slot = slot_of(pair, np.uint64(0), len(pairs) - 1)
    while pairs[slot]:
        if pairs[slot] >> np.uint64(21) == pair:
            return np.int64(pairs[slot] & ID_MASK)
        slot = (slot + 1) & (len(pairs) - 1)
    return NO_TOKEN


@njit(nogil=True)
def _encode_word(data, data64, i, size, vocabulary, store, pairs, ranks, parts):
    """Writes the ids of one word into `parts` and returns their number."""
    parts[0] = _find(data, data64, i, size, vocabulary, store)
    if parts[0] != NO_TOKEN:
        return 1
    for k in range(size):
        parts[k] = data[i + k]
    if size > LONG_WORD:
        return _merge_long(parts[:size], pairs)
    for k in range(size - 1):  # ranks[k]: the token that parts k and k + 1 form
        ranks[k] = _joined(parts[k], parts[k + 1], pairs)
    while True:
        at, rank = 0, NO_TOKEN  # the lowest token that an adjacent pair forms, the leftmost on ties
        for k in range(size - 1):
            if ranks[k] < rank:
                at, rank = k, ranks[k]
        if rank == NO_TOKEN:
            return size
        parts[at] = rank
        size -= 1
        for k in range(at + 1, size):  # close the gap
            parts[k], ranks[k] = parts[k + 1], ranks[k + 1]
        if at > 0:  # the new part has new pairs with both neighbours
            ranks[at - 1] = _joined(parts[at - 1], rank, pairs)
        if at < size - 1:
            ranks[at] = _joined(rank, parts[at + 1], pairs)


@njit(nogil=True)
def _merge_long(parts, pairs):
    """Merges with a heap of (token, position) and links to both neighbours; the ids are the first items of `parts`."""
    size = len(parts)
    before, after = np.arange(-1, size - 1), np.arange(1, size + 1)
    heap = [_joined(parts[k], parts[k + 1], pairs) << 40 | k for k in range(size - 1)]
    heapq.heapify(heap)
    while heap and heap[0] >> 40 != NO_TOKEN:
        top = heapq.heappop(heap)
        rank, k = top >> 40, top & ((1 << 40) - 1)
        right = after[k]
        if parts[k] < 0 or right == size or _joined(parts[k], parts[right], pairs) != rank:
            continue  # since then one of the two has been merged with another part
        parts[k], parts[right], after[k] = rank, -1, after[right]
        if after[k] < size:
            before[after[k]] = k
            heapq.heappush(heap, _joined(rank, parts[after[k]], pairs) << 40 | k)
        if before[k] >= 0:
            heapq.heappush(heap, _joined(parts[before[k]], rank, pairs) << 40 | before[k])
    number = 0
    for k in range(size):
        if parts[k] >= 0:
            parts[number] = parts[k]
            number += 1
    return number
