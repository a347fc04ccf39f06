"""Reinforcement learning: the model answers questions, right answers become likelier.

    python -m scripts.chat_rl --task=problems --num_iterations=200
    torchrun --standalone --nproc_per_node=8 -m scripts.chat_rl -- --task=gsm8k --eval_every=60

With --eval_every the test questions are asked now and then (pass@1, pass@k), and the distance from the source model is
measured: KL in nats per token, reported, not penalised. Every answer of such a step is kept with its reward.
nanochat/train/rollout.py tells which simplifications of GRPO this is, and why.
"""
import copy
import random
from collections.abc import Sequence
from typing import Any

import torch

import tasks
from nanochat import sandbox
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


def flags(argv: list[str] | None) -> cli.Args:
    return cli.parse(
        argv, __doc__, **NEXT_STAGE, **RATES, **CHECKPOINTS, **MACHINE,
        task=flag("gsm8k", "the task whose training questions are practised"),
        source=flag("sft", "stage to start from", choices=("base", "mid", "sft")),
        num_iterations=flag(-1, "steps; −1 = one pass over the questions", at_least=1),
        examples_per_step=flag(16, "questions per step over all ranks", at_least=1),
        num_samples=flag(16, "answers per question", at_least=2),
        max_new_tokens=flag(256, "per answer", at_least=1),
        temperature=flag(1.0, "of the samples", at_least=0.01),
        top_k=flag(50, "sample among this many tokens; 0 = all", at_least=0),
        device_batch_size=flag(16, "rows per micro-batch", at_least=1),
        init_lr_frac=flag(0.05, "of the pretraining rates", at_least=0),
        warmdown_fraction=flag(1.0, "of all steps", at_least=0, at_most=1),
        eval_every=flag(-1, "steps between tests; −1 = none", at_least=1),
        eval_questions=flag(400, "of the task's test items, --num_samples answers to each", at_least=1),
        cuda_graphs=flag(False, "answer with recorded decode steps (no GPU has run this yet)"),
        unsafe_execution=flag(False, "run model-written code where the sandbox is incomplete"),
        seed=flag(0, "of questions and samples", at_least=0))


