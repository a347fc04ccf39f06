"""Causal attention by whichever kernel is fastest here. All kernels compute the same sum; a test compares them.

On a CPU with short rows the plain definition, compiled, beats PyTorch's fused kernel in training (128 wide, T = 256:
23 against 17 thousand tokens per second). Everywhere else `scaled_dot_product_attention` (SDPA) runs one of its own
kernels; `enable_fastest_kernel` finds out at the start which of these kernels really work on this machine.

`attend` serves training, prefill and decoding in PyTorch. Decoding few rows on a CPU does not use it: that step is
compiled as a whole (nanochat/infer/numba_decode.py). Nor does the exported page (formats/page/forward.js).
"""
import functools
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch.backends.cuda import enable_cudnn_sdp, enable_flash_sdp, enable_mem_efficient_sdp
from torch.nn.attention import SDPBackend, sdpa_kernel

# PyTorch's flash kernel for rows that are laid end to end. `enable_fastest_kernel` imports it where there is a GPU: the
# import would cost every command 1.4 seconds, because it loads PyTorch's compiler.
varlen_attn: Callable[..., torch.Tensor | tuple[torch.Tensor, ...]] | None = None
PLAIN_MAX_POSITIONS = 512  # up to about this T the (T, T) scores of a head stay in the CPU's cache
_plain_max_without_gradients = PLAIN_MAX_POSITIONS // 2


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Weighted sums of v (B, H, T, D) for q (B, H, T, D), k and v (B, G, S, D), H a multiple of G.

    mask (B, 1, M, S) bool, True = may attend, covers the last M queries. The T − M queries before them (all of them if
    mask is None) attend causally; then T == S.
    """
    if mask is not None and (num_causal := q.size(2) - mask.size(2)):
        # Two calls, because causal attention needs no mask and takes half the time of masked attention.
        causal = attend(q[:, :, :num_causal], k[:, :, :num_causal], v[:, :, :num_causal], None)
        masked = attend(q[:, :, num_causal:], k, v, mask)
        return torch.cat((causal, masked), dim=2)
    if q.size(1) != k.size(1):
        repeats = q.size(1) // k.size(1)
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)  # (B, H, S, D)
    # Inference is not compiled, and uncompiled `plain` takes four times as long as SDPA at T = 445 (docs/LOG.md). So
    # without gradients SDPA takes over at half the length.
    plain_max = PLAIN_MAX_POSITIONS if torch.is_grad_enabled() else _plain_max_without_gradients
    if q.device.type == "cpu" and max(q.size(2), k.size(2)) <= plain_max:
        whole_rows = torch.is_grad_enabled() and q.size(2) == k.size(2) > 1  # as in training
        return plain_in_halves(q, k, v, mask) if whole_rows else plain(q, k, v, mask)
    if q.device.type != "cuda":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    with sdpa_kernel(kernels_for(torch.is_grad_enabled()), set_priority=True):
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)


def always_fused() -> None:
    """From now on inference never uses `plain`: for a server, which meets prompts of all lengths."""
    # For each new shape of a bf16 matrix product oneDNN compiles a kernel of .5 MB, and it keeps 1,024 kernels. SDPA
    # needs no such kernels. Its results differ from those of `plain` in their last bits.
    global _plain_max_without_gradients
    _plain_max_without_gradients = 0


_training_kernels: list[SDPBackend] = []  # the kernel that `enable_fastest_kernel` found; empty: PyTorch's own order


def kernels_for(training: bool) -> list[SDPBackend]:
    """SDPA's kernels in the order in which it is to try them."""
    # Left to itself PyTorch takes its flash kernel in training where cuDNN's is faster (PyTorch 2.9 and 2.10), and in
    # decoding cuDNN's (from 2.11 on), which prepares a plan of 23 to 37 ms for every new pair of row number and length.
    rest = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
    if not training:
        return rest
    return _training_kernels + [kernel for kernel in rest if kernel not in _training_kernels]


def within_window(mask: torch.Tensor | None, window: int, positions: torch.Tensor, num_keys: int) -> torch.Tensor:
    """`mask` of `attend`, extended to all queries: each query sees its own key and at most `window` preceding keys.

    positions (B or 1, T) are the queries' positions. If there are as many keys as queries, the keys have the same
    positions, otherwise 0 … S−1.
    """
    T = positions.size(1)
    keys = positions if T == num_keys else torch.arange(num_keys, device=positions.device)[None]
    near = (positions.unsqueeze(2) - keys.unsqueeze(1)).unsqueeze(1) <= window  # (B or 1, 1, T, S)
    num_causal = T if mask is None else T - mask.size(2)
    seen = torch.ones(1, 1, num_causal, num_keys, dtype=torch.bool, device=positions.device).tril()
    if mask is not None:
        seen = torch.cat((seen.expand(len(mask), -1, -1, -1), mask), dim=2)
    return seen & near


_skips_windows: list[bool] = []  # [True] if `enable_fastest_kernel` has seen that `attend_near` works


