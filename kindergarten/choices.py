"""Multiple choice by letter: look-ups that teach what a letter stands for, lessons, and an exam like ARC and MMLU.

To answer "B", a model must know the answer, find it among the options and read off its letter. A small model learns
these one after the other. Base text (`lookup`) has lists like "- moo=B" that are read back many times, by name
("moo=B") and by question ("What does a cow say? A cow says moo. moo=B"). Lessons ask in the exam's words; most replies
name the option before its letter, some are the letter alone. Questions come from facts.py, and so does the rule that
holds out a fifth of them: no look-up and no lesson shows one of the exam's.

>>> prompt("What does a cow say?", ["oink", "moo"]).splitlines()[1:3]
['- oink=A', '- moo=B']
"""

import random
from functools import lru_cache
from string import ascii_uppercase
from typing import Any

from kindergarten import world as lists
from kindergarten.facts import Pools, Question, questions
from kindergarten.talk import words_of
from kindergarten.world import World

KINDS = {"fact": 70, "reverse": 15, "calendar": 9, "order": 6}  # kinds of questions, with their weights in lessons
EXAM_ITEMS = {"fact": 150, "reverse": 36, "calendar": 12, "order": 26}  # 224, so that each letter is right 56 times
LETTER_ONLY = "Respond only with the letter of the correct answer."
NAMED = "Respond with the correct answer and its letter."
# (order, reply), each with its share of the lessons. {r} is the reply one would give without options, {v} the right
# option, {L} its letter. Most replies say the fact, then look it up: the bare letter stayed at chance (docs/LOG.md).
_ORDERS = ((NAMED, "{r} {v}={L}"),) * 9 + ((LETTER_ONLY, "{L}"),) * 3 + (
    ("Respond only with the correct answer.", "{v}"), ("Which letter is it?", "{L}"))
_WORD_LISTS = [lists.COLOURS, lists.ANIMALS, lists.NAMES, lists.FOODS, lists.JOBS, lists.HOMES, lists.PET_NAMES,
               lists.DAYS, lists.MONTHS, lists.NUMBERS, lists.SPOTS, lists.GARMENTS, list(lists.THINGS),
               list(lists.THINGS.values()), list(lists.OPPOSITES), list(lists.OPPOSITES.values()),
               *(list({row[column]: 0 for row in lists.ANIMAL_TABLE.values()}) for column in ("sound", "home", "food"))]
# One way to list and few ways to read back: a model learned to look up within 100 steps when "moo=B" was read back in
# one form, and not in 250 steps when lists and answers came in a dozen forms (docs/LOG.md). Some forms end in a line
# that is only the letter, because "B" at the start of a line is the token that an exam asks for.
_READ_BACK = ("{v}={L}", "{v}={L}", "{v}={L}", "{v}? {L}", "{v}?\n{L}", "{v}?\n{L}")
_ANSWERED = ("{q} {r} {v}={L}", "{q}\n{r} {v}={L}", "{q} {v}={L}", "{q}\n{v}={L}", "{q}\n{L}")


def prompt(question: str, options: list[str], order: str = LETTER_ONLY) -> str:
    """The user's message of a multiple-choice item, in the words in which ARC and MMLU are asked."""
    return f"Multiple Choice question: {question}\n{_listed(options, ascii_uppercase)}\n{order}"


