"""Spelling and letter counting; the exam's words are words that the model has never seen.

Words of the lessons are the world's own, words of everyday English (common.txt) and invented words of one to four
syllables ("blimat"). Held out for the exam are an eighth of all words that can be invented, by a stable hash, and real
words that no text of the kindergarten uses.
No held-out word occurs anywhere outside the exam.

A word is spelled `b-l-i-m-a-t` because of the tokenizer. Its pattern joins one sign with the letters after it, so every
"-l" is a piece of its own and becomes one token once it is frequent, and no merge crosses a hyphen; only the first
letter is a bare "b".

>>> [message["content"] for message in spelling_lesson(random.Random(4))["messages"]]
['Spell car.', 'The word car is spelled c-a-r.']

Letters are counted with the tool: ' banana'.count('a'). The blank belongs to the word's token, which the model only
copies; behind a quote the word would be other tokens, and must be spelled. Not here: grading (tasks/).
"""

import random
from collections.abc import Callable
from typing import Any
from zlib import crc32

from kindergarten import world
from kindergarten.talk import dialogue, worked

HELD_OUT_WORDS = 8  # one invented word in eight belongs to the exam
REAL = 0.4          # share of the exam's words that are real; the others are invented
# Shares of the words of lessons and drills: the village's, those of common.txt, and spliced of two of these. The
# others are invented.
VILLAGE, COMMON_SHARE, SPLICED = 0.15, 0.30, 0.25
# The letters worth counting. Letters of the word itself come on top; the others are there so that 0 is an answer, too.
COUNTED_LETTERS = "aeilnorst"

# An invented word is an onset and a vowel, one to three times, then a coda. Entries standing twice come up more often.
ONSETS = ("b bl br c ch cl cr d dr f fl fr g gl gr h j k l m n p pl pr qu r s sc sh sl sm sn sp st sw t th tr v w y "
          "z").split()
VOWELS = "a a e e i i o o u u ai ea ee oo ou oa ie ow aw y".split()
CODAS = ["", "", "", *"""b ck d g k l ll m n nd ng nt p r rd rm s ss st t t tch x mp nk lt sk tle ble ge ce er or el on
in et ow zz ff mb""".split()]

# Real words that no text uses; a test looks for them in all texts.
EXAM_WORDS = """almond anchor apron arrow badge balloon banana bandage barrel blanket blossom bottle bracelet branch
cabbage cactus canal cannon chimney cobweb crystal curtain cushion dentist diamond fossil fountain garlic glove
goblet guitar hammer harvest helmet hotel igloo island ivory jacket kettle kitchen ladder lantern lemon locket magnet
mango meadow melon meteor mirror napkin necklace office onion oven paddle parcel peach perfume piano picnic pillow
planet pocket pumpkin quilt radish ribbon saddle sandal saucer sausage scissors shadow shovel silk spinach statue
stomach sunset sweater tablet temple tennis thimble ticket tomato tractor trousers trumpet tulip umbrella vanilla
vinegar violin volcano waiter walnut zipper""".split()

_WORD_LISTS = (
    world.NAMES, world.PET_NAMES, world.COLOURS, world.GARMENTS, world.HOMES, world.FOODS, world.JOBS, world.DAYS,
    world.MONTHS, world.SEASONS, world.NUMBERS, world.SPOTS, world.ANIMALS, world.IRREGULAR.values(),
    world.OPPOSITES.keys(), world.OPPOSITES.values(), world.THINGS.keys(), world.THINGS.values(), world.RELATIONS)
WORLD_WORDS = sorted({word.lower() for words in _WORD_LISTS for word in words if len(word) > 2})
_WORLD, _EXAM = frozenset(WORLD_WORDS), frozenset(EXAM_WORDS)
_ALL_COMMON = frozenset(world.read_text("common.txt").split())


def held_out(word: str) -> bool:
    """Whether only the exam may contain the word.

    >>> held_out("banana"), held_out("apple")
    (True, False)
    """
    return word in _EXAM or word not in _WORLD and crc32(word.encode()) % HELD_OUT_WORDS == 0


# Words of everyday English; an eighth of them is held out like invented words, and only said, never spelled.
COMMON = sorted(word for word in _ALL_COMMON if len(word) > 2 and not held_out(word))


def invented(rng: random.Random, exam: bool = False) -> str:
    """A pronounceable word of 3 to 9 letters, of the lessons or of the exam."""
    # Exam words are longer: a short one could be a word of a story by chance.
    syllables, shortest = ((2, 2, 3), 6) if exam else ((1, 2, 2, 3), 3)
    while True:
        word = "".join(rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(rng.choice(syllables)))
        word += rng.choice(CODAS)
        is_new = word not in _WORLD and word not in _EXAM and word not in _ALL_COMMON
        if shortest <= len(word) <= 9 and is_new and held_out(word) == exam:
            return word


def spliced(rng: random.Random) -> str:
    """The beginning of one English word and the end of another: "pumper", "kitting", "doorlight".

    Words of common.txt are a token each, and a word that no lesson has is several. With these the model learns to copy
    such words piece by piece; invented words have other pieces than English ones.
    """
    while True:
        first, second = rng.choice(COMMON), rng.choice(COMMON)
        word = first + second
        if rng.random() < 0.75:
            word = first[:rng.randint(2, len(first))] + second[rng.randint(1, len(second) - 1):]
        if 4 <= len(word) <= 11 and word not in _WORLD and word not in _ALL_COMMON and not held_out(word):
            return word


