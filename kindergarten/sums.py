"""Sums for the calculator: "What is 123 * 456?" → 123*456 = 56088. An eighth of all sums belongs to the exam."""

import random
from typing import Any
from zlib import crc32

from kindergarten.talk import dialogue, worked

SUMS = ("What is {x} {o} {y}?", "Compute {x} {o} {y}.", "What is {x} {word} {y}?", "How much is {x} {word} {y}?",
        "{x} {o} {y} = ?")
OPERATORS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}


def _sum(rng: random.Random, held_out: bool) -> tuple[str, str, int]:
    """(question, expression, value) with numbers of one to three digits; `held_out`: of the exam."""
    while True:
        sign = rng.choice("+-**/")  # products twice as often
        # The number of digits is drawn first; else nine numbers in ten would have three.
        x, y = (rng.randint(1, 10 ** rng.randint(1, 3) - 1) for _ in range(2))
        x = {"-": x + y, "/": x * y}.get(sign, x)  # no difference below zero, no fraction
        expression = f"{x}{sign}{y}"
        if x < 1000 and (crc32(expression.encode()) % 8 == 0) == held_out:
            value = {"+": x + y, "-": x - y, "*": x * y, "/": x // y}[sign]
            return rng.choice(SUMS).format(x=x, y=y, o=sign, word=OPERATORS[sign]), expression, value


def lesson(rng: random.Random) -> dict[str, Any]:
    """A conversation: "What is 123 * 456?", worked with the calculator: "123*456 = 56088."."""
    question, expression, value = _sum(rng, held_out=False)
    return dialogue(question, worked(expression, value, f"{expression} = {value}."))


def exam(seed: int, n: int) -> list[dict[str, Any]]:
    """`n` different sums {"question", "answer", "required", "forbidden"}; no lesson has them."""
    rng = random.Random(f"sums {seed}")
    items: dict[str, dict[str, Any]] = {}
    while len(items) < n:
        question, expression, value = _sum(rng, held_out=True)
        items[expression] = {"question": question, "answer": f"{expression} = {value}.", "required": [str(value)],
                             "forbidden": []}
    return list(items.values())
