"""Chapter 2: write causal attention. (docs/course/02-attention.md)"""
import torch


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """What each position takes from itself and from the positions in front of it.

    q, k, v and the result have the shape (B, H, T, D): B texts, H heads, T positions, D numbers for each position.

    1. The score of query t for key s is their dot product, divided by √D. All scores: (B, H, T, T).
    2. A position must not see what comes after it: where s > t, the score is −∞.
    3. softmax over s turns the scores of each query into weights, which sum to 1.
    4. The result at t is the sum of all v[s], each times its weight.
    """
    # Useful: q @ k.transpose(-2, -1), torch.ones(T, T, dtype=torch.bool).tril(), .softmax(-1), and
    # scores.masked_fill(hidden, float("-inf")), where `hidden` is a tensor of bools: True where a score becomes −∞.
    raise NotImplementedError
