"""Chapter 8: your `advantages` and your `policy_loss` teach a tiny model, without any text.

    python -m course.ch08.bandit

The model has 6 questions and 5 possible answers to each, and one number for each of the 30 pairs. It starts as a blind
guess; only its rewards tell it which answers are right.
"""
import numpy as np
import torch

from course.ch08 import exercise
from nanochat.system import cli

QUESTIONS, ANSWERS, SAMPLES, STEPS, RATE = 6, 5, 8, 60, 0.1


def main(argv: list[str] | None = None) -> None:
    cli.parse(argv, __doc__)
    generator = torch.Generator().manual_seed(0)
    logits = torch.zeros(QUESTIONS, ANSWERS, requires_grad=True)
    right = torch.randint(ANSWERS, (QUESTIONS,), generator=generator)
    for step in range(STEPS):
        answers = torch.multinomial(logits.detach().softmax(-1), SAMPLES, replacement=True, generator=generator)
        rewards = (answers == right[:, None]).double().numpy()  # (questions, K)
        weights = torch.from_numpy(np.asarray(exercise.advantages(rewards))).float().flatten()
        loss = exercise.policy_loss(logits.repeat_interleave(SAMPLES, 0), answers.flatten(), weights)
        loss.backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            assert logits.grad is not None, "policy_loss gave a loss without a gradient"
            logits -= RATE * logits.grad
            logits.grad = None
        if step % 6 == 0 or step == STEPS - 1:
            print(f"step {step:3}  mean reward {rewards.mean():.2f}  {'#' * round(40 * rewards.mean())}")


if __name__ == "__main__":
    cli.run(main)
