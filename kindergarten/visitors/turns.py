"""Conversations of several turns in which the last one needs those before: "and 7 + 8?", "what is my name?", "another".

Each function makes one kind. Requests for the next turn are in turns.txt; the first turn is a lesson of another file.
"""

import random
from typing import Any

from kindergarten import world as lists
from kindergarten.facts import held_out
from kindergarten.talk import dialogue
from kindergarten.visitors import (
    calculate,
    choosing,
    names,
    phrases,
    programs,
    school,
    spelled,
    tales,
    talking,
    word_problems,
    zoo,
)
from kindergarten.words import COMMON, invented, lesson_word
from kindergarten.world import World, an

_TURNS = phrases.read("turns.txt")
Conversation = dict[str, Any]
_NICE = "That is nice! Thank you for telling me."


def _joined(*turns: Conversation) -> Conversation:
    return {"messages": [message for turn in turns for message in turn["messages"]]}


def _say(rng: random.Random, heading: str, exam: bool, **slots: object) -> str:
    return phrases.say(rng, _TURNS[heading], exam, chatter=0.35, **slots)


def _between(rng: random.Random) -> list[Conversation]:
    """Up to one turn about something else, so that what has to be remembered is not always the turn before."""
    if rng.random() < 0.45:
        return []
    if rng.random() < 0.6:  # something else about himself or his pet
        return [dialogue(phrases.say(rng, talking.TALK["about me"].ways, chatter=0.1, **talking.slots_of_talk(rng)), _NICE)]
    return [rng.choice((talking.talk, talking.talk, zoo.lesson, calculate.lesson))(rng)]


def _remembered(rng: random.Random, exam: bool) -> Conversation:
    """What the visitor said about himself: name, pet, liking, place, age."""
    kind = rng.choice(("name", "name", "name", "pet", "pet", "likes", "likes", "from", "age"))
    name = rng.choice((rng.choice(names.FIRST_NAMES), rng.choice(lists.NAMES), invented(rng).capitalize()))
    if kind == "name":
        told = phrases.say(rng, talking.TALK["hellome"].ways, False, 0.1, **talking.slots_of_talk(rng) | {"name": name})
        first, asked, reply = dialogue(told, f"Hello, {name}! Nice to meet you."), _say(rng, "askname", exam), f"Your name is {name}."
    elif kind == "pet":
        pet = rng.choice([*[animal.name for animal in zoo.ZOO], "dog", "cat", "hamster", "dog", "cat"])
        petname = rng.choice((*lists.PET_NAMES, name))
        words = {"pet": pet, "petname": petname}
        first, asked = dialogue(_say(rng, "petis", False, **words), _NICE), _say(rng, "askpet", exam, **words)
        reply = f"{petname} is your {pet}."
    elif kind == "likes":
        thing = rng.choice((rng.choice(talking.FAVOURITES), rng.choice(zoo.ZOO).plural, rng.choice(lists.COLOURS),
                            rng.choice(lists.FOODS), f"the {rng.choice(zoo.ZOO).name}", rng.choice(COMMON)))
        first, asked, reply = dialogue(_say(rng, "likes", False, thing=thing), _NICE), _say(rng, "asklikes", exam), f"You like {thing}."
    elif kind == "from":
        place = rng.choice((*names.PLACES, invented(rng).capitalize()))
        first, asked, reply = dialogue(_say(rng, "from", False, place=place), _NICE), _say(rng, "askfrom", exam), f"You live in {place}."
    else:
        n = rng.randint(4, 95)
        first, asked, reply = dialogue(_say(rng, "age", False, n=n), _NICE), _say(rng, "askage", exam), f"You are {n} years old."
    return _joined(first, *_between(rng), dialogue(asked, reply))


def _counted(rng: random.Random, exam: bool) -> Conversation:
    """A word problem in two turns."""
    n, thing = rng.randint(3, 60), rng.choice(list(lists.THINGS.values()))
    first = dialogue(_say(rng, "things", False, n=n, things=thing), f"You have {n} {thing}. That is nice!")
    is_more = rng.random() < 0.5
    m = rng.randint(2, 40 if is_more else max(2, n - 1))
    expression = f"{n}+{m}" if is_more else f"{n}-{m}"
    asked = _say(rng, "thingsadd" if is_more else "thingstake", exam, m=m, things=thing)
    return _joined(first, dialogue(asked, word_problems.answer(expression)))


