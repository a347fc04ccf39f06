"""CORE: what a base model knows, without any chat format (Li et al. 2024, DataComp-LM, their "low variance" tasks).

    CORE = mean over 22 tasks of (accuracy − b) / (1 − b)        b: accuracy of a blind guess

`<data>/core_tasks.yaml` names tasks, files, shots, delimiters and b. Three kinds, all continuation of text:

    multiple_choice    one context, several continuations: the answer is the one with the lowest mean loss
    schema             several contexts, one continuation: the answer is the context after which its mean loss is lowest
    language_modeling  right when every token of the continuation is the model's first choice

An item becomes one or a few `Row`s (ids and the span to score), and these one `Tree`, in which what they share stands
once. Trees are batched by length and padded on the right. The batches do not depend on the number of ranks, so neither
do the scores. A mean over fewer tasks or items is not CORE, and its label says so.
"""
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml

from nanochat.eval.share import gathered, mean_and_stderr, my_groups
from nanochat.system import files
from nanochat.system.files import UserError

TOKENS_AT_ONCE = {"cpu": 2048}  # in one forward pass: on a CPU, activations that stay in its cache
MANY_TOKENS = 16_384  # elsewhere
LOGITS_AT_ONCE = 1 << 26  # fp32: 256 MB
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


@dataclass(frozen=True)
class Tree:
    """The rows of an item as one: the tokens they share, then each row's own, which see the shared ones and each other.

    Before a row's own tokens the last shared one stands again, seen by nobody: smear looks at the left neighbour.
    """

    ids: list[int]
    positions: list[int]  # of each token in its row
    branch: list[int]  # 0 = shared, 1, 2, … = a row's own, negative = the repeated token
    spans: list[list[tuple[int, int]]]  # for each row (where a scored token is predicted, that token)


def evaluate(model, tokenizer, data_dir: Path, max_per_task: int = -1, *, finished: dict[str, dict] | None = None,
             on_task: Callable[[str, dict], None] = lambda label, result: None,
             report: Callable[[int, str, int], None] = lambda number, label, done: None) -> dict[str, Any]:
    """{"label", "value", "stderr", "missing": labels, "tasks": {label: result}}; results as `evaluate_task` gives them.

    `finished` results are taken as they are (to resume); `on_task` hears each new one, `report` how many tasks are done
    and how many items of the present one. UserError without any task file.
    """
    tasks = read_tasks(data_dir)
    missing = [task.label for task in tasks if not files.beside(task.path).is_file()]
    if len(missing) == len(tasks):
        raise UserError(f"none of the {len(tasks)} CORE files is in {data_dir}; the first would be {tasks[0].path}.gz")
    results = dict(finished or {})
    for number, task in enumerate(tasks):
        if task.label not in missing and task.label not in results:
            results[task.label] = evaluate_task(model, tokenizer, task, files.read_jsonl(task.path), max_per_task,
                                                lambda done, number=number, task=task: report(number, task.label, done))
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


