"""Chapter 5: count the work of a model, and fit a line. (docs/course/05-scaling.md)"""
from collections.abc import Sequence


def flops_per_token(layers: int, width: int, vocab_size: int, row_len: int) -> int:
    """The additions and multiplications of training on one token.

    1. Count the parameters that are multiplied: the matrices of the layers, 12 · width² parameters in each layer (4 of
       attention, 8 of the MLP), and the output matrix, vocab_size · width parameters. The embedding is looked up, not
       multiplied, and does not count. Each of these parameters costs 6 FLOPs (docs/course/05-scaling.md says why).
    2. Add the products of queries with keys and of weights with values. They have no parameters, and depend on the row:
       12 · width · row_len FLOPs for each layer. (This is a number of FLOPs already: do not multiply it by 6.)
    """
    raise NotImplementedError


def fit_line(xs: Sequence[float], ys: Sequence[float]) -> tuple[float, float]:
    """(slope, intercept) of the line y = slope · x + intercept with the smallest sum of squared errors.

    slope = Σ (x − mean of xs) · (y − mean of ys) / Σ (x − mean of xs)². The line goes through (mean of xs, mean of ys).
    """
    raise NotImplementedError
