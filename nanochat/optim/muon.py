"""Muon: momentum, made orthogonal. It updates all matrices of one shape in one batch.

A few directions (singular vectors) dominate the gradient of a weight matrix. Muon gives all directions the same size,
so that weak ones are learned as well (Jordan et al. 2024, kellerjordan.github.io/posts/muon). A step has four parts:

1. Nesterov momentum.
2. Five steps of Polar Express (Amsel et al. 2025, arXiv:2505.16932, algorithm 1) drive all singular values to 1.
3. NorMuon (Li et al. 2025, arXiv:2510.05491): rows, or columns where there are more of them, are scaled to equal size
   by a running mean of their squares; the norm of the whole matrix stays.
4. Cautious weight decay (Chen et al. 2025): an element decays, except if the update makes it larger.

tests/optim/test_muon.py compares part 2 with its definition, a singular value decomposition.
"""
from typing import Any

import torch

from nanochat.optim.rule import StepSettings, Tensors

WHOLE_MATRICES = True  # singular values belong to a whole matrix

# One polynomial a·x + b·x³ + c·x⁵ per step. Each minimises the largest error over all singular values that the steps
# before it can leave. Muon's first polynomial, the same in every step, left them between .5 and 1.5. These figures are
# modded-nanogpt's: the paper's algorithm for five steps, with a safety factor of 1.02 against rounding in bf16.
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
BETA_SQUARE = 0.95  # decay rate of the running squares, as in karpathy/nanochat of January 2026


def state(params: Tensors, like: torch.Tensor) -> dict[str, Any]:
    """For n matrices (rows, columns): momentum (n, rows, columns), and the running squares of their rows (n, rows, 1)
    or columns (n, 1, columns)."""
    rows, columns = like.shape
    square = (len(params), rows, 1) if rows >= columns else (len(params), 1, columns)
    return {"momentum": torch.zeros(len(params), rows, columns, device=like.device),
            "square": torch.zeros(square, device=like.device)}


def orthogonalize(matrices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """U·Vᵀ of each matrix U·S·Vᵀ in (n, rows, columns), nearly: singular values above a thousandth of the matrix's norm
    end between 0.84 and 1.15."""
    x = matrices.to(dtype)
    tall = x.size(-2) > x.size(-1)
    if tall:
        x = x.mT  # then x·xᵀ below is (smaller, smaller)
    x = x / (x.norm(dim=(-2, -1), keepdim=True) * 1.02 + 1e-6)  # singular values are below the norm: now below 1
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT  # (n, smaller, smaller)
        # a·x + (b·gram + c·gram²)·x, with the sums inside the matrix products: a third faster (docs/LOG.md)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).float()


def direction(grads: torch.Tensor, momentum: torch.Tensor, square: torch.Tensor, beta: float,
              dtype: torch.dtype) -> torch.Tensor:
    """Parts 1 to 3: the update of each matrix (n, rows, columns). Changes `momentum` and `square` in place."""
    momentum.lerp_(grads, 1 - beta)
    update = orthogonalize(torch.lerp(grads, momentum, beta), dtype)
    along = -1 if square.size(-1) == 1 else -2  # one running square per row, or per column
    current = update.square().mean(dim=along, keepdim=True)  # the shape of `square`
    square.lerp_(current, 1 - BETA_SQUARE)
    scale = square.clamp_min(1e-10).rsqrt()  # part 3: rows (columns) of equal size
    before, after = (squares.sum(dim=(-2, -1), keepdim=True) for squares in (current, current * scale.square()))
    keep_norm: torch.Tensor = (before / after.clamp_min(1e-10)).sqrt()  # (n, 1, 1)
    return update * scale * keep_norm


@torch.no_grad()
def update(params: Tensors, grads: Tensors, state: dict[str, Any], settings: StepSettings) -> None:
    """Changes `params` (all of one shape) in place."""
    rows, columns = params[0].shape
    # With this factor of Jordan's an element changes by about lr/√columns, whether the matrix is tall or wide.
    lr = settings.lr * max(1.0, rows / columns) ** 0.5
    stacked = torch.stack(params)  # (n, rows, columns)
    stacked_grads = torch.stack(grads).float()  # the same shape
    change = direction(stacked_grads, state["momentum"], state["square"], settings.momentum, settings.dtype)
    if settings.weight_decay:  # part 4
        stacked.addcmul_(stacked, (change * stacked >= 0).float(), value=-lr * settings.weight_decay)
    stacked.add_(change, alpha=-lr)
    torch._foreach_copy_(params, list(stacked.unbind()))
