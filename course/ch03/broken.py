"""Chapter 3, broken: a training loop with one fault. The loss falls, and then it does not.

    python -m course.ch03.broken
    python -m course.check 3 --broken       when you think that it is mended
"""
from collections.abc import Iterable

import torch
import torch.nn.functional as F

from nanochat.system import cli


def train(weights: torch.Tensor, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], rate: float) -> list[float]:
    """Changes `weights` in place, one step for each batch of (inputs, targets), and returns the loss of each step.

    `inputs @ weights` are predictions; the loss is the mean square of their errors.
    """
    weights.requires_grad_()
    losses = []
    for inputs, targets in batches:
        loss = F.mse_loss(inputs @ weights, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            assert weights.grad is not None
            weights -= rate * weights.grad
        losses.append(loss.item())
    return losses


def examples(num_batches: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches whose targets are a fixed function of their inputs, so that a loss of 0 is possible."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(8, 1, generator=generator)
    inputs = [torch.randn(32, 8, generator=generator) for _ in range(num_batches)]
    return [(x, x @ truth) for x in inputs]


def main(argv: list[str] | None = None) -> None:
    cli.parse(argv, __doc__)
    losses = train(torch.zeros(8, 1), examples(60), rate=0.1)
    for step in range(0, 60, 4):
        print(f"step {step:3}  loss {losses[step]:8.4f}  {'#' * min(70, round(6 * losses[step]))}")


if __name__ == "__main__":
    cli.run(main)
