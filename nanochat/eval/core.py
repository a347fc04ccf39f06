"""CORE: the knowledge of a base model, without chat format (Li et al. 2024, DataComp-LM, their "low variance" tasks).

    CORE = mean over 22 tasks of (accuracy − b) / (1 − b)        b: accuracy of a blind guess

`<data>/core_tasks.yaml` names the tasks with their files, numbers of shots, delimiters and b. Every task is about the
continuation of a text; there are three kinds:

    multiple_choice    one context, several continuations: the answer is the one with the lowest mean loss
    schema             several contexts, one continuation: the answer is the context after which its mean loss is lowest
    language_modeling  right if every token of the continuation is the model's most probable token

An item becomes one or more `Row`s, token ids with a span to score. Its rows become one `Tree`, which contains the
shared prefix only one time: 3.7 times fewer tokens in `bench/evaluate.py` (docs/LOG.md). Trees of similar length make a
batch. A mean over fewer tasks or items is not CORE, and its label says so.
"""
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import yaml

from nanochat.eval.over_ranks import gather, my_groups
from nanochat.eval.statistics import centred, mean_and_stderr, mean_centred
from nanochat.model import GPT
from nanochat.system import files
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer

TOKENS_AT_ONCE = {"cpu": 2048}  # tokens in one forward pass: their activations fit into a CPU's cache
MANY_TOKENS = 16_384  # the same on other devices
LOGITS_AT_ONCE = 1 << 26  # numbers in one tensor of logits: 256 MB in fp32
NUM_TASKS = 22  # tasks in DataComp-LM's CORE
Item = dict[str, Any]  # a line of a task's file
Result = dict[str, Any]  # the result of a task, as saved


@dataclass(frozen=True)
class CoreTask:
    """A task of core_tasks.yaml."""

    label: str
    path: Path
    kind: str
    num_shots: int = 0  # examples before each question
    delimiter: str = " "  # between context and continuation
    baseline: float = 0.0  # accuracy of a blind guess


@dataclass(frozen=True)
class Row:
    """Token ids of which ids[start:end] are scored, each given all ids before it."""

    ids: list[int]
    start: int
    end: int


@dataclass(frozen=True)
class Tree:
    """The rows of an item in one sequence: the prefix that all rows share, then the other tokens of each row.

        rows    7 8 1 2        tree    7 8 ┬ 8* 1 2        branch    0 0 ┬ −1 1 1
                7 8 3                      └ 8* 3                        └ −2 2

    A mask lets a token see the prefix and the earlier tokens of its own branch, as in its row. The last token of the
    prefix is repeated before each branch (8*), hidden from all tokens: smear adds the embedding of the preceding token,
    and in the row the token before the branch is this one.
    """

    ids: list[int]
    positions: list[int]  # for each token its position in its row
    branch: list[int]  # for each token: 0 = prefix, n = row n (counted from 1), −n = the repeated token before row n
    spans: list[list[tuple[int, int]]]  # for each row: (index whose logits predict a scored token, this token)


def evaluate(model: GPT, tokenizer: Tokenizer, data_dir: Path, max_per_task: int = -1, *,
             finished: dict[str, Result] | None = None,
             on_task: Callable[[str, Result], None] = lambda label, result: None,
             report: Callable[[int, str, int], None] = lambda number, label, done: None) -> dict[str, Any]:
    """{"label", "value", "stderr", "missing": labels, "tasks": {label: result}}; for a result see `evaluate_task`.

    To resume, pass the `finished` results: they are taken as they are. `on_task` is called with each new result,
    `report` with (finished tasks, label, finished items of that task). UserError if there is no task file at all.
    """
    tasks = read_tasks(data_dir)
    missing = [task.label for task in tasks if not files.beside(task.path).is_file()]
    if len(missing) == len(tasks):
        raise UserError(f"none of the {len(tasks)} CORE files is in {data_dir}; the first would be {tasks[0].path}.gz")
    results = dict(finished or {})
    for number, task in enumerate(tasks):
        if task.label not in missing and task.label not in results:
            results[task.label] = evaluate_task(model, tokenizer, task, files.read_jsonl(task.path), max_per_task,
                                                partial(report, number, task.label))
            on_task(task.label, results[task.label])
    return {**summary(results, max_per_task), "missing": missing, "tasks": results}


def summary(results: dict[str, Result], max_per_task: int = -1) -> dict[str, Any]:
    """The mean centred accuracy with its standard error; the label is "CORE" only for all tasks and items."""
    label = "CORE" if len(results) == NUM_TASKS else f"CORE-{len(results)}"
    if max_per_task > 0:
        label += f" (at most {max_per_task} items a task)"
    value, stderr = mean_centred([(result["accuracy"], result["stderr"], result["baseline"])
                                  for result in results.values()])
    return {"label": label, "value": value, "stderr": stderr}


