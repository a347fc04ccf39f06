"""Short Python functions, scored by running them, like HumanEval; the exam asks for combinations never shown.

A function is one operation ("Add 3 to x.") or two, one after the other. A stable hash of the pair decides whether it
is taught or examined: a quarter of all pairs, and their names (`add_double`), occur in no lesson and no text. Every
operation is taught, alone and in other pairs. An item's checks are inputs on which the likely mistakes (operations
swapped, one forgotten, a constant off by one) come out wrong.

>>> lessons(random.Random(2))["messages"][1]["content"].splitlines()
['```python', 'def over_count(xs):', '    xs = [x for x in xs if x > 3]', '    return len(xs)', '```']

The user's message is the header with its docstring, as HumanEval's prompts are; the answer is a fenced block with the
whole function. Its body is two plain lines instead of one nested expression, so the first line depends on the first
operation only. Not here: running model-written code (sandbox/); `exam` runs only what this file defines.
"""

import random
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

from kindergarten.talk import dialogue
from kindergarten.world import THINGS

HELD_OUT_PAIRS = 4       # one pair of operations in four belongs to the exam
SINGLE = 0.25            # of the lessons: one operation only
NUM_CHECKS = 4           # asserts per item, at least
LETTERS = "aeilnorst"
VARIABLES = {"number": "x", "list": "xs", "text": "s"}

# takes, gives | name | what it does | code. {k}: 2 to 9, {c}: a letter, {v}: the variable or "the result".
_OPERATIONS = """
number number | add | add {k} to {v} | x + {k}
number number | subtract | subtract {k} from {v} | x - {k}
number number | multiply | multiply {v} by {k} | x * {k}
number number | double | double {v} | x * 2
number number | triple | triple {v} | x * 3
number number | halve | halve {v} and round down | x // 2
number number | square | square {v} | x * x
number number | negate | negate {v} | -x
number number | remainder | take the remainder of {v} divided by {k} | x % {k}
number number | digit | take the last digit of {v} | abs(x) % 10
number number | positive | take the absolute value of {v} | abs(x)
number number | limit | take {v} but at most {k} | min(x, {k})
number number | raise_to | take {v} but at least {k} | max(x, {k})
number bool | even | tell whether {v} is even | x % 2 == 0
number bool | odd | tell whether {v} is odd | x % 2 == 1
number bool | above | tell whether {v} is more than {k} | x > {k}
number bool | below | tell whether {v} is less than {k} | x < {k}
number bool | divisible | tell whether {v} is divisible by {k} | x % {k} == 0
number text | write | write {v} as text | str(x)
list number | total | add up {v} | sum(xs)
list number | biggest | take the biggest item of {v} | max(xs)
list number | smallest | take the smallest item of {v} | min(xs)
list number | count | count the items of {v} | len(xs)
list number | first | take the first item of {v} | xs[0]
list number | last | take the last item of {v} | xs[-1]
list list | flip | reverse the order of {v} | xs[::-1]
list list | sort | sort {v} | sorted(xs)
list list | over | keep the items of {v} that are more than {k} | [x for x in xs if x > {k}]
list list | under | keep the items of {v} that are less than {k} | [x for x in xs if x < {k}]
list list | evens | keep the even items of {v} | [x for x in xs if x % 2 == 0]
list list | shift | add {k} to every item of {v} | [x + {k} for x in xs]
list list | scale | multiply every item of {v} by {k} | [x * {k} for x in xs]
list list | rest | drop the first item of {v} | xs[1:]
list bool | has | tell whether {k} is in {v} | {k} in xs
text text | capitals | write {v} in capital letters | s.upper()
text text | small | write {v} in small letters | s.lower()
text text | backwards | write {v} backwards | s[::-1]
text text | head | take the first letter of {v} | s[:1]
text text | tail | take the last letter of {v} | s[-1:]
text text | repeat | repeat {v} {k} times | s * {k}
text text | shout | put an exclamation mark after {v} | s + "!"
text number | length | count the letters of {v} | len(s)
text number | letters | count how often "{c}" occurs in {v} | s.count("{c}")
text bool | contains | tell whether "{c}" is in {v} | "{c}" in s
text bool | starts | tell whether {v} starts with "{c}" | s.startswith("{c}")
"""


class Operation(NamedTuple):
    """The types it takes and gives, its name, its words and its code."""

    takes: str
    gives: str
    name: str
    words: str
    code: str

    def filled(self, k: int, c: str) -> "Operation":
        """With constants in words and code."""
        words, code = (part.replace("{k}", str(k)).replace("{c}", c) for part in (self.words, self.code))
        return self._replace(words=words, code=code)


OPERATIONS = [Operation(*types.split(), *rest) for types, *rest in
              (re.split(r" +\| +", line) for line in _OPERATIONS.strip().splitlines())]
