"""Short stories about the people of the world, true to its facts.

A story is an opening, a plot, perhaps a scene on the way, and an ending. They stand in plots.txt, in a tiny grammar:
`[a|b|c]` is one of its alternatives, `{slot}` somebody or something of this world: {N} the hero, {F} the friend, {O}
somebody else, {P} the {p} the pet and its name, {w} another animal, {d} a day and {d1} the next. So a few hundred
phrases make many millions of stories, and whoever reads enough of them knows who lives where, and with which pet. A new
plot is a new paragraph in plots.txt.

>>> story(random.Random(1), World(0)).count("{")
0

Not here: plain statements of the facts, drills of days and numbers (prose.py).
"""

import random
import re
from functools import lru_cache
from pathlib import Path

from nanochat.kindergarten import world as lists
from nanochat.kindergarten.world import World, an, upper

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
