"""Chapter 8, broken: the advantages of four questions with four answers each.

    python -m course.ch08.broken
    python -m course.check 8 --broken       when you think that it is mended
"""
import numpy as np

from nanochat.system import cli

QUESTIONS = {"easy, all right": [1, 1, 1, 1], "hard, all wrong": [0, 0, 0, 0], "half right": [1, 0, 1, 0],
             "one right": [0, 0, 1, 0]}


def advantages(rewards: np.ndarray) -> np.ndarray:
    """How much better each answer is than the other answers to its question; course/ch08/exercise.py has the rule."""
    better: np.ndarray = rewards - rewards.mean(axis=0, keepdims=True)
    return better


def main(argv: list[str] | None = None) -> None:
    cli.parse(argv, __doc__)
    rewards = np.array(list(QUESTIONS.values()), dtype=float)
    for name, row, better in zip(QUESTIONS, rewards, advantages(rewards), strict=True):
        print(f"{name:16} rewards {' '.join(f'{value:.0f}' for value in row)}   "
              f"advantages {' '.join(f'{value:+.2f}' for value in better)}")


if __name__ == "__main__":
    cli.run(main)
