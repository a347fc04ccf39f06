"""Word problems as people tell them: "i had 12 apples and my mum gave me 5 more, how many now".

A heading of problems.txt is the expression in the numbers of the story, in their order. The reply is worked with the
calculator and ends as the village's problems do (problems.py), whose exam of structures stays as it is. {I} and {i} are
the hero ("I", "my mum", "Paula"), {my} and {me} the hero's, {P} somebody, {T} things, {T1} one of them, {G} and {G1}
people or animals, {W} and {V} two wares, {M} a currency. Stories say "{i} buys" or "{i} buy": `_mended` makes the verb
agree. The problems of strangers often need two or three steps, and so does about half of ours (_WEIGHTS).
"""

import random
import re
from typing import Any

from kindergarten.talk import dialogue, worked
from kindergarten.visitors import phrases
from kindergarten.visitors.calculate import in_words, value_of
from kindergarten.visitors.names import FIRST_NAMES
from kindergarten.world import BOYS, DAYS, GIRLS, NAMES

_STORIES = phrases.read("problems.txt")
_ONE_STEP = {"a+b": 6, "a-b": 9, "a*b": 9, "a/b": 8, "a/2": 3, "a*2": 2, "a*7": 1, "a*12": 1}
_OFTEN = {"a+b-c": 4, "a-b+c": 5, "a-b-c": 3, "a+b+c": 3, "a*b-c": 3, "a*b+c": 3, "a-b*c": 3, "a+a*2": 2}
_WEIGHTS = [_ONE_STEP.get(name) or _OFTEN.get(name, 1) for name in _STORIES]
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
            "pony": "ponies", "family": "families", "shelf": "shelves", "bus": "buses", "sandwich": "sandwiches"}
_FEMALE = "mum mother sister grandma aunt daughter wife".split()
_MALE = "dad father brother grandpa uncle son husband".split()
_WARES = """book pen hat shirt plank drill saw cake coffee cola pizza seat map bag lamp cup plant rose ruler ball
    kite hook burger salad card toy game""".split()
_VERBS = "|".join("""
    lose eat give sell break buy find spend pay save earn get take bake make pick need want use put drop share
    cut see read collect receive own throw walk plant score owe go do drink keep bring win leave add pack
    split pour work drive borrow lend fill hold ride run order cook""".split())
# Words that no synonym and no "4 friends" (for "for") may replace: they decide what is calculated.
_KEPT = r"(?<=[ ,])(for|to|get|give|find|take|eat|make|need|want|have|add|live|many|big|small|little)(?=[ ,.?])"
_RELATIVES = """mum mother dad father sister brother grandma grandpa aunt uncle friend teacher neighbour cousin son
    daughter wife husband cat dog""".split()


def _plural(noun: str) -> str:
    return _PLURALS.get(noun, noun + "s")


