"""Writes the kindergarten to disk, in the formats of real data: parquet shards, conversations, exams.

    text/shard_*.parquet + manifest.json    base text; the last shard is for validation
    chat/<family>.jsonl                     lessons: {"messages": […]}
    kindergarten/<exam>-test.jsonl          exams, held out by construction; problems-train.jsonl is RL's practice

Every file has a generator of its own, seeded by (seed, name), so that a change of one file leaves the others as they
are. The counts are what the laptop's recipe reads in nine minutes of two cores; it sees little more than once.
"""
import random
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from kindergarten import choices, facts, functions, problems, stories, sums, talk, words
from kindergarten.visitors import families, programs, tales, word_problems, zoo
from kindergarten.world import World
from nanochat.data import shards
from nanochat.system import container, files

NUM_SHARDS = 8  # the last one is for validation, as with real data
DOCUMENTS_PER_SHARD = 8192
VALIDATION_DOCUMENTS = 2048
EXAM_ITEMS = 256  # ± .03 at an accuracy of one half
PRACTICE_ITEMS = 8192

# Documents of base text by kind, in hundredths; docs/kindergarten.md says what each kind is for.
TEXT = {"story": 20, "prose": 20, "lookup": 21, "drill": 11, "code": 5, "counting": 8, "zoo": 5, "tale": 4, "said": 5,
        "program": 1}
PRIMER = {"primer": 100}  # the first shard: a model that begins with look-ups learns to look up (choices.primer)

# Lessons by family: how many conversations are written. A mixture takes all of them once unless it names other weights.
LESSONS = {"facts": 21_000, "choice": 9_000, "problems": 18_000, "arithmetic": 1_000, "functions": 3_000,
           "spelling": 13_000, "letters": 4_000, "stories": 500, "talk": 1_500, "chats": 6_000,
           "sums": 10_000, "spell": 26_000, "count": 14_000, "tales": 4_500, "zoo": 11_000, "school": 6_000,
           "programs": 11_000, "choosing": 17_000, "wordproblems": 18_000, "smalltalk": 21_000, "feelings": 9_000,
           "odd": 7_000, "unknown": 9_500, "village": 6_000, "turns": 16_500, "persona": 8_000}


def write_all(data_dir: Path, seed: int = 0, scale: float = 1.0) -> None:
    """Writes all files below `data_dir`. The manifest comes last, so a folder that has it is complete.

    `scale` multiplies every count: .01 makes a folder for a trial.
    """
    parts = [("chat", family) for family in sorted(LESSONS, key=lambda family: -LESSONS[family])]
    parts += [("text", str(number)) for number in range(NUM_SHARDS)] + [("kindergarten", "")]
    write = partial(_write_part, data_dir, seed, scale)
    workers = container.share_of_cores() if scale > 0.2 else 1  # for a trial a second process begins too late
    if workers > 1:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            list(pool.map(write, parts))
    else:
        list(map(write, parts))
    shards.write_manifest(data_dir / "text", [f"shard_{NUM_SHARDS - 1:05d}.parquet"])


def _write_part(data_dir: Path, seed: int, scale: float, part: tuple[str, str]) -> None:
    """One file of a folder, or all exams."""
    def scaled(count: int) -> int:
        return max(8, round(count * scale))  # a file of a trial has something in it, too

    world, (folder, name) = _world(seed), part
    if folder == "text":
        number, rng, makers = int(name), random.Random(f"{seed} shard {name}"), _text_makers(world)
        count = scaled(VALIDATION_DOCUMENTS if number == NUM_SHARDS - 1 else DOCUMENTS_PER_SHARD)
        shares = PRIMER if number == 0 else TEXT
        kinds = rng.choices(list(shares), list(shares.values()), k=count)
        shards.write(data_dir / folder / f"shard_{number:05d}.parquet", [makers[kind](rng) for kind in kinds])
    elif folder == "chat":
        rng, make = random.Random(f"{seed} lessons {name}"), lesson_makers(world)[name]
        files.write_jsonl(data_dir / folder / f"{name}.jsonl", [make(rng) for _ in range(scaled(LESSONS[name]))])
    else:
        for exam, items in _exams(world, seed, scaled(EXAM_ITEMS), scaled(PRACTICE_ITEMS)).items():
            files.write_jsonl(data_dir / folder / f"{exam}.jsonl", items)


_world = lru_cache(maxsize=4)(World)  # a process makes several parts, and questions are listed once for each world


def _text_makers(world: World) -> dict[str, Callable[[random.Random], str]]:
    return {"story": partial(stories.story, world=world), "prose": partial(stories.prose, world=world),
            "primer": partial(choices.primer, world=world), "lookup": partial(choices.lookup, world=world),
            "drill": words.drill_text, "code": functions.code_text, "counting": problems.counting_text,
            "zoo": zoo.page, "tale": tales.page, "program": programs.page, "said": partial(families.said, world=world)}


def lesson_makers(world: World) -> dict[str, Callable[[random.Random], dict[str, Any]]]:
    """Family → the function that makes one conversation of it."""
    single: dict[str, Callable[[random.Random], dict[str, Any]]] = {
        "facts": partial(facts.lesson, world=world), "choice": partial(choices.lesson, world=world),
        "problems": problems.lesson, "arithmetic": sums.lesson, "functions": functions.lesson,
        "spelling": words.spelling_lesson, "letters": words.counting_lesson,
        "stories": partial(talk.story_lesson, world=world), "talk": talk.lesson, **families.makers(world)}
    single = {family: families.unexamined(make) for family, make in single.items()}
    joinable = [family for family in single if family != "persona"]  # a system text can only stand first

    def chat(rng: random.Random) -> dict[str, Any]:
        """Two to four lessons of any family in one conversation."""
        # Without these, spelling fell from .91 to .58 behind three other questions; with them, .84 (docs/LOG.md).
        chosen = rng.choices(joinable, k=rng.choice((2, 3, 3, 4)))
        return talk.join(rng, [single[family](rng) for family in chosen])

    return {**single, "chats": chat}


def practice(seed: int, n: int) -> list[dict[str, Any]]:
    """Problems for RL, half of the village's and half in visitors' words.

    Letters to count do no good here: after them the capital of Portugal was a word to count in (docs/LOG.md).
    """
    rng, make = random.Random(f"practice {seed}"), families.unexamined(word_problems.lesson)
    visitors = [problems.as_practice(make(rng)) for _ in range(n // 2)]
    return rng.sample([*problems.practice(seed, n - n // 2), *visitors], n)


def _exams(world: World, seed: int, num_items: int, num_practice: int) -> dict[str, list[dict[str, Any]]]:
    return {"facts-test": facts.exam(world)[:num_items], "choice-test": choices.exam(world)[:num_items],
            "problems-test": problems.exam(seed, num_items), "problems-train": practice(seed, num_practice),
            "arithmetic-test": sums.exam(seed, num_items), "functions-test": functions.exam(seed, num_items),
            "spelling-test": words.spelling_exam(seed, num_items), "letters-test": words.counting_exam(seed, num_items),
            "greetings-test": talk.exam(seed, num_items)}
