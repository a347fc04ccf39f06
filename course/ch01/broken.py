"""Chapter 1, broken: this `merge` has one fault. Run it, look at the numbers, find the line.

    python -m course.ch01.broken
    python -m course.check 1 --broken       when you think that it is mended
"""
from course.ch01 import village
from nanochat.system import cli


def merge(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """The token ids of one word; course/ch01/exercise.py has the rule."""
    if word in ranks:
        return [ranks[word]]
    pieces = [bytes([byte]) for byte in word]
    while True:
        candidates = [(i, ranks[left + right]) for i, (left, right) in enumerate(zip(pieces, pieces[1:]))
                      if left + right in ranks]
        if not candidates:
            return [ranks[piece] for piece in pieces]
        i, _ = min(candidates)
        pieces[i:i + 2] = [pieces[i] + pieces[i + 1]]


def main(argv: list[str] | None = None) -> None:
    cli.parse(argv, __doc__)
    village.compare(merge)


if __name__ == "__main__":
    cli.run(main)
