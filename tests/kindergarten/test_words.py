"""Spelling: held-out words occur in no text of the kindergarten."""
import random
import re

from kindergarten import functions, problems, stories, talk, words
from kindergarten.world import World
from nanochat import sandbox
from tasks.common import Spelling, WordProblem

NUM = 600


def all_texts() -> str:
    rng, world = random.Random(0), World(0)
    texts = [stories.story(rng, world) for _ in range(NUM)]
    texts += [make(rng) for make in (words.drill_text, functions.code_text, problems.counting_text) for _ in range(NUM)]
    makers = (words.spelling_lesson, words.counting_lesson, problems.lesson, talk.lesson, functions.lesson)
    contents = [message["content"] for make in makers for _ in range(NUM) for message in make(rng)["messages"]]
    texts += [text if isinstance(text, str) else " ".join(part["text"] for part in text) for text in contents]
    texts += [item["question"] for item in problems.exam(0, 200) + problems.practice(0, NUM)]
    return "\n".join(texts).lower()


def test_same_seed_same_words():
    for exam in (words.spelling_exam, words.counting_exam):
        assert exam(1, 30) == exam(1, 30) != exam(2, 30)
    assert words.drill_text(random.Random(1)) == words.drill_text(random.Random(1))


def test_exam_words_occur_nowhere():
    exam = {item["word"] for item in words.spelling_exam(0, 300) + words.counting_exam(0, 300)}
    seen = set(re.findall("[a-z]+", all_texts()))
    assert len(exam) > 400 and not exam & seen
    assert exam & set(words.EXAM_WORDS) and exam - set(words.EXAM_WORDS)  # real ones and invented ones


def test_held_out_is_a_partition():
    rng = random.Random(0)
    assert all(words.held_out(words.invented(rng, exam)) == exam for exam in (False, True) for _ in range(300))
    assert not any(words.held_out(word) for word in words.WORLD_WORDS)
    assert all(map(words.held_out, words.EXAM_WORDS))


def test_items_spell_and_count_right():
    for item in words.spelling_exam(0, 100):
        letters = item["answer"].rstrip(".").rpartition(" ")[2]
        assert letters.replace("-", "") == item["word"] and set(letters[1::2]) == {"-"}
        assert Spelling("spelling", {}).grade(item, item["answer"]) and item["word"] in item["question"]
    for item in words.counting_exam(0, 100):
        code, count = re.search("<<(.*)=(.*)>>", item["answer"]).groups()
        assert sandbox.calculate(code) == count
        assert item["word"] in item["question"] and item["letter"] in item["question"]
        assert WordProblem("letters", {}).grade(item, f"#### {count}")


def test_drills_are_true():
    rng = random.Random(0)
    lines = [line for _ in range(200) for line in words.drill_text(rng).splitlines()]
    spelled = [re.fullmatch(r"(\w+)(?: is spelled |: )([\w-]+)\.?", line) for line in lines]
    assert sum(map(bool, spelled)) > 200
    assert all(match[2].replace("-", "") == match[1].lower() for match in spelled if match)
    counted = [line.partition(": ")[2].split(" is ") for line in lines if ".count(" in line]
    assert counted and all(sandbox.calculate(code) == count for code, count in counted)
