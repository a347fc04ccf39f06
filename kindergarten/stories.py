"""Short stories about the people of the world, and plain prose that states its facts. Both agree with the world.

A story is an opening, a plot, perhaps a scene on the way, and an ending. They stand in plots.txt, in a tiny grammar:
`[a|b|c]` becomes one of its alternatives, and `{slot}` becomes somebody or something of this world:

    {P} is {ap}. It belongs to {N}, who [works as|is] {ajob}.  →  Momo is a donkey. It belongs to Ruth, who is a baker.

{N} is the hero, {F} the friend and {O} a third person; {P} the {p} is the hero's pet, {w} another animal, {d} a day and
{d1} the day after. So a few hundred phrases make many millions of stories, and a model that reads enough of them
learns who lives where, and with which pet. A new plot is a new paragraph in plots.txt.

>>> story(random.Random(1), World(0)).count("{")
0

`prose` states the facts plainly: portraits of people, animals and toys, lists of who lives where, pages about days,
months, numbers and sizes. It states every fact and never asks: questions are lessons (facts.py, choices.py).
"""

import random
import re
from functools import lru_cache

from kindergarten import world as lists
from kindergarten.world import Fact, World, an, read_text, upper

_INNERMOST_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_THINGS = [thing for thing in lists.THINGS if thing not in lists.TOYS]  # toys have colours of their own
_COUNTS = [", ".join(lists.NUMBERS[1 : n + 1]) for n in range(10)]  # _COUNTS[3] is "one, two, three"


def _read_plots() -> dict[str, list[str]]:
    """The paragraphs of plots.txt by the heading above them: openings, plots, scenes, endings."""
    sections: dict[str, list[str]] = {}
    heading = ""
    for paragraph in read_text("plots.txt").split("\n\n"):
        if paragraph.startswith("# "):
            heading = paragraph[2:]
        else:
            sections.setdefault(heading, []).append(paragraph.replace("\n", " "))
    return sections


PLOTS = _read_plots()


def story(rng: random.Random, world: World) -> str:
    """A story of 40 to 170 words in one or two paragraphs."""
    phrases = [rng.choice(PLOTS["openings"]), rng.choice(PLOTS["plots"])]
    if rng.random() < 0.6:
        phrases.insert(1, rng.choice(PLOTS["scenes"]))
    if rng.random() < 0.7:
        phrases.append(rng.choice(PLOTS["endings"]))
    break_after = rng.randrange(len(phrases)) if rng.random() < 0.3 else -1  # after this phrase a paragraph begins
    text = "".join(phrase + ("\n\n" if i == break_after else " ") for i, phrase in enumerate(phrases)).strip()
    return expand(rng, text).format_map(_slots(rng, world))  # alternatives first: a slot may stand inside one


def expand(rng: random.Random, text: str) -> str:
    """The text with one alternative in place of every `[a|b]`, also where one stands inside another."""
    while "[" in text:
        text = _INNERMOST_CHOICE.sub(lambda match: rng.choice(match[1].split("|")), text)
    return text


# Cached: most of a story's hundred slots depend on the person or the animal only.
@lru_cache(maxsize=512)
def _person_slots(world: World, name: str, role: str) -> dict[str, str]:
    """The slots of one person. A prefix says whose they are: {c} is the hero's colour, {Fc} the friend's, {Oc} the
    third person's; an article goes in front, {aFc}."""
    about = world.people[name]
    he, his, him = ("she", "her", "her") if name in lists.GIRLS else ("he", "his", "him")
    pet, toy = about["pet"], world.toys[about["toy"]]
    sound = world.value(pet, "sound")
    slots = {"he": he, "He": upper(he), "his": his, "His": upper(his), "him": him, "p": pet, "P": about["petname"],
             "s": sound, "S": upper(sound), "pd": world.value(pet, "diet"), "pc": world.value(pet, "cover"),
             "pl": world.value(pet, "lair"), "c": about["colour"], "g": about["garment"], "home": about["home"],
             "food": about["food"], "toy": about["toy"], "tint": toy["tint"], "spot": toy["spot"], "job": about["job"],
             "day": about["day"]}
    with_role = {role + slot: word for slot, word in slots.items()} | {role or "N": name}
    articles = {f"a{role}{slot}": an(slots[slot]) for slot in ("p", "job", "c")}
    return with_role | articles | {f"A{role}p": upper(an(pet))}


