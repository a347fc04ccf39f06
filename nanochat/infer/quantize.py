"""Weights in 8 bits, for the CPU: a quarter of fp32's bytes to read per token, and integer products.

Every matrix becomes int8 with one scale per output (symmetric: w ≈ scale · q, |q| ≤ 127). Activations are quantised
during the forward pass, with one scale per row, as in the part without outliers of LLM.int8() (Dettmers et al. 2022,
section 3.1). Embeddings stay as they are. `python -m bench.quantize` measures the loss in bits per byte and exams.
"""

import torch
import torch.nn as nn

from nanochat.model.gpt import GPT, Linear
from nanochat.system.files import UserError

FORMS = ("int8",)


class Int8Linear(nn.Module):
    """`Linear` with int8 weights (N, K) and their scales (N,)."""

    weight: torch.Tensor
    scale: torch.Tensor

    def __init__(self, linear: Linear):
        super().__init__()
        q, scale = rows_to_int8(linear.weight.detach().float())
        self.register_buffer("weight", q)
        self.register_buffer("scale", scale[:, 0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (…, K) in any float dtype → (…, N) in the same."""
        # One scale per row and exact integer sums: a request's result does not depend on the other rows of its batch.
        q, scale = rows_to_int8(x.flatten(0, -2).float())  # (B·T, K), (B·T, 1)
        products = torch._int_mm(q, self.weight.t())  # (B·T, N) int32
        return (products * scale * self.scale).to(x.dtype).view(*x.shape[:-1], -1)


def rows_to_int8(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """q (B, K) int8 and scale (B, 1) such that x ≈ q · scale.

    >>> rows_to_int8(torch.tensor([[0.5, -2.54, 0.0]]))[0].tolist()
    [[25, -127, 0]]
    """
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-9) / 127  # the clamp: a row of zeros must not divide by 0
    return (x / scale).round().to(torch.int8), scale


def quantized(model: GPT, form: str) -> GPT:
    """The model with its matrices replaced, in place; `form` "" changes nothing. UserError if not on a CPU."""
    if not form:
        return model
    if next(model.parameters()).device.type != "cpu":
        raise UserError(f"--quantize={form} is for the CPU; add --device_type=cpu, or leave it out")
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, Linear):
                setattr(module, name, Int8Linear(child))
    return model