PAIRS = [(one, two) for one in OPERATIONS for two in OPERATIONS if one.gives == two.takes and one is not two]
EXAM_PAIRS = [(one, two) for one, two in PAIRS if crc32(f"{one.name} then {two.name}".encode()) % HELD_OUT_PAIRS == 0]
TRAINING_PAIRS = sorted(set(PAIRS) - set(EXAM_PAIRS))


def _write(steps: list[Operation]) -> tuple[str, str, str]:
    """(name, prompt, body): header and docstring, then one line for each step."""
    name = "_".join(step.name for step in steps)
    variables = [VARIABLES[step.takes] for step in steps]
    words = ", then ".join(step.words.replace("{v}", it) for step, it in zip(steps, (variables[0], "the result")))
    targets = [f"{variable} = " for variable in variables[1:]] + ["return "]
    body = "".join(f"    {target}{step.code}\n" for target, step in zip(targets, steps))
    return name, f'def {name}({variables[0]}):\n    """{words[0].upper()}{words[1:]}."""\n', body


def _taught(rng: random.Random) -> tuple[str, str, str]:
    operations = (rng.choice(OPERATIONS),) if rng.random() < SINGLE else rng.choice(TRAINING_PAIRS)
    return _write([operation.filled(rng.randint(2, 9), rng.choice(LETTERS)) for operation in operations])


def lessons(rng: random.Random) -> dict:
    """A conversation: the prompt, and a fenced block with the whole function."""
    _, prompt, body = _taught(rng)
    return dialogue(prompt, f"```python\n{prompt.splitlines()[0]}\n{body}```")


def text(rng: random.Random) -> str:
    """Base text: one to three functions with their docstrings."""
    return "\n\n".join(prompt + body for _, prompt, body in (_taught(rng) for _ in range(rng.randint(1, 3))))


def _inputs(rng: random.Random, takes: str) -> list:
    """Forty inputs of a type, plain ones first."""
    if takes == "number":
        return [rng.randint(0, 20) for _ in range(20)] + [rng.randint(-20, 60) for _ in range(20)]
    if takes == "list":
        return [[rng.randint(0, 12) for _ in range(rng.randint(3, 6))] for _ in range(40)]
    return [rng.choice((str, str.upper, str.capitalize))(word) for word in rng.sample(sorted(THINGS), 40)]


@lru_cache(maxsize=4096)
def _compiled(code: str) -> Callable:
    return eval(f"lambda x=None, xs=None, s=None: {code}")  # code: from the table above, never from a model


def _apply(steps: list[Operation], value: Any) -> Any:
    """The value after all steps, or the exception's type."""
    try:
        for step in steps:
            value = _compiled(step.code)(**{VARIABLES[step.takes]: value})
    except (IndexError, ValueError, TypeError, AttributeError) as problem:
        return type(problem)
    return value


def _checks(rng: random.Random, steps: list[Operation], mistakes: list[list[Operation]]) -> list[tuple[Any, Any]]:
    """(input, output) pairs that tell `steps` from the mistakes; none if it can't be told from the first two."""
    inputs = [value for value in _inputs(rng, steps[0].takes) if not isinstance(_apply(steps, value), type)]
    chosen = inputs[:NUM_CHECKS]
    for i, mistake in enumerate(mistakes):
        telling = [value for value in inputs if _apply(mistake, value) != _apply(steps, value)]
        if not telling and i < 2 or len(chosen) < NUM_CHECKS:
            return []
        chosen += [value for value in telling[:1] if not any(value in telling for value in chosen)]
    return [(value, _apply(steps, value)) for value in chosen]


def exam(seed: int, n: int) -> list[dict]:
    """`n` different items in HumanEval's form, every one a pair of operations that no lesson has."""
    rng, found = random.Random(f"functions {seed}"), {}
    while len(found) < n:
        pair, ks, c = rng.choice(EXAM_PAIRS), (rng.randint(2, 9), rng.randint(2, 9)), rng.choice(LETTERS)
        one, two = steps = [operation.filled(k, c) for operation, k in zip(pair, ks)]
        bigger = [operation.filled(k + 1, c) for operation, k in zip(pair, ks)]
        name, prompt, body = _write(steps)
        checks = _checks(rng, steps, [[one], [two], [two, one], [bigger[0], two], [one, bigger[1]]])
        if prompt not in found and checks:
            asserts = "".join(f"    assert candidate({value!r}) == {result!r}\n" for value, result in checks)
            found[prompt] = {"task_id": f"kindergarten/{len(found)}", "prompt": prompt, "entry_point": name,
                             "canonical_solution": body, "test": f"def check(candidate):\n{asserts}"}
    return list(found.values())
