"""Pretraining: text shards → a base model that continues text.

    python -m scripts.base_train --depth=4 --aspect_ratio=32 --head_dim=64 --max_seq_len=256
    torchrun --standalone --nproc_per_node=8 -m scripts.base_train -- --depth=20

The dial is --depth. nanochat/dial.py computes everything else from it; an explicit flag beats the plan. The text is in
out/data (nanochat.dataset), the tokenizer in out/tokenizer (scripts.tok_train).
"""
import time
from collections.abc import Callable
from typing import Any

import torch

from nanochat import dial
from nanochat.data import loader, shards
from nanochat.eval.bpb import bits_per_byte, text_batches
from nanochat.eval.words import Words
from nanochat.model import GPT, PORTABLE, GPTConfig, attention, fp8
from nanochat.model.accounting import flops_per_token
from nanochat.optim import Optimizer, Schedule
from nanochat.optim.groups import groups_of
from nanochat.system import cli, hardware, log, paths
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.system.runtime import Runtime
from nanochat.system.runtime import start as start_runtime
from nanochat.tokenizer import Tokenizer
from nanochat.train import probe, target
from nanochat.train.flags import CHECKPOINTS, MACHINE, RATES, WARMDOWN_FRACTION, WEIGHT_DECAY, rates, wants_compiling
from nanochat.train.journal import Journal
from nanochat.train.loop import LossOf, due, optimize
from nanochat.train.losses import can_compile, weighted_nll


def flags(argv: list[str] | None) -> cli.Args:
    return cli.parse(
        argv, __doc__,
        # The model
        depth=flag(20, "layers; everything else follows from it", at_least=1),
        aspect_ratio=flag(64, "width = depth × this", at_least=1),
        head_dim=flag(128, "width of one head", at_least=2),
        max_seq_len=flag(2048, "tokens in a row", at_least=8),
        document_mask=flag(False, "attention stays within a document (for short rows)"),
        windows=flag(0, "attention window of three in four layers, in preceding tokens; 0 = none (not tried on a GPU)",
                     at_least=0),
        portable=flag(False, "the plain architecture of October 2025, which transformers, gguf and qwen3 need"),
        # How long to train: at most one of the first three; without them the ratio decides
        num_iterations=flag(-1, "steps; −1 = from the flags below", at_least=1),
        target_flops=flag(-1.0, "train for this many FLOPs", at_least=1),
        minutes=flag(-1.0, "train for about this many minutes, compiling and validating included; the number of steps "
                           "is measured first, for 20 seconds or a tenth of the time", at_least=0.01),
        target_param_data_ratio=flag(20.0, "training tokens per parameter, without the flags above", at_least=1e-6),
        # A step
        device_batch_size=flag(32, "rows per micro-batch and rank; auto = what fits", at_least=1, words={"auto": -1}),
        total_batch_size=flag(524_288, "tokens per step over all ranks", at_least=1), **RATES,
        weight_decay=flag(WEIGHT_DECAY, "weight decay of Muon's matrices; it falls to 0", at_least=0),
        warmup_steps=flag(0, "steps in which the rates rise from 0", at_least=0),
        warmdown_fraction=flag(WARMDOWN_FRACTION, "fraction of steps in which the rates fall", at_least=0, at_most=1),
        recompute=flag(False, "activation checkpointing: far less memory, a third more time"),
        fp8=flag(False, "matrix products of the blocks in 8 bits, on GPUs that support it; off elsewhere"),
        workers=flag(-1, "data-loader processes; −1 = 2 for a GPU, else 0; 0 = a thread", at_least=0),
        # What is measured and saved
        eval_every=flag(250, "steps between validations; −1 = only at the end"),
        eval_tokens=flag(262_144, "validation tokens; by default fewer if they would take more than a twentieth "
                                  "of --minutes", at_least=1),
        model_tag=flag("", "name of the checkpoint folder; default d<depth>"), **CHECKPOINTS,
        seed=flag(0, "random seed of weights and data order", at_least=0), **MACHINE)


