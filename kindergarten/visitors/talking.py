"""Talk: who the model is, small talk, feelings, odd input, and what it cannot know.

Each heading of talk.txt, feelings.txt, odd.txt and unknown.txt is a topic: lines with "= " are its replies, the others
are ways in which people come to it. "I do not know" is a lesson like any other: questions about the real world, the
weather, the time, other languages, people who do not live in the village. So that the model does not refuse what it
knows, known things are asked in the same words and with the same chatter by the other files of this folder.
"""

import random
from typing import Any

from kindergarten import world as lists
from kindergarten.talk import dialogue
from kindergarten.visitors import names, phrases
from kindergarten.words import COMMON, invented
from kindergarten.world import an

FAVOURITES = """cats dogs horses football chess music dinosaurs trains birds pizza cake rabbits stars books flowers rain
    swimming painting cars cheese tea ponies robots snow chocolate games bees apples frogs history numbers""".split()
_FACES = """:) :-) ;) ;-) :D :-D :P :p xD XD :] =) ^^ ^_^ :o :O :-O 8) B-) :3 c: \\o/ (: o_O -_- :/ :-/ >:( :( :-( :'(
    <3 </3 xoxo xxx xx *hugs* *smiles* *waves* *giggles* *wink* lol rofl lmao haha hihi hehehe (^_^) (o_o) d(^_^)b =^.^=
    @}->--    (\\_/) <>< >^..^< zZz *_* ._. :v (o)> <(") :-| :* ;D :')""".split()
_TRANSLATED = ("good morning", "thank you", "hello", "friend", "I love you", "good night", "dog", "cat", "please")
_TITLES = "Captain Doctor Professor Queen King Mr Mrs Old Sir Aunt Uncle".split()
_SIGNS = "abcdefghijklmnopqrstuvwxyz?.!,;-+#*@/$%&1234567890~^_="
_KEYS = "asdfghjkl;'qwertyuiopzxcvbnm,./"


class Topic:
    """Replies, and the ways to a topic."""

    def __init__(self, lines: list[str]):
        self.replies = [line[2:] for line in lines if line.startswith("= ")]
        self.ways = [phrases.parse(line) for line in lines if not line.startswith("= ")]


def _read(name: str) -> dict[str, Topic]:
    return {heading: Topic(lines) for heading, lines in phrases.read_sections(name).items()}


TALK, FEELINGS, ODD, UNKNOWN = (_read(f"{name}.txt") for name in ("talk", "feelings", "odd", "unknown"))
# In these topics a greeting or "my son wants to know" in front makes sense only at times.
_CHATTER = {"who": 0.8, "name": 0.8, "maker": 0.8, "size": 0.8, "skills": 0.6, "human": 0.8, "joke": 0.8, "poem": 0.8}
# The topics that everybody begins with come more often than the number of their lines says.
_OFTEN = {"who": 10, "name": 10, "maker": 9, "size": 6, "skills": 9, "hello": 10, "mood": 8, "thanks": 8, "bye": 8,
          "compliment": 8, "joke": 6, "human": 10, "hellome": 5, "ok": 6}


def filled(rng: random.Random, topic: Topic, chatter: float, exam: bool = False) -> tuple[str, str]:
    """(what the visitor types, the reply) with names, places and nonsense of every kind in the slots."""
    slots = slots_of_talk(rng)
    asked = phrases.say(rng, topic.ways, exam, chatter, **slots)
    slots["name"] = phrases.as_typed(slots["name"], asked)
    return asked, rng.choice(topic.replies).format_map(slots)


def slots_of_talk(rng: random.Random) -> dict[str, Any]:
    """Names, places, words and nonsense for the slots of a topic."""
    first, last = rng.choice(names.FIRST_NAMES), rng.choice(names.SURNAMES)
    title = rng.choice(("Mr", "Mrs", "old Mr", "Miss", "Doctor"))
    nobody = rng.choice((first, first, first, f"{first} {last}", f"{title} {last}", f"old {first}", f"uncle {first}",
                         f"aunt {first}", invented(rng).capitalize()))
    word = rng.choice((rng.choice(lists.ANIMALS), rng.choice(COMMON), rng.choice(_TRANSLATED)))
    return {"name": rng.choice((first, rng.choice(lists.NAMES), invented(rng).capitalize())), "n": rng.randint(5, 90),
            "fav": rng.choice(FAVOURITES), "place": rng.choice(names.PLACES), "language": rng.choice(names.LANGUAGES),
            "person": f"{first} {last}" if rng.random() < 0.7 else last, "nobody": nobody, "word": word,
            "somebody": rng.choice(lists.NAMES), "foreign": rng.choice(names.FOREIGN), "nonsense": invented(rng),
            "any": rng.choice(COMMON), "ANY": _stretched(rng, rng.choice(COMMON).upper())}


def _stretched(rng: random.Random, word: str) -> str:
    """The word as it is shouted: "HORSE", at times "HORSEEEE"."""
    return word + word[-1] * rng.choice((0, 0, 1, 3, 6))


def talk(rng: random.Random, exam: bool = False) -> dict[str, Any]:
    """One turn of small talk."""
    name, = rng.choices(list(TALK), [_OFTEN.get(name, 3) for name in TALK])
    return dialogue(*filled(rng, TALK[name], _CHATTER.get(name, 0.12), exam))


