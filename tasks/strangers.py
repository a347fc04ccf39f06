"""Strangers: questions of users of a small assistant, by writers who had seen none of its lessons.

Each item has a kind, one to three messages of the user, perhaps a system text ("system"), and rules for the last
answer, all of which must hold:

    {"kind": "turns", "turns": ["what is 3+4?", "and 7 + 8?"], "number": "15"}

    any, all, none   phrases of which at least one, all, or none must occur
    number, spell    the right number; the word whose letters must occur in order, separated by hyphens or spaces
    story            the minimum number of characters
    calls            [[argument, result], …] of the function that the answer defines
    unsure           the answer must say that it does not know

The answer must also be short enough (MAX_CHARACTERS, MAX_SHORT) and must not be a refusal (`refuses`).

The model's own answers are inserted between the user's messages. This file's TASK has the items for development.
Nobody reads the items of strangers_held.py, so that they measure how well the lessons serve people who did not write
them. Once lessons have been written with knowledge of their result, they become development items, and new writers
write new ones. Both files are beside this one and not in the data folder, so these exams are taken only if they are
named: `python -m scripts.chat_eval -i rl -a "all|strangers|strangers_held"`.
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

# Phrases that make an answer unsure ("don't", "can't" and similar forms are written out before the comparison).
KNOWS_NOT = ("do not know", "did not know", "know nothing", "know only", "only know", "not sure", "no idea",
             "wish i knew", "never heard", "not heard of", "have not heard", "never learned", "never learnt",
             "not learned", "not learnt", "did not learn", "not taught", "never taught", "nobody told me",
             "no one told me", "nobody has told me", "no one has told me")
CAN_NOT = ("can not", "not able", "unable", "do not have", "have no", "there is no", "no such", "nobody called",
           "no one called", "nobody here", "no one here", "do not speak", "do not understand", "not in my village",
           "outside my village", "outside of my village", "too hard for me", "beyond me")
ABOUT_ITSELF = re.compile(r"\b(i|me|my|you|your|we|us|nanochat|sorry|ask|try)\b|^(that|this) is (a|an|not|too|out)")
STATES = re.compile(r"\b(is|are|was|were|has|had|says|lives|means)\b|\d")  # marks of a sentence that states a fact
NUMBER = re.compile(r"(?<![\d.])-?\d{1,3}(?:,\d{3})+(?![\d,])|(?<![\d.])(?:(?<!\w)-)?\d+(?:\.\d+)?")
NUMBER_WORDS = {word: str(value) for value, word in enumerate(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty".split())}
SPELLED = re.compile(r"(?<![\w'])[a-z](?:[-–, .]+(?:and )?[a-z](?![\w'])){2,}")
# A question asks for one member of such a group. An answer that names other members, which the question does not name,
# has only listed them.
ONE_OF = ("monday tuesday wednesday thursday friday saturday sunday".split(),
          "january february march april may june july august september october november december".split(),
          "moo oink woof meow baa neigh quack cluck hoot roar".split())
OPTIONS = "abcd"  # the letters of a choice
MAX_CHARACTERS = {"story": 2000, "calls": 1000}  # length limit of an answer by its rule; otherwise MAX_SHORT
MAX_SHORT = 200  # a longer answer to a short question counts as not ended
GREETING = 11  # characters: a first clause up to this length ("Sorry.", "Hello!") is only an opening
MAX_NUMBERS = 3  # numbers that are not in the question: the result, and two intermediate results

CHECK = """
for argument, expected in {calls!r}:
    result = {name}(argument)
    result = list(result) if type(result) is tuple else result
    assert type(result) in (int, float, str, bool, list, dict, type(None)) and result == expected
    assert (type(result) is bool) == (type(expected) is bool)
