"""Learning rate, momentum and weight decay over a run: pure functions of the step."""
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Warm up linearly, hold, warm down linearly to `final_fraction` of the peak, reached just after the last step."""

    steps: int
    warmup_steps: int = 0
    warmdown_fraction: float = 0.6  # of all steps
    final_fraction: float = 0.0
    momentum_steps: int = 300  # Muon's momentum rises from .85 to .95 over these

    def lr(self, step: int) -> float:
        """Multiplier of every learning rate at `step` (0 … steps−1).

        >>> [round(Schedule(10, warmup_steps=2, warmdown_fraction=0.5).lr(step), 2) for step in range(10)]
        [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        warmdown_steps = self.warmdown_fraction * self.steps
        if not warmdown_steps:
            return 1.0
        fraction_left = min(1.0, (self.steps - step) / warmdown_steps)
        return self.final_fraction + (1 - self.final_fraction) * fraction_left

    def momentum(self, step: int) -> float:
        """Muon's momentum at `step`: .85 → .95 (.1 of rise, never beyond)."""
        return 0.85 + 0.1 * min(1.0, step / max(1, min(self.momentum_steps, self.steps // 2)))