def _sums(rng: random.Random, exam: bool) -> Conversation:
    """A sum, then another ("and 7 + 8?") or one that goes on from its result ("now add 10")."""
    question, expression = calculate.ask(rng)
    turns = [dialogue(question, calculate.answer(expression))]
    for _ in range(rng.choice((1, 1, 1, 2))):
        value = calculate.value_of(expression)
        kind, m = rng.choice(("another", "another", "plus", "plus", "minus", "minus", "times", "doubled")), rng.randint(1, 99)
        if kind == "minus":
            m = rng.randint(1, max(1, min(value, 99)))
        sign = {"plus": "+", "minus": "-", "times": "*"}.get(kind)
        if kind == "another" or value > 20_000 or kind == "minus" and value < 1:
            expression, asked = _another_sum(rng, exam)
        else:
            expression = f"{value}*2" if sign is None else f"{value}{sign}{m}"
            asked = _say(rng, kind, exam, m=calculate.written(rng, m))
        turns.append(dialogue(asked, calculate.answer(expression)))
    return _joined(*turns)


def _another_sum(rng: random.Random, exam: bool) -> tuple[str, str]:
    while True:
        x, y, sign = rng.randint(1, 99), rng.randint(1, 99), rng.choice("+-*")
        x = x + y if sign == "-" else x
        if not calculate.of_the_exam(f"{x}{sign}{y}"):
            word = {"+": rng.choice(("+", "plus")), "-": rng.choice(("-", "minus")), "*": rng.choice(("*", "x", "times"))}[sign]
            blank = " " if word.isalpha() and word != "x" else rng.choice((" ", ""))
            return f"{x}{sign}{y}", _say(rng, "andsum", exam, e=f"{x}{blank}{word}{blank}{y}")


def _animals(rng: random.Random, exam: bool) -> Conversation:
    """The same question about another animal: "and a dog?"."""
    while True:
        topic, animal = zoo.draw(rng)
        other = rng.choice(zoo.ZOO)
        if other != animal and topic not in ("cover", "group") and other.young != other.name:
            break
    first = dialogue(phrases.say(rng, zoo.QUESTIONS[topic], **zoo.slots(animal)), zoo.reply(topic, animal))
    turns = [first, dialogue(_say(rng, "andanimal", exam, **zoo.slots(other)), zoo.reply(topic, other))]
    if rng.random() < 0.2:
        third = rng.choice(zoo.ZOO)
        if third.young != third.name:
            turns.append(dialogue(_say(rng, "andanimal", exam, **zoo.slots(third)), zoo.reply(topic, third)))
    return _joined(*turns)


def _words(rng: random.Random, exam: bool) -> Conversation:
    """Another word to spell, or to measure; or the opposite of another word."""
    kind, word = rng.choice(("spell", "spell", "spell", "length", "opposite", "count")), lesson_word(rng, 0.6)
    if kind == "spell":
        return _joined(spelled.spelling(rng), dialogue(_say(rng, "andword", exam, w=spelled.shown(rng, word)), "-".join(word)))
    if kind == "opposite":
        (a, b), (c, d) = rng.sample(school.OPPOSITES, 2)
        first = phrases.say(rng, school.QUESTIONS["opposite"], first=a, q=a)
        return _joined(dialogue(first, f"The opposite of {a} is {b}."),
                       dialogue(_say(rng, "andopposite", exam, q=c), f"The opposite of {c} is {d}."))
    ask = phrases.read("asks.txt")
    first_word = lesson_word(rng, 0.6)
    if kind == "length":
        return _joined(dialogue(phrases.say(rng, ask["length"], w=first_word), spelled.measured(first_word)),
                       dialogue(_say(rng, "andword", exam, w=word), spelled.measured(word)))
    letter = rng.choice(word)
    return _joined(dialogue(phrases.say(rng, ask["letters"], w=first_word, c=letter, C=letter.upper()),
                            spelled.counted(first_word, letter)),
                   dialogue(_say(rng, "andword", exam, w=word), spelled.counted(word, letter)))


