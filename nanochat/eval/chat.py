"""The exams: a task's questions in the chat format, answered by the model, judged by the task.

Categorical tasks cost one forward pass: the answer is that of the letters on offer which has the largest logit after
`<|assistant_start|>`. Prompts are batched by length and padded on the right, where causal attention never looks.
Generative tasks are answered by the engine, greedily unless told otherwise, and graded from the text. Ranks share the
items and the verdicts are gathered; the score does not depend on the number of ranks.

Not here: what is asked and what is right (tasks/), tables and files of scores (scripts/chat_eval.py).
"""
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path
from typing import Any

import torch

from nanochat.eval.over_ranks import gathered, grouped, mean_and_stderr, my_groups, my_part
from nanochat.system import files, log
from nanochat.system.files import UserError
from nanochat.tokenizer import chat
from tasks import Task

CHAT_CORE = ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval")
Report = Callable[[int, int], None]  # called with (this rank's items done, items of all ranks)


@dataclass(frozen=True)
class Score:
    """Accuracy over `num_items` with its standard error, and what else the answers tell (see `_extra`)."""

    accuracy: float
    num_items: int
    stderr: float
    chance: float
    extra: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {"accuracy": self.accuracy, "num_items": self.num_items, "stderr": self.stderr, "chance": self.chance,
                **self.extra}


def evaluate(task: Task, engine, max_items: int = -1, *, split: str = "test", data_dir: Path | None = None,
             batch_size: int = 32, samples: int = 1, temperature: float = 0.0, top_k: int | None = None, seed: int = 0,
             max_tokens: int | None = None, save_to: Path | None = None,
             report: Report = lambda done, total: None) -> Score:
    """How `engine.model` does on all items of a task, or on `max_items` drawn at random, the same for every model.

    With `samples` > 1 every question is answered that often (give a temperature): accuracy is the mean over them,
    extra["pass_at"][k] the chance that one of k answers is right (Chen et al. 2021, equation 1), extra["pass_at_k"]
    that of all. `max_tokens` of an answer: None = as the task says. `save_to` gets a JSON line per answer.
    """
    items = task.load(split, data_dir)
    if not items:
        raise UserError(f"{task.path(split, data_dir)} holds no items for task {task.name}; make or fetch it again")
    chosen = list(range(len(items)))
    if 0 < max_items < len(items):
        chosen = sorted(random.Random(1337).sample(chosen, max_items))
    sampling = {"samples": samples, "temperature": temperature, "top_k": top_k, "seed": seed,
                "max_tokens": max_tokens or task.max_tokens}
    records, done = [], 0
    by_letter = task.kind == "categorical"
    # in words: more at once than the engine runs at once, so that finished ones are replaced
    for group in my_groups(chosen) if by_letter else grouped(my_part(chosen), 4 * engine.max_rows):
        numbered = [(index, items[index]) for index in group]
        records += (_answer_by_letter(task, numbered, engine, batch_size) if by_letter else
                    _answer_in_words(task, numbered, engine, sampling))
        done += len(group)
        report(done, len(chosen))
    records = sorted(gathered(records), key=lambda record: record["item"])
    if save_to and log.is_main():
        files.write_jsonl(save_to, records)
    return _score(task, records)


def chat_core(scores: dict[str, dict]) -> tuple[float, float] | None:
    """ChatCORE of scores as `as_dict` gives them: the mean of (accuracy − chance) / (1 − chance) over five tasks, and
    its standard error.

    None unless all of CHAT_CORE are there.
    """
    if not set(CHAT_CORE) <= set(scores):
        return None
    parts = [scores[name] for name in CHAT_CORE]
    errors = [part["stderr"] / (1 - part["chance"]) for part in parts]
    return (sum((part["accuracy"] - part["chance"]) / (1 - part["chance"]) for part in parts) / len(parts),
            sum(error ** 2 for error in errors) ** 0.5 / len(errors))


@torch.inference_mode()
def _answer_by_letter(task: Task, numbered: Sequence[tuple[int, dict]], engine, batch_size: int) -> Iterator[dict]:
    model, tokenizer = engine.model, engine.tokenizer
    device, room = next(model.parameters()).device, model.config.sequence_len
    prompts = [chat.render_prompt(tokenizer, task.conversation(item)) for _, item in numbered]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for first in range(0, len(order), batch_size):
        batch = order[first:first + batch_size]
        rows = [prompts[i][-room:] for i in batch]  # a prompt that is too long loses its beginning
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=device)  # (B, T)
        last = torch.tensor([len(row) - 1 for row in rows], device=device)
        hidden = model.hidden(ids)[torch.arange(len(rows), device=device), last]  # (B, C)
        for i, logits in zip(batch, model.logits(hidden).cpu()):  # (V,)
            index, item = numbered[i]
            letters = task.letters(item)
            best = logits[[_single_id(tokenizer, letter) for letter in letters]].argmax().item()
            yield _record(task, index, item, letters[best], too_long=len(prompts[i]) > room)


def _single_id(tokenizer, letter: str) -> int:
    ids = tokenizer.encode(letter)
    assert len(ids) == 1, f"letter {letter!r} is {len(ids)} tokens; a byte-level tokenizer has one for it"
    return ids[0]


def _answer_in_words(task: Task, numbered: Sequence[tuple[int, dict]], engine,
                     sampling: dict[str, Any]) -> Iterator[dict]:
    room = engine.model.config.sequence_len
    prompts = [chat.render_prompt(engine.tokenizer, task.conversation(item)) for _, item in numbered]
    for (index, item), prompt, completions in zip(numbered, prompts, engine.generate(prompts, **sampling)):
        for one in completions:
            yield _record(task, index, item, one.text, too_long=len(prompt) >= room, tool_calls=one.tool_calls,
                          stop_reason=one.stop_reason)


def _record(task: Task, index: int, item: dict, completion: str, **facts: Any) -> dict:
    """One answer and its verdict, as it is saved."""
    question, answer = task.conversation(item)["messages"]
    group = item.get("subject") or item.get("kind") or ""
    return {"item": index, "group": group, "prompt": question["content"], "answer": answer["content"],
            "completion": completion, "correct": task.grade(item, completion), **facts}


def _score(task: Task, records: list[dict]) -> Score:
    verdicts: dict[int, list[bool]] = {}
    for record in records:
        verdicts.setdefault(record["item"], []).append(record["correct"])
    accuracy, stderr = mean_and_stderr([sum(own) / len(own) for own in verdicts.values()])
    extra = _extra(task, records)
    if len(records) > len(verdicts):
        samples = len(records) // len(verdicts)
        extra["pass_at"] = {k: mean_and_stderr([1 - comb(samples - sum(own), k) / comb(samples, k)
                                                for own in verdicts.values()])[0]
                            for k in sorted({2 ** power for power in range(samples.bit_length())} | {samples})}
        extra["pass_at_k"] = extra["pass_at"][samples]
    return Score(accuracy, len(verdicts), stderr, task.chance, extra)


def _extra(task: Task, records: list[dict]) -> dict[str, Any]:
    """tool_use: part of the answers that called the tool; accuracy_with_tool: the right ones among those (None: none).

    too_long: answers to prompts that did not fit the context. groups: {subject or kind: [accuracy, answers]}.
    """
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
        extra["groups"] = {name: [sum(own) / len(own), len(own)] for name, own in sorted(groups.items())}
    return extra
