"""What chapter 3 holds of `first_loss`, `bits_per_byte` and `learning_rate`, and of the mended loop."""
import math
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F

from course.ch03 import broken
from course.expect import near
from nanochat.eval import bpb
from nanochat.model import GPT, GPTConfig
from nanochat.optim import Schedule

SOLUTION = SimpleNamespace(
    first_loss=math.log, bits_per_byte=bpb.bits_per_byte,
    learning_rate=lambda step, steps, warmup, warmdown: Schedule(steps, warmup, warmdown).lr(step))


class Known:
    """A model whose loss is known: every target costs as many nats as its number, and a target of −1 costs 5."""

    def loss(self, ids: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
        return targets.where(targets >= 0, 5).float()


def measured(mine: Any, *rows: list[int], last: int = 0) -> float:
    """Bits per byte of these targets. Tokens 0 to 2 have 1 to 3 bytes, token 3 (the last) has `last` bytes."""
    batches = [(torch.zeros(1, len(row), dtype=torch.int64), torch.tensor([row])) for row in rows]
    return float(mine.bits_per_byte(Known(), batches, torch.tensor([1, 2, 3, last])))


def check_first_loss(mine: Any) -> None:
    """the first loss is that of a blind guess, and a new model of the project has it"""
    near("first_loss(2)", mine.first_loss(2), 0.6931, 1e-3)
    for vocab_size in (50, 2048):
        model = GPT(GPTConfig(sequence_len=16, vocab_size=vocab_size, n_layer=1, n_head=1, n_kv_head=1, n_embd=16,
                              head_dim=16)).init_weights(0)
        ids = torch.randint(vocab_size, (4, 16), generator=torch.Generator().manual_seed(0))
        near(f"first_loss({vocab_size})", mine.first_loss(vocab_size), model.loss(ids, ids).item(), 0.02)


def check_bits(mine: Any) -> None:
    """nats become bits, and are divided by bytes, not by tokens"""
    near("bits per byte of 3 nats on 2 + 3 bytes", measured(mine, [1, 2]), 3 / math.log(2) / 5)


def check_special_tokens(mine: Any) -> None:
    """a special token does not count: it has 0 bytes, and its nats are left out too"""
    near("bits per byte of 3 nats on 2 + 3 bytes, and a special token", measured(mine, [1, 3, 2]), 3 / math.log(2) / 5)


def check_nothing_to_predict(mine: Any) -> None:
    """a target of −1 does not count, whatever the model says its loss is"""
    near("bits per byte of 3 nats on 2 + 3 bytes, and a target of −1", measured(mine, [1, -1, 2], last=7),
         3 / math.log(2) / 5)


def check_batches(mine: Any) -> None:
    """all batches count together: it is no mean of means"""
    near("bits per byte over two batches", measured(mine, [1, 1, 1, 1], [2]), 6 / math.log(2) / 11)


def check_schedule(mine: Any) -> None:
    """the learning rate rises, stays and falls"""
    for steps, warmup, warmdown in ((10, 2, 0.5), (8, 0, 0.25), (5, 0, 1.0), (4, 0, 0.0)):
        got = [mine.learning_rate(step, steps, warmup, warmdown) for step in range(steps)]
        expected = {10: [.5, 1, 1, 1, 1, 1, .8, .6, .4, .2], 8: [1, 1, 1, 1, 1, 1, 1, .5], 5: [1, .8, .6, .4, .2],
                    4: [1, 1, 1, 1]}[steps]
        near(f"learning_rate(step, {steps}, {warmup}, {warmdown}) for step 0 … {steps - 1}", got, expected)


def mended_loop(mine: Any) -> None:
    """the losses are those of PyTorch's own optimizer, torch.optim.SGD"""
    batches = broken.examples(20)
    twin = torch.zeros(8, 1, requires_grad=True)
    sgd, expected = torch.optim.SGD([twin], lr=0.1), []
    for inputs, targets in batches:
        sgd.zero_grad()
        loss = F.mse_loss(inputs @ twin, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        sgd.step()
        expected.append(loss.item())
    weights = torch.zeros(8, 1)
    near("the losses of 20 steps", mine.train(weights, batches, 0.1), expected)
    near("the weights after 20 steps", weights.detach(), twin.detach())