"""


@dataclass(frozen=True)
class Strangers(Task):
    """Items as above. Refusing a taught answer is wrong, and so is inventing a fact instead of "I do not know"."""

    max_tokens: int = 200  # the longest stories of the kindergarten have 170 tokens
    must_end: ClassVar[bool] = True
    fields: ClassVar[tuple[str, ...]] = ("kind", "turns")

    def path(self, split: str, data_dir: Path | None = None) -> Path | None:
        """None: these items are not in the data folder, so the exam is taken only if it is named."""
        return None

    def require_path(self, split: str, data_dir: Path | None = None) -> Path:
        if split not in self.splits:
            return super().require_path(split, data_dir)
        return files.beside(Path(__file__).with_name(self.splits[split]))

    def conversation(self, item: Item) -> Conversation:
        """The user's messages joined, and the rules in place of an answer: for tables of answers."""
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
        """Whether an answer begins with "I do not know" or "I can not". None: the question may be refused.

        In questions about itself the model may say what it cannot do, feel or have.
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
    """`plain("I’m sure it can't.")` → "i am sure it can not.": lower case, short forms written out."""
    text = text.lower().replace("’", "'")
    for short, long in (("can't", "can not"), ("cannot", "can not"), ("won't", "will not"), ("n't", " not"),
                        ("i'm", "i am"), ("'re", " are"), ("'ve", " have"), ("'ll", " will")):
        text = text.replace(short, long)
    return re.sub(r"\b(it|that|what|there)'s\b", r"\1 is", " ".join(text.split()))


def clauses(text: str) -> list[str]:
    """The sentences of a text, split at "but" as well, in lower case."""
    return [clause for clause in re.split(r"[.!?;:]+(?:\s|$)|,? but ", plain(text)) if clause.strip()]


def mentions(text: str, phrase: str) -> bool:
    """Whether a text has a phrase or its plural. Option A is not the article: a full stop or similar must follow it.

    >>> mentions("Two Cats.", "cat"), mentions("It doesn't.", "does not"), mentions("a cow", "A"), mentions("A)", "A")
    (True, True, False, True)
    """
    if phrase.lower() == "a":
        return re.search(r"(?<!\w)a(?=\s*(?:[).:,!?]|$))", text, re.IGNORECASE) is not None
    forms = [plain(phrase) + ending for ending in (("", "s", "es") if len(phrase) > 2 else ("",))]
    return any(says(plain(text), form) for form in forms)


def numbers(text: str) -> list[str]:
    """The numbers of a text in order. If it has no digits, number words up to twenty count.

    >>> numbers("305 - 148 = 1,157."), numbers("It has three.")
    (['305', '148', '1157'], ['3'])
    """
    digits = [number.replace(",", "") for number in NUMBER.findall(text)]
    return digits or [NUMBER_WORDS[word] for word in re.findall(r"[a-z]+", text.lower()) if word in NUMBER_WORDS]


def has_number(item: Item, answer: str) -> bool:
    """The right number is the last, or the only one that is not in the question; at most MAX_NUMBERS are new."""
    question, right = " ".join(item["turns"]), item["number"]
    given, asked = numbers(answer), {*numbers(question), *numbers(re.sub(r"\d", " ", question))}
    new = set(given) - asked
    return right in given and (given[-1] == right or new == {right}) and len(new) <= MAX_NUMBERS


def has_spelling(item: Item, answer: str) -> bool:
    """The answer spells a word, and every spelled word in it is the right one."""
    spelled = [re.sub(r"[-–, .]+(and )?", "", run) for run in SPELLED.findall(answer.lower())]
    return bool(spelled) and set(spelled) == {item["spell"].lower()}


def has_any(item: Item, answer: str) -> bool:
    """One of the phrases occurs, and the answer does not just list all possible values."""
    right = {phrase.lower() for phrase in item["any"]}
    if not any(mentions(answer, phrase) for phrase in right):
        return False
    letters = right & set(OPTIONS)
    if item["kind"] == "choice" and (says(answer, "or") or letters and any(
            mentions(answer, letter) for letter in set(OPTIONS) - letters)):
        return False  # it repeats the question, or names an option with the letter of another option
    if item["kind"] in ("animals", "choice") and any(phrase.isdigit() for phrase in right):
        asked = {*numbers(" ".join(item["turns"])), *right}
        return not set(numbers(answer)) - asked
    said, asked_words = plain(answer), plain(" ".join(item["turns"]))
    return not any(says(said, name) for names in ONE_OF if right & set(names) for name in names
                   if name not in right and not says(asked_words, name))


def has_story(item: Item, answer: str) -> bool:
    return len(answer.strip()) >= int(item["story"])


def is_unsure(item: Item, answer: str) -> bool:
    """One of the first three clauses is unsure, and the others state no fact, except about the model or the user."""
    parts = clauses(answer)
    unsure = [any(says(part, phrase) for phrase in KNOWS_NOT + CAN_NOT) for part in parts]
    return any(unsure[:3]) and not any(STATES.search(part) and not ABOUT_ITSELF.search(part)
                                       for part, is_open in zip(parts, unsure, strict=True) if not is_open)


def passes_calls(item: Item, answer: str) -> bool:
    """The last function of the answer (in fenced blocks, or from the first `def` on) returns every expected result."""
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
