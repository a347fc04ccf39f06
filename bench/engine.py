"""Tokens per second of the engine by batch size, on random weights: python bench/engine.py [threads]

Prompts of 20 to 60 tokens, 100 new tokens each, temperature 1; the laptop model's shape (128 wide, 4 layers, 2 heads).
The last column is the gain of batching over one request at a time.
"""
import random
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from nanochat.infer import Engine  # noqa: E402
from nanochat.model import GPT, GPTConfig  # noqa: E402
from nanochat.tokenizer import Tokenizer  # noqa: E402

NEW_TOKENS = 100


def main() -> None:
    torch.set_num_threads(int(sys.argv[1]) if len(sys.argv) > 1 else torch.get_num_threads())
    two = [bytes((a, b)) for a in range(97, 123) for b in range(97, 123)]
    words = two + [pair + bytes((c,)) for pair in two for c in (97, 98)]
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)] + words[:2048 - 9 - 256])
    config = GPTConfig(512, tokenizer.vocab_size, n_layer=4, n_head=2, n_kv_head=2, n_embd=128, head_dim=64)
    model = GPT(config).init_weights(0).eval()
    draw = random.Random(0)
    print(f"{torch.get_num_threads()} threads, fp32")
    print(f"{'B':>4} {'top-k':>6} {'tokens/s':>9} {'per CPU-second':>15} {'gain':>6}")
    alone = None
    for rows, top_k in ((1, None), (16, None), (64, None), (64, 50), (256, 50)):
        engine = Engine(model, tokenizer, max_rows=rows)
        prompts = [[draw.randrange(2000) for _ in range(draw.randrange(20, 60))] for _ in range(rows)]
        engine.generate(prompts, 4, top_k=top_k, stop_ids=[])  # warm-up
        wall, cpu = time.perf_counter(), time.process_time()
        done = engine.generate(prompts, NEW_TOKENS, top_k=top_k, stop_ids=[])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        num_tokens = sum(len(group[0].ids) for group in done)
        rate = num_tokens / wall
        alone = alone or rate
        print(f"{rows:4} {top_k or '–':>6} {rate:9,.0f} {num_tokens / cpu:15,.0f} {rate / alone:6.1f}")


if __name__ == "__main__":
    main()
