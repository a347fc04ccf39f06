"""What a training run may write, and where it goes on: asked before any work, so that nothing finished is lost.

    target = claim("sft", "d4", args, source=("mid", "d4"))     # UserError: there is a model already
    if target.finished:
        return
    journal = Journal(target, model, optimizer, steps=800)
"""
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.system import log, paths, results
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.train import checkpoint

# The flags of every training script that say what becomes of its checkpoints.
FLAGS: dict[str, Any] = dict(
    save_every=flag(-1, "steps between checkpoints; −1 = only at the end"),
    keep=flag(1, "checkpoints kept", at_least=1),
    keep_optimizer=flag(False, "the last checkpoint keeps optimizer.pt as well, which is larger than the weights and "
                               "which no later stage, exam or chat reads"),
    resume=flag(False, "go on from the newest checkpoint, if there is one; flags that are not given are as saved"),
    overwrite=flag(False, "replace the model of this name, once the first new checkpoint is on disk"))
# Flags that may differ between a run and its resumption: where things are and how the run computes. Every other flag
# decides the numbers.
FREE_FLAGS = {*FLAGS, "model_tag", "source_tag", "eval_every", "device_type", "compile", "device_batch_size",
              "recompute", "workers", "eval_questions", "unsafe_execution", "run"}
RATE_FLAGS = {"matrix_lr", "embedding_lr", "head_lr", "weight_decay"}  # what a run that diverged has to change


@dataclass(frozen=True)
class Target:
    """A stage's run on disk. `found` is the checkpoint to go on from and its state."""

    stage: str
    tag: str
    flags: dict[str, Any]  # those that decide the numbers
    folder: Path  # of the checkpoints
    results: Path
    found: tuple[Path, dict[str, Any]] | None = None
    save_every: int = -1
    keep: int = 1
    keep_optimizer: bool = False

    @property
    def finished(self) -> bool:
        return self.found is not None and is_finished(self.found[1])


def is_finished(state: dict[str, Any]) -> bool:
    return state["step"] == state.get("steps")


def claim(stage: str, tag: str, args: Namespace, source: tuple[str, str] | None = None) -> Target:
    """The place of a run with these flags; `source` is the stage and tag that it starts from.

    UserError when a finished model would be lost, or when --resume cannot go on. With --resume, flags that the user
    did not give take the values they had in the checkpoint (in `args`, too).
    """
    folder = paths.checkpoint_dir(stage, tag)
    if args.resume and args.overwrite:
        raise UserError("--resume goes on with a model and --overwrite replaces it; give one of them")
    if args.overwrite and source == (stage, tag):
        raise UserError(f"--overwrite would replace {stage}/{tag}, which this run starts from; give --model_tag=NAME")
    there = checkpoint.present(folder)
    if there and not args.resume and not args.overwrite:
        raise UserError(f"{_named(stage, tag, *there)} is there already, in {folder}; --model_tag=NAME makes another "
                        "model, --resume goes on with this one, --overwrite replaces it")
    if not there and (damaged := [path.name for _, path in checkpoint.steps(folder)]) and not args.resume:
        log.say(f"warning: {', '.join(damaged)} in {folder} is damaged; it goes when the first new checkpoint is there")
    found = _newest_to_go_on_from(stage, tag, folder) if args.resume else None
    if found:
        _settle_flags(stage, found, args)
        _check_source(stage, tag, found[1], source)
        place = results.folder_of(stage, tag)
    else:
        place = results.folder_for_training(stage, tag, named=bool(args.model_tag))
    flags = {name: value for name, value in vars(args).items() if name not in FREE_FLAGS}
    target = Target(stage, tag, flags, folder, place, found, args.save_every, args.keep, args.keep_optimizer)
    if target.finished:
        _say_finished(target)
    return target


def claim_next(stage: str, source: str, args: Namespace) -> tuple[Target, str, str]:
    """`claim` for a stage that starts from stage `source`, and the stage and tag that it starts from."""
    tag = args.source_tag or checkpoint.default_tag(source)
    target = claim(stage, args.model_tag or tag, args, (source, tag))
    return target, getattr(args, "source", source), tag  # --resume may have found that it began from another stage


