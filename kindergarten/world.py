"""The small world of the kindergarten: who lives there, and what is true.

The lists of words (names, animals, colours, …) are constants that every generator shares. `World(seed)` draws from them
what is true in one world only: Tom's pet and its name, the colour of his scarf, his home, his friend. Facts about
animals and opposites do not depend on the seed. Every fact is a triple, `Fact("Tom", "pet", "cow")`, and its value is a
single word, so that an answer is easy to check. `RELATIONS` has the English sentences that state a fact or ask for it.

>>> world = World(seed=0)
>>> world.value("cow", "sound"), len(world.facts) > 800
('moo', True)

Not here: the questions that are held out for exams (facts.py), and longer text (stories.py).
"""

import random
import re
from pathlib import Path
from typing import NamedTuple


def read_text(name: str) -> str:
    """The content of one of this folder's .txt files: animals and the sentences from which everything is made."""
    return (Path(__file__).parent / name).read_text(encoding="ascii").strip()


def sentences(text: str) -> list[str]:
    """sentences("Who is it? It is Tom.") == ["Who is it?", "It is Tom."]; line breaks become spaces."""
    return re.findall(r"\S[^.?!]*[.?!]", " ".join(text.split()))


GIRLS = """Ada Amy Anna Bella Clara Cora Ella Emma Eva Flora Grace Hanna Ida Iris Jane Julia Kate Lily Lucy Mary Mia
    Nina Nora Paula Rosa Ruth Sara Sofia Tina Vera Wendy Zoe""".split()
BOYS = """Adam Alan Ben Bill Carl Dan David Eric Felix Frank Fred George Hans Henry Ian Jack James John Leo Luke
    Mark Max Nick Noah Oscar Otto Paul Peter Sam Simon Tom Victor""".split()
NAMES = tuple(sorted(GIRLS + BOYS))  # 64 people
PET_NAMES = """Pip Dot Rex Fluff Spot Coco Biscuit Pepper Ginger Mitten Patch Socks Muffin Button Bubble Pickle
    Peanut Waffle Nugget Toffee Pudding Noodle Bramble Clover Daisy Fern Holly Maple Misty Nutmeg Olive Pebble Poppy
    Rusty Sandy Smoky Snowy Star Sunny Tango Teddy Tinker Topsy Twig Velvet Wiggle Ziggy Zippy Domino Echo Gizmo
    Jasper Kiki Lulu Momo Nemo Pogo Quill Rascal Scamp Bingo Comet Dusty Fizz""".split()
COLOURS = "red blue green yellow orange purple pink brown black white grey gold silver cream tan teal".split()
GARMENTS = "hat coat scarf cap".split()  # 16 colours × 4 garments: each of the 64 people wears something unique
HOMES = """mill castle tower cottage cabin village forest valley lighthouse tent palace treehouse inn hut wagon
    boathouse""".split()
FOODS = """soup bread cheese rice pasta pizza salad honey porridge stew fish toast pancakes noodles beans carrots
    peas plums pears apples grapes berries nuts cake""".split()
JOBS = """baker farmer teacher doctor nurse painter singer dancer driver pilot sailor tailor cook gardener builder
    clown judge barber fisher weaver potter miner plumber guard""".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
