"""The exams: accuracy of a chat model on tasks, with standard errors, every answer saved.

    python -m scripts.chat_eval -i sft                      all tasks whose files are in the data folder
    python -m scripts.chat_eval -i sft -a "all|strangers"   with the questions of outsiders (tasks/strangers.py)
    python -m scripts.chat_eval -i rl -a "GSM8K|ARC-Easy" -x 200
    python -m scripts.chat_eval -i sft -a MMLU              one exam: also the accuracy of each subject
    python -m scripts.chat_eval -i rl -a GSM8K -n 8 -t 1    pass@1, 2, 4, 8
    torchrun --standalone --nproc_per_node=8 -m scripts.chat_eval -- -i mid
"""
import functools
import os
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import tasks
from nanochat import sandbox
from nanochat.eval import chat, record
from nanochat.infer import Engine
from nanochat.infer.cuda_graphs import CudaGraphs
from nanochat.infer.numba_decode import numba_decoder
from nanochat.infer.quantize import FORMS, packer
from nanochat.system import cli, files, log, paths, results
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.system.runtime import start as start_runtime
from nanochat.train import checkpoint

GREEDY = [1, 0.0, 0, -1]  # samples, temperature, top_k, max_new_tokens of scores that older code saved without them
Scores = dict[str, dict[str, Any]]  # by task


def flags(argv: list[str] | None) -> cli.Args:
    return cli.parse(
        argv, __doc__, **checkpoint.flags("sft"),
        task_name=flag("", "tasks joined by |; default: all = every task in the data folder", short="a"),
        max_problems=flag(-1, "questions of each task, drawn at random; −1 = all", at_least=1, short="x"),
        max_choices=flag(-1, "the same for tasks answered by a letter, which cost little; −1 = --max_problems",
                         at_least=1),
        batch_size=flag(32, "answers at a time and rank", at_least=1, short="b"),
        num_samples=flag(1, "answers to a question; more than 1 gives pass@k", at_least=1, short="n"),
        temperature=flag(0.0, "0 = greedy", at_least=0, short="t"), top_k=flag(0, "0 = all", at_least=0, short="k"),
        seed=flag(0, "random seed of the samples", at_least=0),
        max_new_tokens=flag(-1, "length limit of an answer; −1 = as the task says", at_least=1, short="m"),
        cuda_graphs=flag(False, "use CUDA graphs for decoding (no GPU has run this yet)"),
        unsafe_execution=flag(False, "run model-written code even if the sandbox is incomplete here"),
        device_type=flag("", "cuda, mps or cpu"), dtype=flag("", "dtype of activations", short="d"),
        quantize=flag("", "weights in 8 or 4 bits (CPU)", choices=("", *FORMS)))


def main(argv: list[str] | None = None) -> None:
    args = flags(argv)
    started = time.monotonic()

    # ---- Which exams. A task that this machine cannot run is refused or left out before the model is loaded.
    if args.num_samples > 1 and not args.temperature:
        raise UserError(f"--num_samples={args.num_samples} greedy answers would all be equal; add --temperature=1")
    if args.unsafe_execution:
        sandbox.allow_unsafe()
    chosen, left_out = choose(args.task_name)

    # ---- Model, and the scores that it already has: this run adds to them.
    runtime = start_runtime(args.device_type, args.dtype)
    model, tokenizer, state = checkpoint.load_model(
        args.source, args.model_tag, args.step, runtime.device, runtime.dtype, packer(args.quantize, runtime.device))
    engine = Engine(model, tokenizer, tool=sandbox.calculate, max_rows=args.batch_size,
                    decoder=CudaGraphs if args.cuda_graphs else numba_decoder)
    folder = results.folder_of(args.source, state["tag"])
    if args.quantize:  # the quantized model is another model, with its own folder of results
        state["tag"] = f"{state['tag']}-{args.quantize}"
        folder = paths.results_dir(args.source) / results.MODELS / state["tag"]
    about = record.identity(state)
    scores = scores_so_far(folder / "chat_eval.json", about)
    left_out = {name: reason for name, reason in left_out.items() if name not in scores}
    for name, reason in left_out.items():
        log.say(f"left out: {tasks.find(name).title}, whose answers are programs; {reason}")

    # ---- The exams. Scores are saved after every task, so an interruption loses one task at most.
    settings = chat.ExamSettings(
        batch_size=args.batch_size, samples=args.num_samples, temperature=args.temperature, top_k=args.top_k or None,
        seed=args.seed, max_tokens=args.max_new_tokens if args.max_new_tokens > 0 else None)
    with log.Progress(f"exams of {args.source}", len(chosen), unit="tasks") as bar:
        for number, task in enumerate(chosen):
            began = time.monotonic()
            report = functools.partial(show_progress, bar, number, task.name)
            score = chat.evaluate(task, engine, limit(task, args), settings, save_to=folder / f".{task.name}.jsonl",
                                  report=report)
            if note := score.extra.get("left_out"):
                log.say(f"left out of {task.title}: {note}")
            scores[task.name] = {**score.as_dict(), "sampling": sampling_of(args),
                                 "seconds": round(time.monotonic() - began, 2)}
            core, stderr = chat.chat_core(scores) or (None, None)
            if runtime.is_main and number == 0:  # not earlier: a run without any score must not move files
                keep_earlier(folder / "chat_eval.json", about, chosen, args)
            if runtime.is_main:
                save(folder, task.name, {**about, "chat_core": core, "chat_core_stderr": stderr, "left_out": left_out,
                                         "tasks": scores})

    # ---- The result.
    if runtime.is_main:
        show(args.source, {task.name: scores[task.name] for task in chosen})
    if core is not None:
        limits = f" on at most {args.max_problems} items a task" * (args.max_problems > 0)
        limits += f", {args.max_choices} where a letter answers" * (args.max_choices > 0)
        log.say(f"ChatCORE {core:.4f} ± {stderr:.4f}{limits}")
    elif names := [tasks.find(name).title for name in left_out if name in chat.CHAT_CORE]:
        log.say(f"ChatCORE is not computed: it needs {', '.join(names)} as well")
    record.write_run(f"chat_eval_{args.source}", folder / "chat_eval", args, started)
    runtime.close()


