"""Chapter 4, broken: three gradients of different size are made orthogonal, but not all become so.

    python -m course.ch04.broken
    python -m course.check 4 --broken       when you think that it is mended
"""
import torch

from nanochat.optim.muon import POLAR_EXPRESS
from nanochat.system import cli


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Each matrix with all its singular values near 1; course/ch04/exercise.py has the rule."""
    norms = matrices.norm(dim=(-2, -1), keepdim=True).clamp(min=1.0)  # so that nothing is divided by 0
    x: torch.Tensor = matrices / (1.02 * norms + 1e-6)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        x = a * x + b * (gram @ x) + c * (gram @ gram @ x)
    return x


def main(argv: list[str] | None = None) -> None:
    cli.parse(argv, __doc__)
    sizes = torch.tensor([1.0, 1e-3, 1e-5])
    matrices = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0)) * sizes.view(3, 1, 1)
    for size, values in zip(sizes, torch.linalg.svdvals(orthogonalize(matrices)), strict=True):
        print(f"gradient of size {size:7.5f}: singular values after it", *(f"{value:.3f}" for value in values))


if __name__ == "__main__":
    cli.run(main)
