"""What a check says when a result is not as expected: what was asked, what came back, what was expected."""
from typing import Any

import torch


def equal(what: str, got: Any, expected: Any) -> None:
    """AssertionError unless `got` is `expected`; of long lists it shows the first difference."""
    if isinstance(got, list) and got != expected and len(expected) > 8:
        place = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), min(len(got), len(expected)))
        what = f"{what}, from [{place}] on"
        got, expected = got[place:place + 4], expected[place:place + 4]
    assert got == expected, f"{what}: got {got!r}, expected {expected!r}"


def near(what: str, got: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """AssertionError unless two numbers or tensors differ by at most `tolerance` in every element; it shows the first
    element that differs."""
    ours, theirs = torch.as_tensor(got).double(), torch.as_tensor(expected).double()
    assert ours.shape == theirs.shape, f"{what}: the shape is {tuple(ours.shape)}, expected {tuple(theirs.shape)}"
    wrong = ~((ours - theirs).abs() <= tolerance)  # NaN is not within any tolerance
    for place in wrong.nonzero().tolist()[:1]:
        where = f"at {place} " if place else ""
        count = f" ({int(wrong.sum())} of {wrong.numel()} numbers are wrong)" if place else ""
        index = tuple(place)
        raise AssertionError(f"{what}: {where}got {ours[index]:.5g}, expected {theirs[index]:.5g}{count}")
