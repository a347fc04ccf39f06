"""What chapter 8 holds of `advantages(rewards)` and `policy_loss(logits, targets, weights)`."""
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from course.expect import near
from nanochat.model import chunked_loss
from nanochat.train import rollout


def project_loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The project's loss, which takes hidden states and a head: with an identity as the head these are the logits."""
    return chunked_loss.weighted_nats(logits, torch.eye(logits.size(1)), targets, weights * (targets >= 0), 0.0)


SOLUTION = SimpleNamespace(advantages=rollout.advantages, policy_loss=project_loss)


def check_example(mine: Any) -> None:
    """an answer is compared with the other answers to its question"""
    near("advantages([[1, 0, 0, 1]])", mine.advantages(np.array([[1.0, 0, 0, 1]])), [[0.5, -0.5, -0.5, 0.5]])


def check_nothing_to_learn(mine: Any) -> None:
    """a question that is always right, or always wrong, teaches nothing"""
    near("advantages([[1, 1], [0, 0]])", mine.advantages(np.array([[1.0, 1], [0, 0]])), [[0.0, 0], [0, 0]])


def check_questions_apart(mine: Any) -> None:
    """the advantages of each question sum to 0"""
    rewards = np.random.default_rng(0).random((5, 8))
    near("the sums of advantages(…) over each question", mine.advantages(rewards).sum(axis=1), np.zeros(5))


def check_loss(mine: Any) -> None:
    """the loss is the weighted sum of −ln p"""
    logits = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    got = mine.policy_loss(logits, torch.tensor([0, 1]), torch.tensor([1.0, -0.5])).detach()
    each_with_each = (0.6931 + 2.1269) * (1 - 0.5)  # what a shape of (N, 1) gives, silently
    assert abs(float(got) - each_with_each) > 1e-3, (
        "every token was multiplied by every weight: (N, 1) times (N,) is (N, N); gather keeps a dimension, and "
        ".squeeze(1) removes it")
    near("policy_loss([[0, 0], [2, 0]], [0, 1], [1, −.5])", got, 0.6931 - 0.5 * 2.1269, 1e-3)


def check_not_sampled(mine: Any) -> None:
    """targets of −1 do not count"""
    logits = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 0.0]])
    got = mine.policy_loss(logits, torch.tensor([0, 1, -1]), torch.tensor([1.0, -0.5, 7.0]))
    near("policy_loss with a third token that was not sampled", got.detach(), 0.6931 - 0.5 * 2.1269, 1e-3)


def check_direction(mine: Any) -> None:
    """a step against the gradient makes the good answer likelier and the bad one less likely"""
    logits = torch.zeros(2, 3, requires_grad=True)
    mine.policy_loss(logits, torch.tensor([0, 1]), torch.tensor([0.5, -0.5])).backward()
    assert logits.grad is not None, "the loss has no gradient"
    good, bad = -logits.grad[0, 0].item(), -logits.grad[1, 1].item()
    assert good > 0, f"the good answer changes by {good:+.3f}: it should become likelier"
    assert bad < 0, f"the bad answer changes by {bad:+.3f}: it should become less likely"


mended_example, mended_nothing_to_learn, mended_questions_apart = (
    check_example, check_nothing_to_learn, check_questions_apart)
