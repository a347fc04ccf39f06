"""Byte-pair encoding in its simplest form: slow; the tests compare every fast path with it.

1. `split` cuts text into words: a contraction; letters with at most one other character before them; one or two digits;
   punctuation with at most one space before it; line breaks; other white space.
2. `learn` starts from the 256 bytes, finds the most frequent adjacent pair inside the words, makes the pair a token,
   and repeats. From "abab ab" it learns "ab" first, then "abab".
3. `merge` encodes one word: among all adjacent pairs that form a token, it merges the pair whose token has the lowest
   id, and repeats.

It does not know about special tokens, files or speed.
"""
import functools
import re
from collections import Counter
from collections.abc import Iterable

from nanochat.tokenizer import unicode_ranges


@functools.cache
def compiled(digits: int) -> re.Pattern[str]:
    r"""`bpe.PATTERN` for Python's own `re`, which has no `\p{L}`: the ranges of our table are written out."""
    letters, numbers, spaces = (
        "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
        for ranges in (unicode_ranges.LETTERS, unicode_ranges.NUMBERS, unicode_ranges.SPACES))
    return re.compile("|".join([
        # PATTERN ignores case in contractions. ſ (U+017F) counts as an s then, and no other foreign letter matches.
        r"'(?:[sSſdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])",
        rf"[^\r\n{letters}{numbers}]?[{letters}]+",
        rf"[{numbers}]{{1,{digits}}}",
        rf" ?[^{spaces}{letters}{numbers}]+[\r\n]*",
        rf"[{spaces}]*[\r\n]",
        rf"[{spaces}]+(?![^{spaces}])",
        rf"[{spaces}]+"]))


def split(text: str, digits: int = 2) -> list[str]:
    """The words of `text`; joined, they are `text` again.

    >>> split("I'm 123 km  away!!")
    ['I', "'m", ' ', '12', '3', ' km', ' ', ' away', '!!']
    """
    return compiled(digits).findall(text)


def join(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """`ids` with every `pair`, from the left, replaced by `new`.

    >>> join([7, 7, 7, 8], (7, 7), 9)
    [9, 7, 8]
    """
    joined, i = [], 0
    while i < len(ids):  # from the left, so that in 7 7 7 the first two are a pair
        is_pair = tuple(ids[i:i + 2]) == pair
        joined.append(new if is_pair else ids[i])
        i += 2 if is_pair else 1
    return joined


def learn(words: Iterable[bytes], num_merges: int) -> list[tuple[int, int]]:
    """The pairs to merge, in order: the highest count first, ties to the smallest pair. Merge i makes token 256 + i.

    >>> learn([b"abab", b"ab"], 2)
    [(97, 98), (256, 256)]
    """
    counts = {tuple(word): count for word, count in Counter(words).items()}
    merges: list[tuple[int, int]] = []
    while len(merges) < num_merges:
        pairs: Counter[tuple[int, int]] = Counter()
        for word, count in counts.items():  # a word that occurs 1,000 times is looked at only one time
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:  # every word is one token
            break
        # A rule for ties makes the result independent of the order of texts and threads.
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))
        joined: Counter[tuple[int, ...]] = Counter()
        for word, count in counts.items():
            joined[tuple(join(list(word), merges[-1], 255 + len(merges)))] += count
        counts = joined
    return merges


def merge(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """The ids of one word by tiktoken's rule: an adjacent pair may be merged if its bytes together are a token, even if
    training never merged this pair.

    >>> merge(b"abc", {b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"ab": 4})
    [0, 3]
    """
    pieces = [bytes([byte]) for byte in word]
    while word not in ranks and len(pieces) > 1:
        candidates = [(ranks.get(left + right, len(ranks)), i)
                      for i, (left, right) in enumerate(zip(pieces, pieces[1:]))]
        rank, i = min(candidates)  # the token that was learnt first; on ties the leftmost pair
        if rank == len(ranks):  # no adjacent pair forms a token
            break
        pieces[i:i + 2] = [pieces[i] + pieces[i + 1]]
    return [ranks[word]] if word in ranks else [ranks[piece] for piece in pieces]
