"""Spelling, counting a letter and counting all letters, asked in visitors' words. The answers are those of words.py.

A word may stand in quotes or in capitals: these are other tokens, and each has to be learnt.
"""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

from kindergarten.talk import dialogue
from kindergarten.visitors import phrases
from kindergarten.words import COUNTED_LETTERS, counted, lesson_word, spelled

_ASKED = phrases.read("asks.txt")
COMMON_SHARE = 0.35  # of the words are everyday English; people ask for these
Answer = Callable[[str], str | list[dict[str, str]]]
_QUOTES = ('{}', '{}', '{}', '{}', '"{}"', "'{}'", '"{}"')


def shown(rng: random.Random, word: str) -> str:
    """The word as somebody types it: mostly plain, at times in quotes or in capitals."""
    chance = rng.random()
    word = word.upper() if chance < 0.04 else word.capitalize() if chance < 0.1 else word
    return rng.choice(_QUOTES).format(word)


# Each gives a question about the word, and the function that answers the same question about any word.

def spell(rng: random.Random, word: str, exam: bool = False) -> tuple[str, Answer]:
    """ "How do you spell feather?" """
    return phrases.say(rng, _ASKED["spelling"], exam, w=shown(rng, word)), spelled


def measure(rng: random.Random, word: str, exam: bool = False) -> tuple[str, Answer]:
    """ "How many letters has feather?" """
    return phrases.say(rng, _ASKED["length"], exam, w=shown(rng, word)), counted


def count(rng: random.Random, word: str, exam: bool = False) -> tuple[str, Answer]:
    """ "How many e are in feather?" """
    # The count is drawn before the letter, so that a model does not do well by always answering 1.
    pool = COUNTED_LETTERS + word
    number = rng.choice(sorted({word.count(letter) for letter in pool}))
    letter = rng.choice([letter for letter in pool if word.count(letter) == number])
    asked = phrases.say(rng, _ASKED["letters"], exam, w=shown(rng, word), c=letter, C=letter.upper())
    return asked, partial(counted, letter=letter)


def spelling(rng: random.Random, exam: bool = False) -> dict[str, Any]:
    word = lesson_word(rng, COMMON_SHARE)
    question, answer_of = spell(rng, word, exam)
    return dialogue(question, answer_of(word))


def letters(rng: random.Random, exam: bool = False) -> dict[str, Any]:
    """How often a letter stands in a word; in a third of the lessons how many letters it has."""
    word = lesson_word(rng, COMMON_SHARE)
    question, answer_of = rng.choices((count, measure), (65, 35))[0](rng, word, exam)
    return dialogue(question, answer_of(word))
