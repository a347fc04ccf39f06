"""Weights in 8 bits, for the CPU: a quarter of fp32's bytes to read per token, and integer products.

Every matrix becomes int8 with one scale per output (symmetric: w ≈ scale · q, |q| ≤ 127). Activations are quantised on
the way, with one scale per row, as LLM.int8() does for the part without outliers (Dettmers et al. 2022, section 3.1).
A scale per *row* and exact integer sums: what a request gets does not depend on who shares its batch.
Embeddings stay as they are. `python -m bench.quantize` measures what it costs in bits per byte and exams.
"""

import torch
import torch.nn as nn

from nanochat.model.gpt import GPT, Linear
from nanochat.system.files import UserError

FORMS = ("int8",)


class Int8Linear(nn.Module):
    """`Linear` with int8 weights (N, K) and their scales (N,)."""

    def __init__(self, linear: Linear):
        super().__init__()
        q, scale = rows_to_int8(linear.weight.detach().float())
        self.register_buffer("weight", q)
        self.register_buffer("scale", scale[:, 0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (…, K) in any float dtype → (…, N) in the same."""
        q, scale = rows_to_int8(x.flatten(0, -2).float())  # (B·T, K), (B·T, 1)
        products = torch._int_mm(q, self.weight.t())  # (B·T, N) int32
        return (products * scale * self.scale).to(x.dtype).view(*x.shape[:-1], -1)


def rows_to_int8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """q (B, K) int8 and scale (B, 1) such that x ≈ q · scale.

    >>> rows_to_int8(torch.tensor([[0.5, -2.54, 0.0]]))[0].tolist()
    [[25, -127, 0]]
    """
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-9) / 127
    return (x / scale).round().to(torch.int8), scale


def quantized(model: GPT, form: str) -> GPT:
    """The model with its matrices replaced, in place; "" leaves it alone. UserError where there are no kernels."""
    if not form:
        return model
    if next(model.parameters()).device.type != "cpu":
        raise UserError(f"--quantize={form} is for the CPU; add --device_type=cpu, or leave it out")
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Linear):
                setattr(module, name, Int8Linear(child))
    return model
