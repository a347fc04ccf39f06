"""Midtraining: the base model learns the chat format, multiple choice by letter and the tool.

scripts/chat_sft.py has the same loop with other defaults. They are two files, so that each can be read and changed
without the other.

    python -m scripts.mid_train --mixture="facts,choice,problems*2,text*0.2"
    torchrun --standalone --nproc_per_node=8 -m scripts.mid_train -- --device_batch_size=16
"""
import time

from nanochat.data import loader
from nanochat.eval.words import Words
from nanochat.optim import Optimizer, Schedule
from nanochat.optim.groups import groups_of
from nanochat.sandbox import calculate
from nanochat.system import cli
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.system.runtime import start as start_runtime
from nanochat.train import checkpoint, probe, target
from nanochat.train.flags import CHECKPOINTS, CONVERSATIONS, MACHINE, RATES, rates, wants_compiling
from nanochat.train.journal import Journal
from nanochat.train.loop import due, optimize
from nanochat.train.losses import can_compile, weighted_nll
from tasks import mixture


def flags(argv: list[str] | None) -> cli.Args:
    return cli.parse(
        argv, __doc__, **CONVERSATIONS, **mixture.FLAGS, **RATES, **CHECKPOINTS, **MACHINE,
        total_batch_size=flag(524_288, "tokens per step over all ranks", at_least=1),
        init_lr_frac=flag(1.0, "learning rates relative to pretraining; 1.2 in the laptop's recipe", at_least=0),
        warmdown_fraction=flag(Schedule.warmdown_fraction, "share of steps with falling rates", at_least=0, at_most=1),
        loss_on=flag("all", "assistant = only the assistant's tokens are targets", choices=("all", "assistant")))


def main(argv: list[str] | None = None) -> None:
    # Estimates when the process began: its CPU time so far is the time of the imports.
    started = time.monotonic() - time.process_time()
    args = flags(argv)
    if args.minutes > 0 and args.num_iterations > 0:
        raise UserError("--num_iterations and --minutes each say how long to train; give one of them")

    # ---- Plan. If a finished model of this name exists, the command stops here, before any work.
    run, source, source_tag = target.claim_next("mid", "base", args)
    if run.finished:
        return
    runtime = start_runtime(args.device_type, args.dtype)

    # ---- Model and conversations. A conversation longer than a row loses its last turns; a line says how many do.
    model, tokenizer, origin = checkpoint.load_for_training(source, source_tag, runtime, args.lora, args.seed)
    context = model.config.sequence_len
    row_len = context if args.max_seq_len < 0 else min(args.max_seq_len, context)
    documents = mixture.documents(args.mixture, tokenizer, own=args.conversations, max_tokens=row_len + 1,
                                  seed=args.seed, learn_all=args.loss_on == "all")

    # ---- A step. If memory still runs out, the loop continues with half as many rows at a time.
    rows, accumulate = probe.rows_and_accumulation(
        model, row_len, args.total_batch_size, args.device_batch_size, runtime)
    step_tokens = rows * accumulate * row_len * runtime.world_size
    loss_of = weighted_nll(model, wants_compiling(args) and can_compile(runtime.device))

    # ---- How long. A resumed run keeps its number of steps: another number would give another schedule.
    def new_optimizer() -> Optimizer:
        return Optimizer(groups_of(model, **rates(args, args.init_lr_frac)), runtime.dtype)

    steps_of_one_pass = max(1, sum(len(ids) for ids, _ in documents) // step_tokens)
    steps = run.steps or (args.num_iterations if args.num_iterations > 0 else steps_of_one_pass)
    if args.minutes > 0 and not run.steps:
        batch = probe.random_batch(rows, row_len, model.config.vocab_size, runtime.device)
        steps = probe.steps_for_minutes(args.minutes, model, loss_of, new_optimizer, batch, step_tokens, runtime,
                                        started=started)

    # ---- Train. A loss that diverges, a full disk and a signal end the run with the last checkpoint intact.
    optimizer = new_optimizer()
    words = Words(model, tokenizer, "mid", calculate)
    journal = Journal(run, model, optimizer, steps=steps, source=origin, words=words)
    batches = loader.prefetched(loader.batches(
        loader.ListCorpus(documents), rows, row_len, tokenizer.bos_id, seed=args.seed, rank=runtime.rank,
        world_size=runtime.world_size, state=journal.state))
    schedule = Schedule(steps, args.warmup_steps, args.warmdown_fraction)
    with journal:
        for step in optimize(loss_of, optimizer, batches, schedule, runtime=runtime, steps=steps, start=journal.start,
                             accumulate=accumulate):
            journal.record(step, **{"train/targets_per_token": step.targets / step.tokens})
            if due(step, args.save_every):
                journal.save(step)
            journal.stop_if_asked(step)
        # The source is [stage, tag, step_…] of the model from which this stage started.
        journal.finish(documents=len(documents), source=origin["path"].rsplit("/", 3)[-3:])
    runtime.close()


if __name__ == "__main__":
    cli.run(main)
