"""Means of verdicts, and their standard errors."""
import math
from collections.abc import Sequence


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error, which for verdicts with mean p is √(p(1−p)/n).

    >>> mean_and_stderr([1, 0, 0, 1])
    (0.5, 0.25)
    """
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values)) / len(values)


def centred(accuracy: float, chance: float) -> float:
    """0 for the accuracy of guessing, 1 for all items right, so that exams with different chances can be averaged."""
    return (accuracy - chance) / (1 - chance)


def mean_centred(scores: Sequence[tuple[float, float, float]]) -> tuple[float, float]:
    """The mean of centred accuracies and its standard error, from (accuracy, standard error, chance) of each exam."""
    values = [centred(accuracy, chance) for accuracy, _, chance in scores]
    errors = [stderr / (1 - chance) for _, stderr, chance in scores]
    return sum(values) / len(values), sum(error**2 for error in errors) ** 0.5 / len(errors)