def skips_windows(q: torch.Tensor, k: torch.Tensor) -> bool:
    """Whether training computes windows by `attend_near`; otherwise `within_window` masks the keys outside."""
    return any(_skips_windows) and torch.is_grad_enabled() and q.size(1) == k.size(1)


def attend_near(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window: int) -> torch.Tensor:
    """Causal attention that reaches `window` tokens back, by a flash kernel that skips all earlier keys (PyTorch 2.11
    and newer, GPUs only). All tensors (B, H, T, D)."""
    B, H, T, D = q.shape
    ends = torch.arange(0, (B + 1) * T, T, dtype=torch.int32, device=q.device)
    q, k, v = (heads.transpose(1, 2).flatten(0, 1) for heads in (q, k, v))  # (B·T, H, D): the rows end to end
    assert varlen_attn is not None
    near = cast(torch.Tensor, varlen_attn(q, k, v, ends, ends, T, T, window_size=(window, 0)))
    return near.view(B, T, H, D).transpose(1, 2)  # (B, H, T, D)


# The fastest first: on a Hopper GPU cuDNN's kernel is of the generation of FlashAttention 3, PyTorch's flash of 2.
KERNELS = {"cuDNN": (SDPBackend.CUDNN_ATTENTION, enable_cudnn_sdp),
           "flash": (SDPBackend.FLASH_ATTENTION, enable_flash_sdp),
           "memory-efficient": (SDPBackend.EFFICIENT_ATTENTION, enable_mem_efficient_sdp)}


def enable_fastest_kernel(device: torch.device, dtype: torch.dtype, head_dim: int, positions: int) -> str:
    """Tries SDPA's kernels in the order of KERNELS and returns a description of the first that works.

    This changes the whole process: training uses this kernel from now on, and every kernel that failed is disabled, so
    that SDPA does not choose it later.
    """
    _training_kernels.clear()
    _skips_windows.clear()
    if device.type == "cpu" and positions <= PLAIN_MAX_POSITIONS:
        return "plain masked attention"
    if device.type == "mps":
        return "PyTorch's kernel for Apple's GPUs"
    if device.type == "cuda" and _import_varlen():
        # Tried for every model, with windows or without: a trial takes milliseconds, and the model is not known here.
        mask = within_window(None, positions // 4, torch.arange(positions, device=device)[None], positions)
        near = functools.partial(attend_near, window=positions // 4)
        _skips_windows.append(_works(near, device, dtype, head_dim, positions, mask))
    failed: list[str] = []
    for name in KERNELS if device.type == "cuda" else ["flash"]:
        kernel, enable = KERNELS[name]
        if _works(functools.partial(_by, kernel), device, dtype, head_dim, positions):
            _training_kernels.append(kernel)
            return f"{name} kernel" + (f" ({', '.join(failed)} not usable here)" if failed else "")
        enable(False)
        failed.append(name)
    return "PyTorch's unfused attention, slow: no fused kernel works here"


def _import_varlen() -> bool:
    global varlen_attn
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:  # PyTorch 2.9
        return False
    return True


def _by(kernel: SDPBackend, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    with sdpa_kernel(kernel):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def _works(call: Callable[..., torch.Tensor], device: torch.device, dtype: torch.dtype, head_dim: int, positions: int,
           mask: torch.Tensor | None = None) -> bool:
    """True if a real call runs forwards and backwards and gives the result of `plain`: PyTorch loads kernels on GPUs on
    which they then fail."""
    draw = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, positions, head_dim, generator=draw).to(device, dtype).requires_grad_() for _ in "qkv")
    try:
        y = call(q, k, v)
        y.sum().backward()  # type: ignore[no-untyped-call]
    except (RuntimeError, TypeError):  # an older `varlen_attn` has no parameter window_size
        return False
    error = (y - plain(q, k, v, mask)).detach().abs().max()
    return bool(error < 0.05)  # bf16 rounds sums of size 4 to 0.03; NaN is not below


def plain(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The definition: softmax(q·kᵀ/√D)·v, the softmax in fp32 (Vaswani et al. 2017, section 3.2.1)."""
    if mask is None:
        mask = torch.ones(q.size(2), k.size(2), dtype=torch.bool, device=q.device).tril()
    scores: torch.Tensor = (q @ k.transpose(-2, -1)).float() * q.size(-1) ** -0.5  # (B, H, T, S)
    weights = scores.masked_fill(~mask, float("-inf")).softmax(-1).to(v.dtype)
    return weights @ v  # (B, H, T, D)


def plain_in_halves(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """`plain` of the first half of the queries, which see no more than the first half of the keys, and of the second
    half: three quarters of the products. Quarters would save another eighth, and were no faster (docs/LOG.md)."""
    half = q.size(2) // 2
    if mask is None:
        mask = torch.ones(q.size(2), k.size(2), dtype=torch.bool, device=q.device).tril()
    first = plain(q[:, :, :half], k[:, :, :half], v[:, :, :half], mask[..., :half, :half])
    return torch.cat((first, plain(q[:, :, half:], k, v, mask[..., half:, :])), dim=2)
