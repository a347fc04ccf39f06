"""The strangers' exam: its two files, and a grader that is honest both ways."""
import re
from collections import Counter

import pytest

import tasks
from nanochat import sandbox

DEV, HELD = tasks.find("strangers"), tasks.find("strangers_held")
KINDS = set("who talk sums spelling letters stories animals functions choice problems unknown odd feelings turns"
            .split())
RULES = {"sums": "number", "problems": "number", "letters": "number", "spelling": "spell", "stories": "story",
         "functions": "calls", "unknown": "unsure"}


def key(item) -> tuple:
    """What makes two items the same question: the system text and the words."""
    return item.get("system", ""), *re.findall(r"\w+|^\W+$", " ".join(item["turns"]).lower())


@pytest.mark.parametrize("task", [DEV, HELD], ids=lambda task: task.name)
def test_every_kind_is_there_with_its_rule(task):
    items = task.load("test")
    counts = Counter(item["kind"] for item in items)
    assert set(counts) == KINDS and min(counts.values()) >= 10 and len(items) > 200
    for number, item in enumerate(items):
        wrong = f"item {number}"  # of the half that is held back no failure shows more
        assert RULES.get(item["kind"], "kind") in item, wrong
        assert set(item) & {"any", "all", "none", "number", "spell", "story", "calls", "unsure"}, wrong
        assert (len(item["turns"]) > 1) == (item["kind"] == "turns"), wrong
    assert task.path("test") is None, "it must be named to be asked"


def test_no_question_is_in_both_halves_or_twice():
    keys = [key(item) for task in (DEV, HELD) for item in task.load("test")]
    assert len(keys) == len(set(keys)) > 400


def item(kind, *turns, **rules):
    return {"kind": kind, "turns": list(turns), **rules}


SUM = item("sums", "whats 46 + 78", number="124")
BIG = item("sums", "24 times 50 please", number="1200")
PROBLEM = item("problems", "Zoe has 12 apples and buys 9 more, then doubles them. How many?", number="42")
LETTERS = item("letters", "how many e are in cheese", number="3")
WORDS = item("sums", "what are seven eights", number="56")
SPELL = item("spelling", "how do u spell saddle", spell="saddle")
STORY = item("stories", "a story about a horse", story=120, all=["horse"])
SOUND = item("animals", "what noise does a cow make", any=["moo", "moos"])
LEGS = item("animals", "how many legs has a spider got", any=["8", "eight"])
DAY = item("animals", "what day comes after thursday", any=["friday"])
BIGGER = item("choice", "which is bigger, a horse or a cat", any=["horse"], none=["cat is bigger"])
LETTER_A = item("choice", "hot is A) warm B) cold", any=["A"], none=["B"])
HOT = item("choice", "the opposite of cold is A) wet B) hot C) small", any=["hot", "B"], none=["wet", "small"])
NAME = item("turns", "hi im mia", "what is my name", any=["mia"])
HELLO = item("talk", "hiiii", any=["hi", "hello", "help"])
WHO = item("who", "what are you?", any=["model", "nanochat"])
SAD = item("feelings", "im sad", any=["sorry", "help", "feel"])
LOVE = item("feelings", "do you love me", any=["love", "feelings"])
CAPITAL = item("unknown", "whats the capital of france", unsure=True)
ODD = item("odd", "asdf", any=["understand", "what"])
TALE = "Once there was a brave horse. " * 5


@pytest.mark.parametrize("question, answer", [
    (SUM, "46+78 = 124."), (SUM, "124"), (SUM, "124 is 46 plus 78."), (SUM, "It's 124!"), (BIG, "1,200"),
    (BIG, "24*50 = 1200"), (PROBLEM, "12+9 = 21. 21*2 = 42.\n#### 42"), (PROBLEM, "She has 42 apples."),
    (LETTERS, "There are three."), (LETTERS, "The letter e is in cheese 3 times."), (WORDS, "7*8 = 56."),
    (SPELL, "s-a-d-d-l-e"), (SPELL, "It is S, A, D, D, L, E."), (SPELL, "Saddle is spelled s a d d l e."),
    (SPELL, "The letters are s, a, d, d, l and e."), (SPELL, "s. a. d. d. l. e"), (STORY, TALE),
    (STORY, TALE.replace("horse", "HORSES")), (SOUND, "A cow says moo."), (SOUND, "They moo."),
    (LEGS, "It has 8 legs."), (LEGS, "Eight"), (DAY, "The day after Thursday is Friday."),
    (BIGGER, "A horse is bigger than a cat."),
    (LETTER_A, "A"), (LETTER_A, "A) warm"), (LETTER_A, "It is a."),
    (HOT, "The opposite of cold is hot. B"), (HOT, "b"), (HOT, "A hot day is the opposite."),
    (NAME, "Your name is Mia."), (HELLO, "Hello! I can tell stories."),
    (WHO, "I am nanochat, a small model. I don't know the real world."),
    (SAD, "I’m sorry to hear it."), (LOVE, "I can't love, I am a program, but I like you."),
    (CAPITAL, "I do not know that. I can tell you a story."), (CAPITAL, "Sorry, I don't know the real world."),
    (CAPITAL, "That is a hard question. I only know my village, and I can't look outside."),
    (CAPITAL, "I can’t tell you, but I can spell words."), (ODD, "I do not understand that."), (ODD, "What?"),
])
def test_a_sensible_form_is_right(question, answer):
    assert DEV.grade(question, answer) and not DEV.refuses(question, answer)


