"""Short Python functions, scored by running them, like HumanEval; the exam asks for combinations never shown.

A function is one operation ("Add 3 to x.") or two, one after the other. A stable hash of the pair decides whether it
is taught or examined: a quarter of all pairs, and their names (`add_double`), occur in no lesson and no text. Every
operation is taught, alone and in other pairs. An item's checks are inputs on which the likely mistakes (operations
swapped, one forgotten, a constant off by one) come out wrong.

>>> lessons(random.Random(2))["messages"][1]["content"].splitlines()
['```python', 'def multiply_square(x):', '    x = x * 3', '    return x * x', '```']

The user's message is the header with its docstring, as HumanEval's prompts are; the answer is a fenced block with the
whole function. Its body is two plain lines instead of one nested expression, so the first line depends on the first
operation only. Not here: running model-written code (sandbox/); `exam` runs only what this file defines.
"""

import random
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

from nanochat.kindergarten.talk import dialogue
from nanochat.kindergarten.world import THINGS

HELD_OUT_PAIRS = 4       # one pair of operations in four belongs to the exam
SINGLE = 0.25            # of the lessons: one operation only
NUM_CHECKS = 4           # asserts per item, at least
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
    """The types it takes and gives, its name, its words and its code (with slots)."""

    takes: str
    gives: str
    name: str
    words: str
    code: str


class Step(NamedTuple):
    """An operation and the constants for its slots."""

    operation: Operation
    slots: dict[str, Any]

    def words(self, variable: str) -> str:
        return self.operation.words.format(v=variable, **self.slots)

    def code(self) -> str:
        return self.operation.code.format(**self.slots)


OPERATIONS = [Operation(*types.split(), *rest) for types, *rest in
              ([part.strip() for part in line.split("|")] for line in _OPERATIONS.strip().splitlines())]
PAIRS = [(one, two) for one in OPERATIONS for two in OPERATIONS if one.gives == two.takes and one is not two]


def held_out(one: Operation, two: Operation) -> bool:
    """Whether the exam has this pair, and nothing else does."""
    return crc32(f"{one.name} then {two.name}".encode()) % HELD_OUT_PAIRS == 0


TRAINING_PAIRS = [pair for pair in PAIRS if not held_out(*pair)]
EXAM_PAIRS = [pair for pair in PAIRS if held_out(*pair)]


def _steps(rng: random.Random, operations: tuple[Operation, ...]) -> list[Step]:
    return [Step(operation, {"k": rng.randint(2, 9), "c": rng.choice("aeilnorst")}) for operation in operations]


def _write(steps: list[Step]) -> tuple[str, str, str]:
    """(name, prompt, body): header and docstring, then one line for each step."""
    name = "_".join(step.operation.name for step in steps)
    variables = [VARIABLES[step.operation.takes] for step in steps]
    words = ", then ".join(step.words(it) for step, it in zip(steps, (variables[0], "the result"), strict=False))
    targets = [f"{variable} = " for variable in variables[1:]] + ["return "]
    body = "".join(f"    {target}{step.code()}\n" for target, step in zip(targets, steps, strict=True))
    return name, f'def {name}({variables[0]}):\n    """{words[0].upper()}{words[1:]}."""\n', body


def _taught(rng: random.Random) -> list[Step]:
    return _steps(rng, (rng.choice(OPERATIONS),) if rng.random() < SINGLE else rng.choice(TRAINING_PAIRS))


def lessons(rng: random.Random) -> dict:
    """A conversation: the prompt, and a fenced block with the whole function."""
    _, prompt, body = _write(_taught(rng))
    return dialogue(prompt, f"```python\n{prompt.splitlines()[0]}\n{body}```")


def text(rng: random.Random) -> str:
    """Base text: one to three functions with their docstrings, from the training pairs."""
    return "\n\n".join(prompt + body for _, prompt, body in (_write(_taught(rng)) for _ in range(rng.randint(1, 3))))


# Exam

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


def _apply(steps: list[Step], value: Any) -> Any:
    """The value after all steps, or the exception's type."""
    try:
        for step in steps:
            value = _compiled(step.code())(**{VARIABLES[step.operation.takes]: value})
    except (IndexError, ValueError, TypeError, AttributeError) as problem:
        return type(problem)
    return value


def _checks(rng: random.Random, steps: list[Step]) -> list[tuple[Any, Any]] | None:
    """(input, output) pairs that find what a pupil may get wrong; None if a forgotten step can't be found.

    Mistakes: a step forgotten, the steps swapped, a constant one too big.
    """
    inputs = [value for value in _inputs(rng, steps[0].operation.takes) if not isinstance(_apply(steps, value), type)]
    one, two = steps
    bigger = [Step(step.operation, step.slots | {"k": step.slots["k"] + 1}) for step in steps]
    chosen = inputs[:NUM_CHECKS]
    for i, mistake in enumerate(([one], [two], [two, one], [bigger[0], two], [one, bigger[1]])):
        telling = [value for value in inputs if _apply(mistake, value) != _apply(steps, value)]
        if not telling and i < 2:
            return None
        if telling and not any(value in telling for value in chosen):
            chosen.append(telling[0])
    return [(value, _apply(steps, value)) for value in chosen] if len(chosen) >= NUM_CHECKS else None


def exam(seed: int, n: int) -> list[dict]:
    """`n` different items in HumanEval's form, every one a pair of operations that no lesson has."""
    rng, found = random.Random(f"functions {seed}"), {}
    while len(found) < n:
        steps = _steps(rng, rng.choice(EXAM_PAIRS))
        name, prompt, body = _write(steps)
        if prompt not in found and (checks := _checks(rng, steps)):
            asserts = "".join(f"    assert candidate({value!r}) == {result!r}\n" for value, result in checks)
            found[prompt] = {"task_id": f"kindergarten/{len(found)}", "prompt": prompt, "entry_point": name,
                             "canonical_solution": body, "test": f"def check(candidate):\n{asserts}"}
    return list(found.values())
