"""AdamW (Loshchilov & Hutter 2019, algorithm 2) on a list of tensors in one go.

It scales every element by itself, so the row of a rare token in a table learns although its gradients are small. The
other side: the step does not shrink with the gradient, so noise moves a table as far as signal does (this is why RL has
low rates for embedding and head, scripts/chat_rl.py). Muon's authors recommend AdamW for vectors and for the input and
output layers (kellerjordan.github.io/posts/muon).
"""
from typing import Any

import torch

from nanochat.optim.rule import StepSettings, Tensors

WHOLE_MATRICES = False


def state(params: Tensors, like: torch.Tensor) -> dict[str, Any]:
    """First and second moments, zero, one per parameter."""
    return {"mean": [torch.zeros_like(p) for p in params], "square": [torch.zeros_like(p) for p in params]}


@torch.no_grad()
def update(params: Tensors, grads: Tensors, state: dict[str, Any], settings: StepSettings) -> None:
    """Changes `params` in place. Each line is one call for all tensors, because a group may have many small ones."""
    mean, square, (beta1, beta2) = state["mean"], state["square"], settings.betas
    torch._foreach_lerp_(mean, grads, 1 - beta1)  # β₁·mean + (1 − β₁)·gradient
    torch._foreach_mul_(square, beta2)
    torch._foreach_addcmul_(square, grads, grads, 1 - beta2)  # β₂·square + (1 − β₂)·gradient²
    if settings.weight_decay:  # "decoupled": not through the moments
        torch._foreach_mul_(params, 1 - settings.lr * settings.weight_decay)
    # The moments start at zero, so after t updates they are too small by the factor 1 − βᵗ: divide by it.
    denominator = torch._foreach_sqrt(square)
    torch._foreach_div_(denominator, (1 - beta2**settings.num_updates) ** 0.5)
    torch._foreach_add_(denominator, settings.eps)  # against a division by zero
    torch._foreach_addcdiv_(params, mean, denominator, -settings.lr / (1 - beta1**settings.num_updates))
