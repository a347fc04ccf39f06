"""Choices as people ask them: "which is bigger, a horse or a cat", "who says moo: cow, sheep or duck", "A) wet B) hot".

The reply says the fact, as everywhere else, and no letter: the letter was wrong more often than the fact (docs/LOG.md).
What the village's exam asks (facts.py) is not asked here either.
"""

import random
from typing import Any, NamedTuple

from kindergarten import world as lists
from kindergarten.facts import held_out
from kindergarten.talk import dialogue
from kindergarten.visitors import phrases, school, zoo
from kindergarten.world import an

_ASKED = phrases.read("choices.txt")
# Words of a kind, for "which of these is a colour?".
_KINDS = {"animal": [animal.name for animal in zoo.ZOO], "colour": lists.COLOURS, "day": lists.DAYS,
          "month": lists.MONTHS,
          "number": lists.NUMBERS[1:],
          "fruit": "apple pear plum cherry grape strawberry fig date berry".split(),
          "food": "bread cheese soup rice pasta cake pizza salad honey porridge stew toast".split(),
          "toy": "doll ball puzzle puppet drum marble teddy".split(), "job": lists.JOBS,
          "bird": [animal.name for animal in zoo.ZOO if animal.group == "bird"],
          "insect": [animal.name for animal in zoo.ZOO if animal.group == "insect"],
          "season": "spring summer autumn winter".split(),
          "thing to wear": "hat coat scarf cap shoe sock shirt dress".split(),
          "vehicle": "car bus train boat truck bike plane ship".split(),
          "part of the body": "hand foot nose ear leg arm head knee".split()}
# What animals do instead of "says woof".
_VERBS = {"woof": "barks", "meow": "meows", "moo": "moos", "quack": "quacks", "oink": "oinks", "roar": "roars",
          "hoot": "hoots", "neigh": "neighs", "buzz": "buzzes", "hiss": "hisses", "cluck": "clucks", "howl": "howls"}
_NOT_MIXED = {"bird": "animal", "insect": "animal", "fruit": "food"}
_TOPICS = {"sound": 8, "home": 4, "food": 4, "legs": 3, "cover": 1, "fly": 8, "swim": 4, "eggs": 6, "group": 2}
WEIGHTS = {"bigger": 8, "biggest": 4, "who": 13, "opposite": 7, "number": 7, "parity": 2, "order": 6, "follows": 4,
           "young": 3, "kindof": 4, "not": 3}


class Choice(NamedTuple):
    heading: str          # of choices.txt
    words: dict[str, str]  # the slots of its frames
    options: list[str]
    answer: str           # one of the options
    reply: str
    question: str         # in plain words, for a quiz with letters


def _bigger(rng: random.Random) -> Choice:
    small, big = zoo.compared(rng)
    word, right = rng.choice((("bigger", big), ("larger", big), ("smaller", small), ("bigger", big)))
    shown = "smaller" if right is small else "bigger"
    options = [an(animal.name) for animal in (small, big)]
    reply = f"The {right.name} is {shown}."
    return Choice("bigger", {"word": word}, options, an(right.name), reply, f"Which is {word}?")


def _biggest(rng: random.Random) -> Choice:
    """Three or four animals; the right one differs so much in size from every other that nobody would mix them up."""
    is_biggest = rng.random() < 0.55
    right = rng.choice(zoo.ZOO)
    others = [animal for animal in zoo.ZOO if abs(right.size - animal.size) >= 8
              and (right.size > animal.size) == is_biggest and not zoo.is_asked_by_the_exam(right, animal)]
    if len(others) < 3:
        return _biggest(rng)
    word = rng.choice(("biggest", "largest", "biggest") if is_biggest else ("smallest", "smallest", "tiniest"))
    article = rng.choice((an, an, "the {}".format, str))
    options = [article(animal.name) for animal in (right, *rng.sample(others, rng.choice((2, 2, 3))))]
    shown = "biggest" if is_biggest else "smallest"
    return Choice("biggest", {"word": word}, options, options[0], f"The {right.name} is the {shown}.",
                  f"Which is the {word}?")


