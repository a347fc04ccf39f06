"""The exams: a task's questions in the chat format, answered by the model, judged by the task.

Categorical tasks cost one forward pass: of the logits after `<|assistant_start|>`, the largest among the letters on offer is
the answer. Prompts are batched by length and padded on the right, where causal attention never looks. Generative tasks are
answered by the engine, greedily unless told otherwise, and graded from the text. Every rank takes every N-th item; the verdicts
are gathered, so the score does not depend on the number of ranks.

Not here: what is asked and what is right (tasks/), tables and files of scores (scripts/chat_eval.py).
"""
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from nanochat.system import files, log
from nanochat.system.files import UserError
from nanochat.tokenizer import chat
from tasks import Task

CHAT_CORE = ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval")
Report = Callable[[int, int], None]  # called with (items done, items in all) of this rank


@dataclass(frozen=True)
class Score:
    """Accuracy over `num_items` with its standard error, and what else the task tells (see `_extra`)."""

    accuracy: float
    num_items: int
    stderr: float
    chance: float
    extra: dict[str, Any]

    @property
    def centred(self) -> float:
        """0 at chance, 1 when all is right."""
        return (self.accuracy - self.chance) / (1 - self.chance)

    def as_dict(self) -> dict[str, Any]:
        return {"accuracy": self.accuracy, "num_items": self.num_items, "stderr": self.stderr, "chance": self.chance,
                **self.extra}


def evaluate(task: Task, engine, max_items: int = -1, *, split: str = "test", data_dir: Path | None = None,
             batch_size: int = 32, samples: int = 1, temperature: float = 0.0, top_k: int | None = None, seed: int = 0,
             save_to: Path | None = None, report: Report = lambda done, total: None) -> Score:
    """The score of `engine.model` on a task: all items, or a fixed random `max_items` of them (the same for every model).

    With `samples` > 1 every question is answered that often (give a temperature): accuracy is then the mean, and
    `extra["pass_at_k"]` the part of the questions with at least one right answer. `save_to` gets a JSON line per answer.
    """
    items = task.load(split, data_dir)
    chosen = range(len(items))
    if 0 < max_items < len(items):
        chosen = sorted(random.Random(1337).sample(chosen, max_items))
    if not chosen:
        raise UserError(f"task {task.name} has no items in {task.path(split, data_dir)}; make the file again")
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    mine = [(number, items[number]) for number in chosen[rank::world_size]]
    if task.kind == "categorical":
        records = _answer_by_letter(task, mine, engine, batch_size, report)
    else:
        records = _answer_in_words(task, mine, engine, report, samples=samples, temperature=temperature, top_k=top_k,
                                   seed=seed)
    records = sorted(_gathered(list(records), world_size), key=lambda record: record["item"])
    if save_to and log.is_main():
        files.write_jsonl(save_to, records)
    return _score(task, records)


def chat_core(scores: dict[str, Score]) -> float | None:
    """ChatCORE: mean centred accuracy over ARC-Easy, ARC-Challenge, MMLU, GSM8K and HumanEval; None unless all are there."""
    if not set(CHAT_CORE) <= set(scores):
        return None
    return sum(scores[name].centred for name in CHAT_CORE) / len(CHAT_CORE)


@torch.inference_mode()
def _answer_by_letter(task: Task, numbered: Sequence[tuple[int, dict]], engine, batch_size: int,
                      report: Report) -> Iterator[dict]:
    model, tokenizer = engine.model, engine.tokenizer
    device, room = next(model.parameters()).device, model.config.sequence_len
    prompts = [chat.render_prompt(tokenizer, task.conversation(item)) for _, item in numbered]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for first in range(0, len(order), batch_size):
        batch = order[first:first + batch_size]
        rows = [prompts[i][-room:] for i in batch]  # a prompt too long loses its beginning
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)  # (B, T)
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        hidden = model.hidden(ids)[torch.arange(len(rows), device=device), last]  # (B, C)
        logits = model.logits(hidden).cpu()  # (B, V)
        for i, row in zip(batch, logits):
            number, item = numbered[i]
            letters = task.letters(item)
            best = row[[_single_id(tokenizer, letter) for letter in letters]].argmax().item()
            yield _record(task, number, item, letters[best], fits=len(prompts[i]) <= room)
        report(first + len(batch), len(order))


