"""Lessons in visitors' words: varied, held out by frame, right, and silent about what the village's exams ask."""
import gzip
import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from kindergarten import facts, functions, sums, words, write
from kindergarten.visitors import (
    calculate,
    choosing,
    families,
    phrases,
    programs,
    school,
    spelled,
    tales,
    talking,
    turns,
    zoo,
)
from kindergarten.visitors.word_problems import ask as ask_problem
from kindergarten.world import ANIMALS, NAMES, World
from nanochat import sandbox

TASKS = Path(__file__).parents[2] / "tasks"
WORLD = World(0)
NUM = 400
FAMILIES = {family: families.unexamined(make) for family, make in families.makers(WORLD).items()}
FRAMES = [frames for name in ("asks", "sums", "turns", "animal_questions", "school", "functions", "problems", "choices")
          for frames in phrases.read(f"{name}.txt").values()]


def told(message: dict) -> str:
    content = message["content"]
    return content if isinstance(content, str) else " ".join(part["text"] for part in content)


@pytest.fixture(scope="module")
def lessons() -> dict[str, list[list[dict]]]:
    rng = random.Random(0)
    return {family: [make(rng)["messages"] for _ in range(NUM)] for family, make in FAMILIES.items()}


def test_the_same_seed_gives_the_same_lessons():
    for make in FAMILIES.values():
        assert make(random.Random(1)) == make(random.Random(1))


def test_lessons_are_clean_and_hardly_any_is_asked_twice(lessons):
    for family, conversations in lessons.items():
        texts = [told(message) for messages in conversations for message in messages]
        plain = [re.sub("[\u00d7\u00f7]", "*", text) for text in texts]  # the signs of a phone's keyboard
        assert all(text.strip() and text.isascii() and not re.search(r"\{\w*\}|<[a-z]+>|\w\|\w", text) for text in plain
                   if "```" not in text), family
        asked = Counter(told(messages[-2]) for messages in conversations)
        assert len(asked) > (0.75 if family in ("smalltalk", "odd", "feelings") else 0.9) * NUM, family


def test_few_visitors_use_the_same_frame():
    """A heading has hundreds of frames: two draws are seldom equal."""
    rng = random.Random(0)
    for name in ("asks.txt", "functions.txt", "unknown.txt"):
        for heading, frames in phrases.read(name).items():
            frames = [frame for frame in frames if not str(frame[0]).startswith("=")]
            if not heading.startswith(("object", "another", "who", "where")):
                assert len({phrases.draw(rng, frames) for _ in range(200)}) > 100, heading


def test_a_frame_is_of_the_lessons_or_of_the_exam():
    rng = random.Random(0)
    for frames in FRAMES:
        try:
            examined = {phrases.draw(rng, frames, exam=True) for _ in range(20)}
        except ValueError:
            continue  # so few frames that none is held out
        assert not examined & {phrases.draw(rng, frames) for _ in range(50)}
        assert all(phrases.held_out(frame) for frame in examined)


def test_a_voice_changes_the_frame_and_never_what_the_slot_says():
    rng = random.Random(0)
    frames = [phrases.parse("could you please spell the difficult word {w}")]
    said = [phrases.say(rng, frames, w="qxzq") for _ in range(NUM)]
    assert all("qxzq" in text.lower() for text in said) and len(set(said)) > NUM / 3
    assert sum(text == text.lower() for text in said) > NUM / 5 and any(text == text.upper() for text in said)


def test_sums_are_right_and_none_is_of_the_exam(lessons):
    exam = {item["answer"].split(" = ")[0] for item in sums.exam(0, 200)}
    for messages in lessons["sums"]:
        code, output, text = (part["text"] for part in messages[-1]["content"])
        assert sandbox.calculate(code) == output and text == f"{code} = {output}." and code not in exam


def test_words_are_spelled_and_counted_right(lessons):
    for messages in lessons["spell"]:
        said, letters = re.fullmatch(r"The word (\w+) is spelled ([\w-]+)\.", messages[1]["content"]).groups()
        assert letters.replace("-", "") == said and said in messages[0]["content"].lower()
    for messages in lessons["count"]:
        before, code, output, text = (part["text"] for part in messages[1]["content"])
        assert sandbox.calculate(code) == output and text == f"#### {output}" and before.split()[2][:-1] in code


def test_what_the_villages_exams_hold_out_is_in_no_lesson(lessons):
    texts = [told(message) for conversations in lessons.values() for messages in conversations for message in messages]
    rng = random.Random(1)
    texts += [page(rng) for page in (zoo.page, tales.page, programs.page) for _ in range(200)]
    everything = "\n".join([*texts, *(families.said(rng, WORLD) for _ in range(100))])
    exam_words = {item["word"] for item in words.spelling_exam(0, 300) + words.counting_exam(0, 300)}
    assert not exam_words & set(re.findall("[a-z]+", everything.lower()))
    assert not [item for item in facts.exam(WORLD) if item["question"].lower() in everything.lower()]
    assert not [item for item in functions.exam(0, 200) if f"def {item['entry_point']}(" in everything]


def test_no_lesson_asks_a_question_of_the_strangers(lessons):
    examined = set(" ".join(phrases.read_lines("examined.txt")).split())
    asked = [told(message) for conversations in lessons.values() for messages in conversations
             for message in messages if message["role"] == "user"]
    assert not [text for text in asked if phrases.fingerprint(text) in examined] and len(examined) > 400
    exams = [json.loads(line) for path in TASKS.glob("strangers_*.jsonl*")
             for line in (gzip.open if path.suffix == ".gz" else open)(path, "rt")]
    assert {phrases.fingerprint(item["turns"][-1]) for item in exams} <= examined, "examined.txt is older than the exam"


