"""Calls of functions that somebody else runs. The system text declares them (nanochat/serve/tools.py):

    You can call get_weather(city), lookup(word).

    will it rain in Oslo tomorrow  →  the call get_weather(' Oslo'), and nothing behind it

The answer ends at the call, where the client runs the function; in two of five lessons its result stands there, and is
said. The blank in front of the argument belongs to its token (words.py). In a third of the lessons nothing declared
fits, and the question is answered as ever. Sums that end at the call teach to stop where a client calculates.
"""

import random
from collections.abc import Callable
from typing import Any

from kindergarten.talk import dialogue, worked
from kindergarten.visitors import calculate, phrases, talking
from kindergarten.words import COMMON

_SECTIONS = phrases.read_sections("calls.txt")
Lesson = dict[str, Any]


class Kind:
    """What functions of a kind are called, what they get and give, and how visitors ask for it."""

    def __init__(self, lines: list[str]):
        fields = dict(line.split(": ", 1) for line in lines[:3])
        self.names, self.arguments = fields["names"].split(), fields["arguments"].split()
        self.results, self.ways = fields["results"].split("; "), list(map(phrases.parse, lines[3:]))

    def declared(self, rng: random.Random, name: str = "") -> str:
        return f"{name or rng.choice(self.names)}({rng.choice(self.arguments)})"


KINDS = {heading: Kind(lines) for heading, lines in _SECTIONS.items()}


def _slots(rng: random.Random) -> dict[str, Any]:
    return talking.slots_of_talk(rng) | {
        "any2": rng.choice(COMMON), "n": rng.randint(1, 40), "n2": rng.randint(10, 59), "m": rng.randint(1, 12)}


def _offered(rng: random.Random, declared: list[str], conversation: Lesson) -> Lesson:
    offer = f"You can call {', '.join(rng.sample(declared, len(declared)))}."
    before = rng.choice(("", "", "", "You are nanochat, a helpful assistant.\n\n", f"{talking.persona(rng)[0]}\n\n"))
    return talking.with_system(conversation, before + offer)


def _call(expression: str) -> list[dict[str, str]]:
    return [{"type": "python", "text": expression}]


def called(rng: random.Random, exam: bool = False) -> Lesson:
    """A question that a declared function answers: a call, at times with what comes of it."""
    names = rng.sample(list(KINDS), rng.choice((1, 1, 2, 3)))
    kind, name, slots = KINDS[names[0]], rng.choice(KINDS[names[0]].names), _slots(rng)
    frame = phrases.draw(rng, kind.ways, exam)
    asked = phrases.voice(rng, frame, chatter=0.4, **slots)
    argument = " ".join(str(slots[slot]) for slot in ("place", "any", "any2", "name") if f"{{{slot}}}" in frame)
    call = f"{name}({' ' + phrases.as_typed(argument, asked)!r})"
    result = rng.choice(kind.results).format(**_slots(rng))
    answer = worked(call, result, f"{phrases.upper(result)}.") if rng.random() < 0.4 else _call(call)
    return _offered(rng, [kind.declared(rng, name), *(KINDS[other].declared(rng) for other in names[1:])],
                    dialogue(asked, answer))


def lesson(rng: random.Random, single: Callable[[random.Random], Lesson], exam: bool = False) -> Lesson:
    """A declared function that fits, one that does not, or a sum for somebody else's calculator."""
    if (chance := rng.random()) < 0.6:
        return called(rng, exam)
    if chance < 0.7:
        question, expression = calculate.ask(rng, exam)
        return dialogue(question, _call(expression))
    conversation = single(rng)
    reply = str(conversation["messages"][-1]["content"])
    names = ["time"]  # for "What is the weather?", which stays unanswered
    if not reply.startswith(("I do not know", "I cannot")):
        names = rng.sample(["weather", "person", "word", "price", "time"], rng.choice((1, 1, 2)))
    elif "the time" in reply:
        names = ["person"]
    return _offered(rng, [KINDS[name].declared(rng) for name in names], conversation)
