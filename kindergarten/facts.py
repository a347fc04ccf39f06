"""Questions about the world: lessons to learn from, and exams whose questions stand in no lesson.

Every question that can be asked is listed once, as a `Question` with a key such as "fact Tom home". A stable hash of
the key holds out one question in five: the exam asks only these, lessons and drills only the others. The answer to a
held-out question is no secret. The fact stands in the base text as a statement, and all parts of a held-out combination
are known: "What sound does Tom's pet make?" needs Tom's pet and that animal's sound. The kinds of question:

    fact        one fact: "Where does Tom live?"
    reverse     the owner of a value: "Who has the red hat?"
    hop         two facts: "Where does Ann's friend live?"
    size        "Is a horse bigger than a mouse?", "Which is smaller, a cow or a hen?"
    calendar    days, months and seasons: "What day comes two days after Monday?"
    order       numbers: "What number comes after 17?"
    legs        "How many legs do 3 cows have?", "How many legs do a hen and a bee have together?"

Replies are short sentences that reason before they conclude: "The horse is bigger, so yes." A reply is right when its
last sentence has the answer and none of the answer's rivals (`grade`). Multiple choice is in choices.py.
"""

import random
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import permutations
from typing import Any, NamedTuple
from zlib import crc32

from kindergarten import world as lists
from kindergarten.talk import words_of
from kindergarten.world import RELATIONS, Fact, World, an, plural, read_text, sentences, upper

HELD_OUT_ONE_IN = 5
# How often lessons ask each kind (weights), and how many items of it the exam has at most.
WEIGHTS = {"fact": 26, "reverse": 26, "hop": 16, "size": 12, "calendar": 8, "order": 8, "legs": 4}
EXAM_ITEMS = {"fact": 120, "reverse": 36, "hop": 96, "size": 48, "calendar": 12, "order": 24, "legs": 48}
_OPENERS = ("",) * 12 + (  # two questions in three have none
    "Tell me: ", "Please tell me. ", "Do you know? ", "I forgot. ", "A question: ", "Hello! ")
_ONE_WORD = (" Answer in one word.", " One word, please.", " Just the word.")
# Lines such as "pet sound: What does {e}'s pet say?" have the relation of a person, and then that of the pet, friend or
# toy; in "owner home", {e} is a pet and the second relation that of its owner.
_HOPS = [(*relations.split(), phrasings) for relations, phrasings in
         (line.split(": ") for line in read_text("hops.txt").splitlines())]
_STEPS = (  # (steps, questions, reply) on the circle of days or months
    (1, "What {c} comes after {a}? Which {c} is just after {a}? After {a} comes which {c}?", "After {a} comes {b}."),
    (-1, "What {c} comes before {a}? Which {c} is just before {a}? Before {a} comes which {c}?",
     "Before {a} comes {b}."),
    (2, "What {c} comes two {c}s after {a}? Which {c} is two {c}s after {a}?", "Two {c}s after {a} comes {b}."),
    (-2, "What {c} comes two {c}s before {a}? Which {c} is two {c}s before {a}?", "Two {c}s before {a} comes {b}."),
)


class Question(NamedTuple):
    """One question in several phrasings. Questions with the same key are held out together."""

    kind: str
    key: str
    phrasings: list[str]
    reply: str         # the worked answer
    answer: str        # the word or number with which a right reply must end
    rivals: list[str]  # other words or numbers that could be the answer; may contain the answer itself


class Pools(NamedTuple):
    """Questions by kind."""

    lessons: dict[str, list[Question]]
    exam: dict[str, list[Question]]


def held_out(key: str) -> bool:
    """Whether the question belongs to the exam."""
    # Python's own hash() differs from run to run; CRC-32 is the same in every run and on every machine.
    return crc32(key.encode()) % HELD_OUT_ONE_IN == 0


@lru_cache(maxsize=4)
def questions(world: World) -> Pools:
    """All questions of this world."""
    rng = random.Random(f"questions {world.seed}")
    pools = Pools({kind: [] for kind in WEIGHTS}, {kind: [] for kind in WEIGHTS})
    for make in (_facts, _hops, _sizes, _calendar, _numbers, _legs):
        for question in make(rng, world):
            pool = pools.exam if held_out(question.key) else pools.lessons
            pool[question.kind].append(question)
    return pools


