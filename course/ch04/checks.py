"""What chapter 4 holds of `orthogonalize(matrices)`."""
from types import SimpleNamespace
from typing import Any

import torch

from course.expect import equal
from nanochat.optim import muon

SOLUTION = SimpleNamespace(orthogonalize=lambda matrices: muon.orthogonalize(matrices, torch.float32))


def drawn(n: int = 1, rows: int = 8, columns: int = 8) -> torch.Tensor:
    return torch.randn(n, rows, columns, generator=torch.Generator().manual_seed(0))


def holds(mine: Any, matrices: torch.Tensor, what: str) -> None:
    """AssertionError unless the singular values are near 1 and the directions are those of `matrices`."""
    got = mine.orthogonalize(matrices)
    equal(f"the shape of the result for {what}", tuple(got.shape), tuple(matrices.shape))
    assert got.isfinite().all(), f"{what}: your result has inf or nan"
    for before, after in zip(matrices, got, strict=True):
        values = torch.linalg.svdvals(after)
        low, high = values.min().item(), values.max().item()
        assert 0.83 < low and high < 1.16, f"{what}: singular values from {low:.3f} to {high:.3f}, expected .84 to 1.15"
        u, _, vt = torch.linalg.svd(before, full_matrices=False)
        core = u.mT @ after @ vt.mT  # diagonal where the directions are the same
        off = (core - core.diagonal().diag()).abs().max().item()
        assert off < 1e-3 and core.diagonal().min() > 0, f"{what}: the directions are not those of the matrix"


def check_square(mine: Any) -> None:
    """a square matrix: singular values near 1, directions as before"""
    holds(mine, drawn(), "an 8 × 8 matrix")


def check_wide(mine: Any) -> None:
    """a wide matrix"""
    holds(mine, drawn(rows=4, columns=16), "a 4 × 16 matrix")


def check_tall(mine: Any) -> None:
    """a tall matrix"""
    holds(mine, drawn(rows=16, columns=4), "a 16 × 4 matrix")


def check_small(mine: Any) -> None:
    """a gradient of any size gives an update of the same size"""
    holds(mine, drawn() * 1e-3, "a matrix of size .001")
    holds(mine, drawn() * 1e3, "a matrix of size 1000")


def check_batch(mine: Any) -> None:
    """every matrix of a batch by itself, whatever the size of the others"""
    holds(mine, drawn(3) * torch.tensor([1.0, 1e-3, 1e2]).view(3, 1, 1), "a batch of three sizes")
