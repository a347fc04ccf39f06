"""Short Python functions, scored by running them, like HumanEval; the exam asks for combinations never shown.

A function is one operation ("Add 3 to x.") or two, one after the other. A stable hash of the pair decides whether it is
taught or examined: a quarter of all pairs, and their names (`add_double`), occur in no lesson and no text. Every
operation is taught, alone and in other pairs.

>>> lesson(random.Random(2))["messages"][1]["content"].splitlines()
['```python', 'def over_count(xs):', '    xs = [x for x in xs if x > 3]', '    return len(xs)', '```']

The user's message is the header with its docstring, as HumanEval's prompts are; the answer is a fenced block with the
whole function. The body has one plain line per operation, not one nested expression, so that each line depends on one
operation only. An exam item's checks are inputs on which the likely mistakes (operations swapped, one forgotten, a
constant off by one) give a wrong output. Not here: running what a model wrote (nanochat/sandbox/).
"""

import random
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

from kindergarten.talk import dialogue
from kindergarten.world import THINGS

HELD_OUT_PAIRS = 4       # one pair of operations in four belongs to the exam
SINGLE = 0.25            # share of the lessons that have one operation only
NUM_CHECKS = 4           # asserts per item, at least; more where a mistake needs an input of its own
LETTERS = "aeilnorst"    # frequent ones, so that a count is not always 0
VARIABLES = {"number": "x", "list": "xs", "text": "s"}  # no operation takes a bool: it ends a function

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
    """One step of a function."""

    takes: str  # a type: number, list, text
    gives: str  # a type: number, list, text, bool
    name: str
    words: str
    code: str

    def filled(self, k: int, c: str) -> "Operation":
        """The operation with the constants {k} and {c} in its words and its code."""
        words, code = (text.replace("{k}", str(k)).replace("{c}", c) for text in (self.words, self.code))
        return self._replace(words=words, code=code)


def _parse(line: str) -> Operation:
    types, name, words, code = re.split(r" +\| +", line)
    takes, gives = types.split()
    return Operation(takes, gives, name, words, code)


def _held_out(first: Operation, second: Operation) -> bool:
    return crc32(f"{first.name} then {second.name}".encode()) % HELD_OUT_PAIRS == 0


OPERATIONS = [_parse(line) for line in _OPERATIONS.strip().splitlines()]
PAIRS = [(first, second) for first in OPERATIONS for second in OPERATIONS
         if first.gives == second.takes and first is not second]
EXAM_PAIRS = [pair for pair in PAIRS if _held_out(*pair)]
TRAINING_PAIRS = sorted(pair for pair in PAIRS if not _held_out(*pair))


def _write(steps: Sequence[Operation]) -> tuple[str, str, str]:
    """(name, prompt, body): the prompt is the header with its docstring, the body has a line for each step."""
    name = "_".join(step.name for step in steps)
    variables = [VARIABLES[step.takes] for step in steps]
    words = ", then ".join(step.words.replace("{v}", subject)
                           for step, subject in zip(steps, (variables[0], "the result")))
    # The result of a step is assigned to the variable of its type, that of the last step is returned.
    targets = [f"{variable} = " for variable in variables[1:]] + ["return "]
    body = "".join(f"    {target}{step.code}\n" for target, step in zip(targets, steps))
    return name, f'def {name}({variables[0]}):\n    """{words[0].upper()}{words[1:]}."""\n', body


def _taught(rng: random.Random) -> tuple[str, str, str]:
    """A function of the training set, as `_write` gives it."""
    operations = (rng.choice(OPERATIONS),) if rng.random() < SINGLE else rng.choice(TRAINING_PAIRS)
    return _write([operation.filled(rng.randint(2, 9), rng.choice(LETTERS)) for operation in operations])


def lesson(rng: random.Random) -> dict[str, Any]:
    """A conversation: the prompt, and a fenced block with the whole function."""
    _, prompt, body = _taught(rng)
    return dialogue(prompt, f"```python\n{prompt.splitlines()[0]}\n{body}```")


