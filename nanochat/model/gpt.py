"""The whole Transformer, in reading order: config, block, model, loss.

The plain form (every feature off) is the October 2025 architecture that transformers knows as `nanochat`: token
embedding → RMSNorm without weights → L blocks of {x += attention(norm(x)); x += relu²-MLP(norm(x))} → RMSNorm → untied
head with a soft cap. RoPE comes before the norm of queries and keys; there are no biases; parameters carry
transformers' names.

Four features, each a few lines (docs/LOG.md has their numbers):
  value_embeddings  every other layer adds an embedding of its input token to the values, through a gate per head
  residual_scalars  every layer sees a·x + b·x0, with x0 the normalised embedding and a, b learned per layer
  smear             every token's embedding takes up a learned part, per channel, of the one before it: "what came after
                    this word last time?" then needs one layer of attention instead of two
  document_bos      documents packed into one row do not see each other (only worth its mask where rows are short)

Parameters stay fp32; matrices are cast to `compute_dtype` where they are used, so optimizers see full precision.
Nothing here knows about data, devices or decoding: a cache is anything with `append(layer, k, v) -> (k, v, mask)`.
"""
import math
from dataclasses import asdict, dataclass
from typing import Protocol

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint as recompute

from nanochat.model import chunked_loss
from nanochat.model.attention import attend


@dataclass(frozen=True)
class GPTConfig:
    """Everything that decides the shape of the model; stored with every checkpoint."""

    sequence_len: int = 2048
    vocab_size: int = 65536
    n_layer: int = 20
    n_head: int = 10
    n_kv_head: int = 10
    n_embd: int = 1280
    head_dim: int = 128
    rope_base: float = 10_000.0
    softcap: float = 15.0  # logits = softcap · tanh(logits / softcap)
    value_embeddings: bool = True
    residual_scalars: bool = True
    smear: bool = True
    document_bos: int | None = None  # id of <|bos|>: in training, attention then stays within a document

    def __post_init__(self) -> None:
        assert self.n_head % self.n_kv_head == 0, f"n_head {self.n_head} is no multiple of n_kv_head {self.n_kv_head}"
        assert self.head_dim % 2 == 0, f"head_dim {self.head_dim} is odd; RoPE turns pairs"

    def has_value_embedding(self, layer: int) -> bool:
        """Every other layer, the last one always."""
        return self.value_embeddings and layer % 2 == (self.n_layer - 1) % 2

    as_dict = asdict


# Exactly the October architecture: `GPTConfig(…, **PORTABLE)` is what other programs can load.
PORTABLE = {"value_embeddings": False, "residual_scalars": False, "smear": False, "document_bos": None}