def test_held_out_facts_are_not_taught_in_other_words():
    rng = random.Random(0)
    for _ in range(2000):
        topic, animal = zoo.draw(rng)
        relation = {"sound": "sound", "home": "lair", "food": "diet"}.get(topic)
        assert animal.name not in ANIMALS or not relation or not facts.held_out(f"fact {animal.name} {relation}")
    assert not [first for first, _ in school.OPPOSITES if facts.held_out(f"fact {first} opposite")]


def works(function, values) -> bool:
    try:
        return all(function(value) is not None for value in values)
    except (TypeError, AttributeError, ValueError):  # it is a function of words, not of numbers
        return False


def test_every_body_is_a_function_and_its_name_in_no_exam():
    inputs = {"x": [[7, 0, -3]], "xs": [[[3, 4, -1], [5, 6]], [["ab", "c"], ["a", "bcd"]]],
              "s": [["hello you", "Anna Bo"], ["12", "-3"]]}
    for name, code, ways in programs.BODIES:
        name, code = name.replace("{k}", "3").replace("{c}", "a"), code.replace("{k}", "3").replace("{c}", "a")
        block = re.fullmatch(r"```python\n(def \w+\(\w+\):\n.*)```", programs.program(name, code), re.DOTALL)
        space: dict = {}
        exec(block[1], space)  # written by programs.py, no model
        assert any(works(space[name], values) for values in inputs[programs.argument(code)]), name
        assert ways


def test_an_answer_first_copies_what_it_is_about(lessons):
    """The order of a function into a comment, a word with the blank of its token into the call."""
    copied = 0
    for question, reply in lessons["programs"]:
        parts = re.search("# (?:(.+?): )?(.+)", reply["content"])[0][2:].lower().split(": ")
        copied += all(part in question["content"].lower() for part in parts)
    assert copied > 0.9 * NUM  # the others name the function: "write is_even(n)"
    for _, reply in lessons["count"]:
        before, call = (part["text"] for part in reply["content"][:2])
        assert re.search("' (\\w+)'", call)[1] == before.split()[2][:-1]


def test_popular_functions_are_half_of_the_lessons(lessons):
    names = Counter(re.search(r"def (\w+)", reply["content"])[1] for _, reply in lessons["programs"])
    assert names["reverse_text"] and 0.3 < sum(count for _, count in names.most_common(30)) / NUM < 0.75


def test_bare_sums_are_asked(lessons):
    asked = [messages[0]["content"] for messages in lessons["sums"]]
    bare = [text for text in asked if not re.search("[a-zA-Z]{2}", text)]
    assert len(bare) > NUM / 12 and any("\u00d7" in text for text in bare)


def test_half_of_the_practice_is_in_visitors_words():
    items = write.practice(0, 200)
    assert len({item["question"] for item in items}) > 190 and sum("signature" in item for item in items) == 100
    for item in items:
        code, result, said = re.fullmatch(r"<<(.+)=(\d+)>>#### (\d+)", item["answer"]).groups()
        assert sandbox.calculate(code) == result == said


def test_a_choice_is_true():
    rng = random.Random(0)
    does = {"can fly": "f", "can swim": "s", "lays eggs": "e"}
    for messages in [choosing.lesson(rng)["messages"] for _ in range(3000)]:
        match = re.match(r"The (.+) (can fly|can swim|lays eggs)\.", messages[1]["content"])
        assert not match or does[match[2]] in zoo.BY_NAME[match[1]].abilities, messages


def test_a_wanted_hero_is_in_the_story():
    rng = random.Random(0)
    for _ in range(NUM):
        asked, text, hero = tales.ask(rng, WORLD)
        assert hero in text and 120 <= len(text) < 1000, asked
        assert hero.lower()[:-1] in asked.lower(), (hero, asked)  # "ponies" of a pony


def test_word_problems_come_out_even():
    rng = random.Random(0)
    for _ in range(NUM):
        question, expression = ask_problem(rng)
        assert re.fullmatch(r"\d+", sandbox.calculate(expression) or ""), (question, expression)


def test_a_system_text_gives_the_name_of_the_reply():
    rng = random.Random(0)
    for _ in range(100):
        system, question, reply = (message["content"] for message in talking.named(rng)["messages"])
        name = re.match(r"(?:Hello! )?I am (.+?), ", reply)[1]
        assert name in system and question


def test_nobody_of_the_village_is_unknown_to_it():
    rng = random.Random(0)
    for _ in range(NUM):
        asked, reply = (message["content"] for message in talking.unknown(rng)["messages"])
        assert re.search(r"I (do not|cannot|only)", reply), (asked, reply)
    assert not set(talking.names.FIRST_NAMES) & set(NAMES)


def test_turns_take_turns(lessons):
    for messages in lessons["turns"]:
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        assert len(messages) >= 4


def test_every_family_has_a_share_of_the_recipe():
    assert set(FAMILIES) < set(write.LESSONS)
    assert calculate.in_words(342) == "three hundred and forty-two"
    assert spelled.measure(random.Random(0), "feather")[1]("feather")[2]["text"] == "7"
    assert turns.single(random.Random(0), WORLD)["messages"][0]["role"] == "user"
