"""How many rows fit into memory and how fast this machine trains, measured with random tokens.

`rows_that_fit` answers `--device_batch_size=auto`, and `steps_for_minutes` turns `--minutes` into steps.
"""
import time
from collections.abc import Callable
from statistics import fmean

import torch

from nanochat.data.packing import Batch
from nanochat.model import GPT, GPTConfig
from nanochat.optim import Optimizer, Schedule
from nanochat.optim.groups import groups_of
from nanochat.system import hardware, log
from nanochat.system.files import UserError
from nanochat.system.runtime import Runtime, all_reduce_sum, synchronize
from nanochat.system.runtime import start as start_runtime
from nanochat.train.loop import LossOf
from nanochat.train.losses import can_compile, weighted_nll

MIN_STEPS = 60  # with fewer steps nothing is learnt; on a busy machine the start may have used up the minutes
USABLE = 0.9  # fraction of the free memory: allocators waste the rest
SHORT_ROW = 64  # tokens of a row from which a CPU's memory is estimated
CPU_TOKENS = 4096  # rows × T at a time on a CPU, as in runs/laptop.py: more tokens do not fit its caches


def random_batch(rows: int, sequence_len: int, vocab_size: int, device: torch.device) -> Batch:
    """A batch in which every position is a target, so no real batch needs more memory."""
    ids = torch.randint(vocab_size, (rows, sequence_len + 1), generator=torch.Generator().manual_seed(0))
    return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), {}).to(device)


def bytes_of_pass(model: GPT, rows: int, sequence_len: int) -> int:
    """The peak memory of training with `rows` rows at a time, beyond the weights: activations, gradients, moments."""
    device = next(model.parameters()).device
    batch = random_batch(rows, sequence_len, model.config.vocab_size, device)
    gradients = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    moments = 2 * gradients  # AdamW has two moments a weight; Muon has one
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        model.loss(batch.ids, batch.targets).backward()  # type: ignore[no-untyped-call]
        model.zero_grad(set_to_none=True)  # gradients that are left would be missing in the next measurement
        return torch.cuda.max_memory_allocated(device) - before + moments
    # Other devices: we add up the tensors that autograd keeps for the backward pass. The operating system's figures
    # come too late, because it gives memory when it is first written.
    storages: dict[int, int] = {}  # address → bytes; several saved tensors may share a storage

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model.loss(batch.ids, batch.targets)
    for p in model.parameters():
        storages.pop(p.untyped_storage().data_ptr(), None)
    return sum(storages.values()) + gradients + moments


def largest_divisor(number: int, limit: float) -> int:
    """The largest divisor of `number` that is at most `limit`, but at least 1: so the rows divide a step without rest.

    >>> largest_divisor(12, 5), largest_divisor(12, 0)
    (4, 1)
    """
    return max((part for part in range(1, number + 1) if number % part == 0 and part <= limit), default=1)