def show_progress(bar: log.Progress, number: int, name: str, done: int) -> None:
    bar.update(number, **{name: done})


def choose(names: str) -> tuple[list[tasks.Task], dict[str, str]]:
    """(the named tasks, "all" = every exam with test items in the data folder; {task that is left out: reason}).

    Exams that run programs are left out if this machine cannot isolate programs. UserError if no exam is left, or if a
    named task would have to be left out.
    """
    words = names.split("|") if names else ["all"]
    named = [tasks.find(word) for word in words if word != "all"]
    for task in named:
        if task.kind == "source":
            raise UserError(f"{task.name} holds conversations to learn from, no questions with right answers")
        task.require_path("test")
    if any(task.runs_programs for task in named):
        sandbox.require()
    if "all" not in words:
        return named, {}
    present = [task for task in map(tasks.find, tasks.names())
               if task.kind != "source" and task.path("test") and task not in named]
    if not present and not named:
        raise UserError(f"there are no exams in {paths.data_dir()}; make the kindergarten's with "
                        "`python -m nanochat.dataset`, or name a folder of real data with --data (NANOCHAT_DATA)")
    programs = [task for task in present if task.runs_programs]
    try:
        if programs:
            sandbox.require()
    except UserError as error:
        if programs == [*present, *named]:
            raise
        return [*(task for task in present if task not in programs), *named], {task.name: str(error)
                                                                               for task in programs}
    return [*present, *named], {}


def limit(task: tasks.Task, args: cli.Args) -> int:
    """The number of the task's items to use; −1 = all."""
    max_items: int = args.max_choices if task.kind == "categorical" and args.max_choices > 0 else args.max_problems
    return max_items


def scores_so_far(path: Path, about: dict[str, Any]) -> Scores:
    """The file's scores if they belong to exactly this model; -a adds to them."""
    before = files.read_json(path) if path.exists() else {}
    return dict(before["tasks"]) if about.items() <= before.items() else {}


def sampling_of(args: cli.Args) -> list[float]:
    return [args.num_samples, args.temperature, args.top_k, args.max_new_tokens]


def keep_earlier(path: Path, about: dict[str, Any], chosen: list[tasks.Task], args: cli.Args) -> None:
    """Keeps the scores and answers that this run replaces: all scores of another model; of the same model the tasks
    that now get fewer items or other sampling."""
    # Fewer items or other sampling is another measurement. The same items with the same sampling are a repetition.
    answers, before = path.parent / "generations", scores_so_far(path, about)
    if not before:
        return results.keep_earlier(path, answers)
    lost = [task.name for task in chosen if (score := before.get(task.name))
            and (0 < limit(task, args) < score["num_items"] or score.get("sampling", GREEDY) != sampling_of(args))]
    if lost:
        results.keep_earlier(path, *(answers / f"{name}.jsonl" for name in lost), copy=True)


def save(folder: Path, task_name: str, scores: dict[str, Any]) -> None:
    """Moves a task's answers to generations/ and writes the scores."""
    (folder / "generations").mkdir(exist_ok=True)
    os.replace(folder / f".{task_name}.jsonl", folder / "generations" / f"{task_name}.jsonl")
    files.write_json(folder / "chat_eval.json", scores)


def show(source: str, table: Scores) -> None:
    """The scores as a table on the terminal."""
    view = Table("task", "accuracy", "± s.e.", "chance", "items", "tool use", "right with tool",
                 title=f"exams of {source}")
    for name, score in table.items():
        optional = [score.get("tool_use"), score.get("accuracy_with_tool")]
        view.add_row(tasks.find(name).title, *(f"{score[key]:.3f}" for key in ("accuracy", "stderr", "chance")),
                     f"{score['num_items']:,}", *("" if value is None else f"{value:.3f}" for value in optional))
    Console().print(view)
    for name, score in table.items():
        if "pass_at" in score:
            log.say(f"{name}: " + "  ".join(f"pass@{k} {value:.3f}" for k, value in score["pass_at"].items()))
    if len(table) == 1:
        for group, (accuracy, answers) in next(iter(table.values())).get("groups", {}).items():
            log.say(f"  {group:40} {accuracy:.3f} of {answers:,}")


if __name__ == "__main__":
    cli.run(main)
