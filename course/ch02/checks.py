"""What chapter 2 holds of `attend(q, k, v)`."""
import math
from types import SimpleNamespace
from typing import Any

import torch

from course.expect import equal, near
from nanochat.model import attention

SOLUTION = SimpleNamespace(attend=lambda q, k, v: attention.attend(q, k, v, None))


def drawn(shape: tuple[int, ...] = (2, 3, 7, 4), seed: int = 0) -> list[torch.Tensor]:
    """q, k and v."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for _ in "qkv"]


def check_shape(mine: Any) -> None:
    """the result has the shape of v"""
    equal("the shape of attend(q, k, v)", tuple(mine.attend(*drawn()).shape), (2, 3, 7, 4))


def check_first_position(mine: Any) -> None:
    """the first position sees only itself: its result is its own v"""
    q, k, v = drawn()
    near("attend(q, k, v)[:, :, 0]", mine.attend(q, k, v)[:, :, 0], v[:, :, 0])


def check_equal_scores(mine: Any) -> None:
    """where all scores are equal, the result is the mean of what is visible"""
    v = torch.tensor([1.0, 3.0, 8.0]).view(1, 1, 3, 1)
    zeros = torch.zeros(1, 1, 3, 1)
    near("attend(0, 0, [1, 3, 8])", mine.attend(zeros, zeros, v).flatten(), [1.0, 2.0, 4.0])


def check_scale(mine: Any) -> None:
    """a dot product is divided by √D before it becomes a weight"""
    q = torch.full((1, 1, 2, 4), math.log(3) / 2)
    k = torch.tensor([[0.0] * 4, [1.0] * 4]).view(1, 1, 2, 4)  # the dot products are 0 and 2·ln 3, and √D is 2
    v = torch.tensor([0.0, 1.0]).view(1, 1, 2, 1)
    near("the weight of a key whose dot product is 2·ln 3, beside a key with 0, where D = 4",
         mine.attend(q, k, v)[0, 0, 1, 0], 0.75)


def check_future(mine: Any) -> None:
    """a change at position 4 changes nothing in front of it"""
    q, k, v = drawn()
    before = mine.attend(q, k, v)
    k[:, :, 4], v[:, :, 4] = 9.0, -9.0
    after = mine.attend(q, k, v)
    near("the result at positions 0 to 3, after a change at 4", after[:, :, :4], before[:, :, :4])
    assert (after[:, :, 4:] - before[:, :, 4:]).abs().max() > 0.1, "positions 4 to 6 do not see the change at 4"


def check_slow_twin(mine: Any) -> None:
    """it agrees with the slow twin: one text, one head, one query at a time"""
    q, k, v = drawn(seed=1)
    expected = torch.zeros_like(v)
    for b in range(q.size(0)):
        for h in range(q.size(1)):
            for t in range(q.size(2)):
                scores = [float(q[b, h, t] @ k[b, h, s]) / math.sqrt(q.size(3)) for s in range(t + 1)]
                total = sum(math.exp(score) for score in scores)
                expected[b, h, t] = sum(math.exp(score) / total * v[b, h, s] for s, score in enumerate(scores))
    near("attend(q, k, v)", mine.attend(q, k, v), expected)


def check_gradient(mine: Any) -> None:
    """gradients reach q, k and v"""
    inputs = [tensor.requires_grad_() for tensor in drawn()]
    mine.attend(*inputs).square().sum().backward()
    for name, tensor in zip("qkv", inputs, strict=True):
        assert tensor.grad is not None and tensor.grad.isfinite().all(), f"{name} has no finite gradient"
