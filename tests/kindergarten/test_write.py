"""The folder as a whole: the same for the same seed, and chats made of the lessons that are also given alone."""
import random
from collections.abc import Callable

import pytest

from kindergarten import talk, write
from kindergarten.world import World
from nanochat.data import shards


@pytest.fixture(scope="module")
def makers() -> dict[str, Callable]:
    return write.lesson_makers(World(0))


def questions(makers: dict[str, Callable], family: str, count: int) -> list[str]:
    return [message["content"] for seed in range(count)
            for message in makers[family](random.Random(seed))["messages"][::2]]


def test_a_seed_decides_every_file(tmp_path):
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        write.write_all(tmp_path / folder, seed, scale=0.002)
    files = {folder: {path.relative_to(tmp_path / folder): path.read_bytes()
                      for path in (tmp_path / folder).rglob("*.*")} for folder in "abc"}
    assert files["a"] == files["b"] and files["a"].keys() == files["c"].keys()
    same = {path.name for path, content in files["a"].items() if content == files["c"][path]}
    assert same == {"manifest.json"}
    assert len(shards.train_shards(tmp_path / "a")) == 7 and len(shards.validation_shards(tmp_path / "a")) == 1


def test_chats_are_lessons_one_after_the_other(makers):
    rng = random.Random(0)
    lengths = set()
    for _ in range(300):
        messages = makers["chats"](rng)["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"] * (len(messages) // 2)
        lengths.add(len(messages) // 2)
    assert {2, 3, 4} <= lengths


def test_a_question_of_a_chat_is_asked_alone_as_well(makers):
    alone = {question for family in ("facts", "choice", "stories", "talk")
             for question in questions(makers, family, 6000)}
    asked = questions(makers, "chats", 300)
    assert sum(question in alone for question in asked) > len(asked) / 5
    held_out = {item["question"] for item in talk.exam(0, 1000)}
    assert not held_out & set(asked)
