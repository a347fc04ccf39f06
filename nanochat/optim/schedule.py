"""Learning rate, momentum and weight decay over a run: pure functions of the step."""
from dataclasses import dataclass

MOMENTUM_STEPS = 300  # steps in which Muon's momentum rises


@dataclass(frozen=True)
class Schedule:
    """Multipliers and momentum for each step, 0 … steps − 1.

    The learning rate warms up linearly, stays at its peak, and falls linearly to 0, which it would reach just after the
    last step.
    """

    steps: int
    warmup_steps: int = 0
    warmdown_fraction: float = 0.6  # fraction of the steps, at the end, in which the rate falls

    def lr(self, step: int) -> float:
        """Multiplier of every learning rate.

        >>> [round(Schedule(10, warmup_steps=2, warmdown_fraction=0.5).lr(step), 2) for step in range(10)]
        [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]
        """
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        warmdown_steps = self.warmdown_fraction * self.steps
        if not warmdown_steps:
            return 1.0
        return min(1.0, (self.steps - step) / warmdown_steps)

    def momentum(self, step: int) -> float:
        """Muon's momentum, from .85 to .95."""
        # A rising momentum comes from modded-nanogpt (record 9); the figures are karpathy/nanochat's of October 2025.
        # In a run of fewer than 600 steps it rises during the first half, so that every run has steps at .95.
        return 0.85 + 0.1 * min(1.0, step / max(1, min(MOMENTUM_STEPS, self.steps // 2)))

    def weight_decay(self, step: int) -> float:
        """Multiplier of the weight decay: 1 → 0, which karpathy/nanochat found better than a constant (its
        dev/LOG.md, 2026-01-10)."""
        return 1 - step / self.steps