def _numbers(rng: random.Random, expression: str, most: int) -> dict[str, int]:
    """Numbers with which the story makes sense: whole, nothing below zero, each division without a rest.

    Sums of pages, miles and prices may be of some hundreds where `most` allows them.
    """
    names = sorted(set(re.findall("[a-d]", expression)))
    factors = set(re.findall(r"(?<=[*/])[a-d]|[a-d](?=[*/])", expression))
    if "(" in expression or re.search(r"a[*/]\d", expression):
        factors = set(names)
    few = 12 if len(names) == 4 or re.search("a[*]b[*]c|a[*]7[*]", expression) else 20
    while True:
        numbers = {name: rng.randint(2, rng.choice((9, 12, few) if name in factors else (9, 20, 50, 99)))
                   for name in names}
        if most > 99 and expression in ("a+b", "a-b") and rng.random() < 0.1:
            numbers["a"] += 10 * rng.randint(5, most // 10 - 10)
        elif expression == "a*b" and rng.random() < 0.15:
            numbers = {"a": rng.randint(2, 9), "b": rng.randint(12, 99)}
        if divisor := re.search(r"a/(b|2)", expression):
            numbers["a"] *= numbers.get("b", 2) if divisor[1] == "b" else 2
        elif divisor := re.match(r"[(]a([+-])b[)]/(c|2)", expression):  # the quotient is drawn, and multiplied
            total = rng.randint(2, 12) * (numbers["c"] if divisor[2] == "c" else 2)
            numbers["a"] = total + numbers["b"] if divisor[1] == "-" else total - numbers["b"]
        if re.match("a-b[*]c", expression):
            numbers["a"] = rng.choice((20, 30, 50, 100, numbers["b"] * numbers["c"] + numbers["a"]))
        is_possible = min(numbers.values()) > 1 and ("a-b" not in expression or numbers["a"] > numbers["b"])
        is_possible = is_possible and (expression != "a/b*c" or numbers["b"] != numbers["c"])
        is_whole = "b/c" not in expression or numbers["a"] * numbers["b"] % numbers["c"] == 0
        if is_possible and is_whole and value_of(_filled(expression, numbers)) > 0:
            return numbers


def _filled(expression: str, numbers: dict[str, int]) -> str:
    return re.sub("[a-d]", lambda match: str(numbers[match[0]]), expression)


def _people(rng: random.Random) -> dict[str, str]:
    """Who the story is about; "I" in four stories of ten, else a relative or somebody with a name."""
    names = rng.sample([*NAMES, *FIRST_NAMES], 3)
    people = [f"my {relative}" if rng.random() < 0.35 else name
              for name, relative in zip(names, rng.sample(_RELATIVES, 3), strict=True)]
    slots = {"P": people[0], "P2": people[1], "P3": people[2], "p": _pronoun(rng, people[0])}
    if (chance := rng.random()) < 0.42:
        return slots | {"I": "I", "i": "I", "me": "me", "my": "my"}
    if chance < 0.52:
        return slots | {"I": "we", "i": "we", "me": "us", "my": "our"}
    hero = names[0] if chance < 0.8 else f"my {rng.choice(_RELATIVES)}"
    he = _pronoun(rng, hero)
    me, my = {"he": ("him", "his"), "she": ("her", "her")}[he]
    others = {"P": people[1], "P2": people[2], "P3": names[1], "p": _pronoun(rng, people[1])}
    return slots | others | {"I": hero, "i": he, "me": me, "my": my}


def _pronoun(rng: random.Random, person: str) -> str:
    relative = person.removeprefix("my ")
    if relative in GIRLS or relative in _FEMALE or person == relative and person[-1] == "a":
        return "she"
    if relative in BOYS or relative in _MALE:
        return "he"
    return rng.choice(("she", "he"))


def _mended(text: str, hero: str) -> str:
    """The verb agrees with the hero ("I", "we" or a name): stories are written with either."""
    for wrong, right in ((r"\b(I|we|do I|do we) has\b", r"\1 have"), (r"\bdoes (I|we|they)\b", r"do \1"),
                         (r"\bdo (he|she)\b", r"does \1"), (r"\b(has|is|was) (we|they)\b", _plural_verb),
                         (r"\b(we|they) (has|is|was|am)\b", _plural_verb), (r"\bhas I\b", "have I"),
                         (r"\bis I\b", "am I"), (r"\bI is\b", "I am"), (r"\bam (he|she)\b", r"is \1"),
                         (r"\bhave (he|she)\b", r"has \1"),
                         (rf"\b(I|we|they) ({_VERBS})e?s\b", r"\1 \2"),
                         (rf"\b((?:I|we) (?:\w+ ){{1,5}}(?:and|but|then)) ({_VERBS})e?s\b", r"\1 \2")):
        text = re.sub(wrong, right, text)
    if hero not in ("I", "we"):
        text = re.sub(rf"\b((?:he|she|{hero}) (?:\w+ ){{1,5}}(?:and|but|then)) ({_VERBS})\b", r"\1 \2s", text)
        text = re.sub(rf"(\w+ |)\b(he|she|{hero}) ({_VERBS}|have|am)\b", _singular_verb, text)
    text = re.sub(r"\ba (?=[aeio]|hour)(?!one)", "an ", text)
    return re.sub("(?<=[.?!] )[a-z]", lambda match: match[0].upper(), text)


def _plural_verb(match: re.Match[str]) -> str:
    plural = {"has": "have", "is": "are", "was": "were", "am": "are"}
    return " ".join(plural.get(word, word) for word in match[0].split())


def _singular_verb(match: re.Match[str]) -> str:
    if match[1].strip().lower() in ("do", "does", "did", "can", "must", "will", "should", "could"):
        return match[0]
    singular = {"have": "has", "am": "is", "go": "goes", "do": "does"}
    return f"{match[1]}{match[2]} {singular.get(match[3], match[3] + 's')}"


def _things(rng: random.Random) -> dict[str, str]:
    """Everything in a story that is neither a person nor a number of the expression."""
    thing, group, box, day = rng.choice(_THINGS), rng.choice(_GROUPS), rng.choice(_BOXES), rng.randrange(7)
    ware, other = rng.sample(_WARES, 2)
    return {"T": _plural(thing), "T1": thing, "G": _plural(group), "G1": group, "box": box, "B": _plural(box),
            "place": rng.choice(_PLACES), "unit": rng.choice(("day", "week", "hour", "morning")),
            "part": rng.choice(("parts", "pounds", "minutes", "seeds", "wheels", "pages")),
            "team": rng.choice(("teams", "groups", "rows", "cars", "boats")),
            "W": _plural(ware), "W1": ware, "V": _plural(other), "V1": other,
            "M": rng.choice(("pounds", "dollars", "euros", "pounds", "dollars", "euros", "coins")),
            "day1": DAYS[day], "day2": DAYS[(day + 1) % 7]}


def ask(rng: random.Random, exam: bool = False) -> tuple[str, str]:
    """(the story with its question, the expression)."""
    expression, = rng.choices(list(_STORIES), _WEIGHTS)
    story, people = phrases.draw(rng, _STORIES[expression], exam), _people(rng)
    in_digits = rng.choice((1, 1, 1, 1, 1, 1, 1, 0.5, 0))  # the share of the numbers that stand in digits
    numbers = _numbers(rng, expression, most=99 if re.search("year|old|points|degrees", story) else 500)
    written = {name: str(n) if n > 99 or rng.random() < in_digits else in_words(n) for name, n in numbers.items()}
    text = _mended(story.format_map(people | _things(rng) | written), people["I"])
    if text[-1] not in ".?!":
        text += rng.choice(("?", "?", "?", "", "."))
    in_letters = "|".join(sorted(filter(lambda n: not n.isdigit(), written.values()), key=len, reverse=True)) or "for"
    text = re.sub(rf"{_KEPT}|(?<=[ ,])({in_letters})\b", lambda match: f"{{{match[0]}}}", text)
    said = phrases.voice(rng, text, chatter=0.6, **{word: word for word in re.findall("{(.+?)}", text)})
    return said, _filled(expression, numbers)


def answer(expression: str) -> list[dict[str, str]]:
    value = value_of(expression)
    return worked(expression, value, f"#### {value}")


def lesson(rng: random.Random, exam: bool = False) -> dict[str, Any]:
    question, expression = ask(rng, exam)
    return dialogue(question, answer(expression))