def evaluate_task(model, tokenizer, task: CoreTask, items: list[dict], max_items: int = -1,
                  report: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
    """{"accuracy", "centred", "baseline", "num_items", "stderr", "cropped", "kind", "shots"} over `max_items`.

    `cropped` counts items longer than the context; they lose their beginning, so shots first. `report` hears how many
    items are done, of all ranks.
    """
    items = list(items)
    random.Random(1337).shuffle(items)  # before the cut, so that a part is a sample of the whole
    chosen = range(min(max_items, len(items)) if max_items > 0 else len(items))
    verdicts: list[tuple[int, bool, bool]] = []
    for group in my_groups(chosen):
        verdicts += _judge(model, tokenizer, task, items, group)
        report(group[-1] + 1)
    verdicts = sorted(gathered(verdicts))
    accuracy, stderr = mean_and_stderr([right for _, right, _ in verdicts])
    return {"accuracy": accuracy, "centred": (accuracy - task.baseline) / (1 - task.baseline),
            "baseline": task.baseline, "num_items": len(verdicts), "stderr": stderr,
            "cropped": sum(cropped for _, _, cropped in verdicts), "kind": task.kind, "shots": task.num_shots}


def _judge(model, tokenizer, task: CoreTask, items: list[dict],
           chosen: Sequence[int]) -> Iterator[tuple[int, bool, bool]]:
    """(index, right, cropped) for each chosen item."""
    whole = [rows_of(tokenizer, task, items, index) for index in chosen]
    fitted = [crop(rows, model.config.sequence_len) for rows in whole]
    for index, rows, full, scores in zip(chosen, fitted, whole, score(model, [tree(rows) for rows in fitted])):
        nats = [mean for mean, _ in scores]
        right = scores[0][1] if task.kind == "language_modeling" else nats.index(min(nats)) == items[index]["gold"]
        yield index, right, rows != full


def rows_of(tokenizer, task: CoreTask, items: list[dict], index: int) -> list[Row]:
    """The rows that decide item `index`."""
    head, item = head_of(task, items, index), items[index]
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


def head_of(task: CoreTask, items: list[dict], index: int) -> str:
    """What stands before item `index`: its shots, drawn from all other items, the same ones for every model."""
    others = random.Random(1234 + index).sample(range(len(items) - 1), min(task.num_shots, len(items) - 1))
    return "".join(_text(task, items[other + (other >= index)]) + "\n\n" for other in others)


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


def crop(rows: list[Row], room: int) -> list[Row]:
    """All rows without what is too much for the longest, taken away right behind <|bos|>."""
    cut = max(0, max(len(row.ids) for row in rows) - room)
    if not cut:
        return rows
    return [Row(row.ids[:1] + row.ids[cut + 1:], max(row.start - cut, 1), row.end - cut) for row in rows]


def tree(rows: list[Row]) -> Tree:
    """An item's rows in one.

    >>> tree([Row([7, 8, 1, 2], 2, 4), Row([7, 8, 3], 2, 3)])  # doctest: +NORMALIZE_WHITESPACE
    Tree(ids=[7, 8, 8, 1, 2, 8, 3], positions=[0, 1, 1, 2, 3, 1, 2], branch=[0, 0, -1, 1, 1, -2, 2],
         spans=[[(1, 1), (3, 2)], [(1, 3)]])
    """
    shared = _common([row.ids for row in rows])
    assert shared, "all rows begin with <|bos|>"
    ids, positions, branch, spans = rows[0].ids[:shared], list(range(shared)), [0] * shared, []
    for number, row in enumerate(rows, 1):
        shift = len(ids) + 1 - shared  # of a row's own tokens
        spans.append([(at - 1 if at <= shared else at - 1 + shift, row.ids[at]) for at in range(row.start, row.end)])
        if own := len(row.ids) - shared:
            ids, positions = ids + row.ids[shared - 1:], positions + list(range(shared - 1, len(row.ids)))
            branch = branch + [-number] + [number] * own
    return Tree(ids, positions, branch, spans)


@torch.inference_mode()
def score(model, trees: list[Tree]) -> list[list[tuple[float, bool]]]:
    """For each row of each tree the mean nats of its span, and whether each token was the model's first choice."""
    device = next(model.parameters()).device
    scores: list[list[tuple[float, bool]]] = [[]] * len(trees)
    for batch in _batches(trees, TOKENS_AT_ONCE.get(device.type, MANY_TOKENS)):
        places = [(b, *place) for b, i in enumerate(batch) for span in trees[i].spans for place in span]
        row, column, targets = torch.tensor(places, device=device).unbind(1)  # (M,): all scored tokens
        hidden = _hidden(model, [trees[i] for i in batch], device)[row, column]  # (M, C)
        nats: list[float] = []
        first: list[bool] = []
        at_once = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
        for part, wanted in zip(hidden.split(at_once), targets.split(at_once)):
            logits = model.logits(part)
            nats += F.cross_entropy(logits, wanted, reduction="none").tolist()
            first += (logits.argmax(-1) == wanted).tolist()
        at = 0
        for i in batch:
            ends = list(accumulate((len(span) for span in trees[i].spans), initial=at))
            scores[i] = [(sum(nats[a:b]) / (b - a), all(first[a:b])) for a, b in pairwise(ends)]
            at = ends[-1]
    return scores


def _hidden(model, trees: list[Tree], device: torch.device) -> torch.Tensor:
    """The last layer (B, T, C). Where nothing branches it is an ordinary pass, for which attention is fastest."""
    width = max(len(one.ids) for one in trees)
    padded = lambda values, fill: torch.tensor([own + [fill] * (width - len(own)) for own in values],  # noqa: E731
                                               device=device)
    ids = padded([one.ids for one in trees], 0)  # (B, T)
    if all(len(one.spans) == 1 for one in trees):
        return model.hidden(ids)
    branch = padded([one.branch for one in trees], 1 << 30)
    causal = min(one.branch.count(0) for one in trees)  # so many are shared in every tree; attention is fastest there
    seen = (branch.unsqueeze(1) == 0) | (branch.unsqueeze(1) == branch[:, causal:].unsqueeze(2))  # shared, or its own
    return model.hidden(ids, positions=padded([one.positions for one in trees], 0),
                        mask=seen.tril(causal).unsqueeze(1))  # (B, 1, T − causal, T)


def _batches(trees: list[Tree], tokens_at_once: int) -> Iterator[list[int]]:
    """Indices of trees of similar length, longest first: what does not fit in memory fails at once."""
    batch: list[int] = []
    for i in sorted(range(len(trees)), key=lambda i: -len(trees[i].ids)):
        if batch and (len(batch) + 1) * len(trees[batch[0]].ids) > tokens_at_once:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
