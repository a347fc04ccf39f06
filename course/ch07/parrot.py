"""Chapter 7: a parrot that cannot calculate and passes a maths exam.

Its memory holds the shape of every lesson (what happens in which order, and what is asked) and which of the story's
numbers the worked answer used. It answers a problem of a known shape with the numbers in the same places. For a shape
that it does not know it adds all numbers up.
"""
import random
import re
from collections.abc import Callable
from functools import cache

from kindergarten import problems
from kindergarten.problems import Problem
from nanochat import sandbox

Shape = tuple[tuple[str, ...], int]  # the kinds of statements and the question; how many numbers the story has


@cache
def all_problems(count: int = 6000) -> list[Problem]:
    rng = random.Random(0)
    return list({problem.text: problem for problem in (problems.draw(rng, "lesson") for _ in range(count))}.values())


def numbers_of(problem: Problem) -> list[str]:
    return re.findall(r"\d+", problem.text)


def shape_of(problem: Problem) -> Shape:
    return problem.signature, len(numbers_of(problem))


def with_places(problem: Problem) -> str:
    """The worked expression with the places of its numbers in the story: "7+3" becomes "{0}+{2}"."""
    numbers = numbers_of(problem)
    return re.sub(r"\d+", lambda number: f"{{{numbers.index(number[0])}}}" if number[0] in numbers else number[0],
                  problem.expression)


class Parrot:
    def __init__(self, lessons: list[Problem]):
        self.memory = {shape_of(lesson): with_places(lesson) for lesson in lessons
                       if len(set(numbers_of(lesson))) == len(numbers_of(lesson))}  # so that places are clear

    def answer(self, problem: Problem) -> str | None:
        numbers = numbers_of(problem)
        expression = self.memory.get(shape_of(problem), "+".join(numbers))
        return sandbox.calculate(expression.format(*numbers))


def examine(is_held_out: Callable[[Problem], bool]) -> None:
    """Prints the parrot's score on the problems that a rule holds out, after it has read all others."""
    exam = [problem for problem in all_problems() if is_held_out(problem)]
    lessons = [problem for problem in all_problems() if not is_held_out(problem)]
    parrot = Parrot(lessons)
    right = sum(parrot.answer(problem) == str(problem.answer) for problem in exam)
    known = sum(shape_of(problem) in parrot.memory for problem in exam)
    print(f"{len(lessons)} lessons, {len(exam)} problems in the exam; no problem is in both")
    print(f"the parrot answers {right / max(len(exam), 1):.2f} of the exam right; it has seen the shape of "
          f"{known / max(len(exam), 1):.2f} of it in a lesson")
    for problem in exam[:2]:
        print(f"  {problem.text}\n  → {parrot.answer(problem)} (right: {problem.answer})")
