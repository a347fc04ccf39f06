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
from pathlib import Path
from typing import NamedTuple


def read_text(name: str) -> str:
    """The content of one of this folder's .txt files: animals, plots of stories, sentences of problems, small talk."""
    return (Path(__file__).parent / name).read_text(encoding="ascii").strip()


GIRLS = """Ada Amy Anna Bella Clara Cora Ella Emma Eva Flora Grace Hanna Ida Iris Jane Julia Kate Lily Lucy Mary Mia
    Nina Nora Paula Rosa Ruth Sara Sofia Tina Vera Wendy Zoe""".split()
BOYS = """Adam Alan Ben Bill Carl Dan David Eric Felix Frank Fred George Hans Henry Ian Jack James John Leo Luke
    Mark Max Nick Noah Oscar Otto Paul Peter Sam Simon Tom Victor""".split()
NAMES = tuple(sorted(GIRLS + BOYS))
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
# The season of each month.
SEASONS = "winter winter spring spring spring summer summer summer autumn autumn autumn winter".split()
NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty""".split()
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


def _sentences(text: str, mark: str) -> list[str]:
    """_sentences("Who is it? Why", "?") == ["Who is it?", "Why?"]; none in an empty text."""
    return [sentence + mark for sentence in text.split(mark + " ")] if text else []


def _relation(statements: str, questions: str, answer: str, reverse: str = "", reverse_answer: str = "") -> Relation:
    return Relation(_sentences(statements, "."), _sentences(questions, "?"), answer,
                    _sentences(reverse, "?"), reverse_answer)


RELATIONS = {
    # of people
    "pet": _relation(
        "{e} has {av}. {e}'s pet is {av}. {e} keeps {av} as a pet. The pet of {e} is {av}",
        "What pet does {e} have? Which animal is {e}'s pet? What animal does {e} keep? What kind of pet has {e}",
        "{e}'s pet is {av}."),
    "petname": _relation(
        "{e}'s pet is called {v}. {v} is {e}'s pet. {v} belongs to {e}. {e} calls the {k} {v}",
        "What is {e}'s pet called? What is the name of {e}'s pet? What does {e} call the {k}",
        "{e}'s pet is called {v}.", "Whose pet is {v}? Who has a pet called {v}? Who owns {v}",
        "{v} belongs to {e}."),
    "colour": _relation(
        "{e}'s {g} is {v}. {e} wears {av} {g}. {e} has {av} {g}. The {v} {g} is {e}'s. "
        "The {v} {g} belongs to {e}",
        "What colour is {e}'s {g}? Which colour does {e}'s {g} have? What is the colour of {e}'s {g}",
        "{e}'s {g} is {v}.", "Who has the {v} {g}? Who wears the {v} {g}? Whose {g} is {v}",
        "The {v} {g} is {e}'s."),
    "home": _relation(
        "{e} lives in the {v}. {e}'s home is the {v}. The {v} is {e}'s home. {e} sleeps in the {v}",
        "Where does {e} live? Where is {e}'s home? In which place does {e} live", "{e} lives in the {v}."),
    "food": _relation(
        "{e} loves {v}. {e} likes to eat {v}. {e}'s favourite food is {v}. For {e} the best food is {v}",
        "What does {e} like to eat? What is {e}'s favourite food? Which food does {e} love", "{e} likes to eat {v}."),
    "job": _relation(
        "{e} is {av}. {e} works as {av}. {e}'s job is {v}. {e} has the job of {av}",
        "What is {e}'s job? What work does {e} do? What does {e} work as", "{e} is {av}."),
    "day": _relation(
        "{e}'s favourite day is {v}. {e} likes {v} best. {v} is the day {e} likes best. "
        "{v} is {e}'s favourite day",
        "What is {e}'s favourite day? Which day does {e} like best? On which day is {e} happiest",
        "{e}'s favourite day is {v}."),
    "friend": _relation(
        "{e}'s best friend is {v}. {e} and {v} are friends. {e} likes to be with {v}. {v} is a friend of {e}",
        "Who is {e}'s friend? Who is {e}'s best friend? Who is the best friend of {e}", "{e}'s friend is {v}."),
    "toy": _relation(
        "{e}'s favourite toy is the {v}. {e} plays with the {v}. The {v} is {e}'s favourite toy. "
        "{e} likes the {v} most",
        "What is {e}'s favourite toy? Which toy does {e} like most? What does {e} play with",
        "{e}'s favourite toy is the {v}."),
    # of toys
    "tint": _relation(
        "The {e} is {v}. The colour of the {e} is {v}. That {e} is {v}. There is {av} {e}",
        "What colour is the {e}? Which colour does the {e} have? What is the colour of the {e}", "The {e} is {v}."),
    "spot": _relation(
        "The {e} is in the {v}. The {e} is kept in the {v}. In the {v} is the {e}. Look in the {v} for the {e}",
        "Where is the {e}? Where is the {e} kept? In what place is the {e}", "The {e} is in the {v}."),
    # of animals
    "sound": _relation(
        "{AE} says {v}. {AE} goes {v}. The sound of {ae} is {v}. The sound {v} comes from {ae}",
        "What does {ae} say? What sound does {ae} make? How does {ae} go? What is the sound of {ae}",
        "{AE} says {v}.", "Which animal says {v}? What animal goes {v}? Who says {v}",
        "The sound {v} comes from {ae}."),
    "lair": _relation(
        "{AE} lives in the {v}. The {v} is the home of {ae}. The {e} sleeps in the {v}. "
        "{AE} is at home in the {v}",
        "Where does {ae} live? Where is the home of {ae}? Where does the {e} sleep", "{AE} lives in the {v}.",
        "Which animal lives in the {v}? What animal is at home in the {v}",
        "The {v} is the home of {ae}."),
    "diet": _relation(
        "{AE} eats {v}. The {e} likes {v}. The food of {ae} is {v}. Give the {e} some {v}",
        "What does {ae} eat? What is the food of {ae}? What does the {e} like to eat", "{AE} eats {v}."),
    "legs": _relation(
        "{AE} has {v} legs. The {e} has {v} legs. The number of legs of {ae} is {v}",
        "How many legs does {ae} have? How many legs has {ae}? What number of legs does {ae} have",
        "{AE} has {v} legs."),
    "cover": _relation(
        "{AE} has {v}. The {e} is covered with {v}. {AE} is covered with {v}",
        "What covers {ae}? What is {ae} covered with? What does the {e} have on its body", "{AE} is covered with {v}."),
    # of words
    "opposite": _relation(
        "The opposite of {e} is {v}. {e} is the opposite of {v}. If it is not {e}, it is {v}. {e} or {v}",
        "What is the opposite of {e}? Which word is the opposite of {e}? What do we call the opposite of {e}",
        "The opposite of {e} is {v}."),
}


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
        friends = rng.sample(NAMES, count)
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
