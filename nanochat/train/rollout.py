"""Rollouts: RL as a source of batches. The model answers questions, the task gives rewards, and advantages weigh the
tokens in the loss (nanochat/train/losses.py).

REINFORCE, which is what GRPO becomes with karpathy/nanochat's simplifications:

- No ratio and no clip: every batch is sampled with the newest weights, so there is no older policy to correct for.
- No KL penalty and no reference model: a verifier rewards the answers, so there is no reward model to be fooled.
- Advantage = reward − mean of the question's samples. It is not divided by σ: then questions that are nearly always
  right, or nearly never, would have as much weight as the questions in between.
- Every sampled token has the same weight. Otherwise a token of a long answer would count less than a token of a short
  answer.

Tokens that the tool wrote are not targets. Questions whose samples all got the same reward teach nothing: they are
dropped before the backward pass, so the loss is divided by the number of tokens that do teach.
"""
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, Protocol

import numpy as np
import torch

from nanochat.data.packing import Batch, Document, Rows, best_fit, to_batch
from nanochat.system.files import UserError
from nanochat.system.numbers import ceil_div
from nanochat.system.runtime import Runtime, all_reduce_sum

Item = dict[str, Any]  # a question of a task


class Answer(Protocol):
    """The part of nanochat.infer's Completion that a rollout needs."""

    ids: list[int]
    mask: list[int]  # 1 = sampled, 0 = written by the tool
    text: str
    tool_calls: list[Any]


def advantages(rewards: np.ndarray) -> np.ndarray:
    """Each answer's reward minus the mean reward of its question; both (questions, K).

    >>> advantages(np.array([[1.0, 0.0], [1.0, 1.0]])).tolist()
    [[0.5, -0.5], [0.0, 0.0]]
    """
    better: np.ndarray = rewards - rewards.mean(axis=1, keepdims=True)
    return better


