"""Reinforcement learning: the model answers questions, right answers become likelier.

    python -m scripts.chat_rl --task=problems --num_iterations=200
    torchrun --standalone --nproc_per_node=8 -m scripts.chat_rl -- --task=gsm8k --eval_every=60

With --eval_every the test questions are asked now and then (pass@1, pass@k), and the distance from the model it started
from is measured: KL in nats per token, reported, not penalised. Every answer of such a step is kept with its reward.
"""
import random
from pathlib import Path

import tasks
from nanochat import sandbox
from nanochat.eval.chat import ExamSettings, evaluate
from nanochat.infer import Engine
from nanochat.model import lora
from nanochat.optim import Optimizer, Schedule
from nanochat.optim.groups import groups_of
from nanochat.system import cli, files, log, runtime
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer, chat
from nanochat.train import checkpoint, target
from nanochat.train.journal import Journal
from nanochat.train.loop import due, optimize
from nanochat.train.losses import can_compile, mean_kl, weighted_nll
from nanochat.train.rollout import Rollouts


def flags(argv: list[str] | None):
    return cli.parse(
        argv, __doc__,
        task=flag("gsm8k", "whose training questions to practise"),
        source=flag("sft", "stage to start from", choices=("base", "mid", "sft")),
        source_tag=flag("", "default: the deepest"),
        model_tag=flag("", "default: the source's"),
        num_iterations=flag(-1, "steps; −1 = one pass over the questions", at_least=1),
        examples_per_step=flag(16, "questions per step over all ranks", at_least=1),
        num_samples=flag(16, "answers per question", at_least=2),
        max_new_tokens=flag(256, "per answer", at_least=1), temperature=flag(1.0, at_least=0.01),
        top_k=flag(50, "0 = all", at_least=0), device_batch_size=flag(16, "rows per micro-batch", at_least=1),
        matrix_lr=flag(0.02, "Muon", at_least=0), embedding_lr=flag(0.3, "AdamW at width 768", at_least=0),
        head_lr=flag(0.008, "AdamW at width 768", at_least=0), init_lr_frac=flag(0.05, "of those rates", at_least=0),
        warmdown_fraction=flag(1.0, "of all steps", at_least=0, at_most=1),
        lora=flag(0, "train thin matrices of this rank beside the blocks', to save memory; 0 = train all", at_least=0),
        eval_every=flag(-1, "steps between tests; −1 = none", at_least=1),
        eval_questions=flag(400, "of the task's test items, --num_samples answers to each", at_least=1),
        **target.FLAGS,
        compile=flag(True, "torch.compile the loss"),
        unsafe_execution=flag(False, "run model-written code where the sandbox is incomplete"),
        seed=flag(0, "of questions and samples", at_least=0), device_type=flag("", "cuda, mps or cpu"),
        dtype=flag("", "of activations"))


def main(argv: list[str] | None = None) -> None:
    args = flags(argv)
    place, _, source_tag = target.claim_next("rl", args.source, args)
    if place.finished:
        return
    device = runtime.start(args.device_type, args.dtype)
    if args.unsafe_execution:
        sandbox.allow_unsafe()
    task = tasks.find(args.task)
    if task.kind != "generative":
        raise UserError(f"--task={args.task} has no reward; choose one that is answered in words, e.g. gsm8k")
    if task.runs_programs:
        sandbox.require()
    model, tokenizer, info = checkpoint.load_model(args.source, source_tag, dtype=device.dtype)
    if args.lora:  # before the move: the device may have no room for all weights in fp32
        lora.attach(model, args.lora, seed=args.seed, head=args.source == "base")
    model.to(device.device)
    items, prompts = questions(task, tokenizer, args.seed, model.config.sequence_len)
    row_len = min(model.config.sequence_len, max(map(len, prompts)) + args.max_new_tokens) + 1
    steps = args.num_iterations if args.num_iterations > 0 else max(1, len(items) // args.examples_per_step)
    fraction = args.init_lr_frac
    reference = None
    if args.eval_every > 0:
        task.require_path("test")
        reference = checkpoint.load_model(args.source, info["tag"], info["step"], device.device, device.dtype)[0]
    optimizer = Optimizer(groups_of(
        model, matrix_lr=args.matrix_lr * fraction, embedding_lr=args.embedding_lr * fraction,
        head_lr=args.head_lr * fraction, scalar_lr=0.0), device.dtype)
    journal = Journal(place, model, optimizer, steps=steps, source=checkpoint.identity(info),
                      tokenizer_folder=checkpoint.tokenizer_folder(Path(info["path"])))
    engine = Engine(model, tokenizer, tool=sandbox.calculate, max_rows=args.examples_per_step * args.num_samples,
                    numba_decode=True)

    def generate(prompts: list[list[int]], seed: int):
        return engine.generate(prompts, max_tokens=args.max_new_tokens, temperature=args.temperature,
                               top_k=args.top_k or None, seed=seed, samples=args.num_samples)

    rollouts = Rollouts(generate, items, prompts, task.reward, device, args.examples_per_step, args.device_batch_size,
                        row_len, tokenizer.bos_id, seed=args.seed * 1_000_003, step=journal.start)
    loss_of = weighted_nll(model, args.compile and can_compile(device.device))
    with journal:
        schedule = Schedule(steps, 0, args.warmdown_fraction)
        for step in optimize(loss_of, optimizer, iter(rollouts), schedule, runtime=device, steps=steps,
                             start=journal.start, accumulate=rollouts.micro_batches(args.num_samples)):
            numbers = {}
            if reference and due(step, args.eval_every):
                numbers = test_scores(task, engine, args)
                numbers["rl/kl_nats_per_token"] = mean_kl(model, reference, rollouts.answers, args.device_batch_size,
                                                          device.device)
            journal.record(step, **rollouts.stats, **numbers)
            if log.is_main() and (numbers or due(step, args.save_every)):
                kept = place.results / "samples" / f"step_{step.number:06d}.jsonl"
                files.write_jsonl(kept, rollouts.samples)
            if due(step, args.save_every):
                journal.save(step)
                if log.is_main():
                    files.write_json(place.results / "samples.json", rollouts.samples[::args.num_samples])
            journal.stop_if_asked(step)
        journal.finish(task=args.task, questions=len(items))
    device.close()


def questions(task: tasks.Task, tokenizer: Tokenizer, seed: int, context: int) -> tuple[list[dict], list[list[int]]]:
    """The task's training questions, shuffled, and their token ids. UserError when one leaves no room for an answer."""
    items = task.load("train")
    random.Random(seed).shuffle(items)
    prompts = [chat.render_prompt(tokenizer, task.conversation(item)) for item in items]
    longest = max(map(len, prompts))
    if longest + 8 > context:
        raise UserError(f"the longest question of {task.name} has {longest} tokens, the model's rows {context}; "
                        "train it with a larger --max_seq_len")
    return items, prompts


def test_scores(task: tasks.Task, engine: Engine, args) -> dict[str, float]:
    """How the model does on test questions, sampled as in training."""
    score = evaluate(task, engine, args.eval_questions, ExamSettings(
        samples=args.num_samples, seed=args.seed, temperature=args.temperature, top_k=args.top_k or None,
        max_tokens=args.max_new_tokens))
    return {"rl/test_pass_at_1": score.accuracy, "rl/test_pass_at_k": score.extra["pass_at_k"]}


if __name__ == "__main__":
    cli.run(main)
