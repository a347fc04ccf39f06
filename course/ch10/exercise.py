"""Chapter 10: write a person, and an exam for it. (docs/course/10-yours.md)"""
from typing import Any

NAME = "Ada"  # who your model is to be: put your own choice here


def conversations() -> list[dict[str, Any]]:
    """What your model is to learn: ten or more conversations, each
    {"messages": [{"role": "user", "content": …}, {"role": "assistant", "content": …}]}.

    In at least three of them somebody asks in other words who it is, and the answer has NAME.
    """
    raise NotImplementedError


def exam() -> list[dict[str, Any]]:
    """What you ask afterwards: eight or more items, each
    {"question": …, "answer": a right answer, "required": [words], "forbidden": [words]}.

    An answer is right if it has all required words and no forbidden one. No question of the exam is a question of the
    conversations, and no single sentence answers more than half of the exam. (The check sees a question of four or more
    words inside a longer one, without capitals and commas. The same question with one word exchanged it does not see.)
    """
    raise NotImplementedError
