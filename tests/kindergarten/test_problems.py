"""Word problems: three sets disjoint by structure and phrasing, and every answer right."""
import random
import re

import pytest

from kindergarten import problems
from kindergarten.talk import words_of
from kindergarten.world import DAYS, NAMES, OUTINGS, THINGS
from nanochat import sandbox
from tasks.common import WordProblem, tool_parts

TASK = WordProblem("problems", {})
NUM = 400


@pytest.fixture(scope="module")
def drawn() -> dict[str, list[problems.Problem]]:
    rng = random.Random(7)
    return {split: [problems.draw(rng, split) for _ in range(NUM)] for split in problems.SPLITS}


def sentences(text: str) -> set[str]:
    return {sentence for sentence in re.split(r"(?<=[.?!]) ", text)}


def pattern(frame: str) -> re.Pattern:
    """A frame as a regular expression that matches all it can produce."""
    things, names = "|".join(THINGS.values()), "|".join(NAMES)
    slots = {"T": things, "U": things, "day": "|".join(DAYS), "place": "|".join(OUTINGS),
             "C": "|".join(problems.CONTAINERS), "q": f"(more|of the) ({things})", "s": f"{names}|he|she"}
    slots |= dict.fromkeys("nkm", r"\d+") | dict.fromkeys("abx", names) | dict.fromkeys("vw", r"\w+|\w+ \w+")
    parts = [f"({slots[part]})" if i % 2 else re.escape(part) for i, part in enumerate(re.split(r"\{(\w+)\}", frame))]
    return re.compile("".join(parts), re.IGNORECASE)


EXAM_FRAMES = [pattern(frame) for frames in problems.FRAMES.values() for frame in frames[2]]


def is_exam_sentence(sentence: str) -> bool:
    return any(frame.fullmatch(sentence) for frame in EXAM_FRAMES)


def test_same_seed_same_problems():
    assert problems.exam(3, 40) == problems.exam(3, 40) != problems.exam(4, 40)
    assert problems.lesson(random.Random(1)) == problems.lesson(random.Random(1))
    assert problems.counting_text(random.Random(1)) == problems.counting_text(random.Random(1))


def test_signatures_are_disjoint(drawn):
    found = {split: {problem.signature for problem in drawn[split]} for split in problems.SPLITS}
    assert not found["lesson"] & found["practice"] and not (found["lesson"] | found["practice"]) & found["exam"]
    assert all(problems.split_of(signature) == split for split in found for signature in found[split])
    assert len(found["practice"]) > 200 and len(found["exam"]) > 200  # not a handful of structures


def test_lessons_are_short_and_exams_are_not(drawn):
    for problem in drawn["lesson"]:
        assert len(problem.signature) - 2 - problem.distractors <= problems.LESSON_OPERATIONS
        assert problems.LESSON_NEVER.isdisjoint(problem.signature)
    assert all(problem.distractors > 0 for problem in drawn["exam"])
    assert any(kind in problem.signature for kind in problems.LESSON_NEVER for problem in drawn["exam"])
    steps = {split: sum(len(problem.signature) for problem in drawn[split]) for split in problems.SPLITS}
    assert steps["exam"] > 1.1 * steps["lesson"]


def test_a_slip_counts_every_number_told():
    rng = random.Random(3)
    for problem in (problems.draw(rng, "lesson", slip=True) for _ in range(NUM)):
        told, counted = (sorted(re.findall(r"\d+", text)) for text in (problem.text, problem.expression))
        assert sandbox.calculate(problem.expression) == str(problem.answer)
        if not {"more", "double"} & set(problem.signature):  # whose numbers come twice, or not at all
            assert told == counted, problem
        kinds, ask = problem.signature[:-1], problem.signature[-1]
        plan = problems.roles(kinds, ask)
        assert (problems._slipped(kinds, plan) == plan) or problem.distractors, "nothing to slip on"


def test_some_lessons_slip_and_no_exam_does():
    rng, wrong = random.Random(5), 0
    for _ in range(1000):
        before = rng.getstate()
        shown = problems.lesson(rng)["messages"][1]["content"][0]["text"]
        rng.setstate(before)
        slip = rng.random() < problems.SLIPS
        wrong += slip and shown != problems.draw(rng, "lesson", slip=False).expression
    assert 0.3 * problems.SLIPS < wrong / 1000 < 0.6 * problems.SLIPS  # two in five lessons have something to slip on