def _parity(rng: random.Random) -> Choice:
    """The even or the odd number among three or four."""
    parity = rng.choice((0, 1))
    digits = rng.choice((10, 100, 100))
    right = rng.randrange(parity or 2, digits, 2)
    others = rng.sample(range(1 - parity or 2, digits, 2), rng.choice((2, 2, 3)))
    word = ("even", "odd")[parity]
    return Choice("parity", {"word": word}, [str(right), *map(str, others)], str(right), f"{right} is {word}.",
                  f"Which number is {word}?")


def _who(rng: random.Random) -> Choice:
    count = rng.choice((2, 2, 3, 3, 4))
    while True:
        topic, right = zoo.draw(rng, _TOPICS)
        others = rng.sample(zoo.ZOO, count - 1)
        value = _value(topic, right)
        key = f"reverse fact {right.name} {zoo.RELATIONS.get(topic)}"
        is_held_out = right.name in lists.ANIMAL_TABLE and held_out(key)
        is_only_one = all(_value(topic, other) not in ("", value) for other in others)
        if value not in ("", "no") and is_only_one and not is_held_out:
            break
    says = f"says {right.sound}"
    sound = rng.choice((says, says, _VERBS.get(right.sound, says), f'says "{right.sound}"', f"goes {right.sound}"))
    does = {"sound": sound, "home": f"lives {right.home}", "food": f"eats {right.food}",
            "legs": f"has {right.legs} legs", "cover": f"has {right.cover}", "fly": "can fly", "swim": "can swim",
            "eggs": "lays eggs", "group": f"is {an(right.group)}"}[topic]
    names = [animal.name for animal in (right, *others)]
    article = rng.choice(("a", "the", ""))
    options = [an(name) if article == "a" else f"{article} {name}".strip() for name in names]
    return Choice("who", {"does": does}, options, options[0], f"The {right.name} {does}.", f"Which one {does}?")


def _value(topic: str, animal: zoo.Animal) -> str:
    """What tells the right animal from others; "" where nothing does."""
    if topic in ("fly", "swim", "eggs"):
        return {True: "yes", False: "no"}[topic[0] in animal.abilities]
    if topic in ("sound", "home", "food", "legs", "cover", "group"):
        value = str(getattr(animal, topic))
        return "" if value in ("nothing", "animal") else value
    return ""


def _opposite(rng: random.Random) -> Choice:
    first, second = rng.choice(school.OPPOSITES)
    others = {word for pair in rng.sample(school.OPPOSITES, 6) for word in pair} - {first, second}
    others -= {word for pair in school.OPPOSITES if first in pair for word in pair}
    options = [second, *rng.sample(sorted(others), rng.choice((1, 2, 2, 3)))]
    quoted = rng.choice((first, first, f'"{first}"', f"'{first}'"))
    return Choice("opposite", {"q": quoted}, options, second, f"The opposite of {first} is {second}.",
                  f"The opposite of {first} is")


def _number(rng: random.Random) -> Choice:
    less, more = sorted(rng.sample(range(1, 10 ** rng.choice((2, 2, 3))), 2))
    if rng.random() < 0.3:  # 67 and 76
        less, more = sorted((int(f"{more:02}"[::-1]), more))
    if less == more or held_out(f"order {less} {more}"):
        return _number(rng)
    word, right = rng.choice((("bigger", more), ("larger", more), ("more", more), ("greater", more), ("higher", more),
                              ("smaller", less), ("less", less), ("lower", less)))
    shown = "bigger" if right == more else "smaller"
    options, reply = [str(less), str(more)], f"{right} is {shown}."
    return Choice("number", {"word": word}, options, str(right), reply, f"Which is {word}?")


def _order(rng: random.Random) -> Choice:
    circle, cycle = rng.choice(((lists.DAYS, "week"), (lists.MONTHS, "year")))
    early, late = sorted(rng.sample(range(len(circle)), 2))
    word, at = rng.choice((("first", early), ("earlier", early), ("first", early), ("later", late), ("last", late)))
    shown = "first" if at == early else "later"
    return Choice("order", {"word": word, "cycle": cycle}, [circle[early], circle[late]], circle[at],
                  f"{circle[at]} comes {shown}.", f"Which comes {word}?")