def lesson(rng: random.Random, world: World) -> dict[str, Any]:
    """A conversation of one to three questions with their answers, some of them "in one word"."""
    pool = questions(world).lessons
    messages = []
    for kind in rng.choices(list(WEIGHTS), list(WEIGHTS.values()), k=rng.choice((1, 1, 2, 3))):
        question = rng.choice(pool[kind])
        asked, reply = rng.choice(_OPENERS) + rng.choice(question.phrasings), question.reply
        # Only kinds whose answer needs no step of reasoning before it.
        if question.kind in ("fact", "reverse", "calendar") and rng.random() < 0.25:
            asked, reply = asked + rng.choice(_ONE_WORD), question.answer
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
    return {"messages": messages}


def exam(world: World) -> list[dict[str, Any]]:
    """Held-out items {"question", "answer", "others", "kind", "reply"}; `others` must not stand beside the answer."""
    rng = random.Random(f"facts exam {world.seed}")
    items = []
    for kind, pool in questions(world).exam.items():
        for question in rng.sample(pool, min(EXAM_ITEMS[kind], len(pool))):
            # A rival that the right reply itself has to mention cannot be forbidden: "Before Monday comes Sunday."
            mentioned = words_of(_last_sentence(question.reply))
            others = [rival for rival in question.rivals if rival.lower() not in mentioned]
            items.append({"question": rng.choice(question.phrasings), "answer": question.answer, "others": others,
                          "kind": kind, "reply": question.reply})
    return rng.sample(items, len(items))


def grade(item: dict[str, Any], completion: str) -> bool:
    """Whether the last sentence of the completion has the item's answer and none of the other values.

    >>> grade({"answer": "meow", "others": ["moo"]}, "Tom's pet is a cat. A cat says meow.")
    True
    """
    # Only the last sentence, because the reasoning before it names other values; and no rival, because a list of all
    # words would contain the answer as well.
    words = words_of(_last_sentence(completion))
    return item["answer"].lower() in words and not any(other.lower() in words for other in item["others"])


def _last_sentence(text: str) -> str:
    return next((sentence for sentence in reversed(re.split(r"[.!?\n]", text)) if sentence.strip()), "")


def _fill_questions(phrasings: str, **slots: str) -> list[str]:
    """_fill_questions("Who is {e}? What is {e}?", e="Tom") == ["Who is Tom?", "What is Tom?"]."""
    return [upper(text.format(**slots)) for text in sentences(phrasings)]


def _answer_sentence(world: World, entity: str, relation: str) -> str:
    return world.fill(RELATIONS[relation].answer, Fact(entity, relation, world.value(entity, relation)))


# The generators below list all questions of one or two kinds. They draw from `rng` only where there are too many
# possibilities to list all.

def _facts(rng: random.Random, world: World) -> Iterator[Question]:
    entities = {relation: [fact.entity for fact in world.facts if fact.relation == relation] for relation in RELATIONS}
    for fact in world.facts:
        relation = RELATIONS[fact.relation]
        key = f"fact {fact.entity} {fact.relation}"
        yield Question("fact", key, [world.fill(text, fact) for text in relation.questions],
                       world.fill(relation.answer, fact), fact.value, world.values[fact.relation])
        if relation.reverse:
            yield Question("reverse", "reverse " + key, [world.fill(text, fact) for text in relation.reverse],
                           world.fill(relation.reverse_answer, fact), fact.entity, entities[fact.relation])


