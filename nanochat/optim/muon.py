"""Muon: momentum, made orthogonal, for all matrices of one shape in one batch.

1. Nesterov momentum (Jordan et al. 2024).
2. The update's singular values are driven to 1 by five Polar Express steps (Amsel et al. 2025, algorithm 1), in bf16
   where the matrices are multiplied in it.
3. NorMuon (Li et al. 2025): rows (columns, where there are more of them) are evened out by a running mean of their
   squares, the norm of the whole kept.
4. Cautious weight decay (Chen et al. 2025): only where the update points the same way.

`orthogonalize_slow` (an SVD) is what step 2 approximates; the tests compare them.
"""
import torch

# Polar Express polynomials a·x + b·x³ + c·x⁵ for five steps from the lower bound 1e-3 (paper, table of coefficients,
# with its safety factor 1.02 against rounding in bf16).
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)


def state(params: list[torch.Tensor], like: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """For n matrices (rows, columns): momentum (n, rows, columns) and the running squares of rows or columns.

    `like` is a matrix of their shape, for a rank that has none of them.
    """
    like = params[0] if like is None else like
    rows, columns = like.shape
    square = (len(params), rows, 1) if rows >= columns else (len(params), 1, columns)
    return {"momentum": torch.zeros(len(params), rows, columns, device=like.device),
            "square": torch.zeros(square, device=like.device)}


def orthogonalize(matrices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """U·Vᵀ of each matrix U·S·Vᵀ in (n, rows, columns), nearly: singular values above a thousandth of the matrix's norm
    end in 0.84 … 1.15."""
    x = matrices.to(dtype)
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT  # (n, smaller, smaller)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()


def orthogonalize_slow(matrices: torch.Tensor) -> torch.Tensor:
    """The definition, by singular value decomposition."""
    u, _, vh = torch.linalg.svd(matrices.double(), full_matrices=False)
    return (u @ vh).float()


def direction(grads: torch.Tensor, momentum: torch.Tensor, square: torch.Tensor, beta: float, beta_square: float,
              dtype: torch.dtype) -> torch.Tensor:
    """Steps 1 to 3: the update of each matrix (n, rows, columns); moves the state in place."""
    momentum.lerp_(grads, 1 - beta)
    update = orthogonalize(torch.lerp(grads, momentum, beta), dtype)
    along = -1 if square.size(-1) == 1 else -2
    now = update.square().mean(dim=along, keepdim=True)
    square.lerp_(now, 1 - beta_square)
    scale = square.clamp_min(1e-10).rsqrt()
    before, after = (squares.sum(dim=(-2, -1), keepdim=True) for squares in (now, now * scale.square()))
    return update * scale * (before / after.clamp_min(1e-10)).sqrt()


@torch.no_grad()
def update(params: list[torch.Tensor], grads: list[torch.Tensor], state: dict[str, torch.Tensor], *, lr: float,
           momentum: float, weight_decay: float, dtype: torch.dtype, beta_square: float = 0.95) -> None:
    """Moves `params` (all of one shape) in place. The learning rate grows with max(1, rows/columns)^½ (Jordan)."""
    rows, columns = params[0].shape
    step = lr * max(1.0, rows / columns) ** 0.5
    stacked = torch.stack(params)
    change = direction(torch.stack(grads).float(), state["momentum"], state["square"], momentum, beta_square, dtype)
    if weight_decay:
        stacked.addcmul_(stacked, (change * stacked >= 0).float(), value=-step * weight_decay)
    stacked.add_(change, alpha=-step)
    torch._foreach_copy_(params, list(stacked.unbind()))
