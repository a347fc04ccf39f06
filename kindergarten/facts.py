"""Questions about the world: lessons to learn from, and exams that no lesson gives away.

Every question that can be asked is listed once, as a `Question` with a key such as "fact Tom home". A stable hash of
the key holds out one in five: the exam asks only those, lessons and drills only the others. What a held-out question
asks about is never secret: the fact stands in the base text as a statement, and the parts of a held-out combination are
all known ("What sound does Tom's pet make?" = Tom's pet + that animal's sound). The kinds:

    fact        one fact: "Where does Tom live?"
    reverse     whose value it is: "Who has the red hat?"
    hop         two facts: "Where does Ann's friend live?"
    size        "Is a horse bigger than a mouse?", "Which is smaller, a cow or a hen?"
    calendar    days, months and seasons: "What day comes two days after Monday?"
    order       numbers: "What number comes after 17?"
    legs        "How many legs do 3 cows have?", "How many legs do a hen and a bee have together?"

Replies are short sentences that reason before they conclude: "The horse is bigger, so yes." A reply is right when its
last sentence has the answer and none of its rivals (`grade`). Multiple choice is in choices.py.
"""

import random
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple
from zlib import crc32

from kindergarten.talk import words_of
from kindergarten.world import ANIMALS, DAYS, MONTHS, RELATIONS, SEASONS, Fact, World, an, plural, upper

HELD_OUT_ONE_IN = 5
# How often each kind is asked in lessons (weights), and how many items of it the exam has at most.
WEIGHTS = {"fact": 26, "reverse": 26, "hop": 16, "size": 12, "calendar": 8, "order": 8, "legs": 4}
EXAM_ITEMS = {"fact": 120, "reverse": 36, "hop": 96, "size": 48, "calendar": 12, "order": 24, "legs": 48}
_OPENERS = ("",) * 12 + ("Tell me: ", "Please tell me. ", "Do you know? ", "I forgot. ", "A question: ", "Hello! ")
_ONE_WORD = (" Answer in one word.", " One word, please.", " Just the word.")
_HOPS = (  # (relation of the first entity, relation of the second, questions)
    ("pet", "sound", "What sound does {e}'s pet make? What does {e}'s pet say"),
    ("pet", "diet", "What does {e}'s pet eat? What is the food of {e}'s pet"),
    ("pet", "legs", "How many legs does {e}'s pet have? What number of legs has {e}'s pet"),
    ("pet", "cover", "What is {e}'s pet covered with? What covers {e}'s pet"),
    ("friend", "home", "Where does {e}'s friend live? Where is the home of {e}'s friend"),
    ("friend", "pet", "What pet does {e}'s friend have? Which animal is the pet of {e}'s friend"),
    ("friend", "food", "What does {e}'s friend like to eat? Which food does {e}'s friend love"),
    ("friend", "job", "What is the job of {e}'s friend? What does {e}'s friend work as"),
    ("friend", "day", "Which day does {e}'s friend like best? What is the favourite day of {e}'s friend"),
    ("friend", "toy", "What is the favourite toy of {e}'s friend? Which toy does {e}'s friend like most"),
    ("friend", "petname", "What is the pet of {e}'s friend called? What is the name of the pet of {e}'s friend"),
    ("toy", "tint", "What colour is {e}'s favourite toy? What is the colour of {e}'s favourite toy"),
    ("toy", "spot", "Where is {e}'s favourite toy? In what place is {e}'s favourite toy"),
)
_OWNER_HOPS = (
    ("pet", "What kind of animal is {e}? Which animal is called {e}"),
    ("home", "Where does {e}'s owner live? Where is the home of {e}'s owner"),
    ("job", "What is the job of {e}'s owner? What does {e}'s owner work as"),
)
_STEPS = (  # (steps, questions, reply) on the circle of days or months
    (1, "What {c} comes after {a}? Which {c} is just after {a}? After {a} comes which {c}", "After {a} comes {b}."),
    (-1, "What {c} comes before {a}? Which {c} is just before {a}? Before {a} comes which {c}",
     "Before {a} comes {b}."),
    (2, "What {c} comes two {c}s after {a}? Which {c} is two {c}s after {a}", "Two {c}s after {a} comes {b}."),
    (-2, "What {c} comes two {c}s before {a}? Which {c} is two {c}s before {a}", "Two {c}s before {a} comes {b}."),
)


