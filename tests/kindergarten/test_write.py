"""What is written as a whole: conversations of several lessons are made of the same lessons as all others."""
import random

from kindergarten import talk, write
from kindergarten.world import World


def test_chats_are_lessons_one_after_the_other():
    makers = write._lesson_makers(World(0))
    rng = random.Random(0)
    lengths = set()
    for _ in range(300):
        messages = makers["chats"](rng)["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        lengths.add(len(messages) // 2)
    assert {2, 3, 4} <= lengths


def test_a_question_of_a_chat_is_asked_alone_as_well():
    makers = write._lesson_makers(World(0))
    draw = lambda family, count: [makers[family](random.Random(n)) for n in range(count)]  # noqa: E731
    alone = {message["content"] for family in ("facts", "choice", "stories") for one in draw(family, 6000)
             for message in one["messages"][::2]}
    talked = {message["content"] for one in draw("talk", 3000) for message in one["messages"][::2]}
    asked = [message["content"] for one in draw("chats", 300) for message in one["messages"][::2]]
    assert sum(question in alone or question in talked for question in asked) > len(asked) / 3
    held_out = {item["question"] for item in talk.exam(0, 1000)}
    assert not held_out & set(asked)
