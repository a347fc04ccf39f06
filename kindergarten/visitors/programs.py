"""Small Python functions, asked for as people do: "can you write a function that doubles a number".

bodies.txt has a function in each line: its name, the expression it returns, and ways to say what it does, where {x} is
"a number", {xs} "a list" and {s} "a string" in many words, {k} a number and {c} a letter. functions.txt has the
sentences around it. The answer is a fenced block, as in functions.py, whose exam of pairs stays as it is.
"""

import random
import re
from typing import Any

from kindergarten.talk import dialogue
from kindergarten.visitors import phrases
from kindergarten.visitors.calculate import in_words

_LETTERS = "abcdefghijklmnoprstuvwy"
_ASKED = phrases.read("functions.txt")
_OBJECTS = {name.removeprefix("object "): _ASKED.pop(name) for name in list(_ASKED) if name.startswith("object ")}
_THIRD = {"do": "does", "go": "goes", "have": "has", "be": "is", "try": "tries"}
Body = tuple[str, str, list[str]]


def _read(line: str) -> Body:
    name, code, ways = re.split(r" +\| +", line)
    return name, code, ways.split("; ")


BODIES = [_read(line) for line in phrases.read_lines("bodies.txt")]
# What most people ask for: half of the lessons are about these.
_POPULAR = """double square is_even is_odd add_{k} subtract_{k} times_{k} factorial is_prime fibonacci total biggest
    smallest average count_items reverse_list sort_list keep_even keep_positive double_all reverse_text upper_case
    length count_vowels count_words is_palindrome to_fahrenheit absolute no_doubles""".split()
_WEIGHTS = [len(BODIES) / len(_POPULAR) if name in _POPULAR else 1 for name, _, _ in BODIES]
_PARAMETERS = {"x": "n x num number a".split(), "xs": "xs lst nums numbers items".split(),
               "s": "s word text string".split()}


def third_person(order: str) -> str:
    """third_person("double a number") == "doubles a number"."""
    verb, _, rest = order.partition(" ")
    if verb not in _THIRD:
        ending = "es" if re.search("(s|sh|ch|x|z)$", verb) else "s"
        verb = verb[:-1] + "ies" if re.search("[^aeiou]y$", verb) else verb + ending
    return f"{_THIRD.get(verb, verb)} {rest}"


def argument(code: str) -> str:
    """The name of a body's argument: argument("[x * 2 for x in xs]") == "xs"."""
    return next(name for name in ("xs", "s", "x") if re.search(rf"\b{name}\b", code))


def program(name: str, code: str, order: str = "") -> str:
    """The fenced answer. A comment first says what was asked for: copying is easy, and then the model writes what it
    has just said instead of what stands somewhere in a visitor's sentence.
    """
    comment = f"# {order}\n" if order else ""
    return f"```python\n{comment}def {name}({argument(code)}):\n    return {code}\n```"


def ask(rng: random.Random, body: Body, exam: bool = False) -> tuple[str, str]:
    """(what a visitor types, the answer)."""
    name, code, ways = body
    k, c = str(rng.choice((2, 3, 4, 5, 6, 7, 8, 9, 10, 10, rng.randint(11, 100)))), rng.choice(_LETTERS)
    name, code = (text.replace("{k}", k).replace("{c}", c) for text in (name, code))
    kind = argument(code)
    if rng.random() < 0.05:
        head = f"{name}({rng.choice(_PARAMETERS[kind])})"
        asked = phrases.say(rng, _ASKED["named"], exam, chatter=0.5, head=head, name=name)
        return asked, program(name, code, name.replace("_", " "))
    order = rng.choice(ways).replace("{c}", c)
    in_digits = rng.random() < 0.75 or "{k}t" in order or "{k}%" in order
    order = order.replace("{k}", k if in_digits else in_words(int(k)))
    things = phrases.expand(rng, rng.choice(_OBJECTS[kind]))
    order = order.replace(f"{{{kind}}}", things)
    # "it receives a list and returns only its even numbers": the thing is named before, and is "it" then.
    does, it = third_person(order), third_person(order.replace(things, rng.choice(("it", "it", "that", things))))
    if rng.random() < 0.5:
        asked = phrases.say(rng, _ASKED["base"], exam, chatter=0.7, do=order)
    else:
        asked = phrases.say(rng, _ASKED["third"], exam, chatter=0.7, does=does, obj=things, doesit=it)
    whole = phrases.as_typed(order, asked) if order.lower() in asked.lower() else phrases.as_typed(does, asked)
    if whole.lower() not in asked.lower():  # the thing is named before
        whole = f"{phrases.as_typed(things, asked)}: {phrases.as_typed(it, asked)}"
    return asked, program(name, code, whole)


def lesson(rng: random.Random, exam: bool = False) -> dict[str, Any]:
    body, = rng.choices(BODIES, _WEIGHTS)
    return dialogue(*ask(rng, body, exam))


def page(rng: random.Random) -> str:
    """Base text: a few of the functions below a line that says what they do."""
    parts = []
    for body in rng.sample(BODIES, rng.choice((2, 3))):
        k, c = str(rng.randint(2, 20)), rng.choice(_LETTERS)
        name, code, order = (text.replace("{k}", k).replace("{c}", c) for text in (*body[:2], rng.choice(body[2])))
        kind = argument(code)
        order = order.replace(f"{{{kind}}}", phrases.expand(rng, rng.choice(_OBJECTS[kind])))
        parts.append(f"# {order}\ndef {name}({kind}):\n    return {code}")
    return "\n\n".join(parts)
