"""The small closed world of the kindergarten: who lives there, and what is true.

Lists of words (names, animals, colours, …) are constants that every generator shares. `World(seed)` draws from them
what only this world knows: Tom's pet, its name, the colour of his scarf, where he lives, who his friend is. What is
true of animals and opposites does not depend on the seed. All of it is kept as triples `Fact(entity, relation, value)`
with single-word values; `RELATIONS` says how each relation is stated and asked in plain English.

>>> world = World(seed=0)
>>> world.value("cow", "sound"), len(world.facts) > 800
('moo', True)

Not here: which questions are held out for exams (facts.py), and longer text (stories.py).
"""

import random
from typing import NamedTuple

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
GARMENTS = "hat coat scarf cap".split()  # 16 colours × 4 garments = 64 people: each wears something nobody else does
HOMES = """mill castle tower cottage cabin village forest valley lighthouse tent palace treehouse inn hut wagon
    boathouse""".split()
FOODS = """soup bread cheese rice pasta pizza salad honey porridge stew fish toast pancakes noodles beans carrots
    peas plums pears apples grapes berries nuts cake""".split()
JOBS = """baker farmer teacher doctor nurse painter singer dancer driver pilot sailor tailor cook gardener builder
    clown judge barber fisher weaver potter miner plumber guard""".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