def _hops(rng: random.Random, world: World) -> Iterator[Question]:
    for name, person in world.people.items():
        for first, second, phrasings in _HOPS:
            if first == "owner":
                entity, middle, key = person["petname"], name, f"hop {person['petname']} {second}"
                first_step = f"{entity} belongs to {name}."
            else:
                entity, middle, key = name, person[first], f"hop {name} {first} {second}"
                first_step = _answer_sentence(world, name, first)
            yield Question("hop", key, _fill_questions(phrasings, e=entity),
                           f"{first_step} {_answer_sentence(world, middle, second)}", world.value(middle, second),
                           world.values[second])
        for word, step in (("after", 1), ("before", -1)):  # a fact and a step on the calendar
            day = lists.DAYS[(lists.DAYS.index(person["day"]) + step) % 7]
            reply = f"{_answer_sentence(world, name, 'day')} {upper(word)} {person['day']} comes {day}."
            yield Question("hop", f"hop {name} day {word}", [f"What day comes {word} {name}'s favourite day?"], reply,
                           day, lists.DAYS)


def _sizes(rng: random.Random, world: World) -> Iterator[Question]:
    for rank, big in enumerate(lists.ANIMALS):
        for small in lists.ANIMALS[:rank]:
            key = f"size {big} {small}"  # all questions about this pair of animals are held out together
            for first, second, truth in ((big, small, "yes"), (small, big, "no")):
                phrasings = [f"Is {an(first)} bigger than {an(second)}?", f"Is {an(second)} smaller than {an(first)}?"]
                yield Question("size", key, phrasings, f"The {big} is bigger, so {truth}.", truth, ["yes", "no"])
            for word, answer, rival in (("bigger", big, small), ("smaller", small, big)):
                phrasings = [f"Which is {word}, {a} or {b}?" for a, b in permutations((an(big), an(small)))]
                yield Question("size", key, phrasings, f"The {answer} is {word}.", answer, [rival])


def _calendar(rng: random.Random, world: World) -> Iterator[Question]:
    for circle, noun in ((lists.DAYS, "day"), (lists.MONTHS, "month")):
        for i, start in enumerate(circle):
            for step, texts, reply in _STEPS:
                end = circle[(i + step) % len(circle)]
                yield Question("calendar", f"calendar {start} {step}", _fill_questions(texts, a=start, c=noun),
                               reply.format(a=start, b=end, c=noun), end, circle)
    for month, season in zip(lists.MONTHS, lists.SEASONS, strict=True):
        phrasings = [f"In which season is {month}?", f"What season is it in {month}?"]
        yield Question("calendar", f"season {month}", phrasings, f"{month} is in {season}.", season,
                       sorted(set(lists.SEASONS)))


def _numbers(rng: random.Random, world: World) -> Iterator[Question]:
    for n in range(1, 200):
        neighbours = [str(number) for number in range(max(0, n - 9), n + 10)]
        for word, answer in (("after", n + 1), ("before", n - 1)):
            phrasings = [f"What number comes {word} {n}?", f"Which number is just {word} {n}?"]
            yield Question("order", f"order {word} {n}", phrasings, f"{upper(word)} {n} comes {answer}.", str(answer),
                           neighbours)
        less, more = sorted(rng.sample(range(200), 2))
        phrasings = [f"Which is bigger, {less} or {more}?", f"Which is bigger, {more} or {less}?"]
        yield Question("order", f"order {less} {more}", phrasings, f"{more} is bigger.", str(more), [str(less)])


def _legs(rng: random.Random, world: World) -> Iterator[Question]:
    totals = [str(total) for total in range(0, 42, 2)]  # five spiders have 40 legs
    for i, animal in enumerate(lists.ANIMALS):
        legs = int(world.value(animal, "legs"))
        for n in range(2, 6):
            reply = f"{upper(an(animal))} has {legs} legs. {n} times {legs} is {n * legs}."
            yield Question("legs", f"legs {n} {animal}", [f"How many legs do {n} {plural(animal)} have?"], reply,
                           str(n * legs), totals)
        for second in lists.ANIMALS[:i]:
            more = int(world.value(second, "legs"))
            phrasings = [f"How many legs do {a} and {b} have together?"
                         for a, b in permutations((an(animal), an(second)))]
            reply = (f"{upper(an(animal))} has {legs} legs and {an(second)} has {more} legs. "
                     f"{legs} and {more} make {legs + more}.")
            yield Question("legs", f"legs {animal} {second}", phrasings, reply, str(legs + more), totals)
