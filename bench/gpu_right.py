"""Is it right on this GPU? The first sections of bench/gpu_day.py, and what all its sections share."""
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.attention import sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from nanochat import dial
from nanochat.data.packing import Batch
from nanochat.model import GPT, GPTConfig, attention, chunked_loss, lora
from nanochat.optim import Optimizer, Schedule
from nanochat.optim.groups import groups_of
from nanochat.system import runtime
from nanochat.system.runtime import Runtime
from nanochat.train.loop import optimize
from nanochat.train.losses import weighted_nll

Row = dict[str, Any]
LIMITS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}  # relative errors against fp64


@dataclass(frozen=True)
class Day:
    """The sizes of a run of this script."""

    machine: Runtime
    compiles: bool
    depth: int
    rows: int
    positions: int
    vocab_size: int
    steps: int
    products: int  # edge of the largest product
    peer: Path | None = None  # a checkout of karpathy/nanochat
    data: Path | None = None  # text for both sides; None = the kindergarten

    @property
    def device(self) -> torch.device:
        return self.machine.device

    @property
    def flags(self) -> list[str]:
        """What this script was told, as flags of scripts/base_train.py."""
        dtype = next(name for name, kind in runtime.DTYPES.items() if kind == self.machine.dtype)
        return [f"--device_type={self.device.type}", f"--dtype={dtype}", *([] if self.compiles else ["--no_compile"])]

    def model(self, depth: int = 0, dtype: torch.dtype | None = None, window: int = 0) -> GPT:
        made = dial.make(depth or self.depth, dial.PlanOptions(
            vocab_size=self.vocab_size, num_iterations=1, sequence_len=self.positions,
            **({} if self.depth > 2 else dict(aspect_ratio=16, head_dim=16))))
        config = GPTConfig(self.positions, self.vocab_size, made.n_layer, made.n_head, made.n_head, made.n_embd,
                           made.head_dim, windows=dial.windows(made.n_layer, self.positions, window))
        return GPT(config, dtype or self.machine.dtype).init_weights(0).to(self.device)

    def batch(self, rows: int = 0, seed: int = 0) -> Batch:
        draw = torch.Generator().manual_seed(seed)
        whole = torch.randint(self.vocab_size, (rows or self.rows, self.positions + 1), generator=draw)
        return Batch(whole[:, :-1].contiguous(), whole[:, 1:].contiguous(), {}).to(self.device)