MONTHS = "January February March April May June July August September October November December".split()
SEASONS = "winter winter spring spring spring summer summer summer autumn autumn autumn winter".split()  # of each month
NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty""".split()
# Things one can hold and count: singular → plural. The first group can be somebody's favourite toy.
_TOYS = """ball kite drum doll train boat puzzle robot top puppet truck flute marble block swing sled bell rocket
    wand crown mask rope whistle globe""".split()
_THINGS = """book cup spoon pencil stone shell leaf flower key coin egg apple pear plum cookie candle basket chair lamp
    sock stamp feather""".split()
_IRREGULAR = {"leaf": "leaves", "mouse": "mice", "goose": "geese", "fox": "foxes", "wolf": "wolves", "sheep": "sheep"}


def plural(noun: str) -> str:
    """plural("mouse") == "mice"; good for the nouns of this file."""
    return _IRREGULAR.get(noun, noun + "s")


TOYS = {noun: plural(noun) for noun in _TOYS}  # each can be somebody's favourite toy
THINGS = TOYS | {noun: plural(noun) for noun in _THINGS}  # all that can be held and counted: singular → plural
SPOTS = "shelf box bag drawer chest bucket cupboard cellar attic corner".split()  # where a toy is kept: "in the …"
OUTINGS = ("in the park, by the river, on the beach, at the market, at school, in the garden, on the hill, by "
           "the lake, in the wood, at the station, in the field, at the fair, on the bridge, in the street").split(", ")

# From the smallest to the biggest: name, sound, home, food, legs, covering. Sounds and homes are unique.
_ANIMALS = """ant tick hill crumbs 6 shell; bee buzz hive nectar 6 fuzz; cricket chirp grass leaves 6 shell; spider
    tap web flies 8 hair; frog croak pond bugs 4 skin; mouse squeak hole cheese 4 fur; robin tweet nest worms 2
    feathers; bat screech cave moths 2 fur; mole snuffle tunnel grubs 4 fur; parrot squawk cage seeds 2 feathers;
    crow caw tree corn 2 feathers; owl hoot hollow mice 2 feathers; duck quack lake bread 2 feathers; hen cluck coop
    grain 2 feathers; rabbit thump burrow carrots 4 fur; cat meow basket fish 4 fur; goose honk yard weeds 2
    feathers; turkey gobble pen barley 2 feathers; fox yip den plums 4 fur; monkey chatter jungle nuts 2 fur; dog
    woof kennel bones 4 fur; goat maa shed thistles 4 hair; snake hiss pit eggs 0 scales; wolf howl thicket meat 4
    fur; sheep baa fold clover 4 wool; pig oink sty scraps 4 bristles; seal arf bay herring 0 skin; donkey bray
    stall hay 4 hair; lion roar desert deer 4 fur; horse neigh stable oats 4 hair; cow moo barn grass 4 hair; bear
    growl woods honey 4 fur; camel grunt oasis thorns 4 hair; elephant toot savanna branches 4 skin; whale woo sea
    krill 0 skin"""
ANIMAL_TABLE = {row[0]: dict(zip(("sound", "home", "food", "legs", "covering"), row[1:], strict=True))
                for row in (line.split() for line in _ANIMALS.split(";"))}
ANIMALS = list(ANIMAL_TABLE)  # index = size rank
PETS = [name for name in ANIMALS if name not in "bat fox wolf lion bear camel elephant whale seal snake".split()]
_OPPOSITES = """hot-cold big-small fast-slow happy-sad old-young wet-dry loud-quiet full-empty hard-soft light-dark
     high-low long-short open-shut early-late clean-dirty rich-poor strong-weak sweet-sour thick-thin wide-narrow
     near-far day-night summer-winter up-down left-right first-last push-pull true-false always-never
    above-below kind-mean brave-shy""".split()
OPPOSITES = dict(pair.split("-") for pair in _OPPOSITES)


class Relation(NamedTuple):
    """How one relation is said, as alternatives. Slots: {e} entity, {v} value, {av} "a red", {ae} "a cow",
    {AE} "A cow", {g} the person's garment, {k} the kind of the person's pet."""

    of: str  # "person", "animal", "toy" or "word"
    statements: list[str]
    questions: list[str]
    answer: str
    reverse: list[str]  # questions for the entity, where a value belongs to one entity only
    reverse_answer: str


def _relation(of: str, statements: str, questions: str, answer: str, reverse: str = "",
              reverse_answer: str = "") -> Relation:
    asked = [[text + "?" for text in group.split("? ")] if group else [] for group in (questions, reverse)]
    return Relation(of, [text + "." for text in statements.split(". ")], asked[0], answer, asked[1], reverse_answer)


RELATIONS = {
    "pet": _relation(
        "person", "{e} has {av}. {e}'s pet is {av}. {e} keeps {av} as a pet. The pet of {e} is {av}",
        "What pet does {e} have? Which animal is {e}'s pet? What animal does {e} keep? What kind of pet has {e}",
        "{e}'s pet is {av}."),
    "petname": _relation(
        "person", "{e}'s pet is called {v}. {v} is {e}'s pet. {v} belongs to {e}. {e} calls the {k} {v}",
        "What is {e}'s pet called? What is the name of {e}'s pet? What does {e} call the {k}",
        "{e}'s pet is called {v}.", "Whose pet is {v}? Who has a pet called {v}? Who owns {v}",
        "{v} belongs to {e}."),
    "colour": _relation(
        "person", "{e}'s {g} is {v}. {e} wears {av} {g}. {e} has {av} {g}. The {v} {g} is {e}'s. "
        "The {v} {g} belongs to {e}",
        "What colour is {e}'s {g}? Which colour does {e}'s {g} have? What is the colour of {e}'s {g}",
        "{e}'s {g} is {v}.", "Who has the {v} {g}? Who wears the {v} {g}? Whose {g} is {v}",
        "The {v} {g} is {e}'s."),
    "home": _relation(
        "person", "{e} lives in the {v}. {e}'s home is the {v}. The {v} is {e}'s home. {e} sleeps in the {v}",
        "Where does {e} live? Where is {e}'s home? In which place does {e} live", "{e} lives in the {v}."),
    "food": _relation(
        "person", "{e} loves {v}. {e} likes to eat {v}. {e}'s favourite food is {v}. For {e} the best food is {v}",
        "What does {e} like to eat? What is {e}'s favourite food? Which food does {e} love", "{e} likes to eat {v}."),
    "job": _relation(
        "person", "{e} is {av}. {e} works as {av}. {e}'s job is {v}. {e} has the job of {av}",
        "What is {e}'s job? What work does {e} do? What does {e} work as", "{e} is {av}."),
    "day": _relation(
        "person", "{e}'s favourite day is {v}. {e} likes {v} best. {v} is the day {e} likes best. "
        "{v} is {e}'s favourite day",
        "What is {e}'s favourite day? Which day does {e} like best? On which day is {e} happiest",
        "{e}'s favourite day is {v}."),
    "friend": _relation(
        "person", "{e}'s best friend is {v}. {e} and {v} are friends. {e} likes to be with {v}. {v} is a friend of {e}",
        "Who is {e}'s friend? Who is {e}'s best friend? Who is the best friend of {e}", "{e}'s friend is {v}."),
    "toy": _relation(
        "person", "{e}'s favourite toy is the {v}. {e} plays with the {v}. The {v} is {e}'s favourite toy. "
        "{e} likes the {v} most",
        "What is {e}'s favourite toy? Which toy does {e} like most? What does {e} play with",
        "{e}'s favourite toy is the {v}."),
    "tint": _relation(
        "toy", "The {e} is {v}. The colour of the {e} is {v}. That {e} is {v}. There is {av} {e}",
        "What colour is the {e}? Which colour does the {e} have? What is the colour of the {e}", "The {e} is {v}."),
    "spot": _relation(
        "toy", "The {e} is in the {v}. The {e} is kept in the {v}. In the {v} is the {e}. Look in the {v} for the {e}",
        "Where is the {e}? Where is the {e} kept? In what place is the {e}", "The {e} is in the {v}."),
    "sound": _relation(
        "animal", "{AE} says {v}. {AE} goes {v}. The sound of {ae} is {v}. The sound {v} comes from {ae}",
        "What does {ae} say? What sound does {ae} make? How does {ae} go? What is the sound of {ae}",
        "{AE} says {v}.", "Which animal says {v}? What animal goes {v}? Who says {v}",
        "The sound {v} comes from {ae}."),
    "lair": _relation(
        "animal", "{AE} lives in the {v}. The {v} is the home of {ae}. The {e} sleeps in the {v}. "
        "{AE} is at home in the {v}",
        "Where does {ae} live? Where is the home of {ae}? Where does the {e} sleep", "{AE} lives in the {v}.",
        "Which animal lives in the {v}? What animal is at home in the {v}",
        "The {v} is the home of {ae}."),
    "diet": _relation(
        "animal", "{AE} eats {v}. The {e} likes {v}. The food of {ae} is {v}. Give the {e} some {v}",
        "What does {ae} eat? What is the food of {ae}? What does the {e} like to eat", "{AE} eats {v}."),
    "legs": _relation(
        "animal", "{AE} has {v} legs. The {e} has {v} legs. The number of legs of {ae} is {v}",
        "How many legs does {ae} have? How many legs has {ae}? What number of legs does {ae} have",
        "{AE} has {v} legs."),
    "cover": _relation(
        "animal", "{AE} has {v}. The {e} is covered with {v}. {AE} is covered with {v}",
        "What covers {ae}? What is {ae} covered with? What does the {e} have on its body", "{AE} is covered with {v}."),
    "opposite": _relation(
        "word", "The opposite of {e} is {v}. {e} is the opposite of {v}. If it is not {e}, it is {v}. {e} or {v}",
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
    """The text with a capital first letter, the rest untouched."""
    return text[:1].upper() + text[1:]


class World:
    """The people and things drawn from `seed`, and every fact as a triple. Never changed after it is made.

    `people[name]` maps "pet", "petname", "garment", "colour", "home", "food", "job", "day", "friend", "toy" to a word;
    friends come in pairs, and nobody shares a garment with its colour or a pet's name. `facts` lists all triples,
    `values[relation]` the possible values; `toys[toy]` maps "tint" and "spot".
    """

    def __init__(self, seed: int = 0):
        rng = random.Random(f"world {seed}")
        self.seed = seed
        n = len(NAMES)
        friends = rng.sample(NAMES, n)
        friend_of = {}
        for one, other in zip(friends[::2], friends[1::2], strict=True):
            friend_of[one], friend_of[other] = other, one
        clothes = rng.sample([(colour, garment) for colour in COLOURS for garment in GARMENTS], n)
        pet_names = rng.sample(PET_NAMES, n)
        spread = {relation: _spread(rng, options, n) for relation, options in (
            ("pet", PETS), ("home", HOMES), ("food", FOODS), ("job", JOBS), ("day", DAYS), ("toy", list(TOYS)))}
        self.people = {name: {"petname": pet_names[i], "colour": clothes[i][0], "garment": clothes[i][1],
                              "friend": friend_of[name], **{key: drawn[i] for key, drawn in spread.items()}}
                       for i, name in enumerate(NAMES)}
        tints, spots = _spread(rng, COLOURS, len(TOYS)), _spread(rng, SPOTS, len(TOYS))
        self.toys = {toy: {"tint": tints[i], "spot": spots[i]} for i, toy in enumerate(TOYS)}
        self.facts = self._all_facts()
        self._value = {(fact.entity, fact.relation): fact.value for fact in self.facts}
        self.values = {relation: sorted({fact.value for fact in self.facts if fact.relation == relation})
                       for relation in RELATIONS}

    def _all_facts(self) -> list[Fact]:
        columns = {"sound": "sound", "lair": "home", "diet": "food", "legs": "legs", "cover": "covering"}
        facts = [Fact(name, relation, person[relation]) for name, person in self.people.items()
                 for relation in person if relation != "garment"]
        facts += [Fact(toy, relation, value) for toy, about in self.toys.items() for relation, value in about.items()]
        facts += [Fact(animal, relation, row[column]) for animal, row in ANIMAL_TABLE.items()
                  for relation, column in columns.items()]
        pairs = list(OPPOSITES.items()) + [(other, one) for one, other in OPPOSITES.items()]
        return facts + [Fact(one, "opposite", other) for one, other in pairs]

    def value(self, entity: str, relation: str) -> str:
        """The value of a fact, e.g. value("cow", "sound") == "moo"; KeyError when there is no such fact."""
        return self._value[entity, relation]

    def fill(self, template: str, fact: Fact) -> str:
        """A statement, question or answer of `RELATIONS` about this fact, with a capital first letter."""
        person = self.people.get(fact.entity, {})
        return upper(template.format(e=fact.entity, v=fact.value, av=an(fact.value), ae=an(fact.entity),
                                     AE=upper(an(fact.entity)), g=person.get("garment"), k=person.get("pet")))

    def state(self, rng: random.Random, fact: Fact) -> str:
        """The fact as one sentence in one of its phrasings."""
        return self.fill(rng.choice(RELATIONS[fact.relation].statements), fact)


def pronoun(name: str) -> str:
    """"she" or "he"."""
    return "she" if name in GIRLS else "he"


def _spread(rng: random.Random, options: list[str], count: int) -> list[str]:
    """`count` draws that use every option about equally often, shuffled."""
    drawn = (options * (count // len(options) + 1))[:count]
    return rng.sample(drawn, count)
