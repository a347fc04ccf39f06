"""Tokens per second of the engine by batch size.

    python -m bench.engine                  random weights, the laptop model's shape (128 wide, 4 layers, 2 heads)
    python -m bench.engine --stage=sft      a checkpoint of a run (NANOCHAT_BASE_DIR), as RL has it: fp32 weights, cast

Prompts of 20 to 60 tokens, --tokens new ones each, temperature 1. The last column is the gain of batching over one
request at a time; RL's own rate is in results/rl/metrics.jsonl (speed/answer_tokens_per_second).
"""
import random
import time

import torch

from nanochat.infer import Engine
from nanochat.model import GPT, GPTConfig
from nanochat.system import cli, runtime
from nanochat.system.cli import flag
from nanochat.tokenizer import Tokenizer
from nanochat.train import checkpoint


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(argv, __doc__, stage=flag("", "whose checkpoint"), tag=flag("", "default: the deepest"),
                     tokens=flag(100, "new tokens per answer", at_least=1), threads=flag(0, "0 = torch's choice"))
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.stage:
        device = runtime.start()
        model, tokenizer, _ = checkpoint.load_model(args.stage, args.tag, None, device.device, device.dtype)
    else:
        model, tokenizer = random_weights()
    draw = random.Random(0)
    print(f"{torch.get_num_threads()} threads, {model.compute_dtype}")
    print(f"{'B':>4} {'top-k':>6} {'tokens/s':>9} {'per CPU-second':>15} {'gain':>6}")
    alone = None
    for rows, top_k in ((1, None), (16, None), (64, None), (64, 50), (256, 50)):
        engine = Engine(model.eval(), tokenizer, max_rows=rows)
        prompts = [[draw.randrange(tokenizer.vocab_size - 9) for _ in range(draw.randrange(20, 60))]
                   for _ in range(rows)]
        engine.generate(prompts, max_tokens=4, top_k=top_k, stop_ids=[])  # warm-up
        wall, cpu = time.perf_counter(), time.process_time()
        done = engine.generate(prompts, max_tokens=args.tokens, top_k=top_k, stop_ids=[])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        num_tokens = sum(len(group[0].ids) for group in done)
        rate = num_tokens / wall
        alone = alone or rate
        print(f"{rows:4} {top_k or '–':>6} {rate:9,.0f} {num_tokens / cpu:15,.0f} {rate / alone:6.1f}")


def random_weights() -> tuple[GPT, Tokenizer]:
    two = [bytes((a, b)) for a in range(97, 123) for b in range(97, 123)]
    words = two + [pair + bytes((c,)) for pair in two for c in (97, 98)]
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)] + words[:2048 - 9 - 256])
    config = GPTConfig(512, tokenizer.vocab_size, n_layer=4, n_head=2, n_kv_head=2, n_embd=128, head_dim=64)
    return GPT(config).init_weights(0), tokenizer


if __name__ == "__main__":
    cli.run(main)
