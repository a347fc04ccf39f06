"""Word problems as people tell them: "i had 12 apples and my mum gave me 5 more, how many now".

A heading of problems.txt is the expression in the numbers of the story, in their order. The reply is worked with the
calculator and ends as the village's problems do (problems.py), whose exam of structures stays as it is. {I} and {i} are
the hero ("I", "my mum", "Paula"), {P} somebody, {T} things, {T1} one of them, {G} and {G1} people or animals.
"""

import random
import re
from typing import Any

from kindergarten.talk import dialogue, worked
from kindergarten.visitors import phrases
from kindergarten.visitors.calculate import in_words, value_of
from kindergarten.visitors.names import FIRST_NAMES
from kindergarten.world import DAYS, NAMES

_STORIES = phrases.read("problems.txt")
_WEIGHTS = [{"a+b": 5, "a-b": 6, "a*b": 6, "a/b": 6}.get(name, 2) for name in _STORIES]
_THINGS = """apple pear plum sweet candy cookie biscuit cake marble sticker book pencil pen card coin stamp shell stone
    flower rose egg ball kite toy car cup plate chair lamp sock button bead nut carrot bean orange cherry grape
    strawberry muffin scone sandwich photo picture page stamp block brick cat dog hen duck bird sheep cow horse rabbit
    fish frog bee ant mouse robin sparrow pigeon squirrel lamb pony tree leaf star letter key spoon jar glass bag
    point goal song""".split()
_GROUPS = """child friend boy girl horse cow hen dog cat rabbit table box bag car boat tree room shelf basket teacher
    farmer baker student team family mouse bird monkey house wagon""".split()
_BOXES = "box box bag basket jar pack tin nest shelf plate bowl bucket drawer sack crate bus".split()
_PLACES = "park garden pond class school box basket room barn field shop library house zoo lake tree bus".split()
_PLURALS = {"child": "children", "mouse": "mice", "sheep": "sheep", "fish": "fish", "leaf": "leaves", "box": "boxes",
            "glass": "glasses", "cherry": "cherries", "strawberry": "strawberries", "candy": "candies",
            "pony": "ponies", "family": "families", "shelf": "shelves", "bus": "buses", "goal": "goals"}
_RELATIVES = """mum mother dad father sister brother grandma grandpa aunt uncle friend teacher neighbour cousin son
    daughter wife husband cat dog""".split()


def _plural(noun: str) -> str:
    return _PLURALS.get(noun, noun + "s")


def _numbers(rng: random.Random, expression: str) -> dict[str, int]:
    """Numbers with which the story makes sense: nothing below zero, divisions without a rest."""
    small = re.search(r"[*/]", expression) is not None
    while True:
        numbers = {name: rng.randint(2, rng.choice((9, 12, 20) if small else (9, 20, 50, 99)))
                   for name in sorted(set(re.findall("[abc]", expression)))}
        if divisor := re.search(r"a/(b|2)", expression):
            numbers["a"] *= numbers.get("b", 2) if divisor[1] == "b" else 2
        if re.match("a-b[*]c", expression):
            numbers["a"] = rng.choice((20, 30, 50, 100, numbers["a"] * 5))
        is_possible = not expression.startswith("a-b") or numbers["a"] > numbers["b"]
        if is_possible and value_of(_filled(expression, numbers)) > 0:
            return numbers


def _filled(expression: str, numbers: dict[str, int]) -> str:
    return re.sub("[abc]", lambda match: str(numbers[match[0]]), expression)


def _people(rng: random.Random) -> dict[str, str]:
    """Who the story is about; "I" in four stories of ten, else a relative or somebody with a name."""
    names = rng.sample([*NAMES, *FIRST_NAMES], 3)
    people = [f"my {relative}" if rng.random() < 0.35 else name
              for name, relative in zip(names, rng.sample(_RELATIVES, 3), strict=True)]
    pronoun = rng.choice(("she", "he", "they"))
    slots = {"P": people[0], "P2": people[1], "P3": people[2], "p": pronoun if people[0] in names else "he"}
    if (chance := rng.random()) < 0.42:
        return slots | {"I": "I", "i": "I", "me": "me"}
    if chance < 0.52:
        return slots | {"I": "we", "i": "we", "me": "us"}
    hero = names[0] if chance < 0.8 else f"my {rng.choice(_RELATIVES)}"
    he = rng.choice(("he", "she"))
    return slots | {"I": hero, "i": he, "me": {"he": "him", "she": "her"}[he], "P": people[1], "P2": people[2],
                    "P3": names[1], "p": he}


def _mended(text: str) -> str:
    """The verb agrees with "I", "we" or a name: stories are written with either."""
    for wrong, right in ((r"\b(I|we|they|do I|do we) has\b", r"\1 have"), (r"\bdoes (I|we|they)\b", r"do \1"),
                         (r"\bdo (he|she)\b", r"does \1"), (r"\b(he|she) (have|am given)\b", r"\1 has"),
                         (r"\bwe am\b", "we are"), (r"\bhave (he|she)\b", r"has \1")):
        text = re.sub(wrong, right, text)
    return text


def _things(rng: random.Random) -> dict[str, str]:
    """Everything in a story that is neither a person nor a number of the expression."""
    thing, group, box, day = rng.choice(_THINGS), rng.choice(_GROUPS), rng.choice(_BOXES), rng.randrange(7)
    return {"T": _plural(thing), "T1": thing, "G": _plural(group), "G1": group, "box": box, "B": _plural(box),
            "place": rng.choice(_PLACES), "unit": rng.choice(("day", "week", "hour", "morning")),
            "part": rng.choice(("parts", "pounds", "minutes", "seeds", "wheels", "pages")),
            "team": rng.choice(("teams", "groups", "rows", "cars", "boats")),
            "day1": DAYS[day], "day2": DAYS[(day + 1) % 7]}


def ask(rng: random.Random, exam: bool = False) -> tuple[str, str]:
    """(the story with its question, the expression)."""
    expression, = rng.choices(list(_STORIES), _WEIGHTS)
    numbers, in_digits = _numbers(rng, expression), rng.random() < 0.88
    written = {name: str(n) if in_digits or n > 99 else in_words(n) for name, n in numbers.items()}
    text = phrases.draw(rng, _STORIES[expression], exam).format_map({**_people(rng), **_things(rng), **written})
    text = re.sub(r"(?<=[.?]) (how|what|then|later|today)", lambda match: " " + match[1].capitalize(), _mended(text))
    return phrases.voice(rng, text + rng.choice(("?", "?", "?", "", ".")), chatter=0.6), _filled(expression, numbers)


def answer(expression: str) -> list[dict[str, str]]:
    value = value_of(expression)
    return worked(expression, value, f"#### {value}")


def lesson(rng: random.Random, exam: bool = False) -> dict[str, Any]:
    question, expression = ask(rng, exam)
    return dialogue(question, answer(expression))
