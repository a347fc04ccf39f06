"""What weights in 8 and 4 bits cost and gain: bits per byte, exams and tokens per second of a checkpoint.

    python -m bench.quantize -i rl                  # the newest RL model: validation text, every exam there is
    python -m bench.quantize -i sft -x 50 --split_tokens=65536

All forms read the same text and answer the same questions greedily; nothing is written.
"""
import time
from itertools import islice

import torch

import tasks
from nanochat import sandbox
from nanochat.data import loader, shards
from nanochat.eval import chat
from nanochat.eval.bpb import bits_per_byte
from nanochat.infer import Engine
from nanochat.infer.numba_decode import numba_decoder
from nanochat.infer.quantize import FORMS, quantized
from nanochat.system import cli, paths, runtime
from nanochat.system.cli import flag
from nanochat.train import checkpoint

ROWS, NEW_TOKENS = 16, 100


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__, source=flag("rl", "which stage's model", choices=paths.STAGES, short="i"),
        model_tag=flag("", "default: the deepest", short="g"), dtype=flag("", "of activations", short="d"),
        max_problems=flag(-1, "of each exam; −1 = all", at_least=1, short="x"),
        split_tokens=flag(262_144, "of validation text", at_least=1))
    device = runtime.start("cpu", args.dtype)
    exams = [task for task in map(tasks.find, tasks.names()) if task.kind != "source" and task.path("test")]
    table: dict[str, list[float]] = {}
    for form in ("", *FORMS):
        model, tokenizer, info = checkpoint.load_model(args.source, args.model_tag, -1, "cpu", device.dtype)
        model = quantized(model.eval().to(device.dtype), form)
        for name, value in measure(model, tokenizer, exams, args):
            table.setdefault(name, []).append(value)
            print(f"{form or device.dtype} {name}: {value:.4f}", flush=True)
    print(f"\n{args.source} {info['tag']}, {torch.get_num_threads()} threads")
    print(f"{'':24}{'plain':>10}" + "".join(f"{form:>10}{'change':>10}" for form in FORMS))
    for name, (plain, *others) in table.items():
        changes = [f"× {other / plain:.2f}" if name.startswith("tokens") else f"{other - plain:+.4f}"
                   for other in others]
        print(f"{name:24}{plain:10.4f}"
              + "".join(f"{other:10.4f}{change:>10}" for other, change in zip(others, changes)))


def measure(model, tokenizer, exams, args):
    """(name, value) of everything, one after the other."""
    width = model.config.sequence_len
    batches = loader.batches(loader.TextCorpus(shards.validation_shards(), tokenizer), ROWS, width, tokenizer.bos_id,
                             epochs=1)
    rows = ((one.ids, one.targets) for one in islice(batches, max(1, args.split_tokens // (ROWS * width))))
    yield "validation bpb", bits_per_byte(model, rows, torch.from_numpy(tokenizer.token_bytes()))
    engine = Engine(model, tokenizer, sandbox.calculate, max_rows=32, decoder=numba_decoder)
    for task in exams:
        yield task.name, chat.evaluate(task, engine, args.max_problems).accuracy
    for rows in (1, 16):
        prompts = [[tokenizer.bos_id, i] for i in range(rows)]
        engine.generate(prompts, max_tokens=4, stop_ids=[])  # warm-up
        begun = time.perf_counter()
        engine.generate(prompts, max_tokens=NEW_TOKENS, stop_ids=[])
        yield f"tokens/s, B = {rows}", rows * NEW_TOKENS / (time.perf_counter() - begun)


if __name__ == "__main__":
    cli.run(main)