class Question(NamedTuple):
    kind: str
    key: str            # what is held out together
    asked: list[str]    # phrasings
    reply: str          # the worked answer
    answer: str         # the word or number that a right reply must end with
    rivals: list[str]   # what could stand in its place


def held_out(key: str) -> bool:
    """Whether the exam owns this key (a stable hash: the same in every run and on every machine)."""
    return crc32(key.encode()) % HELD_OUT_ONE_IN == 0


@lru_cache(maxsize=4)
def questions(world: World) -> tuple[dict[str, list[Question]], dict[str, list[Question]]]:
    """All questions of this world by kind: (those for lessons, those for the exam)."""
    rng = random.Random(f"questions {world.seed}")
    pools = ({kind: [] for kind in WEIGHTS}, {kind: [] for kind in WEIGHTS})  # held_out() is the index
    for make in (_facts, _hops, _sizes, _calendar, _numbers, _legs):
        for question in make(rng, world):
            pools[held_out(question.key)][question.kind].append(question)
    return pools


def lesson(rng: random.Random, world: World) -> dict:
    """A conversation of one to three questions with their answers, some of them "in one word"."""
    pools = questions(world)[0]
    messages = []
    for kind in rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=rng.choice((1, 1, 2, 3))):
        question = rng.choice(pools[kind])
        asked, reply = rng.choice(_OPENERS) + rng.choice(question.asked), question.reply
        if question.kind in ("fact", "reverse", "calendar") and rng.random() < 0.25:
            asked, reply = asked + rng.choice(_ONE_WORD), question.answer
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
    return {"messages": messages}


def exam(world: World) -> list[dict]:
    """Held-out items {"question", "answer", "others", "kind", "reply"}: `others` must not stand beside the answer."""
    rng = random.Random(f"facts exam {world.seed}")
    items = []
    for kind, pool in questions(world)[1].items():
        for question in rng.sample(pool, min(EXAM_ITEMS[kind], len(pool))):
            said = words_of(_last_sentence(question.reply))
            others = [rival for rival in question.rivals if rival.lower() not in said]
            items.append({"question": rng.choice(question.asked), "answer": question.answer, "others": others,
                          "kind": kind, "reply": question.reply})
    return rng.sample(items, len(items))


def grade(item: dict, completion: str) -> bool:
    """Whether the last sentence of the completion has the item's answer and none of the other values.

    >>> grade({"answer": "meow", "others": ["moo"]}, "Tom's pet is a cat. A cat says meow.")
    True
    """
    said = words_of(_last_sentence(completion))
    return item["answer"].lower() in said and not any(other.lower() in said for other in item["others"])


def _last_sentence(text: str) -> str:
    return next((part for part in reversed(re.split(r"[.!?\n]", text)) if part.strip()), "")


def _ask(phrasings: str, **slots: str) -> list[str]:
    return [upper(text.format(**slots)) + "?" for text in phrasings.split("? ")]


def _tell(world: World, entity: str, relation: str) -> str:
    return world.fill(RELATIONS[relation].answer, Fact(entity, relation, world.value(entity, relation)))


def _facts(rng: random.Random, world: World) -> Iterator[Question]:
    entities = {relation: [fact.entity for fact in world.facts if fact.relation == relation] for relation in RELATIONS}
    for fact in world.facts:
        relation, values = RELATIONS[fact.relation], world.values[fact.relation]
        key = f"fact {fact.entity} {fact.relation}"
        reply = world.fill(relation.answer, fact)
        asked = [world.fill(text, fact) for text in relation.questions]
        yield Question("fact", key, asked, reply, fact.value, values)
        if relation.reverse:
            asked = [world.fill(text, fact) for text in relation.reverse]
            said = world.fill(relation.reverse_answer, fact)
            yield Question("reverse", "reverse " + key, asked, said, fact.entity, entities[fact.relation])


