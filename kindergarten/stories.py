"""Short stories about the people of the world, true to its facts, and plain prose that states them.

A story is an opening, a plot, perhaps a scene on the way, and an ending. They stand in plots.txt, in a tiny grammar:
`[a|b|c]` is one of its alternatives, `{slot}` somebody or something of this world: {N} the hero, {F} the friend, {O}
somebody else, {P} the {p} the pet and its name, {w} another animal, {d} a day and {d1} the next. So a few hundred
phrases make many millions of stories, and whoever reads enough of them knows who lives where, and with which pet. A new
plot is a new paragraph in plots.txt.

>>> story(random.Random(1), World(0)).count("{")
0

`prose` states the facts plainly: portraits of people, animals and toys, lists of who lives where, pages about the days,
the months, numbers and sizes. It has every fact, but never a question: those are lessons (facts.py, choices.py).
"""

import random
import re
from functools import lru_cache
from pathlib import Path

from kindergarten import world as lists
from kindergarten.world import Fact, World, an, upper

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_THINGS = [thing for thing in lists.THINGS if thing not in lists.TOYS]  # toys have their own colours
_COUNTS = [", ".join(lists.NUMBERS[1 : n + 1]) for n in range(10)]  # "one, two, three"


def _read_plots() -> dict[str, list[str]]:
    """The paragraphs of plots.txt under each of its headings."""
    sections = {}
    for paragraph in (Path(__file__).parent / "plots.txt").read_text(encoding="ascii").strip().split("\n\n"):
        if paragraph.startswith("# "):
            section = sections.setdefault(paragraph[2:], [])
        else:
            section.append(paragraph.replace("\n", " "))
    return sections


PLOTS = _read_plots()


def story(rng: random.Random, world: World) -> str:
    """A story of 40 to 170 words, one or two paragraphs."""
    parts = [rng.choice(PLOTS["openings"]), rng.choice(PLOTS["plots"])]
    if rng.random() < 0.6:
        parts.insert(1, rng.choice(PLOTS["scenes"]))
    if rng.random() < 0.7:
        parts.append(rng.choice(PLOTS["endings"]))
    break_after = rng.randrange(len(parts)) if rng.random() < 0.3 else -1
    text = "".join(part + ("\n\n" if i == break_after else " ") for i, part in enumerate(parts)).strip()
    return expand(rng, text).format_map(_slots(rng, world))


def expand(rng: random.Random, text: str) -> str:
    """The text with one alternative chosen in every `[a|b]`, from the inside out."""
    while "[" in text:
        text = _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), text)
    return text


@lru_cache(maxsize=512)
def _person(world: World, name: str, role: str) -> dict[str, str]:
    """The slots of one person; `role` "" (the hero), "F" or "O" stands before each slot: {c}, {Fc}, {aFc}."""
    about = world.people[name]
    he, his, him = ("she", "her", "her") if name in lists.GIRLS else ("he", "his", "him")
    pet, toy = about["pet"], world.toys[about["toy"]]
    sound = world.value(pet, "sound")
    slots = {"he": he, "He": upper(he), "his": his, "His": upper(his), "him": him, "p": pet, "P": about["petname"],
             "s": sound, "S": upper(sound), "pd": world.value(pet, "diet"), "pc": world.value(pet, "cover"),
             "pl": world.value(pet, "lair"), "c": about["colour"], "g": about["garment"], "home": about["home"],
             "food": about["food"], "toy": about["toy"], "tint": toy["tint"], "spot": toy["spot"], "job": about["job"],
             "day": about["day"]}
    named = {role + slot: word for slot, word in slots.items()} | {role or "N": name}
    return named | {f"a{role}{slot}": an(slots[slot]) for slot in ("p", "job", "c")} | {f"A{role}p": upper(an(pet))}


@lru_cache(maxsize=64)
def _animal(world: World, animal: str) -> dict[str, str]:
    sound = world.value(animal, "sound")
    return {"w": animal, "W": upper(animal), "aw": an(animal), "Aw": upper(an(animal)), "ws": sound, "Ws": upper(sound),
            "wd": world.value(animal, "diet"), "wl": world.value(animal, "lair")}


def _slots(rng: random.Random, world: World) -> dict[str, str]:
    """Who and what a story is about: a hero and a friend, a third person, another animal, places, days and numbers."""
    hero, other, spare = rng.sample(lists.NAMES, 3)
    friend = world.people[hero]["friend"]
    small, big = (lists.ANIMALS[rank] for rank in sorted(rng.sample(range(len(lists.ANIMALS)), 2)))
    thing, day, n = rng.choice(_THINGS), rng.randrange(7), rng.randint(3, 9)
    here, there = rng.sample(lists.OUTINGS, 2)
    slots = {"small": small, "asmall": an(small), "big": big, "abig": an(big), "thing": thing,
             "things": lists.THINGS[thing], "d": lists.DAYS[day], "d1": lists.DAYS[(day + 1) % 7],
             "m": rng.choice(lists.MONTHS), "n": lists.NUMBERS[n], "count": _COUNTS[n], "Count": upper(_COUNTS[n]),
             "few": rng.choice(("two", "three")), "at": here, "At": upper(here), "at2": there}
    return (_person(world, hero, "") | _person(world, friend, "F") | _animal(world, rng.choice(lists.ANIMALS))
            | _person(world, spare if other == friend else other, "O") | slots)


def prose(rng: random.Random, world: World) -> str:
    """One to three paragraphs of plain statements about the world, 60 words on average."""
    return "\n\n".join(page(rng, world) for page in rng.choices(*_PAGES, k=rng.randint(1, 3)))


