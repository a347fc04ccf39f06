"""CORE: what a base model knows, without any chat format (Li et al. 2024, DataComp-LM, "low variance" set).

    CORE = mean over 22 tasks of (accuracy − b) / (1 − b)        b: accuracy of a blind guess

`<data>/core_tasks.yaml` names tasks, files, shots, delimiters and b. Three kinds, all zero- or few-shot text continuation:

    multiple_choice    one context, several continuations: the one with the lowest mean loss is the answer
    schema             several contexts, one continuation: the context after which its mean loss is lowest
    language_modeling  right when every token of the continuation is the model's first choice

An item becomes one or a few `Row`s (ids and the span to be scored); rows are batched by length, padded on the right. A mean over
fewer tasks or items than all of them is not CORE, and its label says so. Verdicts are gathered over ranks.
"""
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
import yaml

from nanochat.eval.chat import mean_and_stderr
from nanochat.system import files
from nanochat.system.files import UserError

TOKENS_AT_ONCE = 16_384  # in one forward pass
ITEMS_AT_ONCE = 512  # rendered before they are sorted by length
NUM_TASKS = 22


@dataclass(frozen=True)
class CoreTask:
    """One line of core_tasks.yaml."""

    label: str
    path: Path
    kind: str
    num_shots: int
    delimiter: str
    baseline: float


@dataclass(frozen=True)
class Row:
    """Token ids of which ids[start:end] are scored, given all before."""

    ids: list[int]
    start: int
    end: int


def evaluate(model, tokenizer, data_dir: Path, max_per_task: int = -1, *, finished: dict[str, dict] | None = None,
             on_task: Callable[[str, dict], None] = lambda label, result: None) -> dict[str, Any]:
    """{"label", "value", "stderr", "missing": [labels], "tasks": {label: result}}; a result is as `evaluate_task` gives it.

    `finished` results are taken as they are (to resume); `on_task` is told each new one. UserError without any task file.
    """
    tasks = read_tasks(data_dir)
    missing = [task.label for task in tasks if not _there(task.path)]
    if len(missing) == len(tasks):
        raise UserError(f"none of the {len(tasks)} CORE files is in {data_dir}; expected for example {tasks[0].path}.gz")
    results = dict(finished or {})
    for task in tasks:
        if task.label in missing or task.label in results:
            continue
        results[task.label] = evaluate_task(model, tokenizer, task, files.read_jsonl(task.path), max_per_task)
        on_task(task.label, results[task.label])
    return {**summary(results, max_per_task), "missing": missing, "tasks": results}


def summary(results: dict[str, dict], max_per_task: int = -1) -> dict[str, Any]:
    """The mean centred accuracy, its standard error from those of the tasks, and a label that claims no more than it is."""
    label = "CORE" if len(results) == NUM_TASKS else f"CORE-{len(results)}"
    if max_per_task > 0:
        label += f" (at most {max_per_task} items a task)"
    errors = [result["stderr"] / (1 - result["baseline"]) for result in results.values()]
    return {"label": label, "value": sum(result["centred"] for result in results.values()) / len(results),
            "stderr": sum(error ** 2 for error in errors) ** 0.5 / len(errors)}


def read_tasks(data_dir: Path) -> list[CoreTask]:
    """The tasks of `<data>/core_tasks.yaml`. UserError when it is missing or not of that form."""
    path = Path(data_dir) / "core_tasks.yaml"
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))["icl_tasks"]
        return [CoreTask(row["label"], Path(data_dir) / row["dataset_uri"], row["icl_task_type"], row["num_fewshot"],
                         row.get("continuation_delimiter", " "), row["random_baseline_percent"] / 100) for row in rows]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: CORE needs it and the files it names; choose their folder with --data") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); expected icl_tasks with label, dataset_uri, …") from None


def evaluate_task(model, tokenizer, task: CoreTask, items: list[dict], max_items: int = -1) -> dict[str, Any]:
    """{"accuracy", "centred", "baseline", "num_items", "stderr", "cropped", "kind", "shots"}; shuffled, then cut to `max_items`.

    `cropped` counts items whose prompt was longer than the context; they lose its beginning.
    """
    random.Random(1337).shuffle(items)
    count = min(max_items, len(items)) if max_items > 0 else len(items)
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    mine = range(rank, count, world_size)
    verdicts: list[tuple[bool, bool]] = []
    for first in range(0, len(mine), ITEMS_AT_ONCE):
        verdicts += _judge(model, tokenizer, task, items, mine[first:first + ITEMS_AT_ONCE])
    if world_size > 1:
        parts: list[list] = [[] for _ in range(world_size)]
        dist.all_gather_object(parts, verdicts)
        verdicts = [verdict for part in parts for verdict in part]
    accuracy, stderr = mean_and_stderr([right for right, _ in verdicts])
    return {"accuracy": accuracy, "centred": (accuracy - task.baseline) / (1 - task.baseline), "baseline": task.baseline,
            "num_items": len(verdicts), "stderr": stderr, "cropped": sum(cropped for _, cropped in verdicts),
            "kind": task.kind, "shots": task.num_shots}