def lesson(rng: random.Random, world: World) -> dict[str, Any]:
    """A conversation of one to three multiple-choice questions and their replies."""
    messages = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        asked, reply = _item(rng, world)
        messages += [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
    return {"messages": messages}


def exam(world: World) -> list[dict[str, Any]]:
    """Held-out items {"question", "choices": four, "answer": index, "subject"}, shuffled; every index equally often."""
    rng = random.Random(f"choices exam {world.seed}")
    drawn = [question for kind, pool in _pools(world).exam.items() for question in rng.sample(pool, EXAM_ITEMS[kind])]
    items = []
    for i, question in enumerate(drawn):
        options = _options(rng, question)
        options.remove(question.answer)
        options.insert(i % 4, question.answer)  # a model that always says "A" gets a quarter right, not more
        items.append({"question": rng.choice(question.phrasings), "choices": options, "answer": i % 4,
                      "subject": question.kind, "reply": question.reply})
    return rng.sample(items, len(items))


def lookup(rng: random.Random, world: World) -> str:
    """A page of base text: options with letters, and lines that read them back by name, by question, or as an item."""
    make, = rng.choices((_by_name, _by_question, _as_items), (35, 45, 20))
    return make(rng, world)


def primer(rng: random.Random, world: World) -> str:
    """The first pages a model reads: look-ups by name only, of letters or of numbers.

    To find a word again and to read off what stands beside it is the step that choosing an option and copying a number
    from a word problem have in common. With a first shard of nothing else, letters were read off in .91 instead of .41
    of the cases after the same 1,000 steps (docs/LOG.md).
    """
    return _by_name(rng, world, numbers=rng.random() < 0.4)


def _by_name(rng: random.Random, world: World, numbers: bool = False) -> str:
    """Words under letters or numbers, each asked for twice by the word itself, on one page always in the same form."""
    pool = rng.choice(_WORD_LISTS)  # one list: an option of another kind would give itself away
    words = rng.sample(pool, min(len(pool), rng.choice((3, 4, 4, 4, 5))))
    letters, form = _letters(rng, len(words)), rng.choice(_READ_BACK)
    if numbers:
        letters = [str(rng.randrange(10 ** rng.choice((1, 2, 2, 3)))) for _ in words]
    lines = [form.format(v=word, L=letter) for word, letter in zip(words, letters)]
    return "\n".join([_listed(words, letters), *rng.sample(lines * 2, 2 * len(lines))])


def _by_question(rng: random.Random, world: World) -> str:
    """Values of one relation under letters, each asked for by a question."""
    # Here the answer comes from what the model knows, and only its letter from the list.
    groups, sizes = _groups(world)
    group, = rng.choices(groups, sizes)
    values = rng.sample(list(group), min(len(group), 4))
    letters, form = _letters(rng, len(values)), rng.choice(_ANSWERED)
    lines = []
    for value, letter in zip(values, letters):
        for question in rng.sample(group[value], min(len(group[value]), rng.choice((1, 2)))):
            lines.append(form.format(q=rng.choice(question.phrasings), r=question.reply, v=value, L=letter))
    return "\n".join([_listed(values, letters), *rng.sample(lines, len(lines))])


def _as_items(rng: random.Random, world: World) -> str:
    """One to three items as an exam asks them, with their replies."""
    return "\n\n".join("\n".join(_item(rng, world)) for _ in range(rng.choice((1, 2, 3))))


def _item(rng: random.Random, world: World) -> tuple[str, str]:
    """A multiple-choice question of the lessons, and the reply to it."""
    question = rng.choice(_pools(world).lessons[rng.choices(list(KINDS), list(KINDS.values()))[0]])
    options = _options(rng, question)
    order, reply = rng.choice(_ORDERS)
    asked = prompt(rng.choice(question.phrasings), options, order)
    return asked, reply.format(r=question.reply, v=question.answer, L="ABCD"[options.index(question.answer)])


@lru_cache(maxsize=4)
def _groups(world: World) -> tuple[list[dict[str, list[Question]]], list[int]]:
    """The lessons' questions whose answers could replace each other, by answer; and how many each group has."""
    groups: dict[int, dict[str, list[Question]]] = {}
    for kind in ("fact", "reverse", "calendar"):
        for question in _pools(world).lessons[kind]:
            # All questions of a relation share one list object of rivals, so its id() names the group.
            groups.setdefault(id(question.rivals), {}).setdefault(question.answer, []).append(question)
    large = [group for group in groups.values() if len(group) > 2]
    return large, [sum(map(len, group.values())) for group in large]


@lru_cache(maxsize=4)
def _pools(world: World) -> Pools:
    """The questions that can have four options."""
    return Pools(*({kind: [question for question in pool[kind] if len(question.rivals) > 3] for kind in KINDS}
                   for pool in questions(world)))


def _options(rng: random.Random, question: Question) -> list[str]:
    """Four options in any order: the answer and three rivals that the question does not mention."""
    mentioned = words_of(question.phrasings[0])
    # Of six, three are left after the answer itself and a word of the question have gone.
    rivals = [rival for rival in rng.sample(question.rivals, min(6, len(question.rivals)))
              if rival != question.answer and rival.lower() not in mentioned][:3]
    return rng.sample([question.answer, *rivals], 4)


def _letters(rng: random.Random, count: int) -> list[str]:
    """A, B, C, D, … in order as in an exam, on a third of the pages shuffled."""
    letters = list(ascii_uppercase[:count])
    # Shuffled, the place of an option does not tell its letter: it has to be read.
    return letters if rng.random() < 0.67 else rng.sample(letters, count)


def _listed(words: list[str], letters: list[str] | str) -> str:
    return "\n".join(f"- {word}={letter}" for word, letter in zip(words, letters))
