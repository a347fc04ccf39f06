"""Stories about whatever a visitor wants: the wanted hero stands in the first sentence and in most of the others.

stories.py tells of the village. Visitors want a fox, a robot, a teapot, or two of them; so here the hero is copied from
the request, and half of the heroes are words that come up rarely, for a model that only knows some heroes would tell
of another. Requests are in asks.txt, the parts of the stories in tales.txt.
"""

import random
import re
from typing import Any

from kindergarten import world as lists
from kindergarten.stories import story as of_the_village
from kindergarten.talk import dialogue
from kindergarten.visitors import names, phrases, zoo
from kindergarten.words import COMMON
from kindergarten.world import World, an

_ASKED = phrases.read("asks.txt")
_PARTS = phrases.read("tales.txt")
_HEROES = """boy girl child king queen prince princess knight pirate witch wizard fairy giant dwarf elf dragon unicorn
    robot ghost monster snowman dinosaur mermaid farmer baker sailor teacher star cloud train car boat teddy doll moon
    tree flower kite teapot spoon shoe house tower kite button snowflake pebble book pencil clock""".split()
_SPOTS = "wood river lake hill sea mill castle garden village mountain road field forest pond".split()
_HOUSES = "little house, warm nest, small hole, tall tower, old barn, red house, cosy den, tiny hut".split(", ")
_THINGS = "key, shell, feather, coin, bell, lamp, map, drum, stone, hat, book, egg, box, flower".split(", ")
# What is added to "about a fox": the story need not tell it, the hero counts.
_WHO, _WHERE = _ASKED.pop("who"), _ASKED.pop("where")
_ADJECTIVES = "brave little small kind funny lazy old young clever shy sleepy tiny big happy sad hungry lonely".split()


def hero(rng: random.Random) -> str:
    """Whom a story is about: an animal in half of the stories, else somebody or something."""
    chance = rng.random()
    if chance < 0.55:
        return rng.choice(zoo.ZOO).name
    return rng.choice(_HEROES) if chance < 0.8 else rng.choice(COMMON)


def tale(rng: random.Random, subject: str, other: str = "") -> str:
    """A story of 45 to 90 words about the subject; with `other`, also about that."""
    middle = sorted(rng.sample(("second", "second", "third"), rng.choice((1, 2))))
    kinds = ["first", *(["other"] if other else []), *middle, "last"]
    text = " ".join(phrases.expand(rng, rng.choice(_PARTS[kind])) for kind in kinds)
    friend = rng.choice(zoo.ZOO).name
    slots = {"s": subject, "other": f"the {other}", "name": rng.choice(lists.PET_NAMES), "friend": f"the {friend}",
             "spot": rng.choice(_SPOTS), "house": rng.choice(_HOUSES), "thing": rng.choice(_THINGS),
             "food": rng.choice(lists.FOODS), "day": rng.choice(lists.DAYS), "colour": rng.choice(lists.COLOURS),
             "n": lists.NUMBERS[rng.randint(2, 9)]}
    return re.sub(r"\b(a|A)(?= [aeiou])", r"\1n", text.format_map(slots).strip())


def _described(rng: random.Random, subject: str) -> str:
    """"a brave fox who is lost": the subject with its article, often with more words around it."""
    adjective = rng.choice(_ADJECTIVES) + " " if rng.random() < 0.35 else ""
    text = rng.choice((an, an, an, "the {}".format, "my {}".format))(adjective + subject)
    if (chance := rng.random()) < 0.2:
        return f"{text} {phrases.expand(rng, rng.choice(_WHO))}"
    return f"{text} {phrases.expand(rng, rng.choice(_WHERE))}" if chance < 0.32 else text


def _plural(subject: str) -> str:
    return zoo.BY_NAME[subject].plural if subject in zoo.BY_NAME else subject + "s"


def _about(rng: random.Random, subject: str, other: str) -> str:
    if other:
        return rng.choice((" about {} and {}", " with {} and {}", " about {} and {}")).format(an(subject), an(other))
    if rng.random() < 0.15:
        return f" about {_plural(subject)}"
    return rng.choice((" about ", " about ", " about ", " with ", " of ")) + _described(rng, subject)


def ask(rng: random.Random, world: World, exam: bool = False) -> tuple[str, str, str]:
    """(request, story, hero); the hero is "" where any story will do."""
    frame = phrases.draw(rng, _ASKED["story"], exam)
    if "{about}" not in frame or rng.random() < 0.15:  # "story time!"
        text = of_the_village(rng, world) if rng.random() < 0.5 else tale(rng, hero(rng))
        return phrases.voice(rng, frame, about=""), text, ""
    if rng.random() < 0.1:  # about somebody of the village or a person with a name
        person = rng.choice((*lists.NAMES, *names.FIRST_NAMES))
        return phrases.voice(rng, frame, about=f" about {person}"), _of_person(rng, person), person
    subject, other = hero(rng), hero(rng) if rng.random() < 0.12 else ""
    if not other and rng.random() < 0.35:
        words = {"as": _described(rng, subject), "s": subject, "S": phrases.upper(subject), "pl": _plural(subject)}
        asked = phrases.say(rng, _ASKED["storyof"], exam, **words)
    else:
        asked = phrases.voice(rng, frame, about=_about(rng, subject, other))
    return asked, tale(rng, subject, other), subject


def _of_person(rng: random.Random, person: str) -> str:
    text = tale(rng, "child")
    return text.replace("the child", person).replace("The child", person).replace(
        "a child", f"a child called {person}", 1)


def another(rng: random.Random, subject: str, exam: bool = False) -> tuple[str, str]:
    """A second request after a story about `subject`, with its story: about the same or about something else."""
    if rng.random() < 0.45:
        text = _of_person(rng, subject) if subject[:1].isupper() else tale(rng, subject or hero(rng))
        return phrases.say(rng, _ASKED["another"], exam, chatter=0.4), text
    subject = hero(rng)
    slots = {"as": rng.choice((an, an, "the {}".format))(subject)}
    return phrases.say(rng, _ASKED["anotherabout"], exam, chatter=0.4, **slots), tale(rng, subject)


def lesson(rng: random.Random, world: World, exam: bool = False) -> dict[str, Any]:
    asked, text, _ = ask(rng, world, exam)
    return dialogue(asked, text)


def page(rng: random.Random) -> str:
    """Base text: one of the stories."""
    return tale(rng, hero(rng))
