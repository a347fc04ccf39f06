"""The training loop, written once. Every stage iterates over it:

    for step in optimize(loss_of, optimizer, batches, schedule, runtime=runtime, steps=800):
        if due(step, args.eval_every): ...

The generator accumulates micro-batches, sums over ranks, follows the schedule and measures time. Evaluating, sampling
and saving are plain `if`s in the script. The loss of a step is the sum over all its targets divided by their number,
counted over micro-batches and ranks: a row with few targets has little influence, and a step without targets does not
divide by zero.
"""
import gc
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from nanochat.data.packing import Batch
from nanochat.optim import Optimizer, Schedule
from nanochat.system import log
from nanochat.system.files import UserError
from nanochat.system.hardware import is_out_of_memory
from nanochat.system.runtime import Runtime, all_reduce_sum, synchronize

# The *sum* over the batch's targets, in nats. Rows must be independent: without memory, a batch is cut between any two.
LossOf = Callable[[Batch], torch.Tensor]


@dataclass(frozen=True)
class Step:
    """What one optimizer step did. `number` counts finished steps: 1 after the first."""

    number: int
    loss: float  # nats per target
    seconds: float  # of this step, without the script's work between steps
    tokens: int  # positions over all ranks
    targets: int  # positions with a target
    state: dict[str, int]  # resumes the batches after this step
    lr: float  # the schedule's multiplier
    is_last: bool
    waited: float = 0.0  # the seconds in which the loop waited for data


def due(step: Step, every: int) -> bool:
    """True at every `every`-th step and at the last one; `every` ≤ 0 means at the last only."""
    return step.is_last or (every > 0 and step.number % every == 0)


def optimize(loss_of: LossOf, optimizer: Optimizer, batches: Iterator[Batch], schedule: Schedule, *, runtime: Runtime,
             steps: int, start: int = 0, accumulate: int = 1) -> Iterator[Step]:
    """Yields after each optimizer step of `accumulate` micro-batches.

    Where memory runs out, this step and all later ones use half micro-batches, again and again, down to one row.
    UserError when one row is too large, and when the loss is not finite. Nothing is updated then, so the last
    checkpoint is still good.
    """
    pieces = 1  # this rank cuts every micro-batch into so many parts; doubles when memory runs out
    for step in range(start, steps):
        started = time.perf_counter()
        micro = [next(batches) for _ in range(accumulate)]
        waited = time.perf_counter() - started
        # Counted on the CPU: reading the number from a GPU would make the program wait for it.
        counts = [int((batch.targets >= 0).sum()) for batch in micro]
        targets, tokens = all_reduce_sum([float(sum(counts)), float(sum(b.ids.numel() for b in micro))], runtime.device)
        with_targets = [batch for batch, count in zip(micro, counts) if count]  # RL pads its last micro-batches
        while (total := _backward(loss_of, optimizer, [piece for batch in with_targets for piece in batch.cut(pieces)],
                                  targets, runtime.device)) is None:
            if pieces >= max(len(batch.ids) for batch in with_targets):
                raise UserError("out of memory with a single row at a time; give --recompute or shorter rows "
                                "(--max_seq_len), or train a smaller model")
            pieces *= 2
            log.say("continuing with half as many rows at a time")
        loss = all_reduce_sum([float(total)], runtime.device)[0] / max(targets, 1.0)
        if not math.isfinite(loss):
            raise UserError(f"the loss became {loss} at step {step + 1}; the last checkpoint is intact: "
                            "go on from it with --resume and lower learning rates (--matrix_lr, --embedding_lr)")
        if targets:
            _update(optimizer, schedule, step)
        if step == start:
            # All that lives now (the model, the data, compiled code) stays. Python would look through it for garbage
            # again and again: karpathy/nanochat measured pauses of half a second.
            gc.freeze()
        synchronize(runtime.device)
        yield Step(step + 1, loss, time.perf_counter() - started, int(tokens), int(targets), micro[-1].state,
                   schedule.lr(step), step + 1 == steps, waited)


def _backward(loss_of: LossOf, optimizer: Optimizer, micro: list[Batch], targets: float,
              device: torch.device) -> torch.Tensor | None:
    """Adds this rank's part of the gradient to `.grad`; returns the sum of its losses.

    None, and no gradient, when memory ran out. No collective is called here, so one rank may fail while others do not.
    """
    total = torch.zeros((), device=device)
    try:
        for batch in micro:
            loss = loss_of(batch.to(device))
            (loss * (1 / max(targets, 1.0))).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        for p in optimizer.params:
            p.grad = None
        log.say(f"out of memory with {max(len(batch.ids) for batch in micro)} rows at a time")
        return None


def _update(optimizer: Optimizer, schedule: Schedule, step: int) -> None:
    try:
        optimizer.step(schedule, step)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise UserError("out of memory in the update, which no smaller --device_batch_size changes: take more GPUs "
                        "(each keeps its part of the moments), train thin matrices (--lora), or a smaller model"
                        ) from error