class Cache(Protocol):
    """What decoding hands to `GPT.forward`; nanochat/infer/cache.py has the real one."""

    def append(self, layer: int, k: torch.Tensor,
               v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Stores k, v (B, G, T, D); returns all keys and values so far (B, G, S, D) and a mask (B, 1, T, S) or None."""


class Linear(nn.Linear):
    """A matrix without bias that multiplies in the dtype of its input."""

    def __init__(self, width_in: int, width_out: int):
        super().__init__(width_in, width_out, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def norm(x: torch.Tensor) -> torch.Tensor:
    """RMSNorm without weights over the last dimension, computed in fp32 (eps as in transformers' class)."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE (Su et al. 2021), halves paired, turning by −θ: x (B, T, H, D); cos, sin (B or 1, T, 1, D/2)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


class Attention(nn.Module):
    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.layer, self.head_dim = layer, config.head_dim
        self.q_proj = Linear(config.n_embd, config.n_head * config.head_dim)
        self.k_proj = Linear(config.n_embd, config.n_kv_head * config.head_dim)
        self.v_proj = Linear(config.n_embd, config.n_kv_head * config.head_dim)
        self.o_proj = Linear(config.n_head * config.head_dim, config.n_embd)
        self.gate = Linear(config.n_embd, config.n_kv_head) if config.has_value_embedding(layer) else None

    def forward(self, x: torch.Tensor, value_embedding: torch.Tensor | None, cos_sin: tuple[torch.Tensor, torch.Tensor],
                cache: Cache | None, mask: torch.Tensor | None) -> torch.Tensor:
        B, T, _ = x.shape
        q = self.q_proj(x).view(B, T, -1, self.head_dim)  # (B, T, H, D)
        k = self.k_proj(x).view(B, T, -1, self.head_dim)  # (B, T, G, D)
        v = self.v_proj(x).view(B, T, -1, self.head_dim)  # (B, T, G, D)
        if value_embedding is not None:
            gate = 2 * torch.sigmoid(self.gate(x))  # (B, T, G): 1 at the start
            v = v + gate.unsqueeze(-1) * value_embedding.view(v.shape)
        q, k = norm(rotate(q, *cos_sin)), norm(rotate(k, *cos_sin))
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, H or G, T, D)
        if cache is not None:
            k, v, mask = cache.append(self.layer, k, v)  # (B, G, S, D)
        y = attend(q, k, v, mask).transpose(1, 2).reshape(B, T, -1)  # (B, T, H·D)
        return self.o_proj(y)


class MLP(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.fc1 = Linear(config.n_embd, 4 * config.n_embd)
        self.fc2 = Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(F.relu(self.fc1(x)).square())  # relu²: So et al. 2021 (Primer)


class Block(nn.Module):
    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x: torch.Tensor, value_embedding: torch.Tensor | None, cos_sin: tuple[torch.Tensor, torch.Tensor],
                cache: Cache | None, mask: torch.Tensor | None) -> torch.Tensor:
        x = x + self.self_attn(norm(x), value_embedding, cos_sin, cache, mask)
        return x + self.mlp(norm(x))


class Trunk(nn.Module):
    """Embedding and blocks: everything but the head. ("model." in the names of the parameters.)"""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.n_embd)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        kv_width = config.n_kv_head * config.head_dim
        self.value_embeds = nn.ModuleDict({str(layer): nn.Embedding(config.vocab_size, kv_width)
                                           for layer in range(config.n_layer) if config.has_value_embedding(layer)})
        if config.residual_scalars:
            self.residual_scalars = nn.Parameter(torch.ones(config.n_layer))
            self.embedding_scalars = nn.Parameter(torch.zeros(config.n_layer))
        if config.smear:
            self.smear = nn.Parameter(torch.zeros(config.n_embd))


