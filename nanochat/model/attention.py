"""Causal attention, by whichever kernel is fastest here.

On a CPU with short rows a plain masked product, compiled, beats the fused kernel (128 wide, T = 256: 23 against 17
thousand tokens per second, in training). Without gradients and not compiled it takes four times as long (T = 445), so
it is left earlier. Everywhere else PyTorch's scaled_dot_product_attention calls one of its kernels, and `choose` finds
out at the start which of them really works here. All are the same sum; tests/model/test_attention.py compares them.
"""
import torch
import torch.nn.functional as F
from torch.backends.cuda import enable_cudnn_sdp, enable_flash_sdp, enable_mem_efficient_sdp
from torch.nn.attention import SDPBackend, sdpa_kernel

PLAIN_MAX_POSITIONS = 512  # a (T, T) product per head stays in cache up to about here


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Weighted sums of v (B, H, T, D) for q (B, H, T, D), k and v (B, G, S, D), H a multiple of G.

    mask (B, 1, M, S) bool, True = may attend, is that of the last M queries; all before them, or all where it is None,
    attend causally, with T == S.
    """
    if mask is not None and (causal := q.size(2) - mask.size(2)):
        parts = (attend(q[:, :, :causal], k[:, :, :causal], v[:, :, :causal], None),
                 attend(q[:, :, causal:], k, v, mask))
        return torch.cat(parts, dim=2)
    if q.size(1) != k.size(1):
        repeats = q.size(1) // k.size(1)
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)  # (B, H, S, D)
    longest = PLAIN_MAX_POSITIONS if torch.is_grad_enabled() else PLAIN_MAX_POSITIONS // 2
    if q.device.type == "cpu" and max(q.size(2), k.size(2)) <= longest:
        return plain(q, k, v, mask)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)


# The fastest first. (On a Hopper GPU cuDNN's is of the generation of FlashAttention 3, PyTorch's flash of 2.)
KERNELS = {"cuDNN": (SDPBackend.CUDNN_ATTENTION, enable_cudnn_sdp),
           "flash": (SDPBackend.FLASH_ATTENTION, enable_flash_sdp),
           "memory-efficient": (SDPBackend.EFFICIENT_ATTENTION, enable_mem_efficient_sdp)}


def choose(device: torch.device, dtype: torch.dtype, head_dim: int, positions: int) -> str:
    """Makes the first kernel that works the one in use for causal rows, and says which it is.

    A kernel works when a real call of this dtype, head width and length runs, forwards and backwards, and gives what
    the definition gives: libraries load on GPUs on which their kernels then fail. Where none does: PyTorch's product.
    """
    if device.type == "cpu" and positions <= PLAIN_MAX_POSITIONS:
        return "plain masked product"
    if device.type == "mps":
        return "PyTorch's kernel for Apple's GPUs"
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, positions, head_dim, generator=draw).to(device, dtype).requires_grad_() for _ in "qkv")
    expected, failed = plain(q, k, v, None), []
    for name in KERNELS if device.type == "cuda" else ["flash"]:
        kernel, enable = KERNELS[name]
        try:
            with sdpa_kernel(kernel):
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                y.sum().backward()
            error = float((y - expected).detach().abs().max())
        except RuntimeError:
            error = float("nan")
        if error < 0.05:  # bf16 rounds sums of size 4 to 0.03
            return f"{name} kernel" + (f" ({', '.join(failed)} not usable here)" if failed else "")
        enable(False)
        failed.append(name)
    return "PyTorch's product of matrices, slow: no fused kernel works here"


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The definition: softmax(q·kᵀ/√D)·v, the softmax in fp32 (Vaswani et al. 2017, section 3.2.1)."""
    if mask is None:
        mask = torch.ones(q.size(2), k.size(2), dtype=torch.bool, device=q.device).tril()
    scores = (q @ k.transpose(-2, -1)).float() * q.size(-1) ** -0.5  # (B, H, T, S)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1).to(v.dtype)
    return weights @ v  # (B, H, T, D)
