"""Chapter 9, broken: a cache with one fault. The model's first word is right, and then it loses its mind.

    python -m course.ch09.broken "tell me a story about a penguin"
    python -m course.check 9 --broken       when you think that it is mended
"""
import torch

from course.ch09 import talk
from nanochat.system import cli


class Cache:
    """Keys and values of all tokens so far; course/ch09/exercise.py has the rule."""

    def __init__(self, num_layers: int):
        self.stored: list[tuple[torch.Tensor, torch.Tensor] | None] = [None] * num_layers

    def append(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        before = self.stored[layer]
        if before is not None:
            k, v = torch.cat((before[0], k), dim=2), torch.cat((before[1], v), dim=2)
        num_new = k.size(2) - (0 if before is None else before[0].size(2))
        self.stored[layer] = (k, v)
        mask = torch.ones(num_new, k.size(2), dtype=torch.bool).tril()
        return k, v, mask[None, None]


def main(argv: list[str] | None = None) -> None:
    args = talk.flags(argv, __doc__)
    talk.compare(args, {"without a cache": None, "with this cache": Cache})


if __name__ == "__main__":
    cli.run(main)