SPELL = ("Spell the word {w}.", "How do you spell {w}?", "Please spell {w}.", "Spell {w}.")
# {w} is the word, {c} the letter.
COUNT = ("How many times does the letter {c} appear in {w}?", "How many times does {c} appear in the word {w}?",
         "Count the letter {c} in {w}.", "How often is the letter {c} in {w}?")


# An answer about a word first says the word. Copying it is easy wherever it stands in the question, and then the model
# spells or counts what it has just said, in the words of the base text. Without it, half of the words were spelled
# wrong in visitors' sentences, though the exam's plain sentences gave .92 (docs/LOG.md).

def spelled(word: str) -> str:
    """spelled("cat") == "The word cat is spelled c-a-t."."""
    return f"The word {word} is spelled {'-'.join(word)}."


def counted(word: str, letter: str = "") -> list[dict[str, str]]:
    """How often the letter stands in the word, or how many letters the word has, by the tool."""
    number = word.count(letter) if letter else len(word)
    code = f"' {word}'.count('{letter}')" if letter else f"len(' {word}')-1"
    return worked(code, number, f"#### {number}", before=f"The word {word}: ")


def _spelling(rng: random.Random, word: str) -> dict[str, Any]:
    return {"kind": "spell", "word": word, "question": rng.choice(SPELL).format(w=word), "answer": spelled(word)}


def _counting(rng: random.Random, word: str) -> dict[str, Any]:
    # The count is drawn before the letter, so that a model does not do well by always answering 1.
    letters = COUNTED_LETTERS + word
    count = rng.choice(sorted({word.count(letter) for letter in letters}))
    letter = rng.choice([letter for letter in letters if word.count(letter) == count])
    code = f"' {word}'.count('{letter}')"
    return {"kind": "count", "word": word, "letter": letter, "question": rng.choice(COUNT).format(c=letter, w=word),
            "answer": f"The word {word}: <<{code}={count}>>#### {count}"}


def lesson_word(rng: random.Random, common: float = COMMON_SHARE) -> str:
    """A word of the village, of everyday English (with the chance `common`), a spliced or an invented one."""
    chance = rng.random() - common
    if chance < 0:
        return rng.choice(COMMON)
    if chance < VILLAGE:
        return rng.choice(WORLD_WORDS)
    return spliced(rng) if chance < VILLAGE + SPLICED else invented(rng)


def spelling_lesson(rng: random.Random) -> dict[str, Any]:
    """A conversation: "Spell the word blimat." → "The word blimat is spelled b-l-i-m-a-t."."""
    item = _spelling(rng, lesson_word(rng))
    return dialogue(item["question"], item["answer"])


def counting_lesson(rng: random.Random) -> dict[str, Any]:
    """A conversation: "How many times does the letter a appear in blimat?" → the tool, then "#### 1"."""
    item = _counting(rng, lesson_word(rng))
    return dialogue(item["question"], counted(item["word"], item["letter"]))


def _exam(name: str, make: Callable[[random.Random, str], dict[str, Any]], seed: int, n: int) -> list[dict[str, Any]]:
    rng = random.Random(f"{name} {seed}")
    words = set(rng.sample(EXAM_WORDS, min(round(n * REAL), len(EXAM_WORDS))))
    while len(words) < n:
        words.add(invented(rng, exam=True))
    return [make(rng, word) for word in rng.sample(sorted(words), n)]  # sorted: the order of a set differs by run


def spelling_exam(seed: int, n: int) -> list[dict[str, Any]]:
    """`n` items {"question", "answer", "word", "kind"}, each about another word; the words occur nowhere else."""
    return _exam("spelling", _spelling, seed, n)


def counting_exam(seed: int, n: int) -> list[dict[str, Any]]:
    """`n` items as `spelling_exam`, the answer in GSM8K's form: "The word banana: <<' banana'.count('a')=3>>#### 3"."""
    return _exam("counting", _counting, seed, n)


DRILLS = ("{w}: {sp}", "{W} is spelled {sp}.", "The word {w} is spelled {sp}.", "{sp} spells {w}.",
          "'{w}' is spelled {sp}.", "Spell {w}: {sp}", "{w}, '{w}', {w}", "The word {w}: ' {w}'.count('{c}') is {n}",
          "{w} backwards is {back}.", "{w} starts with {first} and ends with {last}.", "{w} has {length} letters: {sp}")


def drill_text(rng: random.Random) -> str:
    """Base text: eight lines about eight words."""
    # In the drills a word stands at the start of a line, after a space or after a quote: these are different tokens,
    # and a model that has spelled only one of them fails on the others (docs/kindergarten.md).
    lines = []
    for _ in range(8):
        word = lesson_word(rng)
        letter = rng.choice(word)
        lines.append(rng.choice(DRILLS).format(
            w=word, W=world.upper(word), sp="-".join(word), back="-".join(word[::-1]), c=letter, n=word.count(letter),
            first=word[0], last=word[-1], length=len(word)))
    return "\n".join(lines)