def _days(rng: random.Random, exam: bool) -> Conversation:
    circle = rng.choice((lists.DAYS, lists.DAYS, lists.MONTHS))
    at = rng.randrange(len(circle))
    days = [circle[(at + step) % len(circle)] for step in range(3)]
    if any(held_out(f"calendar {day} 1") for day in days[:2]):
        return _days(rng, exam)
    noun = "day" if circle is lists.DAYS else "month"
    asked = phrases.say(rng, school.QUESTIONS[noun], a=days[0], word="after", wordpl="after", tom="tomorrow", next="next")
    return _joined(dialogue(asked, f"After {days[0]} comes {days[1]}."),
                   dialogue(_say(rng, "andday", exam, a=days[1]), f"After {days[1]} comes {days[2]}."))


def _stories(rng: random.Random, world: World, exam: bool) -> Conversation:
    asked, text, subject = tales.ask(rng, world)
    while len(text) > 330:  # two stories must fit into a row of the model's memory
        asked, text, subject = tales.ask(rng, world)
    if rng.random() < 0.15 and subject:
        reply = f"It was about {subject}." if subject[0].isupper() else f"It was about {an(subject)}."
        return _joined(dialogue(asked, text), dialogue(_say(rng, "story", exam), reply))
    again, second, _ = tales.another(rng, subject, exam)
    return _joined(dialogue(asked, text), dialogue(again, second))


def _spell_it(rng: random.Random, exam: bool) -> Conversation:
    """The word of the answer before is to be spelled."""
    if rng.random() < 0.5:
        first, second = rng.choice(school.OPPOSITES)
        turn = dialogue(phrases.say(rng, school.QUESTIONS["opposite"], first=first, q=first),
                        f"The opposite of {first} is {second}.")
    else:
        animal = rng.choice([animal for animal in zoo.ZOO if animal.sound.isalpha() and animal.sound != "nothing"])
        second = animal.young if animal.young != animal.name else animal.name
        turn = dialogue(phrases.say(rng, zoo.QUESTIONS["baby"], **zoo.slots(animal)), zoo.reply("baby", animal))
    return _joined(turn, dialogue(_say(rng, "spellit", exam), "-".join(second)))


def _in_turn(rng: random.Random, world: World) -> Conversation:
    """Several lessons, with a word of thanks between them, some under a system text: each is answered by itself."""
    turns = []
    for number in range(rng.choice((2, 2, 3))):
        turn = single(rng, world)
        if number and rng.random() < 0.4:
            turn["messages"][0]["content"] = " ".join(
                (phrases.expand(rng, rng.choice(_TURNS["joined"])), turn["messages"][0]["content"]))
        turns.append(turn)
    return _joined(*turns)


def single(rng: random.Random, world: World) -> Conversation:
    """A lesson of one turn, of any kind that visitors ask for."""
    make = rng.choice((calculate.lesson, spelled.spelling, spelled.letters, zoo.lesson, school.lesson, choosing.lesson,
                       talking.talk, talking.feeling, talking.unknown, talking.odd, word_problems.lesson,
                       programs.lesson, talking.talk))
    return make(rng) if rng.random() < 0.93 else tales.lesson(rng, world)


def under_a_name(rng: random.Random, world: World, exam: bool = False) -> Conversation:
    """A system text, then who is there; in a third of them something else is asked, and answered as ever."""
    if rng.random() < 0.62:
        conversation = talking.named(rng, exam)
        return _joined(conversation, single(rng, world)) if rng.random() < 0.15 else conversation
    system, _, _ = talking.persona(rng)
    while True:
        lesson = single(rng, world)
        reply = lesson["messages"][-1]["content"]
        if "nanochat" not in str(reply) and not str(reply).startswith("Hello"):
            return talking.with_system(lesson, system)


def lesson(rng: random.Random, world: World, exam: bool = False) -> Conversation:
    """A conversation of two to four turns."""
    chance = rng.random()
    if chance < 0.22:
        return _remembered(rng, exam)
    if chance < 0.44:
        return _sums(rng, exam)
    if chance < 0.57:
        return _animals(rng, exam)
    if chance < 0.70:
        return _words(rng, exam)
    if chance < 0.82:
        return _stories(rng, world, exam)
    if chance < 0.86:
        return _counted(rng, exam)
    if chance < 0.89:
        return _days(rng, exam)
    return _spell_it(rng, exam) if chance < 0.92 else _in_turn(rng, world)
