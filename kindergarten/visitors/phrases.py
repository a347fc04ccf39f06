"""Sentences of visitors, composed from parts, and the voices in which people type them.

The .txt files of this folder hold frames under headings, one frame a line (an indented line goes on with the line
before it). `[a|b|]` becomes one of its alternatives, `<name>` one frame below the heading `<name>` of fragments.txt,
and `{slot}` is filled by the lesson:

    # spelling
    [how [do|would] [you|i] spell|<can> spell] {w}  →  "how would i spell feather", "could you spell feather"

So a hundred lines make many thousands of frames. A frame is held out by a stable hash of its words: one frame in ten
occurs in no lesson, and a test can ask exactly these. `say` then gives the frame a voice: most people write plain
sentences, some write without capitals and full stops, on a phone ("pls", "u"), with slips of the fingers, in capitals,
or surround a request with chatter (voices.txt).

>>> frames = read("asks.txt")
>>> say(random.Random(2), frames["spelling"], w="feather")
'how is the word feather written'
"""

import random
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from zlib import crc32

from kindergarten.words import COMMON

HELD_OUT_FRAMES = 10  # one frame in ten
# Shares of the voices. What is left is written as the frame has it, with a capital first letter.
LOWER, PHONE, SHOUTED, TYPO = 0.36, 0.12, 0.05, 0.09
LOOSE = 0.15  # of the frames lose, gain or exchange a word or two
OPENED, CLOSED = 0.30, 0.17  # how many requests have chatter in front of them, and behind them
Node = str | list["list[Node]"]  # a piece of text, or alternatives, each a list of pieces


def read_lines(name: str) -> list[str]:
    """The lines of one of this folder's files. An indented line goes on with the line before it."""
    text = (Path(__file__).parent / name).read_text(encoding="ascii")
    return re.sub(r"\n +", " ", re.sub(r"\|\n +", "|", text)).splitlines()


def read_sections(name: str) -> dict[str, list[str]]:
    """The lines of one of this folder's files by the heading ("# name") above them."""
    sections: dict[str, list[str]] = {}
    for line in read_lines(name):
        if line.startswith("# "):
            current = sections.setdefault(line[2:], [])
        elif line:
            current.append(line)
    return sections


@lru_cache(maxsize=1)
def _fragments() -> dict[str, list[Node]]:
    return {name: [[parse(line) for line in lines]] for name, lines in read_sections("fragments.txt").items()}


def parse(text: str) -> list[Node]:
    """The pieces of a frame: parse("[a|b] {w}") == [[["a"], ["b"]], " {w}"]."""
    alternatives: list[list[Node]] = [[]]
    stack: list[list[list[Node]]] = []
    for token in re.findall(r"<[a-z]+>|[\[\]|]|<|[^\[\]|<]+", text):
        if token == "[":
            stack.append(alternatives)
            alternatives = [[]]
        elif token == "]":
            closed, alternatives = alternatives, stack.pop()
            alternatives[-1].append(closed)
        elif token == "|":
            assert stack, f"a bar outside brackets: {text!r}"
            alternatives.append([])
        else:
            alternatives[-1].append(token)
    assert not stack, f"a bracket is open: {text!r}"
    return alternatives[0]


def read(name: str) -> dict[str, list[list[Node]]]:
    """The frames of a file by heading, ready for `say`."""
    return {heading: [parse(line) for line in lines] for heading, lines in read_sections(name).items()}


def expand(rng: random.Random, frame: Sequence[Node]) -> str:
    """The frame with one alternative in every place and the slots as they are."""
    parts = []
    for node in frame:
        if isinstance(node, list):
            parts.append(expand(rng, rng.choice(node)))
        elif node[0] == "<" and node[-1] == ">":
            parts += [expand(rng, alternatives) for alternatives in [rng.choice(_fragments()[node[1:-1]][0])]]
        else:
            parts.append(node)
    return "".join(parts)


def held_out(frame: str) -> bool:
    """Whether no lesson may use the frame: capitals, marks and spaces do not matter."""
    return crc32(" ".join(re.findall(r"[a-z{}]+", frame.lower())).encode()) % HELD_OUT_FRAMES == 0


def fingerprint(text: str) -> str:
    """A hash of what is asked, whatever its capitals, marks and blanks.

    examined.txt has those of the questions that strangers wrote for their exam (tasks/strangers.py): no lesson may ask
    one of them, and nobody who writes lessons needs to read them for that.
    """
    return f"{crc32((' '.join(re.findall('[a-z0-9]+', text.lower())) or text.strip()).encode()):08x}"


def draw(rng: random.Random, frames: Sequence[Sequence[Node]], exam: bool = False) -> str:
    """One frame, of the lessons or of the tenth that is held out."""
    for _ in range(500):
        frame = " ".join(expand(rng, rng.choice(frames)).split())
        if held_out(frame) == exam:
            return frame
    raise ValueError(f"all frames belong to {'the lessons' if exam else 'the exam'}: {frames!r:.100}")


