"""Writes the kindergarten to disk, as if it were real data: parquet shards, conversations, exams.

    text/shard_*.parquet + manifest.json    base text; the last shard is for validation
    chat/<family>.jsonl                     lessons: {"messages": […]}
    kindergarten/<exam>-test.jsonl          exams, held out by construction; problems-train.jsonl is RL's practice

Every file has its own generator seeded by (seed, name), so changing one leaves the others as they are. The counts are
what runs/laptop.sh reads in 9 minutes of two cores; nothing is seen much more than once.
"""
import random
from collections.abc import Callable
from pathlib import Path

from kindergarten import choices, facts, functions, problems, stories, talk, words
from kindergarten.world import World
from nanochat.data import shards
from nanochat.system import files

NUM_SHARDS = 8  # the last is for validation
DOCUMENTS_PER_SHARD = 8192
VALIDATION_DOCUMENTS = 2048
EXAM_ITEMS = 256
PRACTICE_ITEMS = 8192

# Documents of base text by kind, in parts of 100: what each is for stands in docs/kindergarten.md.
TEXT = {"story": 28, "prose": 20, "lookup": 26, "drill": 10, "code": 6, "counting": 10}
PRIMER = {"primer": 100}  # the first shard: see choices.primer

# Lessons by family: how many conversations are written; mixtures take them in these proportions unless told otherwise.
LESSONS = {"facts": 26_000, "choice": 22_000, "problems": 40_000, "arithmetic": 2_000, "functions": 3_000,
           "spelling": 30_000, "letters": 13_000, "stories": 1_500, "talk": 2_000, "chats": 8_000}


def write_all(data_dir: Path, seed: int = 0, scale: float = 1.0) -> None:
    """Makes all files below `data_dir`; the manifest comes last, so a folder that has it is complete.

    `scale`: that part of every count, for trials.
    """
    def part(count: int) -> int:
        return max(8, round(count * scale))

    world = World(seed)
    makers = _text_makers(world)
    for number in range(NUM_SHARDS):
        last = number == NUM_SHARDS - 1
        rng = random.Random(f"{seed} shard {number}")
        count = VALIDATION_DOCUMENTS if last else DOCUMENTS_PER_SHARD
        kinds = PRIMER if number == 0 else TEXT
        shards.write(data_dir / "text" / f"shard_{number:05d}.parquet", _documents(rng, makers, kinds, part(count)))
    for family, make in _lesson_makers(world).items():
        rng = random.Random(f"{seed} lessons {family}")
        files.write_jsonl(data_dir / "chat" / f"{family}.jsonl", [make(rng) for _ in range(part(LESSONS[family]))])
    for name, items in _exams(world, seed, part(EXAM_ITEMS), part(PRACTICE_ITEMS)).items():
        files.write_jsonl(data_dir / "kindergarten" / f"{name}.jsonl", items)
    shards.write_manifest(data_dir / "text", [f"shard_{NUM_SHARDS - 1:05d}.parquet"])


def _text_makers(world: World) -> dict[str, Callable[[random.Random], str]]:
    return {"story": lambda rng: stories.story(rng, world), "prose": lambda rng: stories.prose(rng, world),
            "primer": lambda rng: choices.primer(rng, world), "lookup": lambda rng: choices.lookup(rng, world),
            "drill": words.text, "code": functions.text, "counting": problems.counting_text}


def _documents(rng: random.Random, makers: dict[str, Callable[[random.Random], str]], kinds: dict[str, int],
               count: int) -> list[str]:
    return [makers[kind](rng) for kind in rng.choices(list(kinds), list(kinds.values()), k=count)]


def _lesson_makers(world: World) -> dict[str, Callable[[random.Random], dict]]:
    single = {"facts": lambda rng: facts.lesson(rng, world), "choice": lambda rng: choices.lesson(rng, world),
            "problems": problems.lesson, "arithmetic": problems.arithmetic_lesson, "functions": functions.lessons,
            "spelling": words.spelling_lesson, "letters": words.counting_lesson,
            "stories": lambda rng: talk.tale(rng, world), "talk": talk.lessons}

    def chat(rng: random.Random) -> dict:
        """Two to four lessons of any family in one conversation: what stands far above must not confuse."""
        families = rng.choices(list(single), k=rng.choice((2, 3, 3, 4)))
        return talk.join(rng, [single[family](rng) for family in families])

    return {**single, "chats": chat}


def _exams(world: World, seed: int, num_items: int, num_practice: int) -> dict[str, list[dict]]:
    return {"facts-test": facts.exam(world)[:num_items], "choice-test": choices.exam(world)[:num_items],
            "problems-test": problems.exam(seed, num_items), "problems-train": problems.practice(seed, num_practice),
            "arithmetic-test": problems.arithmetic_exam(seed, num_items),
            "functions-test": functions.exam(seed, num_items),
            "spelling-test": words.spelling_exam(seed, num_items), "letters-test": words.counting_exam(seed, num_items),
            "greetings-test": talk.exam(seed, num_items)}
