"""Chapter 7: write a grader that cannot be cheated. (docs/course/07-exams.md)"""
import re  # noqa: F401 (the hint below uses it)
from typing import Any


def grade(item: dict[str, Any], completion: str) -> bool:
    """Whether `completion` is a right answer to the item.

    `item["answer"]` is the right word ("moo"), `item["others"]` are the words that could stand in its place ("meow",
    "baa"). A right answer may think aloud first: "Tom's pet is a cow. A cow says moo." Only the last sentence counts.

    1. The last sentence is what stands after the last of . ! ? and line breaks that has something behind it.
    2. It must have the answer as a whole word; capitals do not matter. "cowboy" does not have the word "cow".
    3. It must have none of the others as a whole word: a list of all words is no answer.
    """
    # Useful: re.split(r"[.!?\n]", text) and re.findall(r"[a-z0-9]+", text.lower())
    raise NotImplementedError
