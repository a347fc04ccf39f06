"""No lesson asks what strangers ask in their exam (tasks/strangers.py); how many come near is printed."""
import random
import re
from collections import Counter

import numpy as np
import pytest

import tasks
from kindergarten import write
from kindergarten.world import World

SCALE = 0.01  # of the lessons that a run learns from
NEAR_LETTERS, NEAR_WORDS = 2, 5
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789 "


def plain(text: str) -> str:
    """Words in small letters without marks; what has no words (a "?") stays as it is."""
    return " ".join(re.findall(r"[a-z0-9]+", text.lower())) or text.strip()


def told(content) -> str:
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


@pytest.fixture(scope="module")
def taught() -> set[str]:
    """What users ask in the lessons of a seed, every family at a hundredth of its size."""
    questions = set()
    for family, make in write.lesson_makers(World(1)).items():
        rng = random.Random(f"1 lessons {family}")
        for _ in range(max(8, round(write.LESSONS[family] * SCALE))):
            questions |= {plain(told(message["content"])) for message in make(rng)["messages"]
                          if message["role"] == "user"}
    return questions


@pytest.fixture(scope="module")
def examined() -> list[tuple[str, str]]:
    """(half and kind, what is asked) of every question: no failure shows the words."""
    return [(f"{name}, {item['kind']}", plain(item["turns"][-1])) for name in ("strangers", "strangers_held")
            for item in tasks.find(name).load("test")]


def test_no_lesson_asks_a_question_of_the_strangers(taught, examined):
    shared = Counter(kind for kind, question in examined if question in taught)
    assert not shared, f"questions that lessons ask: {dict(shared)}"


def distance(a: str, b: str) -> int:
    """Levenshtein's edit distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (x != y))
    return row[-1]


def counts(texts: list[str]) -> np.ndarray:
    """How often each letter stands in each text (texts, letters)."""
    return np.array([[text.count(letter) for letter in LETTERS] for text in texts], np.int16)


def near_by_letters(questions: list[str], lessons: list[str]) -> set[str]:
    """The questions that an edit of a few letters makes a lesson's. An edit changes two of the counts at most."""
    lesson_counts = counts(lessons)
    found = set()
    for question, own in zip(questions, counts(questions)):
        candidates = np.flatnonzero(np.abs(lesson_counts - own).sum(1) <= 2 * NEAR_LETTERS)
        if any(distance(question, lessons[i]) <= NEAR_LETTERS for i in candidates):
            found.add(question)
    return found


def runs_of_words(text: str) -> set[tuple[str, ...]]:
    words = text.split()
    return {tuple(words[i:i + NEAR_WORDS]) for i in range(len(words) - NEAR_WORDS + 1)}


def test_how_many_are_near_a_lesson_is_printed(taught, examined, capsys):
    asked, lessons = [question for _, question in examined], sorted(taught)
    by_letters = near_by_letters([question for question in asked if len(question) > 4 * NEAR_LETTERS], lessons)
    lesson_runs = set().union(*map(runs_of_words, lessons))
    by_words = [question for question in asked if runs_of_words(question) & lesson_runs]
    with capsys.disabled():
        print(f"\n{len(asked)} of strangers against {len(lessons):,} of the lessons: {len(by_letters)} differ "
              f"in at most {NEAR_LETTERS} letters, {len(by_words)} share {NEAR_WORDS} words in a row")
    assert len(by_letters) < len(asked) / 20, "the lessons come too near to the exam to say anything about strangers"


def test_near_is_what_it_says():
    assert near_by_letters(["what is a cow", "who are you"], ["what is the cow", "wat is a cowe"]) == {"what is a cow"}
    assert distance("kitten", "sitting") == 3
    assert not runs_of_words("a b c d") and len(runs_of_words("a b c d e f")) == 2
