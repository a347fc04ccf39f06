"""Chapter 5, broken: a prediction from three runs, with one fault.

    python -m course.ch05.broken
    python -m course.check 5 --broken       when you think that it is mended
"""
import math
from collections.abc import Sequence
from statistics import linear_regression

from nanochat.system import cli


def predict(flops: Sequence[float], losses: Sequence[float], new_flops: float) -> float:
    """The loss at `new_flops` by the power law loss = a · flops^b, which is a line between the logarithms."""
    slope, intercept = linear_regression([math.log10(x) for x in flops], [math.log10(y) for y in losses])
    return math.exp(slope * math.log10(new_flops) + intercept)


def main(argv: list[str] | None = None) -> None:
    cli.parse(argv, __doc__)
    flops, losses = [1e12, 2e12, 4e12], [1.25, 1.00, 0.80]  # each time twice the work, and .8 of the loss
    for x, loss in zip(flops, losses, strict=True):
        print(f"{x:.0e} FLOPs: measured {loss:.2f}, predicted {predict(flops, losses, x):.2f}")
    print(f"8e+12 FLOPs: predicted {predict(flops, losses, 8e12):.2f}")


if __name__ == "__main__":
    cli.run(main)
