"""Pretraining: text shards → a base model that continues text.

    python -m scripts.base_train --depth=4 --aspect_ratio=32 --head_dim=64 --max_seq_len=256
    torchrun --standalone --nproc_per_node=8 -m scripts.base_train -- --depth=20

The dial is --depth; what follows from it is in nanochat/plan.py, and an explicit flag beats the plan.
"""
import time

import torch

from nanochat import plan as dial
from nanochat.data import loader, shards
from nanochat.eval.bpb import bits_per_byte
from nanochat.model import GPT, PORTABLE, GPTConfig, attention, fp8
from nanochat.model.accounting import flops_per_token
from nanochat.optim import Optimizer, Schedule
from nanochat.optim.groups import groups_of
from nanochat.system import cli, hardware, log, paths, runtime
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer
from nanochat.train import probe, target
from nanochat.train.journal import Journal
from nanochat.train.loop import due, optimize
from nanochat.train.losses import can_compile, weighted_nll


def flags(argv: list[str] | None):
    return cli.parse(
        argv, __doc__,
        depth=flag(20, "layers; everything else follows from it", at_least=1),
        aspect_ratio=flag(64, "width = depth × this", at_least=1),
        head_dim=flag(128, "width of one head", at_least=2),
        max_seq_len=flag(2048, "tokens in a row", at_least=8),
        num_iterations=flag(-1, "steps; −1 = from the flags below", at_least=1),
        target_flops=flag(-1.0, "train for this many FLOPs", at_least=1),
        target_param_data_ratio=flag(20.0, "tokens per parameter", at_least=1e-6),
        minutes=flag(-1.0, "end after about so long, with all that belongs to it (compiling, validating); the steps "
                           "follow from a measurement of 20 seconds or a tenth of the time", at_least=0.01),
        device_batch_size=flag(32, "rows per micro-batch and rank; auto = what fits", at_least=1, words={"auto": -1}),
        total_batch_size=flag(524_288, "tokens per step over all ranks", at_least=1),
        matrix_lr=flag(dial.MUON_LR, "Muon", at_least=0),
        embedding_lr=flag(dial.EMBEDDING_LR, "AdamW at width 768", at_least=0),
        head_lr=flag(dial.HEAD_LR, "AdamW at width 768", at_least=0),
        weight_decay=flag(dial.WEIGHT_DECAY, "Muon, cautious, falls to 0", at_least=0),
        warmup_steps=flag(0, at_least=0),
        warmdown_fraction=flag(dial.WARMDOWN_FRACTION, "of all steps", at_least=0, at_most=1),
        document_mask=flag(False, "attention stays within a document (for short rows)"),
        portable=flag(False, "exactly the October architecture, which transformers knows"),
        recompute=flag(False, "keep one activation per layer: far less memory, a third more time"),
        fp8=flag(False, "the blocks multiply in 8 bits, on GPUs that can; off elsewhere"),
        workers=flag(-1, "processes that make batches ahead; −1 = 2 beside a GPU, 0 = a thread", at_least=0),
        eval_every=flag(250, "steps between validations; −1 = only at the end"),
        eval_tokens=flag(262_144, "validation tokens; by default fewer where they would take a twentieth of --minutes",
                         at_least=1),
        model_tag=flag("", "name of the checkpoint folder; default d<depth>"), **target.FLAGS,
        compile=flag(True, "torch.compile the loss; by default not where --minutes is too short to gain from it"),
        seed=flag(0, "of weights and data order", at_least=0),
        device_type=flag("", "cuda, mps or cpu"), dtype=flag("", "of activations"))