def say(rng: random.Random, frames: Sequence[Sequence[Node]], exam: bool = False, chatter: float = 1.0,
        **slots: object) -> str:
    """What a visitor types: a frame with its slots, in some voice. `chatter` scales how often it stands in chatter."""
    return voice(rng, draw(rng, frames, exam), chatter, **slots)


def voice(rng: random.Random, frame: str, chatter: float = 1.0, **slots: object) -> str:
    """The frame as somebody would type it; only the frame gets slips of the fingers, never what a slot says."""
    if frame[-1].isalnum() or frame[-1] in "}\"'":
        asks = re.match("how|wh|can|could|is|do|are|will|would", frame.lower())
        frame += rng.choice(("?", "?", ".") if asks else (".", ".", "!", ""))
    if rng.random() < OPENED * chatter:
        frame = _chatter(rng, "openers") + " " + rng.choice((frame, upper(frame)))
    if rng.random() < CLOSED * chatter:
        frame += " " + _chatter(rng, "closers")
    style = rng.random()
    if rng.random() < LOOSE:
        frame = _loosened(rng, frame)
    if rng.random() < TYPO:
        frame = _slip(rng, frame)
    if style < PHONE:
        frame = _on_the_phone(rng, frame)
    text = upper(frame).format_map(slots) if slots else upper(frame)
    if style < LOWER:
        text = text.lower()
        if rng.random() < 0.6:
            text = re.sub(r"[.?!]+$", rng.choice(("", "", "", " pls", "??")), text)
        return text.replace("'", "") if rng.random() < 0.4 and "'{" not in frame else text
    return text.upper() if style > 1 - SHOUTED else text


def _chatter(rng: random.Random, kind: str) -> str:
    """What stands around a request. {any} is any word of English, so that the model learns to pass over such words."""
    words = expand(rng, rng.choice(_voices()[kind]))
    return re.sub(r"\{any\}", lambda match: rng.choice(COMMON), words)


_SMALL_WORDS = frozenset("a an the of to is are do does it me my you please for in that this and i can so have".split())


def _loosened(rng: random.Random, frame: str) -> str:
    """The frame less tidy: synonyms, a filler, a small word left out. No frame of ours is exactly what others say."""
    words = frame.split(" ")
    places = [i for i, word in enumerate(words) if "{" not in word]
    for i in rng.sample(places, min(len(places), rng.choice((1, 1, 2, 3)))):
        core = words[i].strip(".,!?:;").lower()
        chance = rng.random()
        if core in (synonyms := _table("synonyms")) and chance < 0.7:
            words[i] = words[i].lower().replace(core, rng.choice(synonyms[core]))
        elif core in _SMALL_WORDS and chance < 0.5 and len(words) > 3:
            words[i] = ""
        elif chance < 0.75 and len(words) > 2 and i:
            words[i] = f"{expand(rng, _voices()['fillers'][0])} {words[i]}"
    return " ".join(filter(None, words)) or frame


def as_typed(words: str, text: str) -> str:
    """as_typed("Tom", "hi im tom") == "tom": a reply says a visitor's words as he typed them, which is only copying."""
    place = re.search(rf"\b{re.escape(words)}(?='?s?\b)", text, re.IGNORECASE)
    return place[0] if place else words


def upper(text: str) -> str:
    return text[:1].upper() + text[1:]


@lru_cache(maxsize=1)
def _voices() -> dict[str, list[list[Node]]]:
    return read("voices.txt")


@lru_cache(maxsize=2)
def _table(heading: str) -> dict[str, list[str]]:
    """Words and what may stand for them: a line of voices.txt is "your: ur, your"."""
    pairs = [line.split(": ") for line in read_sections("voices.txt")[heading]]
    return {words: short.split(", ") for words, short in pairs}


def _on_the_phone(rng: random.Random, frame: str) -> str:
    """With some of the shortenings of voices.txt: "what is your name" → "whats ur name"."""
    for words, short in _table("phone").items():
        if rng.random() < 0.7:
            frame = re.sub(rf"(?<!{{)\b{words}\b(?!}})", rng.choice(short), frame, flags=re.IGNORECASE)
    return frame


def _slip(rng: random.Random, frame: str) -> str:
    """One longer word with two letters swapped, a letter left out or a letter doubled."""
    places = [match for match in re.finditer(r"(?<![{\w])[a-z]{4,}(?![}\w])", frame)]
    if not places:
        return frame
    place = rng.choice(places)
    word, at = place[0], rng.randrange(1, len(place[0]) - 1)
    slipped = rng.choice((word[:at] + word[at + 1] + word[at] + word[at + 2:], word[:at] + word[at + 1:],
                          word[:at] + word[at] + word[at:]))
    return frame[:place.start()] + slipped + frame[place.end():]
