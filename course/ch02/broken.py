"""Chapter 2, broken: base training with an attention that has one fault. Watch the numbers: they are too good.

    python -m course.ch02.broken --depth=2 --num_iterations=150 …      all flags of scripts.base_train
    python -m course.check 2 --broken                                  when you think that it is mended
"""
from unittest import mock

import torch

from nanochat.model import attention, gpt
from nanochat.system import cli
from scripts import base_train


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention; course/ch02/exercise.py has the rule."""
    num_positions, width = q.shape[-2:]
    scores = q @ k.transpose(-2, -1) / width ** 0.5
    visible = torch.ones(num_positions, num_positions, dtype=torch.bool, device=q.device).tril(1)
    result: torch.Tensor = scores.masked_fill(~visible, float("-inf")).softmax(-1) @ v
    return result


def main(argv: list[str] | None = None) -> None:
    def attend_or_cached(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Training has no mask. An engine that reads a token at a time brings its own (chapter 9): it is left alone."""
        return attend(q, k, v) if mask is None else attention.attend(q, k, v, mask)

    with mock.patch.object(gpt, "attend", attend_or_cached):  # the model calls the function by this name
        base_train.main(argv)


if __name__ == "__main__":
    cli.run(main)
