"""Sums: every result right, and no sum of the exam in a lesson."""
import random

from kindergarten import sums
from nanochat import sandbox


def test_lessons_and_exam_share_no_sum_and_all_results_are_right():
    rng = random.Random(0)
    lessons = [sums.lesson(rng)["messages"][1]["content"] for _ in range(2000)]
    exam = sums.exam(0, 200)
    asked = [item["answer"].split(" = ")[0] for item in exam]
    assert len(set(asked)) == 200 and not set(asked) & {parts[0]["text"] for parts in lessons}
    for parts in lessons:
        assert sandbox.calculate(parts[0]["text"]) == parts[1]["text"]
    for item, expression in zip(exam, asked):
        assert item["required"] == [sandbox.calculate(expression)]
    assert all(any(sign in expression for expression in asked) for sign in "+-*/")
