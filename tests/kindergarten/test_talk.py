"""Small talk: held-out phrasings in no lesson, answers that fit one topic only."""
import random

from kindergarten import talk
from kindergarten.world import World
from tasks.common import ShortAnswer

TASK = ShortAnswer("greetings", {})


def test_same_seed_same_talk():
    assert talk.exam(0, 30) == talk.exam(0, 30) != talk.exam(1, 30)
    assert talk.lesson(random.Random(1)) == talk.lesson(random.Random(1))


def test_exam_phrasings_are_in_no_lesson():
    rng = random.Random(0)
    taught = {message["content"].lower().rstrip("?!.")
              for _ in range(3000) for message in talk.lesson(rng)["messages"][::2]}
    asked = {item["question"].lower().rstrip("?!.") for item in talk.exam(0, 1000)}
    assert not taught & asked
    prefixed = {text.split("! ", 1)[-1].removeprefix("tell me: ") for text in taught}
    assert not prefixed & asked


def test_topics_have_enough_ways_in_known_words():
    taught = set().union(*(talk.words_of(way) for about in talk.TOPICS.values() for way in about["lessons"]))
    for topic, about in talk.TOPICS.items():
        assert len(about["lessons"]) >= 10 and len(about["exam"]) >= 3, topic
        assert set().union(*map(talk.words_of, about["exam"])) - taught <= {"and", "with"}, topic


def test_only_the_right_reply_is_right():
    replies = {topic: about["reply"] for topic, about in talk.TOPICS.items()}
    for item in talk.exam(0, 1000):
        if item["kind"] != "story":
            assert [topic for topic, reply in replies.items() if TASK.grade(item, reply)] == [item["kind"]], item


def test_story_lessons_keep_their_subject():
    rng, world = random.Random(0), World(0)
    about = 0
    for _ in range(300):
        asked, told = (message["content"] for message in talk.story_lesson(rng, world)["messages"][:2])
        if " about " in asked and "yourself" not in asked:
            subject = asked.split(" about ")[1].removesuffix(", please.").rstrip(".?").split()[-1]
            assert subject in told, asked
            about += 1
    assert about > 50


def test_join_keeps_turns_in_order():
    rng = random.Random(0)
    for _ in range(100):
        parts = [talk.dialogue("1?", "one"), talk.dialogue("2?", talk.worked("1+1", 2, "two"))]
        joined = talk.join(rng, parts)["messages"]
        assert [message["role"] for message in joined] == ["user", "assistant"] * (len(joined) // 2)
        at = joined.index(parts[0]["messages"][0])
        assert joined[at:at + 4] == parts[0]["messages"] + parts[1]["messages"]