def rows_that_fit(model: GPT, sequence_len: int, max_rows: int, runtime: Runtime, free_bytes: int | None = None) -> int:
    """The largest divisor of `max_rows` that fits as rows of a micro-batch on every rank, at least 1.

    `free_bytes` None = what the device reports. UserError if a CPU has no memory for one row.
    """
    # Memory is linear in the rows, so two measurements (one row, two rows) give the memory of any number of rows.
    # nanochat/scale.py counts the same for GPUs that are not there.
    usable = USABLE * (hardware.free_memory(runtime.device) if free_bytes is None else free_bytes)
    try:
        if runtime.device.type == "cuda":
            one_row, two_rows = (bytes_of_pass(model, rows, sequence_len) for rows in (1, 2))
        else:
            one_row, two_rows = estimate_from_short_rows(model, sequence_len, usable)
        per_row = max(1, two_rows - one_row)
        limit = (usable - (one_row - per_row)) // per_row
    except RuntimeError as error:
        if not hardware.is_out_of_memory(error):
            raise
        limit = 1
    model.zero_grad(set_to_none=True)
    if runtime.device.type == "cpu":
        limit = min(limit, CPU_TOKENS // sequence_len)
    rows = largest_divisor(max_rows, limit)
    # All ranks take the smallest number. `all_reduce_sum` is our only collective, so each rank writes its number to its
    # own index of a list, and the minimum of the summed list is the answer.
    rows_of_ranks = [float(rows * (rank == runtime.rank)) for rank in range(runtime.world_size)]
    return int(min(all_reduce_sum(rows_of_ranks, runtime.device)))


def rows_and_accumulation(model: GPT, row_len: int, total_batch: int, device_batch: int,
                          runtime: Runtime) -> tuple[int, int]:
    """(rows per micro-batch, micro-batches per step and rank) for steps of about `total_batch` tokens in whole rows of
    `row_len` tokens. At most `device_batch` rows at a time; −1 = as many as fit.
    """
    max_rows = max(1, total_batch // (runtime.world_size * row_len))
    rows = (rows_that_fit(model, row_len, max_rows, runtime) if device_batch < 0
            else largest_divisor(max_rows, device_batch))
    return rows, max_rows // rows


def estimate_from_short_rows(model: GPT, sequence_len: int, usable: float) -> tuple[int, int]:
    """The memory of one row and of two, from rows of a few tokens. UserError if one row does not fit into `usable`."""
    # On a CPU a whole row is not tried: the kernel kills a process that takes too much memory, without an error that
    # could be caught.
    short = min(SHORT_ROW, sequence_len // 2)
    first, second = (bytes_of_pass(model, 1, length) for length in (short, 2 * short))
    per_row = (second - first) * sequence_len // short
    one_row = first - (second - first) + per_row  # the part that does not grow with a row, and the row
    if one_row > usable:
        raise UserError(f"one row of {sequence_len:,} tokens needs about {one_row >> 20:,} MiB of memory, and this "
                        f"process may use {int(usable) >> 20:,} MiB: take a smaller model or shorter rows")
    return one_row, one_row + per_row


def tokens_per_second(loss_of: LossOf, optimizer: Optimizer, batch: Batch, step_tokens: int, runtime: Runtime,
                      seconds: float = 20) -> float:
    """The speed of all ranks together in steps of `step_tokens` tokens made of micro-batches like `batch`, measured for
    `seconds` after a first pass and update, which compile."""
    passes: list[float] = []
    updates: list[float] = []
    warmed_up: float | None = None
    left = seconds
    while warmed_up is None or len(passes) < 3 or left > 0:
        began = time.perf_counter()
        loss_of(batch).backward()  # type: ignore[no-untyped-call]  # PyTorch does not annotate it
        synchronize(runtime.device)
        passed = time.perf_counter()
        optimizer.step(Schedule(1), 0)  # at the full rate: the caller restores the weights
        synchronize(runtime.device)
        updated = time.perf_counter()
        if warmed_up is None:
            warmed_up = updated
        else:
            passes.append(passed - began)
            updates.append(updated - passed)
        left = all_reduce_sum([seconds - (updated - warmed_up)], runtime.device)[0]  # all ranks stop at the same pass
    # The mean and not the median: other programs that slow the machine down sometimes will slow the training down too.
    pass_seconds, update_seconds = all_reduce_sum([fmean(passes), fmean(updates)], runtime.device)  # times the ranks
    micro_batches = step_tokens / (batch.ids.numel() * runtime.world_size)  # per rank and step
    return step_tokens * runtime.world_size / (micro_batches * pass_seconds + update_seconds)


@torch.no_grad()
def evaluation_seconds(model: GPT, batch: Batch, runtime: Runtime) -> float:
    """The seconds that one batch of a validation takes (it is not compiled), the mean over ranks."""
    for _ in range(2):  # the first pass warms up, the second is measured
        began = time.perf_counter()
        model.loss(batch.ids, batch.targets, reduction="none")
        synchronize(runtime.device)
    return all_reduce_sum([time.perf_counter() - began], runtime.device)[0] / runtime.world_size


def steps_for_minutes(minutes: float, model: GPT, loss_of: LossOf, new_optimizer: Callable[[], Optimizer], batch: Batch,
                      step_tokens: int, runtime: Runtime, *, started: float, evaluation: float = 0.0,
                      eval_every: int = -1) -> int:
    """The number of steps after which a run that began at `started` (time.monotonic) has taken `minutes`.

    A step is made of micro-batches like `batch`; a validation takes `evaluation` seconds.
    """
    # The measured steps are undone: the weights are restored and the optimizer is discarded. The copy of the weights is
    # on the CPU, because the device may have no room for it.
    weights = {name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()}
    speed = tokens_per_second(loss_of, new_optimizer(), batch, step_tokens, runtime, seconds=min(20, 6 * minutes))
    model.load_state_dict(weights)
    spent = all_reduce_sum([time.monotonic() - started], runtime.device)[0] / runtime.world_size
    step_seconds = step_tokens / speed
    steps = steps_that_fit(minutes, spent=spent, step=step_seconds, evaluation=evaluation, eval_every=eval_every)
    validations = f", {evaluation:.1f} s go to each validation" * bool(evaluation)
    log.say(f"{speed:,.0f} tokens per second, so {steps:,} steps in {steps * step_seconds / 60:.2f} of the {minutes:g} "
            f"minutes; {spent:.0f} s are spent on starting and measuring{validations}")
    return steps


def steps_that_fit(minutes: float, *, spent: float, step: float, evaluation: float, eval_every: int) -> int:
    """The number of steps of `step` seconds that fit into `minutes`, of which `spent` seconds are over, with a
    validation of `evaluation` seconds at the end and every `eval_every` steps (≤ 0: at the end only)."""
    left = 60 * minutes - spent - evaluation
    steps = int(left / (step + (evaluation / eval_every if eval_every > 0 else 0)))
    # If the start took half of the time or more, the run still gets up to MIN_STEPS, as many as fit into all minutes.
    at_least = min(MIN_STEPS, int(60 * minutes / step)) if spent >= 30 * minutes else 1
    return max(1, at_least, steps)


def tokens_per_second_here(config: GPTConfig, step_tokens: int, seconds: float = 20) -> float:
    """The training speed of a model on one device of this machine: its first GPU, else the CPU."""
    runtime = start_runtime()
    model = GPT(config, runtime.dtype).init_weights(0).to(runtime.device)
    optimizer = Optimizer(groups_of(model, matrix_lr=0.0, embedding_lr=0.0, head_lr=0.0), runtime.dtype)
    rows = rows_that_fit(model, config.sequence_len, max(1, step_tokens // config.sequence_len), runtime)
    batch = random_batch(rows, config.sequence_len, config.vocab_size, runtime.device)
    loss_of = weighted_nll(model, can_compile(runtime.device))
    return tokens_per_second(loss_of, optimizer, batch, step_tokens, runtime, seconds)