def main(argv: list[str] | None = None) -> None:
    started = time.monotonic() - time.process_time()  # with the seconds that imports took
    args = flags(argv)
    place = target.claim("base", args.model_tag or f"d{args.depth}", args)
    if place.finished:
        return
    device = runtime.start(args.device_type, args.dtype)
    tokenizer = Tokenizer.load(paths.tokenizer_dir())
    config, steps = planned(args, tokenizer)
    kernel = attention.enable_fastest_kernel(device.device, device.dtype, config.head_dim, args.max_seq_len)
    log.say(f"attention: {kernel}")
    model = GPT(config, device.dtype).init_weights(args.seed).to(device.device)
    model.recompute = args.recompute
    if args.fp8:
        problem = fp8.unsupported(device.device)
        log.say(f"FP8 is off: {problem}" if problem else f"FP8: {fp8.switch_on(model)} matrices")
    at_once = args.max_seq_len * device.world_size  # tokens of one row on every rank
    rows = args.device_batch_size
    if rows < 0:
        rows = probe.rows_that_fit(model, args.max_seq_len, max(1, args.total_batch_size // at_once), device)
    accumulate = accumulation(args.total_batch_size, rows * at_once)
    loss_of = weighted_nll(model, compiles(args) and can_compile(device.device))
    if args.minutes > 0:
        steps = place.found[1]["steps"] if place.found else timed(args, model, loss_of, rows, started, device)
        place.flags["eval_tokens"] = args.eval_tokens
        model.init_weights(args.seed)  # measuring has changed them
    optimizer = optimizer_of(args, model, device)
    journal = Journal(place, model, optimizer, steps=steps)
    log.say(f"base: {sum(p.numel() for p in model.parameters()):,} parameters, {steps:,} steps of "
            f"{args.total_batch_size:,} tokens on {device.world_size} × {device.device} in {device.dtype}, "
            f"{rows} rows at a time")
    workers = args.workers if args.workers >= 0 else 2 * (device.device.type == "cuda")
    batches = loader.prefetched(loader.batches(
        loader.TextCorpus(shards.train_shards(), tokenizer), rows, args.max_seq_len, tokenizer.bos_id, seed=args.seed,
        rank=device.rank, world_size=device.world_size, state=journal.state, workers=workers))
    schedule = Schedule(steps, args.warmup_steps, args.warmdown_fraction)
    token_bytes = torch.from_numpy(tokenizer.token_bytes()).to(device.device)
    peak = hardware.detect().peak_flops
    with journal:
        for step in optimize(loss_of, optimizer, batches, schedule, runtime=device, steps=steps, start=journal.start,
                             accumulate=accumulate):
            numbers = {}
            if peak:
                numbers["speed/mfu"] = flops_per_token(config) * step.tokens / step.seconds / (peak * device.world_size)
            if due(step, args.eval_every):
                numbers["val/bpb"] = bits_per_byte(model, validation(tokenizer, args, rows, device), token_bytes)
            journal.record(step, **numbers)
            if due(step, args.save_every):
                journal.save(step)
            journal.stop_if_asked(step)
        journal.finish(flops=flops_per_token(config) * journal.tokens,
                       peak_memory_bytes=hardware.peak_memory(device.device))
    device.close()


def planned(args, tokenizer: Tokenizer) -> tuple[GPTConfig, int]:
    """The model, and the steps that the flags ask for (with --minutes a measurement decides: the number means nothing).
    """
    if args.minutes > 0 and (args.num_iterations > 0 or args.target_flops > 0):
        other = "num_iterations" if args.num_iterations > 0 else "target_flops"
        raise UserError(f"--{other} and --minutes each say how long to train; give one of them")
    plan = dial.make(args.depth, dial.PlanOptions(
        vocab_size=tokenizer.vocab_size, aspect_ratio=args.aspect_ratio, head_dim=args.head_dim,
        sequence_len=args.max_seq_len, total_batch_tokens=args.total_batch_size, target_flops=args.target_flops,
        num_iterations=1 if args.minutes > 0 else args.num_iterations,
        target_param_data_ratio=args.target_param_data_ratio))
    features = PORTABLE if args.portable else {"document_bos": tokenizer.bos_id if args.document_mask else None}
    return GPTConfig(sequence_len=args.max_seq_len, vocab_size=tokenizer.vocab_size, n_layer=plan.n_layer,
                     n_head=plan.n_head, n_kv_head=plan.n_head, n_embd=plan.n_embd, head_dim=plan.head_dim,
                     **features), plan.steps


def optimizer_of(args, model: GPT, device: runtime.Runtime) -> Optimizer:
    return Optimizer(groups_of(model, matrix_lr=args.matrix_lr, embedding_lr=args.embedding_lr, head_lr=args.head_lr,
                               weight_decay=args.weight_decay), device.dtype)


def compiles(args) -> bool:
    """Whether to compile: that takes about a minute and doubles the speed, so a run of less than two gains nothing."""
    return args.compile and (args.minutes < 0 or args.minutes >= probe.COMPILING_PAYS_FROM_MINUTES
                             or "compile" in args.given)


def timed(args, model: GPT, loss_of, rows: int, started: float, device: runtime.Runtime) -> int:
    """The steps for --minutes, measured here. Spoils the weights."""
    batch = probe.random_batch(rows, args.max_seq_len, model.config.vocab_size, device.device)
    speed = probe.tokens_per_second(loss_of, optimizer_of(args, model, device), batch, args.total_batch_size, device,
                                  seconds=min(20, 6 * args.minutes))
    one_batch = probe.evaluation_seconds(model, batch, device)
    if "eval_tokens" not in args.given:
        affordable = max(1, int(60 * args.minutes / 20 / one_batch))
        args.eval_tokens = min(args.eval_tokens, affordable * rows * args.max_seq_len * device.world_size)
    evaluation = one_batch * validation_steps(args, rows, device)
    spent = runtime.all_reduce_sum([time.monotonic() - started], device.device)[0] / device.world_size
    step = args.total_batch_size / speed
    steps = probe.steps_for_minutes(args.minutes, spent=spent, step=step, evaluation=evaluation,
                                  eval_every=args.eval_every)
    log.say(f"base: {speed:,.0f} tokens per second, so {steps:,} steps in {steps * step / 60:.2f} of the "
            f"{args.minutes:g} minutes; {spent:.0f} s are spent on starting{', compiling' * compiles(args)} and "
            f"measuring, {evaluation:.1f} s go to each validation of {args.eval_tokens:,} tokens")
    return steps


def accumulation(total_batch: int, tokens_at_once: int) -> int:
    """Micro-batches per step and rank. UserError when the batch is no multiple of what goes through at once."""
    if total_batch % tokens_at_once:
        raise UserError(f"--total_batch_size={total_batch} is no multiple of {tokens_at_once} (rows × tokens × ranks); "
                        "lower --device_batch_size or give e.g. "
                        f"{max(1, round(total_batch / tokens_at_once)) * tokens_at_once}")
    return total_batch // tokens_at_once


def validation_steps(args, rows: int, device: runtime.Runtime) -> int:
    return max(1, args.eval_tokens // (rows * args.max_seq_len * device.world_size))


def validation(tokenizer, args, rows: int, device: runtime.Runtime):
    """The same validation batches every time, this rank's part of them."""
    batches = loader.batches(loader.TextCorpus(shards.validation_shards(), tokenizer), rows, args.max_seq_len,
                             tokenizer.bos_id, rank=device.rank, world_size=device.world_size, epochs=1)
    for _, batch in zip(range(validation_steps(args, rows, device)), batches, strict=False):
        moved = batch.to(device.device)
        yield moved.ids, moved.targets


if __name__ == "__main__":
    cli.run(main)
