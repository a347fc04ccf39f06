"""Chapter 5: count the work of a model, and fit a line. (docs/course/05-scaling.md)"""
from collections.abc import Sequence


def flops_per_token(layers: int, width: int, vocab_size: int, row_len: int) -> int:
    """The additions and multiplications of training on one token.

    1. Every parameter that is multiplied costs 6: 2 in the forward pass, 4 in the backward pass. These are the matrices
       of the layers, 12 · width² in each (4 of attention, 8 of the MLP), and the head, vocab_size · width. The
       embedding is looked up, not multiplied: it costs nothing.
    2. Attention has two more products in each layer, which depend on the row: 12 · width · row_len for each layer.
    """
    raise NotImplementedError


def fit_line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """(slope, intercept) of the line y = slope · x + intercept with the smallest sum of squared errors.

    slope = Σ (x − mean of xs) · (y − mean of ys) / Σ (x − mean of xs)². The line goes through (mean of xs, mean of ys).
    """
    raise NotImplementedError
