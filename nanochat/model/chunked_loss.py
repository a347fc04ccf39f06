"""Cross-entropy of the output layer in chunks of rows, so that its fp32 logits (B·T, V) never all exist together.

    z = c·tanh(h·Wᵀ/c)      loss = Σ w·(ln Σ exp z − z[target])      ∂loss/∂(h·Wᵀ) = w·(softmax z − onehot)·(1 − tanh²)

The gradient that arrives at this loss in the backward pass is a scalar. So the forward pass computes the gradients of h
and W chunk by chunk, while a chunk's logits exist, and the backward pass only scales them: no logits are kept, and
nothing is computed twice (Hsu et al. 2024, Liger Kernel, arXiv:2410.10989, section 3.2).
"""
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from nanochat.system.numbers import ceil_div

MAX_LOGITS = 1 << 26  # fp32 logits of one chunk: 256 MB
CACHED_LOGITS = 1 << 21  # on a CPU: 8 MB stay in its cache, and the whole layer took 425 ms (docs/LOG.md)
MAX_CHUNKS = 16  # on a CPU, in training: torch.compile unrolls the loop, so its compile time grows with the chunks
# In the operator, compiled: 1 GB of bf16 logits, no fp32 ones. The head's gradient is read and written once per chunk,
# so chunks are large: 8 of them instead of 64 for the 65,536 tokens of a d20's micro-batch.
COMPILED_LOGITS = 1 << 29
FP32_PRODUCTS = False  # sum the head's gradient inside the matmul, in fp32; GPU only, off until a GPU has run it

Chunk = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]]


def uses_operator(device: torch.device) -> bool:
    """Whether the loop over the chunks is hidden from torch.compile, in an operator of its own."""
    # torch.compile unrolls a loop that it can see. This helps on a CPU: few small chunks, fused with the operations
    # around them. It hurts on a GPU: each of 64 chunks becomes kernels of its own, all 64 partial gradients of the head
    # (10.7 GB for the d20) exist together, and the compile time grows with the chunks. So on a GPU only the work on one
    # chunk is compiled, once.
    return device.type != "cpu"


def rows_at_once(num_rows: int, vocab_size: int, device: torch.device) -> int:
    """How many rows one chunk has."""
    max_rows = max(1, MAX_LOGITS // vocab_size)
    if device.type != "cpu":
        return max_rows
    min_rows = ceil_div(num_rows, MAX_CHUNKS) if torch.is_grad_enabled() else 1
    return min(max_rows, max(CACHED_LOGITS // vocab_size, min_rows))


def weighted_nats(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor,
                  softcap: float) -> torch.Tensor:
    """Σ weights · nats, a scalar: hidden (N, C), head (V, C), targets (N,) int64, weights (N,) fp32, 0 = ignored."""
    total: torch.Tensor
    if uses_operator(hidden.device):
        compiled = torch.compiler.is_compiling()  # asked here, because inside of the operator it is always False
        rows = max(1, (COMPILED_LOGITS if compiled else MAX_LOGITS) // len(head))
        # `requires_grad`: LoRA may freeze the head, and then its gradient is not computed.
        total = _operator(hidden, head, targets, weights, softcap, rows, head.requires_grad, compiled)[0]
    else:
        rows = rows_at_once(len(hidden), len(head), hidden.device)
        inputs = (hidden, head, targets, weights, softcap, rows)
        total = _WeightedNats.apply(*inputs)  # type: ignore[no-untyped-call]
    return total


def _chunk(h: torch.Tensor, matrix: torch.Tensor, target: torch.Tensor, weight: torch.Tensor,
           softcap: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(Σ weight · nats of one chunk of M rows, the gradient (M, V) of h·Wᵀ in the dtype of h)."""
    logits = F.linear(h, matrix).float()  # (M, V)
    tanh = torch.tanh(logits / softcap) if softcap else torch.zeros_like(logits)  # 0: the factor 1 − tanh² is 1
    log_p = (softcap * tanh if softcap else logits).log_softmax(-1)  # (M, V)
    target = target.clamp(min=0).unsqueeze(1)  # an ignored target (−1) has weight 0, so any column will do
    nats = (weight * log_p.gather(1, target).squeeze(1)).sum()  # negative; the sign changes below
    is_target = torch.arange(len(matrix), device=h.device) == target  # (M, V): the one-hot targets
    logit_grad = (log_p.exp() - is_target.float()) * (1 - tanh.square()) * weight.unsqueeze(1)
    return -nats, logit_grad.to(h.dtype)


@functools.cache
def _compiled_chunk() -> Chunk:
    return torch.compile(_chunk, dynamic=False)


def _sum_and_gradients(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor,
                       softcap: float, rows: int, needs_head_grad: bool,
                       chunk: Chunk) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Σ weights · nats, and its gradients: of hidden, and in fp32 of the head (empty if it needs none)."""
    matrix, total = head.to(hidden.dtype), torch.zeros((), device=hidden.device)
    hidden_grads = []
    head_grad = torch.zeros_like(head) if needs_head_grad else head.new_empty(0)
    for h, target, weight in zip(*(torch.split(t, rows) for t in (hidden, targets, weights)), strict=True):
        nats, logit_grad = chunk(h, matrix, target, weight, softcap)
        total = total + nats
        hidden_grads.append(logit_grad @ matrix)  # (M, C)
        if needs_head_grad and FP32_PRODUCTS:
            torch.ops.aten.addmm.dtype_out(head_grad, logit_grad.T, h, torch.float32, out=head_grad)
        elif needs_head_grad:
            head_grad += logit_grad.T @ h  # (V, C)
    return total, torch.cat(hidden_grads), head_grad


@torch.library.custom_op("nanochat::weighted_nats", mutates_args=())
def _operator(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, softcap: float,
              rows: int, needs_head_grad: bool, compiled: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _sum_and_gradients(hidden, head, targets, weights, softcap, rows, needs_head_grad,
                              _compiled_chunk() if compiled else _chunk)


@_operator.register_fake
def _(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, softcap: float,
      rows: int, needs_head_grad: bool, compiled: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    head_grad = torch.empty_like(head) if needs_head_grad else head.new_empty(0)
    return hidden.new_empty((), dtype=torch.float32), torch.empty_like(hidden), head_grad


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    ctx.save_for_backward(*output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _scale_gradients(ctx: Any, gradient: torch.Tensor, *_: object) -> tuple[torch.Tensor | None, ...]:
    hidden_grad, head_grad = ctx.saved_tensors
    return hidden_grad * gradient, head_grad * gradient if head_grad.numel() else None, *[None] * 6


_operator.register_autograd(_scale_gradients, setup_context=_keep_gradients)


class _WeightedNats(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor,
                softcap: float, rows: int) -> torch.Tensor:
        needs_head_grad = ctx.needs_input_grad[1]  # LoRA may freeze the head
        total, *gradients = _sum_and_gradients(hidden, head, targets, weights, softcap, rows, needs_head_grad, _chunk)
        ctx.save_for_backward(*gradients)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return _scale_gradients(ctx, gradient)[:6]