@lru_cache(maxsize=64)
def _animal_slots(world: World, animal: str) -> dict[str, str]:
    sound = world.value(animal, "sound")
    return {"w": animal, "W": upper(animal), "aw": an(animal), "Aw": upper(an(animal)), "ws": sound, "Ws": upper(sound),
            "wd": world.value(animal, "diet"), "wl": world.value(animal, "lair")}


def _slots(rng: random.Random, world: World) -> dict[str, str]:
    """Everything a story can mention: a hero, the friend, a third person, animals, things, places, days, numbers."""
    hero, third, spare = rng.sample(lists.NAMES, 3)  # spare: the third person, if the draw has hit the hero's friend
    friend = world.people[hero]["friend"]  # friends of a story are those of the world
    # Of two animals the one with the lower rank is smaller: "{abig} is bigger than {asmall}" is always true.
    small, big = (lists.ANIMALS[rank] for rank in sorted(rng.sample(range(len(lists.ANIMALS)), 2)))
    thing, day, n = rng.choice(_THINGS), rng.randrange(7), rng.randint(3, 9)
    place, second_place = rng.sample(lists.OUTINGS, 2)
    slots = {"small": small, "asmall": an(small), "big": big, "abig": an(big), "thing": thing,
             "things": lists.THINGS[thing], "d": lists.DAYS[day], "d1": lists.DAYS[(day + 1) % 7],
             "m": rng.choice(lists.MONTHS), "n": lists.NUMBERS[n], "count": _COUNTS[n], "Count": upper(_COUNTS[n]),
             "few": rng.choice(("two", "three")), "at": place, "At": upper(place), "at2": second_place}
    return (_person_slots(world, hero, "") | _person_slots(world, friend, "F")
            | _animal_slots(world, rng.choice(lists.ANIMALS))
            | _person_slots(world, spare if third == friend else third, "O") | slots)


def prose(rng: random.Random, world: World) -> str:
    """One to three pages of plain statements about the world, each a paragraph; 60 words on average."""
    return "\n\n".join(page(rng, world) for page in rng.choices(*_PAGES, k=rng.randint(1, 3)))


@lru_cache(maxsize=4)
def _facts_by(world: World, field: str) -> dict[str, list[Fact]]:
    """The world's facts grouped by "entity" or by "relation"."""
    groups: dict[str, list[Fact]] = {}
    for fact in world.facts:
        groups.setdefault(getattr(fact, field), []).append(fact)
    return groups


def _portrait(rng: random.Random, world: World) -> str:
    """Several facts about one person, animal or toy, in any order; half of the people become "he" or "she" after the
    first sentence."""
    entity = rng.choice(_SUBJECTS)
    facts = _facts_by(world, "entity")[entity]
    facts = rng.sample(facts, min(len(facts), rng.randint(4, 9)))
    if entity in world.people and rng.random() < 0.3:  # two facts about the pet follow: questions combine them
        facts += rng.sample(_facts_by(world, "entity")[world.value(entity, "pet")], 2)
    sentences = [world.state(rng, fact) for fact in facts]
    if entity in world.people and rng.random() < 0.5:
        he, his = ("She", "Her") if entity in lists.GIRLS else ("He", "His")
        for i, sentence in enumerate(sentences[1:], 1):
            sentence = re.sub(f"^{entity} (?!and)", he + " ", sentence)  # not "Tom and Ann are friends."
            sentences[i] = re.sub(f"^{entity}'s", his, sentence)
    return rng.choice((f"About {entity}\n", f"{upper(entity)}: ", "", "", "")) + " ".join(sentences)


