"""Which parameter gets which update rule, and the optimizer that applies the rules.

Matrices of the blocks go to Muon; embeddings, head, gates and scalars go to AdamW (muon.py and adamw.py say why).

To add a rule: write a module with the three names of nanochat/optim/rule.py, enter it in RULES, and name it in
`groups_of`. A new hyperparameter is a field of `Group` and of `StepSettings` (rule.py) and a line in `_settings`; its
flag goes into RATES and `rates` of nanochat/train/flags.py. train/probe.py and scale.py assume at most two moments for
a weight.

Gradients are not clipped, because no update grows with its gradient: Muon makes it orthogonal, and AdamW divides it by
its running root mean square. nanochat/train/journal.py ends a run whose loss diverges.
"""
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from nanochat.optim import adamw, muon
from nanochat.optim.rule import Rule, StepSettings, Tensors
from nanochat.optim.schedule import Schedule
from nanochat.optim.sharding import GroupSlice, cut, gather, rank_and_world_size

RULES: dict[str, Rule] = {"muon": muon, "adamw": adamw}  # for a new rule: a module and an entry


@dataclass
class Group:
    """Parameters under one rule with one learning rate (at the schedule's multiplier 1)."""

    rule: str  # a name in RULES
    params: Tensors
    lr: float  # at the peak of the schedule
    # β₂ = .95, as for GPT-3 (Brown et al. 2020, appendix B), averages over about 20 steps; .999 would average over
    # 1,000, a laptop's whole run. β₁ = .8 and ε = 1e-10 are the choice of karpathy/nanochat's October release.
    betas: tuple[float, float] = (0.8, 0.95)
    eps: float = 1e-10
    weight_decay: float = 0.0
    state: dict[str, Any] = field(default_factory=dict)  # moments of this rank's slice

    @property
    def whole(self) -> bool:
        return RULES[self.rule].WHOLE_MATRICES


class Model(Protocol):
    """The part of nanochat/model/gpt.py's model that `groups_of` needs."""

    config: Any

    def named_parameters(self) -> Iterable[tuple[str, torch.nn.Parameter]]: ...


def groups_of(model: Model, *, matrix_lr: float, embedding_lr: float, head_lr: float, scalar_lr: float = 0.5,
              weight_decay: float = 0.0) -> list[Group]:
    """One group per rule, rate and, for Muon, shape. Every trained parameter is in exactly one group (asserted)."""
    left = {name: p for name, p in model.named_parameters() if p.requires_grad}

    def take(pattern: str) -> Tensors:
        """Removes the parameters whose name matches from those that are left, and returns them."""
        return [left.pop(name) for name in list(left) if re.search(pattern, name)]

    # AdamW's rates are tuned at width 768 and fall with the root of the width; both are the October release's rules.
    scale = (model.config.n_embd / 768) ** -0.5
    groups = [
        Group("adamw", take(r"\.embed_tokens\."), embedding_lr * scale),
        Group("adamw", take(r"\.value_embeds\."), embedding_lr * scale * 0.5),  # karpathy/nanochat's factor
        Group("adamw", take(r"^lm_head\."), head_lr * scale),
        # The residual scalars of all layers are multiplied with each other, so they need a rate 100 times smaller than
        # the embedding scalars, which are only added (karpathy/nanochat, dev/LOG.md, 2026-01-11).
        Group("adamw", take(r"\.residual_scalars$"), scalar_lr * 0.01),
        # β₁ = .96 was best in the same project's sweep at d20; .98 ruined the run (2026-01-19).
        Group("adamw", take(r"\.embedding_scalars$"), scalar_lr, betas=(0.96, 0.95)),
        Group("adamw", take(r"\.(smear|smear_share|backout)$"), scalar_lr * 0.1),  # our choice
        Group("adamw", take(r"\.(gate|smear_gate)\."), head_lr * scale),  # our choice
        # 2e-3 by default: about the rate of Hu et al. for GPT-2 (2e-4) times their factor α/r (8), which we leave out.
        Group("adamw", take(r"\.lora_"), matrix_lr * 0.1),
    ]
    by_shape: dict[torch.Size, Tensors] = {}
    for p in take(r"^model\.layers\."):
        by_shape.setdefault(p.shape, []).append(p)
    assert not left, f"no rule for {sorted(left)}"
    groups += [Group("muon", params, matrix_lr, weight_decay=weight_decay) for params in by_shape.values()]
    return [group for group in groups if group.params]


