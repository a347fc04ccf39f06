"""Work shared by ranks: each of N ranks takes every N-th item, or group of items, and all ranks get all results."""
from collections.abc import Sequence
from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")
GROUP = 64  # items: enough for batches of similar length, few enough that all ranks end at about the same time


def my_share(items: Sequence[T]) -> Sequence[T]:
    """This rank's items; all items if there is one rank."""
    return items[dist.get_rank()::dist.get_world_size()] if dist.is_initialized() else items


def grouped(items: Sequence[T], size: int) -> list[Sequence[T]]:
    """`grouped([1, 2, 3], 2)` → [[1, 2], [3]]."""
    return [items[first:first + size] for first in range(0, len(items), size)]


def my_groups(items: Sequence[T]) -> Sequence[Sequence[T]]:
    """This rank's groups of GROUP consecutive items."""
    # A batch is made within a group, so batches, and their rounding errors, are the same on any number of ranks.
    return my_share(grouped(items, GROUP))


def gather(records: list[T]) -> list[T]:
    """The records of all ranks, on every rank. A collective."""
    if not dist.is_initialized():
        return records
    by_rank: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(by_rank, records)
    return [record for records_of_rank in by_rank for record in records_of_rank]
