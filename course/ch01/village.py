"""Chapter 1: texts of the village, the tokens that they teach, and a comparison of two ways to encode.

    python -m course.ch01.village       your `merge` from course/ch01/exercise.py beside the project's
"""
import random
from collections.abc import Callable
from functools import cache

from course.ch01 import exercise
from kindergarten import stories
from kindergarten.world import World
from nanochat.system import cli
from nanochat.tokenizer import reference

Merge = Callable[[bytes, dict[bytes, int]], list[int]]
NUM_MERGES = 300  # learnt in a second, also by the slow reference


@cache
def words() -> list[bytes]:
    """The words of forty pages of stories."""
    rng, world = random.Random(0), World(1)
    return [word.encode() for _ in range(40) for word in reference.split(stories.story(rng, world))]


@cache
def merges() -> list[tuple[int, int]]:
    """The pairs that these words teach, in the order in which they are learnt."""
    return reference.learn(words(), NUM_MERGES)


@cache
def ranks() -> dict[bytes, int]:
    """Each token's bytes → its id."""
    tokens = [bytes([byte]) for byte in range(256)]
    for first, second in merges():
        tokens.append(tokens[first] + tokens[second])
    return {token: number for number, token in enumerate(tokens)}


def shown(ids: list[int]) -> str:
    """shown([97, 98]) == "a|b"."""
    tokens = list(ranks())
    return "|".join(tokens[number].decode(errors="replace") for number in ids)


def compare(merge: Merge) -> None:
    """Prints how many tokens a text costs by `merge` and by the project's reference, and some words that differ."""
    table = ranks()
    unseen = [word for word in dict.fromkeys(words()) if word not in table]
    ours = {word: merge(word, table) for word in unseen}
    theirs = {word: reference.merge(word, table) for word in unseen}
    print(f"{len(unseen)} different words that are no token: {sum(map(len, unseen))} bytes, "
          f"{sum(map(len, ours.values()))} tokens by this merge, {sum(map(len, theirs.values()))} by the reference")
    differ = [word for word in unseen if ours[word] != theirs[word]]
    print(f"{len(differ)} of them are cut differently")
    for word in differ[:6]:
        print(f"  {shown(ours[word]):24} this merge\n  {shown(theirs[word]):24} the reference")


def main(argv: list[str] | None = None) -> None:
    cli.parse(argv, __doc__)
    compare(exercise.merge)


if __name__ == "__main__":
    cli.run(main)
