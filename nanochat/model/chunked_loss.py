"""Cross-entropy of the output layer in chunks of rows, so that its fp32 logits (B·T, V) never all exist together.
Rows with an ignored target are left out: more than half of the laptop's lessons.

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

MAX_LOGITS = 1 << 26  # fp32 logits of one chunk: 256 MB
# On a CPU 4 MB of fp32 logits stay in its cache. But every chunk reads and writes the head's gradient, so it has no
# fewer rows than these, even if its logits are then larger.
CACHED_LOGITS, MIN_ROWS = 1 << 20, 256
# On a GPU, compiled: 1 GB of bf16 logits, no fp32 logits. 8 chunks for the 65,536 tokens of a d20's micro-batch.
COMPILED_LOGITS = 1 << 29

Chunk = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, float], tuple[torch.Tensor, torch.Tensor]]


def rows_at_once(vocab_size: int, device: torch.device, compiled: bool = False) -> int:
    """How many rows one chunk has."""
    if device.type == "cpu":
        return max(1, min(MAX_LOGITS // vocab_size, max(MIN_ROWS, CACHED_LOGITS // vocab_size)))
    return max(1, (COMPILED_LOGITS if compiled else MAX_LOGITS) // vocab_size)


def weighted_nats(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor,
                  softcap: float) -> torch.Tensor:
    """Σ weights · nats, a scalar: hidden (N, C), head (V, C), targets (N,) int64, weights (N,) fp32, 0 = ignored."""
    compiled = torch.compiler.is_compiling()  # asked here, because inside of the operator it is always False
    rows = rows_at_once(len(head), hidden.device, compiled)
    # `requires_grad`: LoRA may freeze the head, and then its gradient is not computed.
    total: torch.Tensor = _operator(hidden, head, targets, weights, softcap, rows, head.requires_grad, compiled)[0]
    return total


def _chunk(h: torch.Tensor, matrix: torch.Tensor, target: torch.Tensor, weight: torch.Tensor,
           softcap: float) -> tuple[torch.Tensor, torch.Tensor]:
    """(Σ weight · nats of one chunk of M rows, the gradient (M, V) of h·Wᵀ in the dtype of h)."""
    tanh, logits = None, F.linear(h, matrix).float()  # (M, V)
    if softcap:
        # With torch.tanh and log_softmax the compiled chunk took 1.7 times as long (docs/LOG.md).
        tanh = 1 - 2 / (1 + (logits * (2 / softcap)).exp())  # of logits / softcap
        logits = softcap * tanh
    largest = logits.amax(-1, keepdim=True)  # (M, 1)
    shares = (logits - largest).exp()  # (M, V): softmax times `total`
    total = shares.sum(-1, keepdim=True)
    target = target.clamp(min=0).unsqueeze(1)  # an ignored target (−1) has weight 0, so any column will do
    nats = weight * (total.log() + largest - logits.gather(1, target)).squeeze(1)  # (M,)
    is_target = torch.arange(len(matrix), device=h.device) == target  # (M, V): the one-hot targets
    logit_grad = (shares / total - is_target.float()) * weight.unsqueeze(1)
    if tanh is not None:
        logit_grad = logit_grad * (1 - tanh.square())
    return nats.sum(), logit_grad.to(h.dtype)


@functools.cache
def _compiled_chunk() -> Chunk:
    return torch.compile(_chunk, dynamic=False)


@torch.library.custom_op("nanochat::weighted_nats", mutates_args=())
def _operator(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, softcap: float,
              rows: int, needs_head_grad: bool, compiled: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Σ weights · nats, and its gradients: of hidden, and in fp32 of the head (empty if it needs none)."""
    # torch.compile does not see into an operator. It would unroll the loop: 64 chunks would have 64 times the kernels
    # and partial gradients of the head (10.7 GB for the d20). Here one chunk is compiled, once.
    chunk = _compiled_chunk() if compiled else _chunk
    matrix, total = head.to(hidden.dtype), torch.zeros((), device=hidden.device)
    hidden_grad = torch.zeros_like(hidden)
    head_grad = torch.zeros_like(head) if needs_head_grad else head.new_empty(0)
    for kept in torch.split(weights.nonzero().squeeze(1), rows):  # the indices of the rows of one chunk
        missing = rows - len(kept)  # the last chunk is filled up, because a compiled chunk has a fixed size
        h = F.pad(hidden[kept], (0, 0, 0, missing))
        target, weight = (F.pad(t[kept], (0, missing)) for t in (targets, weights))
        nats, logit_grad = chunk(h, matrix, target, weight, softcap)
        total = total + nats
        hidden_grad.index_copy_(0, kept, (logit_grad @ matrix)[:len(kept)])  # (M, C)
        if needs_head_grad:
            head_grad += logit_grad.T @ h  # (V, C)
    return total, hidden_grad, head_grad


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