def code_text(rng: random.Random) -> str:
    """Base text: one to three functions with their docstrings."""
    return "\n\n".join(prompt + body for _, prompt, body in (_taught(rng) for _ in range(rng.randint(1, 3))))


def _inputs(rng: random.Random, takes: str) -> list[Any]:
    """Forty inputs of a type; numbers below zero only among the last twenty."""
    # So many, because a mistake must show on at least one of them.
    if takes == "number":
        return [rng.randint(0, 20) for _ in range(20)] + [rng.randint(-20, 60) for _ in range(20)]
    if takes == "list":
        return [[rng.randint(0, 12) for _ in range(rng.randint(3, 6))] for _ in range(40)]
    return [rng.choice((str, str.upper, str.capitalize))(word) for word in rng.sample(sorted(THINGS), 40)]


@lru_cache(maxsize=4096)
def _compiled(code: str) -> Callable[..., Any]:
    # eval is safe here: the code comes from the table above, never from a model.
    return eval(f"lambda x=None, xs=None, s=None: {code}")  # type: ignore[no-any-return]


def _apply(steps: Sequence[Operation], value: Any) -> Any:
    """The value after all steps, or the type of the exception that a step raised."""
    # A wrong order of steps may not even fit by type: that is a mistake which shows, and not an error of ours.
    try:
        for step in steps:
            value = _compiled(step.code)(**{VARIABLES[step.takes]: value})
    except (IndexError, ValueError, TypeError, AttributeError) as error:
        return type(error)
    return value


def _checks(rng: random.Random, steps: Sequence[Operation], must_fail: list[list[Operation]],
            should_fail: list[list[Operation]]) -> list[tuple[Any, Any]]:
    """(input, output) pairs on which the wrong programs fail; [] if no input shows one that `must_fail`.

    A program of `should_fail` may happen to be right: to add 2 and to subtract 3 is the same in either order.
    """
    # Inputs for which the function itself fails ("take the first item" of an empty list) are no checks.
    inputs = [value for value in _inputs(rng, steps[0].takes) if not isinstance(_apply(steps, value), type)]
    if len(inputs) < NUM_CHECKS:
        return []
    chosen = inputs[:NUM_CHECKS]
    for wrong in must_fail + should_fail:
        telling = [value for value in inputs if _apply(wrong, value) != _apply(steps, value)]
        if not telling and wrong in must_fail:
            return []
        if telling and not any(value in telling for value in chosen):
            chosen.append(telling[0])
    return [(value, _apply(steps, value)) for value in chosen]


def exam(seed: int, n: int) -> list[dict[str, Any]]:
    """`n` different items in HumanEval's form, each a pair of operations that no lesson has."""
    rng = random.Random(f"functions {seed}")
    items: dict[str, dict[str, Any]] = {}  # by prompt, so that no item comes twice
    while len(items) < n:
        pair, constants, letter = rng.choice(EXAM_PAIRS), (rng.randint(2, 9), rng.randint(2, 9)), rng.choice(LETTERS)
        first, second = (operation.filled(k, letter) for operation, k in zip(pair, constants))
        first_plus_1, second_plus_1 = (operation.filled(k + 1, letter) for operation, k in zip(pair, constants))
        name, prompt, body = _write([first, second])
        checks = _checks(rng, [first, second], must_fail=[[first], [second]],
                         should_fail=[[second, first], [first_plus_1, second], [first, second_plus_1]])
        if prompt not in items and checks:
            asserts = "".join(f"    assert candidate({value!r}) == {result!r}\n" for value, result in checks)
            items[prompt] = {"task_id": f"kindergarten/{len(items)}", "prompt": prompt, "entry_point": name,
                             "canonical_solution": body, "test": f"def check(candidate):\n{asserts}"}
    return list(items.values())