def main(argv: list[str] | None = None) -> None:
    # Estimates when the process began: its CPU time so far is the time of the imports.
    started = time.monotonic() - time.process_time()
    args = flags(argv)

    # ---- Plan. If a finished model of this name exists, the command stops here, before any work.
    run = target.claim("base", args.model_tag or f"d{args.depth}", args)
    if run.finished:
        return
    runtime = start_runtime(args.device_type, args.dtype)
    tokenizer = Tokenizer.load(paths.tokenizer_dir())
    config, planned_steps = planned(args, tokenizer)

    # ---- Model. If this machine lacks a kernel or a number format, the run does without it and says so in a line.
    model = new_model(args, config, runtime)

    # ---- A step. If memory still runs out, the loop continues with half as many rows at a time.
    rows, accumulate = step_shape(args, model, runtime)
    loss_of = weighted_nll(model, wants_compiling(args) and can_compile(runtime.device))

    # ---- How long. A resumed run keeps its number of steps: a new measurement would give another schedule.
    def new_optimizer() -> Optimizer:
        return Optimizer(groups_of(model, **rates(args), weight_decay=args.weight_decay), runtime.dtype)

    steps = run.steps or planned_steps
    if args.minutes > 0 and not run.steps:
        steps, run.flags["eval_tokens"] = steps_in_time(args, model, loss_of, new_optimizer, rows, runtime, started)

    # ---- Optimizer and data. For a resumed run the journal restores weights, moments and the position in the data.
    optimizer = new_optimizer()
    journal = Journal(run, model, optimizer, steps=steps, words=Words(model, tokenizer, "base"))
    log.say(f"base: {sum(p.numel() for p in model.parameters()):,} parameters, {steps:,} steps of "
            f"{args.total_batch_size:,} tokens on {runtime.world_size} × {runtime.device} in {runtime.dtype}, "
            f"{rows} rows at a time")
    workers = args.workers if args.workers >= 0 else (2 if runtime.device.type == "cuda" else 0)
    batches = loader.prefetched(loader.batches(
        loader.TextCorpus(shards.train_shards(), tokenizer), rows, args.max_seq_len, tokenizer.bos_id, seed=args.seed,
        rank=runtime.rank, world_size=runtime.world_size, state=journal.state, workers=workers))
    token_bytes = torch.from_numpy(tokenizer.token_bytes()).to(runtime.device)
    peak_flops = (hardware.detect().peak_flops or 0) * runtime.world_size  # 0 = unknown: no MFU is recorded

    # ---- Train. A loss that diverges, a full disk and a signal end the run with the last checkpoint intact.
    schedule = Schedule(steps, args.warmup_steps, args.warmdown_fraction)
    with journal:
        for step in optimize(loss_of, optimizer, batches, schedule, runtime=runtime, steps=steps, start=journal.start,
                             accumulate=accumulate):
            numbers = {}
            if peak_flops:
                numbers["speed/mfu"] = flops_per_token(config) * step.tokens / step.seconds / peak_flops
            if due(step, args.eval_every):
                held_out = text_batches(shards.validation_shards(), tokenizer, rows, args.max_seq_len,
                                        run.flags["eval_tokens"], runtime)
                numbers["val/bpb"] = bits_per_byte(model, held_out, token_bytes)
            journal.record(step, **numbers)
            if due(step, args.save_every):
                journal.save(step)
            journal.stop_if_asked(step)  # after a whole step, so that nothing of it is lost
        journal.finish(flops=flops_per_token(config) * journal.tokens,
                       peak_memory_bytes=hardware.peak_memory(runtime.device))
    runtime.close()  # waits for all ranks, because the main rank may still be writing