def read_tasks(data_dir: Path) -> list[CoreTask]:
    """The tasks of `<data>/core_tasks.yaml`. UserError if the file is missing or has another form."""
    path = Path(data_dir) / "core_tasks.yaml"
    try:
        rows = yaml.safe_load(path.read_text(encoding="utf-8"))["icl_tasks"]
        return [CoreTask(row["label"], Path(data_dir) / row["dataset_uri"], row["icl_task_type"], row["num_fewshot"],
                         row.get("continuation_delimiter", " "), row["random_baseline_percent"] / 100) for row in rows]
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; CORE needs it and the files that it names: set NANOCHAT_DATA to their "
                        "folder") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged ({type(error).__name__}: {error}); expected icl_tasks with label, "
                        "dataset_uri, icl_task_type, num_fewshot, random_baseline_percent") from None


def evaluate_task(model: GPT, tokenizer: Tokenizer, task: CoreTask, items: list[Item], max_items: int = -1,
                  report: Callable[[int], None] = lambda done: None) -> Result:
    """{"accuracy", "centred", "baseline", "num_items", "stderr", "cropped", "kind", "shots"} over `max_items`.

    `cropped` counts items longer than the context; their first shots are removed. `report` is called with
    the number of items that all ranks have done.
    """
    items = list(items)
    # Shuffled first, so that the first `max_items` are a random sample. The seeds in this file are karpathy/nanochat's.
    random.Random(1337).shuffle(items)
    chosen = range(min(max_items, len(items)) if max_items > 0 else len(items))
    verdicts: list[tuple[int, bool, bool]] = []
    for group in my_groups(chosen):
        verdicts += judge(model, tokenizer, task, items, group)
        report(group[-1] + 1)
    verdicts = sorted(gather(verdicts))
    accuracy, stderr = mean_and_stderr([right for _, right, _ in verdicts])
    return {"accuracy": accuracy, "centred": centred(accuracy, task.baseline), "baseline": task.baseline,
            "num_items": len(verdicts), "stderr": stderr, "cropped": sum(cropped for _, _, cropped in verdicts),
            "kind": task.kind, "shots": task.num_shots}


def judge(model: GPT, tokenizer: Tokenizer, task: CoreTask, items: list[Item],
          chosen: Sequence[int]) -> Iterator[tuple[int, bool, bool]]:
    """(index, whether the model is right, whether the item was cropped) for each chosen item."""
    whole = [rows_of(tokenizer, task, items, index) for index in chosen]
    fitted = [crop(rows, model.config.sequence_len) for rows in whole]
    scores = score(model, [tree(rows) for rows in fitted])
    for index, rows, uncropped, row_scores in zip(chosen, fitted, whole, scores):
        if task.kind == "language_modeling":
            right = row_scores[0][1]
        else:
            nats = [mean_nats for mean_nats, _ in row_scores]
            right = nats.index(min(nats)) == items[index]["gold"]
        yield index, right, rows != uncropped


def rows_of(tokenizer: Tokenizer, task: CoreTask, items: list[Item], index: int) -> list[Row]:
    """The rows whose losses decide whether item `index` is right."""
    shots, item = head_of(task, items, index), items[index]
    if task.kind == "language_modeling":  # the context ends before the space, which belongs to the continuation
        texts = [shots + _text(task, item), (shots + _text(task, {**item, "continuation": ""})).strip()]
    else:
        options = item["choices" if task.kind == "multiple_choice" else "context_options"]
        texts = [shots + _text(task, {**item, "gold": gold}) for gold in range(len(options))]
    ids = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]
    if task.kind == "schema":  # the contexts differ, and the ending that all rows share is scored
        shared = min(_common([row[::-1] for row in ids]), min(map(len, ids)) - 1)
        return [Row(row, len(row) - shared, len(row)) for row in ids]
    start = _common(ids)
    if task.kind == "language_modeling":  # the second row only shows where the continuation begins
        ids = ids[:1]
    return [Row(row, min(start, len(row) - 1), len(row)) for row in ids]  # at least one token is scored


def head_of(task: CoreTask, items: list[Item], index: int) -> str:
    """The shots before item `index`: drawn from all other items, and the same for every model."""
    others = random.Random(1234 + index).sample(range(len(items) - 1), min(task.num_shots, len(items) - 1))
    return "".join(_text(task, items[other + (other >= index)]) + "\n\n" for other in others)


def _text(task: CoreTask, item: Item) -> str:
    """The text of an item: context and the continuation with the index `gold`."""
    if task.kind == "multiple_choice":
        context, continuation = item["query"], item["choices"][item["gold"]]
    elif task.kind == "schema":
        context, continuation = item["context_options"][item["gold"]], item["continuation"]
    else:
        context, continuation = item["context"].strip(), item["continuation"]
    return f"{context}{task.delimiter}{continuation}"


