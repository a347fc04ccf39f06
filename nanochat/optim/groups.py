"""Which parameter gets which rule, and the optimizer that applies them.

Matrices of the blocks go to Muon, in groups of one shape; embeddings, head, gates and scalars go to AdamW. Its rates
are tuned at width 768 and scale with (width/768)^−½ (the original's rule; FACTS: head .004–.008, embedding .2–.3).
"""
from dataclasses import dataclass, field
from typing import Any

import torch

from nanochat.optim import adamw, muon
from nanochat.optim.schedule import Schedule
from nanochat.optim.sharding import Slices, cut, gathered, ranks


@dataclass
class Group:
    """Parameters under one rule with one learning rate (at multiplier 1)."""

    rule: str  # "muon" or "adamw"
    params: list[torch.nn.Parameter]
    lr: float
    betas: tuple[float, float] = (0.8, 0.95)
    eps: float = 1e-10
    weight_decay: float = 0.0
    state: dict[str, Any] = field(default_factory=dict)


def groups_of(model: torch.nn.Module, *, matrix_lr: float, embedding_lr: float, head_lr: float, scalar_lr: float = 0.5,
              weight_decay: float = 0.0) -> list[Group]:
    """One group per rule, rate and shape. Every trained parameter is in exactly one (asserted)."""
    scale = (model.config.n_embd / 768) ** -0.5
    by_name = {name: p for name, p in model.named_parameters() if p.requires_grad}
    take = lambda test: [by_name.pop(name) for name in list(by_name) if test(name)]  # noqa: E731
    rest = [
        Group("adamw", take(lambda n: n.endswith("embed_tokens.weight")), embedding_lr * scale),
        Group("adamw", take(lambda n: ".value_embeds." in n), embedding_lr * scale * 0.5),
        Group("adamw", take(lambda n: n.startswith("lm_head.")), head_lr * scale),
        Group("adamw", take(lambda n: n.endswith(".residual_scalars")), scalar_lr * 0.01),
        Group("adamw", take(lambda n: n.endswith(".embedding_scalars")), scalar_lr, betas=(0.96, 0.95)),
        Group("adamw", take(lambda n: n == "model.smear"), scalar_lr * 0.1),
        Group("adamw", take(lambda n: n.endswith(".gate.weight")), head_lr * scale),
        Group("adamw", take(lambda n: ".lora_" in n), matrix_lr * 0.1),  # 2e-3: Hu et al.'s rate times their α/r
    ]
    shapes: dict[torch.Size, list[torch.nn.Parameter]] = {}
    for p in take(lambda n: n.startswith("model.layers.")):
        shapes.setdefault(p.shape, []).append(p)
    assert not by_name, f"no rule for {sorted(by_name)}"
    matrices = [Group("muon", params, matrix_lr, weight_decay=weight_decay) for params in shapes.values()]
    return [group for group in rest if group.params] + matrices


class Optimizer:
    """Applies every group's rule, each rank to its slice of every group. `dtype` is what Muon multiplies in."""

    def __init__(self, groups: list[Group], dtype: torch.dtype = torch.float32):
        self.groups, self.dtype, self.updates = groups, dtype, 0
        self.slices = [Slices(group.params, group.rule == "muon") for group in groups]
        for group, part in zip(groups, self.slices):
            group.state = (muon.state(part.mine, group.params[0]) if group.rule == "muon" else adamw.state(part.mine))

    @property
    def params(self) -> list[torch.nn.Parameter]:
        return [p for group in self.groups for p in group.params]

    @torch.no_grad()
    def step(self, schedule: Schedule, step: int) -> None:
        """One update from the gradients in `.grad`, summed over ranks; they are dropped. A collective."""
        self.updates += 1
        sums = [part.summed_gradients() for part in self.slices]
        spreading = []
        for group, part, summed in zip(self.groups, self.slices, sums):
            self._update(group, part.mine, summed(), schedule, step)
            spreading.append(part.spread())
        for wait in spreading:
            wait()
        for p in self.params:
            p.grad = None

    def _update(self, group: Group, params: list[torch.Tensor], grads: list[torch.Tensor], schedule: Schedule,
                step: int) -> None:
        lr = group.lr * schedule.lr(step)
        if not params:  # fewer matrices than ranks
            return
        if group.rule == "muon":
            muon.update(params, grads, group.state, lr=lr, momentum=schedule.momentum(step),
                        weight_decay=group.weight_decay * (1 - step / schedule.steps), dtype=self.dtype)
        else:
            adamw.update(params, grads, group.state, step=self.updates, lr=lr, betas=group.betas, eps=group.eps,
                         weight_decay=group.weight_decay)

    @torch.no_grad()
    def state_dict(self) -> dict[str, Any]:
        """Copies on the CPU of the whole moments, however many ranks hold them; only the first rank's is filled. A
        collective."""
        groups: list[dict[str, Any]] = []
        for group in self.groups:
            groups.append({})
            for name, value in group.state.items():
                full = gathered(list(value), _like(group, value), group.rule == "muon")
                if ranks()[0] == 0:
                    copies = [tensor.detach().to("cpu", copy=True) for tensor in full]
                    groups[-1][name] = torch.stack(copies) if torch.is_tensor(value) else copies
        return {"updates": self.updates, "groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over moments saved from the same model, on any number of ranks; ValueError where shapes differ."""
        self.updates = state["updates"]
        for group, saved in zip(self.groups, state["groups"], strict=True):
            for name, value in saved.items():
                mine, whole = group.state[name], group.rule == "muon"
                for source, p in zip(value, _like(group, mine), strict=True):
                    if source.shape != p.shape:
                        raise ValueError(f"optimizer state {name} has shape {tuple(source.shape)}, "
                                         f"not {tuple(p.shape)}")
                for target, source in zip(mine, cut(list(value), whole, *ranks()), strict=True):
                    target.copy_(source)


def _like(group: Group, value: torch.Tensor | list[torch.Tensor]) -> list[torch.Tensor]:
    """Tensors with the shapes that a moment has for every parameter of the group, also those of other ranks."""
    if not torch.is_tensor(value):
        return list(group.params)
    return [value.new_empty(()).expand(value.shape[1:])] * len(group.params)
