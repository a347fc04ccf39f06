"""What a base model knows before it can chat: CORE where its files are, else the kindergarten's facts as prose.

    python -m scripts.base_eval --max_per_task=100
    torchrun --standalone --nproc_per_node=8 -m scripts.base_eval
"""
import time
from pathlib import Path
from typing import Any

import tasks
from nanochat.eval import core, record
from nanochat.model import GPT
from nanochat.system import cli, files, log, paths, results
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.system.runtime import start as start_runtime
from nanochat.tokenizer import Tokenizer
from nanochat.train import checkpoint

Result = dict[str, Any]  # the content of base_eval.json


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__, **checkpoint.flags("base"),
        max_per_task=flag(-1, "items of each task; −1 = all, as the published CORE scores", at_least=1),
        core=flag(False, "an error if CORE's files are missing, in place of the kindergarten's facts"),
        resume=flag(False, "keep the tasks that an interrupted run has finished"),
        device_type=flag("", "cuda, mps or cpu"), dtype=flag("", "dtype of activations"))
    started = time.monotonic()
    runtime = start_runtime(args.device_type, args.dtype)
    model, tokenizer, state = checkpoint.load_model(
        args.source, args.model_tag, args.step, runtime.device, runtime.dtype)

    # ---- Where the result goes. Scores of other weights or of another number of items are kept, not replaced.
    about = {**record.identity(state), "max_per_task": args.max_per_task}
    target = results.folder_of(args.source, state["tag"]) / "base_eval.json"
    before = files.read_json(target) if target.exists() else {}
    if not about.items() <= before.items():
        results.keep_earlier(target)
        before = {}

    # ---- The questions. If there are no files, the error names the command that makes some.
    if (paths.data_dir() / "core_tasks.yaml").exists():
        result = run_core(model, tokenizer, args.max_per_task, before | about, target, args.resume)
        if result["missing"] and args.core:
            raise UserError(f"CORE is incomplete: there are no files of {', '.join(result['missing'])}; remove "
                            f"{paths.data_dir() / 'core_tasks.yaml'} and run: python -m nanochat.dataset --source=core")
        if result["missing"]:
            log.say(f"missing: {', '.join(result['missing'])}")
    elif args.core:
        raise UserError(f"{paths.data_dir()} has no core_tasks.yaml; fetch it with: "
                        "python -m nanochat.dataset --source=core")
    elif tasks.find("facts").path("test"):
        log.say("no core_tasks.yaml in the data folder, so no CORE: checking facts of the kindergarten instead")
        result = facts_in_prose(model, tokenizer, args.max_per_task)
    else:
        raise UserError(f"{paths.data_dir()} has neither core_tasks.yaml nor kindergarten/facts-test.jsonl; "
                        "make the kindergarten with `python -m nanochat.dataset`, or name real data with --data")
    log.say(f"{result['label']}: {result['value']:.4f} ± {result['stderr']:.4f}")
    save(target, about | result)
    record.write_run(f"base_eval_{args.source}".removesuffix("_base"), target.with_suffix(""), args, started)
    runtime.close()


def run_core(model: GPT, tokenizer: Tokenizer, max_per_task: int, before: Result, target: Path,
             resume: bool) -> Result:
    """CORE task by task. A finished task is shown and saved into `before`, so an interruption costs one task at most.
    """
    # `before` has no tasks that were finished under other settings, so these are computed again.
    finished: Result = dict(before.get("tasks", {})) if resume else {}

    def on_task(label: str, result: Result) -> None:
        cropped = f"  {result['cropped']:,} longer than the context" if result["cropped"] else ""
        log.say(f"{label:32} {result['kind']:19} {result['accuracy']:7.4f} ± {result['stderr']:.4f}  "
                f"centred {result['centred']:7.4f}  baseline {result['baseline']:.3f}  n {result['num_items']:6,}"
                f"{cropped}")
        finished[label] = result
        save(target, before | {"tasks": {**before.get("tasks", {}), **finished}})

    with log.Progress("CORE", core.NUM_TASKS, unit="tasks") as bar:
        return core.evaluate(model, tokenizer, paths.data_dir(), max_per_task, finished=finished, on_task=on_task,
                             report=lambda number, label, done: bar.update(number, **{label: done}))


def facts_in_prose(model: GPT, tokenizer: Tokenizer, max_items: int) -> Result:
    """How often the model ends "A cow says" with "moo": the exam's single facts, without their last word."""
    facts = tasks.find("facts")
    items = [{"context": item["reply"][:-len(f" {item['answer']}.")], "continuation": item["answer"]}
             for item in facts.load("test")
             if item["kind"] == "fact" and item["reply"].endswith(f" {item['answer']}.")]
    if not items:
        raise UserError("kindergarten/facts-test.jsonl has no single facts; make it again: python -m nanochat.dataset")
    task = core.CoreTask("facts in prose", facts.require_path("test"), "language_modeling")
    result = core.evaluate_task(model, tokenizer, task, items, max_items)
    return {"label": "facts in prose (not CORE)", "value": result["accuracy"], "stderr": result["stderr"],
            "missing": [], "tasks": {task.label: result}}


def save(target: Path, result: Result) -> None:
    if log.is_main():
        files.write_json(target, result)


if __name__ == "__main__":
    cli.run(main)
