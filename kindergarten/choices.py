"""Multiple choice by letter: look-ups that teach what a letter stands for, lessons, and an exam like ARC and MMLU.

To answer "B", a model must know the answer, find it among the options and read off its letter. A small model learns
these one after the other: base text (`lookup`) has lists like "- moo=B" that are read back many times, by name ("moo is
B") and by question ("What does a cow say? B"); lessons ask in the exam's words, for the letter alone most of the time,
else for the option or for both ("moo=B"). Questions and their hold-out come from facts.py: no drill shows one of the
exam's.

>>> prompt("What does a cow say?", ["oink", "moo"]).splitlines()[1:3]
['- oink=A', '- moo=B']
"""

import random
from functools import lru_cache
from string import ascii_uppercase

from kindergarten import world as lists
from kindergarten.facts import Question, questions
from kindergarten.talk import words_of
from kindergarten.world import World

KINDS = {"fact": 70, "reverse": 15, "calendar": 9, "order": 6}  # kinds of questions, with their weights in lessons
EXAM_ITEMS = {"fact": 150, "reverse": 36, "calendar": 12, "order": 26}
LETTER_ONLY = "Respond only with the letter of the correct answer."
NAMED = "Respond with the correct answer and its letter."
_ORDERS = ((NAMED, "{r} {v}={L}"),) * 9 + ((LETTER_ONLY, "{L}"),) * 3 + (
    ("Respond only with the correct answer.", "{v}"), ("Which letter is it?", "{L}"))
_WORD_LISTS = [lists.COLOURS, lists.ANIMALS, lists.NAMES, lists.FOODS, lists.JOBS, lists.HOMES, lists.PET_NAMES,
               lists.DAYS, lists.MONTHS, lists.NUMBERS, lists.SPOTS, lists.GARMENTS, list(lists.THINGS),
               list(lists.THINGS.values()), list(lists.OPPOSITES), list(lists.OPPOSITES.values()),
               *([row[column] for row in lists.ANIMAL_TABLE.values()] for column in ("sound", "home", "food"))]
# One way to list and few ways to read back: a look-up forms within 100 steps when "moo=B" is read back as "moo=B", and
# not in 250 when lists and answers come in a dozen forms (docs/LOG.md). "B" at the start of a line is the token that an
# exam asks for.
_READ_BACK = ("{v}={L}", "{v}={L}", "{v}={L}", "{v}? {L}", "{v}?\n{L}", "{v}?\n{L}")
_ANSWERED = ("{q} {r} {v}={L}", "{q}\n{r} {v}={L}", "{q} {v}={L}", "{q}\n{v}={L}", "{q}\n{L}")


def prompt(question: str, options: list[str], order: str = LETTER_ONLY) -> str:
    """The user's message of a multiple-choice item, the same as for ARC and MMLU."""
    listed = "\n".join(f"- {option}={letter}" for option, letter in zip(options, ascii_uppercase))
    return f"Multiple Choice question: {question}\n{listed}\n{order}"


def lesson(rng: random.Random, world: World) -> dict:
    """One to three multiple-choice questions and their replies, which are letters most of the time."""
    messages = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        question = _draw(rng, world)
        options = _options(rng, question)
        order, reply = rng.choice(_ORDERS)
        asked = prompt(rng.choice(question.asked), options, order)
        reply = reply.format(r=question.reply, v=question.answer, L="ABCD"[options.index(question.answer)])
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
    return {"messages": messages}


def exam(world: World) -> list[dict]:
    """Held-out items {"question", "choices": four, "answer": index, "subject"}, shuffled; every index equally often."""
    rng = random.Random(f"choices exam {world.seed}")
    drawn = [question for kind, pool in _pools(world)[1].items() for question in rng.sample(pool, EXAM_ITEMS[kind])]
    items = []
    for i, question in enumerate(drawn):
        options = _options(rng, question)
        options.remove(question.answer)
        options.insert(i % 4, question.answer)
        items.append({"question": rng.choice(question.asked), "choices": options, "answer": i % 4,
                      "subject": question.kind, "reply": question.reply})
    return rng.sample(items, len(items))


def lookup(rng: random.Random, world: World) -> str:
    """A page of base text: options with letters, and lines that read them back by name, by question, or as an item."""
    return rng.choices((_by_name, _by_question, _as_item), (35, 45, 20))[0](rng, world)


