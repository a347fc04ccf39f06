"""Learning the merges: count the words, then count pairs once and keep the counts right while merging."""
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable

from nanochat.tokenizer import reference


def learn_tokens(texts: Iterable[str], num_tokens: int, digits: int) -> list[bytes]:
    """The 256 bytes and the merged tokens, `num_tokens` in all or fewer when no pair is left."""
    counts: Counter = Counter()
    for text in texts:
        counts.update(reference.split(text, digits))
    words = [word.encode("utf-8", "replace") for word in counts]
    pairs = _merges([list(word) for word in words], list(counts.values()))
    tokens = [bytes([byte]) for byte in range(256)]
    distinct = dict.fromkeys(tokens)
    for left, right in pairs:
        if len(distinct) == num_tokens:
            break
        tokens.append(tokens[left] + tokens[right])
        distinct[tokens[-1]] = None  # two pairs may spell the same bytes: one token is enough
    return list(distinct)


def _merges(words: list[list[int]], counts: list[int]):
    """Yields the pairs as `reference.learn` does."""
    pair_counts: dict = defaultdict(int)
    places: dict = defaultdict(set)
    for place, word in enumerate(words):
        for pair in zip(word, word[1:]):
            pair_counts[pair] += counts[place]
            places[pair].add(place)
    heap = [(-count, pair) for pair, count in pair_counts.items()]
    heapq.heapify(heap)
    new = 256
    while heap:
        count, pair = heapq.heappop(heap)
        if -count != pair_counts[pair]:
            if pair_counts[pair] > 0:
                heapq.heappush(heap, (-pair_counts[pair], pair))
            continue
        yield pair
        touched = set()
        for place in places.pop(pair):
            word = words[place]
            joined = reference.join(word, pair, new)
            if len(joined) == len(word):
                continue
            for old in zip(word, word[1:]):
                pair_counts[old] -= counts[place]
            for fresh in zip(joined, joined[1:]):
                pair_counts[fresh] += counts[place]
                if new in fresh:
                    places[fresh].add(place)
                    touched.add(fresh)
            words[place] = joined
        for fresh in touched:
            heapq.heappush(heap, (-pair_counts[fresh], fresh))
        new += 1
