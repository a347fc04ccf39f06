"""Midtraining and SFT: the same loop over conversations instead of text; only the source and the rates differ."""
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanochat.data import loader
from nanochat.data.packing import Batch, Document
from nanochat.model import GPT, lora
from nanochat.optim import Optimizer, Schedule
from nanochat.optim.groups import groups_of
from nanochat.system import log, runtime
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.train import checkpoint, probe, target
from nanochat.train.journal import Journal
from nanochat.train.loop import LossOf, due, optimize
from nanochat.train.losses import can_compile, weighted_nll

# Flags that mid_train and chat_sft share, with the defaults that differ between them filled in by the recipe.
FLAGS: dict[str, Any] = dict(
    max_seq_len=flag(-1, "tokens in a row; −1 = as in pretraining", at_least=8),
    device_batch_size=flag(32, "rows per micro-batch and rank, fewer where the step has fewer; auto = what fits",
                           at_least=1, words={"auto": -1}),
    num_iterations=flag(-1, "steps; −1 = one pass over the mixture, or as --minutes says", at_least=1),
    minutes=flag(-1.0, "train for about so long, start and compiling included; steps from a measurement",
                 at_least=0.01),
    matrix_lr=flag(0.02, "Muon", at_least=0), embedding_lr=flag(0.3, "AdamW at width 768", at_least=0),
    head_lr=flag(0.008, "AdamW at width 768", at_least=0), warmup_steps=flag(0, at_least=0),
    lora=flag(0, "train thin matrices of this rank beside the blocks', to save memory; 0 = train all", at_least=0),
    source_tag=flag("", "which checkpoint to start from; default the deepest"),
    model_tag=flag("", "default: the source's"), **target.FLAGS,
    compile=flag(True, "torch.compile the loss"),
    seed=flag(0, "of the data order", at_least=0), device_type=flag("", "cuda, mps or cpu"),
    dtype=flag("", "of activations"))


def finetune(stage: str, source: str, args: Namespace, documents_of: Callable[[Any, int], list[Document]]) -> None:
    """Trains `stage` from the newest checkpoint of `source` on `documents_of(tokenizer, tokens in a row)`; saves it.

    Rates are those of pretraining times `args.init_lr_frac`; the optimizer starts afresh.
    """
    started = time.monotonic() - time.process_time()  # with the seconds that imports took
    if args.minutes > 0 and args.num_iterations > 0:
        raise UserError("--num_iterations and --minutes each say how long to train; give one of them")
    place, source, source_tag = target.claim_next(stage, source, args)
    if place.finished:
        return
    device = runtime.start(args.device_type, args.dtype)
    model, tokenizer, info = checkpoint.load_model(source, source_tag, dtype=device.dtype)
    if args.lora:  # before the move: the device may have no room for all weights in fp32
        lora.attach(model, args.lora, seed=args.seed, head=source == "base")
    model.to(device.device)
    row = model.config.sequence_len if args.max_seq_len == -1 else min(args.max_seq_len, model.config.sequence_len)
    documents = documents_of(tokenizer, row + 1)
    part = args.init_lr_frac
    def fresh_optimizer() -> Optimizer:
        return Optimizer(groups_of(model, matrix_lr=args.matrix_lr * part, embedding_lr=args.embedding_lr * part,
                                   head_lr=args.head_lr * part, scalar_lr=0.5 * part), device.dtype)

    optimizer = fresh_optimizer()
    most = max(1, args.total_batch_size // (device.world_size * row))
    auto = args.device_batch_size < 0
    rows = (probe.rows_that_fit(model, row, most, device) if auto
            else probe.largest_divisor(most, args.device_batch_size))
    accumulate = most // rows
    one_pass = sum(len(ids) for ids, _ in documents) // (accumulate * device.world_size * rows * row)
    steps = max(1, one_pass) if args.num_iterations == -1 else args.num_iterations
    at_once = rows * row * device.world_size  # tokens of a micro-batch on every rank
    compiles = args.compile and not 0 < args.minutes < probe.COMPILING_PAYS_FROM_MINUTES and can_compile(device.device)
    loss_of = weighted_nll(model, compiles)
    if args.minutes > 0:
        batch = probe.random_batch(rows, row, model.config.vocab_size, device.device)
        steps = place.found[1]["steps"] if place.found else timed(
            args.minutes, model, loss_of, optimizer, batch, at_once * accumulate, started, device)
        optimizer = fresh_optimizer()  # measuring has filled the moments
    journal = Journal(place, model, optimizer, steps=steps, source=checkpoint.identity(info),
                      tokenizer_folder=checkpoint.tokenizer_folder(Path(info["path"])))
    batches = loader.prefetched(loader.batches(
        loader.ListCorpus(documents), rows, row, tokenizer.bos_id, seed=args.seed, rank=device.rank,
        world_size=device.world_size, state=journal.state))
    schedule = Schedule(steps, args.warmup_steps, args.warmdown_fraction)
    with journal:
        for step in optimize(loss_of, optimizer, batches, schedule, runtime=device, steps=steps, start=journal.start,
                             accumulate=accumulate):
            journal.record(step, **{"train/targets_per_token": step.targets / step.tokens})
            if due(step, args.save_every):
                journal.save(step)
            journal.stop_if_asked(step)
        journal.finish(documents=len(documents), source=info["path"].rsplit("/", 3)[-3:])
    device.close()


def timed(minutes: float, model: GPT, loss_of: LossOf, optimizer: Optimizer, batch: Batch, total_batch: int,
          started: float, device: runtime.Runtime) -> int:
    """The steps for --minutes, measured here with steps that are undone: the weights are as before, moments are not."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    speed = probe.tokens_per_second(loss_of, optimizer, batch, total_batch, device, seconds=min(20, 6 * minutes))
    model.load_state_dict(before)
    spent = runtime.all_reduce_sum([time.monotonic() - started], device.device)[0] / device.world_size
    steps = probe.steps_for_minutes(minutes, spent=spent, step=total_batch / speed, evaluation=0, eval_every=-1)
    log.say(f"{speed:,.0f} tokens per second, so {steps:,} steps in {steps * total_batch / speed / 60:.2f} of the "
            f"{minutes:g} minutes; {spent:.0f} s are spent on starting and measuring")
    return steps
