"""The exams: a task's questions in the chat format, answered by the model, graded by the task.

A categorical question costs one forward pass: the answer is the offered letter with the largest logit after
`<|assistant_start|>`. A generative question is answered in words by the engine, greedily unless told otherwise.
Ranks share the items and gather the verdicts, so the score does not depend on the number of ranks.

Not here: what is asked and what is right (tasks/), tables and files of scores (scripts/chat_eval.py).
"""
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from math import comb
from pathlib import Path
from typing import Any

import torch

from nanochat.eval.over_ranks import gather, grouped, my_groups, my_share
from nanochat.eval.statistics import mean_and_stderr, mean_centred
from nanochat.infer import Engine
from nanochat.system import files, log
from nanochat.system.files import UserError
from nanochat.tokenizer import chat
from tasks import Task
from tasks.common import MultipleChoice

CHAT_CORE = ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval")
Item = dict[str, Any]  # a task's item, as on disk
Record = dict[str, Any]  # an answer and its verdict, as on disk


@dataclass(frozen=True)
class ExamSettings:
    """How an exam is taken."""

    batch_size: int = 32  # of categorical questions; the engine has its own
    samples: int = 1  # answers to each question; more than one gives pass@k, and needs a temperature
    temperature: float = 0.0  # 0 = greedy
    top_k: int | None = None
    seed: int = 0
    max_tokens: int | None = None  # of an answer; None = as the task says


DEFAULTS = ExamSettings()


@dataclass(frozen=True)
class Score:
    """Accuracy over `num_items` with its standard error, and what else the answers tell (see `_extra`)."""

    accuracy: float
    num_items: int
    stderr: float
    chance: float
    extra: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        fields = asdict(self)
        extra: dict[str, Any] = fields.pop("extra")
        return fields | extra


def evaluate(task: Task, engine: Engine, max_items: int = -1, settings: ExamSettings = DEFAULTS,
             save_to: Path | None = None, report: Callable[[int], None] = lambda done: None) -> Score:
    """The score of `engine.model` on all test items, or on `max_items` drawn at random, the same for every model.

    With several samples the accuracy is their mean, and extra["pass_at"][k] the chance that one of k answers is right
    (Chen et al. 2021, equation 1). `save_to` gets a JSON line per answer. `report` is called with the number of items
    that this rank has done.
    """
    items: list[Item] = task.load("test")
    if not items:
        raise UserError(f"{task.path('test')} holds no items for task {task.name}; make or fetch it again")
    chosen = list(range(len(items)))
    if 0 < max_items < len(items):
        chosen = sorted(random.Random(1337).sample(chosen, max_items))
    records: list[Record] = []
    num_done = 0
    by_letter = task.kind == "categorical"
    # In words: four times as many questions as the engine has slots, so that a finished answer is replaced at once.
    for group in my_groups(chosen) if by_letter else grouped(my_share(chosen), 4 * engine.max_rows):
        numbered = [(index, items[index]) for index in group]
        if by_letter:
            records += _answer_by_letter(task, numbered, engine, settings.batch_size)
        else:
            records += _answer_in_words(task, numbered, engine, settings)
        num_done += len(group)
        report(num_done)
    records = sorted(gather(records), key=lambda record: record["item"])
    if save_to and log.is_main():
        files.write_jsonl(save_to, records)
    return _score(task, records)


def chat_core(scores: dict[str, dict[str, Any]]) -> tuple[float, float] | None:
    """ChatCORE and its standard error: the mean centred accuracy of five tasks, from scores as `as_dict` gives them.
    None unless all of CHAT_CORE are there."""
    if not set(CHAT_CORE) <= set(scores):
        return None
    return mean_centred([(scores[name]["accuracy"], scores[name]["stderr"], scores[name]["chance"])
                         for name in CHAT_CORE])


