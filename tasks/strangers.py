"""Strangers: what visitors really ask a small assistant, by writers who had seen none of its lessons.

Each item has a kind, one to three messages of the visitor and the rules for the last answer, all of which must hold:

    {"kind": "turns", "turns": ["what is 3+4?", "and 7 + 8?"], "number": "15"}

    any, all, none   phrases of which one, all, or none must occur
    number, spell    the right number; the word whose letters must stand there in order, between hyphens or blanks
    story            the smallest number of characters
    calls            [[argument, result], …] of the function that the answer defines
    unsure           the answer must say that it does not know

The model's own answers stand between the visitor's messages. This file's TASK has the items for development; those of
strangers_held.py nobody reads, so that they tell how well the lessons serve those who did not write them. When lessons
have been written knowing their result, they go over to development and new writers write the next. Both files lie
beside this one and belong to no data folder, so they are asked only where they are named:
`python -m scripts.chat_eval -i rl -a "all|strangers|strangers_held"`.
"""
import ast
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nanochat import sandbox
from nanochat.system import files
from tasks.common import CODE_BLOCK, Conversation, Item, Message, Task, exchange, says

# An answer is unsure that says one of these ("don't", "can't" and the like are written out before they are compared).
KNOWS_NOT = ("do not know", "did not know", "know nothing", "know only", "only know", "not sure", "no idea",
             "wish i knew", "never heard", "not heard of", "have not heard", "never learned", "never learnt",
             "not learned", "not learnt", "did not learn", "not taught", "never taught", "nobody told me",
             "no one told me", "nobody has told me", "no one has told me")
CAN_NOT = ("can not", "not able", "unable", "do not have", "have no", "there is no", "no such", "nobody called",
           "no one called", "nobody here", "no one here", "do not speak", "do not understand", "not in my village",
           "outside my village", "outside of my village", "too hard for me", "beyond me")
