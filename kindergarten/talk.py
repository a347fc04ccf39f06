"""Small talk: greetings, who the model is, requests for stories; and the bricks of which every lesson is made.

Each topic has one short reply and a list of ways to bring it up; those after the bar are held out for the exam, and use
words that the others use, in other sentences. A reply is right when it has its own topic's key words and none of the
others', so "You are welcome!" is wrong for "Who made you?" (tasks/greetings.py).

>>> [message["content"] for message in lessons(random.Random(0))["messages"]][-2:]
['Who trained you?', 'I was made by you, on your own computer.']

Not here: whatever else can be asked (facts, problems, words, functions).
"""

import random
import re

from kindergarten.stories import story
from kindergarten.world import ANIMALS, NAMES, World, an

# topic: reply; its key words; ways to say it | ways held out
_TOPICS = """
who: I am nanochat, a small language model. ; nanochat model
Who are you? Who are you really? What are you? Tell me who you are. Tell me about yourself. Who is this? Who is there?
Who am I talking to? Who do I talk to? Can you tell me who you are? What kind of thing are you?
| And who are you? Say who you are. Do you know who you are? Tell me what you are.
name: My name is nanochat. ; name nanochat
What is your name? Do you have a name? What are you called? Tell me your name. How do people call you? What's your
name? What do I call you? Which name do you have? May I know your name? Please tell me your name. Say your name.
| Can you tell me your name? What name do you have? And your name is? Please say your name.
maker: I was made by you, on your own computer. ; made computer
Who made you? Who built you? Who created you? Who trained you? Who is your maker? Who wrote you? Where do you come
from? How were you made? By whom were you made? Tell me who made you. Do you know who made you?
| And who made you? Can you tell me who built you? By whom were you trained? Say who created you.
skills: I can tell stories, answer questions, spell words, write functions and calculate. ; stories questions calculate
What can you do? What are you good at? How can you help me? What do you know? What are your skills? What can I ask you?
What else can you do? Tell me what you can do. Can you help me? What do you do? What is it that you can do?
| And what can you do? Say what you can do. Can you tell me what you can do? What can you help me with?
hello: Hello! How can I help you? ; hello help
Hello! Hi! Hey! Hello there! Hi there! Good morning! Good evening! Good day! Hello, nanochat! Hi, nanochat! Hey there!
Good morning, nanochat! Hello, hello!
| Hey, nanochat! Good day, nanochat! Hi, hi!
thanks: You are welcome! ; welcome
Thank you! Thanks! Thank you very much! Thanks a lot! Many thanks! Thank you, nanochat! Thanks, nanochat! That was
good. Good, thank you! I thank you! That helped, thanks! That was a big help.
| Thanks very much! That helped, thank you! Many thanks, nanochat!
bye: Goodbye! Come back soon. ; goodbye
Goodbye! Bye! Bye bye! See you! See you soon! See you later! Good night! Goodbye, nanochat! Bye, nanochat! I have to
go. I must go now. Until tomorrow!
| See you tomorrow! Goodbye, goodbye! I have to go now. See you, nanochat!
mood: I am fine, thank you. ; fine
How are you? How are you today? How do you feel? Are you well? How is it going? Are you happy? Is all well? How are you
doing? How do you feel today? Do you feel well? Are you fine?
| And how are you? How are you doing today? Do you feel happy? Are you well today?
person: No, I am a computer program. ; no program
Are you a person? Are you a human? Are you a man? Are you a woman? Are you a child? Are you real? Are you alive? Are
you a girl? Are you a boy? Do you have a body? Do you have legs? Do you eat? Do you sleep?
| Are you a real person? Are you a human child? Are you a real child? Are you really alive?
"""

STORY = ("Tell me a story{x}.", "Please tell me a story{x}.", "Can you tell me a story{x}?", "I want a story{x}.",
         "Write a story{x}.", "A story{x}, please.", "Do you know a story{x}?", "Write me a story{x}.",
         "Make up a story{x}.", "I would like to hear a story{x}.", "Read me a story{x}.")