def seconds_of(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """The shortest of `repeats`, after a first one that compiles and warms up."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        work()
        runtime.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times[1:])


def peak_of(work: Callable[[], object], device: torch.device) -> float:
    """Gigabytes at the peak of a call; 0 on a processor."""
    if device.type != "cuda":
        work()
        return 0.0
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device) / 1e9


def optimizer_of(model: GPT) -> Optimizer:
    return Optimizer(groups_of(model, matrix_lr=0.02, embedding_lr=0.3, head_lr=0.008), model.compute_dtype)


def error_of(value: torch.Tensor, expected: torch.Tensor) -> float:
    return float((value.detach().double().cpu() - expected).norm() / expected.norm().clamp_min(1e-30))


def ceilings(day: Day) -> Iterator[Row]:
    """What this card does at best: a large product, a large copy."""
    n, dtype = day.products, day.machine.dtype
    a = torch.randn(n, n, device=day.device, dtype=dtype)
    seconds = seconds_of(lambda: a @ a, day.device)
    assert (a @ a).isfinite().all(), "a product of finite matrices is not finite"
    yield {"product": n, "TFLOP/s": 2 * n**3 / seconds / 1e12}
    copied = seconds_of(a.clone, day.device)
    yield {"copy, bytes": a.nbytes, "GB/s": 2 * a.nbytes / copied / 1e9}


def correct(day: Day) -> Iterator[Row]:
    """Loss and every gradient against fp64 on the processor, in every way of computing them."""
    small = Day(day.machine, day.compiles, 2, 2, 64, 128, 1, 64)
    for window, dtype, way in [*itertools.product((0, 16), {torch.float32, day.machine.dtype},
                                                  ("eager", "compiled", "recomputed", "without gradients"))]:
        if way == "compiled" and not day.compiles:
            continue
        worst = error_against_fp64(small, window, dtype, way)
        assert worst < LIMITS[dtype] * (20 if dtype == torch.float32 else 2), \
            f"{way}, {dtype}, window {window}: {worst:.2g} off fp64"
        yield {"way": way, "dtype": str(dtype), "window": window, "relative error": worst}
    batch = small.batch()
    thin = small.model()
    lora.attach(thin, 4)
    weighted_nll(thin, False)(batch).backward()
    assert all(p.grad is not None for p in thin.parameters() if p.requires_grad), "LoRA: a matrix has no gradient"
    yield {"way": "LoRA", "gradients": sum(p.requires_grad for p in thin.parameters())}


def error_against_fp64(small: Day, window: int, dtype: torch.dtype, way: str) -> float:
    """The largest relative error of the loss and of all gradients."""
    exact, batch = small.model(window=window).cpu().double(), small.batch()
    exact.compute_dtype = torch.float64
    ids, targets = batch.ids.cpu(), batch.targets.cpu()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in exact.parameters():  # nothing may be hidden behind a zero
            p.copy_(torch.randn(p.shape, generator=draw) * 0.2)
    model = small.model(dtype=dtype, window=window)
    attention.enable_fastest_kernel(small.device, dtype, model.config.head_dim, small.positions)
    model.load_state_dict({name: weight.float() for name, weight in exact.state_dict().items()})
    model.recompute = way == "recomputed"
    if way == "without gradients":
        with torch.no_grad():
            return error_of(model.loss(batch.ids, batch.targets, "none"), exact.loss(ids, targets, "none"))
    exact.loss(ids, targets, "sum").backward()
    loss = weighted_nll(model, way == "compiled")(batch)
    loss.backward()
    worst = max(error_of(p.grad, q.grad) for p, q in zip(model.parameters(), exact.parameters()))
    return max(worst, abs(loss.item() / exact.loss(ids, targets, "sum").item() - 1))


def memory(day: Day) -> Iterator[Row]:
    """Memory that runs out: rows are halved, and the loss stays; a group of one rank: names, sums, objects, its end."""
    losses_, rows = [], 4
    for limit in (rows, 1):
        model, asked = Day(day.machine, day.compiles, 2, rows, 64, 128, 1, 64).model(), []
        loss_of = weighted_nll(model, False)

        def limited(batch: Batch) -> torch.Tensor:
            asked.append(len(batch.ids))  # noqa: B023
            if len(batch.ids) > limit:  # noqa: B023
                raise torch.OutOfMemoryError("made here")
            return loss_of(batch)  # noqa: B023

        batches = iter([Day(day.machine, day.compiles, 2, rows, 64, 128, 1, 64).batch()])
        [step] = optimize(limited, optimizer_of(model), batches, Schedule(1), runtime=day.machine, steps=1)
        losses_.append(step.loss)
        assert asked[-1] == limit, f"asked for {asked} rows where {limit} fit"
    assert abs(losses_[0] - losses_[1]) < 1e-3, f"other rows, another loss: {losses_}"
    yield {"loss": losses_[0], "in single rows": losses_[1]}
    if not dist.is_initialized():
        dist.init_process_group("nccl" if day.device.type == "cuda" else "gloo", rank=0, world_size=1,
                                store=dist.HashStore())
        total, told = torch.ones(3, dtype=torch.float64, device=day.device), [None]
        dist.all_reduce(total)
        dist.all_gather_object(told, {"rank": 0})
        assert total.sum() == 3 and told == [{"rank": 0}], "a group of one rank changes what it sums or gathers"
        dist.destroy_process_group()
        yield {"group of one rank": "sums, gathers, ends"}


def attending(day: Day) -> Iterator[Row]:
    """Attention's kernels forward and backward, and the one that training really starts."""
    shape = (min(day.rows, 32), max(1, day.depth // 2), day.positions, 128 if day.depth > 2 else 16)
    q, k, v = (torch.randn(shape, device=day.device, dtype=day.machine.dtype, requires_grad=True) for _ in "qkv")
    flops = 3.5 * 2 * shape[0] * shape[1] * shape[2] ** 2 * shape[3]  # causal; backward costs 2.5 times as much
    chosen = attention.enable_fastest_kernel(day.device, q.dtype, shape[3], shape[2])
    for name, (kernel, _) in attention.KERNELS.items():
        def call(kernel=kernel) -> None:
            with sdpa_kernel(kernel):
                F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()
        try:
            seconds = seconds_of(call, day.device, 3)
        except RuntimeError as error:
            yield {"kernel": name, "not usable": str(error).splitlines()[0][:80]}
            continue
        yield {"kernel": name, "ms": 1000 * seconds, "TFLOP/s": flops / seconds / 1e12}
    if attention.skips_windows(q, k):
        seconds = seconds_of(lambda: attention.attend_near(q, k, v, day.positions // 4).sum().backward(), day.device, 3)
        yield {"kernel": "flash, window of a quarter", "ms": 1000 * seconds}
    activities = [ProfilerActivity.CUDA] if day.device.type == "cuda" else [ProfilerActivity.CPU]
    with profile(activities=activities) as seen:
        attention.attend(q, k, v, None).sum().backward()
    names = sorted(event.key for event in seen.key_averages() if any(
        word in event.key.lower() for word in ("attention", "flash", "fmha", "cudnn", "softmax")))
    assert names, "the profiler saw no attention"
    if day.device.type == "cuda":
        word = chosen.split()[0].lower().replace("memory-efficient", "fmha")
        assert any(word in name.lower() for name in names), f"{chosen} was chosen, and these ran: {names}"
    yield {"chosen": chosen, "dispatched": ", ".join(names)[:300]}


def head(day: Day) -> Iterator[Row]:
    """The head's loss: milliseconds and memory by rows of a chunk, against the definition."""
    width, tokens = day.model(1).config.n_embd * (day.depth if day.depth > 2 else 1), day.rows * day.positions
    hidden = torch.randn(tokens, width, device=day.device, dtype=day.machine.dtype, requires_grad=True)
    matrix = (torch.randn(day.vocab_size, width, device=day.device) * 0.02).requires_grad_()
    targets = torch.randint(day.vocab_size, (tokens,), device=day.device)
    weights = torch.ones(tokens, device=day.device)
    few = slice(0, min(tokens, 512))
    logits = 15 * torch.tanh((hidden[few].float() @ matrix.T) / 15)
    expected = F.cross_entropy(logits, targets[few], reduction="sum").item()
    for rows in sorted({max(1, tokens // n) for n in (64, 16, 8, 4)}):
        def loss(part=slice(None)) -> torch.Tensor:  # noqa: B008
            compiled = day.compiles
            return chunked_loss._operator(hidden[part], matrix, targets[part], weights[part], 15.0, rows,  # noqa: B023
                                          True, compiled)[0]

        value = loss(few).item()
        assert abs(value / expected - 1) < 2e-2, f"{rows} rows: {value}, the definition says {expected}"
        seconds = seconds_of(loss, day.device, 3)
        yield {"rows": rows, "ms": 1000 * seconds, "GB": peak_of(loss, day.device)}