class Optimizer:
    """Applies every group's rule; each rank updates its slice of every group. Muon multiplies matrices in `dtype`."""

    def __init__(self, groups: list[Group], dtype: torch.dtype = torch.float32):
        self.groups, self.dtype, self.updates = groups, dtype, 0
        self.slices = [GroupSlice(group.params, group.whole) for group in groups]
        for group, group_slice in zip(groups, self.slices):
            group.state = RULES[group.rule].state(group_slice.tensors, group.params[0])

    @property
    def params(self) -> Tensors:
        return [p for group in self.groups for p in group.params]

    @torch.no_grad()
    def step(self, schedule: Schedule, step: int) -> None:
        """One update by the gradients in `.grad`, summed over ranks; afterwards `.grad` is None. A collective."""
        self.updates += 1
        reduced = [group_slice.start_reduce() for group_slice in self.slices]  # all sums run while groups are updated
        gathers = []
        for group, group_slice, wait_for_grads in zip(self.groups, self.slices, reduced):
            grads = wait_for_grads()
            if group_slice.tensors:  # empty if the group has fewer matrices than there are ranks
                settings = self._settings(group, schedule, step)
                RULES[group.rule].update(group_slice.tensors, grads, group.state, settings)
            gathers.append(group_slice.start_all_gather())
        for wait_for_params in gathers:
            wait_for_params()
        for p in self.params:
            p.grad = None

    def _settings(self, group: Group, schedule: Schedule, step: int) -> StepSettings:
        return StepSettings(lr=group.lr * schedule.lr(step), momentum=schedule.momentum(step), betas=group.betas,
                            weight_decay=group.weight_decay * schedule.weight_decay(step), eps=group.eps,
                            num_updates=self.updates, dtype=self.dtype)

    @torch.no_grad()
    def state_dict(self) -> dict[str, Any]:
        """Copies of all ranks' moments on the CPU, put together; the same for any number of ranks. Only the first rank
        gets them. A collective."""
        groups: list[dict[str, Any]] = []
        for group in self.groups:
            groups.append({})
            for name, moment in group.state.items():
                full = gather(list(moment), _shapes(group, moment), group.whole)
                if rank_and_world_size()[0] == 0:
                    copies = [tensor.detach().to("cpu", copy=True) for tensor in full]
                    groups[-1][name] = torch.stack(copies) if torch.is_tensor(moment) else copies
        return {"updates": self.updates, "groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Loads moments that any number of ranks saved of the same model; ValueError where shapes differ."""
        self.updates = state["updates"]
        for group, saved_group in zip(self.groups, state["groups"], strict=True):
            for name, saved in saved_group.items():
                moment = group.state[name]
                shapes = [tuple(tensor.shape) for tensor in saved]
                expected = [tuple(tensor.shape) for tensor in _shapes(group, moment)]
                if shapes != expected:
                    raise ValueError(f"optimizer state {name} has shapes {shapes}, not {expected}")
                for target, source in zip(moment, cut(list(saved), group.whole, *rank_and_world_size()), strict=True):
                    target.copy_(source)


def _shapes(group: Group, moment: torch.Tensor | Tensors) -> Tensors:
    """Tensors with the shapes that a moment has for every parameter of the group, also for those of other ranks."""
    if not isinstance(moment, torch.Tensor):
        return list(group.params)
    return [moment.new_empty(()).expand(moment.shape[1:])] * len(group.params)  # one empty element, seen as the shape