def _common(rows: list[list[int]]) -> int:
    """The number of tokens in the common prefix of all rows."""
    return next((i for i, tokens in enumerate(zip(*rows)) if len(set(tokens)) > 1), min(map(len, rows)))


def crop(rows: list[Row], room: int) -> list[Row]:
    """Rows of at most `room` tokens: if the longest is too long by n, every row loses the n tokens after <|bos|>, so
    that all choices keep the same context."""
    excess = max(0, max(len(row.ids) for row in rows) - room)
    if not excess:
        return rows
    return [Row(row.ids[:1] + row.ids[excess + 1:], max(row.start - excess, 1), row.end - excess) for row in rows]


def tree(rows: list[Row]) -> Tree:
    """The rows of an item as a Tree.

    >>> tree([Row([7, 8, 1, 2], 2, 4), Row([7, 8, 3], 2, 3)])  # doctest: +NORMALIZE_WHITESPACE
    Tree(ids=[7, 8, 8, 1, 2, 8, 3], positions=[0, 1, 1, 2, 3, 1, 2], branch=[0, 0, -1, 1, 1, -2, 2],
         spans=[[(1, 1), (3, 2)], [(1, 3)]])
    """
    shared = _common([row.ids for row in rows])
    assert shared, "all rows begin with <|bos|>"
    ids, positions, branch, spans = rows[0].ids[:shared], list(range(shared)), [0] * shared, []
    for number, row in enumerate(rows, 1):
        shift = len(ids) + 1 - shared  # index in the tree minus index in the row, for tokens after the prefix
        spans.append([(at - 1 if at <= shared else at - 1 + shift, row.ids[at]) for at in range(row.start, row.end)])
        if num_tokens := len(row.ids) - shared:
            ids = ids + row.ids[shared - 1:]
            positions = positions + list(range(shared - 1, len(row.ids)))
            branch = branch + [-number] + [number] * num_tokens
    return Tree(ids, positions, branch, spans)


@torch.inference_mode()
def score(model: GPT, trees: list[Tree]) -> list[list[tuple[float, bool]]]:
    """For each row of each tree: (mean nats of its span, whether every token was the model's most probable one)."""
    device = next(model.parameters()).device
    scores: list[list[tuple[float, bool]]] = [[]] * len(trees)
    for batch in _batches(trees, TOKENS_AT_ONCE.get(device.type, MANY_TOKENS)):
        places = [(b, *place) for b, i in enumerate(batch) for span in trees[i].spans for place in span]
        row, column, targets = torch.tensor(places, device=device).unbind(1)  # (M,): all scored tokens
        hidden = _hidden(model, [trees[i] for i in batch], device)[row, column]  # (M, C)
        nats: list[float] = []
        first: list[bool] = []
        rows_at_once = max(1, LOGITS_AT_ONCE // model.config.vocab_size)
        for h, target in zip(torch.split(hidden, rows_at_once), torch.split(targets, rows_at_once)):
            logits = model.logits(h)  # (rows_at_once, V)
            nats += F.cross_entropy(logits, target, reduction="none").tolist()
            first += (logits.argmax(-1) == target).tolist()
        start = 0  # index of a tree's first token in `nats` and `first`
        for i in batch:
            ends = list(accumulate((len(span) for span in trees[i].spans), initial=start))
            scores[i] = [(sum(nats[a:b]) / (b - a), all(first[a:b])) for a, b in pairwise(ends)]
            start = ends[-1]
    return scores


def _hidden(model: GPT, trees: list[Tree], device: torch.device) -> torch.Tensor:
    """The final hidden states (B, T, C) of the trees, padded on the right, where no token looks."""
    ids = _padded([t.ids for t in trees], 0, device)  # (B, T)
    if all(len(t.spans) == 1 for t in trees):  # nothing branches: plain causal attention, which is fastest
        return model.hidden(ids)
    branch = _padded([t.branch for t in trees], 1 << 30, device)
    # Only tokens after the shortest prefix need the mask; the tokens before attend causally, in half the time.
    causal = min(t.branch.count(0) for t in trees)
    seen = (branch.unsqueeze(1) == 0) | (branch.unsqueeze(1) == branch[:, causal:].unsqueeze(2))  # prefix, same branch
    return model.hidden(ids, positions=_padded([t.positions for t in trees], 0, device),
                        mask=seen.tril(causal).unsqueeze(1))  # (B, 1, T − causal, T)


def _padded(rows: list[list[int]], fill: int, device: torch.device) -> torch.Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [fill] * (width - len(row)) for row in rows], device=device)


def _batches(trees: list[Tree], tokens_at_once: int) -> Iterator[list[int]]:
    """Indices of trees of similar length, the longest first: if a batch does not fit in memory, the first one fails."""
    batch: list[int] = []
    for i in sorted(range(len(trees)), key=lambda i: -len(trees[i].ids)):
        if batch and (len(batch) + 1) * len(trees[batch[0]].ids) > tokens_at_once:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
