"""The training loop, once. Every stage iterates over it:

    for step in optimize(loss_of, optimizer, batches, schedule, steps=800, start=resumed.step):
        if due(step, args.eval_every): ...

A generator owns accumulation, the averaging over ranks, the schedule, timing and "what is the last step"; evaluating,
sampling and saving are plain `if`s in the recipe. The loss of a step is the sum over all its targets divided by their
number, counted over micro-batches and ranks: rows with few targets weigh little, and a step never divides by zero.
"""
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist

from nanochat.data.packing import Batch
from nanochat.optim import Optimizer, Schedule
from nanochat.system.files import UserError
from nanochat.system.runtime import Runtime, all_reduce_sum, synchronize

LossOf = Callable[[Batch], torch.Tensor]  # the *sum* over the batch's targets, in nats


@dataclass(frozen=True)
class Step:
    """What one optimizer step did. `number` counts finished steps: 1 after the first."""

    number: int
    loss: float  # nats per target
    seconds: float  # of this step, without what the recipe did between steps
    tokens: int  # positions over all ranks
    targets: int  # positions that were to be predicted
    state: dict[str, int]  # resumes the batches after this step
    lr: float  # the schedule's multiplier
    is_last: bool


def due(step: Step, every: int) -> bool:
    """True at every `every`-th step and at the last one; `every` ≤ 0 means at the last only."""
    return step.is_last or (every > 0 and step.number % every == 0)


def optimize(loss_of: LossOf, optimizer: Optimizer, batches: Iterator[Batch], schedule: Schedule, *, runtime: Runtime,
             steps: int, start: int = 0, accumulate: int = 1) -> Iterator[Step]:
    """Yields after each optimizer step of `accumulate` micro-batches.

    Raises UserError when the loss is no finite number: the weights before that step are still in the last checkpoint.
    """
    for step in range(start, steps):
        started = time.perf_counter()
        micro = [next(batches) for _ in range(accumulate)]
        counts = [int((batch.targets >= 0).sum()) for batch in micro]  # before the move: a GPU would have to be awaited
        targets, tokens = all_reduce_sum([float(sum(counts)), float(sum(b.ids.numel() for b in micro))], runtime.device)
        total = torch.zeros((), device=runtime.device)
        for batch, count in zip(micro, counts, strict=True):
            if not count:
                continue  # RL pads its last micro-batches
            loss = loss_of(batch.to(runtime.device))
            (loss * (runtime.world_size / max(targets, 1.0))).backward()
            total += loss.detach()
        average_gradients(optimizer, runtime)
        loss = all_reduce_sum([float(total)], runtime.device)[0] / max(targets, 1.0)
        if not math.isfinite(loss):
            raise UserError(f"the loss became {loss} at step {step + 1}; the last checkpoint is intact: "
                            "go on from it with --resume and lower learning rates (--matrix_lr, --embedding_lr)")
        if targets:
            optimizer.step(schedule, step)
        synchronize(runtime.device)
        yield Step(step + 1, loss, time.perf_counter() - started, int(tokens), int(targets), micro[-1].state,
                   schedule.lr(step), step + 1 == steps)


def average_gradients(optimizer: Optimizer, runtime: Runtime) -> None:
    """Mean over ranks, in one flat buffer per dtype; nothing to do on one rank."""
    if runtime.world_size == 1:
        return
    params = optimizer.params
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    flat = torch._utils._flatten_dense_tensors(grads)
    dist.all_reduce(flat)
    flat /= runtime.world_size
    for p, grad in zip(params, torch._utils._unflatten_dense_tensors(flat, grads), strict=True):
        p.grad = grad