def primer(rng: random.Random, world: World) -> str:
    """The first pages a model reads: look-ups by name only, of letters or of numbers.

    To find a thing again and read off what stands beside it is what choosing an option and copying a number from a word
    problem have in common.
    """
    return _by_name(rng, world, numbers=rng.random() < 0.4)


def _by_name(rng: random.Random, world: World, numbers: bool = False) -> str:
    """Words under letters or numbers, each asked for twice by the word itself, always in the same form."""
    pool = rng.choice(_WORD_LISTS)
    words = rng.sample(pool, min(len(pool), rng.choice((3, 4, 4, 4, 5))))
    letters, form = _letters(rng, len(words)), rng.choice(_READ_BACK)
    if numbers:
        letters = [str(rng.randrange(10 ** rng.choice((1, 2, 2, 3)))) for _ in words]
    lines = [form.format(v=word, L=letter) for word, letter in zip(words, letters)]
    return "\n".join([_listed(words, letters), *rng.sample(lines * 2, 2 * len(lines))])


def _by_question(rng: random.Random, world: World) -> str:
    """The values of one relation under letters, each asked for by a question: the letter follows what one knows."""
    groups, sizes = _groups(world)
    group = rng.choices(groups, sizes)[0]
    values = rng.sample(list(group), min(len(group), 4))
    letters, form = _letters(rng, len(values)), rng.choice(_ANSWERED)
    lines = []
    for value, letter in zip(values, letters):
        for question in rng.sample(group[value], min(len(group[value]), rng.choice((1, 2)))):
            lines.append(form.format(q=rng.choice(question.asked), r=question.reply, v=value, L=letter))
    return "\n".join([_listed(values, letters), *rng.sample(lines, len(lines))])


def _as_item(rng: random.Random, world: World) -> str:
    """Items as an exam asks them, with their letters."""
    items = []
    for _ in range(rng.choice((1, 2, 3))):
        question = _draw(rng, world)
        options = _options(rng, question)
        order, reply = rng.choice(_ORDERS)
        reply = reply.format(r=question.reply, v=question.answer, L="ABCD"[options.index(question.answer)])
        items.append(f"{prompt(rng.choice(question.asked), options, order)}\n{reply}")
    return "\n\n".join(items)


@lru_cache(maxsize=4)
def _groups(world: World) -> tuple[list[dict[str, list[Question]]], list[int]]:
    """The lessons' questions whose answers can stand in for each other, by answer; and how many each group has."""
    groups = {}
    for kind in ("fact", "reverse", "calendar"):
        for question in _pools(world)[0][kind]:  # one list of rivals is shared by all questions of a relation
            groups.setdefault(id(question.rivals), {}).setdefault(question.answer, []).append(question)
    chosen = [group for group in groups.values() if len(group) > 2]
    return chosen, [sum(map(len, group.values())) for group in chosen]


@lru_cache(maxsize=4)
def _pools(world: World) -> tuple[dict[str, list[Question]], ...]:
    """The questions that can have four options, by kind: (for lessons, for the exam)."""
    return tuple({kind: [question for question in pool[kind] if len(question.rivals) > 3] for kind in KINDS}
                 for pool in questions(world))


def _draw(rng: random.Random, world: World) -> Question:
    return rng.choice(_pools(world)[0][rng.choices(list(KINDS), list(KINDS.values()))[0]])


def _options(rng: random.Random, question: Question) -> list[str]:
    """Four options in any order: the answer and three rivals that the question does not name."""
    named = words_of(question.asked[0])
    rivals = [rival for rival in rng.sample(question.rivals, min(6, len(question.rivals)))
              if rival != question.answer and rival.lower() not in named][:3]
    return rng.sample([question.answer, *rivals], 4)


def _letters(rng: random.Random, count: int) -> list[str]:
    """A, B, C, D, … in order as in an exam; for a third of the pages shuffled, so that place alone does not tell."""
    letters = list(ascii_uppercase[:count])
    return letters if rng.random() < 0.67 else rng.sample(letters, count)


def _listed(words: list[str], letters: list[str]) -> str:
    return "\n".join(f"- {word}={letter}" for word, letter in zip(words, letters))