@pytest.mark.parametrize("split", problems.SPLITS)
def test_expression_gives_what_the_simulation_gives(drawn, split):
    for problem in drawn[split]:
        assert sandbox.calculate(problem.expression) == str(problem.answer), problem
        assert 0 <= problem.answer < 1000


def test_exam_has_frames_of_its_own(drawn):
    for problem in drawn["exam"]:
        assert any(map(is_exam_sentence, sentences(problem.text))), problem.text
    elsewhere = [problem.text for split in ("lesson", "practice") for problem in drawn[split]]
    rng = random.Random(0)
    elsewhere += [problems.counting_text(rng) for _ in range(NUM)]
    assert not [sentence for text in elsewhere for sentence in sentences(text) if is_exam_sentence(sentence)]


def test_words_of_the_exam_are_seen_elsewhere(drawn):
    rng = random.Random(0)
    seen = words_of(" ".join([problems.counting_text(rng) for _ in range(NUM)]
                             + [problem.text for split in ("lesson", "practice") for problem in drawn[split]]))
    asked = words_of(" ".join(problem.text for problem in drawn["exam"]))
    assert {word for word in asked if not word.isdigit()} - {"a"} <= seen


def test_opening_pairs_belong_to_one_side(drawn):
    for split in problems.SPLITS:
        for problem in drawn[split]:
            plain = re.fullmatch(r"(\w+) ha[sd] (\d+) \w+\.", next(iter(re.split(r"(?<=\.) ", problem.text))))
            if plain and problem.signature[0] == "start":
                assert problems.held_out_pair(plain[1], int(plain[2])) == (split == "exam"), problem.text


def test_items_are_gsm8k_items():
    items = problems.exam(0, 60)
    practice = {item["question"] for item in problems.practice(0, 500)}
    assert len({item["question"] for item in items}) == 60 and not practice & {item["question"] for item in items}
    for item in items:
        assert re.fullmatch(r"<<[\d+*()-]+=\d+>>#### \d+", item["answer"])
        answer = TASK.conversation(item)["messages"][1]["content"]
        assert TASK.grade(item, answer[-1]["text"]) and not TASK.grade(item, "#### 1000")


def test_lesson_is_what_the_task_would_show():
    lesson = problems.lesson(random.Random(2))["messages"]
    call, output, text = (part["text"] for part in lesson[1]["content"])
    assert tool_parts(f"<<{call}={output}>>{text}") == lesson[1]["content"]
    assert sandbox.calculate(call) == output and text == f"#### {output}"


def test_sums():
    rng = random.Random(0)
    lessons = [problems.arithmetic_lesson(rng)["messages"][1]["content"] for _ in range(2000)]
    exam = problems.arithmetic_exam(0, 200)
    asked = [item["answer"].split(" = ")[0] for item in exam]
    assert len(set(asked)) == 200 and not set(asked) & {parts[0]["text"] for parts in lessons}
    for parts in lessons:
        assert sandbox.calculate(parts[0]["text"]) == parts[1]["text"]
    for item, expression in zip(exam, asked):
        assert item["required"] == [sandbox.calculate(expression)]
    assert all(any(sign in expression for expression in asked) for sign in "+-*/")


def test_counting_text_counts_right_and_has_every_verb():
    rng = random.Random(0)
    text = " ".join(problems.counting_text(rng) for _ in range(NUM))
    assert all(verb in text for verbs in (*problems.GAINED, *problems.LOST) for verb in verbs)
    sums = re.findall(r"(\d+) (plus|minus|times) (\d+) is (\d+)", text)
    signs = {"plus": "+", "minus": "-", "times": "*"}
    assert len(sums) > 50 and all(eval(f"{x}{signs[sign]}{y}") == int(z) for x, sign, y, z in sums)
    for n, r in re.findall(r"had (\d+) \w+\. S?[Hh]e [\w ]+ \d+\. Now s?he had (\d+) \w+, more than before", text):
        assert int(r) > int(n)
