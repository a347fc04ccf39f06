"""Word problems and sums for the calculator, like GSM8K, held out by structure.

A problem is a start ("Ann has 12 apples."), one to three statements and a question. Its *signature* is the tuple of
kinds, for example (start, lose, things, now): what happens in what order, which distractors stand where, what is asked.
`split_of` gives every signature to one of three sets, so they are disjoint by construction:

- lesson: short, many with nothing that distracts, shown with worked answers in midtraining and fine-tuning;
- practice: longer, with distractors, some of a kind no lesson has; RL sees questions and final answers;
- exam: a third of the signatures, by a stable hash, all with distractors. At least one sentence has a frame of the
  exam's own, and the (person, number) pairs it starts from are its own as well.

The answer is one expression in the order of the story. Which statements enter it, and with what sign, depends on the
question: "Tom has 5 shells." counts for "together", and distracts from "How many does Ann have?" (`roles`). In part of
the lessons whoever worked them *slipped*: counted every number told, that of the distractors too. Imitation learns
the slips with the rest; the reward, which knows only right and wrong, can unlearn them.

>>> draw(random.Random(12), "lesson").text
'Ella had 7 cups. Ella has 5 blocks. Then Ella received 3 cups. How many cups does Ella have?'
>>> [draw(random.Random(12), "lesson", slip).expression for slip in (False, True)]
['7+3', '7+5+3']

The constants in capitals set how hard each set is. `counting_text` is base text in which the verbs get their meaning.
Not here: grading (tasks/).
"""

import random
import re
from functools import lru_cache, partial
from typing import NamedTuple
from zlib import crc32

from kindergarten.talk import dialogue, worked
from kindergarten.world import DAYS, GIRLS, NAMES, OUTINGS, THINGS, upper

SPLITS = ("lesson", "practice", "exam")
# Weights for 1, 2, 3 statements after the start; of the kinds of statement; of what is asked.
STATEMENTS = {"lesson": (2, 5, 3), "practice": (0, 6, 4), "exam": (0, 6, 4)}
KINDS = {"gain": 6, "lose": 6, "groups": 3, "share": 3, "give": 3, "double": 2, "second": 5, "more": 1,
         "things": 4, "age": 4, "price": 4, "time": 3}
ASKS = {"now": 5, "other": 2, "both": 4, "ahead": 5}
SLIPS = 0.35              # of the lessons: whoever worked them counted every number, asked for or not
LESSON_OPERATIONS = 3     # the most a lesson may have
LESSON_NEVER = {"time"}   # kinds that lessons do not show
NEW_FRAMES = {"lesson": 0.4, "practice": 0.5, "exam": 0.15}  # how often a sentence has a frame of its own set …
NEW_VERBS = {"lesson": 0.3, "practice": 0.4, "exam": 0.2}   # … or a verb

DISTRACTORS = {"things", "age", "price", "time"}  # never count, whatever is asked
STARTS = ("start", "start", "start", "stocks")
OPENERS = {"start": "a", "second": "b"}           # whose number it tells outright
INTRODUCES_B = {"second", "more"}                 # tells how many B has
# What a kind does to the things of A (the hero) and of B (the other one).
EFFECTS = {"start": (1, 0), "stocks": (1, 0), "gain": (1, 0), "lose": (-1, 0), "groups": (1, 0), "share": (-1, 0),
           "give": (-1, 1), "second": (0, 1)}

# Verbs and frames are in three parts, lesson | practice | exam; a set also uses those before its own. {s} is the hero
# or a pronoun, {a} the hero, {b} the other one, {x} who is asked about, {T} the things, {U} other things, {q} "more
# shells" or "of the shells", {C} boxes or bags, {w} any verb.
GAINED = (("found", "bought", "got", "made", "picked"), ("won", "collected", "received"), ("earned", "gathered"))
LOST = (("lost", "sold", "dropped", "broke", "gave away"), ("threw away", "used up", "left behind"),
        ("gave back", "sent away"))
