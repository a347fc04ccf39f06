"""What a child learns at school, asked in many words: opposites, days, months, plurals, rhymes, small facts."""

import random
from typing import Any

from kindergarten import world as lists
from kindergarten.facts import held_out
from kindergarten.talk import dialogue
from kindergarten.visitors import phrases
from kindergarten.visitors.zoo import ZOO

# Beside the village's opposites, whose questions are held out in facts.py by the village's own rule.
_MORE_OPPOSITES = """heavy-light noisy-quiet silent-noisy beautiful-ugly good-bad new-old tall-short easy-difficult
    hard-easy cheap-expensive fat-thin laugh-cry awake-asleep alive-dead black-white buy-sell come-go give-take
    start-stop begin-end win-lose in-out inside-outside over-under before-after more-less many-few love-hate top-bottom
    front-back male-female boy-girl man-woman king-queen brother-sister mother-father friend-enemy yes-no on-off
    question-answer remember-forget tired-awake sunny-cloudy deep-shallow smooth-rough sharp-blunt straight-crooked
    right-wrong clever-stupid polite-rude lazy-busy empty-full tidy-messy safe-dangerous north-south east-west
    morning-evening today-tomorrow war-peace hello-goodbye sit-stand arrive-leave go-stay find-lose ask-answer
    whisper-shout lend-borrow here-there same-different everything-nothing everybody-nobody old-new winter-summer
    sick-healthy angry-calm big-little large-small huge-tiny thick-thin fresh-rotten cool-warm warm-cool freeze-melt
    small-large little-big quick-slow glad-sad rise-fall enter-exit weak-strong rude-polite light-heavy bad-good
    ugly-beautiful difficult-easy late-early full-empty cold-hot slow-fast out-in under-over end-begin stop-start
    short-tall sell-buy take-give go-come asleep-awake cry-laugh lose-win less-more few-many back-front bottom-top
    night-day down-up left-right""".split()
OPPOSITES = [(first, second) for first, second in dict([
    *(pair.split("-") for pair in _MORE_OPPOSITES), *lists.OPPOSITES.items(),
    *((second, first) for first, second in lists.OPPOSITES.items())]).items()
    if not held_out(f"fact {first} opposite")]
_PLURALS = {"child": "children", "man": "men", "woman": "women", "foot": "feet", "tooth": "teeth", "knife": "knives",
            "baby": "babies", "city": "cities", "box": "boxes", "glass": "glasses", "bus": "buses",
            "potato": "potatoes", "hero": "heroes", "wife": "wives", "party": "parties", "lady": "ladies",
            "loaf": "loaves",
            "shelf": "shelves", "person": "people", "wish": "wishes", "church": "churches"}
PLURALS = list({**lists.THINGS, **_PLURALS, **{animal.name: animal.plural for animal in ZOO}}.items())
RHYMES = [pair.split("-") for pair in """cat-hat hat-cat mouse-house house-mouse dog-frog frog-dog tree-bee bee-tree
    sun-fun fun-run star-car car-star night-light light-night day-play play-day moon-spoon spoon-moon cake-lake
    lake-snake bear-pear pear-bear sky-fly fly-sky king-ring ring-king blue-shoe shoe-blue red-bed bed-red fish-dish
    goat-boat boat-goat fox-box box-fox hen-pen pen-ten ten-men nose-rose rose-nose rain-train train-rain book-cook
    cook-look sheep-sleep sleep-deep green-queen queen-green snow-go go-snow love-dove ball-wall wall-ball tall-small
    small-tall big-pig pig-big man-can rock-clock clock-rock bell-well song-long long-song heart-start door-floor
    floor-door hand-sand sand-hand time-rhyme head-bread bread-head eye-pie five-drive nine-wine duck-truck""".split()]
_ASKED = phrases.read_sections("school.txt")
QUESTIONS = {topic: [phrases.parse(line) for line in lines[1:]] for topic, lines in _ASKED.items()}
REPLIES = {topic: lines[0].removeprefix("= ") for topic, lines in _ASKED.items()}
_KNOWN = [(phrases.parse(question), reply)
          for question, reply in (line.split(" = ") for line in phrases.read_lines("known.txt"))]
WEIGHTS = {"opposite": 10, "day": 7, "month": 6, "season": 2, "plural": 3, "rhyme": 2, "first": 1, "known": 8}


def _quoted(rng: random.Random, word: str) -> str:
    return rng.choice(('{}', '{}', '{}', '"{}"', "'{}'")).format(word)


def slots_of(rng: random.Random, topic: str) -> dict[str, str]:
    """The words of one question."""
    if topic in ("opposite", "plural", "rhyme"):
        # The village's questions that its exam asks are not taught in other words either (facts.py).
        first, second = rng.choice({"opposite": OPPOSITES, "plural": PLURALS, "rhyme": RHYMES}[topic])
        return {"first": first, "second": second, "pl": second, "q": _quoted(rng, first)}
    if topic == "first":
        word = rng.choice(sorted(lists.THINGS))
        return {"first": word, "q": _quoted(rng, word), "letter": word[0]}
    if topic == "season":
        month = rng.choice([i for i, name in enumerate(lists.MONTHS) if not held_out(f"season {name}")])
        return {"a": lists.MONTHS[month], "season": lists.SEASONS[month]}
    return _step(rng, lists.DAYS if topic == "day" else lists.MONTHS)


def _step(rng: random.Random, circle: list[str]) -> dict[str, str]:
    while True:
        at, is_after = rng.randrange(len(circle)), rng.random() < 0.6
        step = 1 if is_after else -1
        if not held_out(f"calendar {circle[at]} {step}"):
            break
    word, start, end = "after" if is_after else "before", circle[at], circle[(at + step) % len(circle)]
    return {"a": start, "word": word, "wordpl": word, "tom": "tomorrow" if is_after else "yesterday",
            "next": "next" if is_after else "last month", "R": f"{word.capitalize()} {start} comes {end}."}


def lesson(rng: random.Random, exam: bool = False) -> dict[str, Any]:
    topic, = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))
    if topic == "known":
        return known(rng, exam)
    slots = slots_of(rng, topic)
    return dialogue(phrases.say(rng, QUESTIONS[topic], exam, **slots), REPLIES[topic].format_map(slots))


def known(rng: random.Random, exam: bool = False) -> dict[str, Any]:
    """One of the small facts of known.txt."""
    n = rng.randint(1, 99)
    slots = {"n": n, "next": n + 1, "last": n - 1, "parity": "odd" if n % 2 else "even"}
    while True:
        question, reply = rng.choice(_KNOWN)
        try:
            return dialogue(phrases.say(rng, [question], exam, **slots), reply.format_map(slots))
        except ValueError:  # all wordings of this fact belong to the other set
            continue
