"""The training loop, once. Every stage iterates over it:

    for step in optimize(loss_of, optimizer, batches, schedule, steps=800, start=resumed.step):
        if due(step, args.eval_every): ...

A generator owns accumulation, the summing over ranks, the schedule, timing and "what is the last step"; evaluating,
sampling and saving are plain `if`s in the recipe. The loss of a step is the sum over all its targets divided by their
number, counted over micro-batches and ranks: rows with few targets weigh little, and a step never divides by zero.
"""
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from nanochat.data.packing import Batch
from nanochat.optim import Optimizer, Schedule
from nanochat.system import log
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
    waited: float = 0.0  # seconds of it, for the data


def due(step: Step, every: int) -> bool:
    """True at every `every`-th step and at the last one; `every` ≤ 0 means at the last only."""
    return step.is_last or (every > 0 and step.number % every == 0)


def optimize(loss_of: LossOf, optimizer: Optimizer, batches: Iterator[Batch], schedule: Schedule, *, runtime: Runtime,
             steps: int, start: int = 0, accumulate: int = 1) -> Iterator[Step]:
    """Yields after each optimizer step of `accumulate` micro-batches.

    Where memory runs out, this step and all later ones are made of half micro-batches; UserError where that is not
    enough, and when the loss is no finite number: the weights before that step are still in the last checkpoint.
    """
    halves = False
    for step in range(start, steps):
        started = time.perf_counter()
        micro = [next(batches) for _ in range(accumulate)]
        waited = time.perf_counter() - started
        counts = [int((batch.targets >= 0).sum()) for batch in micro]  # before the move: a GPU would have to be awaited
        targets, tokens = all_reduce_sum([float(sum(counts)), float(sum(b.ids.numel() for b in micro))], runtime.device)
        taught = [batch for batch, count in zip(micro, counts) if count]  # RL pads its last micro-batches
        total = None if halves else _backward(loss_of, optimizer, taught, targets, runtime.device)
        if total is None:
            halves = True
            total = _backward(loss_of, optimizer, [half for one in taught for half in one.halves()], targets,
                              runtime.device)
        if total is None:
            raise UserError("out of memory with half of --device_batch_size too; lower it (as many micro-batches more, "
                            "the same step), or give --recompute")
        loss = all_reduce_sum([float(total)], runtime.device)[0] / max(targets, 1.0)
        if not math.isfinite(loss):
            raise UserError(f"the loss became {loss} at step {step + 1}; the last checkpoint is intact: "
                            "go on from it with --resume and lower learning rates (--matrix_lr, --embedding_lr)")
        if targets:
            optimizer.step(schedule, step)
        synchronize(runtime.device)
        yield Step(step + 1, loss, time.perf_counter() - started, int(tokens), int(targets), micro[-1].state,
                   schedule.lr(step), step + 1 == steps, waited)


def _backward(loss_of: LossOf, optimizer: Optimizer, micro: list[Batch], targets: float,
              device: torch.device) -> torch.Tensor | None:
    """Adds this rank's part of the gradient to `.grad`; the sum of its losses. None, and no gradient, where memory ran
    out: no collective runs in here, so every rank may fail on its own."""
    total = torch.zeros((), device=device)
    try:
        for batch in micro:
            loss = loss_of(batch.to(device))
            (loss * (1 / max(targets, 1.0))).backward()
            total += loss.detach()
        return total
    except torch.OutOfMemoryError:
        for p in optimizer.params:
            p.grad = None
        log.say(f"out of memory with {max(len(batch.ids) for batch in micro)} rows at a time; going on with half")
        return None
