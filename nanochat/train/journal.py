"""What a training run writes, and where it resumes: metrics, checkpoints, the progress bar, run.json.

    target = claim("base", "d4", args)
    journal = Journal(target, model, optimizer, steps=800)
    with journal:
        for step in optimize(..., start=journal.start):
            journal.record(step, **numbers)
            if due(step, args.save_every): journal.save(step)
            journal.stop_if_asked(step)
        journal.finish(num_params=…)
"""
import contextlib
import math
import shutil
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from nanochat.model import GPT
from nanochat.optim import Optimizer
from nanochat.system import files, log, paths, results
from nanochat.system.files import UserError
from nanochat.system.numbers import ceil_div
from nanochat.system.runtime import all_reduce_sum
from nanochat.train import checkpoint
from nanochat.train.checkpoint import State
from nanochat.train.loop import Step, due
from nanochat.train.stop import Stop
from nanochat.train.target import Target

# A run has diverged when 20 losses in a row are above 2 × the median of the last 100 normal losses + 1 nat, and the
# last ten are not at least 5 % lower than the ten before. (Where new text begins, the loss jumps too, but then it
# falls.)
NORMAL_LOSSES, MIN_NORMAL_LOSSES, HALF_OF_HIGH = 100, 20, 10
MARKS = 5  # the model answers the fixed prompts at every fifth of the stage, and at every checkpoint
# (percent of the stage for a line in the terminal, None = print nothing) → [[prompt, answer], …]
SampleAnswers = Callable[[int | None], list[list[str]]]


