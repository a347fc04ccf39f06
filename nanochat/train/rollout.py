"""Rollouts: RL as a source of batches. The model answers questions, the task rewards, advantages weigh the tokens.

On-policy REINFORCE, as the original simplifies GRPO: no KL, no reference model, no ratio or clip; advantage = reward −
mean of the question's samples (no division by σ); every sampled token weighs the same. Tokens the tool forced are no
targets. Questions whose samples all got the same reward teach nothing; they are dropped before any backward pass, so
the normalisation runs over the tokens that do teach.
"""
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from nanochat.data.packing import Batch, Document
from nanochat.system.files import UserError
from nanochat.system.runtime import Runtime, all_reduce_sum

Reward = Callable[[dict, str], float]


@dataclass
class Rollouts:
    """An endless iterator of micro-batches, `micro_batches` of them per optimizer step; `stats` tell of the newest one.

    `generate(prompts, seed) -> list[list[Completion]]` must sample with the weights of this very moment. `items` are
    the task's questions in the order to ask them, `prompts` their token ids.
    """

    generate: Callable[[list[list[int]], int], list[list]]
    items: Sequence[dict]
    prompts: Sequence[list[int]]
    reward: Reward
    runtime: Runtime
    questions_per_step: int  # over all ranks
    rows: int  # per micro-batch
    row_len: int  # tokens of a row, prompt and answer
    pad_id: int
    seed: int = 0
    step: int = 0  # optimizer steps already done
    stats: dict[str, float] = field(default_factory=dict)
    samples: list[dict] = field(default_factory=list)  # this rank's of the newest step, for the log
    answers: list[Document] = field(default_factory=list)  # the same as prompt and answer ids; mask 1 = sampled

    def __post_init__(self) -> None:
        if self.questions_per_step < self.runtime.world_size:
            raise UserError(f"--examples_per_step={self.questions_per_step} is too few for {self.runtime.world_size} "
                            "ranks; give at least one question for each")

    def micro_batches(self, samples: int) -> int:
        """Micro-batches a step yields on every rank, enough for the one with the most questions."""
        questions = -(-self.questions_per_step // self.runtime.world_size)
        return -(-questions * samples // self.rows)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            chosen = [(self.step * self.questions_per_step + offset) % len(self.items)
                      for offset in range(self.runtime.rank, self.questions_per_step, self.runtime.world_size)]
            began = time.perf_counter()
            answers = self.generate([self.prompts[i] for i in chosen], self.seed + self.step)
            seconds = time.perf_counter() - began
            rewards = np.array([[self.reward(self.items[i], one.text) for one in group]
                                for i, group in zip(chosen, answers, strict=True)])  # (questions, K)
            self._describe(chosen, answers, rewards)
            own = sum(len(one.ids) for group in answers for one in group)  # tokens of this rank
            self.stats["speed/answer_tokens_per_second"] = own / seconds
            self.step += 1
            yield from self._batches(chosen, answers, rewards - rewards.mean(axis=1, keepdims=True))

    def _batches(self, chosen: list[int], answers: list[list], advantages: np.ndarray) -> Iterator[Batch]:
        """Rows with advantage first; what is left of the step's micro-batches is padding without targets."""
        shape = (self.micro_batches(advantages.shape[1]) * self.rows, self.row_len)
        ids, weights = np.full(shape, self.pad_id, dtype=np.int64), np.zeros(shape, dtype=np.float32)
        targeted = np.zeros(shape, dtype=bool)
        row = 0
        for i, group, group_advantages in zip(chosen, answers, advantages, strict=True):
            for answer, advantage in zip(group, group_advantages, strict=True):
                if abs(group_advantages).max() < 1e-9:
                    continue
                start, end = len(self.prompts[i]), len(self.prompts[i]) + len(answer.ids)
                ids[row, :start], ids[row, start:end] = self.prompts[i], answer.ids
                targeted[row, start:end] = answer.mask
                weights[row, start:end] = advantage
                row += 1
        for first in range(0, shape[0], self.rows):
            part = slice(first, first + self.rows)
            whole = torch.from_numpy(ids[part])
            targets = whole[:, 1:].masked_fill(~torch.from_numpy(targeted[part, 1:]), -1)
            yield Batch(whole[:, :-1].contiguous(), targets, {"step": self.step},
                        torch.from_numpy(weights[part, 1:]).contiguous())

    def _describe(self, chosen: list[int], answers: list[list], rewards: np.ndarray) -> None:
        calls = np.array([[bool(one.tool_calls) for one in group] for group in answers])  # (questions, K)
        tokens = sum(len(one.ids) for group in answers for one in group)
        sums = (rewards.size, rewards.sum(), calls.sum(), (rewards * calls).sum(), tokens,
                len(rewards), (rewards.max(axis=1) > 0).sum(), (np.ptp(rewards, axis=1) > 0).sum())
        n, right, used, right_used, tokens, groups, passed, mixed = all_reduce_sum([float(x) for x in sums],
                                                                                   self.runtime.device)
        self.stats = {"rl/reward_mean": right / n, "rl/tool_use": used / n,
                      "rl/reward_with_tool": right_used / max(used, 1), "rl/tokens_per_answer": tokens / n,
                      "rl/pass_at_k": passed / groups, "rl/mixed_groups": mixed / groups}
        self.samples, self.answers = [], []
        for i, group, group_rewards in zip(chosen, answers, rewards, strict=True):
            question = self.items[i].get("question") or self.items[i].get("prompt")
            for one, reward in zip(group, group_rewards, strict=True):
                self.samples.append({"question": question, "answer": one.text, "tool_calls": one.tool_calls,
                                     "reward": float(reward)})
                self.answers.append(([*self.prompts[i], *one.ids], [0] * len(self.prompts[i]) + list(one.mask)))
