"""What a check says when a result is not as expected: the call, what came back, what was expected."""
from typing import Any

import torch


def equal(call: str, got: Any, expected: Any) -> None:
    """AssertionError unless `got` is `expected`."""
    assert got == expected, f"{call} gives {got!r}, expected {expected!r}"


def near(call: str, got: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """AssertionError unless two numbers or tensors differ by at most `tolerance` in every element."""
    ours, theirs = torch.as_tensor(got).double(), torch.as_tensor(expected).double()
    assert ours.shape == theirs.shape, f"{call} has the shape {tuple(ours.shape)}, expected {tuple(theirs.shape)}"
    difference = (ours - theirs).abs().max().item() if ours.numel() else 0.0
    sizes = f": {got}, expected {expected}" if ours.numel() <= 8 else ""
    assert difference <= tolerance, f"{call} is wrong by up to {difference:.3g}{sizes}"
