"""Work and verdicts shared over ranks: every rank takes every N-th item or group of them, all get everything back."""
import math
from collections.abc import Sequence
from typing import Any

import torch.distributed as dist

GROUP = 64  # items: enough for batches of like lengths, few enough that ranks end together


def my_part(items: Sequence) -> Sequence:
    """This rank's items; all of them where there is one rank."""
    return items[dist.get_rank()::dist.get_world_size()] if dist.is_initialized() else items


def grouped(items: Sequence, size: int) -> list[Sequence]:
    """`grouped([1, 2, 3], 2)` → [[1, 2], [3]]."""
    return [items[first:first + size] for first in range(0, len(items), size)]


def my_groups(items: Sequence) -> Sequence[Sequence]:
    """This rank's part of `items`, a group of neighbours at a time.

    Batches are made within a group, so they are the same ones on any number of ranks; so are the roundings in them.
    """
    return my_part(grouped(items, GROUP))


def gathered(records: list[Any]) -> list[Any]:
    """The records of all ranks, on every rank."""
    if not dist.is_initialized():
        return records
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, records)
    return [record for part in parts for record in part]


def mean_and_stderr(values: Sequence[float]) -> tuple[float, float]:
    """The mean and its standard error; of verdicts with mean p that is √(p(1−p)/n).

    >>> mean_and_stderr([1, 0, 0, 1])
    (0.5, 0.25)
    """
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values)) / len(values)
