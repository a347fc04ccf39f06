"""What a base model knows before it can chat: CORE where its files are, else the kindergarten's facts as prose.

    python -m scripts.base_eval --max_per_task=100
    torchrun --standalone --nproc_per_node=8 -m scripts.base_eval
"""
import time
from pathlib import Path

import tasks
from nanochat.eval import core
from nanochat.system import cli, files, log, paths, results, runtime
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.train import checkpoint


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__,
        source=flag("base", "which stage's model", choices=paths.STAGES, short="i"),
        model_tag=flag("", "default: the deepest"), step=flag(-1, "of the checkpoint; −1 = the newest", at_least=0),
        max_per_task=flag(-1, "items of each task; −1 = all, and only then it is CORE", at_least=1),
        resume=flag(False, "keep the tasks that an interrupted run has finished"),
        device_type=flag("", "cuda, mps or cpu"), dtype=flag("", "of activations"))
    started = time.monotonic()
    device = runtime.start(args.device_type, args.dtype)
    model, tokenizer, info = checkpoint.load_model(
        args.source, args.model_tag, None if args.step < 0 else args.step, device.device, device.dtype)
    about = {"step": info["step"], "tag": info["tag"], "model": info["sha256"]["model.safetensors"][:12],
             "max_per_task": args.max_per_task}
    target = results.folder_of(args.source, info["tag"]) / "base_eval.json"
    if not about.items() <= measured(target).items():
        results.keep_earlier(target)
    if (paths.data_dir() / "core_tasks.yaml").exists():
        result = run_core(model, tokenizer, args.max_per_task, about, target, args.resume)
        if result["missing"]:
            log.say(f"missing: {', '.join(result['missing'])}")
    elif tasks.find("facts").path("test"):
        log.say("no core_tasks.yaml in the data folder, so no CORE: checking facts of the kindergarten instead")
        result = facts_in_prose(model, tokenizer, args.max_per_task)
    else:
        raise UserError(f"{paths.data_dir()} has neither core_tasks.yaml nor kindergarten/facts-test.jsonl; "
                        "make the kindergarten with `python -m nanochat.dataset`, or name real data with --data")
    log.say(f"{result['label']}: {result['value']:.4f} ± {result['stderr']:.4f}")
    save(target, about | result)
    log.write_run("base_eval", seconds=time.monotonic() - started, flags=vars(args))
    device.close()


def measured(target: Path) -> dict:
    """What an earlier run left; {} for nothing."""
    return files.read_json(target) if target.exists() else {}


def run_core(model, tokenizer, max_per_task: int, about: dict, target, resume: bool) -> dict:
    """CORE task by task; each finished one is shown and saved, so that an interruption costs one task."""
    before = measured(target)
    if not about.items() <= before.items():  # on other ranks: the main one may not have moved it yet
        before = {}
    finished = dict(before.get("tasks", {})) if resume else {}

    def on_task(label: str, result: dict) -> None:
        log.say(f"{label:32} {result['kind']:19} {result['accuracy']:7.4f} ± {result['stderr']:.4f}  "
                f"centred {result['centred']:7.4f}  baseline {result['baseline']:.3f}  n {result['num_items']:6,}"
                + (f"  {result['cropped']:,} longer than the context" if result["cropped"] else ""))
        finished[label] = result
        save(target, before | about | {"tasks": {**before.get("tasks", {}), **finished}})

    with log.Progress("CORE", core.NUM_TASKS, unit="tasks") as bar:
        return core.evaluate(model, tokenizer, paths.data_dir(), max_per_task, finished=finished, on_task=on_task,
                             report=lambda number, label, done: bar.update(number, **{label: done}))


def facts_in_prose(model, tokenizer, max_items: int) -> dict:
    """How often the model ends "A cow says" with "moo": the exam's single facts, without their last word."""
    told = [item for item in tasks.find("facts").load("test") if item["reply"].endswith(f" {item['answer']}.")]
    items = [{"context": item["reply"][:-len(f" {item['answer']}.")], "continuation": item["answer"]} for item in told
             if item["kind"] == "fact"]
    if not items:
        raise UserError("kindergarten/facts-test.jsonl has no single facts; make it again: python -m nanochat.dataset")
    task = core.CoreTask("facts in prose", tasks.find("facts").require_path("test"), "language_modeling")
    result = core.evaluate_task(model, tokenizer, task, items, max_items)
    return {"label": "facts in prose (not CORE)", "value": result["accuracy"], "stderr": result["stderr"],
            "missing": [], "tasks": {task.label: result}}


def save(target, result: dict) -> None:
    if log.is_main():
        files.write_json(target, result)


if __name__ == "__main__":
    cli.run(main)
