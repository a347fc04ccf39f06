"""Cross-entropy of the output layer in pieces, so that its fp32 logits (B·T·V) never exist at once.

    z = c·tanh(h·Wᵀ/c)      loss = Σ w·(ln Σ exp z − z[target])      ∂loss/∂(h·Wᵀ) = w·(softmax z − onehot)·(1 − tanh²)

Whatever the loss is multiplied by afterwards is one number, so both gradients can be taken while a piece's logits are
there: nothing is kept but them, and nothing computed twice (Hsu et al. 2024, Liger Kernel, arXiv:2410.10989, §3.2).
"""
import torch
import torch.nn.functional as F

MAX_LOGITS = 1 << 26  # fp32 logits held at once: 256 MB
CACHED_LOGITS = 1 << 21  # on a CPU: in its cache
MAX_PIECES = 16  # on a CPU, in training: the compiler unrolls them


def rows_at_once(num_rows: int, vocab_size: int, device: torch.device) -> int:
    """Rows of one piece."""
    most = max(1, MAX_LOGITS // vocab_size)
    if device.type != "cpu":
        return most
    fewest = -(-num_rows // MAX_PIECES) if torch.is_grad_enabled() else 1
    return min(most, max(CACHED_LOGITS // vocab_size, fewest))


def weighted_nats(hidden: torch.Tensor, head: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor,
                  softcap: float) -> torch.Tensor:
    """Σ weights · nats, a scalar: hidden (N, C), head (V, C), targets (N,) int64, weights (N,) fp32, 0 = ignored."""
    rows = rows_at_once(len(hidden), len(head), hidden.device)
    return _WeightedNats.apply(hidden, head, targets, weights, softcap, rows)


class _WeightedNats(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, head, targets, weights, softcap, rows):
        matrix, columns = head.to(hidden.dtype), torch.arange(len(head), device=head.device)
        total = torch.zeros((), device=hidden.device)
        of_hidden, of_head = [], torch.zeros_like(head) if ctx.needs_input_grad[1] else None
        for h, target, weight in zip(hidden.split(rows), targets.split(rows), weights.split(rows), strict=True):
            tanh = torch.tanh(F.linear(h, matrix).float() / softcap)  # (M, V)
            log_p = (softcap * tanh).log_softmax(-1)
            target = target.clamp(min=0).unsqueeze(1)
            total = total - (weight * log_p.gather(1, target).squeeze(1)).sum()
            of_logits = (log_p.exp() - (columns == target).float()) * (1 - tanh.square()) * weight.unsqueeze(1)
            of_logits = of_logits.to(hidden.dtype)
            of_hidden.append(of_logits @ matrix)
            if of_head is not None:
                of_head += of_logits.T @ h
        ctx.save_for_backward(torch.cat(of_hidden), of_head)
        return total

    @staticmethod
    def backward(ctx, gradient):
        of_hidden, of_head = ctx.saved_tensors
        of_head = None if of_head is None else of_head * gradient
        return of_hidden * gradient, of_head, None, None, None, None
