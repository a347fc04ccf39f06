"""What chapter 5 holds of `flops_per_token` and `fit_line`, and of the mended prediction."""
from statistics import linear_regression
from types import SimpleNamespace
from typing import Any

from course.expect import equal, near
from nanochat import dial
from nanochat.model import GPTConfig, accounting


def counted(layers: int, width: int, vocab_size: int, row_len: int) -> int:
    """The project's count, of a model with heads of 32."""
    return accounting.flops_per_token(GPTConfig(row_len, vocab_size, layers, width // 32, width // 32, width, 32))


SOLUTION = SimpleNamespace(flops_per_token=counted, fit_line=lambda xs, ys: tuple(linear_regression(xs, ys)))


def check_head(mine: Any) -> None:
    """the head counts, the embedding does not"""
    more = mine.flops_per_token(2, 64, 3000, 256) - mine.flops_per_token(2, 64, 2000, 256)
    equal("FLOPs of 1,000 more tokens in the vocabulary, at width 64", more, 6 * 1000 * 64)


def check_row(mine: Any) -> None:
    """a longer row costs more for each token"""
    more = mine.flops_per_token(3, 96, 2048, 512) - mine.flops_per_token(3, 96, 2048, 256)
    equal("FLOPs of 256 more positions in a row, at 3 layers of width 96", more, 12 * 3 * 96 * 256)


def check_plan(mine: Any) -> None:
    """it agrees with what the dial counts for d4, d8 and the $100 model, d20"""
    for depth, options in ((4, dial.LAPTOP), (8, dial.LAPTOP), (20, dial.DEFAULTS)):
        made = dial.make(depth, options)
        equal(f"flops_per_token of d{depth}", mine.flops_per_token(depth, made.n_embd, made.vocab_size,
                                                                   made.sequence_len), made.flops_per_token)


def check_exact_line(mine: Any) -> None:
    """points on a line give that line"""
    near("fit_line([1, 2, 4], [5, 3, -1])", mine.fit_line([1, 2, 4], [5, 3, -1]), [-2.0, 7.0])


def check_scattered(mine: Any) -> None:
    """points beside a line give the line with the smallest squared errors"""
    xs, ys = [11.2, 11.9, 12.4, 13.0], [0.21, 0.11, 0.09, -0.04]
    near(f"fit_line({xs}, {ys})", mine.fit_line(xs, ys), list(linear_regression(xs, ys)))


def mended_prediction(mine: Any) -> None:
    """runs that follow a power law exactly are predicted exactly"""
    flops, losses = [1e12, 2e12, 4e12], [1.0, 0.9, 0.81]
    near("predict(…, 8e12)", mine.predict(flops, losses, 8e12), 0.729, 1e-3)
    near("predict(…, 1e12)", mine.predict(flops, losses, 1e12), 1.0, 1e-3)
