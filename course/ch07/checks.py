"""What chapter 7 holds of `grade(item, completion)`, and of the mended `is_held_out(problem)`."""
from types import SimpleNamespace
from typing import Any

from course.ch07 import parrot
from course.expect import equal
from kindergarten import facts

SOLUTION = SimpleNamespace(grade=facts.grade)
COW = {"question": "What does a cow say?", "answer": "moo", "others": ["meow", "baa", "oink"]}
YES = {"question": "Is a cow bigger than a cat?", "answer": "yes", "others": ["no"]}


def graded(mine: Any, item: dict[str, Any], completion: str, expected: bool) -> None:
    equal(f"grade({item['answer']!r}, {completion!r})", bool(mine.grade(item, completion)), expected)


def check_right(mine: Any) -> None:
    """right answers are right, with or without capitals and a full stop"""
    for completion in ("A cow says moo.", "Moo", "A cow says MOO!", "moo.\n"):
        graded(mine, COW, completion, True)


def check_wrong(mine: Any) -> None:
    """wrong answers and empty ones are wrong"""
    for completion in ("A cow says baa.", "I do not know.", "", "..."):
        graded(mine, COW, completion, False)


def check_thinking_aloud(mine: Any) -> None:
    """thinking aloud is allowed: the last sentence decides"""
    graded(mine, COW, "A cat says meow. A cow says moo.", True)
    graded(mine, COW, "A cow says moo. A cat says meow.", False)


def check_saying_everything(mine: Any) -> None:
    """the cheat that says everything is wrong"""
    graded(mine, COW, "A cow says meow or baa or oink or moo.", False)
    graded(mine, YES, "yes and no", False)


def check_whole_words(mine: Any) -> None:
    """only whole words count: the cheat that hides the answer in a longer word is wrong"""
    graded(mine, COW, "A cow says smooth.", False)
    graded(mine, YES, "I know: yes.", True)  # "know" has the letters of "no", and is no rival


def mended_shapes(mine: Any) -> None:
    """no shape of a problem is in the lessons and in the exam"""
    sides: dict[tuple[str, ...], set[bool]] = {}
    for problem in parrot.all_problems():
        sides.setdefault(problem.signature, set()).add(bool(mine.is_held_out(problem)))
    both = [signature for signature, found in sides.items() if len(found) == 2]
    assert not both, f"{len(both)} of {len(sides)} shapes are on both sides, e.g. {' '.join(both[0])}"


def mended_sizes(mine: Any) -> None:
    """lessons and exam both have a fair share of the problems"""
    share = sum(map(bool, map(mine.is_held_out, parrot.all_problems()))) / len(parrot.all_problems())
    assert 0.05 < share < 0.6, f"{share:.2f} of the problems are in the exam, expected .05 to .6"