def main(argv: list[str] | None = None) -> None:
    args = flags(argv)

    # ---- Plan. A finished model of this name, or a task without a reward, is refused here, before any work.
    place, source, source_tag = target.claim_next("rl", args.source, args)
    if place.finished:
        return
    runtime = start_runtime(args.device_type, args.dtype)
    task = rewarded_task(args)

    # ---- Model and questions. A question that leaves no room for an answer is an error, not a silent loss.
    model, tokenizer, origin = checkpoint.load_for_training(source, source_tag, runtime, args.lora, args.seed)
    items, prompts = questions(task, tokenizer, args.seed, model.config.sequence_len)
    row_len = min(model.config.sequence_len, max(map(len, prompts)) + args.max_new_tokens) + 1
    steps = args.num_iterations if args.num_iterations > 0 else max(1, len(items) // args.examples_per_step)
    reference = checkpoint.load_model(source, origin["tag"], origin["step"], runtime.device,
                                      runtime.dtype)[0] if args.eval_every > 0 else None

    # ---- Rollouts. The engine samples with the very weights that are trained. On a GPU it has a copy of them in the
    # dtype of the products, made anew at every step: casting all weights at every token costs more than the products.
    # The factors of the residual stream do not learn in RL: our choice, which nobody has measured.
    optimizer = Optimizer(groups_of(model, **rates(args, args.init_lr_frac) | {"scalar_lr": 0.0}), runtime.dtype)
    words = Words(model, tokenizer, "rl", sandbox.calculate)
    journal = Journal(place, model, optimizer, steps=steps, source=origin, words=words)
    speaker = model if runtime.device.type == "cpu" else copy.deepcopy(model).to(runtime.dtype)
    engine = Engine(speaker, tokenizer, sandbox.calculate, answers_at_once(model, args, row_len, runtime),
                    decoder=CudaGraphs if args.cuda_graphs else numba_decoder,
                    max_len=row_len if args.cuda_graphs and reference is None else None)

    def generate(prompts: list[list[int]], seed: int) -> Sequence[Sequence[Completion]]:
        copy_weights(model, speaker)
        return engine.generate(prompts, max_tokens=args.max_new_tokens, temperature=args.temperature,
                               top_k=args.top_k or None, seed=seed, samples=args.num_samples)

    rollouts = Rollouts(generate, items, prompts, task.reward, runtime, args.examples_per_step, args.device_batch_size,
                        row_len, tokenizer.bos_id, seed=args.seed * 1_000_003, step=journal.start)
    loss_of = weighted_nll(model, wants_compiling(args) and can_compile(runtime.device))

    # ---- Train. Where all answers of a step get the same reward, there is no gradient and the weights stay.
    schedule = Schedule(steps, 0, args.warmdown_fraction)
    with journal:
        for step in optimize(loss_of, optimizer, iter(rollouts), schedule, runtime=runtime, steps=steps,
                             start=journal.start, accumulate=rollouts.micro_batches(args.num_samples)):
            numbers: dict[str, float] = {}
            if reference is not None and due(step, args.eval_every):
                copy_weights(model, speaker)
                numbers = test_scores(task, engine, args)
                numbers["rl/kl_nats_per_token"] = mean_kl(model, reference, rollouts.answers, args.device_batch_size,
                                                          runtime.device)
            journal.record(step, **rollouts.stats, **numbers)
            is_saved = due(step, args.save_every)
            if runtime.is_main and (numbers or is_saved):
                files.write_jsonl(place.results / "samples" / f"step_{step.number:06d}.jsonl", rollouts.samples)
            if runtime.is_main and is_saved:  # an answer to each question, for the report
                files.write_json(place.results / "samples.json", rollouts.samples[::args.num_samples])
            if is_saved:
                journal.save(step)
            journal.stop_if_asked(step)
        journal.finish(task=args.task, questions=len(items))
    runtime.close()


@torch.no_grad()
def answers_at_once(model: GPT, args: cli.Args, row_len: int, runtime: Runtime) -> int:
    """All of this rank's, or as many as have their keys and values in a quarter of the free memory. One GPU
    instead of eight has 256 rows, which are 14 GB for a d20."""
    config = model.config
    row_bytes = 2 * config.n_layer * config.n_kv_head * config.head_dim * row_len * runtime.dtype.itemsize
    own_rows: int = ceil_div(args.examples_per_step, runtime.world_size) * args.num_samples
    return max(1, min(own_rows, hardware.free_memory(runtime.device) // 4 // row_bytes))


def copy_weights(model: GPT, speaker: GPT) -> None:
    """Gives `speaker` the weights of `model`, in its own dtype."""
    if speaker is not model:
        torch._foreach_copy_(list(speaker.parameters()), list(model.parameters()))


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
    """The task's training questions, shuffled, and their token ids. UserError when one leaves no room for an answer."""
    items = task.load("train")
    random.Random(seed).shuffle(items)
    prompts = [chat.render_prompt(tokenizer, task.conversation(item)) for item in items]
    longest = max(map(len, prompts))
    if longest + 8 > context:
        raise UserError(f"the longest question of {task.name} has {longest} tokens, the model's rows {context}; "
                        "train it with a larger --max_seq_len")
    return items, prompts


def test_scores(task: tasks.Task, engine: Engine, args: cli.Args) -> dict[str, float]:
    """The model's scores on test questions, sampled as in training."""
    score = evaluate(task, engine, args.eval_questions, ExamSettings(
        samples=args.num_samples, seed=args.seed, temperature=args.temperature, top_k=args.top_k or None,
        max_tokens=args.max_new_tokens))
    return {"rl/test_pass_at_1": score.accuracy, "rl/test_pass_at_k": score.extra["pass_at_k"]}


if __name__ == "__main__":
    cli.run(main)
