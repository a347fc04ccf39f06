"""What chapter 10 holds of NAME, `conversations()` and `exam()`, and of the mended `divide`."""
import re
from types import SimpleNamespace
from typing import Any

from course.ch10 import broken
from course.expect import equal
from kindergarten import talk
from nanochat.system import files
from nanochat.tokenizer import Tokenizer, chat
from tasks.common import ShortAnswer

SOLUTION = SimpleNamespace(NAME="Ada", conversations=lambda: files.read_jsonl(broken.ADA),
                           exam=lambda: talk.exam(seed=0, n=40))
TASK = ShortAnswer("mine", {})


def plain(text: str) -> str:
    """plain("Who are you?") == plain("who are you")."""
    return " ".join(re.findall(r"\w+", text.lower()))


def said(conversations: list[dict[str, Any]], role: str) -> list[str]:
    return [str(message["content"]) for conversation in conversations for message in conversation["messages"]
            if message["role"] == role]


def check_conversations(mine: Any) -> None:
    """ten or more conversations, each in the chat format, with something to learn"""
    conversations, tokenizer = mine.conversations(), Tokenizer([bytes([byte]) for byte in range(256)])
    assert len(conversations) >= 10, f"{len(conversations)} conversations, expected at least 10"
    for number, conversation in enumerate(conversations):
        _, mask = chat.render(tokenizer, conversation)  # UserError names the message that is wrong
        assert 1 in mask, f"conversation {number} has no answer to learn"


def check_name(mine: Any) -> None:
    """three or more answers say the name, to different questions"""
    asked = {plain(said([conversation], "user")[0]) for conversation in mine.conversations()
             if any(mine.NAME in answer for answer in said([conversation], "assistant"))}
    assert len(asked) >= 3, f"{len(asked)} questions are answered with the name {mine.NAME!r}, expected at least 3"


def check_exam(mine: Any) -> None:
    """eight or more items, and each item's own answer is right"""
    items = mine.exam()
    assert len(items) >= 8, f"{len(items)} items, expected at least 8"
    for item in items:
        assert TASK.grade(item, item["answer"]), (
            f"the answer {item['answer']!r} to {item['question']!r} is wrong by its own required and forbidden words")


def check_held_out(mine: Any) -> None:
    """no question of the exam is in the conversations"""
    asked = {plain(item["question"]) for item in mine.exam()}
    learnt = set(map(plain, said(mine.conversations(), "user")))
    both = {question for question in asked for lesson in learnt
            if question == lesson or len(lesson.split()) >= 4 and f" {lesson} " in f" {question} "}
    equal("the list of questions that are in both", sorted(both), [])


def check_constant(mine: Any) -> None:
    """no single sentence passes more than half of the exam"""
    items = mine.exam()
    for answer in {item["answer"] for item in items}:
        passed = sum(TASK.grade(item, answer) for item in items)
        assert passed <= len(items) / 2, f"{answer!r} passes {passed} of {len(items)} items"


def mended_division(mine: Any) -> None:
    """no question of the exam is in the lessons"""
    lessons, exam = mine.divide(files.read_jsonl(broken.ADA), 20)
    both = set(map(broken.first_question, lessons)) & set(map(broken.first_question, exam))
    equal("the number of questions that are in both", len(both), 0)


def mended_sizes(mine: Any) -> None:
    """a quarter of the conversations is in the exam, and the others are read as often as asked"""
    conversations = files.read_jsonl(broken.ADA)
    lessons, exam = mine.divide(conversations, 20)
    equal("the number of different questions in the exam", len(set(map(broken.first_question, exam))), 4)
    equal("the number of lessons", len(lessons), 12 * 20)
