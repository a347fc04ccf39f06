"""AdamW (Loshchilov & Hutter 2019, algorithm 2) on a list of tensors at once."""
import torch


def state(params: list[torch.Tensor]) -> dict[str, list[torch.Tensor]]:
    """First and second moments, zero, one per parameter."""
    return {"mean": [torch.zeros_like(p) for p in params], "square": [torch.zeros_like(p) for p in params]}


@torch.no_grad()
def update(params: list[torch.Tensor], grads: list[torch.Tensor], moments: dict[str, list[torch.Tensor]], *, step: int,
           lr: float, betas: tuple[float, float], eps: float, weight_decay: float) -> None:
    """Moves `params` in place; `step` counts from 1 and corrects the moments' bias."""
    mean, square = moments["mean"], moments["square"]
    torch._foreach_lerp_(mean, grads, 1 - betas[0])
    torch._foreach_mul_(square, betas[1])
    torch._foreach_addcmul_(square, grads, grads, 1 - betas[1])
    if weight_decay:
        torch._foreach_mul_(params, 1 - lr * weight_decay)
    denominator = torch._foreach_sqrt(square)
    torch._foreach_div_(denominator, (1 - betas[1] ** step) ** 0.5)
    torch._foreach_add_(denominator, eps)
    torch._foreach_addcdiv_(params, mean, denominator, -lr / (1 - betas[0] ** step))
