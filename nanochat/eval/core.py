"""CORE: what a base model knows, without any chat format (Li et al. 2024, DataComp-LM, their "low variance" tasks).

    CORE = mean over 22 tasks of (accuracy − b) / (1 − b)        b: accuracy of a blind guess

`<data>/core_tasks.yaml` names tasks, files, shots, delimiters and b. Three kinds, all continuation of text:

    multiple_choice    one context, several continuations: the answer is the one with the lowest mean loss
    schema             several contexts, one continuation: the answer is the context after which its mean loss is lowest
    language_modeling  right when every token of the continuation is the model's first choice

An item becomes one or a few `Row`s (ids and the span to score); rows are batched by length and padded on the right.
Every rank takes every N-th item. A mean over fewer tasks or items is not CORE, and its label says so.
"""
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml

from nanochat.eval.share import gathered, mean_and_stderr, my_part
from nanochat.system import files
from nanochat.system.files import UserError

TOKENS_AT_ONCE = 16_384  # in one forward pass
ITEMS_AT_ONCE = 512  # rendered before they are sorted by length
NUM_TASKS = 22


@dataclass(frozen=True)
class CoreTask:
    """One task of core_tasks.yaml."""

    label: str
    path: Path
    kind: str
    num_shots: int = 0
    delimiter: str = " "
    baseline: float = 0.0


@dataclass(frozen=True)
class Row:
    """Token ids of which ids[start:end] are scored, given all before them."""

    ids: list[int]
    start: int
    end: int


def evaluate(model, tokenizer, data_dir: Path, max_per_task: int = -1, *, finished: dict[str, dict] | None = None,
             on_task: Callable[[str, dict], None] = lambda label, result: None) -> dict[str, Any]:
    """{"label", "value", "stderr", "missing": labels, "tasks": {label: result}}; results as `evaluate_task` gives them.

    `finished` results are taken as they are (to resume); `on_task` hears each new one. UserError without any task file.
    """
    tasks = read_tasks(data_dir)
    missing = [task.label for task in tasks if not any(Path(f"{task.path}{end}").is_file() for end in ("", ".gz"))]
    if len(missing) == len(tasks):
        raise UserError(f"none of the {len(tasks)} CORE files is in {data_dir}; the first would be {tasks[0].path}.gz")
    results = dict(finished or {})
    for task in tasks:
        if task.label not in missing and task.label not in results:
            results[task.label] = evaluate_task(model, tokenizer, task, files.read_jsonl(task.path), max_per_task)
            on_task(task.label, results[task.label])
    return {**summary(results, max_per_task), "missing": missing, "tasks": results}


def summary(results: dict[str, dict], max_per_task: int = -1) -> dict[str, Any]:
    """The mean centred accuracy with its standard error, under a label that claims no more than it is."""
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
        raise UserError(f"{path} does not exist; CORE needs it and the files it names: choose their folder with --data "
                        "(NANOCHAT_DATA)") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); expected icl_tasks with label, "
                        "dataset_uri, icl_task_type, num_fewshot, random_baseline_percent") from None


def evaluate_task(model, tokenizer, task: CoreTask, items: list[dict], max_items: int = -1) -> dict[str, Any]:
    """{"accuracy", "centred", "baseline", "num_items", "stderr", "cropped", "kind", "shots"} over `max_items`.

    `cropped` counts items longer than the context; they lose their beginning, so shots first.
    """
    items = list(items)
    random.Random(1337).shuffle(items)  # before the cut, so that a part is a sample of the whole
    chosen = my_part(range(min(max_items, len(items)) if max_items > 0 else len(items)))
    verdicts: list[tuple[int, bool, bool]] = []
    for first in range(0, len(chosen), ITEMS_AT_ONCE):
        verdicts += _judge(model, tokenizer, task, items, chosen[first:first + ITEMS_AT_ONCE])
    verdicts = sorted(gathered(verdicts))
    accuracy, stderr = mean_and_stderr([right for _, right, _ in verdicts])
    return {"accuracy": accuracy, "centred": (accuracy - task.baseline) / (1 - task.baseline),
            "baseline": task.baseline, "num_items": len(verdicts), "stderr": stderr,
            "cropped": sum(cropped for _, _, cropped in verdicts), "kind": task.kind, "shots": task.num_shots}


