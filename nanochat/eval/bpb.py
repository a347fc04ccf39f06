"""Bits per byte (bpb): how well a model predicts text, comparable between tokenizers.

    bpb = Σ nats over targets that have bytes / (ln 2 · Σ their bytes)

Special tokens have 0 bytes and do not count, and neither do ignored targets (−1). Values are comparable only on the
same text cut into the same rows: a token early in a row has less context, so it is harder to predict.
"""
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from nanochat.data import loader
from nanochat.model import GPT
from nanochat.system.files import UserError
from nanochat.system.runtime import Runtime, all_reduce_sum
from nanochat.tokenizer import Tokenizer


@dataclass(frozen=True)
class TextLoss:
    """The loss of a model on a text, in nats, and the length of the text, both without special tokens."""

    nats: float
    num_bytes: float
    num_tokens: float

    @property
    def bits_per_byte(self) -> float:
        return self.nats / (math.log(2) * self.num_bytes)

    def perplexity(self, bytes_per_unit: float = 0.0) -> float:
        """exp(nats per token), or exp(nats per unit of `bytes_per_unit` bytes), e.g. per word."""
        # Others publish these. Per token it is comparable only between models with the same tokenizer; per word, like
        # bits per byte, between all models.
        return math.exp(self.nats * bytes_per_unit / self.num_bytes if bytes_per_unit else self.nats / self.num_tokens)


@torch.no_grad()
def text_loss(model: GPT, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], token_bytes: torch.Tensor) -> TextLoss:
    """The loss over `batches` of (ids, targets), both (B, T) int64, of all ranks together.

    `token_bytes` (V,) int32, on the batches' device: the number of bytes of each token, 0 for special tokens. UserError
    if no target has bytes.
    """
    nats, num_bytes, num_tokens = 0.0, 0.0, 0.0
    for ids, targets in batches:
        lengths = token_bytes[targets.clamp(min=0)] * (targets >= 0)  # (B, T)
        losses = model.loss(ids, targets, reduction="none")  # (B, T) nats
        nats += losses[lengths > 0].cpu().double().sum().item()  # fp64: a sum of millions of small numbers
        num_bytes += lengths.sum().item()
        num_tokens += (lengths > 0).sum().item()
    nats, num_bytes, num_tokens = all_reduce_sum([nats, num_bytes, num_tokens], token_bytes.device)
    if not num_bytes:
        raise UserError("no validation token has bytes: nothing to measure bits per byte on; check the shard")
    return TextLoss(nats, num_bytes, num_tokens)


def bits_per_byte(model: GPT, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], token_bytes: torch.Tensor) -> float:
    """`text_loss` in bits per byte."""
    return text_loss(model, batches, token_bytes).bits_per_byte


def text_batches(shards: Sequence[Path], tokenizer: Tokenizer, rows: int, row_len: int, num_tokens: int,
                 runtime: Runtime) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """This rank's (ids, targets), both (B, T) int64, of the first `num_tokens` tokens over all ranks, at least one
    batch. Every call gives the same batches."""
    batches = loader.batches(loader.TextCorpus(shards, tokenizer), rows, row_len, tokenizer.bos_id, rank=runtime.rank,
                             world_size=runtime.world_size, epochs=1)
    for batch in islice(batches, max(1, num_tokens // (rows * row_len * runtime.world_size))):
        moved = batch.to(runtime.device)
        yield moved.ids, moved.targets
