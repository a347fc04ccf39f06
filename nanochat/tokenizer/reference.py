"""Byte-pair encoding, slow and obvious: what every fast path here is compared with.

1. `split` cuts text into words: a contraction, letters with at most one other character before them, one or two digits,
   punctuation with at most one space before it, line breaks, other white space.
2. `learn` starts from the 256 bytes, finds the most frequent pair of neighbours inside the words, makes it a token, and
   repeats.
3. `merge` encodes one word: of all neighbours that together are a token, join those with the lowest id, and repeat.

It does not know about special tokens, files or speed.
"""
import functools
import re
from collections import Counter
from collections.abc import Iterable

from nanochat.tokenizer import unicode_ranges


@functools.cache
def compiled(digits: int) -> re.Pattern:
    r"""`bpe.PATTERN` for Python's own `re`, which has no `\p{L}`: the ranges of the committed table are written out."""
    L, N, S = ("".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)
               for ranges in (unicode_ranges.LETTERS, unicode_ranges.NUMBERS, unicode_ranges.SPACES))
    return re.compile("|".join([
        r"'(?:[sSſdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])",  # ſ, U+017F, folds to s, and nothing else to these
        rf"[^\r\n{L}{N}]?[{L}]+",
        rf"[{N}]{{1,{digits}}}",
        rf" ?[^{S}{L}{N}]+[\r\n]*",
        rf"[{S}]*[\r\n]",
        rf"[{S}]+(?![^{S}])",
        rf"[{S}]+"]))


def split(text: str, digits: int = 2) -> list[str]:
    """The words of `text`; joined they are `text` again.

    >>> split("I'm 123 km  away!!")
    ['I', "'m", ' ', '12', '3', ' km', ' ', ' away', '!!']
    """
    return compiled(digits).findall(text)


def join(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """`ids` with every `pair`, from the left, replaced by `new`.

    >>> join([7, 7, 7, 8], (7, 7), 9)
    [9, 7, 8]
    """
    out, i = [], 0
    while i < len(ids):
        hit = tuple(ids[i:i + 2]) == pair
        out.append(new if hit else ids[i])
        i += 2 if hit else 1
    return out


def learn(words: Iterable[bytes], num_merges: int) -> list[tuple[int, int]]:
    """The pairs to merge, in order: the highest count first, ties to the smallest pair. Merge i makes token 256 + i.

    >>> learn([b"abab", b"ab"], 2)
    [(97, 98), (256, 256)]
    """
    counts = {tuple(word): count for word, count in Counter(words).items()}
    merges: list[tuple[int, int]] = []
    while len(merges) < num_merges:
        pairs: Counter = Counter()
        for word, count in counts.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            break
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))
        joined: Counter = Counter()
        for word, count in counts.items():
            joined[tuple(join(list(word), merges[-1], 255 + len(merges)))] += count
        counts = joined
    return merges


def merge(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """The ids of one word, as tiktoken defines them: any two neighbours may join whose bytes are a token.

    >>> merge(b"abc", {b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"ab": 4})
    [0, 3]
    """
    parts = [bytes([byte]) for byte in word]
    while word not in ranks and len(parts) > 1:
        candidates = [(ranks.get(left + right, len(ranks)), i) for i, (left, right) in enumerate(zip(parts, parts[1:]))]
        rank, i = min(candidates)
        if rank == len(ranks):
            break
        parts[i:i + 2] = [parts[i] + parts[i + 1]]
    return [ranks[word]] if word in ranks else [ranks[part] for part in parts]
