"""Chapter 10, broken: sixteen conversations are divided into lessons and an exam, and the exam is worth nothing.

    python -m course.ch10.broken
    python -m course.check 10 --broken      when you think that it is mended
"""
import random
from pathlib import Path
from typing import Any

from nanochat.system import cli, files

ADA = Path(__file__).resolve().parents[2] / "docs/ada.jsonl"


def first_question(conversation: dict[str, Any]) -> str:
    return next(str(message["content"]) for message in conversation["messages"] if message["role"] == "user")


def divide(conversations: list[dict[str, Any]], copies: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(lessons, exam): a quarter of the conversations is for the exam; every lesson is read `copies` times."""
    repeated = conversations * copies
    random.Random(0).shuffle(repeated)
    size = len(repeated) // 4
    return repeated[size:], repeated[:size]


def main(argv: list[str] | None = None) -> None:
    cli.parse(argv, __doc__)
    lessons, exam = divide(files.read_jsonl(ADA), copies=20)
    learnt = {first_question(lesson) for lesson in lessons}
    asked = sorted({first_question(item) for item in exam})
    print(f"{len(lessons)} lessons, {len(exam)} items in the exam")
    for question in asked:
        print(f"  {'in the lessons' if question in learnt else 'new':15} {question}")


if __name__ == "__main__":
    cli.run(main)