def _roll_call(rng: random.Random, world: World) -> str:
    """One relation of many entities: sentences of one form, or a table."""
    relation = rng.choice(list(lists.RELATIONS))  # not weighted: rare relations are stated as often as others
    facts = rng.sample(_facts_by(world, "relation")[relation], rng.randint(5, 9))
    if rng.random() < 0.3:
        row = rng.choice(("{e}: {v}", "{v}: {e}", "{e} - {v}", "{e}, {v}", "{v} ({e})"))
        return f"{upper(relation)}\n" + "\n".join(row.format(e=fact.entity, v=fact.value) for fact in facts)
    statement = rng.choice(lists.RELATIONS[relation].statements)
    return rng.choice((" ", "\n")).join(world.fill(statement, fact) for fact in facts)


def _calendar(rng: random.Random, world: World) -> str:
    """Days or months in order or backwards: a third of the pages lists them, the others say what follows what."""
    circle, noun = rng.choice(((lists.DAYS, "day"), (lists.MONTHS, "month")))
    start, length, kind = rng.randrange(len(circle)), rng.randint(3, len(circle)), rng.randrange(6)
    forward, is_list, is_shuffled = kind % 2 == 1, kind < 2, kind > 3
    # Two more names than lines, because a line may mention the two that follow.
    names = [circle[(start + (i if forward else -i)) % len(circle)] for i in range(length + 2)]
    if is_list:
        order = "in order" if forward else "backwards"
        return rng.choice((f"The {noun}s {order}: ", f"{upper(noun)}s {order}\n", "")) + ", ".join(names) + "."
    word, turn = ("after", "next {n} is") if forward else ("before", "last {n} was")
    form = rng.choice((f"{upper(word)} {{a}} comes {{b}}.", f"The {{n}} {word} {{a}} is {{b}}.",
                       f"If it is {{a}}, the {turn} {{b}}.", f"Two {{n}}s {word} {{a}} comes {{c}}."))
    lines = [form.format(a=a, b=b, c=c, n=noun) for a, b, c in zip(names, names[1:], names[2:])]
    if noun == "month":
        lines += [f"{month} is in {lists.SEASONS[lists.MONTHS.index(month)]}." for month in rng.sample(names, 2)]
    return " ".join(rng.sample(lines, len(lines)) if is_shuffled else lines)


def _counting(rng: random.Random, world: World) -> str:
    """Counting up, counting down, numbers in words, or statements about neighbours."""
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
    """Animals from small to big or from big to small, or pairs of them compared."""
    if rng.random() < 0.3:
        animals = sorted(rng.sample(lists.ANIMALS, rng.randint(4, 8)), key=lists.ANIMALS.index)
        if rng.random() < 0.5:
            return f"From small to big: {', '.join(animals)}."
        return f"From big to small: {', '.join(animals[::-1])}."
    forms = ("{A} is bigger than {b}.", "{B} is smaller than {a}.", "The {a1} is bigger than the {b1}.",
             "Beside {a}, {b} is small.")
    lines = []
    for _ in range(rng.randint(5, 9)):
        small, big = sorted(rng.sample(lists.ANIMALS, 2), key=lists.ANIMALS.index)
        a, b = an(big), an(small)
        lines.append(rng.choice(forms).format(a=a, b=b, A=upper(a), B=upper(b), a1=big, b1=small))
    return " ".join(lines)


# A person has nine facts, an animal five and a toy two, so there are most portraits of people.
_SUBJECTS = [*lists.NAMES * 3, *lists.ANIMALS * 2, *lists.TOYS]
_PAGES = ((_portrait, _roll_call, _calendar, _counting, _sizes), (45, 25, 10, 9, 11))  # kinds of page and weights
