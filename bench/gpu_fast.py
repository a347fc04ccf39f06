"""How fast is it on this GPU, what does talking cost, does it learn? Further sections of bench/gpu_day.py."""
import contextlib
import copy
import itertools
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from bench.gpu_right import Day, Row, optimizer_of, peak_of, seconds_of
from nanochat.data.packing import Batch
from nanochat.infer import Engine
from nanochat.infer.cuda_graphs import CudaGraphs
from nanochat.model import attention, fp8, gpt
from nanochat.model.accounting import flops_per_token
from nanochat.optim import Schedule
from nanochat.system import hardware, runtime
from nanochat.tokenizer import Tokenizer
from nanochat.tokenizer.bpe import BYTES, SPECIALS
from nanochat.train import losses
from nanochat.train.loop import optimize
from nanochat.train.losses import weighted_nll
from nanochat.train.rollout import Rollouts

VARIANTS: dict[str, dict[str, Any]] = {  # what is switched off (or on) for a variant of the step
    "as it is": {}, "all kept (budget 1)": dict(budget=1.0), "q, k, v apart, norms unfused": dict(fuses=False),
    "windows of a quarter": dict(windows=True), "FP8": dict(fp8=True)}


@contextlib.contextmanager
def switched(budget: float = losses.ACTIVATION_BUDGET, fuses: bool = True, fp8: bool = False,
             windows: bool = False) -> Iterator[None]:
    before = losses.ACTIVATION_BUDGET, gpt.use_fused_ops
    losses.ACTIVATION_BUDGET = budget
    gpt.use_fused_ops = gpt.use_fused_ops if fuses else (lambda device: False)
    torch._dynamo.reset()
    try:
        yield
    finally:
        losses.ACTIVATION_BUDGET, gpt.use_fused_ops = before