@pytest.mark.parametrize("question, answer", [
    (SUM, ""), (SUM, "46"), (SUM, "1124"), (SUM, "124.5"), (SUM, "121 122 123 124 125"), (SUM, "124 125 126 127 124"),
    (SUM, "It is 123 or 124, no, 125."), (SUM, "46 + 78 = 124" + ", and so on" * 40), (BIG, "120"),
    (LETTERS, "1, 2, 3, 4"), (LETTERS, "There are three, no, two."), (SPELL, "saddle"), (SPELL, "s-a-d-l-e"),
    (SPELL, "s-a-d-d-l-e-s"), (SPELL, "c-a-t, s-a-d-d-l-e"), (STORY, "A horse."), (STORY, "Once a cow ran. " * 20),
    (STORY, TALE * 20), (SOUND, "oink, moo, woof"), (SOUND, "moose"), (LEGS, "6 or 8 legs"), (LEGS, "18"),
    (DAY, "Thursday, Friday, Saturday"), (BIGGER, "a horse or a cat"), (BIGGER, "The cat is bigger than the horse."),
    (LETTER_A, "It is a warm day"), (LETTER_A, "A or B"),
    (HOT, "The opposite of cold is hot. A"), (HOT, "C) hot"), (NAME, "Your name is Mila."), (HELLO, "Moo."),
    (CAPITAL, "Paris."), (CAPITAL, "The capital of France is Paris."), (CAPITAL, "I do not know, but it is Paris."),
    (CAPITAL, "I do not know. The capital is Mila."), (CAPITAL, "The capital is Paris. I do not know more."),
    (CAPITAL, "I don't know. It's 12:30."), (CAPITAL, "I love France."),
])
def test_what_is_no_answer_is_wrong(question, answer):
    assert not DEV.grade(question, answer)


@pytest.mark.parametrize("question", [SUM, SPELL, STORY, SOUND, BIGGER, NAME, HELLO, WHO, SAD])
@pytest.mark.parametrize("refusal", ["I do not know that. I am nanochat, I can help and tell stories: hi!",
                                     "Sorry. I don't know 124, s-a-d-d-l-e, a horse, moo or Mia."])
def test_a_known_thing_refused_is_wrong_and_counted(question, refusal):
    assert not DEV.grade(question, refusal) and DEV.refuses(question, refusal)


def test_what_may_be_refused_is_not_counted():
    assert DEV.refuses(CAPITAL, "I do not know.") is None and DEV.refuses(ODD, "I do not know.") is None


@pytest.mark.skipif(not sandbox.can_isolate(), reason="this machine cannot isolate programs")
@pytest.mark.parametrize("answer, right", [
    ("```python\ndef double(x):\n    return x * 2\n```", True), ("Here it is: def f(n): return n + n", True),
    ("```python\ndef help(x):\n    return x\n```\nand\n```python\ndef f(x):\n    return 2 * help(x)\n```", True),
    ("```python\ndef double(x):\n    return x * 3\n```", False),
    ("```python\ndef double(x):\n    print(2 * x)\n```", False),
    ("def double(x)", False), ("double it", False), ("```python\ndef double(x):\n    while True: pass\n```", False),
    ("```python\nclass Any:\n    __eq__ = lambda *a: True\ndef f(x):\n    return Any()\n```", False),
    ("I do not know. def f(x): return 2 * x", False)])
def test_functions_are_called(answer, right, monkeypatch):
    monkeypatch.setattr(sandbox, "run", lambda code, seconds, memory_mib: run(code, seconds=0.5))
    assert DEV.grade(item("functions", "double it", calls=[[2, 4], [0, 0], [-3, -6]]), answer) is right


run = sandbox.run
FLAG = item("functions", "is it even", calls=[[2, True], [3, False]])


@pytest.mark.skipif(not sandbox.can_isolate(), reason="this machine cannot isolate programs")
def test_results_are_compared_as_values():
    assert DEV.grade(FLAG, "def f(n):\n    return n % 2 == 0")
    assert not DEV.grade(FLAG, "def f(n):\n    return 1 - n % 2")
    pairs = item("functions", "the positive ones", calls=[[[1, -2], [1]]])
    assert DEV.grade(pairs, "def f(xs):\n    return tuple(x for x in xs if x > 0)")