STORY_EXAM = ("Please write me a story{x}.", "I would like a story{x}.", "Can you make up a story{x}?")
_SUBJECTS = frozenset((*ANIMALS, *NAMES))


def _parse(block: str) -> tuple[str, dict]:
    topic, reply, keys, ways = re.fullmatch(r"(\w+): (.*) ; (.*)\n([^;]*)", block).groups()
    ways, held_out = (re.findall(r"\S[^.?!]*[.?!]", " ".join(part.split())) for part in ways.split("|"))
    return topic, {"reply": reply, "required": keys.split(), "lessons": ways, "exam": held_out}


TOPICS = dict(map(_parse, re.split(r"\n(?=\w+: )", _TOPICS.strip())))


def words_of(text: str) -> set[str]:
    """words_of("Hello, Tom!") == {"hello", "tom"}."""
    return set(re.findall(r"[a-z0-9]+", text.lower()))


def dialogue(question: str, answer: str | list[dict]) -> dict:
    """A conversation of one question and its answer (text, or parts as `worked` makes them)."""
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def worked(code: str, output: object, text: str) -> list[dict]:
    """An answer that uses the tool: what it runs, what comes out, what the model says then."""
    parts = {"python": code, "python_output": str(output), "text": text}
    return [{"type": kind, "text": part} for kind, part in parts.items()]


def join(rng: random.Random, conversations: list[dict]) -> dict:
    """One conversation out of several, in their order; sometimes with a greeting before and thanks or goodbye after."""
    before = [_topic(rng, rng.choice(("hello", "hello", "mood")))] if rng.random() < 0.3 else []
    after = [_topic(rng, rng.choice(("thanks", "thanks", "bye")))] if rng.random() < 0.3 else []
    return {"messages": [message for part in (*before, *conversations, *after) for message in part["messages"]]}


def _topic(rng: random.Random, topic: str) -> dict:
    way = rng.choice(TOPICS[topic]["lessons"])
    if rng.random() < 0.15:  # as people type
        way = way.lower().rstrip("?!.")
    elif topic not in ("hello", "thanks", "bye") and rng.random() < 0.15:
        way = rng.choice(("Hello! ", "Hi! ", "Hello, nanochat! ", "Tell me: ")) + way
    return dialogue(way, TOPICS[topic]["reply"])


def lessons(rng: random.Random) -> dict:
    """A conversation of small talk, one to three turns."""
    return {"messages": [message for topic in rng.sample(list(TOPICS), rng.choice((1, 1, 2, 3)))
                         for message in _topic(rng, topic)["messages"]]}


def _about(subject: str) -> str:
    return f" about {subject if subject[0].isupper() else an(subject)}"


def story_lesson(rng: random.Random, story_text: str, subject: str = "") -> dict:
    """A conversation: a request for a story (about `subject`, an animal or a name) and the story."""
    return dialogue(rng.choice(STORY).format(x=_about(subject) if subject else ""), story_text)


def tale(rng: random.Random, world: World) -> dict:
    """A conversation: a request for a story, most of the time about somebody or some animal in it, and the story."""
    text = story(rng, world)
    found = [word for word in dict.fromkeys(re.findall("[A-Za-z]+", text)) if word in _SUBJECTS]
    return story_lesson(rng, text, rng.choice(found[:4]) if found and rng.random() < 0.75 else "")


def exam(seed: int, n: int) -> list[dict]:
    """At most `n` items {"question", "answer", "required", "forbidden", "kind"} in words that no lesson uses."""
    rng, items = random.Random(f"talk {seed}"), []
    keys = {key for about in TOPICS.values() for key in about["required"]}
    for topic, about in TOPICS.items():
        forbidden = sorted(keys - words_of(about["reply"]))
        items += [{"question": way, "answer": about["reply"], "required": about["required"], "forbidden": forbidden,
                   "kind": topic} for way in about["exam"]]
    items += [{"question": way.format(x=_about(animal)), "answer": f"A story with {an(animal)}.", "required": [animal],
               "forbidden": [], "kind": "story"} for way in STORY_EXAM for animal in rng.sample(ANIMALS, 4)]
    return rng.sample(items, min(n, len(items)))