def _hops(rng: random.Random, world: World) -> Iterator[Question]:
    for name, person in world.people.items():
        for first, second, asked in _HOPS:
            middle = person[first]
            reply = f"{_tell(world, name, first)} {_tell(world, middle, second)}"
            yield Question("hop", f"hop {name} {first} {second}", _ask(asked, e=name), reply,
                           world.value(middle, second), world.values[second])
        pet = person["petname"]
        for second, asked in _OWNER_HOPS:
            reply = f"{pet} belongs to {name}. {_tell(world, name, second)}"
            yield Question("hop", f"hop {pet} {second}", _ask(asked, e=pet), reply, person[second],
                           world.values[second])
        for word, step in (("after", 1), ("before", -1)):
            then = DAYS[(DAYS.index(person["day"]) + step) % 7]
            reply = f"{_tell(world, name, 'day')} {upper(word)} {person['day']} comes {then}."
            asked = [f"What day comes {word} {name}'s favourite day?"]
            yield Question("hop", f"hop {name} day {word}", asked, reply, then, DAYS)


def _sizes(rng: random.Random, world: World) -> Iterator[Question]:
    for rank, big in enumerate(ANIMALS):
        for small in ANIMALS[:rank]:
            key = f"size {big} {small}"
            for one, other, truth in ((big, small, "yes"), (small, big, "no")):
                asked = [f"Is {an(one)} bigger than {an(other)}?", f"Is {an(other)} smaller than {an(one)}?"]
                yield Question("size", key, asked, f"The {big} is bigger, so {truth}.", truth, ["yes", "no"])
            for word, answer, rival in (("bigger", big, small), ("smaller", small, big)):
                asked = [f"Which is {word}, {an(big)} or {an(small)}?", f"Which is {word}, {an(small)} or {an(big)}?"]
                yield Question("size", key, asked, f"The {answer} is {word}.", answer, [rival])


def _calendar(rng: random.Random, world: World) -> Iterator[Question]:
    for circle, noun in ((DAYS, "day"), (MONTHS, "month")):
        for i, now in enumerate(circle):
            for step, asked, reply in _STEPS:
                then = circle[(i + step) % len(circle)]
                yield Question("calendar", f"calendar {now} {step}", _ask(asked, a=now, c=noun),
                               reply.format(a=now, b=then, c=noun), then, circle)
    for month, season in zip(MONTHS, SEASONS, strict=True):
        asked = [f"In which season is {month}?", f"What season is it in {month}?"]
        yield Question("calendar", f"season {month}", asked, f"{month} is in {season}.", season, sorted(set(SEASONS)))


def _numbers(rng: random.Random, world: World) -> Iterator[Question]:
    for n in range(1, 200):
        near = [str(other) for other in range(max(0, n - 9), n + 10)]
        for word, then in (("after", n + 1), ("before", n - 1)):
            asked = [f"What number comes {word} {n}?", f"Which number is just {word} {n}?"]
            yield Question("order", f"order {word} {n}", asked, f"{upper(word)} {n} comes {then}.", str(then), near)
        less, more = sorted(rng.sample(range(200), 2))
        asked = [f"Which is bigger, {less} or {more}?", f"Which is bigger, {more} or {less}?"]
        yield Question("order", f"order {less} {more}", asked, f"{more} is bigger.", str(more), [str(less)])


def _legs(rng: random.Random, world: World) -> Iterator[Question]:
    totals = [str(total) for total in range(0, 42, 2)]
    for i, one in enumerate(ANIMALS):
        legs = int(world.value(one, "legs"))
        for n in range(2, 6):
            reply = f"{upper(an(one))} has {legs} legs. {n} times {legs} is {n * legs}."
            yield Question("legs", f"legs {n} {one}", [f"How many legs do {n} {plural(one)} have?"], reply,
                           str(n * legs), totals)
        for other in ANIMALS[:i]:
            more = int(world.value(other, "legs"))
            asked = [f"How many legs do {a} and {b} have together?" for a, b in permutations((an(one), an(other)))]
            reply = (f"{upper(an(one))} has {legs} legs and {an(other)} has {more} legs. "
                     f"{legs} and {more} make {legs + more}.")
            yield Question("legs", f"legs {one} {other}", asked, reply, str(legs + more), totals)