def _named(stage: str, tag: str, path: Path, state: dict[str, Any]) -> str:
    """`_named("sft", "d4", …)` → "sft/d4 (step 200 of 200, 2026-11-30 14:02)"."""
    steps = f" of {state['steps']:,}" if "steps" in state else ""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime((path / "state.json").stat().st_mtime))
    return f"{stage}/{tag} (step {state['step']:,}{steps}, {when})"


def _newest_to_go_on_from(stage: str, tag: str, folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint that is finished or has its optimizer. UserError when whole models have none."""
    problem = None
    for _, path in reversed(checkpoint.steps(folder)):
        try:
            return path, checkpoint.check(path, optimizer=not is_finished(checkpoint.read_state(path)))
        except UserError as error:
            log.say(f"warning: {error}; trying the checkpoint before it")
            problem = problem or error
    if problem and checkpoint.present(folder):
        raise UserError(f"{stage}/{tag} cannot be resumed: {problem}; --overwrite trains it again from the beginning, "
                        "--model_tag=NAME makes another model")
    return None


def _settle_flags(stage: str, found: tuple[Path, dict[str, Any]], args: Namespace) -> None:
    """Gives flags that the user did not type their saved values. UserError where a typed one decides other numbers."""
    path, state = found
    saved = {name: value for name, value in state.get("flags", {}).items() if name not in FREE_FLAGS}
    given, defaults = getattr(args, "given", set(vars(args))), getattr(args, "defaults", {})
    changed, rates, taken, gone = [], [], [], []
    for name, value in saved.items():
        now = getattr(args, name, None)
        if not hasattr(args, name):
            gone.append(f"--{name}={value}")
        elif now != value and name not in given:
            setattr(args, name, value)
            taken.append(f"--{name}={value}")
        elif now != value:
            (rates if name in RATE_FLAGS else changed).append(f"--{name}={now} (was {value})")
    changed += [f"--{name}={value} (was not there)" for name, value in vars(args).items()
                if name not in saved and name not in FREE_FLAGS and ("flags" in state)
                and (name not in defaults or value != defaults[name])]
    if changed and is_finished(state):
        raise UserError(f"{path} is the end of a finished run, made with other flags: {', '.join(sorted(changed))}; "
                        "--overwrite trains it again with the new ones, --model_tag=NAME makes another model")
    if changed:
        raise UserError(f"{path} was made with other flags: {', '.join(sorted(changed))}; give the same ones to go on, "
                        "or --overwrite to start over")
    for flags, sentence in ((gone, "this version has no longer"), (taken, "goes on as it began, with"),
                            (rates, "from here on with")):
        if flags:
            log.say(f"{stage}: {sentence} {', '.join(flags)}")


def _check_source(stage: str, tag: str, state: dict[str, Any], source: tuple[str, str] | None) -> None:
    """UserError (a line, for a finished run) when the model that the run began from has been trained again since."""
    began = state.get("source")
    there = checkpoint.present(paths.checkpoint_dir(began["stage"], source[1])) if began and source else None
    now = there and there[1].get("sha256", {}).get("model.safetensors")
    if not now or began["weights"] == now:
        return
    problem = (f"{stage}/{tag} began from {began['stage']}/{began['tag']} step {began['step']:,}, and "
               f"{began['stage']}/{source[1]} is another model now; --overwrite trains it again from that")
    if not is_finished(state):
        raise UserError(problem)
    log.say(f"warning: {problem}")


def _say_finished(target: Target) -> None:
    """What --resume of a finished run does: nothing, but for the run.json that a kill at the very end prevented."""
    path, state = target.found
    log.say(f"{_named(target.stage, target.tag, path, state)} is finished: there is nothing to resume")
    if "flags" in state and not (target.results / "run.json").exists():
        log.write_run(target.stage, folder=target.results, seconds=state.get("seconds", 0.0), steps=state["steps"],
                      tokens=state.get("tokens"), flags=state["flags"])