class Journal:
    """One stage's run on disk. `start` is the number of steps done, `state` the loader's position (None = the start).

    Nothing on disk changes before `with journal:`: a script that then finds a wrong flag has not changed anything.
    """

    def __init__(self, target: Target, model: GPT, optimizer: Optimizer, *, steps: int, source: State | None = None,
                 words: SampleAnswers | None = None):
        """`source` is the state of the checkpoint from which training starts. Every checkpoint records it and has its
        tokenizer (without `source`: the run's). `words` samples answers to fixed prompts (nanochat/eval/words.py)."""
        self.target, self.stage, self.folder = target, target.stage, target.folder
        self.model, self.optimizer, self.steps, self.words = model, optimizer, steps, words
        self.source = source and checkpoint.identity(source)
        # Read now, because hours later another tokenizer may be in that folder.
        tokenizer_folder = checkpoint.tokenizer_folder(Path(source["path"])) if source else paths.tokenizer_dir()
        self.tokenizer = checkpoint.read_tokenizer(tokenizer_folder)
        suggestions = paths.data_dir() / paths.SUGGESTIONS  # questions that the chat page offers
        self.suggestions = files.read_json(suggestions) if suggestions.exists() else []
        self.start, self.seconds_before, self.tokens = 0, 0.0, 0
        self.state: dict[str, int] | None = None  # (epoch, group, row) of the loader, or RL's step
        self.saved: list[Path] = []  # this run's checkpoints; the first of them replaces those of an earlier run
        self.writer = ThreadPoolExecutor(1, "checkpoint")  # writes while training continues
        self.writing: Future[None] | None = None
        self.newest_save = 0  # the step of the newest checkpoint
        self.stop = Stop()
        self.normal_losses: deque[float] = deque(maxlen=NORMAL_LOSSES)  # their median is the normal level
        self.high_losses: list[float] = []  # the newest losses, while they are far above the normal level
        if target.resumed:
            self._restore(*target.resumed)
        self._check_disk_space()
        self.bar = log.Progress(self.stage, steps)

    def _restore(self, path: Path, state: State) -> None:
        if state.get("tokenizer") not in (None, checkpoint.tokenizer_digest(self.tokenizer)):
            raise UserError(f"{path} was made with another tokenizer than this run's, and its tokens mean something "
                            "else; --overwrite trains from the beginning, --model_tag=NAME makes another model")
        checkpoint.restore(path, self.model, None if self.target.finished else self.optimizer)
        self.start, self.state, self.tokens = state["step"], state["loader"], state["tokens"]
        self.seconds_before, self.saved = state["seconds"], [path]
        log.say(f"{self.stage}: goes on after step {self.start:,} of {self.steps:,} ({path.name})")

    def _check_disk_space(self) -> None:
        """Says how large the checkpoints are. UserError when the disk has no room for them, before hours are spent.
        A collective."""
        # Each rank holds a part of the moments.
        moments = sum(tensor.nbytes for group in self.optimizer.groups for value in group.state.values()
                      for tensor in (value if isinstance(value, list) else [value]))
        device = next(self.model.parameters()).device
        size = sum(p.nbytes for p in self.model.parameters()) + int(all_reduce_sum([float(moments)], device)[0])
        saves = ceil_div(self.steps, self.target.save_every) if self.target.save_every > 0 else 1
        at_a_time = min(self.target.keep + 1, saves)  # the oldest is removed when the new checkpoint is complete
        already_there = sum(path.stat().st_size for folder in self.saved for path in folder.iterdir())
        existing = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        disk = shutil.disk_usage(existing)
        log.say(f"checkpoints: {files.size_text(size)} each, {at_a_time} at a time")
        if disk.total and size * at_a_time - already_there > disk.free:  # some network file systems report 0 of 0
            fewer = "--save_every=-1, " * (saves > 1) + "--keep=1, " * (self.target.keep > 1)
            raise UserError(f"checkpoints need {files.size_text(size * at_a_time - already_there)}, {existing} has "
                            f"{files.size_text(disk.free)} free; free space, {fewer}or choose another out folder "
                            "(NANOCHAT_BASE_DIR)")

    def __enter__(self) -> "Journal":
        self.started = time.monotonic()
        self.metrics = log.Metrics(self.target.results / "metrics.jsonl", self.start)
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.target.locked())
            stack.enter_context(self.stop)
            stack.callback(self.writer.shutdown)  # waits until a half written checkpoint is complete
            stack.enter_context(self.bar)
            self.open = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self.open.__exit__(*error)

    @property
    def seconds(self) -> float:
        """Seconds of this stage so far by the wall clock, including the runs before an interruption."""
        return self.seconds_before + time.monotonic() - self.started

    def record(self, step: Step, **numbers: float) -> None:
        """One line of metrics and the bar; `numbers` are named area/quantity_unit. UserError when the run diverges.

        At some steps the line has sample answers too: {"words": [[prompt, answer], …]}.
        """
        if not self.start and not self.metrics.begun:  # a new run: results of an earlier run of this name move away
            results.begin(self.stage, self.target.tag, self.target.results)
        self.tokens += step.tokens
        speed = step.tokens / step.seconds
        words = self._sample_answers(step)
        self.metrics.write(step.number, **{
            "train/loss_nats": step.loss, "speed/tokens_per_second": speed,
            "speed/stall_fraction": step.waited / step.seconds, "train/lr_multiplier": step.lr_multiplier,
            "train/steps": self.steps, "time/seconds": self.seconds, **numbers, **({"words": words} if words else {})})
        self.bar.update(step.number, loss=step.loss, tokens_per_second=speed,
                        **{name.split("/")[-1]: value for name, value in numbers.items()})
        if self.stage != "rl":  # RL's loss is no likelihood: it may rise when the model gets better
            self._refuse_divergence(step)

    def _sample_answers(self, step: Step) -> list[list[str]]:
        """The model's answers to the fixed prompts at every fifth of the stage and at every checkpoint; else []."""
        is_mark = step.number * MARKS // self.steps > (step.number - 1) * MARKS // self.steps
        if self.words is None or not log.is_main() or not (is_mark or due(step, self.target.save_every)):
            return []
        return self.words(100 * step.number // self.steps if is_mark else None)

    def _refuse_divergence(self, step: Step) -> None:
        usual = median(self.normal_losses) if len(self.normal_losses) >= MIN_NORMAL_LOSSES else math.inf
        if step.loss <= 2 * usual + 1:
            self.normal_losses.append(step.loss)
            self.high_losses.clear()
            return
        self.high_losses.append(step.loss)
        first_half, second_half = self.high_losses[-2 * HALF_OF_HIGH:-HALF_OF_HIGH], self.high_losses[-HALF_OF_HIGH:]
        is_falling = sum(second_half) < 0.95 * sum(first_half)  # False for NaN
        if len(self.high_losses) < 2 * HALF_OF_HIGH or is_falling:
            return
        self.wait()
        good = f"the last good checkpoint is {self.saved[-1].name}" if self.saved else "no checkpoint was made before"
        first = step.number - len(self.high_losses) + 1
        raise UserError(f"the loss rose from about {usual:.3g} to {step.loss:.3g} and stayed there from step "
                        f"{first} to {step.number}; {good}: continue with --resume and lower learning rates "
                        "(--matrix_lr, --embedding_lr)")

    def stop_if_asked(self, step: Step) -> None:
        """After a stop signal (train/stop.py), saves the step and raises KeyboardInterrupt; not at the last step."""
        device = next(self.model.parameters()).device
        if step.is_last or not all_reduce_sum([float(self.stop.asked)], device)[0]:  # the ranks stop together
            return
        if self.newest_save != step.number:
            self.save(step)
        self.wait()
        # torchrun ends all ranks when one rank exits, so no rank may exit before the checkpoint is on disk.
        all_reduce_sum([0.0], device)
        raise KeyboardInterrupt

    def save(self, step: Step) -> None:
        """Writes a checkpoint after `step` in the background. A resumed run continues from it exactly.

        It does nothing while the loss is far above normal: such weights are not worth keeping.
        UserError if weights are not finite, or if the previous checkpoint could not be written.
        """
        if self.high_losses and not step.is_last:
            return
        if not all(bool(p.isfinite().all()) for p in self.model.parameters()):
            raise UserError(f"weights became infinite or NaN by step {step.number}; existing checkpoints are older: "
                            "continue with --resume and lower learning rates (--matrix_lr, --embedding_lr)")
        resumable = not step.is_last or self.target.keep_optimizer  # no run resumes from a finished stage
        content = checkpoint.snapshot(self.model, self.optimizer if resumable else None)
        state = {"stage": self.stage, "flags": self.target.flags, "steps": self.steps, "loader": step.state,
                 "tokens": self.tokens, "seconds": round(self.seconds, 2), "source": self.source,
                 "suggestions": self.suggestions}
        self.wait()
        self.newest_save = step.number
        self.writing = self.writer.submit(self._write, step.number, content, state)

    def _write(self, step: int, content: checkpoint.Snapshot, state: State) -> None:
        path = checkpoint.write(self.folder, step, content, state, self.tokenizer)
        self.saved = [*(earlier for earlier in self.saved if earlier != path), path][-self.target.keep:]
        checkpoint.keep_only(self.saved, self.folder)

    def wait(self) -> None:
        """Returns when the last checkpoint is on disk; raises the error of the background write."""
        if self.writing is not None:
            self.writing.result()

    def finish(self, **facts: Any) -> None:
        """Waits for the last checkpoint, then writes run.json with these `facts`, for the report."""
        self.wait()
        log.write_run(self.stage, folder=self.target.results, seconds=self.seconds, steps=self.steps,
                      tokens=self.tokens, flags=self.target.flags,
                      num_params=sum(p.numel() for p in self.model.parameters()), **facts)
        log.say(f"{self.stage}: {self.steps:,} steps, {self.tokens:,} tokens in {self.seconds:.0f} s → {self.folder}")
