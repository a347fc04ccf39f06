"""The families of lessons in visitors' words, and the pages of base text that go with them."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

from kindergarten import facts
from kindergarten.talk import dialogue
from kindergarten.visitors import (
    calculate,
    choosing,
    phrases,
    programs,
    school,
    spelled,
    tales,
    talking,
    turns,
    word_problems,
    zoo,
)
from kindergarten.world import World

Maker = Callable[[random.Random], dict[str, Any]]
_EXAMINED = frozenset(" ".join(phrases.read_lines("examined.txt")).split())
_VILLAGE = [phrases.parse(text) for text in (
    "{q}", "{q}", "{q}", "in your village[:|,|] {q}", "[do you know|i wonder|i forgot|say|tell me][:|,| -] {q}",
    "[about|a question about] [the|your] village: {q}", "[my <kin> asks|quiz|so|now][:|,] {q}")]


def village(rng: random.Random, world: World, exam: bool = False) -> dict[str, Any]:
    """A question about the village that facts.py teaches, in a visitor's voice; at times about two people's."""
    pool = facts.questions(world).lessons
    kind, = rng.choices(("fact", "reverse", "hop", "size", "order"), (50, 22, 12, 8, 8))
    question = rng.choice(pool[kind])
    asked = rng.choice(question.phrasings)
    if rng.random() < 0.5 and not asked.startswith("After"):  # "Tom" keeps his capital: no question begins with him
        asked = asked[0].lower() + asked[1:]
    return dialogue(phrases.voice(rng, phrases.draw(rng, _VILLAGE).replace("{q}", asked)), question.reply)


def unexamined(make: Maker) -> Maker:
    """`make`, but drawn again where a visitor would ask a question of the strangers' exam in the exam's own words."""
    def lesson(rng: random.Random, **options: Any) -> dict[str, Any]:
        while True:
            conversation = make(rng, **options)
            asked = (message["content"] for message in conversation["messages"] if message["role"] == "user")
            if _EXAMINED.isdisjoint(map(phrases.fingerprint, asked)):
                return conversation

    return lesson


def makers(world: World) -> dict[str, Maker]:
    """Family → the function that makes one conversation of it."""
    return {"sums": calculate.lesson, "spell": spelled.spelling, "count": spelled.letters,
            "tales": partial(tales.lesson, world=world), "zoo": zoo.lesson, "school": school.lesson,
            "programs": programs.lesson, "choosing": choosing.lesson, "wordproblems": word_problems.lesson,
            "smalltalk": talking.talk, "feelings": talking.feeling, "odd": talking.odd, "unknown": talking.unknown,
            "village": partial(village, world=world), "turns": partial(turns.lesson, world=world),
            "persona": partial(turns.under_a_name, world=world)}


def said(rng: random.Random, world: World) -> str:
    """Base text: what people say, a line each, without answers; from it the tokenizer learns how visitors write."""
    make = unexamined(partial(turns.single, world=world))
    return "\n".join(make(rng)["messages"][0]["content"] for _ in range(8))
