"""Matrix products in 8 bits: half the bytes and twice the peak of bf16, on GPUs that have them (Ada, Hopper, later).

One scale per tensor, found from its largest element at every use (Micikevicius et al. 2022, "FP8 formats for deep
learning", section 3). Inputs and weights are E4M3 (4 bits of exponent, up to 448), gradients E5M2 (up to 57,344): they
need range more than digits. Weights stay fp32 outside; only the blocks' matrices take part, not the head.

Not here: delayed scales, a scale per row. **No GPU has run it yet**: tests/model/test_fp8.py holds it against fp32 on a
CPU, where PyTorch computes the same product slowly.
"""
import torch

from nanochat.model.gpt import GPT, Linear

INPUT, GRADIENT = torch.float8_e4m3fn, torch.float8_e5m2
MULTIPLE = 16  # all three sizes of a product, for the kernels


class _Product(torch.autograd.Function):
    """x (N, I) · weightᵀ (I, O), and the two products of its backward pass."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        (x8, x_scale), (w8, w_scale) = _cast(x, INPUT), _cast(weight, INPUT)
        ctx.save_for_backward(x8, x_scale, w8, w_scale)
        ctx.weight_dtype = weight.dtype
        return torch._scaled_mm(x8, w8.t(), x_scale, w_scale, out_dtype=x.dtype, use_fast_accum=True)

    @staticmethod
    def backward(ctx, grad: torch.Tensor):
        x8, x_scale, w8, w_scale = ctx.saved_tensors
        g8, g_scale = _cast(grad.contiguous(), GRADIENT)
        by_column = lambda t: t.t().contiguous().t()  # noqa: E731  the kernels want the second factor so
        x_grad = torch._scaled_mm(g8, by_column(w8), g_scale, w_scale, out_dtype=grad.dtype)
        w_grad = torch._scaled_mm(g8.t().contiguous(), by_column(x8), g_scale, x_scale, out_dtype=grad.dtype)
        return x_grad, w_grad.to(ctx.weight_dtype)


def _cast(t: torch.Tensor, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The tensor in 8 bits, and the scale (fp32) that it must be multiplied with to be itself again."""
    largest = torch.finfo(kind).max
    scale = (t.abs().amax().float() / largest).clamp(min=1e-12)
    return (t.float() / scale).clamp(-largest, largest).to(kind), scale


class Fp8Linear(Linear):
    """A Linear whose products are of 8 bits, where its sizes allow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        if any(size % MULTIPLE for size in (*flat.shape, self.out_features)):
            return super().forward(x)
        return _Product.apply(flat, self.weight).view(*x.shape[:-1], self.out_features)


def unsupported(device: torch.device) -> str:
    """Why this device cannot, or ""."""
    if device.type != "cuda":
        return f"a {device.type} does not multiply in 8 bits"
    major, minor = torch.cuda.get_device_capability(device)
    return "" if (major, minor) >= (8, 9) else f"this GPU is of generation {major}.{minor}, it takes 8.9"


def switch_on(model: GPT) -> int:
    """From now on the blocks' matrices multiply in 8 bits; their number."""
    chosen = [module for module in model.model.layers.modules() if type(module) is Linear]
    for module in chosen:
        module.__class__ = Fp8Linear
    return len(chosen)
