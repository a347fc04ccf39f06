"""Pretraining: text shards → a base model that continues text.

    python -m scripts.base_train --depth=4 --aspect_ratio=32 --head_dim=64 --max_seq_len=256
    torchrun --standalone --nproc_per_node=8 -m scripts.base_train -- --depth=20

The dial is --depth; what follows from it is in nanochat/plan.py, and an explicit flag beats the plan.
"""
from dataclasses import replace

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
from nanochat.train import checkpoint, fit
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
        minutes=flag(-1.0, "train for about so long; steps from a measurement, 20 seconds or a tenth", at_least=0.01),
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
        eval_tokens=flag(262_144, "validation tokens", at_least=1),
        save_every=flag(-1, "steps between checkpoints; −1 = only at the end"),
        keep=flag(1, "checkpoints kept", at_least=1),
        model_tag=flag("", "name of the checkpoint folder; default d<depth>"),
        resume=flag(False, "go on from the newest checkpoint, if there is one"),
        compile=flag(True, "torch.compile the loss"), seed=flag(0, "of weights and data order", at_least=0),
        device_type=flag("", "cuda, mps or cpu"), dtype=flag("", "of activations"),
        run=flag("dummy", "a name for the run"),
    )


def main(argv: list[str] | None = None) -> None:
    args = flags(argv)
    device = runtime.start(args.device_type, args.dtype)
    tokenizer = Tokenizer.load(paths.tokenizer_dir())
    folder = paths.checkpoint_dir("base", args.model_tag or f"d{args.depth}")
    plan = plan_of(args, tokenizer.vocab_size, speed=1e9)  # of --minutes, to be measured
    config = GPTConfig(
        sequence_len=args.max_seq_len, vocab_size=tokenizer.vocab_size, n_layer=plan.n_layer, n_head=plan.n_head,
        n_kv_head=plan.n_head, n_embd=plan.n_embd, head_dim=plan.head_dim,
        **(PORTABLE if args.portable else {"document_bos": tokenizer.bos_id if args.document_mask else None}))
    kernel = attention.enable_fastest_kernel(device.device, device.dtype, config.head_dim, args.max_seq_len)
    log.say(f"attention: {kernel}")
    model = GPT(config, device.dtype).init_weights(args.seed).to(device.device)
    model.recompute = args.recompute
    if args.fp8:
        problem = fp8.unsupported(device.device)
        log.say(f"FP8 is off: {problem}" if problem else f"FP8: {fp8.switch_on(model)} matrices")
    rates = dict(matrix_lr=args.matrix_lr, embedding_lr=args.embedding_lr, head_lr=args.head_lr,
                 weight_decay=args.weight_decay)
    optimizer = Optimizer(groups_of(model, **rates), device.dtype)
    at_once = args.max_seq_len * device.world_size  # tokens of one row on every rank
    if args.device_batch_size < 0:
        args.device_batch_size = fit.rows_that_fit(
            model, args.max_seq_len, max(1, args.total_batch_size // at_once), device)
    accumulate = accumulation(args.total_batch_size, args.device_batch_size * at_once)
    loss_of = weighted_nll(model, args.compile and can_compile(device.device))
    if args.minutes > 0:
        plan, optimizer = timed(args, plan, model, optimizer, rates, loss_of, folder, device)
    journal = Journal("base", folder.name, model, optimizer, steps=plan.steps, resume=args.resume, flags=vars(args),
                      keep=args.keep)
    log.say(f"base: {sum(p.numel() for p in model.parameters()):,} parameters, {plan.steps:,} steps of "
            f"{args.total_batch_size:,} tokens on {device.world_size} × {device.device} in {device.dtype}, "
            f"{args.device_batch_size} rows at a time")
    workers = args.workers if args.workers >= 0 else 2 * (device.device.type == "cuda")
    batches = loader.prefetched(loader.batches(
        loader.TextCorpus(shards.train_shards(), tokenizer), args.device_batch_size, args.max_seq_len, tokenizer.bos_id,
        seed=args.seed, rank=device.rank, world_size=device.world_size, state=journal.state, workers=workers))
    schedule = Schedule(plan.steps, args.warmup_steps, args.warmdown_fraction)
    token_bytes = torch.from_numpy(tokenizer.token_bytes()).to(device.device)
    peak = hardware.detect().peak_flops
    with journal:
        for step in optimize(loss_of, optimizer, batches, schedule, runtime=device, steps=plan.steps,
                             start=journal.start, accumulate=accumulate):
            numbers = {}
            if peak:
                numbers["speed/mfu"] = flops_per_token(config) * step.tokens / step.seconds / (peak * device.world_size)
            if due(step, args.eval_every):
                numbers["val/bpb"] = bits_per_byte(model, validation(tokenizer, args, device), token_bytes)
            journal.record(step, **numbers)
            if due(step, args.save_every):
                journal.save(step)
        journal.finish(flops=flops_per_token(config) * journal.tokens,
                       peak_memory_bytes=hardware.peak_memory(device.device))
    device.close()


def plan_of(args, vocab_size: int, speed: float) -> dial.Plan:
    """`speed` in tokens per second counts for --minutes only."""
    return dial.make(args.depth, dial.PlanOptions(
        vocab_size=vocab_size, aspect_ratio=args.aspect_ratio, head_dim=args.head_dim, sequence_len=args.max_seq_len,
        total_batch_tokens=args.total_batch_size, num_iterations=args.num_iterations, target_flops=args.target_flops,
        target_param_data_ratio=args.target_param_data_ratio, minutes=args.minutes, tokens_per_second=speed))


def timed(args, plan, model, optimizer, rates, loss_of, folder, device):
    """(the plan for --minutes, an optimizer as new): the steps of the checkpoint to go on from, else of a measurement,
    after which the model is as new, too."""
    found = checkpoint.latest(folder) if args.resume else None
    if found:
        return replace(plan, steps=found[1]["steps"]), optimizer
    batch = fit.random_batch(args.device_batch_size, args.max_seq_len, plan.vocab_size, device.device)
    speed = fit.tokens_per_second(loss_of, optimizer, batch, args.total_batch_size, device,
                                  seconds=min(20, 6 * args.minutes))
    model.init_weights(args.seed)
    log.say(f"base: {speed:,.0f} tokens per second, measured for --minutes={args.minutes:g}")
    return plan_of(args, plan.vocab_size, speed), Optimizer(groups_of(model, **rates), device.dtype)


def accumulation(total_batch: int, tokens_at_once: int) -> int:
    """Micro-batches per step and rank. UserError when the batch is no multiple of what goes through at once."""
    if total_batch % tokens_at_once:
        raise UserError(f"--total_batch_size={total_batch} is no multiple of {tokens_at_once} (rows × tokens × ranks); "
                        "lower --device_batch_size or give e.g. "
                        f"{max(1, round(total_batch / tokens_at_once)) * tokens_at_once}")
    return total_batch // tokens_at_once


def validation(tokenizer, args, device):
    """The same validation batches every time, this rank's part of them."""
    steps = max(1, args.eval_tokens // (args.device_batch_size * args.max_seq_len * device.world_size))
    rows = loader.batches(loader.TextCorpus(shards.validation_shards(), tokenizer), args.device_batch_size,
                          args.max_seq_len, tokenizer.bos_id, rank=device.rank, world_size=device.world_size, epochs=1)
    for _, batch in zip(range(steps), rows, strict=False):
        moved = batch.to(device.device)
        yield moved.ids, moved.targets


if __name__ == "__main__":
    cli.run(main)
