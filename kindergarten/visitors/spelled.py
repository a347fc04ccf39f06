"""Spelling, counting a letter and counting all letters, asked in the words of visitors. The answers are those of words.py.

A word may stand in quotes or in capitals: these are other tokens, and each has to be learnt.
"""

import random
from typing import Any

from kindergarten.talk import dialogue, worked
from kindergarten.visitors import phrases
from kindergarten.words import COUNTED_LETTERS, lesson_word

_ASKED = phrases.read("asks.txt")
COMMON_SHARE = 0.6  # of the words are everyday English; people ask for these
_QUOTES = ('{}', '{}', '{}', '{}', '"{}"', "'{}'", '"{}"')


def shown(rng: random.Random, word: str) -> str:
    """The word as somebody types it: mostly plain, at times in quotes or in capitals."""
    chance = rng.random()
    word = word.upper() if chance < 0.04 else word.capitalize() if chance < 0.1 else word
    return rng.choice(_QUOTES).format(word)


def spelling(rng: random.Random, exam: bool = False) -> dict[str, Any]:
    word = lesson_word(rng, COMMON_SHARE)
    return dialogue(phrases.say(rng, _ASKED["spelling"], exam, w=shown(rng, word)), "-".join(word))


def counted(word: str, letter: str) -> list[dict[str, str]]:
    """The worked answer to how often a letter stands in a word."""
    count = word.count(letter)
    return worked(f"'{word}'.count('{letter}')", count, f"#### {count}")


def measured(word: str) -> list[dict[str, str]]:
    """The worked answer to how many letters a word has."""
    return worked(f"len('{word}')", len(word), f"#### {len(word)}")


def letters(rng: random.Random, exam: bool = False) -> dict[str, Any]:
    """How often a letter stands in a word; in a third of the lessons how many letters it has."""
    word = lesson_word(rng, COMMON_SHARE)
    if rng.random() < 0.35:
        return dialogue(phrases.say(rng, _ASKED["length"], exam, w=shown(rng, word)), measured(word))
    # The count is drawn before the letter, so that a model does not do well by always answering 1.
    pool = COUNTED_LETTERS + word
    count = rng.choice(sorted({word.count(letter) for letter in pool}))
    letter = rng.choice([letter for letter in pool if word.count(letter) == count])
    asked = phrases.say(rng, _ASKED["letters"], exam, w=shown(rng, word), c=letter, C=letter.upper())
    return dialogue(asked, counted(word, letter))
