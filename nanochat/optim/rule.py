"""What an update rule is: a module with the three names of `Rule`. nanochat/optim/adamw.py is the shorter example."""
from dataclasses import dataclass
from typing import Any, Protocol

import torch

Tensors = list[torch.Tensor]


@dataclass(frozen=True)
class StepSettings:
    """The settings of one step of one group. A rule reads those settings that it needs."""

    lr: float  # the group's rate × the schedule's multiplier
    weight_decay: float  # likewise
    momentum: float  # from the schedule, for Muon
    betas: tuple[float, float]  # the group's, for AdamW
    eps: float  # the group's, for AdamW
    num_updates: int  # including this update: 1 at the first
    dtype: torch.dtype  # for Muon's matrix products


class Rule(Protocol):
    """A rule sees slices: the part of a group's parameters that this rank updates (nanochat/optim/sharding.py)."""

    # True: the rule needs whole matrices, so a slice is whole matrices of one shape. False: it updates every element by
    # itself, so a slice may be any range of elements.
    WHOLE_MATRICES: bool

    def state(self, params: Tensors, like: torch.Tensor) -> dict[str, Any]:
        """New moments by name, each a list with a tensor per parameter, or one tensor with a parameter per row.

        `params` may be empty, if a group has fewer matrices than there are ranks; `like` is always a parameter.
        """

    def update(self, params: Tensors, grads: Tensors, state: dict[str, Any], settings: StepSettings) -> None:
        """Changes `params` and `state` in place; `grads` are the sums over all ranks."""
