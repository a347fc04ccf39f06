"""What a training run writes down, and where it goes on: metrics, checkpoints, the progress bar, run.json.

    target = claim("base", "d4", args)
    journal = Journal(target, model, optimizer, steps=800)
    with journal:
        for step in optimize(..., start=journal.start):
            journal.record(step, **numbers)
            if due(step, args.save_every): journal.save(step)
            journal.stop_if_asked(step)
        journal.finish(num_params=…)
"""
import math
import shutil
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from nanochat.model import GPT
from nanochat.optim import Optimizer
from nanochat.system import files, log, paths, results
from nanochat.system.files import UserError
from nanochat.system.runtime import all_reduce_sum
from nanochat.train import checkpoint
from nanochat.train.loop import Step
from nanochat.train.stop import Stop
from nanochat.train.target import Target

# A spike: a loss more than twice, and a nat above, the median of the hundred before, that stays: the mean of ten such
# steps is not below that of the ten before. (Where easy text ends and other text begins, it leaps too, but falls.)
SPIKE_STEPS, SPIKE_WINDOW, SPIKE_ARMED = 10, 100, 20


class Journal:
    """One stage's run on disk. `start` is the number of steps done, `state` the loader's place (None = the beginning).

    Nothing on disk changes before `with journal:`, so that a recipe may still find a mistake in its flags.
    """

    def __init__(self, target: Target, model: GPT, optimizer: Optimizer, *, steps: int,
                 tokenizer_folder: Path | None = None, source: dict[str, Any] | None = None):
        """`tokenizer_folder` (default: the run's) and `source`, the model that training starts from, go into every
        checkpoint."""
        self.target, self.stage, self.folder = target, target.stage, target.folder
        self.model, self.optimizer, self.steps, self.source = model, optimizer, steps, source
        # read now: hours later there may be another tokenizer in that folder
        self.tokenizer = checkpoint.read_tokenizer(tokenizer_folder or paths.tokenizer_dir())
        suggestions = paths.data_dir() / paths.SUGGESTIONS  # what the chat page offers: it suits what was learnt
        self.suggestions = files.read_json(suggestions) if suggestions.exists() else []
        self.start, self.state, self.seconds_before, self.tokens = 0, None, 0.0, 0
        self.saved: list[Path] = []  # this run's checkpoints; an earlier run's go when the first of these is there
        self.writer, self.writing = ThreadPoolExecutor(1, "checkpoint"), Future()
        self.writing.set_result(None)
        self.newest_save = 0
        self.stop = Stop()
        self.losses, self.risen = deque(maxlen=SPIKE_WINDOW), []
        if target.found:
            self._take_over(*target.found)
        self._check_room()
        self.bar = log.Progress(self.stage, steps)

    def _take_over(self, path: Path, state: dict[str, Any]) -> None:
        if state.get("tokenizer") not in (None, checkpoint.tokenizer_digest(self.tokenizer)):
            raise UserError(f"{path} was made with another tokenizer than this run's, and its tokens mean something "
                            "else; --overwrite trains from the beginning, --model_tag=NAME makes another model")
        checkpoint.restore(path, self.model, None if self.target.finished else self.optimizer)
        self.start, self.state, self.tokens = state["step"], state["loader"], state["tokens"]
        self.seconds_before, self.saved = state["seconds"], [path]
        log.say(f"{self.stage}: goes on after step {self.start:,} of {self.steps:,} ({path.name})")

    def _check_room(self) -> None:
        """Says how large the checkpoints are. UserError when the disk has no room for them, before hours are spent."""
        each = checkpoint.bytes_of(self.model, self.optimizer)
        saves = -(-self.steps // self.target.save_every) if self.target.save_every > 0 else 1
        at_a_time = min(self.target.keep + 1, saves)  # an old one goes when the new one is whole
        here = sum(path.stat().st_size for kept in self.saved for path in kept.iterdir())
        existing = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        disk = shutil.disk_usage(existing)
        log.say(f"checkpoints: {files.size_text(each)} each, {at_a_time} at a time")
        if disk.total and each * at_a_time - here > disk.free:  # some network file systems report 0 of 0
            fewer = "--save_every=-1, " * (saves > 1) + "--keep=1, " * (self.target.keep > 1)
            raise UserError(f"checkpoints need {files.size_text(each * at_a_time - here)}, {existing} has "
                            f"{files.size_text(disk.free)} free; free space, {fewer}or choose another out folder "
                            "(NANOCHAT_BASE_DIR)")

    def __enter__(self) -> "Journal":
        self.started = time.monotonic()
        self.metrics = log.Metrics(self.target.results / "metrics.jsonl", self.start)
        self.stop.__enter__()
        self.bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.__exit__(*error)
        self.writer.shutdown()  # a checkpoint half written is finished
        self.stop.__exit__(*error)

    @property
    def seconds(self) -> float:
        """Wall clock of this stage so far, the runs before an interruption included."""
        return self.seconds_before + time.monotonic() - self.started

    def record(self, step: Step, **numbers: float) -> None:
        """One line of metrics and the bar. `numbers` are named area/quantity_unit."""
        if not self.start and not self.metrics.begun:
            results.begin(self.stage, self.target.tag, self.target.results)
        self.tokens += step.tokens
        speed = step.tokens / step.seconds
        self.metrics.write(step.number, **{"train/loss_nats": step.loss, "speed/tokens_per_second": speed,
                                           "speed/stall_fraction": step.waited / step.seconds,
                                           "train/lr_multiplier": step.lr, "time/seconds": self.seconds, **numbers})
        self.bar.update(step.number, loss=step.loss, tokens_per_second=speed,
                        **{name.split("/")[-1]: value for name, value in numbers.items()})

        if self.stage != "rl":  # whose loss is no likelihood
            self._watch(step)

    def stop_if_asked(self, step: Step) -> None:
        """Where a signal has come: saves the step and raises KeyboardInterrupt. The end of a run is not interrupted."""
        device = next(self.model.parameters()).device
        if step.is_last or not all_reduce_sum([float(self.stop.asked)], device)[0]:  # the ranks stop together
            return
        if self.newest_save != step.number:
            self.save(step)
        self.wait()
        all_reduce_sum([0.0], device)  # torchrun ends all ranks when one leaves: nobody may, until the save is on disk
        raise KeyboardInterrupt

    def _watch(self, step: Step) -> None:
        usual = median(self.losses) if len(self.losses) >= SPIKE_ARMED else math.inf
        if step.loss <= 2 * usual + 1:
            self.losses.append(step.loss)
            self.risen.clear()
            return
        self.risen.append(step.loss)
        before, after = sum(self.risen[-2 * SPIKE_STEPS:-SPIKE_STEPS]), sum(self.risen[-SPIKE_STEPS:])
        if len(self.risen) >= 2 * SPIKE_STEPS and not after < 0.95 * before:  # NaN is not below anything
            self.wait()
            good = f"{self.saved[-1].name} is from before" if self.saved else "no checkpoint was made before"
            first = step.number - len(self.risen) + 1
            raise UserError(f"the loss rose from about {usual:.3g} to {step.loss:.3g} and stayed there from step "
                            f"{first} to {step.number}; {good}: go on with --resume and lower learning rates "
                            "(--matrix_lr, --embedding_lr)")

    def save(self, step: Step) -> None:
        """A checkpoint after `step`, from which a run goes on exactly; written in the background.

        None is made while the loss is far above what it was. UserError where weights are no finite numbers, or where
        the checkpoint before could not be written.
        """
        if self.risen and not step.is_last:
            return
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise UserError(f"weights became infinite or NaN by step {step.number}; checkpoints are from before: "
                            "go on with --resume and lower learning rates (--matrix_lr, --embedding_lr)")
        resumable = not step.is_last or self.target.keep_optimizer
        taken = checkpoint.snapshot(self.model, self.optimizer if resumable else None)
        state = {"stage": self.stage, "flags": self.target.flags, "steps": self.steps, "loader": step.state,
                 "tokens": self.tokens, "seconds": round(self.seconds, 2), "source": self.source,
                 "suggestions": self.suggestions}
        self.wait()
        self.newest_save = step.number
        self.writing = self.writer.submit(self._write, step.number, taken, state)

    def _write(self, step: int, taken: checkpoint.Snapshot, state: dict[str, Any]) -> None:
        path = checkpoint.write(self.folder, step, taken, state, self.tokenizer)
        self.saved = [*(earlier for earlier in self.saved if earlier != path), path][-self.target.keep:]
        checkpoint.keep_only(self.saved, self.folder)

    def wait(self) -> None:
        """Until the last checkpoint is on disk; raises what kept it from getting there."""
        self.writing.result()

    def finish(self, **facts: Any) -> None:
        """run.json, for the report, when the last checkpoint is on disk."""
        self.wait()
        log.write_run(self.stage, folder=self.target.results, seconds=self.seconds, steps=self.steps,
                      tokens=self.tokens, flags=self.target.flags,
                      num_params=sum(p.numel() for p in self.model.parameters()), **facts)
        log.say(f"{self.stage}: {self.steps:,} steps, {self.tokens:,} tokens in {self.seconds:.0f} s → {self.folder}")
