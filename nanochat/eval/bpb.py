"""Bits per byte: how well a model predicts text, comparable between tokenizers.

    bpb = Σ nats over targets that have bytes / (ln 2 · Σ their bytes)

Specials have 0 bytes and do not count, nor do ignored targets (−1). A token's bytes are its own, never via `str`.
Comparable only on the same text cut into rows in the same way: a token early in a row has less context.
"""
import math
from collections.abc import Iterable

import torch

from nanochat.system.files import UserError
from nanochat.system.runtime import all_reduce_sum


@torch.no_grad()
def bits_per_byte(model, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], token_bytes: torch.Tensor) -> float:
    """bpb over `batches` of (ids, targets), both (B, T) int64, of all ranks together.

    `token_bytes` (V,) int32, on the batches' device: the bytes of each token, 0 for specials. UserError: no bytes.
    """
    nats, num_bytes = 0.0, 0.0
    for ids, targets in batches:
        lengths = token_bytes[targets.clamp(min=0)] * (targets >= 0)  # (B, T)
        losses = model.loss(ids, targets, reduction="none")  # (B, T) nats
        nats += losses[lengths > 0].cpu().double().sum().item()
        num_bytes += lengths.sum().item()
    nats, num_bytes = all_reduce_sum([nats, num_bytes], token_bytes.device)
    if not num_bytes:
        raise UserError("no validation token has bytes: nothing to measure bits per byte on; check the shard")
    return nats / (math.log(2) * num_bytes)
