"""What fits into memory and how fast it goes, measured on this machine with random tokens.

`rows_that_fit` answers `--device_batch_size=auto`, `steps_for_minutes` turns `--minutes` into steps. Measuring spoils
weights and moments: who trains afterwards makes both anew (`model.init_weights(seed)`, `Optimizer(…)`).
"""
import time
from statistics import fmean

import torch

from nanochat.data.packing import Batch
from nanochat.model import GPT, GPTConfig
from nanochat.optim import Optimizer, Schedule
from nanochat.optim.groups import groups_of
from nanochat.system import hardware, runtime
from nanochat.system.files import UserError
from nanochat.system.runtime import Runtime, all_reduce_sum, synchronize
from nanochat.train.loop import LossOf
from nanochat.train.losses import can_compile, weighted_nll

COMPILING_PAYS_FROM_MINUTES = 2  # compiling takes about a minute and doubles the speed
LEAST_STEPS = 60  # fewer teach nothing: a busy machine may have spent the minutes on starting
USABLE = 0.9  # of the memory that is free: allocators waste some
SHORT_ROW = 64  # tokens
CPU_TOKENS = 4096  # rows × T at once on a processor, as in runs/laptop.py: more leaves its caches


def random_batch(rows: int, sequence_len: int, vocab_size: int, device: torch.device) -> Batch:
    """Every position a target: no real batch asks for more."""
    whole = torch.randint(vocab_size, (rows, sequence_len + 1), generator=torch.Generator().manual_seed(0))
    return Batch(whole[:, :-1].contiguous(), whole[:, 1:].contiguous(), {}).to(device)


def bytes_of_pass(model: GPT, rows: int, sequence_len: int) -> int:
    """Memory that a forward and backward pass of `rows` rows holds at its peak, beyond weights and moments.

    On a GPU the allocator's peak. Elsewhere what autograd keeps for the backward pass (every storage counted once), and
    gradients and moments: the kernel gives memory when it is written for the first time, so they are not there yet.
    """
    device = next(model.parameters()).device
    batch = random_batch(rows, sequence_len, model.config.vocab_size, device)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    if device.type != "cuda":
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model.loss(batch.ids, batch.targets)
        for p in model.parameters():
            kept.pop(p.untyped_storage().data_ptr(), None)
        return sum(kept.values()) + 3 * sum(p.nbytes for p in model.parameters())
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    model.loss(batch.ids, batch.targets).backward()
    model.zero_grad(set_to_none=True)  # the gradients of one pass count for both
    return torch.cuda.max_memory_allocated(device) - before


def largest_divisor(number: int, limit: float) -> int:
    """Of `number`, not above `limit`; at least 1: rows that make up a step exactly."""
    return max((part for part in range(1, number + 1) if number % part == 0 and part <= limit), default=1)


