"""Seconds for 2,000 multiple-choice items, batched with shared prefixes and row by row: python bench/evaluate.py

    python bench/evaluate.py --items=2000 --threads=2
    NANOCHAT_BASE_DIR=out NANOCHAT_DATA=../data python bench/evaluate.py --source=base --task=arc_easy

Without --source a model of the laptop's shape with random weights answers made-up questions with --shots examples in
front. Row by row is what the definition says: one forward pass for each choice. Both must choose the same.
"""
import random
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from nanochat.eval import core  # noqa: E402
from nanochat.model import GPT, GPTConfig  # noqa: E402
from nanochat.system import cli, files, paths, runtime  # noqa: E402
from nanochat.system.cli import flag  # noqa: E402
from nanochat.tokenizer import Tokenizer  # noqa: E402
from nanochat.train import checkpoint  # noqa: E402

WORDS = "the a cat dog man sun hat mat ate sat ran saw on in of to and red big old".split()


def main() -> None:
    args = cli.parse(
        None, __doc__, items=flag(2000, "questions", at_least=1), shots=flag(5, "examples before each", at_least=0),
        threads=flag(1, at_least=1), source=flag("", "a stage's model", choices=("", *paths.STAGES)),
        task=flag("arc_easy", "of core_tasks.yaml, with --source"), device_type=flag("", "cuda, mps or cpu"),
        dtype=flag("", "of activations, with --source"))
    torch.set_num_threads(args.threads)
    here = runtime.start(args.device_type, args.dtype)
    if args.source:
        model, tokenizer, _ = checkpoint.load_model(args.source, device=here.device, dtype=here.dtype)
        task = next(one for one in core.read_tasks(paths.data_dir()) if one.label == args.task)
        items = files.read_jsonl(task.path)[:args.items]
    else:
        model, tokenizer = made_up(here.device)
        task = core.CoreTask("made up", Path(), "multiple_choice", args.shots, "\nAnswer: ", 0.25)
        items = questions(args.items)
    model.eval()
    indices = range(len(items))
    list(core.judge(model, tokenizer, task, items, indices[:8]))  # warm-up
    started = time.perf_counter()
    whole = [core.crop(core.rows_of(tokenizer, task, items, i), model.config.sequence_len) for i in indices]
    rendering = time.perf_counter() - started
    batched = core.score(model, [core.tree(rows) for rows in whole])
    batched_seconds = time.perf_counter() - started - rendering
    started = time.perf_counter()
    alone = [core.score(model, [core.tree([row])])[0][0] for rows in whole for row in rows]
    alone_seconds = time.perf_counter() - started
    rest = iter(alone)
    same = sum(choice(scores) == choice([next(rest) for _ in scores]) for scores in batched)
    tokens, tree_tokens = (sum(len(row.ids) for rows in whole for row in rows),
                           sum(len(core.tree(rows).ids) for rows in whole))
    print(f"{len(items):,} items, {len(alone):,} rows of {tokens:,} tokens, {tree_tokens:,} with the shared ones once; "
          f"rendered in {rendering:.1f} s")
    print(f"row by row {alone_seconds:.2f} s, batched {batched_seconds:.2f} s: "
          f"{alone_seconds / batched_seconds:.1f} times as fast, {same:,} of {len(items):,} choices the same")


def choice(scores: list[tuple[float, bool]]) -> int:
    nats = [mean for mean, _ in scores]
    return nats.index(min(nats))


def made_up(device: torch.device) -> tuple[GPT, Tokenizer]:
    pairs = [bytes((a, b)) for a in range(97, 123) for b in range(97, 123)]
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)] + pairs)
    config = GPTConfig(512, tokenizer.vocab_size, n_layer=4, n_head=2, n_kv_head=2, n_embd=128, head_dim=64)
    model = GPT(config)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():  # every weight does something
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw) * 0.2)
    return model.to(device), tokenizer


def questions(num: int) -> list[dict]:
    draw = random.Random(0)
    words = lambda low, high: " ".join(draw.choices(WORDS, k=draw.randint(low, high)))  # noqa: E731
    return [{"query": f"Question: {words(8, 24)}?", "choices": [words(1, 6) for _ in range(4)],
             "gold": draw.randrange(4)} for _ in range(num)]


if __name__ == "__main__":
    cli.run(main)