_FRAMES = """
event: {s} {v} {n} {T}. {s} {v} {n} {q}. Then {s} {v} {n} {T}.
  | Later {s} {v} {n} {T} {place}. After that, {s} {v} another {n}. {s} also {v} {n} {q}. On {day}, {s} {v} {n} {T}.
  | {place}, {s} {v} another {n} {T}. The next day, {s} {v} {n} {q} {place}.
start: {a} has {n} {T}. {a} had {n} {T}.
  | At first, {a} had {n} {T}. There were {n} {T} in {a}'s box. {place}, {a} had {n} {T}.
  | {a} had {n} {T} {place}. On {day}, {a} had {n} {T}.
stocks: {a} has {k} {C} with {m} {T} each. | {a} had {k} {C} of {m} {T} each.
    On {day}, {a} had {k} {C}, each with {m} {T}.
  | {place}, {a} had {k} {C} with {m} {T} each. {a} had {k} {C}, each with {m} {T}.
groups: {s} bought {k} {C} with {m} {T} each. Then {s} found {k} {C} with {m} {T} each.
  | Later {s} got {k} {C} of {m} {T} each. {s} collected {k} {C}, each with {m} {T}.
    There were {m} {T} in each of the {k} {C} {s} found {place}.
  | On {day}, {s} won {k} {C} with {m} {T} each. {place}, {s} got {k} {C} of {m} {T} each.
share: {s} gave {k} friends {m} {T} each. Then {s} sold {k} {C} with {m} {T} each.
  | Later {s} gave {m} {T} to each of {k} friends. {s} lost {k} {C} of {m} {T} each.
    To each of {k} friends {s} gave {m} {T} {place}.
  | On {day}, {s} gave {k} friends {m} {T} each. {place}, {s} sold {k} {C} of {m} {T} each.
give: {s} gave {n} {T} to {b}. {s} gave {b} {n} {T}.
  | Later {s} sold {b} {n} {T}. {b} got {n} {T} from {a}. {b} bought {n} {T} from {a} {place}.
  | On {day}, {s} gave {b} {n} of the {T}. {place}, {b} got {n} {T} from {a}.
double: Then {s} doubled the {T}. | {s} got as many {T} again. Later the number of {T} doubled.
  | On {day}, {s} doubled the {T}. {place}, {s} got as many {T} again.
second: {b} has {n} {T}. {b} had {n} {T}. | Now {b} has {n} {T}. {place}, {b} had {n} {T}. {b} had a bag of {n} {T}.
    In the box of {b} were {n} {T}. | {b} had {n} {T} {place}. On {day}, {b} had {n} {T}.
more: {b} has {n} more {T} than {a}. | {b} had {n} {T} more than {a}. {b}'s box had {n} more {T} than the box of {a}.
  | On {day}, {b} had {n} more {T} than {a}.
things: {s} has {n} {U}. {s} also has {n} {U}. | Later {s} {w} {n} {U}. {b} found {n} {U} {place}.
    There were {n} {U} {place}. | {place}, there were {n} {U}. {n} {U} were {place}.
age: {s} is {n} years old. | {b} is {n} years old. {a}'s friend is {n} years old. On {day}, {a} was {n} years old.
  | {s} has a friend of {n} years.
price: The {T} cost {n} coins each. | {s} paid {n} coins for the box. | On {day}, the {T} cost {n} coins each.
time: {s} played for {n} hours. | Later {s} played {place} for {n} hours. {b} was there for {n} days.
    For {n} days {s} was {place}. | On {day}, {s} played for {n} hours.
now: How many {T} does {x} have now? How many {T} does {x} have?
  | How many {T} does {x} have in the end? So how many {T} does {x} have?
    What is the number of {T} that {x} has now? | In the end, how many {T} does {x} have?
both: How many {T} do {a} and {b} have together?
  | How many {T} do they have in all? In all, how many {T} do they have?
  | How many {T} do they have together? In all, how many {T} do {a} and {b} have?
ahead: How many more {T} does {a} have than {b}? | How many {T} more than {b} does {a} have?
    {a} has how many more {T} than {b}? | In the end, how many more {T} does {a} have than {b}?
"""


def _parse(text: str) -> dict[str, list[list[str]]]:
    """kind → frames for lesson, for practice, for the exam."""
    blocks = (block.split(": ", 1) for block in re.split(r"\n(?=\w+: )", text.strip()))
    frames = {kind: [re.findall(r"\S[^.?]*[.?]", part) for part in parts.split("|")] for kind, parts in blocks}
    events = frames.pop("event")
    return frames | {"gain": events, "lose": events, "other": frames["now"]}


FRAMES = _parse(_FRAMES)
PLURALS = sorted(set(THINGS.values()) - {"coins"})  # coins are money here
CONTAINERS = ("boxes", "bags", "drawers", "bowls")


class Problem(NamedTuple):
    """One word problem: how it is made (signature = kinds + what is asked), its text, the expression and its value."""

    signature: tuple[str, ...]
    text: str
    expression: str
    answer: int
    distractors: int  # statements that do not enter the expression


