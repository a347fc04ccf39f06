"""What a training run writes down, and where it goes on: metrics, checkpoints, the progress bar, run.json.

    journal = Journal("base", "d4", model, optimizer, steps=800, resume=args.resume, flags=vars(args))
    with journal:
        for step in optimize(..., start=journal.start):
            journal.record(step, **numbers)
            if due(step, args.save_every): journal.save(step)
    journal.finish(num_params=…)
"""
import signal
import time
from pathlib import Path
from typing import Any

from nanochat.model import GPT
from nanochat.optim import Optimizer
from nanochat.system import log, paths
from nanochat.system.files import UserError
from nanochat.train import checkpoint
from nanochat.train.loop import Step

# Flags that may differ between a run and its resumption; every other flag decides the numbers.
FREE_FLAGS = {"resume", "save_every", "keep", "eval_every", "run", "device_type", "compile",
              "eval_questions"}


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
        found = checkpoint.latest(self.folder) if resume else None
        if found:
            self._take_over(*found)
        self.bar = log.Progress(stage, steps)

    def _take_over(self, path: Path, state: dict[str, Any]) -> None:
        saved = state["flags"]
        changed = [f"--{name}={self.flags.get(name)} (was {saved.get(name)})" for name in sorted({*saved, *self.flags})
                   if saved.get(name) != self.flags.get(name)]
        if changed:
            raise UserError(f"{path} was made with other flags: {', '.join(changed)}; give the same ones to go on, "
                            "or leave --resume away to start over")
        checkpoint.check_tokenizer(path, state)
        checkpoint.restore(path, self.model, self.optimizer)
        self.start, self.state, self.tokens = state["step"], state["loader"], state["tokens"]
        self.seconds_before, self.saved = state["seconds"], [path]
        log.say(f"{self.stage}: goes on after step {self.start:,} of {self.steps:,} ({path.name})")

    def __enter__(self) -> "Journal":
        self.started = time.monotonic()
        self.metrics = log.Metrics(paths.results_dir(self.stage) / "metrics.jsonl", self.start)
        self.previous = signal.signal(signal.SIGTERM, self._on_sigterm)
        self.bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.__exit__(*error)
        signal.signal(signal.SIGTERM, self.previous)

    def _on_sigterm(self, *_: object) -> None:
        raise KeyboardInterrupt

    @property
    def seconds(self) -> float:
        """Wall clock of this stage so far, the runs before an interruption included."""
        return self.seconds_before + time.monotonic() - self.started

    def record(self, step: Step, **numbers: float) -> None:
        """One line of metrics and the bar. `numbers` are named area/quantity_unit."""
        self.tokens += step.tokens
        speed = step.tokens / step.seconds
        self.metrics.write(step.number, **{"train/loss_nats": step.loss, "speed/tokens_per_second": speed,
                                           "train/lr_multiplier": step.lr, "time/seconds": self.seconds, **numbers})
        self.bar.update(step.number, loss=step.loss, tokens_per_second=speed,
                        **{name.split("/")[-1]: value for name, value in numbers.items()})

    def save(self, step: Step) -> None:
        """A checkpoint after `step`, from which a run goes on exactly."""
        path = checkpoint.save(self.folder, step.number, self.model, self.optimizer, {
            "stage": self.stage, "flags": self.flags, "loader": step.state, "tokens": self.tokens,
            "seconds": round(self.seconds, 2)})
        self.saved = [*self.saved, path][-self.keep:]
        checkpoint.keep_only(self.saved, self.folder)

    def finish(self, **facts: Any) -> None:
        """run.json, for the report."""
        log.write_run(self.stage, seconds=self.seconds, steps=self.steps, tokens=self.tokens, flags=self.flags,
                      num_params=sum(p.numel() for p in self.model.parameters()), **facts)
        log.say(f"{self.stage}: {self.steps:,} steps, {self.tokens:,} tokens in {self.seconds:.0f} s → {self.folder}")
