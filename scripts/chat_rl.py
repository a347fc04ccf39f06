"""Reinforcement learning: the model answers questions, and correct answers become more probable.

    python -m scripts.chat_rl --task=problems --num_iterations=200
    torchrun --standalone --nproc_per_node=8 -m scripts.chat_rl -- --task=gsm8k --eval_every=60

With --eval_every=N the model answers test questions every N steps (pass@1, pass@k), and its distance from the source
model is measured: KL in nats per token, reported, not penalised. At these steps and at every checkpoint the main rank
writes its training answers with their rewards. nanochat/train/rollout.py explains how this simplifies GRPO, and why.
"""
import copy
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import tasks
from nanochat import sandbox
from nanochat.data.packing import Rows, pack
from nanochat.eval.chat import ExamSettings, evaluate
from nanochat.eval.words import Words
from nanochat.infer import Engine
from nanochat.infer.cuda_graphs import CudaGraphs
from nanochat.infer.numba_decode import numba_decoder
from nanochat.infer.request import Completion
from nanochat.model import GPT
from nanochat.optim import Optimizer, Schedule
from nanochat.optim.groups import groups_of
from nanochat.system import cli, files, hardware
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.system.numbers import ceil_div
from nanochat.system.runtime import Runtime
from nanochat.system.runtime import start as start_runtime
from nanochat.tokenizer import Tokenizer, chat
from nanochat.train import checkpoint, target
from nanochat.train.flags import CHECKPOINTS, MACHINE, NEXT_STAGE, RATES, rates, wants_compiling
from nanochat.train.journal import Journal
from nanochat.train.loop import due, optimize
from nanochat.train.losses import can_compile, mean_kl, weighted_nll
from nanochat.train.rollout import Rollouts
from tasks import mixture


def flags(argv: list[str] | None) -> cli.Args:
    return cli.parse(
        argv, __doc__, **NEXT_STAGE, **RATES, **CHECKPOINTS, **MACHINE,
        task=flag("gsm8k", "the task whose training questions the model answers"),
        source=flag("sft", "stage to start from", choices=("base", "mid", "sft")),
        num_iterations=flag(-1, "steps; −1 = one pass over the questions", at_least=1),
        examples_per_step=flag(16, "questions per step over all ranks", at_least=1),
        num_samples=flag(16, "answers per question", at_least=2),
        max_new_tokens=flag(256, "length limit of an answer", at_least=1),
        temperature=flag(1.0, "sampling temperature of the answers", at_least=0.01),
        top_k=flag(50, "sample among this many tokens; 0 = all", at_least=0),
        device_batch_size=flag(16, "rows per micro-batch", at_least=1),
        mixture=flag("", "lessons that every step repeats, or practice would undo them; as chat_sft's"),
        # Embedding and head need lower rates in RL than pretraining's times init_lr_frac, so the recipes also give
        # --embedding_lr and --head_lr: an AdamW step does not shrink with the gradient, so noise moves every row of the
        # embedding, until answers no longer end (docs/LOG.md).
        init_lr_frac=flag(0.05, "learning rates relative to pretraining", at_least=0),
        warmdown_fraction=flag(1.0, "fraction of steps in which the rates fall", at_least=0, at_most=1),
        eval_every=flag(-1, "steps between tests; −1 = no tests", at_least=1),
        eval_questions=flag(400, "number of test questions, with --num_samples answers to each", at_least=1),
        cuda_graphs=flag(False, "use CUDA graphs for decoding (no GPU has run this yet)"),
        unsafe_execution=flag(False, "run model-written code even if the sandbox is incomplete here"),
        seed=flag(0, "random seed of questions and samples", at_least=0))


