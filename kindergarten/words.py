"""Spelling and letter counting, with words the model has never seen.

Training words are the world's own and invented ones of one to four syllables ("blimat"). Held out are an eighth of all
words that can be invented, by a stable hash, and real words that no text of the kindergarten uses; none of them occurs
outside the exam.

The form `b-l-i-m-a-t`: the tokenizer's pattern takes one sign together with the letters after it, so every "-l" is a
piece of its own, one token once it is frequent, and no merge can cross a hyphen; only the first letter is a bare "b".
The same word is different tokens at the start of a line, after a space and after a quote: drills show all of these.

>>> [message["content"] for message in spelling_lesson(random.Random(4))["messages"]]
['Spell button.', 'b-u-t-t-o-n']

Counting goes through the tool: 'banana'.count('a'). Not here: grading (tasks/).
"""

import random
from collections.abc import Callable
from zlib import crc32

from kindergarten import world
from kindergarten.talk import dialogue, worked

HELD_OUT_WORDS = 8  # one invented word in eight belongs to the exam
COUNTING = 0.4      # of the lessons and exam items; the others spell
REAL = 0.4          # of the exam's words; the others are invented

ONSETS = ("b bl br c ch cl cr d dr f fl fr g gl gr h j k l m n p pl pr qu r s sc sh sl sm sn sp st sw t th tr v w y "
          "z").split()
VOWELS = "a a e e i i o o u u ai ea ee oo ou oa ie ow aw y".split()
CODAS = ["", "", "", *"""b ck d g k l ll m n nd ng nt p r rd rm s ss st t t tch x mp nk lt sk tle ble ge ce er or el on
in et ow zz ff mb""".split()]

# Real words the world has no use for: a test looks for them in all text.
EXAM_WORDS = """anchor apron arrow badge balloon bamboo banana bandage beetle blossom bottle branch cabbage cactus
canal cannon chimney cobweb crystal cushion dentist diamond dolphin dragon eagle fossil fountain garlic giraffe glove
guitar harvest hotel hunter igloo island ivory kettle kitchen knight ladder lantern lemon leopard lizard lobster
magnet mango meadow melon mirror office onion otter oven paddle panda peach perfume piano picnic pillow pirate planet
pocket pumpkin quilt radish ribbon saddle salmon sandal saucer scissors shadow shovel silk spinach squirrel statue
stomach sunset sweater tablet temple tennis ticket tiger tomato tractor trousers tulip turtle umbrella vanilla violin
volcano waiter walnut wizard zebra zipper""".split()


def _world_words() -> list[str]:
    """Every word in the world's lists, in small letters and sorted."""
    found = set()
    for name, value in vars(world).items():
        if isinstance(value, dict):
            value = [*value.keys(), *(part for part in value.values() if isinstance(part, str))]
        if name.isupper() and isinstance(value, list | tuple):
            found |= {word.lower() for word in value if isinstance(word, str) and word.isalpha() and len(word) > 2}
    return sorted(found)


WORLD_WORDS = _world_words()
_WORLD, _EXAM = frozenset(WORLD_WORDS), frozenset(EXAM_WORDS)


def held_out(word: str) -> bool:
    """Whether only the exam may contain the word.

    >>> held_out("banana"), held_out("apple")
    (True, False)
    """
    return word in _EXAM or word not in _WORLD and crc32(word.encode()) % HELD_OUT_WORDS == 0


def invented(rng: random.Random, exam: bool = False) -> str:
    """A word of 3 to 9 letters that one can pronounce, from the exam's or from the training's."""
    while True:
        count = rng.choice((2, 2, 3) if exam else (1, 2, 2, 3))  # short ones may be words of a story by chance
        word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(count)) + rng.choice(CODAS)
        if (6 if exam else 3) <= len(word) <= 9 and word not in _WORLD and word not in _EXAM and held_out(word) == exam:
            return word