def _follows(rng: random.Random) -> Choice:
    circle, cycle = rng.choice(((lists.DAYS, "week"), (lists.MONTHS, "year")))
    at, way = rng.randrange(1, len(circle) - 1), rng.choice(("after", "before"))
    right = circle[at - 1] if way == "after" else circle[at + 1]
    wrong = rng.choice([name for name in circle if name not in (right, circle[at])])
    b, c = rng.sample((right, wrong), 2)
    words = {"a": circle[at], "b": b, "c": c, "r": right, "way": way, "cycle": cycle}
    return Choice("follows", words, [right, wrong], right, f"{circle[at]} comes {way} {right}.",
                  f"{circle[at]} comes right {way}")


def _young(rng: random.Random) -> Choice:
    animal = rng.choice([animal for animal in zoo.ZOO if animal.young != animal.name])
    others = rng.sample(sorted({other.young for other in zoo.ZOO} - {animal.young}), rng.choice((1, 2, 2, 3)))
    options = [animal.young, *others]
    if rng.random() < 0.3:
        options = [an(option) for option in options]
    return Choice("young", {"n": animal.name, "an": an(animal.name)}, options, options[0],
                  f"A baby {animal.name} is called {an(animal.young)}.", f"A baby {animal.name} is called")


def _kind(rng: random.Random) -> Choice:
    kind, other = rng.sample(list(_KINDS), 2)
    while _NOT_MIXED.get(kind) == other or _NOT_MIXED.get(other) == kind or {kind, other} == {"bird", "insect"}:
        kind, other = rng.sample(list(_KINDS), 2)
    is_one = rng.random() < 0.55
    right = rng.choice(_KINDS[kind if is_one else other])
    others = rng.sample(_KINDS[other if is_one else kind], rng.choice((2, 2, 3)))
    akind = an(kind)
    reply = f"{right.capitalize()} is {akind}." if is_one else f"{right.capitalize()} is not {akind}."
    return Choice("kindof" if is_one else "not", {"kind": kind, "akind": akind}, [right, *others], right, reply,
                  f"Which is {'' if is_one else 'not '}{akind}?")


LETTERED = 0.25  # of the lists of options
_MAKERS = {"bigger": _bigger, "biggest": _biggest, "who": _who, "opposite": _opposite, "number": _number,
           "parity": _parity, "order": _order, "young": _young, "follows": _follows, "kindof": _kind, "not": _kind}


def _joined(rng: random.Random, options: list[str]) -> str:
    """The options as a visitor types them: between words, commas, strokes or blanks, or behind letters."""
    if rng.random() < LETTERED:
        letters = rng.choice(("ABCD", "ABCD", "abcd", "1234"))
        form = rng.choice(("{}) {}", "{}) {}", "{}) {}", "{}: {}", "{} {}", "{}. {}", "({}) {}", "{}={}"))
        between = rng.choice((" ", " ", " ", ", ", "\n", "; "))
        return between.join(form.format(*pair) for pair in zip(letters, options, strict=False))
    if len(options) == 2:
        return rng.choice(("{} or {}", "{} or {}", "{} or {}", "{} / {}", "{}, {}")).format(*options)
    *first, last = options
    if rng.random() < 0.12:
        return rng.choice((" ", ", ", " / ")).join(options)
    return rng.choice((", ", ", ", " / ", " or ")).join(first) + rng.choice((" or ", ", ", ", or ")) + last


def lesson(rng: random.Random, exam: bool = False) -> dict[str, Any]:
    kind, = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
    choice = _MAKERS[kind](rng)
    options = rng.sample(choice.options, len(choice.options))
    words = {"a": options[0], "b": options[1], "options": _joined(rng, options), "both": " and ".join(options),
             **choice.words}
    frames = _ASKED[choice.heading]
    if rng.random() < 0.08:  # a quiz, with the question in plain words
        frames = _ASKED["letters"]
        words["text"] = choice.question + rng.choice((" ", " ", ": ", "\n")) + words["options"]
    return dialogue(phrases.say(rng, frames, exam, **words), choice.reply)
