"""Chapter 8: write what reinforcement learning minimises. (docs/course/08-reinforcement.md)"""
import numpy as np
import torch


def advantages(rewards: np.ndarray) -> np.ndarray:
    """How much better each answer is than the other answers to the same question.

    `rewards` is (questions, K): K answers to each question. The advantage of an answer is its reward less the mean
    reward of the K answers to its question. A question whose answers are all right gives K zeros.
    """
    raise NotImplementedError


def policy_loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The sum over all N tokens of weight · (−ln of the probability that the model gives to the token).

    logits is (N, V), targets (N,) the tokens that were sampled, weights (N,) the advantages of their answers. A target
    of −1 was not sampled by the model (it is the question, or the calculator's output) and does not count.

    Its gradient makes tokens of good answers likelier and tokens of bad answers less likely.
    """
    # Useful: logits.log_softmax(-1), and targets.clamp(min=0) with .gather(1, …) to pick one logarithm from each row.
    # gather keeps a dimension, (N, 1). Remove it with .squeeze(1): (N, 1) times (N,) would be (N, N), without an error.
    raise NotImplementedError
