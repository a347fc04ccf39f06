"""Matrix products in 8 bits: half the bytes and twice the peak of bf16, on GPUs that have them (Ada, Hopper, later).

Every tensor gets one scale, computed from its largest element at every use (Micikevicius et al. 2022, "FP8 formats for
deep learning", section 3). Weights are stored in fp32. The head keeps its bf16 matrix product.

Not here: scales from earlier steps, a scale per row. **No GPU has run this yet**: tests/model/test_fp8.py compares it
with fp32 on a CPU, where PyTorch computes the same product slowly.
"""
from typing import Any

import torch
import torch.nn as nn

from nanochat.model.gpt import GPT, Linear

INPUT = torch.float8_e4m3fn  # dtype of inputs and weights: more digits, numbers up to 448
GRADIENT = torch.float8_e5m2  # dtype of gradients, which need range more than digits: up to 57,344
MULTIPLE = 16  # the GPU's FP8 kernels need sizes that are multiples of 16
MIN_WIDTH = 128  # for a narrower matrix (a gate) casting costs more than FP8 gains; karpathy/nanochat's limit


class _Product(torch.autograd.Function):
    """x (N, I) · weightᵀ (I, O), and the two matrix products of its backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        (x8, x_scale), (w8, w_scale) = _cast(x, INPUT), _cast(weight, INPUT)
        ctx.save_for_backward(x8, x_scale, w8, w_scale)
        ctx.weight_dtype = weight.dtype
        return torch._scaled_mm(x8, w8.t(), x_scale, w_scale, out_dtype=x.dtype, use_fast_accum=True)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x8, x_scale, w8, w_scale = ctx.saved_tensors
        g8, g_scale = _cast(grad.contiguous(), GRADIENT)
        x_grad = torch._scaled_mm(g8, _column_major(w8), g_scale, w_scale, out_dtype=grad.dtype)  # (N, I)
        w_grad = torch._scaled_mm(g8.t().contiguous(), _column_major(x8), g_scale, x_scale, out_dtype=grad.dtype)
        return x_grad, w_grad.to(ctx.weight_dtype)  # w_grad (O, I)


def _cast(t: torch.Tensor, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """(the tensor in 8 bits, its scale in fp32): the tensor is about the first times the second."""
    largest = torch.finfo(kind).max
    scale = (t.abs().amax().float() / largest).clamp(min=1e-12)  # for a tensor of zeros: no division by zero below
    return (t.float() / scale).clamp(-largest, largest).to(kind), scale


def _column_major(t: torch.Tensor) -> torch.Tensor:
    """The same matrix stored column by column, as the kernels need their second factor."""
    return t.t().contiguous().t()


class Fp8Linear(Linear):
    """A Linear that multiplies in 8 bits where its sizes allow. It uses the given weight itself, not a copy."""

    def __init__(self, weight: nn.Parameter):
        super().__init__(weight.size(1), weight.size(0), device="meta")  # "meta": no memory for a second weight
        self.weight = weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        # Validation and exams multiply in the compute dtype, as later stages and the chat will.
        if not torch.is_grad_enabled() or any(size % MULTIPLE for size in (*flat.shape, self.out_features)):
            return super().forward(x)
        product: torch.Tensor = _Product.apply(flat, self.weight)  # type: ignore[no-untyped-call]
        return product.view(*x.shape[:-1], self.out_features)


def unsupported(device: torch.device) -> str:
    """Why this device cannot multiply in 8 bits, or "" if it can."""
    if device.type != "cuda":
        return f"a {device.type} does not multiply in 8 bits"
    major, minor = torch.cuda.get_device_capability(device)
    return "" if (major, minor) >= (8, 9) else f"this GPU has compute capability {major}.{minor}; FP8 needs 8.9"


def switch_on(model: GPT, min_width: int = MIN_WIDTH) -> int:
    """From now on the blocks' matrices multiply in 8 bits, except narrow matrices (gates). Returns their number."""
    matrices = [found for found in model.block_matrices() if min(found[2].weight.shape) >= min_width]
    for parent, name, matrix in matrices:
        setattr(parent, name, Fp8Linear(matrix.weight))
    return len(matrices)
