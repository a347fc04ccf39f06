"""A recipe of two stages that trains a tiny model in seconds: python -m tests.serve.page.toy_run OUT.

OUT has text, conversations and a tokenizer already (`prepare`)."""
import sys
from argparse import Namespace
from pathlib import Path

from nanochat import recipe
from nanochat.data import shards
from nanochat.recipe import Stage
from nanochat.system import cli, files

FLAGS = dict(total_batch_size=128, device_batch_size=2, compile=False, device_type="cpu", dtype="float32", resume=True)
STAGES = [Stage("base", "scripts.base_train", dict(
              depth=1, aspect_ratio=16, head_dim=16, max_seq_len=64, num_iterations=150, eval_every=25, eval_tokens=64,
              save_every=10, **FLAGS), seconds=30),
          Stage("mid", "scripts.mid_train", dict(mixture="mine", num_iterations=10, save_every=5, **FLAGS), seconds=5)]


def prepare(out: Path, tokenizer, sentences: list[str]) -> None:
    tokenizer.save(out / "tokenizer")
    for number in range(2):
        shards.write(out / f"data/text/shard_{number:05d}.parquet", sentences * 200)
    files.write_jsonl(out / "data/chat/mine.jsonl", [{"messages": [
        {"role": "user", "content": text[:12]}, {"role": "assistant", "content": text}]} for text in sentences * 12])


def main() -> None:
    out = Path(sys.argv[1])
    recipe.run("toy", STAGES, Namespace(out=out, depth=1, minutes=1.0, seed=1, text="", fresh=False, dry_run=False))


if __name__ == "__main__":
    cli.run(main)
