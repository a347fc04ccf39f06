"""Which parameter gets which rule, and the optimizer that applies them.

Matrices of the blocks go to Muon, in groups of one shape; embeddings, head, gates and scalars go to AdamW. Its rates
are tuned at width 768 and scale with (width/768)^−½ (the original's rule; FACTS: head .004–.008, embedding .2–.3).
"""
from dataclasses import dataclass, field
from typing import Any

import torch

from nanochat.optim import adamw, muon
from nanochat.optim.schedule import Schedule


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
    """Applies every group's rule. `dtype` is what Muon multiplies in."""

    def __init__(self, groups: list[Group], dtype: torch.dtype = torch.float32):
        self.groups, self.dtype, self.updates = groups, dtype, 0
        for group in groups:
            group.state = (muon if group.rule == "muon" else adamw).state(group.params)

    @property
    def params(self) -> list[torch.nn.Parameter]:
        return [p for group in self.groups for p in group.params]

    def step(self, schedule: Schedule, step: int) -> None:
        """One update from the gradients in `.grad`, which are dropped."""
        self.updates += 1
        for group in self.groups:
            grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in group.params]
            lr = group.lr * schedule.lr(step)
            if group.rule == "muon":
                muon.update(group.params, grads, group.state, lr=lr, momentum=schedule.momentum(step),
                            weight_decay=group.weight_decay * (1 - step / schedule.steps), dtype=self.dtype)
            else:
                adamw.update(group.params, grads, group.state, step=self.updates, lr=lr, betas=group.betas,
                             eps=group.eps, weight_decay=group.weight_decay)
        for p in self.params:
            p.grad = None

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "groups": [group.state for group in self.groups]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over moments saved from the same model; ValueError where shapes differ."""
        self.updates = state["updates"]
        for group, saved in zip(self.groups, state["groups"], strict=True):
            for name, value in saved.items():
                mine = group.state[name]
                for target, source in zip(*([mine], [value]) if torch.is_tensor(mine) else (mine, value), strict=True):
                    if target.shape != source.shape:
                        raise ValueError(f"optimizer state {name} has shape {tuple(source.shape)}, "
                                         f"not {tuple(target.shape)}")
                    target.copy_(source)