# The season of each month, in the order of MONTHS.
SEASONS = "winter winter spring spring spring summer summer summer autumn autumn autumn winter".split()
NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty""".split()  # the index is the number
_TOYS = """ball kite drum doll train boat puzzle robot top puppet truck flute marble block swing sled bell rocket
    wand crown mask rope whistle globe""".split()
_THINGS = """book cup spoon pencil stone shell leaf flower key coin egg apple pear plum cookie candle basket chair lamp
    sock stamp feather""".split()
IRREGULAR = {"leaf": "leaves", "mouse": "mice", "goose": "geese", "fox": "foxes", "wolf": "wolves", "sheep": "sheep"}


def plural(noun: str) -> str:
    """The plural of a noun of this file: plural("mouse") == "mice"."""
    return IRREGULAR.get(noun, noun + "s")


TOYS = {noun: plural(noun) for noun in _TOYS}  # somebody's favourite toy: singular → plural
THINGS = TOYS | {noun: plural(noun) for noun in _THINGS}  # everything that people hold and count
SPOTS = "shelf box bag drawer chest bucket cupboard cellar attic corner".split()  # a toy is kept "in the …"
OUTINGS = ("in the park, by the river, on the beach, at the market, at school, in the garden, on the hill, by "
           "the lake, in the wood, at the station, in the field, at the fair, on the bridge, in the street").split(", ")

# From the smallest animal to the biggest, so that the index in ANIMALS is the rank by size. Sounds and homes are
# unique: "Which animal says moo?" has one answer.
ANIMAL_TABLE = {name: dict(zip(("sound", "home", "food", "legs", "covering"), row, strict=True))
                for name, *row in (line.split() for line in read_text("animals.txt").splitlines())}
ANIMALS = list(ANIMAL_TABLE)
# Nobody keeps these as a pet.
PETS = [name for name in ANIMALS if name not in "bat fox wolf lion bear camel elephant whale seal snake".split()]
_OPPOSITES = """hot-cold big-small fast-slow happy-sad old-young wet-dry loud-quiet full-empty hard-soft light-dark
     high-low long-short open-shut early-late clean-dirty rich-poor strong-weak sweet-sour thick-thin wide-narrow
     near-far day-night summer-winter up-down left-right first-last push-pull true-false always-never
    above-below kind-mean brave-shy""".split()
OPPOSITES = dict(pair.split("-") for pair in _OPPOSITES)


class Relation(NamedTuple):
    """The sentences about one relation, each in several phrasings.

    Slots: {e} the entity, {v} the value, {av} "a red", {ae} "a cow", {AE} "A cow", {g} the person's garment, {k} the
    kind of the person's pet.
    """

    statements: list[str]
    questions: list[str]  # for the value
    answer: str
    reverse: list[str]  # questions for the entity; only where a value belongs to a single entity
    reverse_answer: str


def _read_relation(block: str) -> tuple[str, Relation]:
    name, *lines = re.split(r"\n(?! )", block)  # an indented line goes on with the one before
    texts = dict(" ".join(line.split()).split(": ", 1) for line in lines)
    return name, Relation(sentences(texts["statements"]), sentences(texts["questions"]), texts["answer"],
                          sentences(texts.get("reverse questions", "")), texts.get("reverse answer", ""))


# In relations.txt those of people come first, then of toys, of animals, of words.
RELATIONS = dict(_read_relation(block) for block in read_text("relations.txt").split("\n\n"))


class Fact(NamedTuple):
    entity: str
    relation: str
    value: str


def an(word: str) -> str:
    """The word with its article: an("owl") == "an owl"."""
    return ("an " if word[0] in "aeiou" else "a ") + word


def upper(text: str) -> str:
    """The text with a capital first letter and the rest as it is."""
    return text[:1].upper() + text[1:]


class World:
    """The people and toys drawn from `seed`, and every fact. A world never changes after it is made.

    people   name → {"pet", "petname", "garment", "colour", "home", "food", "job", "day", "friend", "toy": a word each}
    toys     toy → {"tint": its colour, "spot": where it is kept}
    facts    all triples, also those about animals and opposites
    values   relation → all its values, sorted

    Friends come in pairs. No two pets share a name, and no two people a garment of one colour.
    """

    def __init__(self, seed: int = 0):
        # The order of the draws below, of the keys in a person and of the facts is part of the world: another order
        # would give every seed another world, and other files.
        rng = random.Random(f"world {seed}")
        self.seed = seed
        count = len(NAMES)
        friends = rng.sample(NAMES, count)  # the first is the second's friend, the third the fourth's, and so on
        friend_of = dict(zip(friends[::2], friends[1::2], strict=True))
        friend_of |= {second: first for first, second in friend_of.items()}
        clothes = rng.sample([(colour, garment) for colour in COLOURS for garment in GARMENTS], count)
        pet_names = rng.sample(PET_NAMES, count)
        spread = {relation: _spread(rng, options, count) for relation, options in (
            ("pet", PETS), ("home", HOMES), ("food", FOODS), ("job", JOBS), ("day", DAYS), ("toy", list(TOYS)))}
        self.people: dict[str, dict[str, str]] = {
            name: {"petname": pet_names[i], "colour": clothes[i][0], "garment": clothes[i][1],
                   "friend": friend_of[name], **{relation: words[i] for relation, words in spread.items()}}
            for i, name in enumerate(NAMES)}
        tints, spots = _spread(rng, COLOURS, len(TOYS)), _spread(rng, SPOTS, len(TOYS))
        self.toys = {toy: {"tint": tints[i], "spot": spots[i]} for i, toy in enumerate(TOYS)}
        self.facts = self._all_facts()
        self._value = {(fact.entity, fact.relation): fact.value for fact in self.facts}
        self.values = {relation: sorted({fact.value for fact in self.facts if fact.relation == relation})
                       for relation in RELATIONS}

    def _all_facts(self) -> list[Fact]:
        facts = [Fact(name, relation, value) for name, person in self.people.items()
                 for relation, value in person.items() if relation != "garment"]  # "colour" is said of the garment
        facts += [Fact(toy, relation, value) for toy, about in self.toys.items() for relation, value in about.items()]
        # A relation has one set of sentences, so a column that people have as well ("home") needs a name of its own.
        columns = {"sound": "sound", "lair": "home", "diet": "food", "legs": "legs", "cover": "covering"}
        facts += [Fact(animal, relation, row[column]) for animal, row in ANIMAL_TABLE.items()
                  for relation, column in columns.items()]
        facts += [Fact(first, "opposite", second) for first, second in OPPOSITES.items()]
        return facts + [Fact(second, "opposite", first) for first, second in OPPOSITES.items()]

    def value(self, entity: str, relation: str) -> str:
        """The value of a fact: value("cow", "sound") == "moo". KeyError when there is no such fact."""
        return self._value[entity, relation]

    def fill(self, template: str, fact: Fact) -> str:
        """A sentence of `RELATIONS` about this fact, with a capital first letter."""
        person = self.people.get(fact.entity, {})
        return upper(template.format(e=fact.entity, v=fact.value, av=an(fact.value), ae=an(fact.entity),
                                     AE=upper(an(fact.entity)), g=person.get("garment"), k=person.get("pet")))

    def state(self, rng: random.Random, fact: Fact) -> str:
        """The fact as a sentence in one of its phrasings."""
        return self.fill(rng.choice(RELATIONS[fact.relation].statements), fact)


def _spread(rng: random.Random, options: list[str], count: int) -> list[str]:
    """`count` draws, shuffled, in which every option occurs about equally often."""
    # Independent draws would leave some words out: with 64 people and 24 jobs, in most worlds.
    repeated = (options * (count // len(options) + 1))[:count]
    return rng.sample(repeated, count)
