"""Cross-entropy of the output layer in chunks of rows, so that its fp32 logits (B·T, V) never exist all at once.

    z = c·tanh(h·Wᵀ/c)      loss = Σ w·(ln Σ exp z − z[target])      ∂loss/∂(h·Wᵀ) = w·(softmax z − onehot)·(1 − tanh²)

The gradient that comes back to this loss is a scalar. So the forward pass computes the gradients of h and W chunk by
chunk, while a chunk's logits exist, and the backward pass only scales them: no logits are kept, and nothing is computed
twice (Hsu et al. 2024, Liger Kernel, arXiv:2410.10989, section 3.2).
"""
from typing import Any

import torch
import torch.nn.functional as F

from nanochat.system.numbers import ceil_div

MAX_LOGITS = 1 << 26  # fp32 logits of one chunk: 256 MB
CACHED_LOGITS = 1 << 21  # on a CPU: 8 MB stay in its cache, and the whole layer took 425 ms (docs/LOG.md)
MAX_CHUNKS = 16  # on a CPU, in training: torch.compile unrolls the loop, so its compile time grows with the chunks


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
    rows = rows_at_once(len(hidden), len(head), hidden.device)
    inputs = (hidden, head, targets, weights, softcap, rows)
    total: torch.Tensor = _WeightedNats.apply(*inputs)  # type: ignore[no-untyped-call]
    return total


class _WeightedNats(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor,
                softcap: float, rows: int) -> torch.Tensor:
        matrix, columns = head.to(hidden.dtype), torch.arange(len(head), device=head.device)
        total = torch.zeros((), device=hidden.device)
        hidden_grads = []
        head_grad = torch.zeros_like(head) if ctx.needs_input_grad[1] else None  # LoRA may freeze the head
        chunks = zip(*(torch.split(t, rows) for t in (hidden, targets, weights)), strict=True)
        for h, target, weight in chunks:
            tanh = torch.tanh(F.linear(h, matrix).float() / softcap)  # (M, V)
            log_p = (softcap * tanh).log_softmax(-1)
            target = target.clamp(min=0).unsqueeze(1)  # an ignored target (−1) has weight 0, so any column will do
            total = total - (weight * log_p.gather(1, target).squeeze(1)).sum()
            logit_grad = (log_p.exp() - (columns == target).float()) * (1 - tanh.square()) * weight.unsqueeze(1)
            logit_grad = logit_grad.to(hidden.dtype)
            hidden_grads.append(logit_grad @ matrix)
            if head_grad is not None:
                head_grad += logit_grad.T @ h
        ctx.save_for_backward(torch.cat(hidden_grads), head_grad)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        hidden_grad, head_grad = ctx.saved_tensors
        head_grad = None if head_grad is None else head_grad * gradient
        return hidden_grad * gradient, head_grad, None, None, None, None