def _judge(model, tokenizer, task: CoreTask, items: list[dict],
           chosen: Sequence[int]) -> Iterator[tuple[int, bool, bool]]:
    """(index, right, cropped) for each chosen item."""
    whole = [rows_of(tokenizer, task, items, index) for index in chosen]
    fitted = [[_crop(row, model.config.sequence_len) for row in rows] for rows in whole]
    scores = iter(_scores(model, [row for rows in fitted for row in rows]))
    for index, rows, full in zip(chosen, fitted, whole):
        own = [next(scores) for _ in rows]
        losses = [loss for loss, _ in own]
        right = own[0][1] if task.kind == "language_modeling" else losses.index(min(losses)) == items[index]["gold"]
        yield index, right, rows != full


def rows_of(tokenizer, task: CoreTask, items: list[dict], index: int) -> list[Row]:
    """The rows that decide item `index`. Its shots are drawn from all other items, the same ones for every model."""
    others = random.Random(1234 + index).sample(range(len(items) - 1), min(task.num_shots, len(items) - 1))
    head = "".join(_text(task, items[other + (other >= index)]) + "\n\n" for other in others)
    item = items[index]
    if task.kind == "language_modeling":  # the context ends before the space, which belongs to the continuation
        texts = [head + _text(task, item), (head + _text(task, {**item, "continuation": ""})).strip()]
    else:
        options = item["choices" if task.kind == "multiple_choice" else "context_options"]
        texts = [head + _text(task, {**item, "gold": gold}) for gold in range(len(options))]
    ids = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]
    if task.kind == "schema":
        same = min(_common([row[::-1] for row in ids]), min(map(len, ids)) - 1)
        return [Row(row, len(row) - same, len(row)) for row in ids]
    ids, start = (ids[:1] if task.kind == "language_modeling" else ids), _common(ids)
    return [Row(row, min(start, len(row) - 1), len(row)) for row in ids]  # at least one token is scored


def _text(task: CoreTask, item: dict) -> str:
    """An item with the continuation that its `gold` names."""
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
    """For each row the mean nats of its span, and whether each of its tokens was the model's first choice."""
    device = next(model.parameters()).device
    scores: list[tuple[float, bool]] = [(0.0, False)] * len(rows)
    for batch in _batches(rows):
        width = max(len(rows[i].ids) for i in batch)
        ids = torch.tensor([rows[i].ids + [0] * (width - len(rows[i].ids)) for i in batch], device=device)  # (B, T)
        spans = [(b, at) for b, i in enumerate(batch) for at in range(rows[i].start, rows[i].end)]
        row, column = torch.tensor(spans, device=device).unbind(1)  # (M,): all scored tokens
        logits, targets = model.logits(model.hidden(ids)[row, column - 1]), ids[row, column]  # (M, V), (M,)
        nats = F.cross_entropy(logits, targets, reduction="none").tolist()
        first = (logits.argmax(-1) == targets).tolist()
        at = 0
        for i in batch:
            end = at + rows[i].end - rows[i].start
            scores[i] = sum(nats[at:end]) / (end - at), all(first[at:end])
            at = end
    return scores


def _batches(rows: list[Row]) -> Iterator[list[int]]:
    """Indices of rows of similar length, longest first: what does not fit in memory fails at once."""
    batch: list[int] = []
    for i in sorted(range(len(rows)), key=lambda i: -len(rows[i].ids)):
        if batch and (len(batch) + 1) * len(rows[batch[0]].ids) > TOKENS_AT_ONCE:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
