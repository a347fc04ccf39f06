"""Conversations of several turns in which the last one needs those before: "and 7 + 8?", "what is my name?", "another".

Each function below makes one kind; `_KINDS` says how often. The requests of the later turns stand in turns.txt, the
first turn is a lesson of another file.
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
from kindergarten.words import spelled as spelled_out
from kindergarten.world import World, an

_TURNS = phrases.read("turns.txt")
_NICE = "That is nice! Thank you for telling me."
_LONGEST_STORY = 330  # characters: two stories must fit into a row of 256 tokens
Conversation = dict[str, Any]


def _joined(*turns: Conversation) -> Conversation:
    return {"messages": [message for turn in turns for message in turn["messages"]]}


def _say(rng: random.Random, heading: str, exam: bool = False, **slots: object) -> str:
    return phrases.say(rng, _TURNS[heading], exam, chatter=0.35, **slots)


def _between(rng: random.Random) -> list[Conversation]:
    """No turn or one about something else, so that what has to be remembered is not always in the turn before."""
    if rng.random() < 0.45:
        return []
    if rng.random() < 0.6:  # more about the visitor himself
        ways = talking.TALK["about me"].ways
        return [dialogue(phrases.say(rng, ways, chatter=0.1, **talking.slots_of_talk(rng)), _NICE)]
    return [rng.choice((talking.talk, talking.talk, zoo.lesson, calculate.lesson))(rng)]


def _remembered(rng: random.Random, world: World, exam: bool) -> Conversation:
    """What the visitor said about himself: name, pet, liking, place or age."""
    name = rng.choice((rng.choice(names.FIRST_NAMES), rng.choice(lists.NAMES), invented(rng).capitalize()))
    told, asked, reply = rng.choice((_name, _name, _name, _pet, _pet, _liking, _liking, _place, _age))(rng, name, exam)
    answer = f"Hello, {phrases.as_typed(name, told)}! Nice to meet you." if reply.startswith("Your name") else _NICE
    return _joined(dialogue(told, answer), *_between(rng), dialogue(asked, reply))


# What is told first, what is asked later, and the reply.

def _name(rng: random.Random, name: str, exam: bool) -> tuple[str, str, str]:
    slots = talking.slots_of_talk(rng) | {"name": name}
    told = phrases.say(rng, talking.TALK["hellome"].ways, chatter=0.1, **slots)
    return told, _say(rng, "askname", exam), f"Your name is {phrases.as_typed(name, told)}."


def _pet(rng: random.Random, name: str, exam: bool) -> tuple[str, str, str]:
    pet = rng.choice((rng.choice(zoo.ZOO).name, rng.choice(("dog", "cat", "hamster"))))
    words = {"pet": pet, "petname": rng.choice((*lists.PET_NAMES, name))}
    told = _say(rng, "petis", **words)
    return told, _say(rng, "askpet", exam, **words), f"{phrases.as_typed(words['petname'], told)} is your {pet}."


def _liking(rng: random.Random, name: str, exam: bool) -> tuple[str, str, str]:
    thing = rng.choice((rng.choice(talking.FAVOURITES), rng.choice(zoo.ZOO).plural, rng.choice(lists.COLOURS),
                        rng.choice(lists.FOODS), f"the {rng.choice(zoo.ZOO).name}", rng.choice(COMMON)))
    told = _say(rng, "likes", thing=thing)
    return told, _say(rng, "asklikes", exam), f"You like {phrases.as_typed(thing, told)}."


def _place(rng: random.Random, name: str, exam: bool) -> tuple[str, str, str]:
    place = rng.choice((*names.PLACES, name))
    told = _say(rng, "from", place=place)
    return told, _say(rng, "askfrom", exam), f"You live in {phrases.as_typed(place, told)}."


def _age(rng: random.Random, name: str, exam: bool) -> tuple[str, str, str]:
    n = rng.randint(4, 95)
    return _say(rng, "age", n=n), _say(rng, "askage", exam), f"You are {n} years old."


def _counted(rng: random.Random, world: World, exam: bool) -> Conversation:
    """A word problem in two or three turns."""
    n, thing = rng.randint(3, 60), rng.choice(list(lists.THINGS.values()))
    first = dialogue(_say(rng, "things", n=n, things=thing), f"You have {n} {thing}. That is nice!")
    is_more = rng.random() < 0.5
    m = rng.randint(2, 40 if is_more else max(2, n - 1))
    asked = _say(rng, "thingsadd" if is_more else "thingstake", exam, m=m, things=thing)
    answer = word_problems.answer(f"{n}{'+' if is_more else '-'}{m}")
    if rng.random() < 0.5:
        return _joined(first, dialogue(asked, answer))
    # The question comes a turn later.
    change = _say(rng, "more" if is_more else "fewer", m=m, things=thing, any=rng.choice(COMMON))
    return _joined(first, dialogue(change, _NICE), dialogue(_say(rng, "howmany", exam, things=thing), answer))


def _sums(rng: random.Random, world: World, exam: bool) -> Conversation:
    """A sum, then another ("and 7 + 8?") or one that goes on from its result ("now add 10")."""
    question, expression = calculate.ask(rng)
    turns = [dialogue(question, calculate.answer(expression))]
    for _ in range(rng.choice((1, 1, 1, 2))):
        asked, expression = _next_sum(rng, calculate.value_of(expression), exam)
        turns.append(dialogue(asked, calculate.answer(expression)))
    return _joined(*turns)


def _next_sum(rng: random.Random, value: int, exam: bool) -> tuple[str, str]:
    """(request, expression) after a result."""
    kind = rng.choice(("another", "another", "plus", "plus", "minus", "minus", "times", "doubled"))
    m = rng.randint(1, max(1, min(value, 99)) if kind == "minus" else 99)
    if kind == "another" or value > 20_000 or value < m and kind == "minus":
        return _another_sum(rng, exam)
    change = {"plus": f"+{m}", "minus": f"-{m}", "times": f"*{m}", "doubled": "*2"}[kind]
    return _say(rng, kind, exam, m=calculate.written(rng, m)), f"{value}{change}"


def _another_sum(rng: random.Random, exam: bool) -> tuple[str, str]:
    while True:
        x, y, sign = rng.randint(1, 99), rng.randint(1, 99), rng.choice("+-*")
        x = x + y if sign == "-" else x
        if not calculate.of_the_exam(f"{x}{sign}{y}"):
            break
    form = rng.choice({"+": ("{}+{}", "{} + {}", "{} plus {}"), "-": ("{}-{}", "{} - {}", "{} minus {}"),
                       "*": ("{}*{}", "{} x {}", "{}x{}", "{} times {}")}[sign])
    return _say(rng, "andsum", exam, e=form.format(x, y)), f"{x}{sign}{y}"


def _animals(rng: random.Random, world: World, exam: bool) -> Conversation:
    """The same question about one or two other animals: "and a dog?"."""
    topic, animal = zoo.draw(rng)
    while topic in ("cover", "group"):
        topic, animal = zoo.draw(rng)
    turns = [dialogue(phrases.say(rng, zoo.QUESTIONS[topic], **zoo.slots(animal)), zoo.reply(topic, animal))]
    for other in rng.sample([other for other in zoo.ZOO if zoo.may_ask(topic, other)], rng.choice((1, 1, 1, 2))):
        turns.append(dialogue(_say(rng, "andanimal", exam, **zoo.slots(other)), zoo.reply(topic, other)))
    return _joined(*turns)


def _words(rng: random.Random, world: World, exam: bool) -> Conversation:
    """A second word to spell or to count."""
    first, second = lesson_word(rng, spelled.COMMON_SHARE), lesson_word(rng, spelled.COMMON_SHARE)
    make = rng.choice((spelled.spell, spelled.spell, spelled.spell, spelled.measure, spelled.count))
    question, answer_of = make(rng, first)
    return _joined(dialogue(question, answer_of(first)),
                   dialogue(_say(rng, "andword", exam, w=spelled.shown(rng, second)), answer_of(second)))


def _opposites(rng: random.Random, world: World, exam: bool) -> Conversation:
    (a, b), (c, d) = rng.sample(school.OPPOSITES, 2)
    asked = phrases.say(rng, school.QUESTIONS["opposite"], first=a, q=a)
    return _joined(dialogue(asked, f"The opposite of {a} is {b}."),
                   dialogue(_say(rng, "andopposite", exam, q=c), f"The opposite of {c} is {d}."))


def _days(rng: random.Random, world: World, exam: bool) -> Conversation:
    """ "What comes after Monday?", "and then?"."""
    circle, noun = rng.choice(((lists.DAYS, "day"), (lists.DAYS, "day"), (lists.MONTHS, "month")))
    starts = [i for i, day in enumerate(circle)
              if not held_out(f"calendar {day} 1") and not held_out(f"calendar {circle[(i + 1) % len(circle)]} 1")]
    at = rng.choice(starts)
    first, second, third = (circle[(at + step) % len(circle)] for step in range(3))
    asked = phrases.say(rng, school.QUESTIONS[noun], a=first, word="after", wordpl="after", tom="tomorrow", next="next")
    return _joined(dialogue(asked, f"After {first} comes {second}."),
                   dialogue(_say(rng, "andday", exam, a=second), f"After {second} comes {third}."))


def _stories(rng: random.Random, world: World, exam: bool) -> Conversation:
    """Another story, about the same or about something else; at times the question what it was about."""
    asked, text, subject = tales.ask(rng, world)
    while len(text) > _LONGEST_STORY:
        asked, text, subject = tales.ask(rng, world)
    if rng.random() < 0.15 and subject:
        reply = f"It was about {subject if subject[0].isupper() else an(subject)}."
        return _joined(dialogue(asked, text), dialogue(_say(rng, "story", exam), reply))
    return _joined(dialogue(asked, text), dialogue(*tales.another(rng, subject, exam)))


def _spell_it(rng: random.Random, world: World, exam: bool) -> Conversation:
    """The word of the answer before is to be spelled."""
    if rng.random() < 0.5:
        first, word = rng.choice(school.OPPOSITES)
        turn = dialogue(phrases.say(rng, school.QUESTIONS["opposite"], first=first, q=first),
                        f"The opposite of {first} is {word}.")
    else:
        animal = rng.choice([animal for animal in zoo.ZOO if animal.young != animal.name])
        word = animal.young
        turn = dialogue(phrases.say(rng, zoo.QUESTIONS["baby"], **zoo.slots(animal)), zoo.reply("baby", animal))
    return _joined(turn, dialogue(_say(rng, "spellit", exam), spelled_out(word)))


def _in_turn(rng: random.Random, world: World, exam: bool) -> Conversation:
    """Several lessons, some with a word of thanks between them: each is answered by itself."""
    turns = []
    for number in range(rng.choice((2, 2, 3))):
        turn = single(rng, world)
        if number and rng.random() < 0.4:
            words = phrases.expand(rng, rng.choice(_TURNS["joined"]))
            turn["messages"][0]["content"] = f"{words} {turn['messages'][0]['content']}"
        turns.append(turn)
    return _joined(*turns)


_SINGLE = (calculate.lesson, spelled.spelling, spelled.letters, zoo.lesson, school.lesson, choosing.lesson,
           talking.talk, talking.talk, talking.feeling, talking.unknown, talking.odd, word_problems.lesson,
           programs.lesson)
_KINDS = {_remembered: 22, _sums: 22, _animals: 13, _words: 10, _opposites: 3, _stories: 11, _counted: 6, _days: 3,
          _spell_it: 3, _in_turn: 7}


def single(rng: random.Random, world: World) -> Conversation:
    """A lesson of one turn, of any kind that visitors ask for."""
    return rng.choice(_SINGLE)(rng) if rng.random() < 0.93 else tales.lesson(rng, world)


def under_a_name(rng: random.Random, world: World, exam: bool = False) -> Conversation:
    """A system text, then who is there; in a third of them something else is asked, and answered as ever."""
    if rng.random() < 0.62:
        conversation = talking.named(rng, exam)
        return _joined(conversation, single(rng, world)) if rng.random() < 0.15 else conversation
    system, _, _ = talking.persona(rng)
    while True:
        lesson_ = single(rng, world)
        reply = str(lesson_["messages"][-1]["content"])
        if "nanochat" not in reply and not reply.startswith("Hello"):  # it has another name now
            return talking.with_system(lesson_, system)


def lesson(rng: random.Random, world: World, exam: bool = False) -> Conversation:
    """A conversation of two to four turns."""
    make, = rng.choices(list(_KINDS), list(_KINDS.values()))
    return make(rng, world, exam)