def roles(kinds: tuple[str, ...], ask: str) -> list[str] | None:
    """What each statement adds to the expression for `ask`: "+", "-", "double", "again+" (12+12+5) or "" (nothing).

    None where the story makes no sense (nobody knows how many B has) or the expression would need more than that.

    >>> roles(("start", "second", "give"), "now"), roles(("start", "second", "give"), "other")
    (['+', '', '-'], ['', '+', '+'])
    """
    a, b = {"now": (1, 0), "other": (0, 1), "both": (1, 1), "ahead": (1, -1)}[ask]
    if ask == "other" and "more" in kinds:
        a = 1  # "Tom has 5 more than Ann": Tom's number goes on from Ann's
    known, found = False, []  # known: has the story said how many B has?
    for i, kind in enumerate(kinds):
        role = ""
        if kind in INTRODUCES_B and (known or "give" in kinds[:i]):
            return None  # "Ann gave Tom 5. Tom had 7.": before that, or after?
        if kind == "more":
            if ask == "ahead" or ask == "both" and any(found[1:]):
                return None
            role = {"other": "+", "both": "again+", "now": ""}[ask]
            a = 0 if ask == "other" else a
        elif kind == "double":
            if a and b and known or "double" in found:
                return None
            role = "double" if a else ""
        elif kind not in DISTRACTORS:
            on_a, on_b = EFFECTS[kind]
            weight = a * on_a + (b * on_b if known or kind == "second" else 0)
            if abs(weight) > 1:
                return None  # who is ahead, after a gift: counts twice
            role = {1: "+", 0: "", -1: "-"}[weight]
        known = known or kind in INTRODUCES_B
        found.append(role)
    return found if known or not b else None


@lru_cache(maxsize=1 << 16)
def split_of(signature: tuple[str, ...]) -> str | None:
    """The one set a signature belongs to; None for stories that make no sense or need no arithmetic."""
    kinds, ask = signature[:-1], signature[-1]
    plan = roles(kinds, ask)
    if plan is None or any(kinds.count(kind) > 1 for kind in DISTRACTORS):
        return None
    distractors = plan.count("")
    operations = len(plan) - distractors - 1
    if operations < 1:
        return None
    short = operations <= LESSON_OPERATIONS and LESSON_NEVER.isdisjoint(kinds)
    third = crc32(" ".join(signature).encode()) % 3
    if distractors == 0:  # not for the exam; a third of them is enough, and all with a single step
        return "lesson" if short and (third == 1 or operations == 1) else None
    return "exam" if third == 0 else "lesson" if third == 1 and short else "practice"


def held_out_pair(name: str, number: int) -> bool:
    """Whether "{name} has {number} …" opens exam problems only: one pair in five."""
    return crc32(f"{name} {number}".encode()) % 5 == 0


def draw(rng: random.Random, split: str, slip: bool = False) -> Problem:
    """A problem of one of SPLITS. With `slip` its expression counts every number told, with the value that gives."""
    counts, kinds, asks = tuple(range(1, len(STATEMENTS[split]) + 1)), tuple(KINDS), tuple(ASKS)
    while True:
        count, = rng.choices(counts, STATEMENTS[split])
        story = (rng.choice(STARTS), *rng.choices(kinds, KINDS.values(), k=count))
        ask, = rng.choices(asks, ASKS.values())
        if split_of((*story, ask)) == split and (problem := _tell(rng, split, story, ask, slip)):
            return problem


def _pick(rng: random.Random, options: tuple, split: str, rate: float) -> str:
    """From the split's own frames (or verbs) at `rate`, else from those before; lessons and practice share theirs."""
    own = 2 if split == "exam" else 1
    return rng.choice(options[own if rng.random() < rate else rng.randrange(own)])


def _amount(rng: random.Random, kind: str, has: list) -> int:
    """A number that fits: 2 or more, half of them one digit; below 2 where somebody has not even 2 to lose."""
    most = {"start": 99, "second": 99, "age": 12, "price": 20, "time": 9}.get(kind, 60)
    if kind in ("lose", "give"):
        most = min(most, has[0])
    return rng.randint(2, 9 if most > 9 and rng.random() < 0.5 else most) if most > 1 else 0


def _happen(kind: str, amount: int, has: list) -> bool:
    """Carry a statement out on [A's number, B's number or None]; False if it can't be. Knows no expression."""
    on_a, on_b = EFFECTS.get(kind, (0, 0))
    has[0] = 2 * has[0] if kind == "double" else has[0] + on_a * amount
    if kind in INTRODUCES_B:
        has[1] = amount if kind == "second" else has[0] + amount
    elif has[1] is not None:
        has[1] += on_b * amount
    return has[0] >= 0 and (has[1] or 0) >= 0


