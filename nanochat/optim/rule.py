"""What an update rule is: a module with the three names of `Rule`. nanochat/optim/adamw.py is the shorter example."""
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class StepSettings:
    """What the optimizer tells a rule at one step. A rule reads the settings that it needs."""

    lr: float
    weight_decay: float
    momentum: float  # of the schedule, for Muon
    betas: tuple[float, float]  # of the group, for AdamW
    eps: float
    num_updates: int  # with this one: 1 at the first
    dtype: torch.dtype  # to multiply matrices in


class Rule(Protocol):
    """A rule sees slices: the part of a group's parameters that this rank updates (nanochat/optim/sharding.py)."""

    WHOLE_MATRICES: bool  # True: a slice must be whole matrices, all of one shape; False: any range of elements will do

    def state(self, params: Tensors, like: torch.Tensor) -> dict[str, Any]:
        """New moments by name, each a list with a tensor per parameter, or one tensor with a parameter per row.

        `params` may be empty, where a group has fewer matrices than there are ranks; `like` is always a parameter.
        """

    def update(self, params: Tensors, grads: Tensors, state: dict[str, Any], settings: StepSettings) -> None:
        """Changes `params` and `state` in place; `grads` are the sums over all ranks."""