ABOUT_ITSELF = re.compile(r"\b(i|me|my|you|your|we|us|nanochat|sorry|ask|try)\b|^(that|this) is (a|an|not|too|out)")
STATES = re.compile(r"\b(is|are|was|were|has|had|says|lives|means)\b|\d")  # what a sentence that tells a fact has
NUMBER = re.compile(r"(?<![\d.])-?\d{1,3}(?:,\d{3})+(?![\d,])|(?<![\d.])(?:(?<!\w)-)?\d+(?:\.\d+)?")
NUMBER_WORDS = {word: str(value) for value, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty".split())}
SPELLED = re.compile(r"(?<![\w'])[a-z](?:[-–, .]+(?:and )?[a-z](?![\w'])){2,}")
# Of these a question wants one. An answer that names more of them than the question does has only listed them.
ONE_OF = ("monday tuesday wednesday thursday friday saturday sunday".split(),
          "january february march april may june july august september october november december".split(),
          "moo oink woof meow baa neigh quack cluck hoot roar".split())
OPTIONS = "abcd"
MAX_CHARACTERS = {"story": 2000, "calls": 1000}  # of the answer; of all others:
MAX_SHORT = 200  # who says more to a short question has not come to an end
GREETING = 11  # characters at most, of "Sorry." or "Hello!" in front of what an answer begins with
MAX_NUMBERS = 3  # that the question does not have: the result, and two steps towards it

CHECK = """
for argument, expected in {calls!r}:
    result = {name}(argument)
    result = list(result) if type(result) is tuple else result
    assert type(result) in (int, float, str, bool, list, dict, type(None)) and result == expected
    assert (type(result) is bool) == (type(expected) is bool)
"""


@dataclass(frozen=True)
class Strangers(Task):
    """Items as above. A known thing refused is wrong, and so is an invented fact where only "I do not know" is true."""

    max_tokens: int = 200  # the longest stories of the kindergarten have 170
    must_end: ClassVar[bool] = True
    fields: ClassVar[tuple[str, ...]] = ("kind", "turns")

    def path(self, split: str, data_dir: Path | None = None) -> Path | None:
        """None: no data folder has these items, so they are not among the exams that are asked without being named."""
        return None

    def require_path(self, split: str, data_dir: Path | None = None) -> Path:
        if split not in self.splits:
            return super().require_path(split, data_dir)
        return files.beside(Path(__file__).with_name(self.splits[split]))

    def conversation(self, item: Item) -> Conversation:
        """The visitor's messages as one, and the rules: what a table of answers shows."""
        rules = {name: item[name] for name in RULES if name in item}
        return exchange("\n".join([*filter(None, [item.get("system")]), *item["turns"]]), json.dumps(rules))

    def turns(self, item: Item) -> list[list[Message]]:
        turns = [[{"role": "user", "content": text}] for text in item["turns"]]
        if "system" in item:
            turns[0].insert(0, {"role": "system", "content": item["system"]})
        return turns

    def runs_program(self, item: Item) -> bool:
        return "calls" in item

    def refuses(self, item: Item, completion: str) -> bool | None:
        """Whether an answer begins with "I do not know" or "I can not". None: a question that may be refused.

        Of itself the model may say what it cannot do, feel or have.
        """
        if item["kind"] in ("unknown", "odd"):
            return None
        parts = clauses(completion)
        opening = " ".join(parts[:1 if parts and len(parts[0]) > GREETING else 2])
        refusals = KNOWS_NOT if item["kind"] in ("who", "talk", "feelings") else KNOWS_NOT + CAN_NOT
        return any(says(opening, phrase) for phrase in refusals)

    def grade(self, item: Item, completion: str) -> bool:
        longest = next((size for name, size in MAX_CHARACTERS.items() if name in item), MAX_SHORT)
        if len(completion.strip()) > longest or self.refuses(item, completion):
            return False
        return all(rule(item, completion) for name, rule in RULES.items() if name in item)


def plain(text: str) -> str:
    """`plain("I’m sure it can't.")` → "i am sure it can not.": small letters, short forms written out."""
    text = text.lower().replace("’", "'")
    for short, long in (("can't", "can not"), ("cannot", "can not"), ("won't", "will not"), ("n't", " not"),
                        ("i'm", "i am"), ("'re", " are"), ("'ve", " have"), ("'ll", " will")):
        text = text.replace(short, long)
    return re.sub(r"\b(it|that|what|there)'s\b", r"\1 is", " ".join(text.split()))


def clauses(text: str) -> list[str]:
    """The sentences of a text, and what stands before and behind a "but", in small letters."""
    return [clause for clause in re.split(r"[.!?;:]+(?:\s|$)|,? but ", plain(text)) if clause.strip()]


def mentions(text: str, phrase: str) -> bool:
    """Whether a text has a phrase or its plural. The letter A is no article: it stands before a full stop or the like.

    >>> mentions("Two Cats.", "cat"), mentions("It doesn't.", "does not"), mentions("a cow", "A"), mentions("A)", "A")
    (True, True, False, True)
    """
    if phrase.lower() == "a":
        return re.search(r"(?<!\w)a(?=\s*(?:[).:,!?]|$))", text, re.IGNORECASE) is not None
    forms = [plain(phrase) + ending for ending in (("", "s", "es") if len(phrase) > 2 else ("",))]
    return any(says(plain(text), form) for form in forms)


def numbers(text: str) -> list[str]:
    """The whole numbers of a text in order. Where there are no digits, number words up to twenty count.

    >>> numbers("305 - 148 = 1,157."), numbers("It has three.")
    (['305', '148', '1157'], ['3'])
    """
    digits = [number.replace(",", "") for number in NUMBER.findall(text)]
    return digits or [NUMBER_WORDS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in NUMBER_WORDS]


def has_number(item: Item, answer: str) -> bool:
    """The last number is the right one, or the only one that the question does not have; few others stand beside it."""
    question, right = " ".join(item["turns"]), item["number"]
    given, asked = numbers(answer), {*numbers(question), *numbers(re.sub(r"\d", " ", question))}
    new = set(given) - asked
    return right in given and (given[-1] == right or new == {right}) and len(new) <= MAX_NUMBERS


def has_spelling(item: Item, answer: str) -> bool:
    """Whatever is spelled in the answer is the word."""
    spelled = [re.sub(r"[-–, .]+(and )?", "", run) for run in SPELLED.findall(answer.lower())]
    return bool(spelled) and set(spelled) == {item["spell"].lower()}


def has_any(item: Item, answer: str) -> bool:
    """One of the phrases occurs, and the answer is no list of everything that could stand there."""
    right = {phrase.lower() for phrase in item["any"]}
    if not any(mentions(answer, phrase) for phrase in right):
        return False
    letters = right & set(OPTIONS)
    if item["kind"] == "choice" and (says(answer, "or") or letters and any(
            mentions(answer, letter) for letter in set(OPTIONS) - letters)):
        return False  # it repeats the question, or names one option and another one's letter
    if item["kind"] in ("animals", "choice") and any(phrase.isdigit() for phrase in right):
        asked = {*numbers(" ".join(item["turns"])), *right}
        return not set(numbers(answer)) - asked
    said, asked_words = plain(answer), plain(" ".join(item["turns"]))
    return not any(says(said, name) for names in ONE_OF if right & set(names) for name in names
                   if name not in right and not says(asked_words, name))


def has_story(item: Item, answer: str) -> bool:
    return len(answer.strip()) >= int(item["story"])


def is_unsure(item: Item, answer: str) -> bool:
    """It says so in its first three clauses, and no other clause tells a fact about something else than itself."""
    parts = clauses(answer)
    unsure = [any(says(part, phrase) for phrase in KNOWS_NOT + CAN_NOT) for part in parts]
    return any(unsure[:3]) and not any(STATES.search(part) and not ABOUT_ITSELF.search(part)
                                       for part, is_open in zip(parts, unsure, strict=True) if not is_open)


def passes_calls(item: Item, answer: str) -> bool:
    """The last function that the answer defines, in fenced blocks or from the first `def` on, gives every result."""
    code = "\n".join(CODE_BLOCK.findall(answer)) or answer[max(0, answer.find("def ")):]
    try:
        names = [node.name for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if not names:
        return False
    return sandbox.run(code + CHECK.format(calls=item["calls"], name=names[-1]), seconds=5, memory_mib=256).ok


RULES: dict[str, Any] = {
    "any": has_any, "all": lambda item, answer: all(mentions(answer, phrase) for phrase in item["all"]),
    "none": lambda item, answer: not any(says(plain(answer), plain(phrase)) for phrase in item["none"]),
    "number": has_number, "spell": has_spelling, "story": has_story, "unsure": is_unsure, "calls": passes_calls}

TASK = Strangers("strangers", {"test": "strangers_dev.jsonl"}, title="Strangers")