def _extend(expression: str, value: int, role: str, term: str, amount: int) -> tuple[str, int]:
    """Expression and value with one more statement: _extend("12", 12, "again+", "5", 5) == ("12+12+5", 29)."""
    if role == "double":
        return (f"({expression})*2" if "+" in expression or "-" in expression else f"{expression}*2"), 2 * value
    if role == "again+":
        expression, value = f"{expression}+{expression}", 2 * value
    change = {"+": amount, "-": -amount, "": 0}[role[-1:]]
    return (f"{expression}{role[-1]}{term}".lstrip("+") if role else expression), value + change


def _slipped(kinds: tuple[str, ...], plan: list[str]) -> list[str]:
    """The plan of somebody who counts every number told, with the sign it has for the hero."""
    return [role or {1: "+", 0: "+", -1: "-"}[EFFECTS.get(kind, (0, 0))[0]] if kind != "double" else role
            for kind, role in zip(kinds, plan, strict=True)]


def _tell(rng: random.Random, split: str, kinds: tuple[str, ...], ask: str, slip: bool) -> Problem | None:
    """The kinds in words and numbers; None where the numbers drawn leave somebody with less than nothing."""
    a, b = rng.sample(NAMES, 2)
    things, others = rng.sample(PLURALS, 2)
    pronoun = a if (a in GIRLS) == (b in GIRLS) else "she" if a in GIRLS else "he"
    slots = {"a": a, "b": b, "s": a, "x": b if ask == "other" else a, "T": things, "U": others}
    has, plan, sentences, expression, value = [0, None], roles(kinds, ask), [], "", 0
    distractors, plan = plan.count(""), _slipped(kinds, plan) if slip else plan
    fresh = rng.randint(0, len(kinds)) if split == "exam" else -1  # this sentence has a frame of the exam's own
    for i, (kind, role) in enumerate(zip(kinds, plan, strict=True)):
        frame = _pick(rng, FRAMES[kind], split, 1.0 if i == fresh else NEW_FRAMES[split])
        gains, grouped = kind == "gain", "{k}" in frame
        n, k, m = _amount(rng, kind, has), rng.randint(2, 9), rng.randint(2, 9)
        while kind in OPENERS and held_out_pair(slots[OPENERS[kind]], n) != (split == "exam"):
            n = _amount(rng, kind, has)
        amount = k * m if grouped else n
        if not n or not _happen(kind, amount, has):
            return None
        term = str(n) if not grouped else f"{k}*{m}" if frame.index("{k}") < frame.index("{m}") else f"{m}*{k}"
        expression, value = _extend(expression, value, role, term, amount)
        slots |= {"n": n, "k": k, "m": m, "day": rng.choice(DAYS), "place": rng.choice(OUTINGS),
                  "v": _pick(rng, GAINED if gains else LOST, split, NEW_VERBS[split]),
                  "w": rng.choice((GAINED, LOST)[i % 2][0]), "C": rng.choice(CONTAINERS),
                  "q": f"more {things}" if gains else f"of the {things}"}
        sentences.append(upper(frame.format(**slots)))
        slots["s"] = rng.choice((a, pronoun))
    mine, yours = has[0], has[1] or 0
    answer = {"now": mine, "other": yours, "both": mine + yours, "ahead": mine - yours}[ask]
    frame = _pick(rng, FRAMES[ask], split, 1.0 if fresh == len(kinds) else NEW_FRAMES[split])
    sentences.append(upper(frame.format(**slots)))
    if answer < (ask == "ahead") or value < 0:  # nobody is 0 ahead
        return None
    return Problem((*kinds, ask), " ".join(sentences), expression, value if slip else answer, distractors)


def lesson(rng: random.Random) -> dict:
    """A conversation: a word problem of the lesson set, worked with the calculator by somebody who may slip."""
    problem = draw(rng, "lesson", slip=rng.random() < SLIPS)
    return dialogue(problem.text, worked(problem.expression, problem.answer, f"#### {problem.answer}"))


def items(seed: int, n: int, split: str) -> list[dict]:
    """`n` different problems as GSM8K writes them, {"question", "answer"}, and how each was made."""
    rng, found = random.Random(f"problems {split} {seed}"), {}
    while len(found) < n:
        problem = draw(rng, split)
        found[problem.text] = problem
    return [{"question": problem.text, "answer": f"<<{problem.expression}={problem.answer}>>#### {problem.answer}",
             "signature": " ".join(problem.signature), "distractors": problem.distractors}
            for problem in found.values()]


