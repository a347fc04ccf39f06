"""What a training run may write, and where it resumes: decided before any work, so that no finished model is lost.

    target = claim("sft", "d4", args, source=("mid", "d4"))     # UserError: there is a model already
    if target.finished:
        return
    journal = Journal(target, model, optimizer, steps=800)
"""
import contextlib
import time
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat.system import log, paths, results
from nanochat.system.files import UserError
from nanochat.system.lock import run_lock
from nanochat.train import checkpoint, flags
from nanochat.train.checkpoint import State

Found = tuple[Path, State]  # a checkpoint and its state


@dataclass(frozen=True)
class Target:
    """A stage's run on disk. `resumed` is the checkpoint to continue from, and its state; None = a new run."""

    stage: str
    tag: str
    flags: dict[str, Any]  # all flags that influence the weights: all except flags.FREE
    folder: Path  # for the checkpoints
    results: Path  # the folder for metrics.jsonl and run.json
    there_before: list[tuple[int, Path]]  # the checkpoints in `folder` at the time of `claim`
    resumed: Found | None = None
    save_every: int = -1  # these three as in flags.CHECKPOINTS
    keep: int = 1
    keep_optimizer: bool = False

    @property
    def finished(self) -> bool:
        return self.resumed is not None and is_finished(self.resumed[1])

    @property
    def steps(self) -> int | None:
        """The number of steps of the resumed run; None for a new run."""
        return None if self.resumed is None else self.resumed[1].get("steps")

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the folders that the run writes to. UserError if another process writes to them, or has written
        checkpoints since `claim`."""
        if not log.is_main():  # the ranks of a run are several processes, and the main rank writes for all
            yield
            return
        # The results too, because models of two names may share a folder of results.
        with run_lock(self.folder), run_lock(self.results):
            # A run that ended between `claim` and now has left a model, which this run would replace without notice.
            if checkpoint.steps(self.folder) != self.there_before:
                raise UserError(f"another run has written to {self.folder} since this one began; look at what is "
                                "there, then give the command again")
            yield


def is_finished(state: State) -> bool:
    return bool(state["step"] == state.get("steps"))


def claim(stage: str, tag: str, args: Namespace, source: tuple[str, str] | None = None) -> Target:
    """The target of a run with these flags; `source` is the stage and tag of the model that it starts from.

    UserError when a finished model would be lost, or when --resume cannot continue. With --resume, flags that the user
    did not give take their values from the checkpoint (this changes `args`).
    """
    folder = paths.checkpoint_dir(stage, tag)
    if args.resume and args.overwrite:
        raise UserError("--resume continues a model and --overwrite replaces it; give one of them")
    if args.overwrite and source == (stage, tag):
        raise UserError(f"--overwrite would replace {stage}/{tag}, which this run starts from; give --model_tag=NAME")
    there_before = checkpoint.steps(folder)
    # `present` hashes nothing: hashing gigabytes only to refuse would make the user wait.
    present = checkpoint.present(folder)
    if present and not args.resume and not args.overwrite:
        raise UserError(f"{_described(stage, tag, *present)} is there already, in {folder}; --model_tag=NAME makes "
                        "another model, --resume goes on with this one, --overwrite replaces it")
    if there_before and not present and not args.resume:
        # Only a warning: a damaged checkpoint holds nothing that could be lost.
        log.say(f"warning: {', '.join(path.name for _, path in there_before)} in {folder} is damaged; it is removed "
                "when the first new checkpoint is there")
    resumed = _newest_to_resume(stage, tag, folder) if args.resume else None
    if resumed:
        _restore_saved_flags(stage, resumed, args)
        _check_source(stage, tag, resumed[1], source)
        place = results.folder_of(stage, tag)
    else:
        place = results.folder_for_training(stage, tag, named=bool(args.model_tag))
    deciding = {name: value for name, value in vars(args).items() if name not in flags.FREE}
    target = Target(stage, tag, deciding, folder, place, there_before, resumed,
                    args.save_every, args.keep, args.keep_optimizer)
    if target.finished:
        _say_finished(target)
    return target


def claim_next(stage: str, source: str, args: Namespace) -> tuple[Target, str, str]:
    """`claim` for a stage that starts from stage `source`, and the stage and tag that it starts from."""
    tag = args.source_tag or checkpoint.default_tag(source)
    target = claim(stage, args.model_tag or tag, args, (source, tag))
    return target, getattr(args, "source", source), tag  # --resume has restored the stage that the run began from


def _described(stage: str, tag: str, path: Path, state: State) -> str:
    """`_described("sft", "d4", …)` → "sft/d4 (step 200 of 200, 2026-11-30 14:02)"."""
    of_all = f" of {state['steps']:,}" if "steps" in state else ""
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime((path / "state.json").stat().st_mtime))
    return f"{stage}/{tag} (step {state['step']:,}{of_all}, {when})"


def _newest_to_resume(stage: str, tag: str, folder: Path) -> Found | None:
    """The newest checkpoint that is finished or has its optimizer. UserError if all complete ones lack it."""
    first_problem = None
    for _, path in reversed(checkpoint.steps(folder)):
        try:
            # The last checkpoint of a finished run has no optimizer, because no run continues from it.
            return path, checkpoint.check(path, optimizer=not is_finished(checkpoint.read_state(path)))
        except UserError as error:
            log.say(f"warning: {error}; trying the previous checkpoint")
            first_problem = first_problem or error
    if first_problem and checkpoint.present(folder):
        raise UserError(f"{stage}/{tag} cannot be resumed: {first_problem}; --overwrite trains it again from the "
                        "beginning, --model_tag=NAME makes another model")
    return None


def _restore_saved_flags(stage: str, resumed: Found, args: Namespace) -> None:
    """Gives flags that the user did not type their saved values. UserError for a typed flag with another value."""
    path, state = resumed
    saved = {name: value for name, value in state.get("flags", {}).items() if name not in flags.FREE}
    typed, defaults = getattr(args, "given", set(vars(args))), getattr(args, "defaults", {})
    changed: list[str] = []
    new_rates: list[str] = []
    taken_over: list[str] = []
    gone: list[str] = []
    for name, value in saved.items():
        now = getattr(args, name, None)
        if not hasattr(args, name):  # a flag of older code
            gone.append(f"--{name}={value}")
        elif now != value and name not in typed:
            setattr(args, name, value)
            taken_over.append(f"--{name}={value}")
        elif now != value:
            (new_rates if name in flags.MAY_CHANGE_AFTER_DIVERGING else changed).append(
                f"--{name}={now} (was {value})")
    # Flags that newer code has added: at their defaults the run computes as before.
    for name, value in vars(args).items() if "flags" in state else ():
        is_default = name in defaults and value == defaults[name]
        if name not in saved and name not in flags.FREE and not is_default:
            changed.append(f"--{name}={value} (was not there)")
    if changed and is_finished(state):
        raise UserError(f"{path} is the end of a finished run, made with other flags: {', '.join(sorted(changed))}; "
                        "--overwrite trains it again with the new ones, --model_tag=NAME makes another model")
    if changed:
        raise UserError(f"{path} was made with other flags: {', '.join(sorted(changed))}; give the same flags to "
                        "continue, or --overwrite to start over")
    for names, sentence in ((gone, "this version no longer has"), (taken_over, "continues with the saved flags"),
                            (new_rates, "continues with the new rates")):
        if names:
            log.say(f"{stage}: {sentence} {', '.join(names)}")


def _check_source(stage: str, tag: str, state: State, source: tuple[str, str] | None) -> None:
    """UserError (for a finished run, a warning) when the model that the run began from has been trained again."""
    began = state.get("source")
    present = checkpoint.present(paths.checkpoint_dir(began["stage"], source[1])) if began and source else None
    weights_now = present and present[1].get("sha256", {}).get("model.safetensors")
    if not began or not source or not weights_now or began["weights"] == weights_now:
        return
    problem = (f"{stage}/{tag} began from {began['stage']}/{began['tag']} step {began['step']:,}, and "
               f"{began['stage']}/{source[1]} has been trained again since; --overwrite trains from the new model")
    if not is_finished(state):
        raise UserError(problem)
    log.say(f"warning: {problem}")


def _say_finished(target: Target) -> None:
    """Says that a finished run has nothing to resume, and writes run.json if a kill at the end prevented it."""
    assert target.resumed is not None
    path, state = target.resumed
    log.say(f"{_described(target.stage, target.tag, path, state)} is finished: there is nothing to resume")
    if "flags" in state and not (target.results / "run.json").exists():
        log.write_run(target.stage, folder=target.results, seconds=state.get("seconds", 0.0), steps=state["steps"],
                      tokens=state.get("tokens"), flags=state["flags"])