def _judge(model, tokenizer, task: CoreTask, items: list[dict], chosen: Sequence[int]) -> Iterator[tuple[bool, bool]]:
    """(right, cropped) for each of the chosen items."""
    rendered = [rows_of(tokenizer, task, items, index) for index in chosen]
    fitted = [[_crop(row, model.config.sequence_len) for row in rows] for rows in rendered]
    scores = iter(_scores(model, [row for rows in fitted for row in rows]))
    for index, rows, whole in zip(chosen, fitted, rendered):
        own = [next(scores) for _ in rows]
        if task.kind == "language_modeling":
            right = own[0][1]
        else:
            losses = [loss for loss, _ in own]
            right = losses.index(min(losses)) == items[index]["gold"]
        yield right, any(len(row.ids) < len(full.ids) for row, full in zip(rows, whole))


def rows_of(tokenizer, task: CoreTask, items: list[dict], index: int) -> list[Row]:
    """The rows that decide item `index`. Shots are drawn from the other items, the same for every model."""
    others = random.Random(1234 + index).sample(range(len(items) - 1), min(task.num_shots, len(items) - 1))
    shots = [_text(task, items[other + (other >= index)]) + "\n\n" for other in others]
    head, item = "".join(shots), items[index]
    if task.kind == "multiple_choice":
        texts = [head + _text(task, {**item, "gold": gold}) for gold in range(len(item["choices"]))]
    elif task.kind == "schema":
        texts = [head + _text(task, {**item, "gold": gold}) for gold in range(len(item["context_options"]))]
    else:  # the context without the space before the continuation, which belongs to its first token
        texts = [head + _text(task, item), (head + _text(task, {**item, "continuation": ""})).strip()]
    ids = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]
    shortest = min(map(len, ids))
    if task.kind == "schema":
        same = min(_common([row[::-1] for row in ids]), shortest - 1)
        return [Row(row, len(row) - same, len(row)) for row in ids]
    start = min(_common(ids), len(ids[0]) - 1 if task.kind == "language_modeling" else shortest - 1)
    return [Row(row, start, len(row)) for row in (ids[:1] if task.kind == "language_modeling" else ids)]


def _text(task: CoreTask, item: dict) -> str:
    """An item with its right continuation (the one `gold` names)."""
    if task.kind == "multiple_choice":
        return item["query"] + task.delimiter + item["choices"][item["gold"]]
    if task.kind == "schema":
        return item["context_options"][item["gold"]] + task.delimiter + item["continuation"]
    return item["context"].strip() + task.delimiter + item["continuation"]


def _common(rows: list[list[int]]) -> int:
    """How many first tokens all rows share."""
    return next((i for i, tokens in enumerate(zip(*rows)) if len(set(tokens)) > 1), min(map(len, rows)))


def _crop(row: Row, room: int) -> Row:
    """The last `room` tokens; the first of them can't be scored, as nothing stands before it."""
    cut = max(0, len(row.ids) - room)
    return Row(row.ids[cut:], max(row.start - cut, 1), row.end - cut)


@torch.inference_mode()
def _scores(model, rows: list[Row]) -> list[tuple[float, bool]]:
    """For each row the mean nats of its span, and whether each token of it was the model's first choice."""
    device = next(model.parameters()).device
    scores: list[tuple[float, bool]] = [(0.0, False)] * len(rows)
    for batch in _batches(rows):
        width = max(len(rows[i].ids) for i in batch)
        ids = torch.tensor([rows[i].ids + [0] * (width - len(rows[i].ids)) for i in batch], device=device)  # (B, T)
        spans = [(b, at) for b, i in enumerate(batch) for at in range(rows[i].start, rows[i].end)]
        row, column = torch.tensor(spans, device=device).unbind(1)  # (M,): the M scored tokens
        logits, targets = model.logits(model.hidden(ids)[row, column - 1]), ids[row, column]  # (M, V), (M,)
        nats, first = F.cross_entropy(logits, targets, reduction="none"), logits.argmax(-1) == targets
        for b, i in enumerate(batch):
            own = row == b
            scores[i] = nats[own].mean().item(), bool(first[own].all())
    return scores


def _batches(rows: list[Row]) -> Iterator[list[int]]:
    """Indices of rows of similar length, longest first (what does not fit in memory fails at once)."""
    batch: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: -len(rows[i].ids)):
        if batch and (len(batch) + 1) * len(rows[batch[0]].ids) > TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
