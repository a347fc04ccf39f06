"""What a training run writes down, and where it goes on: metrics, checkpoints, the progress bar, run.json.

    journal = Journal("base", "d4", model, optimizer, steps=800, resume=args.resume, flags=vars(args))
    with journal:
        for step in optimize(..., start=journal.start):
            journal.record(step, **numbers)
            if due(step, args.save_every): journal.save(step)
    journal.finish(num_params=…)
"""
import math
import signal
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from nanochat.model import GPT
from nanochat.optim import Optimizer
from nanochat.system import log, paths
from nanochat.system.files import UserError
from nanochat.system.runtime import all_reduce_sum
from nanochat.train import checkpoint
from nanochat.train.loop import Step

# Flags that may differ between a run and its resumption: how it computes, and what a run that diverged has to change.
# Every other flag decides the numbers.
FREE_FLAGS = {"resume", "save_every", "keep", "eval_every", "run", "device_type", "compile", "device_batch_size",
              "recompute", "workers", "eval_questions"}
RATE_FLAGS = {"matrix_lr", "embedding_lr", "head_lr", "weight_decay"}
# A spike: a loss more than twice, and a nat above, the median of the hundred before, that stays: the mean of ten such
# steps is not below that of the ten before. (Where easy text ends and other text begins, it leaps too, but falls.)
SPIKE_STEPS, SPIKE_WINDOW, SPIKE_ARMED = 10, 100, 20


class Journal:
    """One stage's run on disk. `start` is the number of steps done, `state` the loader's place (None = the beginning).

    Nothing on disk changes before `with journal:`, so that a recipe may still find a mistake in its flags.
    """

    def __init__(self, stage: str, tag: str, model: GPT, optimizer: Optimizer, *, steps: int, resume: bool,
                 flags: dict[str, Any], keep: int = 1):
        self.stage, self.model, self.optimizer, self.steps, self.keep = stage, model, optimizer, steps, keep
        self.folder = paths.checkpoint_dir(stage, tag)
        self.flags = {name: value for name, value in flags.items() if name not in FREE_FLAGS}
        self.start, self.state, self.seconds_before, self.tokens = 0, None, 0.0, 0
        self.saved: list[Path] = []  # this run's checkpoints; an earlier run's go when the first of these is there
        self.writer, self.writing = ThreadPoolExecutor(1, "checkpoint"), Future()
        self.writing.set_result(None)
        self.stopping = False
        self.losses, self.risen = deque(maxlen=SPIKE_WINDOW), []
        found = checkpoint.latest(self.folder) if resume else None
        if found:
            self._take_over(*found)
        self.bar = log.Progress(stage, steps)

    def _take_over(self, path: Path, state: dict[str, Any]) -> None:
        saved = state["flags"]
        changed = [f"--{name}={self.flags.get(name)} (was {saved.get(name)})" for name in sorted({*saved, *self.flags})
                   if saved.get(name) != self.flags.get(name)]
        rates = [text for text in changed if text[2:].split("=")[0] in RATE_FLAGS]
        if changed != rates:
            raise UserError(f"{path} was made with other flags: {', '.join(changed)}; give the same ones to go on, "
                            "or leave --resume away to start over")
        if rates:
            log.say(f"{self.stage}: from here on with {', '.join(rates)}")
        checkpoint.check_tokenizer(path, state)
        checkpoint.restore(path, self.model, self.optimizer)
        self.start, self.state, self.tokens = state["step"], state["loader"], state["tokens"]
        self.seconds_before, self.saved = state["seconds"], [path]
        log.say(f"{self.stage}: goes on after step {self.start:,} of {self.steps:,} ({path.name})")

    def __enter__(self) -> "Journal":
        self.started = time.monotonic()
        self.metrics = log.Metrics(paths.results_dir(self.stage) / "metrics.jsonl", self.start)
        self.previous = {sign: signal.signal(sign, self._on_signal) for sign in (signal.SIGTERM, signal.SIGINT)}
        self.bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.__exit__(*error)
        self.writer.shutdown()  # a checkpoint half written is finished
        for sign, handler in self.previous.items():
            signal.signal(sign, handler)

    def _on_signal(self, *_: object) -> None:
        """The step that runs is finished and saved: in its middle the weights are no state of the run."""
        if self.stopping:  # a second time: the user does not want to wait
            raise KeyboardInterrupt
        self.stopping = True

    @property
    def seconds(self) -> float:
        """Wall clock of this stage so far, the runs before an interruption included."""
        return self.seconds_before + time.monotonic() - self.started

    def record(self, step: Step, **numbers: float) -> None:
        """One line of metrics and the bar. `numbers` are named area/quantity_unit."""
        self.tokens += step.tokens
        speed = step.tokens / step.seconds
        self.metrics.write(step.number, **{"train/loss_nats": step.loss, "speed/tokens_per_second": speed,
                                           "speed/stall_fraction": step.waited / step.seconds,
                                           "train/lr_multiplier": step.lr, "time/seconds": self.seconds, **numbers})
        self.bar.update(step.number, loss=step.loss, tokens_per_second=speed,
                        **{name.split("/")[-1]: value for name, value in numbers.items()})

        if self.stage != "rl":  # whose loss is no likelihood
            self._watch(step)
        device = next(self.model.parameters()).device
        if all_reduce_sum([float(self.stopping)], device)[0]:  # the ranks stop together
            self.save(step)
            self.wait()
            all_reduce_sum([0.0], device)  # a rank that left would have its launcher end the one that writes
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
        taken = checkpoint.snapshot(self.model, self.optimizer)
        state = {"stage": self.stage, "flags": self.flags, "steps": self.steps, "loader": step.state,
                 "tokens": self.tokens, "seconds": round(self.seconds, 2)}
        self.wait()
        self.writing = self.writer.submit(self._write, step.number, taken, state)

    def _write(self, step: int, taken: checkpoint.Snapshot, state: dict[str, Any]) -> None:
        path = checkpoint.write(self.folder, step, taken, state)
        self.saved = [*(one for one in self.saved if one != path), path][-self.keep:]
        checkpoint.keep_only(self.saved, self.folder)

    def wait(self) -> None:
        """Until the last checkpoint is on disk; raises what kept it from getting there."""
        self.writing.result()

    def finish(self, **facts: Any) -> None:
        """run.json, for the report, when the last checkpoint is on disk."""
        self.wait()
        log.write_run(self.stage, seconds=self.seconds, steps=self.steps, tokens=self.tokens, flags=self.flags,
                      num_params=sum(p.numel() for p in self.model.parameters()), **facts)
        log.say(f"{self.stage}: {self.steps:,} steps, {self.tokens:,} tokens in {self.seconds:.0f} s → {self.folder}")
