"""Word problems for the calculator, like GSM8K, held out by structure.

A problem is a start ("Ann has 12 apples."), one to three statements and a question. Its *signature* is the tuple of
their kinds, for example (start, lose, things, now): what happens in which order, where the distractors stand, what is
asked. `split_of` gives every signature to one of three sets, so no structure can be in two of them:

- lesson: short, more than half of them without a distractor, shown with worked answers in midtraining and fine-tuning;
- practice: longer, with distractors, some of a kind that no lesson has; RL sees questions and final answers;
- exam: a third of all signatures with a distractor, by a stable hash. At least one sentence has a wording that only the
  exam uses, and only the exam uses the (person, number) pairs with which its stories open.

The answer is one expression in the order of the story. Which statements enter it, and with which sign, depends on the
question: "Tom has 5 shells." counts for "together", and distracts from "How many does Ann have?" (`roles`). In a part
of the lessons the worked answer has a *slip*: it counts every number in the story, also those of the distractors.
Imitation learns the slips with the rest; the reward of RL, which knows only right and wrong, can unlearn them.

>>> draw(random.Random(12), "lesson").text
'Ella had 7 cups. Ella has 5 blocks. Then Ella received 3 cups. How many cups does Ella have?'
>>> [draw(random.Random(12), "lesson", slip).expression for slip in (False, True)]
['7+3', '7+5+3']

The constants in capitals set how hard each set is; docs/LOG.md has what harder and easier settings gave.
`counting_text` is base text that shows what the verbs mean. Not here: grading (tasks/).
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

from kindergarten.talk import dialogue, worked
from kindergarten.world import DAYS, GIRLS, NAMES, OUTINGS, THINGS, read_text, sentences, upper

SPLITS = ("lesson", "practice", "exam")
# Weights: of 1, 2 and 3 statements after the start, of the kinds of statement, of the questions.
STATEMENTS = {"lesson": (2, 5, 3), "practice": (0, 6, 4), "exam": (0, 6, 4)}
KINDS = {"gain": 6, "lose": 6, "groups": 3, "share": 3, "give": 3, "double": 2, "second": 5, "more": 1,
         "things": 4, "age": 4, "price": 4, "time": 3}
ASKS = {"now": 5, "other": 2, "both": 4, "ahead": 5}
# Share of the lessons with a slip. Without slips RL had nothing to choose from: half of the practice questions were
# wrong in every sample. With .35 the exam rose from .54 after SFT to .82 after RL (docs/LOG.md).
SLIPS = 0.35
LESSON_OPERATIONS = 3     # the highest number of operations in a lesson
LESSON_NEVER = {"time"}   # kinds that no lesson shows: whether RL learned or only switched a habit is seen on these
# How often a sentence takes its wording, or its verb, from its own set's part; otherwise it is from the parts before.
NEW_FRAMES = {"lesson": 0.4, "practice": 0.5, "exam": 0.15}
NEW_VERBS = {"lesson": 0.3, "practice": 0.4, "exam": 0.2}

DISTRACTORS = {"things", "age", "price", "time"}  # these never count, whatever is asked
STARTS = ("start", "start", "start", "stocks")
OPENERS = {"start": "a", "second": "b"}           # kinds that say outright how many things {a} or {b} has
INTRODUCES_B = {"second", "more"}                 # kinds that say how many things B has
# What a kind adds to the things of A, the hero, and of B, the other person: +1, 0 or −1 times its number.
EFFECTS = {"start": (1, 0), "stocks": (1, 0), "gain": (1, 0), "lose": (-1, 0), "groups": (1, 0), "share": (-1, 0),
           "give": (-1, 1), "second": (0, 1)}
# What a question asks for: this many times A's things plus this many times B's.
ASKED = {"now": (1, 0), "other": (0, 1), "both": (1, 1), "ahead": (1, -1)}

# Verbs, and frames (sentences with slots, in frames.txt), are in three parts, lesson | practice | exam; a set also uses
# the parts before its own. The slots: {s} the hero or a pronoun, {a} the hero, {b} the other person, {x} the person in
# question, {T} the things, {U} other things, {q} "more shells" or "of the shells", {C} boxes or bags, {w} any verb.
GAINED = (("found", "bought", "got", "made", "picked"), ("won", "collected", "received"), ("earned", "gathered"))
LOST = (("lost", "sold", "dropped", "broke", "gave away"), ("threw away", "used up", "left behind"),
        ("gave back", "sent away"))


def _read_frames() -> dict[str, list[list[str]]]:
    """kind → its frames for lessons, for practice, for the exam."""
    blocks = (block.split(": ", 1) for block in re.split(r"\n(?=\w+: )", read_text("frames.txt")))
    frames = {kind: [sentences(part) for part in parts.split("|")] for kind, parts in blocks}
    events = frames.pop("event")
    return frames | {"gain": events, "lose": events, "other": frames["now"]}


FRAMES = _read_frames()
PLURALS = sorted(set(THINGS.values()) - {"coins"})  # coins are money here
CONTAINERS = ("boxes", "bags", "drawers", "bowls")


class Problem(NamedTuple):
    """One word problem."""

    signature: tuple[str, ...]  # the kinds of its statements, then the question
    text: str
    expression: str
    answer: int
    distractors: int  # statements that do not enter the expression


def roles(kinds: tuple[str, ...], ask: str) -> list[str] | None:
    """What each statement adds to the expression for `ask`: "+", "-", "double", "again+" (12+12+5) or "" (nothing).

    None where the story makes no sense (nobody knows how many things B has), or where the expression would need a step
    that is none of these.

    >>> roles(("start", "second", "give"), "now"), roles(("start", "second", "give"), "other")
    (['+', '', '-'], ['', '+', '+'])
    """
    weight_a, weight_b = ASKED[ask]
    if ask == "other" and "more" in kinds:
        weight_a = 1  # "Tom has 5 more than Ann": until there the expression counts Ann's things
    b_is_known = False  # whether the story has said how many things B has
    plan: list[str] = []
    for i, kind in enumerate(kinds):
        role = ""
        if kind in INTRODUCES_B and (b_is_known or "give" in kinds[:i]):
            return None  # "Ann gave Tom 5. Tom had 7.": before the gift, or after it?
        if kind == "more":
            if ask == "ahead" or ask == "both" and any(plan[1:]):
                return None  # the story tells the answer, or what happened to A would stand in the expression twice
            role = {"other": "+", "both": "again+", "now": ""}[ask]
            weight_a = 0 if ask == "other" else weight_a
        elif kind == "double":
            if weight_a and weight_b and b_is_known or "double" in plan:
                return None  # "…*2" would double B's things as well
            role = "double" if weight_a else ""
        elif kind not in DISTRACTORS:
            on_a, on_b = EFFECTS[kind]
            total = weight_a * on_a + (weight_b * on_b if b_is_known or kind == "second" else 0)
            if abs(total) > 1:
                return None  # A gives B 5: A's lead changes by 10, and no step of the expression says so
            role = {1: "+", 0: "", -1: "-"}[total]
        b_is_known = b_is_known or kind in INTRODUCES_B
        plan.append(role)
    return plan if b_is_known or not weight_b else None


@lru_cache(maxsize=1 << 16)
def split_of(signature: tuple[str, ...]) -> str | None:
    """The set to which a signature belongs; None for stories that make no sense or need no arithmetic."""
    kinds, ask = signature[:-1], signature[-1]
    plan = roles(kinds, ask)
    if plan is None or any(kinds.count(kind) > 1 for kind in DISTRACTORS):
        return None
    distractors = plan.count("")
    operations = len(plan) - distractors - 1
    if operations < 1:
        return None
    is_short = operations <= LESSON_OPERATIONS and LESSON_NEVER.isdisjoint(kinds)
    third = crc32(" ".join(signature).encode()) % 3
    if distractors == 0:  # too easy for the exam; lessons get all with a single step, and a third of the others
        return "lesson" if is_short and (third == 1 or operations == 1) else None
    if third == 0:
        return "exam"
    return "lesson" if third == 1 and is_short else "practice"


def held_out_pair(name: str, number: int) -> bool:
    """Whether "{name} has {number} …" opens exam problems only: one pair in five."""
    return crc32(f"{name} {number}".encode()) % 5 == 0


def draw(rng: random.Random, split: str, slip: bool = False) -> Problem:
    """A problem of one of SPLITS. With `slip`, its expression and its answer count every number in the story."""
    counts, kinds, asks = tuple(range(1, len(STATEMENTS[split]) + 1)), tuple(KINDS), tuple(ASKS)
    while True:
        count, = rng.choices(counts, STATEMENTS[split])
        story = (rng.choice(STARTS), *rng.choices(kinds, tuple(KINDS.values()), k=count))
        ask, = rng.choices(asks, tuple(ASKS.values()))
        if split_of((*story, ask)) == split and (problem := _tell(rng, split, story, ask, slip)):
            return problem


def _pick(rng: random.Random, options: Sequence[Sequence[str]], split: str, new_rate: float) -> str:
    """With probability `new_rate` a frame (or verb) of the split's own part, else one of the parts before.

    Lessons and practice share their parts.
    """
    newest = 2 if split == "exam" else 1
    return rng.choice(options[newest if rng.random() < new_rate else rng.randrange(newest)])


@dataclass
class Belongings:
    """How many things A and B have while a story is told; None: the story has not said it of B."""

    a: int = 0
    b: int | None = None

    def happen(self, kind: str, amount: int) -> bool:
        """Carries a statement out; False if it is impossible. Knows no expression, so the two check each other."""
        on_a, on_b = EFFECTS.get(kind, (0, 0))
        self.a = 2 * self.a if kind == "double" else self.a + on_a * amount
        if kind in INTRODUCES_B:
            self.b = amount if kind == "second" else self.a + amount
        elif self.b is not None:
            self.b += on_b * amount
        return self.a >= 0 and (self.b or 0) >= 0

    def answer(self, ask: str) -> int:
        """The answer to a question, from what happened."""
        weight_a, weight_b = ASKED[ask]
        return weight_a * self.a + weight_b * (self.b or 0)


def _amount(rng: random.Random, kind: str, has: Belongings) -> int:
    """A number that suits the statement, 2 or more, half of them with one digit; 0 where A has not even 2 to lose."""
    highest = {"start": 99, "second": 99, "age": 12, "price": 20, "time": 9}.get(kind, 60)
    if kind in ("lose", "give"):
        highest = min(highest, has.a)
    if highest < 2:
        return 0
    return rng.randint(2, 9 if highest > 9 and rng.random() < 0.5 else highest)


def _term(frame: str, n: int, k: int, m: int) -> tuple[str, int]:
    """A statement's number as the expression writes it, and its value: ("12", 12), or ("3*4", 12) where the frame
    tells of {k} groups of {m}; the two stand in the order of the story."""
    if "{k}" not in frame:
        return str(n), n
    return (f"{k}*{m}" if frame.index("{k}") < frame.index("{m}") else f"{m}*{k}"), k * m


def _extend(expression: str, value: int, role: str, term: str, amount: int) -> tuple[str, int]:
    """Expression and value with one more statement: _extend("12", 12, "again+", "5", 5) == ("12+12+5", 29)."""
    if not role:
        return expression, value
    if role == "double":
        return (f"({expression})*2" if "+" in expression or "-" in expression else f"{expression}*2"), 2 * value
    if role == "again+":
        expression, value = f"{expression}+{expression}", 2 * value
    if role == "-":
        return f"{expression}-{term}", value - amount
    return f"{expression}+{term}".lstrip("+"), value + amount


def _slipped(kinds: tuple[str, ...], plan: list[str]) -> list[str]:
    """The plan of somebody who counts every number in the story, with the sign it has for the hero."""
    signs = ["-" if EFFECTS.get(kind, (0, 0))[0] < 0 else "+" for kind in kinds]
    return [role or ("" if kind == "double" else sign) for kind, role, sign in zip(kinds, plan, signs, strict=True)]


def _tell(rng: random.Random, split: str, kinds: tuple[str, ...], ask: str, slip: bool) -> Problem | None:
    """A story of these kinds in words and numbers; None where the numbers drawn make it impossible."""
    a, b = rng.sample(NAMES, 2)
    things, others = rng.sample(PLURALS, 2)
    # Where hero and other person are both "she" or both "he", a pronoun would be ambiguous.
    pronoun = a if (a in GIRLS) == (b in GIRLS) else "she" if a in GIRLS else "he"
    slots: dict[str, Any] = {"a": a, "b": b, "s": a, "x": b if ask == "other" else a, "T": things, "U": others}
    plan = roles(kinds, ask)
    assert plan, f"no sense in {kinds}, {ask}"
    distractors = plan.count("")
    if slip:
        plan = _slipped(kinds, plan)
    exam_frame_at = rng.randint(0, len(kinds)) if split == "exam" else -1  # one sentence is in the exam's own wording
    has, story, expression, value = Belongings(), [], "", 0
    for i, (kind, role) in enumerate(zip(kinds, plan, strict=True)):
        frame = _pick(rng, FRAMES[kind], split, 1.0 if i == exam_frame_at else NEW_FRAMES[split])
        n, k, m = _amount(rng, kind, has), rng.randint(2, 9), rng.randint(2, 9)
        while kind in OPENERS and held_out_pair(slots[OPENERS[kind]], n) != (split == "exam"):
            n = _amount(rng, kind, has)
        term, amount = _term(frame, n, k, m)
        if not amount or not has.happen(kind, amount):
            return None  # nobody can give away more than there is
        expression, value = _extend(expression, value, role, term, amount)
        is_gain = kind == "gain"  # the frames of "gain" and "lose" are the same; the verb tells which it is
        slots |= {"n": n, "k": k, "m": m, "day": rng.choice(DAYS), "place": rng.choice(OUTINGS),
                  "v": _pick(rng, GAINED if is_gain else LOST, split, NEW_VERBS[split]),
                  "w": rng.choice((GAINED, LOST)[i % 2][0]), "C": rng.choice(CONTAINERS),
                  "q": f"more {things}" if is_gain else f"of the {things}"}
        story.append(upper(frame.format(**slots)))
        slots["s"] = rng.choice((a, pronoun))
    answer = has.answer(ask)
    frame = _pick(rng, FRAMES[ask], split, 1.0 if exam_frame_at == len(kinds) else NEW_FRAMES[split])
    story.append(upper(frame.format(**slots)))
    if answer < (1 if ask == "ahead" else 0) or value < 0:  # "How many more?" needs at least one more
        return None
    return Problem((*kinds, ask), " ".join(story), expression, value if slip else answer, distractors)


def lesson(rng: random.Random) -> dict[str, Any]:
    """A conversation: a word problem of the lesson set, worked with the calculator, at times with a slip."""
    problem = draw(rng, "lesson", slip=rng.random() < SLIPS)
    return dialogue(problem.text, worked(problem.expression, problem.answer, f"#### {problem.answer}"))


def _items(seed: int, n: int, split: str) -> list[dict[str, Any]]:
    """`n` different problems as GSM8K writes them, {"question", "answer"}, and how each was made."""
    rng = random.Random(f"problems {split} {seed}")
    problems: dict[str, Problem] = {}
    while len(problems) < n:
        problem = draw(rng, split)
        problems[problem.text] = problem
    return [{"question": problem.text, "answer": f"<<{problem.expression}={problem.answer}>>#### {problem.answer}",
             "signature": " ".join(problem.signature), "distractors": problem.distractors}
            for problem in problems.values()]


def practice(seed: int, n: int) -> list[dict[str, Any]]:
    """Items for RL, which grades with the final answer; the worked expressions are for analysis, not for training."""
    return _items(seed, n, "practice")


def as_practice(conversation: dict[str, Any]) -> dict[str, Any]:
    """The item that asks what a lesson asks whose answer is a call of the tool and then "#### 17"."""
    question, answer = (message["content"] for message in conversation["messages"])
    texts = {part["type"]: part["text"] for part in answer}
    return {"question": question, "answer": f"<<{texts['python']}={texts['python_output']}>>{texts['text']}"}


def exam(seed: int, n: int) -> list[dict[str, Any]]:
    return _items(seed, n, "exam")


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
    """Base text: two to four tiny stories in which things come and go, so that every verb is seen to make more or
    fewer; numbers up to 24."""
    return " ".join(_tale(rng) for _ in range(rng.randint(2, 4)))


def _tale(rng: random.Random) -> str:
    a, b = rng.sample(NAMES, 2)
    n, m, k, j, more = rng.randint(2, 12), rng.randint(2, 12), rng.randint(2, 5), rng.randint(2, 5), rng.random() < 0.5
    n = n if more else n + m  # nobody loses more than there is
    pronoun = "she" if a in GIRLS else "he"
    slots = {"a": a, "b": b, "n": n, "m": m, "s": n + m, "r": n + m if more else n - m, "k": k, "j": j, "kj": k * j,
             "nn": 2 * n, "p": pronoun, "P": upper(pronoun), "T": rng.choice(PLURALS), "C": rng.choice(CONTAINERS),
             "v": rng.choice(sum(GAINED if more else LOST, ())), "q": "more" if more else "fewer",
             "sign": "plus" if more else "minus", "day": rng.choice(DAYS), "place": rng.choice(OUTINGS)}
    return upper(rng.choice(CHANGES if rng.random() < 0.7 else TALES).format(**slots))
