"""Chapter 9: write the cache that makes a model talk fast. (docs/course/09-engine.md)"""
import torch


class Cache:
    """The keys and values of all tokens that a model has read so far, layer by layer."""

    def __init__(self, num_layers: int):
        raise NotImplementedError

    def append(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Stores the keys and values of T new tokens and returns (all keys, all values, mask) of this layer.

        k and v are (B, G, T, D): B texts at once, G heads for keys and values, D numbers for each head. With S tokens
        in all, the new ones included, the first two results are (B, G, S, D): what was stored before, followed by what
        is new.

        The mask is (1, 1, T, S) of bools: True where a new token may see a token. The new tokens are the LAST T of the
        S. Each sees all tokens in front of it and itself, and none behind it. With S = 5 and T = 2:

            1 1 1 1 0
            1 1 1 1 1

        The model calls this once for each layer whenever it reads tokens: first for the whole question, then for one
        token after the other.
        """
        # Useful: torch.cat((old, new), dim=2), and torch.ones(T, S, dtype=torch.bool).tril(n). tril keeps the ones on
        # and below a diagonal and makes the others False: row i keeps its first i + 1 + n places (i begins with 0).
        raise NotImplementedError
