"""The training loop, written once. Every stage iterates over it:

    for step in optimize(loss_of, optimizer, batches, schedule, runtime=runtime, steps=800):
        if due(step, args.eval_every): ...

The generator accumulates micro-batches, sums over ranks, follows the schedule and measures time. Evaluating, sampling
and saving are plain `if`s in the script. The loss of a step is the sum over all its targets divided by their number,
counted over micro-batches and ranks, so that each target has the same weight. A step without targets (RL) changes no
weight. Gradients are not clipped (nanochat/optim/groups.py says why).
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

# The *sum* over the batch's targets, in nats; the loop divides it by the number of targets. When memory runs out, a
# batch is cut between any two rows, so the loss must treat rows independently. The two answers of a DPO pair depend on
# each other: such a loss needs a `Batch.cut` that keeps pairs together, and a division by pairs.
LossOf = Callable[[Batch], torch.Tensor]


@dataclass(frozen=True)
class Step:
    """What one optimizer step did. `number` counts finished steps: 1 after the first."""

    number: int
    loss: float  # nats per target, the mean over all ranks
    seconds: float  # duration of the step, without evaluating and saving, which the script does between steps
    tokens: int  # positions over all ranks, in batches with a target
    targets: int  # positions with a target
    state: dict[str, int]  # resumes the batches after this step
    lr_multiplier: float  # of every learning rate, from the schedule
    is_last: bool
    waited: float = 0.0  # seconds in which the loop waited for data


def due(step: Step, every: int) -> bool:
    """True at every `every`-th step and at the last step; `every` ≤ 0: only at the last step."""
    return step.is_last or (every > 0 and step.number % every == 0)


def optimize(loss_of: LossOf, optimizer: Optimizer, batches: Iterator[Batch], schedule: Schedule, *, runtime: Runtime,
             steps: int, start: int = 0, accumulate: int = 1) -> Iterator[Step]:
    """Yields after each optimizer step of `accumulate` micro-batches.

    When memory runs out, the step is repeated with micro-batches of half the size, down to one row; all later steps use
    this size. UserError when one row is too large, and when the loss is not finite. No weight is updated then, so the
    last checkpoint is still good.
    """
    pieces = 1  # number of parts into which this rank cuts every micro-batch; doubles when memory runs out
    for step in range(start, steps):
        started = time.perf_counter()
        micro = [next(batches) for _ in range(accumulate)]
        waited = time.perf_counter() - started
        # Counted on the CPU: reading the number from a GPU would make the program wait for it.
        counts = [int((batch.targets >= 0).sum()) for batch in micro]
        with_targets = [batch for batch, count in zip(micro, counts) if count]  # RL pads a step with empty ones
        targets, tokens = all_reduce_sum([float(sum(counts)), float(sum(b.ids.numel() for b in with_targets))],
                                         runtime.device)
        while (total := _backward(loss_of, optimizer, [piece for batch in with_targets for piece in batch.cut(pieces)],
                                  targets, runtime.device)) is None:
            if pieces >= max(len(batch.ids) for batch in with_targets):  # the other ranks end by torchrun
                raise UserError("out of memory with a single row at a time; give --recompute or shorter rows "
                                "(--max_seq_len), or train a smaller model")
            pieces *= 2
            log.say("continuing with half as many rows at a time")
        loss = all_reduce_sum([float(total)], runtime.device)[0] / max(targets, 1.0)
        if not math.isfinite(loss):  # the gradients are not checked: `Journal.save` checks the weights
            raise UserError(f"the loss became {loss} at step {step + 1}; the last checkpoint is intact: "
                            "continue from it with --resume and lower learning rates (--matrix_lr, --embedding_lr)")
        if targets:
            _update(optimizer, schedule, step)
        if step == start:
            # All objects so far (the model, the data, compiled code) stay until the end, so the garbage collector need
            # not scan them: karpathy/nanochat measured pauses of half a second.
            gc.freeze()
        synchronize(runtime.device)  # for the clock: a GPU may still be computing the update
        yield Step(step + 1, loss, time.perf_counter() - started, int(tokens), int(targets), micro[-1].state,
                   schedule.lr(step), step + 1 == steps, waited)


def _backward(loss_of: LossOf, optimizer: Optimizer, micro: list[Batch], targets: float,
              device: torch.device) -> torch.Tensor | None:
    """Adds this rank's part of the gradient to `.grad`; returns the sum of its losses.

    Returns None and removes all gradients when memory ran out. No collective is called here, so one rank may run out of
    memory while others do not.
    """
    total = torch.zeros((), device=device)
    try:
        for batch in micro:
            loss = loss_of(batch.to(device))
            # Divided here and not at the end, where it would cost a pass over all gradients.
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
        raise UserError("out of memory in the update, where a smaller --device_batch_size does not help: use more GPUs "
                        "(each keeps its part of the moments), train LoRA matrices (--lora), or a smaller model"
                        ) from error