@dataclass
class Rollouts:
    """An endless iterator of micro-batches, `micro_batches` of them per optimizer step; `stats` are the newest step's.

    `generate(prompts, seed)` must sample with the current weights and return K answers to each prompt.
    `items` are the task's questions in the order to ask them, `prompts` their token ids.
    """

    generate: Callable[[list[list[int]], int], Sequence[Sequence[Any]]]  # K `Answer`s for each prompt
    items: Sequence[Item]
    prompts: Sequence[list[int]]
    reward: Callable[[Item, str], float]
    runtime: Runtime
    questions_per_step: int  # over all ranks
    rows: int  # per micro-batch
    row_len: int  # tokens of a row, T + 1: room for the longest prompt and its answer
    pad_id: int  # fills rows up; never a target
    lessons: Rows | None = None  # rows of `row_len`; a micro-batch of them ends every step (InstructGPT's PPO-ptx)
    share_rows: bool = False  # several answers in a row: only where the model does not let documents see each other
    seed: int = 0  # step n samples with seed + n
    step: int = 0  # optimizer steps already done: decides the next questions
    stats: dict[str, float] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)  # this rank's answers of the newest step, for the log
    answers: list[Document] = field(default_factory=list)  # the same as ids of prompt and answer; mask 1 = sampled

    def __post_init__(self) -> None:
        if self.questions_per_step < self.runtime.world_size:
            raise UserError(f"--examples_per_step={self.questions_per_step} is too few for {self.runtime.world_size} "
                            "ranks; give at least one question for each")

    def micro_batches(self, samples: int) -> int:
        """Micro-batches per step, the same on every rank: enough for the rank with the most questions."""
        questions = ceil_div(self.questions_per_step, self.runtime.world_size)
        return ceil_div(questions * samples, self.rows) + (self.lessons is not None)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            chosen = [(self.step * self.questions_per_step + offset) % len(self.items)
                      for offset in range(self.runtime.rank, self.questions_per_step, self.runtime.world_size)]
            began = time.perf_counter()
            groups = self.generate([self.prompts[i] for i in chosen], self.seed + self.step)
            seconds = time.perf_counter() - began
            rewards = np.array([[self.reward(self.items[i], answer.text) for answer in group]
                                for i, group in zip(chosen, groups, strict=True)])  # (questions, K)
            self._describe(chosen, groups, rewards)
            num_tokens = sum(len(answer.ids) for group in groups for answer in group)
            self.stats["speed/answer_tokens_per_second"] = num_tokens / seconds  # this rank's
            self.step += 1
            yield from self._batches(advantages(rewards))
            if self.lessons is not None:
                yield self._lessons(*self.lessons)

    def _batches(self, better: np.ndarray) -> Iterator[Batch]:
        """First the answers whose advantage (`better`, (questions, K)) teaches; the rest of the step's micro-batches is
        padding without targets."""
        num_batches = self.micro_batches(better.shape[1]) - (self.lessons is not None)
        shape = (num_batches * self.rows, self.row_len)  # room for every answer in a row of its own, T + 1 tokens each
        ids, weights = np.full(shape, self.pad_id, dtype=np.int64), np.zeros(shape, dtype=np.float32)
        is_target = np.zeros(shape, dtype=bool)
        rewards_differ = np.repeat(abs(better).max(axis=1) >= 1e-9, better.shape[1])  # within the answer's group
        teach = list(compress(zip(self.answers, better.flat, strict=True), rewards_differ))
        sizes = [len(document) for (document, _), _ in teach]
        rows_of_answers = best_fit(sizes, self.row_len) if self.share_rows else [[i] for i in range(len(teach))]
        for row, members in enumerate(rows_of_answers):
            start = 0
            for (document, mask), advantage in (teach[i] for i in members):
                place = row, slice(start, start + len(document))
                ids[place], is_target[place], weights[place] = document, mask, np.multiply(mask, advantage)
                start += len(document)
        for first in range(0, shape[0], self.rows):
            rows = slice(first, first + self.rows)
            row_ids = torch.from_numpy(ids[rows])
            targets = row_ids[:, 1:].masked_fill(~torch.from_numpy(is_target[rows, 1:]), -1)
            yield Batch(row_ids[:, :-1].contiguous(), targets, {"step": self.step},
                        torch.from_numpy(weights[rows, 1:]).contiguous())

    def _lessons(self, ids: np.ndarray, mask: np.ndarray) -> Batch:
        """The lessons of this step and rank; after the last row come the first rows again."""
        first = ((self.step - 1) * self.runtime.world_size + self.runtime.rank) * self.rows
        chosen = np.arange(first, first + self.rows) % len(ids)
        return to_batch(ids[chosen], mask[chosen], {"step": self.step})

    def _describe(self, chosen: list[int], groups: Sequence[Sequence[Answer]], rewards: np.ndarray) -> None:
        """Fills `stats` (a collective), `samples` and `answers`."""
        calls = np.array([[bool(answer.tool_calls) for answer in group] for group in groups])  # (questions, K)
        num_tokens = sum(len(answer.ids) for group in groups for answer in group)
        sums = (rewards.size, rewards.sum(), calls.sum(), (rewards * calls).sum(), num_tokens,
                len(rewards), (rewards.max(axis=1) > 0).sum(), (np.ptp(rewards, axis=1) > 0).sum())
        answers, reward, used_tool, reward_with_tool, tokens, questions, passed, mixed = all_reduce_sum(
            [float(x) for x in sums], self.runtime.device)
        self.stats = {"rl/reward_mean": reward / answers, "rl/tool_use": used_tool / answers,
                      "rl/reward_with_tool": reward_with_tool / max(used_tool, 1),
                      "rl/tokens_per_answer": tokens / answers,
                      "rl/pass_at_k": passed / questions, "rl/mixed_groups": mixed / questions}
        self.samples, self.answers = [], []
        for i, group, group_rewards in zip(chosen, groups, rewards, strict=True):
            prompt, question = self.prompts[i], self.items[i].get("question") or self.items[i].get("prompt")
            for answer, answer_reward in zip(group, group_rewards, strict=True):
                self.samples.append({"question": question, "answer": answer.text, "tool_calls": answer.tool_calls,
                                     "reward": float(answer_reward)})
                self.answers.append(([*prompt, *answer.ids], [0] * len(prompt) + list(answer.mask)))
