"""The whole Transformer, in reading order: configuration, attention, MLP, model, loss.

The plain form, with every feature off, is the architecture that karpathy/nanochat was released with in October 2025 and
that transformers knows as `nanochat`; the parameters carry transformers' names:

    token embedding → norm → L blocks of {x += attention(norm(x)); x += MLP(norm(x))} → norm → head → soft cap

The default model adds the first three of these features. The figures say how many more bits per byte a model needs
without the feature, at equal training time: first 128 wide on the kindergarten, then 256 wide on real text
(docs/LOG.md, "Which features of the model are worth their time?"):

    value_embeddings  .078 and .034  every other layer adds a table's entry for the input token to the values. A look-up
                                     adds many parameters and hardly any FLOPs (after Zhou et al., arXiv:2410.17897)
    residual_scalars  .003 and .022  every layer reads a·x + b·x0, where x0 is the normalised embedding and a and b are
                                     learned per layer: late layers see the token itself again (from modded-nanogpt)
    smear             .013 and .020  a learned share, per channel, of the previous token's embedding is added to every
                                     embedding: an induction head ("what followed this word last time?") then needs
                                     one attention layer, not two
    document_bos      .004 and .009  in training, documents packed into one row do not see each other; measured with
                                     rows of 256. A mask makes attention slower, so this feature is off by default

In training, parameters stay fp32 and are cast to `compute_dtype` where they are used, so that the optimizer sees full
precision. This file knows nothing of files, optimizers or sampling. It knows of devices what `use_fused_ops` says, and
of decoding a cache, which is anything with `append(layer, k, v) -> (k, v, mask)`, and `previous_ids`.
"""
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint as recompute

from nanochat.model import chunked_loss
from nanochat.model.attention import attend, attend_near, skips_windows, within_window


@dataclass(frozen=True)
class GPTConfig:
    """Everything that decides the shape of the model; it is stored with every checkpoint."""

    sequence_len: int = 2048  # T: the longest context
    vocab_size: int = 65536  # V
    n_layer: int = 20  # L
    n_head: int = 10  # H
    n_kv_head: int = 10  # G; fewer than n_head: query heads share keys and values, and the cache gets smaller
    n_embd: int = 1280  # C
    head_dim: int = 128  # D; H·D need not be C
    rope_base: float = 10_000.0  # Su et al.'s value; 100,000 was no better with rows of 256 (docs/LOG.md)
    # logits = softcap · tanh(logits / softcap): no logit grows without limit (Gemma 2, arXiv:2408.00118, section 2).
    softcap: float = 15.0  # the October release's value; 30 was no better (docs/LOG.md); 0 = no cap
    value_embeddings: bool = True  # a table and a gate in every other layer (`has_value_embedding`)
    residual_scalars: bool = True  # two scalars for each layer
    smear: bool = True  # a vector (C,)
    document_bos: int | None = None  # id of <|bos|>: in training, attention then stays within a document
    # karpathy/nanochat added the next four features in 2026. Imported models have them (docs/import.md). Of the models
    # that are trained here, those with --windows have the first.
    windows: list[int] | None = None  # per layer: how many preceding tokens a token sees; None = all, in every layer
    query_key_scale: float = 1.0  # queries and keys are multiplied by it after their norm; above 1: sharper attention
    gated_smear: bool = False  # smear by one gate per token, not by a share per channel, and without a norm
    backout: bool = False  # a learned share of the middle layer's output is subtracted from the last layer's output

    def __post_init__(self) -> None:
        assert self.n_head % self.n_kv_head == 0, f"n_head {self.n_head} is not a multiple of {self.n_kv_head}"
        assert not (self.smear and self.gated_smear), "smear and gated_smear exclude each other"
        assert self.head_dim % 2 == 0, f"head_dim {self.head_dim} is odd, and RoPE rotates pairs of channels"

    def has_value_embedding(self, layer: int) -> bool:
        # Every other layer, including the last layer: karpathy/nanochat found this the best of several patterns (its
        # dev/LOG.md, 2026-01-17).
        return self.value_embeddings and layer % 2 == (self.n_layer - 1) % 2

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# Exactly the October architecture: `GPTConfig(…, **PORTABLE)` is what other programs can load.
PORTABLE: dict[str, Any] = {"value_embeddings": False, "residual_scalars": False, "smear": False, "document_bos": None,
                            "windows": None, "query_key_scale": 1.0, "gated_smear": False, "backout": False}


