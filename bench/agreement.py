"""The same prompts, the same weights, two programs: ours and lm-evaluation-harness with transformers, item by item.

    NANOCHAT_BASE_DIR=out NANOCHAT_DATA=../data python bench/agreement.py --tag=d4 --items=500

Needs `pip install -e ".[peers]"` and a checkpoint of `base_train --portable`. For every item: the choice with the
largest summed log-likelihood, from the two texts, which each program cuts into tokens itself (lm-eval's `acc`); and
CORE's choice, by the mean over the tokens that choices do not share. LAMBADA: whether every token is the first choice.
Every difference is printed with its cause. docs/evaluation.md has the figures.
"""
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from nanochat.eval import core  # noqa: E402
from nanochat.system import cli, files, paths  # noqa: E402
from nanochat.system.cli import flag  # noqa: E402
from nanochat.train import checkpoint  # noqa: E402

TASKS = ("arc_easy", "arc_challenge", "hellaswag_zeroshot", "piqa", "lambada_openai")
TIE_NATS = 1e-3  # two programs round differently: choices closer than this may go either way


def main() -> None:
    args = cli.parse(
        None, __doc__, source=flag("base", "which stage's model", choices=paths.STAGES),
        tag=flag("", "default: the deepest"), items=flag(500, "of each task; −1 = all", at_least=1),
        shots=flag(0, "examples before each question", at_least=0), threads=flag(1, at_least=1),
        tasks=flag("|".join(TASKS), "labels of core_tasks.yaml, joined by |"), batch_size=flag(16, at_least=1))
    torch.set_num_threads(args.threads)
    model, tokenizer, info = checkpoint.load_model(args.source, args.tag)
    theirs = harness(model.eval(), info["path"], args.batch_size)
    known = {task.label: task for task in core.read_tasks(paths.data_dir())}
    print(f"{info['path']}: {sum(p.numel() for p in model.parameters()):,} parameters, {args.shots} shots")
    print("| task | items | too long | same by sum | same by CORE's mean | largest difference, nats |")
    print("|---|---:|---:|---:|---:|---:|")
    explained = []
    for label in args.tasks.split("|"):
        items = files.read_jsonl(known[label].path)
        task = core.CoreTask(label, known[label].path, known[label].kind, args.shots, known[label].delimiter)
        chosen = range(len(items) if args.items < 0 else min(args.items, len(items)))
        found = compare(model, tokenizer, theirs, task, items, chosen)
        explained += [f"{label} {line}" for line in found.explained]
        same = [f"{part / found.items:.2%}" for part in (found.same_sum, found.same_mean)]
        cells = [label, f"{found.items:,}", f"{found.too_long:,}", *same, f"{found.largest:.1e}"]
        print(f"| {' | '.join(cells)} |", flush=True)
    print("\n".join(explained) or "no difference to explain")


def harness(model, path: str, batch_size: int = 16):
    """lm-eval's transformers backend on the folder of a portable checkpoint and the tokenizer beside it."""
    import transformers
    from lm_eval.models.huggingface import HFLM
    peer = transformers.AutoModelForCausalLM.from_pretrained(path)  # fails unless portable
    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(paths.tokenizer_dir())
    return HFLM(pretrained=peer.eval(), tokenizer=tokenizer, device="cpu", batch_size=batch_size,
                max_length=model.config.sequence_len, add_bos_token=False)


def compare(model, tokenizer, theirs, task: core.CoreTask, items: list[dict], chosen) -> SimpleNamespace:
    """items, same_sum, same_mean, largest (nats), explained: a line for every item on which the programs differ.

    Items longer than the context are `too_long`: the programs cut them in different ways, or refuse them.
    """
    rows_of = {index: core.rows_of(tokenizer, task, items, index) for index in chosen}
    fitting = {index: rows for index, rows in rows_of.items()
               if max(len(row.ids) for row in rows) <= model.config.sequence_len}
    found = SimpleNamespace(items=len(fitting), too_long=len(rows_of) - len(fitting), same_sum=0, same_mean=0,
                            largest=0.0, explained=[])
    ours = core.score(model, [core.tree(rows) for rows in fitting.values()])
    sums = ask(theirs, [pair for index in fitting for pair in texts(task, items, index)])
    tokens = theirs._loglikelihood_tokens([(("", ""), row.ids[:row.start], row.ids[row.start:])
                                           for rows in fitting.values() for row in rows], disable_tqdm=True)
    at = 0
    for (index, rows), mine in zip(fitting.items(), ours):
        part = slice(at, at := at + len(rows))
        lengths = [row.end - row.start for row in rows]
        nats = [mean * length for (mean, _), length in zip(mine, lengths)]
        other = [-total for total, _ in tokens[part]]
        found.largest = max(found.largest, *(abs(a - b) for a, b in zip(nats, other)))
        if task.kind == "language_modeling":
            verdicts = (mine[0][1], sums[part][0][1], mine[0][1], tokens[part][0][1])
            gaps = (math.inf, math.inf)
        else:
            by_text = [-total for total, _ in sums[part]]
            means = [mean for mean, _ in mine]
            verdicts = (least(nats), least(by_text), least(means), least([n / m for n, m in zip(other, lengths)]))
            gaps = (gap(by_text), gap(means))
        found.same_sum += verdicts[0] == verdicts[1]
        found.same_mean += verdicts[2] == verdicts[3]
        for rule, one, two, distance in (("sum", *verdicts[:2], gaps[0]), ("mean", *verdicts[2:], gaps[1])):
            if one != two:
                tie = distance < TIE_NATS
                cause = f"a tie, {distance:.1e} nats" if tie else why(theirs, task, items, index, rows)
                found.explained.append(f"item {index}, by {rule}: {one} and {two} ({cause})")
    return found


def texts(task: core.CoreTask, items: list[dict], index: int) -> list[tuple[str, str]]:
    """(context, continuation) of each choice, as a user of lm-eval would give them."""
    head = "<|bos|>" + core.head_of(task, items, index)
    item = items[index]
    if task.kind == "language_modeling":
        return [(head + item["context"].strip(), task.delimiter + item["continuation"])]
    return [(head + item["query"] + task.delimiter, choice) for choice in item["choices"]]


def ask(theirs, pairs: list[tuple[str, str]]) -> list[tuple[float, bool]]:
    from lm_eval.api.instance import Instance
    return theirs.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs], disable_tqdm=True)


def why(theirs, task: core.CoreTask, items: list[dict], index: int, rows: list[core.Row]) -> str:
    """Where the tokens of the two programs part."""
    for pair, row in zip(texts(task, items, index), rows):
        context, continuation = theirs._encode_pair(*pair)
        if context + continuation != row.ids:
            return "other tokens"
        if len(context) > row.start:
            return f"the continuation begins at token {row.start} here, at {len(context)} there"
    return "unexplained"


def least(values: list[float]) -> int:
    return values.index(min(values))


def gap(values: list[float]) -> float:
    first, second = sorted(values)[:2]
    return second - first


if __name__ == "__main__":
    cli.run(main)
