"""Small talk: greetings, who the model is, requests for stories; and the functions with which all lessons are built.

Each topic of topics.txt has one short reply, key words and a list of ways to bring the topic up. The ways after the bar
are held out for the exam; they use the words of the other ways in new sentences. A reply is right when it has its own
topic's key words and no other topic's, so "You are welcome!" is wrong for "Who made you?" (tasks/greetings.py).

>>> [message["content"] for message in lesson(random.Random(0))["messages"]][-2:]
['Who trained you?', 'I was made on a laptop computer. Somebody trained me in ten minutes.']

Not here: everything else that can be asked (facts, problems, words, functions).
"""

import random
import re
from typing import Any

from kindergarten.stories import story
from kindergarten.world import ANIMALS, NAMES, World, an, read_text, sentences

STORY = ("Tell me a story{x}.", "Please tell me a story{x}.", "Can you tell me a story{x}?", "I want a story{x}.",
         "Write a story{x}.", "A story{x}, please.", "Do you know a story{x}?", "Write me a story{x}.",
         "Make up a story{x}.", "I would like to hear a story{x}.", "Read me a story{x}.")
STORY_EXAM = ("Please write me a story{x}.", "I would like a story{x}.", "Can you make up a story{x}?")
_SUBJECTS = frozenset((*ANIMALS, *NAMES))  # what a story can be about


def _parse(block: str) -> tuple[str, dict[str, Any]]:
    match = re.fullmatch(r"(\w+): (.*) ; (.*)\n([^;]*)", block)
    assert match, f"not a topic: {block!r}"
    topic, reply, keys, ways = match.groups()
    for_lessons, for_exam = map(sentences, ways.split("|"))
    return topic, {"reply": reply, "required": keys.split(), "lessons": for_lessons, "exam": for_exam}


TOPICS = dict(map(_parse, re.split(r"\n(?=\w+: )", read_text("topics.txt"))))


def words_of(text: str) -> set[str]:
    """The different words of a text: words_of("Hello, Tom!") == {"hello", "tom"}."""
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def dialogue(question: str, answer: str | list[dict[str, str]]) -> dict[str, Any]:
    """A conversation of one question and its answer, which is text or the parts that `worked` makes."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def worked(code: str, output: object, text: str, before: str = "") -> list[dict[str, str]]:
    """An answer that uses the tool: what the model says before, the code, the tool's output, and what it says then."""
    parts = [("text", before), ("python", code), ("python_output", str(output)), ("text", text)]
    return [{"type": kind, "text": content} for kind, content in parts if content]


def join(rng: random.Random, conversations: list[dict[str, Any]]) -> dict[str, Any]:
    """One conversation out of several, in their order; some with a greeting before and thanks or goodbye after."""
    before = [_small_talk(rng, rng.choice(("hello", "hello", "mood")))] if rng.random() < 0.3 else []
    after = [_small_talk(rng, rng.choice(("thanks", "thanks", "bye")))] if rng.random() < 0.3 else []
    return {"messages": [message for turns in (*before, *conversations, *after) for message in turns["messages"]]}


def _small_talk(rng: random.Random, topic: str) -> dict[str, Any]:
    way = rng.choice(TOPICS[topic]["lessons"])
    if rng.random() < 0.15:  # as people type in a chat: no capitals, no full stop
        way = way.lower().rstrip("?!.")
    elif topic not in ("hello", "thanks", "bye") and rng.random() < 0.15:  # "Hello! Thank you!" makes no sense
        way = rng.choice(("Hello! ", "Hi! ", "Hello, nanochat! ", "Tell me: ")) + way
    return dialogue(way, TOPICS[topic]["reply"])


def lesson(rng: random.Random) -> dict[str, Any]:
    """A conversation of small talk about one to three topics."""
    return {"messages": [message for topic in rng.sample(list(TOPICS), rng.choice((1, 1, 2, 3)))
                         for message in _small_talk(rng, topic)["messages"]]}


def _about(subject: str) -> str:
    """_about("cow") == " about a cow", _about("Tom") == " about Tom"."""
    return f" about {subject if subject[0].isupper() else an(subject)}"


def story_lesson(rng: random.Random, world: World) -> dict[str, Any]:
    """A conversation: a request for a story, most of the time about a person or an animal in it, and the story."""
    text = story(rng, world)
    # Only of the first four: the story is not about somebody who is named late.
    subjects = [word for word in dict.fromkeys(re.findall("[A-Za-z]+", text)) if word in _SUBJECTS][:4]
    about = _about(rng.choice(subjects)) if subjects and rng.random() < 0.75 else ""
    return dialogue(rng.choice(STORY).format(x=about), text)


def exam(seed: int, n: int) -> list[dict[str, Any]]:
    """At most `n` items {"question", "answer", "required", "forbidden", "kind"} in sentences that no lesson has."""
    rng = random.Random(f"talk {seed}")
    items = []
    keys = {key for about in TOPICS.values() for key in about["required"]}
    for topic, about in TOPICS.items():
        forbidden = sorted(keys - words_of(about["reply"]))  # so that a reply which says everything is wrong
        items += [{"question": way, "answer": about["reply"], "required": about["required"], "forbidden": forbidden,
                   "kind": topic} for way in about["exam"]]
    # A story may be about anything else, too: only the animal must come up.
    items += [{"question": way.format(x=_about(animal)), "answer": f"A story with {an(animal)}.", "required": [animal],
               "forbidden": [], "kind": "story"} for way in STORY_EXAM for animal in rng.sample(ANIMALS, 4)]
    return rng.sample(items, min(n, len(items)))