def planned(args: cli.Args, tokenizer: Tokenizer) -> tuple[GPTConfig, int]:
    """(the model's configuration, the number of steps); 1 step with --minutes, for which `steps_in_time` measures."""
    if args.minutes > 0 and (args.num_iterations > 0 or args.target_flops > 0):
        other = "num_iterations" if args.num_iterations > 0 else "target_flops"
        raise UserError(f"--{other} and --minutes each say how long to train; give one of them")
    plan = dial.make(args.depth, dial.PlanOptions(
        vocab_size=tokenizer.vocab_size, aspect_ratio=args.aspect_ratio, head_dim=args.head_dim,
        sequence_len=args.max_seq_len, total_batch_tokens=args.total_batch_size, target_flops=args.target_flops,
        num_iterations=1 if args.minutes > 0 else args.num_iterations,
        target_param_data_ratio=args.target_param_data_ratio))
    # An error, because neither flag may be ignored: --portable decides which programs can load the model, --windows how
    # fast it trains.
    if args.portable and args.windows:
        raise UserError("--portable is the October architecture, which has no windows; leave out one of them")
    document_bos = tokenizer.bos_id if args.document_mask else None
    features: dict[str, Any] = PORTABLE if args.portable else {
        "document_bos": document_bos, "windows": dial.windows(args.depth, args.max_seq_len, args.windows)}
    return GPTConfig(**plan.shape() | features), plan.steps


def new_model(args: cli.Args, config: GPTConfig, runtime: Runtime) -> GPT:
    kernel = attention.enable_fastest_kernel(runtime.device, runtime.dtype, config.head_dim, config.sequence_len)
    log.say(f"attention: {kernel}")
    model = GPT(config, runtime.dtype).init_weights(args.seed).to(runtime.device)
    model.recompute = args.recompute
    if args.fp8:
        problem = fp8.unsupported(runtime.device)
        log.say(f"FP8 is off: {problem}" if problem else f"FP8: {fp8.switch_on(model)} matrices")
    return model


def step_shape(args: cli.Args, model: GPT, runtime: Runtime) -> tuple[int, int]:
    """(rows per micro-batch, micro-batches per step and rank). UserError if they do not make up a step exactly."""
    row_tokens = args.max_seq_len * runtime.world_size  # tokens of one row on every rank
    rows = args.device_batch_size
    if rows < 0:
        rows = probe.rows_that_fit(model, args.max_seq_len, max(1, args.total_batch_size // row_tokens), runtime)
    accumulate, rest = divmod(args.total_batch_size, rows * row_tokens)
    if rest:
        nearest = max(1, round(args.total_batch_size / (rows * row_tokens))) * rows * row_tokens
        raise UserError(f"--total_batch_size={args.total_batch_size} is not a multiple of {rows * row_tokens} (rows × "
                        f"tokens × ranks); lower --device_batch_size or give e.g. {nearest}")
    return rows, accumulate


def steps_in_time(args: cli.Args, model: GPT, loss_of: LossOf, new_optimizer: Callable[[], Optimizer], rows: int,
                  runtime: Runtime, started: float) -> tuple[int, int]:
    """(steps, validation tokens) for --minutes; without --eval_tokens a validation takes at most 1/20 of --minutes."""
    batch = probe.random_batch(rows, args.max_seq_len, model.config.vocab_size, runtime.device)
    batch_seconds = probe.evaluation_seconds(model, batch, runtime)
    batch_tokens = batch.ids.numel() * runtime.world_size
    eval_tokens = args.eval_tokens
    if "eval_tokens" not in args.given:
        eval_tokens = min(eval_tokens, max(1, int(60 * args.minutes / 20 / batch_seconds)) * batch_tokens)
    steps = probe.steps_for_minutes(
        args.minutes, model, loss_of, new_optimizer, batch, args.total_batch_size, runtime, started=started,
        evaluation=batch_seconds * max(1, eval_tokens // batch_tokens), eval_every=args.eval_every)
    return steps, eval_tokens


if __name__ == "__main__":
    cli.run(main)