@torch.inference_mode()
def _answer_by_letter(task: Task, numbered: Sequence[tuple[int, Item]], engine: Engine,
                      batch_size: int) -> Iterator[Record]:
    assert isinstance(task, MultipleChoice), f"{task.name} offers no letters"
    model, tokenizer = engine.model, engine.tokenizer
    device, room = next(model.parameters()).device, model.config.sequence_len
    prompts = [chat.render_prompt(tokenizer, task.conversation(item)) for _, item in numbered]
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # rows of like lengths need little padding
    for batch in grouped(by_length, batch_size):
        rows = [prompts[i][-room:] for i in batch]  # a prompt that is too long loses its beginning
        width = max(map(len, rows))
        # Padded on the right, where causal attention of the tokens in front never looks.
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)  # (B, T)
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        hidden = model.hidden(ids)[torch.arange(len(rows), device=device), last]  # (B, C)
        for i, logits in zip(batch, model.logits(hidden).cpu()):  # (V,)
            index, item = numbered[i]
            letters = task.letters(item)
            letter_ids = [tokenizer.encode(letter)[0] for letter in letters]  # a byte is always one token
            best = int(logits[letter_ids].argmax())
            yield _record(task, index, item, letters[best], too_long=len(prompts[i]) > room)


def _answer_in_words(task: Task, numbered: Sequence[tuple[int, Item]], engine: Engine,
                     settings: ExamSettings) -> Iterator[Record]:
    room = engine.model.config.sequence_len
    prompts = [chat.render_prompt(engine.tokenizer, task.conversation(item)) for _, item in numbered]
    answers = engine.generate(prompts, max_tokens=settings.max_tokens or task.max_tokens, samples=settings.samples,
                              temperature=settings.temperature, top_k=settings.top_k, seed=settings.seed)
    for (index, item), prompt, completions in zip(numbered, prompts, answers):
        for completion in completions:
            yield _record(task, index, item, completion.text, too_long=len(prompt) >= room,
                          tool_calls=completion.tool_calls, stop_reason=completion.stop_reason)


def _record(task: Task, index: int, item: Item, completion: str, **facts: Any) -> Record:
    """An answer and its verdict, as it is saved."""
    question, answer = task.conversation(item)["messages"]
    group = item.get("subject") or item.get("kind") or ""
    return {"item": index, "group": group, "prompt": question["content"], "answer": answer["content"],
            "completion": completion, "correct": task.grade(item, completion), **facts}


def _score(task: Task, records: list[Record]) -> Score:
    verdicts: dict[int, list[bool]] = {}
    for record in records:
        verdicts.setdefault(record["item"], []).append(record["correct"])
    accuracy, stderr = mean_and_stderr([sum(samples) / len(samples) for samples in verdicts.values()])
    extra = _extra(task, records)
    num_samples = len(records) // len(verdicts)
    if num_samples > 1:
        powers_of_two = {2**power for power in range(num_samples.bit_length())}
        extra["pass_at"] = {k: _pass_at(k, list(verdicts.values())) for k in sorted(powers_of_two | {num_samples})}
        extra["pass_at_k"] = extra["pass_at"][num_samples]
    return Score(accuracy, len(verdicts), stderr, task.chance, extra)


def _pass_at(k: int, verdicts: list[list[bool]]) -> float:
    """The mean chance that one of k answers is right, drawn without replacement from a question's n answers."""
    chances = [1 - comb(len(samples) - sum(samples), k) / comb(len(samples), k) for samples in verdicts]
    return mean_and_stderr(chances)[0]


def _extra(task: Task, records: list[Record]) -> dict[str, Any]:
    """tool_use: share of the answers that called the tool; accuracy_with_tool: share of these that are right (None:
    there are none). too_long: answers to prompts that did not fit the context. groups: {subject or kind: [accuracy,
    answers]}."""
    extra: dict[str, Any] = {}
    if task.uses_tool:
        with_tool = [record["correct"] for record in records if record["tool_calls"]]
        extra["tool_use"] = len(with_tool) / len(records)
        extra["accuracy_with_tool"] = sum(with_tool) / len(with_tool) if with_tool else None
    if too_long := sum(record["too_long"] for record in records):
        extra["too_long"] = too_long
    groups: dict[str, list[bool]] = {}
    for record in records:
        groups.setdefault(record["group"], []).append(record["correct"])
    if len(groups) > 1:
        extra["groups"] = {name: [sum(right) / len(right), len(right)] for name, right in sorted(groups.items())}
    return extra