class GPT(nn.Module):
    """`model(ids)` gives logits, `model.loss(ids, targets)` nats, `model.hidden(ids)` the last layer."""

    def __init__(self, config: GPTConfig, compute_dtype: torch.dtype = torch.float32):
        super().__init__()
        self.config, self.compute_dtype = config, compute_dtype
        self.recompute = False  # True: blocks keep only their inputs for the backward pass and are computed again there
        self.model = Trunk(config)
        self.lm_head = Linear(config.n_embd, config.vocab_size)
        inverse = config.rope_base ** -(torch.arange(0, config.head_dim, 2, device="cpu") / config.head_dim)
        angles = torch.outer(torch.arange(config.sequence_len, device="cpu").float(), inverse)  # (T, D/2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    @torch.no_grad()
    def init_weights(self, seed: int = 0) -> "GPT":
        """Residual outputs start at zero, so every block starts as the identity; matrices uniform with variance 1/C."""
        generator = torch.Generator(device="cpu").manual_seed(seed)
        bound = math.sqrt(3 / self.config.n_embd)
        for name, parameter in self.named_parameters():
            draw = torch.empty(parameter.shape)
            if name.endswith("embed_tokens.weight"):
                draw.normal_(0, 1, generator=generator)
            elif name == "lm_head.weight":
                draw.normal_(0, 0.001, generator=generator)  # first loss = ln V
            elif name.endswith(("o_proj.weight", "fc2.weight", "gate.weight")):
                draw.zero_()
            elif name.endswith("model.smear"):
                draw.zero_()
            elif name.endswith("residual_scalars"):
                draw.fill_(1.0)
            elif name.endswith("embedding_scalars"):
                draw.fill_(0.1)
            else:
                draw.uniform_(-bound, bound, generator=generator)
            parameter.copy_(draw)
        return self

    def hidden(self, ids: torch.Tensor, cache: Cache | None = None, positions: torch.Tensor | None = None,
               mask: torch.Tensor | None = None, before: torch.Tensor | None = None) -> torch.Tensor:
        """The normalised last layer (B, T, C) for ids (B, T) int64; positions (B, T) default to 0 … T−1.

        mask (B, 1, M, T) bool, True = may attend, replaces plain causality for the last M; a cache brings its own.
        before (B, 1) int64 is the token in front of ids, −1 or None at the beginning of a document.
        """
        T = ids.size(1)
        assert positions is not None or T <= self.config.sequence_len, f"{T} positions > {self.config.sequence_len}"
        cos, sin = (table[:T].unsqueeze(0) if positions is None else table[positions] for table in (self.cos, self.sin))
        cos_sin = tuple(table.unsqueeze(2).to(self.compute_dtype) for table in (cos, sin))  # (B or 1, T, 1, D/2)
        x = norm(self.model.embed_tokens(ids).to(self.compute_dtype))  # (B, T, C)
        if self.config.smear:
            x = norm(x + self._previous(ids, before, x) * self.model.smear.to(x.dtype))
        x0 = x
        for layer, block in enumerate(self.model.layers):
            if self.config.residual_scalars:
                scalars = self.model.residual_scalars[layer], self.model.embedding_scalars[layer]
                x = scalars[0].to(x.dtype) * x + scalars[1].to(x.dtype) * x0
            embed = self.model.value_embeds[str(layer)] if self.config.has_value_embedding(layer) else None
            inputs = x, None if embed is None else embed(ids).to(x.dtype), cos_sin, cache, mask
            keep_little = self.recompute and torch.is_grad_enabled()
            x = recompute(block, *inputs, use_reentrant=False) if keep_little else block(*inputs)
        return norm(x)

    def _previous(self, ids: torch.Tensor, before: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
        """The embedding (B, T, C) of the token before each of ids; zero where a document begins."""
        first = torch.zeros_like(x[:, :1])
        if before is not None:
            first = norm(self.model.embed_tokens(before.clamp(min=0)).to(x.dtype)) * (before >= 0).unsqueeze(-1)
        previous = torch.cat((first, x[:, :-1]), dim=1)
        if self.config.document_bos is None:
            return previous
        return previous.masked_fill((ids == self.config.document_bos).unsqueeze(-1), 0.0)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """fp32 logits (…, V), soft-capped."""
        raw = self.lm_head(hidden).float()
        return self.config.softcap * torch.tanh(raw / self.config.softcap)

    def forward(self, ids: torch.Tensor, cache: Cache | None = None, positions: torch.Tensor | None = None,
                before: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (B, T, V) in fp32 for ids (B, T) int64; the rest as for `hidden`."""
        return self.logits(self.hidden(ids, cache, positions, before=before))

    def loss(self, ids: torch.Tensor, targets: torch.Tensor, reduction: str = "mean",
             weights: torch.Tensor | None = None) -> torch.Tensor:
        """Cross-entropy in nats of targets (B, T) int64, −1 = ignored: their mean, their "sum" (of weights (B, T) ·
        nats where there are some), or without gradients "none": (B, T), 0 where ignored. Logits exist in pieces only.
        """
        hidden = self.hidden(ids, mask=self._within_documents(ids)).flatten(0, 1)  # (B·T, C)
        flat = targets.flatten()
        if reduction == "none":
            rows = chunked_loss.rows_at_once(len(flat), self.config.vocab_size, flat.device)
            return torch.cat([self._nats(*part) for part in zip(hidden.split(rows), flat.split(rows))]).view(ids.shape)
        counted = (flat >= 0).float()
        share = counted * weights.flatten() if weights is not None else counted
        total = chunked_loss.weighted_nats(hidden, self.lm_head.weight, flat, share, self.config.softcap)
        return total if reduction == "sum" else total / counted.sum().clamp(min=1)

    def _within_documents(self, ids: torch.Tensor) -> torch.Tensor | None:
        """(B, 1, T, T): positions of the same document that are not later; None without `document_bos`."""
        if self.config.document_bos is None:
            return None
        document = (ids == self.config.document_bos).cumsum(1)  # (B, T): which of the row's documents
        causal = torch.ones(ids.size(1), ids.size(1), dtype=torch.bool, device=ids.device).tril()
        return ((document.unsqueeze(2) == document.unsqueeze(1)) & causal).unsqueeze(1)

    def _nats(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.logits(hidden), targets, ignore_index=-1, reduction="none")