def rows_that_fit(model: GPT, sequence_len: int, most: int, device: Runtime, free_bytes: int | None = None) -> int:
    """The largest divisor of `most` that fits as rows of a micro-batch, on every rank: from one row and two rows the
    memory of more follows (it is linear). `free_bytes` None = what the device says, once the optimizer has its moments.
    At least 1; UserError where a processor has no memory for one."""
    free_bytes = USABLE * (hardware.free_memory(device.device) if free_bytes is None else free_bytes)
    try:
        if device.device.type == "cuda":
            one, two = (bytes_of_pass(model, rows, sequence_len) for rows in (1, 2))
        else:
            one, two = _guess(model, sequence_len, free_bytes)
        per_row = max(1, two - one)
        fit = (free_bytes - (one - per_row)) // per_row
    except torch.OutOfMemoryError:
        fit = 1
    model.zero_grad(set_to_none=True)
    if device.device.type == "cpu":
        fit = min(fit, CPU_TOKENS // sequence_len)
    mine = largest_divisor(most, fit)
    return int(min(all_reduce_sum([float(mine * (rank == device.rank)) for rank in range(device.world_size)],
                                  device.device)))


def _guess(model: GPT, sequence_len: int, free_bytes: float) -> tuple[int, int]:
    """Memory of one row and of two, from two short rows: the kernel ends a process that tries too much, without an
    error that could be caught. UserError if one row does not fit."""
    short = min(SHORT_ROW, sequence_len // 2)
    first, second = (bytes_of_pass(model, 1, length) for length in (short, 2 * short))
    per_row = (second - first) * sequence_len // short
    one = first - (second - first) + per_row
    if one > free_bytes:
        raise UserError(f"one row of {sequence_len:,} tokens needs about {one >> 20:,} MiB of memory, and this process "
                        f"may use {int(free_bytes) >> 20:,} MiB: take a smaller model or shorter rows")
    return one, one + per_row


def tokens_per_second(loss_of: LossOf, optimizer: Optimizer, batch: Batch, total_batch: int, device: Runtime,
                      seconds: float = 20) -> float:
    """Speed of all ranks together in steps of `total_batch` tokens made of micro-batches like `batch`: the mean time of
    a micro-batch and of an update, after a first one of each (it compiles), measured for `seconds`. (The mean, not the
    median: what else the machine does now and then is part of how long training takes.)"""
    passes, updates, begun, left = [], [], None, seconds
    while begun is None or len(passes) < 3 or left > 0:
        times = [time.perf_counter()]
        for work in (lambda: loss_of(batch).backward(), lambda: optimizer.step(Schedule(1), 0)):
            work()
            synchronize(device.device)
            times.append(time.perf_counter())
        if begun is None:
            begun = times[-1]
        else:
            passes.append(times[1] - times[0])
            updates.append(times[2] - times[1])
        left = all_reduce_sum([seconds - (times[-1] - begun)], device.device)[0]  # all ranks stop at the same pass
    at_once = batch.ids.numel() * device.world_size
    pass_seconds, update_seconds = all_reduce_sum([fmean(passes), fmean(updates)], device.device)
    return total_batch * device.world_size / (total_batch / at_once * pass_seconds + update_seconds)


@torch.no_grad()
def evaluation_seconds(model: GPT, batch: Batch, device: Runtime) -> float:
    """How long a batch of validation takes (it is not compiled), the mean over ranks."""
    for _ in range(2):  # the first warms up
        began = time.perf_counter()
        model.loss(batch.ids, batch.targets, reduction="none")
        synchronize(device.device)
    return all_reduce_sum([time.perf_counter() - began], device.device)[0] / device.world_size


def steps_for_minutes(minutes: float, *, spent: float, step: float, evaluation: float, eval_every: int) -> int:
    """The steps after which a run ends `minutes` after its start, of which `spent` seconds are over (start, compiling,
    measuring), when a step takes `step` seconds and a validation `evaluation`: one at the end and one every
    `eval_every` steps (≤ 0: at the end only). Where starting took half of the time or more, up to LEAST_STEPS get the
    minutes anew."""
    left = 60 * minutes - spent - evaluation
    steps = int(left / (step + (evaluation / eval_every if eval_every > 0 else 0)))
    least = min(LEAST_STEPS, int(60 * minutes / step)) if spent >= 30 * minutes else 1
    return max(1, least, steps)


def tokens_per_second_here(plan, seconds: float = 20) -> float:
    """Training speed of the plan's model on one device of this machine (first GPU, else the processor)."""
    here = runtime.start()
    model = GPT(GPTConfig(plan.sequence_len, plan.vocab_size, plan.n_layer, plan.n_head, plan.n_head, plan.n_embd,
                          plan.head_dim), here.dtype).init_weights(0).to(here.device)
    optimizer = Optimizer(groups_of(model, matrix_lr=0.0, embedding_lr=0.0, head_lr=0.0), here.dtype)
    rows = rows_that_fit(model, plan.sequence_len, max(1, plan.total_batch_tokens // plan.sequence_len), here)
    batch = random_batch(rows, plan.sequence_len, plan.vocab_size, here.device)
    loss_of = weighted_nll(model, can_compile(here.device))
    return tokens_per_second(loss_of, optimizer, batch, plan.total_batch_tokens, here, seconds)
