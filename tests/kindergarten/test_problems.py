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
    pieces = re.split(r"\{(\w+)\}", frame)  # text, slot, text, slot, …, text
    return re.compile("".join(f"({slots[piece]})" if i % 2 else re.escape(piece) for i, piece in enumerate(pieces)),
                      re.IGNORECASE)


EXAM_FRAMES = [pattern(frame) for frames in problems.FRAMES.values() for frame in frames[2]]


def is_exam_sentence(sentence: str) -> bool:
    return any(frame.fullmatch(sentence) for frame in EXAM_FRAMES)


def test_same_seed_same_problems():
    assert problems.exam(3, 40) == problems.exam(3, 40) != problems.exam(4, 40)
    assert problems.lesson(random.Random(1)) == problems.lesson(random.Random(1))
    assert problems.counting_text(random.Random(1)) == problems.counting_text(random.Random(1))


def test_signatures_are_disjoint(drawn):
    signatures = {split: {problem.signature for problem in drawn[split]} for split in problems.SPLITS}
    lessons, practice, exam = (signatures[split] for split in problems.SPLITS)
    assert not lessons & practice and not (lessons | practice) & exam
    assert all(problems.split_of(signature) == split for split in signatures for signature in signatures[split])
    assert len(practice) > 200 and len(exam) > 200  # not a handful of structures


def test_lessons_are_short_and_exams_are_not(drawn):
    for problem in drawn["lesson"]:
        assert len(problem.signature) - 2 - problem.distractors <= problems.LESSON_OPERATIONS
        assert problems.LESSON_NEVER.isdisjoint(problem.signature)
    assert all(problem.distractors > 0 for problem in drawn["exam"])
    assert any(kind in problem.signature for kind in problems.LESSON_NEVER for problem in drawn["exam"])
    steps = {split: sum(len(problem.signature) for problem in drawn[split]) for split in problems.SPLITS}
    assert steps["exam"] > 1.1 * steps["lesson"]


def test_a_slip_counts_every_number_of_the_story():
    for seed in range(NUM):
        problem, right = (problems.draw(random.Random(seed), "lesson", slip) for slip in (True, False))
        in_story, counted = (sorted(re.findall(r"\d+", text)) for text in (problem.text, problem.expression))
        assert sandbox.calculate(problem.expression) == str(problem.answer)
        if not {"more", "double"} & set(problem.signature):  # their numbers come twice, or not at all
            assert in_story == counted, problem
        assert problem.distractors or problem == right, "nothing to slip on"


def test_some_lessons_slip(monkeypatch):
    shown = [problems.lesson(random.Random(seed)) for seed in range(1000)]
    expected_rate = problems.SLIPS
    monkeypatch.setattr(problems, "SLIPS", 0)
    wrong = sum(lesson != problems.lesson(random.Random(seed)) for seed, lesson in enumerate(shown))
    assert 0.3 * expected_rate < wrong / 1000 < 0.6 * expected_rate  # two in five lessons have something to slip on


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


def test_counting_text_counts_right_and_has_every_verb():
    rng = random.Random(0)
    text = " ".join(problems.counting_text(rng) for _ in range(NUM))
    assert all(verb in text for verbs in (*problems.GAINED, *problems.LOST) for verb in verbs)
    sums = re.findall(r"(\d+) (plus|minus|times) (\d+) is (\d+)", text)
    signs = {"plus": "+", "minus": "-", "times": "*"}
    assert len(sums) > 50 and all(eval(f"{x}{signs[sign]}{y}") == int(z) for x, sign, y, z in sums)
    for n, r in re.findall(r"had (\d+) \w+\. S?[Hh]e [\w ]+ \d+\. Now s?he had (\d+) \w+, more than before", text):
        assert int(r) > int(n)
