"""Which code points are letters, numbers and white space: the table of Unicode 16.0 in unicode_ranges.txt.

The pattern that cuts text into words says `\\p{L}`, `\\p{N}` and `\\s`. What these match depends on the Unicode version
of a library: Python 3.11 knows 131,756 letters, tiktoken and tokenizers 141,028, newer libraries 158,172. A tokenizer
must not change its ids because a library was upgraded, so the ranges are part of this repository.

A range is written as its distance from the end of the previous range, then `+` and the number of code points after its
first one, both in hexadecimal: "41+19 7+19" is A–Z and a–z.
"""
from pathlib import Path


def _ranges(table: str) -> list[tuple[int, int]]:
    """The ranges of a table as (first, last), both included.

    >>> _ranges("41+19 7+19")
    [(65, 90), (97, 122)]
    """
    ranges, last = [], 0
    for entry in table.split():
        distance, _, extra = entry.partition("+")
        first = last + int(distance, 16)
        last = first + int(extra or "0", 16)
        ranges.append((first, last))
    return ranges


# \p{L}: 141,028 code points; \p{N}: 1,911; \s: 25
LETTERS, NUMBERS, SPACES = map(_ranges, Path(__file__).with_suffix(".txt").read_text(encoding="ascii").split("\n\n"))