class Cache(Protocol):
    """The keys and values that decoding passes to `GPT.forward`; nanochat/infer/cache.py has the real class."""

    def append(self, layer: int, k: torch.Tensor,
               v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Stores k, v (B, G, T, D); returns all keys and values so far (B, G, S, D) and a mask (B, 1, T, S) or None."""


class Linear(nn.Linear):
    """A matrix, stored in fp32 and multiplied in the dtype of its input."""

    weight: nn.Parameter

    def __init__(self, width_in: int, width_out: int, device: str | None = None):
        # No bias: large models train more stably without (Chowdhery et al. 2022, PaLM, section 2).
        super().__init__(width_in, width_out, bias=False, device=device)

    def reset_parameters(self) -> None:
        # NaN, so that a model whose weights were never set cannot be mistaken for a trained model: weights come from a
        # checkpoint or from `GPT.init_weights`. PyTorch's own initialisation costs 20 seconds at every start of a d20.
        nn.init.constant_(self.weight, math.nan)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight.to(x.dtype))


class Embedding(nn.Embedding):
    """An embedding table (V, width), stored in fp32: a vector for each token."""

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, math.nan)  # for the same reason as in `Linear`


def use_fused_ops(device: torch.device) -> bool:
    """Whether the device gets one larger operation in place of several small operations."""
    # A GPU needs 5 to 7 µs to start each operation, which is most of the time of decoding, and a narrow matrix product
    # leaves part of the GPU idle. On a CPU the compiled code gains nothing from larger operations.
    return device.type != "cpu"


def norm(x: torch.Tensor) -> torch.Tensor:
    """RMSNorm over the last dimension, computed in fp32: x divided by its root mean square."""
    # No learned weight per channel: the matrix that follows a norm can learn this scale.
    if use_fused_ops(x.device):
        return F.rms_norm(x, x.shape[-1:], eps=1e-6)
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-6)).to(x.dtype)  # eps as in transformers


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """RoPE (Su et al. 2021): rotates the pairs of channels (i, i + D/2) by angles that grow with the position, so that
    q·k depends on the distance between two tokens. x (B, T, H, D); cos, sin (T, 1, D/2) or (B, T, 1, D/2)."""
    # By −θ like the October release, not by the paper's +θ. Both train equally well, but weights that were trained with
    # one sign do not work with the other.
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


class Attention(nn.Module):
    """Causal self-attention with RoPE, a norm of queries and keys, and in some layers value embeddings.

    x (B, T, C) → (B, T, C); value_embedding (B, T, G·D) or None; `mask`, `positions` and `cache` as in `GPT.hidden`.
    """

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.layer, self.head_dim, self.num_heads = layer, config.head_dim, config.n_head
        self.scale, self.window = config.query_key_scale, config.windows[layer] if config.windows else None
        self.q_proj = Linear(config.n_embd, config.n_head * config.head_dim)  # C → H·D
        self.k_proj = Linear(config.n_embd, config.n_kv_head * config.head_dim)  # C → G·D
        self.v_proj = Linear(config.n_embd, config.n_kv_head * config.head_dim)  # C → G·D
        self.o_proj = Linear(config.n_head * config.head_dim, config.n_embd)  # H·D → C
        self.gate = Linear(config.n_embd, config.n_kv_head) if config.has_value_embedding(layer) else None

    def forward(self, x: torch.Tensor, value_embedding: torch.Tensor | None, cos_sin: tuple[torch.Tensor, torch.Tensor],
                cache: Cache | None, mask: torch.Tensor | None, positions: torch.Tensor | None) -> torch.Tensor:
        B, T, _ = x.shape
        *queries_keys, v = (heads.view(B, T, -1, self.head_dim) for heads in self._projections(x))  # (B, T, …, D)
        if self.gate is not None and value_embedding is not None:
            gate = 2 * torch.sigmoid(self.gate(x))  # (B, T, G), between 0 and 2: 1 at the start, as the weights are 0
            v = v + gate.unsqueeze(-1) * value_embedding.view(v.shape)
        # After the norm |q·k|/√D is at most √D. Without the norm, attention scores can grow until softmax saturates and
        # training diverges (Dehghani et al. 2023, arXiv:2302.05442). RoPE keeps the norm, so it may come first.
        queries_keys = [norm(rotate(heads, *cos_sin)) for heads in queries_keys]
        if self.scale != 1:
            queries_keys = [heads * self.scale for heads in queries_keys]
        if len(queries_keys) == 1:
            queries_keys = list(torch.split(queries_keys[0], [self.num_heads, v.size(2)], dim=2))
        q, k, v = (heads.transpose(1, 2) for heads in (*queries_keys, v))  # (B, H or G, T, D)
        if cache is not None:
            k, v, mask = cache.append(self.layer, k, v)  # (B, G, S, D)
        # `GPT.hidden` always gives positions to a model with windows. If the window reaches all keys, it needs no mask.
        if self.window is None or positions is None or k.size(2) <= self.window + 1:
            y = attend(q, k, v, mask)
        elif mask is None and skips_windows(q, k):  # a mask separates documents, which `attend_near` cannot do
            y = attend_near(q, k, v, self.window)
        else:
            y = attend(q, k, v, within_window(mask, self.window, positions, k.size(2)))
        y = y.transpose(1, 2).reshape(B, T, -1)  # (B, T, H·D)
        out: torch.Tensor = self.o_proj(y)
        return out

    def _projections(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Queries, keys and values of all heads, (B, T, H·D or G·D) each; on a GPU queries and keys in one tensor."""
        matrices = (self.q_proj, self.k_proj, self.v_proj)
        # LoRA's and FP8's modules have a forward pass of their own, so their weights cannot be put together.
        if not use_fused_ops(x.device) or any(type(matrix) is not Linear for matrix in matrices):
            return tuple(matrix(x) for matrix in matrices)
        weight = torch.cat([matrix.weight.to(x.dtype) for matrix in matrices])
        sizes = [len(weight) - self.v_proj.out_features, self.v_proj.out_features]
        return torch.split(F.linear(x, weight), sizes, dim=-1)


class MLP(nn.Module):
    """Two matrices with relu² between them: (B, T, C) → (B, T, F) → (B, T, C), F = 4·C."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.fc1 = Linear(config.n_embd, 4 * config.n_embd)  # C → F
        self.fc2 = Linear(4 * config.n_embd, config.n_embd)  # F → C

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # relu² is one of the two most useful changes that a search over Transformers found (So et al. 2021, Primer,
        # arXiv:2109.08668). karpathy/nanochat measured SwiGLU with equally many parameters: worse at d12 and d24 (its
        # dev/LOG.md). relu² is computed in nanochat/infer/numba_decode.py, formats/page/forward.js and formats/fold.py
        # too, portable.py and transformers.py in formats/ name it (`hidden_act`), and docs/draw.py draws it: another
        # activation changes all of them. Imported and older models need relu², so it would be a choice in GPTConfig and
        # in PORTABLE. A gated MLP also changes the counts of accounting.py (8·C²), dial.py (12·C²) and scale.py.
        out: torch.Tensor = self.fc2(F.relu(self.fc1(x)).square())
        return out


class Block(nn.Module):
    """One layer: attention, then the MLP, each on normalised input and added to the residual stream x (B, T, C)."""

    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x: torch.Tensor, value_embedding: torch.Tensor | None, cos_sin: tuple[torch.Tensor, torch.Tensor],
                cache: Cache | None, mask: torch.Tensor | None, positions: torch.Tensor | None) -> torch.Tensor:
        x = x + self.self_attn(norm(x), value_embedding, cos_sin, cache, mask, positions)
        x = x + self.mlp(norm(x))
        return x


class Trunk(nn.Module):
    """Embedding and blocks: everything except the head. The names of its parameters begin with "model."."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        self.embed_tokens = Embedding(config.vocab_size, config.n_embd)  # (V, C)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        kv_width = config.n_kv_head * config.head_dim
        self.value_embeds = nn.ModuleDict({str(layer): Embedding(config.vocab_size, kv_width)
                                           for layer in range(config.n_layer) if config.has_value_embedding(layer)})
        if config.residual_scalars:
            self.residual_scalars = nn.Parameter(torch.ones(config.n_layer))
            self.embedding_scalars = nn.Parameter(torch.zeros(config.n_layer))
        if config.smear:
            self.smear = nn.Parameter(torch.zeros(config.n_embd))
        if config.gated_smear:
            self.smear_gate, self.smear_share = Linear(config.n_embd, 1), nn.Parameter(torch.zeros(1))
        if config.backout:
            self.backout = nn.Parameter(torch.zeros(1))


class GPT(nn.Module):
    """`model(ids)` gives logits, `model.loss(ids, targets)` the loss in nats, `model.hidden(ids)` the last states."""

    cos: torch.Tensor  # (sequence_len, D/2)
    sin: torch.Tensor

    def __init__(self, config: GPTConfig, compute_dtype: torch.dtype = torch.float32):
        super().__init__()
        self.config, self.compute_dtype = config, compute_dtype
        # Activation checkpointing: a block keeps only its input for the backward pass, and is computed again there.
        self.recompute = False
        self.model = Trunk(config)
        # Not tied to the embedding: untying was modded-nanogpt's record 8, 12.0 → 10.8 minutes. Two tables can start
        # with different standard deviations (embedding 1, head .001, below) and learn at different rates (.3, .008).
        self.lm_head = Linear(config.n_embd, config.vocab_size)  # C → V
        # Built on the CPU even if the model is on the "meta" device, because no checkpoint contains these tables.
        inverse = config.rope_base ** -(torch.arange(0, config.head_dim, 2, device="cpu") / config.head_dim)
        angles = torch.outer(torch.arange(config.sequence_len, device="cpu").float(), inverse)  # (T, D/2)
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    @torch.no_grad()
    def init_weights(self, seed: int = 0) -> "GPT":
        """Initialises all weights. They are drawn on the CPU, so that a seed gives the same weights on every device."""
        generator = torch.Generator(device="cpu").manual_seed(seed)
        bound = math.sqrt(3 / self.config.n_embd)  # variance 1/C: the output of a matrix has the variance of its input
        for name, parameter in self.named_parameters():
            draw = torch.empty(parameter.shape)
            if name.endswith("embed_tokens.weight"):
                draw.normal_(0, 1, generator=generator)
            elif name == "lm_head.weight":
                draw.normal_(0, 0.001, generator=generator)  # all logits near 0: the first loss is ln V, a blind guess
            elif name.endswith(("o_proj.weight", "fc2.weight", "gate.weight", "model.smear", "_share", "backout")):
                draw.zero_()  # blocks and smear add nothing at first: a model of any depth starts as the identity
            elif name.endswith("residual_scalars"):
                draw.fill_(1.0)
            elif name.endswith("embedding_scalars"):
                draw.fill_(0.1)
            else:
                draw.uniform_(-bound, bound, generator=generator)
            parameter.copy_(draw)
        return self

    def hidden(self, ids: torch.Tensor, cache: Cache | None = None, positions: torch.Tensor | None = None,
               mask: torch.Tensor | None = None, previous_ids: torch.Tensor | None = None) -> torch.Tensor:
        """The normalised final hidden states (B, T, C) of ids (B, T) int64; positions (B, T) default to 0 … T−1.

        mask (B, 1, M, T) bool, True = may attend, replaces the causal mask for the last M tokens; a cache supplies its
        own mask. previous_ids (B, 1) int64 is the token before the first of ids: smear needs its embedding when a text
        is read in several pieces. −1 or None = ids begin a document.
        """
        T = ids.size(1)
        assert positions is not None or T <= self.config.sequence_len, f"{T} positions > {self.config.sequence_len}"
        at = slice(T) if positions is None else positions
        cos, sin = (table[at].unsqueeze(-2).to(self.compute_dtype) for table in (self.cos, self.sin))
        if self.config.windows and positions is None:
            positions = torch.arange(T, device=ids.device)[None]
        x = norm(self.model.embed_tokens(ids).to(self.compute_dtype))  # (B, T, C)
        if self.config.smear:
            x = norm(x + self._previous_embeddings(ids, previous_ids, x) * self.model.smear.to(x.dtype))
        if self.config.gated_smear:
            share = self.model.smear_share.to(x.dtype) * torch.sigmoid(self.model.smear_gate(x))  # (B, T, 1)
            x = x + share * self._previous_embeddings(ids, previous_ids, x)
        x0 = middle = x
        for layer, block in enumerate(self.model.layers):
            if self.config.residual_scalars:
                residual_scale, x0_scale = self.model.residual_scalars[layer], self.model.embedding_scalars[layer]
                x = residual_scale.to(x.dtype) * x + x0_scale.to(x.dtype) * x0
            value_embedding = None
            if self.config.has_value_embedding(layer):
                value_embedding = self.model.value_embeds[str(layer)](ids).to(x.dtype)  # (B, T, G·D)
            inputs = (x, value_embedding, (cos, sin), cache, mask, positions)
            if self.recompute and torch.is_grad_enabled():
                x = recompute(block, *inputs, use_reentrant=False)
            else:
                x = block(*inputs)
            if layer == self.config.n_layer // 2:
                middle = x
        if self.config.backout:
            x = x - self.model.backout.to(x.dtype) * middle
        return norm(x)

    def _previous_embeddings(self, ids: torch.Tensor, previous_ids: torch.Tensor | None,
                             x: torch.Tensor) -> torch.Tensor:
        """The embedding (B, T, C) of the token before each of ids. Zero before the first without a previous id, and at
        every <|bos|> if `config.document_bos` is set; otherwise a <|bos|> gets the last token of the document before.
        """
        first = torch.zeros_like(x[:, :1])
        if previous_ids is not None:
            first = norm(self.model.embed_tokens(previous_ids.clamp(min=0)).to(x.dtype))
            first = first * (previous_ids >= 0).unsqueeze(-1)
        previous = torch.cat((first, x[:, :-1]), dim=1)  # (B, T, C): shifted by one position
        if self.config.document_bos is None:
            return previous
        return previous.masked_fill((ids == self.config.document_bos).unsqueeze(-1), 0.0)

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """fp32 logits (…, V) of hidden states (…, C), soft-capped if `config.softcap` is not 0."""
        raw = self.lm_head(hidden).float()
        return self.config.softcap * torch.tanh(raw / self.config.softcap) if self.config.softcap else raw

    def forward(self, ids: torch.Tensor, cache: Cache | None = None, positions: torch.Tensor | None = None,
                previous_ids: torch.Tensor | None = None) -> torch.Tensor:
        """Logits (B, T, V) in fp32 for ids (B, T) int64; the other parameters are those of `hidden`."""
        return self.logits(self.hidden(ids, cache, positions, previous_ids=previous_ids))

    def loss(self, ids: torch.Tensor, targets: torch.Tensor, reduction: str = "mean",
             weights: torch.Tensor | None = None) -> torch.Tensor:
        """Cross-entropy in nats of targets (B, T) int64, −1 = ignored. `weights` (B, T) multiply the nats; None = 1.

        Logits are computed in chunks, so that all (B·T, V) of them never exist at the same time. The reduction:
        "sum"   the sum of weight · nats over the targets, a scalar
        "mean"  this sum divided by the number of targets (not by the sum of the weights), a scalar
        "none"  the nats of each target (B, T), without weights; 0 where it is ignored. Only under `torch.no_grad`:
                gradients would keep the logits of all chunks
        """
        hidden = self.hidden(ids, mask=self._within_documents(ids)).flatten(0, 1)  # (B·T, C)
        flat = targets.flatten()  # (B·T,)
        if reduction == "none":
            rows = chunked_loss.rows_at_once(self.config.vocab_size, flat.device)
            chunks = zip(torch.split(hidden, rows), torch.split(flat, rows), strict=True)
            nats = [F.cross_entropy(self.logits(h), target, ignore_index=-1, reduction="none") for h, target in chunks]
            return torch.cat(nats).view(ids.shape)
        counted = (flat >= 0).float()
        target_weights = counted if weights is None else counted * weights.flatten()
        total = chunked_loss.weighted_nats(hidden, self.lm_head.weight, flat, target_weights, self.config.softcap)
        return total if reduction == "sum" else total / counted.sum().clamp(min=1)

    def _within_documents(self, ids: torch.Tensor) -> torch.Tensor | None:
        """Mask (B, 1, T, T): True for tokens of the same document that are not later. None without `document_bos`."""
        if self.config.document_bos is None:
            return None
        document = (ids == self.config.document_bos).cumsum(1)  # (B, T): the number of the token's document in its row
        causal = torch.ones(ids.size(1), ids.size(1), dtype=torch.bool, device=ids.device).tril()
        return ((document.unsqueeze(2) == document.unsqueeze(1)) & causal).unsqueeze(1)

    def block_matrices(self) -> Iterator[tuple[nn.Module, str, Linear]]:
        """(parent, name in the parent, matrix) of the blocks' Linears, which LoRA and FP8 replace by other modules."""
        for parent in list(self.model.layers.modules()):
            for name, child in list(parent.named_children()):
                if type(child) is Linear:
                    yield parent, name, child
