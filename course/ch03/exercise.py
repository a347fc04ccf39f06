"""Chapter 3: write three numbers of a training run. (docs/course/03-the-loop.md)"""
from collections.abc import Iterable
from typing import Any

import torch


def first_loss(vocab_size: int) -> float:
    """The loss in nats of a model that knows nothing: each of `vocab_size` tokens is equally likely.

    The loss of a token to which a model gave the probability p is −ln p.
    """
    raise NotImplementedError


def bits_per_byte(model: Any, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], token_bytes: torch.Tensor) -> float:
    """How many bits the model needs for a byte of text, over all batches together.

    Each batch is (ids, targets), both (B, T). `model.loss(ids, targets, reduction="none")` gives the nats of each
    target (B, T). `token_bytes[i]` is the number of bytes of token i; special tokens have 0.

    1. Sum the nats of all targets that have bytes. A target of −1 stands for "nothing to predict" and counts nowhere.
    2. Sum the bytes of these targets.
    3. A nat is 1/ln 2 bits: divide the nats by ln 2 and by the bytes.
    """
    # Careful: token_bytes[-1] is the LAST token's number of bytes; targets.clamp(min=0) and (targets >= 0) help.
    raise NotImplementedError


def learning_rate(step: int, steps: int, warmup_steps: int, warmdown_fraction: float) -> float:
    """The factor by which all learning rates are multiplied at `step`, which is 0 … steps − 1.

    In the first `warmup_steps` it rises in equal parts and is 1 at the last of them. Then it is 1. In the last
    `warmdown_fraction` of all steps it falls in equal parts, so that it would be 0 at step number `steps`.

    Both may be 0: then nothing rises, or nothing falls.

    With 10 steps, 2 of warm-up and a fraction of .5: .5, 1, 1, 1, 1, 1, .8, .6, .4, .2
    """
    raise NotImplementedError