def steps(day: Day) -> Iterator[Row]:
    """Whole training steps of every variant: tokens per second, MFU, peak memory, seconds to compile."""
    first: dict[str, float] = {}
    for name, switches in VARIANTS.items():
        if switches.get("fp8") and fp8.unsupported(day.device):
            yield {"variant": name, "skipped": fp8.unsupported(day.device)}
            continue
        with switched(**switches):
            model = day.model(window=day.positions // 4 if switches.get("windows") else 0)
            attention.enable_fastest_kernel(day.device, day.machine.dtype, model.config.head_dim, day.positions)
            if switches.get("fp8"):
                fp8.switch_on(model)
            done = []
            began = time.perf_counter()

            def run(model=model, done=done) -> None:
                batches = (day.batch(seed=n) for n in itertools.count())
                done.extend(optimize(weighted_nll(model, day.compiles), optimizer_of(model), batches,
                                     Schedule(day.steps), runtime=day.machine, steps=day.steps))
            peak = peak_of(run, day.device)
        first[name] = done[0].loss
        steady = sorted(step.seconds for step in done[len(done) // 3:])
        speed = done[0].tokens / steady[len(steady) // 2]
        top = hardware.peak_flops(hardware.detect().device)
        assert abs(first[name] - first["as it is"]) < 0.05, f"{name}: another first loss, {first}"
        yield {"variant": name, "tokens/s": speed, "MFU": top and flops_per_token(model.config) * speed / top,
               "GB": peak, "compile s": done[0].seconds - steady[0], "all s": time.perf_counter() - began}


def kernels(day: Day) -> Iterator[Row]:
    """The fifteen operations that take most of a step."""
    model, batch = day.model(), day.batch()
    loss_of = weighted_nll(model, day.compiles)
    loss_of(batch).backward()
    on_gpu = day.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        loss_of(batch).backward()
        runtime.synchronize(day.device)
    attribute = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    events = sorted(seen.key_averages(), key=lambda event: -getattr(event, attribute))
    assert events and getattr(events[0], attribute) > 0, "the profiler saw nothing"
    for event in events[:15]:
        yield {"operation": event.key[:90], "ms": getattr(event, attribute) / 1000, "calls": event.count}


def update(day: Day) -> Iterator[Row]:
    """The update alone, and bytes per second if every parameter's weight, gradient and moments are passed once."""
    model = day.model()
    optimizer, before = optimizer_of(model), copy.deepcopy(model.state_dict())

    def work() -> None:
        for p in model.parameters():
            p.grad = torch.full_like(p, 1e-3)
        optimizer.step(Schedule(10), 1)
    seconds = seconds_of(work, day.device, 3)
    changed = [name for name, weight in model.state_dict().items() if not torch.equal(weight, before[name])]
    assert len(changed) == len(before), f"unchanged by an update: {sorted(before.keys() - set(changed))}"
    yield {"ms": 1000 * seconds, "GB/s": 28 * sum(p.numel() for p in model.parameters()) / seconds / 1e9}


def numbered_tokens(vocab_size: int) -> Tokenizer:
    """A vocabulary of this size without a text to learn it from: the bytes, then numbers of three bytes."""
    numbers = range(vocab_size - len(BYTES) - len(SPECIALS))
    return Tokenizer([*BYTES, *(number.to_bytes(3, "big") for number in numbers)])


def decoding(day: Day) -> Iterator[Row]:
    """Tokens per second by rows: fp32 weights, weights in the dtype of products, recorded steps. All say the same."""
    tokenizer = numbered_tokens(day.vocab_size)
    talker = Day(day.machine, day.compiles, day.depth, day.rows, day.positions, day.vocab_size, 1, 64)
    model = talker.model().eval()
    new = 64 if day.depth > 2 else 8
    for rows in (1, 8, 32, 64) if day.depth > 2 else (1, 3):
        said = {}
        for name in ("fp32 weights", "cast once", "CUDA graphs"):
            weights = model if name == "fp32 weights" else copy.deepcopy(model).to(model.compute_dtype)
            engine = Engine(weights, tokenizer, max_rows=rows, max_len=min(day.positions, 256),
                            decoder=CudaGraphs if name == "CUDA graphs" else None)

            def work(engine=engine, rows=rows) -> list[list[int]]:
                prompts = [[tokenizer.bos_id, 5, 6, 7 + row] for row in range(rows)]
                return [done[0].ids for done in engine.generate(prompts, max_tokens=new, temperature=0.0, stop_ids=())]
            said[name] = work()
            assert said[name] == said["fp32 weights"] or model.compute_dtype == torch.bfloat16 and day.depth > 2, \
                f"{rows} rows, {name}: other tokens than with fp32 weights"
            seconds = seconds_of(work, day.device, 2)
            yield {"rows": rows, "way": name, "tokens/s": rows * new / seconds}


def practice(day: Day) -> Iterator[Row]:
    """One step of RL, and how much of it is answering."""
    tokenizer = numbered_tokens(day.vocab_size)
    talker = Day(day.machine, day.compiles, day.depth, 2, day.positions, day.vocab_size, 1, 64)
    model = talker.model()
    questions, samples, new = (2, 16, 256) if day.depth > 2 else (2, 2, 8)
    engine = Engine(model, tokenizer, max_rows=questions * samples)
    prompts = [[tokenizer.bos_id, 5 + n] for n in range(questions)]
    answered = []

    def generate(asked: list[list[int]], seed: int) -> list[list[Any]]:
        began = time.perf_counter()
        said = engine.generate(asked, max_tokens=new, temperature=1.0, seed=seed, samples=samples)
        answered.append(time.perf_counter() - began)
        return said
    rollouts = Rollouts(generate, [{"question": "?"}] * questions, prompts, lambda item, text: float(len(text) % 2),
                        day.machine, questions, min(16, questions * samples), new + 3, tokenizer.bos_id)
    [step] = optimize(weighted_nll(model, False), optimizer_of(model), iter(rollouts), Schedule(1),
                      runtime=day.machine, steps=1, accumulate=rollouts.micro_batches(samples))
    assert 0 <= rollouts.stats["rl/reward_mean"] <= 1 and answered[0] <= step.seconds, "the step has no answers"
    yield {"seconds": step.seconds, "answering": answered[0], "reward": rollouts.stats["rl/reward_mean"]}


def learning(day: Day) -> Iterator[Row]:
    """Whether it learns (to count: each token is the one before plus one), and how far two equal runs are apart."""
    small = Day(day.machine, day.compiles, 2, 8, 64, 128, 1, 64)
    number, runs = 40, []
    for _ in range(2):
        model = small.model()
        draw = torch.Generator().manual_seed(0)
        starts = torch.randint(128, (number, 8, 1), generator=draw)
        ids = ((starts + torch.arange(65)) % 128).to(day.device)
        batches = iter([Batch(row[:, :-1].contiguous(), row[:, 1:].contiguous(), {}) for row in ids])
        runs.append([step.loss for step in optimize(
            weighted_nll(model, False), optimizer_of(model), batches, Schedule(number), runtime=day.machine,
            steps=number)])
    assert runs[0][-1] < 0.8 * runs[0][0], f"it does not learn: {runs[0][0]:.3f} → {runs[0][-1]:.3f}"
    apart = max(abs(a - b) for a, b in zip(*runs))
    assert apart < 0.05, f"two equal runs are {apart:.2g} nats apart"
    yield {"first loss": runs[0][0], "last loss": runs[0][-1], "two equal runs apart": apart}
