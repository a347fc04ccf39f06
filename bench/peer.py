"""Trains or measures karpathy/nanochat (92d63d4) inside its own checkout; bench/sides.py starts it, with
NANOCHAT_BASE_DIR and NANOCHAT_DTYPE set.

    python bench/peer.py CHECKOUT train SEED --depth=4 …       its scripts.base_train, as it is
    python bench/peer.py CHECKOUT measure ROWS TAG             bits per byte of its newest checkpoint on prepared rows
"""
import math
import runpy
import sys
import types

import torch


def train(seed: int, flags: list[str]) -> None:
    """Its seed is a constant 42; ours is added to it."""
    for name in ("wandb", "rustbpe"):  # imported, but not used: not in a run named dummy, not to train a tokenizer
        sys.modules.setdefault(name, types.ModuleType(name))
    manual_seed = torch.manual_seed
    torch.manual_seed = lambda value: manual_seed(value + seed)
    sys.argv = ["base_train", *flags]
    runpy.run_module("scripts.base_train", run_name="__main__")
    if torch.cuda.is_available():
        print(f"peak bytes: {torch.cuda.max_memory_allocated()}")


@torch.no_grad()
def measure(rows_path: str, tag: str) -> None:
    import os

    sys.modules.setdefault("rustbpe", types.ModuleType("rustbpe"))
    from nanochat.checkpoint_manager import build_model, find_last_step
    from nanochat.common import get_base_dir
    rows = torch.load(rows_path, weights_only=True)
    folder = os.path.join(get_base_dir(), "base_checkpoints", tag)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, _, _ = build_model(folder, find_last_step(folder), device, "eval")
    nats = num_bytes = 0.0
    for ids, targets in zip(rows["ids"].split(16), rows["targets"].split(16)):
        ids, targets = ids.to(device), targets.to(device)
        lengths = rows["token_bytes"].to(device)[targets.clamp(min=0)] * (targets >= 0)
        losses = model(ids, targets, loss_reduction="none").view(targets.shape)
        nats += losses[lengths > 0].double().sum().item()
        num_bytes += lengths.sum().item()
    print(f"bpb: {nats / math.log(2) / num_bytes}")


if __name__ == "__main__":
    checkout, what, first, *rest = sys.argv[1:]
    sys.path[0] = checkout  # its packages, not ours, are called nanochat and scripts here
    if what == "train":
        train(int(first), rest)
    else:
        measure(first, *rest)