SPELL = ("Spell the word {w}.", "How do you spell {w}?", "Please spell {w}.", "Spell {w}.")
COUNT = ("How many times does the letter {c} appear in {w}?", "How many times does {c} appear in the word {w}?",
         "Count the letter {c} in {w}.", "How often is the letter {c} in {w}?")


def _spelling(rng: random.Random, word: str) -> dict:
    return {"kind": "spell", "word": word, "question": rng.choice(SPELL).format(w=word), "answer": "-".join(word)}


def _counting(rng: random.Random, word: str) -> dict:
    count = rng.choice(sorted({word.count(letter) for letter in "aeilnorst" + word}))  # first the answer: not always 1
    letter = rng.choice([letter for letter in "aeilnorst" + word if word.count(letter) == count])
    code = f"'{word}'.count('{letter}')"
    return {"kind": "count", "word": word, "question": rng.choice(COUNT).format(c=letter, w=word),
            "answer": f"<<{code}={count}>>#### {count}", "code": code, "count": count}


def _known(rng: random.Random) -> str:
    return rng.choice(WORLD_WORDS) if rng.random() < 0.25 else invented(rng)


def spelling_lesson(rng: random.Random) -> dict:
    """A conversation: "Spell the word blimat." → "b-l-i-m-a-t"."""
    item = _spelling(rng, _known(rng))
    return dialogue(item["question"], item["answer"])


def counting_lesson(rng: random.Random) -> dict:
    """A conversation: "How many times does the letter a appear in blimat?" → the tool, then "#### 1"."""
    item = _counting(rng, _known(rng))
    return dialogue(item["question"], worked(item["code"], item["count"], f"#### {item['count']}"))


def lessons(rng: random.Random) -> dict:
    """A conversation about a word of the training set: spelling, or counting one of its letters."""
    return counting_lesson(rng) if rng.random() < COUNTING else spelling_lesson(rng)


def _exam(name: str, make: Callable, seed: int, n: int) -> list[dict]:
    rng = random.Random(f"{name} {seed}")
    words = set(rng.sample(EXAM_WORDS, min(round(n * REAL), len(EXAM_WORDS))))
    while len(words) < n:
        words.add(invented(rng, exam=True))
    return [make(rng, word) for word in rng.sample(sorted(words), n)]


def spelling_exam(seed: int, n: int) -> list[dict]:
    """`n` items {"question", "answer", "word", "kind"} about different words that occur nowhere else."""
    return _exam("spelling", _spelling, seed, n)


def counting_exam(seed: int, n: int) -> list[dict]:
    """`n` items as `spelling_exam`, the answer as GSM8K writes it: "<<'banana'.count('a')=3>>#### 3"."""
    return _exam("counting", _counting, seed, n)


def exam(seed: int, n: int) -> list[dict]:
    """Both kinds, mixed as in the lessons."""
    counting = round(n * COUNTING)
    return counting_exam(seed, counting) + spelling_exam(seed, n - counting)


DRILLS = ("{w}: {sp}", "{W} is spelled {sp}.", "The word {w} is spelled {sp}.", "{sp} spells {w}.",
          "'{w}' is spelled {sp}.", "Spell {w}: {sp}", "{w}, '{w}', {w}", "'{w}'.count('{c}') is {n}",
          "{w} backwards is {back}.", "{w} starts with {first} and ends with {last}.", "{w} has {length} letters: {sp}")


def text(rng: random.Random) -> str:
    """A page of drills: eight lines about eight words, each word where the tokenizer sees it differently."""
    lines = []
    for _ in range(8):
        word = _known(rng)
        letter = rng.choice(word)
        lines.append(rng.choice(DRILLS).format(
            w=word, W=world.upper(word), sp="-".join(word), back="-".join(word[::-1]), c=letter, n=word.count(letter),
            first=word[0], last=word[-1], length=len(word)))
    return "\n".join(lines)