practice = partial(items, split="practice")  # (seed, n): for RL; the worked answers are for analysis, not for training
exam = partial(items, split="exam")          # (seed, n)

SUMS = ("What is {x} {o} {y}?", "Compute {x} {o} {y}.", "What is {x} {word} {y}?", "How much is {x} {word} {y}?",
        "{x} {o} {y} = ?")
OPERATORS = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}


def _sum(rng: random.Random, held_out: bool) -> tuple[str, str, int]:
    """(question, expression, value) with numbers of one to three digits; an eighth of all expressions is held out."""
    while True:
        sign, x, y = rng.choice("+-**/"), *(rng.randint(1, 10 ** rng.randint(1, 3) - 1) for _ in "xy")
        x = {"-": x + y, "/": x * y}.get(sign, x)
        expression = f"{x}{sign}{y}"
        if x < 1000 and (crc32(expression.encode()) % 8 == 0) == held_out:
            value = {"+": x + y, "-": x - y, "*": x * y, "/": x // y}[sign]
            return rng.choice(SUMS).format(x=x, y=y, o=sign, word=OPERATORS[sign]), expression, value


def arithmetic_lesson(rng: random.Random) -> dict:
    """A conversation: "What is 123 * 456?", worked with the calculator: "123*456 = 56088."."""
    question, expression, value = _sum(rng, held_out=False)
    return dialogue(question, worked(expression, value, f"{expression} = {value}."))


def arithmetic_exam(seed: int, n: int) -> list[dict]:
    """`n` different sums {"question", "answer", "required", "forbidden"}; no lesson has them."""
    rng, found = random.Random(f"sums {seed}"), {}
    while len(found) < n:
        question, expression, value = _sum(rng, held_out=True)
        found[expression] = {"question": question, "answer": f"{expression} = {value}.", "required": [str(value)],
                             "forbidden": []}
    return list(found.values())


CHANGES = ("{a} had {n} {T}. {P} {v} {m}. Now {p} had {r} {T}, {q} than before.",
           "{a} had {n} {T} and {v} {m}. {n} {sign} {m} is {r}.",
           "{a} wanted to have {q} {T}, so {p} {v} {m} {place}. There were {n} before and {r} in the end.",
           "{place}, {a} {v} some {T}. The next day {p} had {q} than on {day}: not {n} but {r}.",
           "It was {day}. {a} {v} {m} {T}. {P} had {n} at first, so {p} has {r} now. That is {m} {q}.")
TALES = ("{a} gave {b} {m} of {s} {T}. Now {a} has fewer {T}, only {n}, and {b} has more. Both of them were happy.",
         "{b} had {s} {T}. Then {a} took {m} from {b}. What did {b} have in the end? {n} {T}.",
         "Each of the {k} {C} held {j} {T}. {k} times {j} is {kj}, so the number of {T} in the {C} was {kj}.",
         "{a} had {n} {T}. To have as many again is to have twice {n}. {P} doubled the {T} and had {nn}.",
         "{place}, {b} sold {C} for {n} coins each. To buy one, {a} paid {n} coins.",
         "{b} has {m} {T}. {a} has {n} more than {b}. {m} plus {n} is {s}. How happy {p} was!",
         "The children played {place} for {m} hours. {a} was {n} years old, {b} was {m}. It took days to find the {T}.")


def counting_text(rng: random.Random) -> str:
    """Small stories in which things come and go, so that every verb is seen to make more or fewer; numbers up to 24."""
    return " ".join(_tale(rng) for _ in range(rng.randint(2, 4)))


def _tale(rng: random.Random) -> str:
    a, b = rng.sample(NAMES, 2)
    n, m, k, j, more = rng.randint(2, 12), rng.randint(2, 12), rng.randint(2, 5), rng.randint(2, 5), rng.random() < 0.5
    n = n if more else n + m
    pronoun = "she" if a in GIRLS else "he"
    slots = {"a": a, "b": b, "n": n, "m": m, "s": n + m, "r": n + m if more else n - m, "k": k, "j": j, "kj": k * j,
             "nn": 2 * n, "p": pronoun, "P": upper(pronoun), "T": rng.choice(PLURALS), "C": rng.choice(CONTAINERS),
             "v": rng.choice(sum(GAINED if more else LOST, ())), "q": "more" if more else "fewer",
             "sign": "plus" if more else "minus", "day": rng.choice(DAYS), "place": rng.choice(OUTINGS)}
    return upper(rng.choice(CHANGES if rng.random() < 0.7 else TALES).format(**slots))