def _single_id(tokenizer, letter: str) -> int:
    ids = tokenizer.encode(letter)
    assert len(ids) == 1, f"letter {letter!r} is {len(ids)} tokens; a byte-level tokenizer has one for it"
    return ids[0]


def _answer_in_words(task: Task, numbered: Sequence[tuple[int, dict]], engine, report: Report,
                     **sampling: Any) -> Iterator[dict]:
    room = engine.model.config.sequence_len
    at_once = 4 * engine.max_rows  # enough for finished rows to be replaced, little enough to see progress
    for first in range(0, len(numbered), at_once):
        part = numbered[first:first + at_once]
        prompts = [chat.render_prompt(engine.tokenizer, task.conversation(item)) for _, item in part]
        answers = engine.generate(prompts, max_tokens=task.max_tokens, **sampling)
        for (number, item), prompt, completions in zip(part, prompts, answers):
            for completion in completions:
                yield _record(task, number, item, completion.text, fits=len(prompt) < room,
                              tool_calls=completion.tool_calls, stop_reason=completion.stop_reason)
        report(first + len(part), len(numbered))


def _record(task: Task, number: int, item: dict, completion: str, **facts: Any) -> dict:
    """One answer and its verdict, as it is saved."""
    question, answer = task.conversation(item)["messages"]
    group = item.get("subject") or item.get("kind")
    return {"item": number, "prompt": question["content"], "answer": answer["content"], "completion": completion,
            "correct": task.grade(item, completion), **({"group": group} if group else {}), **facts}


def _gathered(records: list[dict], world_size: int) -> list[dict]:
    """The records of all ranks."""
    if world_size == 1:
        return records
    parts: list[list[dict]] = [[] for _ in range(world_size)]
    dist.all_gather_object(parts, records)
    return [record for part in parts for record in part]


def _score(task: Task, records: list[dict]) -> Score:
    by_item: dict[int, list[bool]] = {}
    for record in records:
        by_item.setdefault(record["item"], []).append(record["correct"])
    accuracy, stderr = mean_and_stderr([_mean(verdicts) for verdicts in by_item.values()])
    extra = _extra(task, records)
    if len(records) > len(by_item):
        extra["pass_at_k"] = _mean([any(verdicts) for verdicts in by_item.values()])
    return Score(accuracy, len(by_item), stderr, task.chance, extra)


def _extra(task: Task, records: list[dict]) -> dict[str, Any]:
    """tool_use: part of the answers that called the tool; accuracy_with_tool: of those, the part that is right (None: none).

    too_long: prompts that did not fit the context, when there are any. groups: accuracy and number by subject or kind.
    """
    extra: dict[str, Any] = {}
    if task.uses_tool:
        with_tool = [record["correct"] for record in records if record["tool_calls"]]
        extra["tool_use"] = len(with_tool) / len(records)
        extra["accuracy_with_tool"] = _mean(with_tool) if with_tool else None
    if too_long := sum(not record["fits"] for record in records):
        extra["too_long"] = too_long
    groups: dict[str, list[bool]] = {}
    for record in records:
        if "group" in record:
            groups.setdefault(record["group"], []).append(record["correct"])
    if groups:
        extra["groups"] = {name: [_mean(verdicts), len(verdicts)] for name, verdicts in sorted(groups.items())}
    return extra


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error; of verdicts p that is √(p(1−p)/n).

    >>> mean_and_stderr([1, 0, 0, 1])
    (0.5, 0.25)
    """
    mean = _mean(values)
    return mean, math.sqrt(_mean([(value - mean) ** 2 for value in values]) / len(values))