def main(argv: list[str] | None = None) -> None:
    args = flags(argv)

    # ---- Plan. A finished model of this name, or a task without a reward, stops the command here, before any work.
    run, source, source_tag = target.claim_next("rl", args.source, args)
    if run.finished:
        return
    runtime = start_runtime(args.device_type, args.dtype)
    task = rewarded_task(args)

    # ---- Model and questions. A question that leaves no room for an answer is an error; it is not skipped silently.
    model, tokenizer, origin = checkpoint.load_for_training(source, source_tag, runtime, args.lora, args.seed)
    items, prompts = questions(task, tokenizer, args.seed, model.config.sequence_len)
    share_rows = model.config.document_bos is not None  # several answers in a row, which do not see each other
    longest = model.config.sequence_len if share_rows else max(map(len, prompts)) + args.max_new_tokens
    row_len = min(model.config.sequence_len, longest) + 1  # T inputs, T targets
    steps = args.num_iterations if args.num_iterations > 0 else max(1, len(items) // args.examples_per_step)
    reference = checkpoint.load_model(source, origin["tag"], origin["step"], runtime.device,
                                      runtime.dtype)[0] if args.eval_every > 0 else None

    # ---- Rollouts. The engine samples with the weights as they are, on a GPU with a copy. The scalar parameters
    # (residual and embedding scalars, smear, backout) are frozen: our choice, not measured.
    optimizer = Optimizer(groups_of(model, **rates(args, args.init_lr_frac) | {"scalar_lr": 0.0}), runtime.dtype)
    words = Words(model, tokenizer, "rl", sandbox.calculate)
    journal = Journal(run, model, optimizer, steps=steps, source=origin, words=words)
    sampling_model = model if runtime.device.type == "cpu" else copy.deepcopy(model).to(runtime.dtype)
    engine = Engine(sampling_model, tokenizer, sandbox.calculate, answers_at_once(model, args, row_len, runtime),
                    decoder=CudaGraphs if args.cuda_graphs else numba_decoder,
                    max_len=row_len if args.cuda_graphs and reference is None else None)  # tests may be longer

    def generate(prompts: list[list[int]], seed: int) -> Sequence[Sequence[Completion]]:
        copy_weights(model, sampling_model)
        return engine.generate(prompts, max_tokens=args.max_new_tokens, temperature=args.temperature,
                               top_k=args.top_k or None, seed=seed, samples=args.num_samples)

    rollouts = Rollouts(generate, items, prompts, task.reward, runtime, args.examples_per_step, args.device_batch_size,
                        row_len, tokenizer.bos_id, lessons(args, tokenizer, row_len), share_rows,
                        args.seed * 1_000_003, journal.start)
    loss_of = weighted_nll(model, wants_compiling(args) and can_compile(runtime.device))

    # ---- Train. If all answers to each question of a step get the same reward, the weights do not change.
    with journal:
        for step in optimize(loss_of, optimizer, iter(rollouts), Schedule(steps, 0, args.warmdown_fraction),
                             runtime=runtime, steps=steps, start=journal.start,
                             accumulate=rollouts.micro_batches(args.num_samples)):
            numbers: dict[str, float] = {}
            if reference is not None and due(step, args.eval_every):
                copy_weights(model, sampling_model)
                numbers = test_scores(task, engine, args)
                numbers["rl/kl_nats_per_token"] = mean_kl(model, reference, rollouts.answers, args.device_batch_size,
                                                          runtime.device)
            journal.record(step, **rollouts.stats, **numbers)
            is_saved = due(step, args.save_every)
            if runtime.is_main and (numbers or is_saved):
                keep_samples(run.results, step.number, rollouts.samples, args.num_samples if is_saved else 0)
            if is_saved:
                journal.save(step)
            journal.stop_if_asked(step)
        journal.finish(task=args.task, questions=len(items))
    runtime.close()


def keep_samples(folder: Path, step: int, samples: list[dict[str, Any]], every: int) -> None:
    """All answers of a step, and of each `every` answers one (one to each question) for the report; none with 0."""
    files.write_jsonl(folder / "samples" / f"step_{step:06d}.jsonl", samples)
    if every:
        files.write_json(folder / "samples.json", samples[::every])


@torch.no_grad()
def answers_at_once(model: GPT, args: cli.Args, row_len: int, runtime: Runtime) -> int:
    """The number of answers to generate together: all of this rank's answers, or fewer, so that keys and values take at
    most a quarter of the free memory. One GPU in place of eight has 256 answers: 14 GB for a d20."""
    config = model.config
    row_bytes = 2 * config.n_layer * config.n_kv_head * config.head_dim * row_len * runtime.dtype.itemsize
    own_rows: int = ceil_div(args.examples_per_step, runtime.world_size) * args.num_samples
    return max(1, min(own_rows, hardware.free_memory(runtime.device) // 4 // row_bytes))


def copy_weights(model: GPT, sampling_model: GPT) -> None:
    """Copies the weights of `model` into `sampling_model`, cast to its dtype: once a step, because to cast all weights
    at every token would cost more than the matrix products."""
    if sampling_model is not model:
        torch._foreach_copy_(list(sampling_model.parameters()), list(model.parameters()))


def rewarded_task(args: cli.Args) -> tasks.Task:
    """The task of --task. UserError if it has no reward, no test questions, or programs that cannot be isolated."""
    if args.unsafe_execution:
        sandbox.allow_unsafe()
    task = tasks.find(args.task)
    if task.kind != "generative":
        raise UserError(f"--task={args.task} has no reward; choose a task that is answered in words, e.g. gsm8k")
    if task.runs_programs:
        sandbox.require()
    if args.eval_every > 0:
        task.require_path("test")
    return task


def questions(task: tasks.Task, tokenizer: Tokenizer, seed: int,
              context: int) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """The task's training questions, shuffled, and their token ids. UserError if one leaves no room for an answer."""
    items = task.load("train")
    random.Random(seed).shuffle(items)
    prompts = [chat.render_prompt(tokenizer, task.conversation(item)) for item in items]
    longest = max(map(len, prompts))
    if longest + 8 > context:
        raise UserError(f"the longest question of {task.name} has {longest} tokens, the model's rows {context}; "
                        "train it with a larger --max_seq_len")
    return items, prompts


def lessons(args: cli.Args, tokenizer: Tokenizer, row_len: int) -> Rows | None:
    """The lessons of --mixture, packed into rows; turns that are longer than a row are left out."""
    if not args.mixture:
        return None
    documents = mixture.documents(args.mixture, tokenizer, max_tokens=row_len, seed=args.seed)
    return pack(documents, row_len, tokenizer.bos_id, np.random.default_rng(args.seed))


def test_scores(task: tasks.Task, engine: Engine, args: cli.Args) -> dict[str, float]:
    """The model's scores on test questions, sampled as in training."""
    score = evaluate(task, engine, args.eval_questions, ExamSettings(
        samples=args.num_samples, seed=args.seed, temperature=args.temperature, top_k=args.top_k or None,
        max_tokens=args.max_new_tokens))
    return {"rl/test_pass_at_1": score.accuracy, "rl/test_pass_at_k": score.extra["pass_at_k"]}


if __name__ == "__main__":
    cli.run(main)