def feeling(rng: random.Random, exam: bool = False) -> dict[str, Any]:
    name, = rng.choices(list(FEELINGS), [len(topic.ways) for topic in FEELINGS.values()])
    return dialogue(*filled(rng, FEELINGS[name], 0.25, exam))


def unknown(rng: random.Random, exam: bool = False) -> dict[str, Any]:
    """What the model cannot know or do, with an honest answer."""
    weights = {"dontknow": 10, "nobody": 5, "language": 4, "weather": 4, "time": 4, "cannot": 3, "nofact": 2}
    name, = rng.choices(list(weights), list(weights.values()))
    return dialogue(*filled(rng, UNKNOWN[name], 1.0, exam))


def _keys(rng: random.Random) -> str:
    """Fingers on a keyboard: neighbouring keys, one key many times, single signs."""
    chance = rng.random()
    if chance < 0.25:
        return rng.choice(_SIGNS) * rng.choice((1, 1, 1, 2, 3, rng.randint(4, 20)))
    if chance < 0.3:  # one long cry: "aaaahhhhh"
        return "".join(letter * rng.randint(2, 9) for letter in rng.sample("aeohmguzrw", rng.choice((1, 2, 2, 3))))
    if chance < 0.4:
        return "".join(rng.choice("?!.,;-#*@$%&()/:") for _ in range(rng.randint(2, 10)))
    runs = []
    for _ in range(rng.choice((1, 1, 2, 3, 4))):
        start, length = rng.randrange(len(_KEYS)), rng.randint(3, 9)
        runs.append((_KEYS * 2)[start:start + length] if chance < 0.7 else
                    "".join(rng.choice("abcdefghijklmnopqrstuvwxyz" * 3 + "123;") for _ in range(length)))
    return rng.choice((" ", "", " ")).join(runs)


def odd(rng: random.Random, exam: bool = False) -> dict[str, Any]:
    if (chance := rng.random()) < 0.3:
        text = _keys(rng)
        return dialogue(text.upper() if rng.random() < 0.1 else text,
                        "I do not understand that. You can ask me for a story, a sum or a spelling.")
    if chance < 0.34:  # words that mean nothing, of the village's own making
        text = " ".join(invented(rng) for _ in range(rng.randint(2, 5)))
        return dialogue(text, "I do not understand that. You can ask me for a story, a sum or a spelling.")
    if chance < 0.42:
        faces = [rng.choice(_FACES)] * rng.choice((1, 1, 2, 3)) + rng.sample(_FACES, rng.choice((0, 0, 1, 2)))
        words = rng.choice(("", "", "", "", "a cat", "look", "this is a duck", "hi", "a little fish for you", "bunny"))
        return dialogue(" ".join((*faces, words)).strip(), rng.choice((":-) How nice! How can I help you?",)))
    name, = rng.choices(list(ODD), [6, 4, 6, 3, 4])
    slots = slots_of_talk(rng)
    text = phrases.draw(rng, ODD[name].ways, exam).format_map(slots)
    if name != "shout":
        text = phrases.voice(rng, text.replace("{", "(").replace("}", ")"), chatter=0.1)
    return dialogue(text, rng.choice(ODD[name].replies))


# Who a system text says that the assistant is.
_SYSTEMS = phrases.read("persona.txt")


def persona(rng: random.Random) -> tuple[str, str, str]:
    """(system text, name, what it is with its article)."""
    name = rng.choice((rng.choice(names.FIRST_NAMES), rng.choice(lists.NAMES), invented(rng).capitalize(),
                       rng.choice(lists.PET_NAMES), rng.choice(names.FIRST_NAMES)))
    if rng.random() < 0.25:
        name = f"{rng.choice(_TITLES)} {name}"
    role = rng.choice((*names.ROLES, rng.choice(lists.JOBS), rng.choice(lists.ANIMALS)))
    manners = rng.sample(names.MANNERS, 2)
    if (chance := rng.random()) < 0.55:
        role = f"{manners[0]} {role}"
    elif chance < 0.7:
        role = f"{manners[0]} {rng.choice(('', 'and '))}{manners[1]} {role}"
    habit = phrases.expand(rng, rng.choice(_SYSTEMS["habit"]))
    text = phrases.expand(rng, rng.choice(_SYSTEMS["system"])).format(
        name=name, role=role, arole=an(role), habit=habit, fav=rng.choice(FAVOURITES), manner=manners[1])
    return " ".join(text.split()), name, an(role)


def named(rng: random.Random, exam: bool = False) -> dict[str, Any]:
    """A system text with a name, and the question who is there: "I am Bob, a pirate."."""
    system, name, arole = persona(rng)
    if rng.random() < 0.06:
        system, name, arole = "You are nanochat, a helpful assistant.", "nanochat", "a small language model"
    chance = rng.random()
    ways = TALK["who"].ways + TALK["name"].ways + _SYSTEMS["asked"] if chance < 0.7 else TALK["hello"].ways
    asked = phrases.say(rng, ways, exam, 0.8 if chance < 0.7 else 0.1, **slots_of_talk(rng))
    reply = f"I am {name}, {arole}." if chance < 0.7 else f"Hello! I am {name}, {arole}. How can I help you?"
    return with_system(dialogue(asked, reply), system)


def with_system(conversation: dict[str, Any], system: str) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": system}, *conversation["messages"]]}
