"""Sums as people write them: "whats 12x9", "take 8 from 50", "half of 36", "seven eights"; always with the calculator.

A heading of sums.txt is the expression that the calculator gets. Its lines say the expression inside a sentence of
"frames" ("how much is half of 36?"); the lines under "… orders" are sentences of their own. The sums of the exam
(sums.py) are held out here as well: by the expression, whatever words say it.
"""

import random
import re
from typing import Any
from zlib import crc32

from kindergarten.talk import dialogue, worked
from kindergarten.visitors import phrases

_TEXTS = phrases.read("sums.txt")
_FRAMES = _TEXTS.pop("frames")
EXPRESSIONS = [name for name in _TEXTS if not name.endswith("orders")]
# Sums of two numbers are asked most; all other expressions once in three.
_WEIGHTS = [12 if name in ("x+y", "x-y", "x*y", "x/y") else 6 if name == "x+y+z" else
            3 if name in ("x/2", "x*2", "(x+y)*z", "x*y+z") else 1 for name in EXPRESSIONS]
# Nothing but the sum, as it is typed into a calculator; with the signs that a phone's keyboard offers.
BARE = 0.18
_BARE = "{e},{e},{e},{e}=,{e} =,{e}?,{e} = ?,{e}=?,={e}".split(",")
_SIGNS = {"*": "***xX\u00d7", "/": "///:\u00f7", "+": "+", "-": "-"}
_ONES = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen""".split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def in_words(n: int, hyphen: str = "-") -> str:
    """in_words(342) == "three hundred and forty-two"; for numbers below 1,000."""
    if n < 20:
        return _ONES[n]
    if n < 100:
        return _TENS[n // 10 - 2] + (hyphen + _ONES[n % 10] if n % 10 else "")
    return f"{_ONES[n // 100]} hundred" + (f" and {in_words(n % 100, hyphen)}" if n % 100 else "")


def written(rng: random.Random, n: int) -> str:
    """The number as people write it: most often in digits."""
    chance = rng.random()
    if n < 1000 and chance < (0.16 if n <= 20 else 0.07):
        return in_words(n, rng.choice("- "))
    return f"{n:,}" if n >= 1000 and chance < 0.3 else str(n)


def numbers(rng: random.Random, expression: str) -> dict[str, int]:
    """Numbers for the letters of an expression, such that its value is whole and not below zero."""
    most = 4 if rng.random() < 0.06 else 3
    while True:
        # The number of digits is drawn first, or nine numbers in ten would have three.
        names = {name: rng.randint(1, 10 ** rng.randint(1, most) - 1) for name in re.findall("[w-z]", expression)}
        if "*" in expression and names.get("y", 1) > 99:
            names["y"] %= 100
        if divisor := re.search(r"/(\d+|y)", expression):  # exact: the quotient is drawn, and multiplied
            names["x"] = rng.randint(1, 10 ** rng.randint(1, 3) - 1) * int(names.get("y", 0) or divisor[1])
        if names["x"] < 10_000 and 0 <= value_of(fill(expression, names)) < 10**7:
            return names


def fill(expression: str, names: dict[str, int]) -> str:
    """fill("x*2", {"x": 12}) == "12*2"."""
    return re.sub("[w-z]", lambda match: str(names[match[0]]), expression)


def typed(rng: random.Random, expression: str) -> str:
    """The expression as it is typed: "12*3", "12 x 3", "100 : 4"."""
    blank = rng.choice(("", "", " "))
    return re.sub("[*/+-]", lambda match: f"{blank}{rng.choice(_SIGNS[match[0]])}{blank}", expression)


def value_of(expression: str) -> int:
    """The value of an expression that only this file makes; divisions are exact."""
    return int(eval(expression.replace("/", "//")))  # made of digits and signs, by `fill`


def of_the_exam(expression: str) -> bool:
    """Whether sums.py asks this expression in its exam."""
    return crc32(expression.encode()) % 8 == 0


def answer(expression: str) -> list[dict[str, str]]:
    """The worked reply: the call of the calculator, then "12*9 = 108."."""
    value = value_of(expression)
    return worked(expression, value, f"{expression} = {value}.")


def ask(rng: random.Random, exam: bool = False) -> tuple[str, str]:
    """(what a visitor types, the expression)."""
    name, = rng.choices(EXPRESSIONS, _WEIGHTS)
    drawn = numbers(rng, name)
    while of_the_exam(fill(name, drawn)):
        drawn = numbers(rng, name)
    slots = {letter: written(rng, n) for letter, n in drawn.items()}
    if rng.random() < BARE:
        return rng.choice(_BARE).format(e=typed(rng, fill(name, drawn))), fill(name, drawn)
    orders = _TEXTS.get(f"{name} orders")
    if orders and rng.random() < 0.35:
        return phrases.say(rng, orders, exam, **slots), fill(name, drawn)
    form = phrases.expand(rng, rng.choice(_TEXTS[name])).format_map(slots)
    if name == "x*y" and drawn["y"] < 10 and drawn["x"] < 13 and rng.random() < 0.1:
        form = f"{in_words(drawn['x'])} {in_words(drawn['y'])}{'es' if drawn['y'] == 6 else 's'}"
    return phrases.say(rng, _FRAMES, exam, e=form), fill(name, drawn)


def lesson(rng: random.Random, exam: bool = False) -> dict[str, Any]:
    question, expression = ask(rng, exam)
    return dialogue(question, answer(expression))