@lru_cache(maxsize=4)
def _facts_by(world: World, field: str) -> dict[str, list[Fact]]:
    """The world's facts grouped by "entity" or by "relation"."""
    groups = {}
    for fact in world.facts:
        groups.setdefault(getattr(fact, field), []).append(fact)
    return groups


def _portrait(rng: random.Random, world: World) -> str:
    """Much of what is true of somebody or something, in any order; people sometimes as he or she after a first time."""
    entity = rng.choice(_SUBJECTS)
    facts = _facts_by(world, "entity")[entity]
    facts = rng.sample(facts, min(len(facts), rng.randint(4, 9)))
    if entity in world.people and rng.random() < 0.3:  # go on with the pet
        facts += rng.sample(_facts_by(world, "entity")[world.value(entity, "pet")], 2)
    sentences = [world.state(rng, fact) for fact in facts]
    if entity in world.people and rng.random() < 0.5:
        he, his = ("She", "Her") if entity in lists.GIRLS else ("He", "His")
        sentences[1:] = [re.sub(f"^{entity}'s", his, re.sub(f"^{entity} (?!and)", he + " ", text))
                         for text in sentences[1:]]
    return rng.choice((f"About {entity}\n", f"{upper(entity)}: ", "", "", "")) + " ".join(sentences)


def _roll_call(rng: random.Random, world: World) -> str:
    """One relation, many entities: as sentences of one form, or as a table."""
    relation = rng.choice(list(lists.RELATIONS))
    facts = rng.sample(_facts_by(world, "relation")[relation], rng.randint(5, 9))
    if rng.random() < 0.3:
        table = rng.choice(("{e}: {v}", "{v}: {e}", "{e} - {v}", "{e}, {v}", "{v} ({e})"))
        return f"{upper(relation)}\n" + "\n".join(table.format(e=fact.entity, v=fact.value) for fact in facts)
    form = rng.choice(lists.RELATIONS[relation].statements)
    return rng.choice((" ", "\n")).join(world.fill(form, fact) for fact in facts)


def _calendar(rng: random.Random, world: World) -> str:
    circle, noun = rng.choice(((lists.DAYS, "day"), (lists.MONTHS, "month")))
    start, length, kind = rng.randrange(len(circle)), rng.randint(3, len(circle)), rng.randrange(6)
    step = 1 if kind % 2 else -1
    names = [circle[(start + step * i) % len(circle)] for i in range(length + 2)]
    if kind < 2:
        order = "in order" if step == 1 else "backwards"
        return rng.choice((f"The {noun}s {order}: ", f"{upper(noun)}s {order}\n", "")) + ", ".join(names) + "."
    word, turn = ("after", "next {n} is") if step == 1 else ("before", "last {n} was")
    form = rng.choice((f"{upper(word)} {{a}} comes {{b}}.", f"The {{n}} {word} {{a}} is {{b}}.",
                       f"If it is {{a}}, the {turn} {{b}}.", f"Two {{n}}s {word} {{a}} comes {{c}}."))
    lines = [form.format(a=a, b=b, c=c, n=noun) for a, b, c in zip(names, names[1:], names[2:])]
    if noun == "month":
        lines += [f"{month} is in {lists.SEASONS[lists.MONTHS.index(month)]}." for month in rng.sample(names, 2)]
    return " ".join(rng.sample(lines, len(lines)) if kind > 3 else lines)


def _counting(rng: random.Random, world: World) -> str:
    start, step, kind = rng.randint(0, 200), rng.choice((1, 1, 1, 1, 2, 5, 10)), rng.randrange(4)
    numbers = [start + step * i for i in range(rng.randint(6, 14))]
    if kind == 0:
        return rng.choice((f"Count by {step}: ", "", "Up: ")) + ", ".join(map(str, numbers)) + "."
    if kind == 1:
        return rng.choice((f"Count down by {step}: ", "Down: ")) + ", ".join(map(str, numbers[::-1])) + "."
    if kind == 2:
        first = rng.randrange(12)
        words = lists.NUMBERS[first:]
        return ", ".join(words) + ". " + " ".join(f"{upper(word)} is {first + i}." for i, word in enumerate(words[:5]))
    return " ".join(form.format(n=n, up=n + 1, down=n - 1) for n in rng.sample(range(1, 200), 6)
                    for form in rng.sample(_NUMBER_FORMS, 2))


_NUMBER_FORMS = ("After {n} comes {up}.", "Before {n} comes {down}.", "{up} is bigger than {n}.",
                 "{n} is more than {down}.", "{up} is one more than {n}.")


def _sizes(rng: random.Random, world: World) -> str:
    if rng.random() < 0.3:
        chain = sorted(rng.sample(lists.ANIMALS, rng.randint(4, 8)), key=lists.ANIMALS.index)
        up = rng.random() < 0.5
        return f"From {'small to big' if up else 'big to small'}: " + ", ".join(chain if up else chain[::-1]) + "."
    forms = ("{A} is bigger than {b}.", "{B} is smaller than {a}.", "The {a1} is bigger than the {b1}.",
             "Beside {a}, {b} is small.")
    lines = []
    for _ in range(rng.randint(5, 9)):
        small, big = sorted(rng.sample(lists.ANIMALS, 2), key=lists.ANIMALS.index)
        a, b = an(big), an(small)
        lines.append(rng.choice(forms).format(a=a, b=b, A=upper(a), B=upper(b), a1=big, b1=small))
    return " ".join(lines)


_SUBJECTS = [*lists.NAMES * 3, *lists.ANIMALS * 2, *lists.TOYS]  # a person has ten facts, an animal five, a toy two
_PAGES = ((_portrait, _roll_call, _calendar, _counting, _sizes), (45, 25, 10, 9, 11))  # pages and their weights
