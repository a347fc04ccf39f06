"""A hundred animals, and what a child asks about them: sound, home, food, legs, young, flying, swimming, eggs, size.

zoo.txt has an animal in each line: name, size (1 to 99, for comparing), colour, group, what it does (f: flies,
s: swims, e: lays eggs), its young; sound, home, food, legs and covering follow, and are empty for the village's own
animals, whose facts stand in ../animals.txt. animal_questions.txt has the questions. Base text states the facts
(`page`), so that lessons only have to teach how they are asked for.
"""

import random
from typing import Any, NamedTuple

from kindergarten import world as lists
from kindergarten.facts import held_out
from kindergarten.talk import dialogue
from kindergarten.visitors import phrases
from kindergarten.world import an, upper

_IRREGULAR = lists.IRREGULAR | {
    "fly": "flies", "butterfly": "butterflies", "dragonfly": "dragonflies", "mosquito": "mosquitoes", "fish": "fish",
    "goldfish": "goldfish", "starfish": "starfish", "jellyfish": "jellyfish", "salmon": "salmon", "deer": "deer",
    "reindeer": "reindeer", "moose": "moose", "octopus": "octopuses", "ostrich": "ostriches", "wolf": "wolves",
    "pony": "ponies", "puppy": "puppies", "ladybird": "ladybirds", "walrus": "walruses", "finch": "finches"}


class Animal(NamedTuple):
    name: str
    size: int
    colour: str
    group: str    # animal, bird, fish or insect
    abilities: str
    young: str
    sound: str
    home: str     # with its preposition: "in the barn"
    food: str
    legs: str
    cover: str

    @property
    def plural(self) -> str:
        return _IRREGULAR.get(self.name, self.name + "s")


def _read(line: str) -> Animal:
    first, *rest = (part.strip() for part in line.split("|"))
    name, size, *others = first.split()
    if name in lists.ANIMAL_TABLE:
        row = lists.ANIMAL_TABLE[name]
        rest = [row["sound"], f"in the {row['home']}", row["food"], row["legs"], row["covering"]]
    return Animal(name.replace("_", " "), int(size), *others, *rest)


ZOO = [_read(line) for line in phrases.read_lines("zoo.txt")]
BY_NAME = {animal.name: animal for animal in ZOO}
_ASKED = phrases.read_sections("animal_questions.txt")
QUESTIONS = {topic: [phrases.parse(line) for line in lines[1:]] for topic, lines in _ASKED.items()}
REPLIES = {topic: lines[0].removeprefix("= ") for topic, lines in _ASKED.items()}
# How often each topic is asked about; sounds, homes, food and legs most.
WEIGHTS = {"sound": 8, "home": 8, "food": 8, "legs": 6, "cover": 1, "baby": 4, "fly": 2, "swim": 2, "eggs": 2,
           "group": 1, "colour": 1, "about": 2, "size": 1}
# The names that facts.py has for topics of the village's animals.
RELATIONS = {"sound": "sound", "home": "lair", "food": "diet", "legs": "legs", "cover": "cover"}
_SIZES = ((12, "tiny"), (35, "small"), (65, "not very big"), (85, "big"), (100, "very big"))


def slots(animal: Animal) -> dict[str, str]:
    """What questions and replies say of an animal."""
    a = an(animal.name)

    def can(letter: str, verb: str, negated: str) -> str:
        return f"Yes, {a} {verb}." if letter in animal.abilities else f"No, {a} {negated}."

    return {"n": animal.name, "a": a, "A": upper(a), "pl": animal.plural, "sound": animal.sound, "home": animal.home,
            "food": animal.food, "legs": animal.legs, "cover": animal.cover, "ababy": an(animal.young),
            "colour": animal.colour, "agroup": an(animal.group), "yesfly": can("f", "can fly", "does not fly"),
            "yesswim": can("s", "can swim", "does not swim"), "yeseggs": can("e", "lays eggs", "does not lay eggs"),
            "size": next(word for most, word in _SIZES if animal.size <= most)}


def reply(topic: str, animal: Animal) -> str:
    """reply("sound", BY_NAME["cow"]) == "A cow says moo."; the same words as in the village's lessons."""
    if topic == "sound" and animal.sound == "nothing":
        return f"{upper(an(animal.name))} makes no sound."
    return REPLIES[topic].format_map(slots(animal))


def draw(rng: random.Random, weights: dict[str, int] = WEIGHTS) -> tuple[str, Animal]:
    """A topic and an animal about which it can be asked."""
    topic, = rng.choices(list(weights), list(weights.values()))
    while True:
        animal = rng.choice(ZOO)
        if may_ask(topic, animal):
            return topic, animal


def may_ask(topic: str, animal: Animal) -> bool:
    """Whether lessons may ask this. What the village's exam asks (facts.py) is not taught in other words either."""
    is_held_out = animal.name in lists.ANIMAL_TABLE and held_out(f"fact {animal.name} {RELATIONS.get(topic)}")
    return not is_held_out and (topic != "baby" or animal.young != animal.name)


def lesson(rng: random.Random, exam: bool = False) -> dict[str, Any]:
    topic, animal = draw(rng)
    return dialogue(phrases.say(rng, QUESTIONS[topic], exam, **slots(animal)), reply(topic, animal))


_FORMS = {
    "sound": ("{A} says {sound}.", "The {n} goes {sound}.", "{sound}, says the {n}."),
    "home": ("{A} lives {home}.", "You find {pl} {home}.", "The home of the {n} is {home}."),
    "food": ("{A} eats {food}.", "The {n} likes {food}.", "{food}: that is what {pl} eat."),
    "legs": ("{A} has {legs} legs.", "The {n} has {legs} legs."),
    "cover": ("{A} is covered with {cover}.", "The {n} has {cover}."),
    "baby": ("A baby {n} is called {ababy}.", "The young of {a} is {ababy}."),
    "fly": ("{yesfly}",), "swim": ("{yesswim}",), "eggs": ("{yeseggs}",),
    "group": ("{A} is {agroup}.",), "colour": ("{A} is most often {colour}.", "Think of {a}: it is {colour}."),
    "size": ("{A} is {size}.",)}


def page(rng: random.Random) -> str:
    """Base text: portraits of two or three animals, and animals compared."""
    parts = []
    for animal in rng.sample(ZOO, rng.choice((2, 3))):
        words = slots(animal)
        topics = rng.sample([topic for topic in _FORMS if topic != "sound" or animal.sound != "nothing"], 7)
        parts.append(" ".join(upper(rng.choice(_FORMS[topic]).format_map(words)) for topic in topics
                              if topic != "baby" or animal.young != animal.name))
    pairs = [compared(rng) for _ in range(rng.randint(2, 4))]
    parts.append(" ".join(rng.choice((f"{upper(an(big.name))} is bigger than {an(small.name)}.",
                                      f"{upper(an(small.name))} is smaller than {an(big.name)}."))
                          for small, big in pairs))
    return "\n\n".join(parts)


def compared(rng: random.Random) -> tuple[Animal, Animal]:
    """Two animals, the smaller first, whose sizes nobody would mix up."""
    while True:
        small, big = sorted(rng.sample(ZOO, 2), key=lambda animal: animal.size)
        if big.size - small.size >= 8 and not is_asked_by_the_exam(small, big):
            return small, big


def is_asked_by_the_exam(first: Animal, second: Animal) -> bool:
    """Whether the village's exam asks which of the two is bigger (facts.py)."""
    small, big = sorted((first, second), key=lambda animal: animal.size)
    return {small.name, big.name} <= set(lists.ANIMAL_TABLE) and held_out(f"size {big.name} {small.name}")
