"""How fast this machine trains, against the machine of docs/LOG.md: a run says beforehand how long it will take."""
import math
import subprocess
import sys
import time

import torch

from nanochat.model import GPT, GPTConfig
from nanochat.optim import Optimizer, Schedule
from nanochat.optim.groups import groups_of
from nanochat.system.container import usable_cores
from nanochat.system.runtime import start as start_runtime
from nanochat.train.probe import random_batch

# Seconds of one step of 4,096 tokens of the laptop's model, not compiled, on one of the two cores of docs/LOG.md,
# measured on 2026-11-30 while the machine was idle.
REFERENCE_STEP_SECONDS, REFERENCE_CORES = 0.43, 2
MEASURED_SECONDS = 3.0


def slowness() -> float:
    """This machine's seconds over the reference's; 1.0 where it cannot be measured."""
    # In a process of its own, so that its memory is free again during the run.
    done = subprocess.run([sys.executable, "-c", f"from {__name__} import step_seconds; print(step_seconds())"],
                          capture_output=True, encoding="utf-8")
    try:
        # Twice the cores are worth about 1.4 times the speed at this size: the products are small.
        return float(done.stdout) / REFERENCE_STEP_SECONDS * math.sqrt(REFERENCE_CORES / usable_cores())
    except ValueError:
        return 1.0


def step_seconds() -> float:
    """Seconds of a training step of the laptop's model with random tokens on one core."""
    runtime = start_runtime("cpu")
    # On a busy machine several cores wait for each other at every small product, and in compiled training far less.
    torch.set_num_threads(1)
    config = GPTConfig(sequence_len=256, vocab_size=2048, n_layer=4, n_head=2, n_kv_head=2, n_embd=128, head_dim=64)
    model = GPT(config, runtime.dtype).init_weights(0)
    optimizer = Optimizer(groups_of(model, matrix_lr=0.0, embedding_lr=0.0, head_lr=0.0), runtime.dtype)
    batch = random_batch(16, config.sequence_len, config.vocab_size, runtime.device)
    seconds: list[float] = []
    while len(seconds) < 5 or sum(seconds) < MEASURED_SECONDS:
        began = time.perf_counter()
        model.loss(batch.ids, batch.targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step(Schedule(1), 0)
        seconds.append(time.perf_counter() - began)
    # The fastest step: what else the machine does in these seconds says nothing about the next minutes.
    return min(seconds)
