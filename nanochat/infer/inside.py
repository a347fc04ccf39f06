"""What happens inside the model while it writes one token; every number is the model's own (docs/inside.md).

The text before the token goes through the model twice:

1. The whole text, observed by hooks (functions that PyTorch calls with the input and the output of a module): this
   gives the state of the last token after every layer, where its heads look, and the keys and values of all tokens.
2. The last token once more, with the stored keys and values of the others, as a batch in which every row lacks one
   part: a head, an MLP, the value embeddings of a layer, or the smear. So a part is missing for this token only, and to
   leave out every part of the model once costs no more than generating a few tokens.

The hooks change the model while they are set, so only the thread that owns the engine may call `look_inside`.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.hooks import RemovableHandle

from nanochat.infer.sampling import Logprob, logprobs
from nanochat.model import GPT
from nanochat.model.gpt import Attention, norm, rotate

ROWS = 16  # parts that are left out at the same time: each row needs a copy of a layer's keys and values
NUM_NEIGHBOURS, ROWS_OF_TABLE = 8, 4096


@dataclass(frozen=True)
class Part:
    """A part of the model; layers and heads are counted from 0. All parts but the embedding can be left out."""

    kind: str  # "embedding", "smear", "head", "value_embedding" or "mlp"
    layer: int = 0
    head: int = 0


@dataclass
class Inside:
    """What the model did with the last token of the text, and which token it predicted."""

    layers: list[Logprob]  # the prediction from the state before the first layer and after each (logit lens)
    without: dict[Part, Logprob]  # the prediction without a part
    patterns: torch.Tensor  # (L, H, T): how much each head attends to each token that was read
    neighbours: dict[Part, list[tuple[int, float]]]  # (id, cosine) of the nearest rows, per table of the model


class Reading:
    """One pass over ids (1, T), observed. It is also the pass's cache, so it gets every layer's keys and values."""

    def __init__(self, model: GPT, ids: torch.Tensor):
        self.keys: list[torch.Tensor] = []  # per layer (1, G, T, D); `values` and `from_table` have the same shape
        self.values: list[torch.Tensor] = []  # the values, with the part from the table
        self.from_table: dict[int, torch.Tensor] = {}  # layer → gate · value embedding, if the layer has a table
        self.patterns: list[torch.Tensor] = []  # per layer (H, T): attention weights of the last token
        self.states: list[torch.Tensor] = []  # (C,) of the last token: before the first layer, and after each layer
        with ExitStack() as hooks:
            for block in model.model.layers:
                attention = block.get_submodule("self_attn")
                hooks.enter_context(attention.register_forward_hook(self._see_attention))
                hooks.enter_context(block.register_forward_hook(self._see_block))
            self.hidden = model.hidden(ids, cache=self)

    def append(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        self.keys.append(k)
        self.values.append(v)
        return k, v, None

    def _see_block(self, block: torch.nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        if not self.states:
            self.states.append(inputs[0][0, -1])
        self.states.append(output[0, -1])

    def _see_attention(self, attention: Attention, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        x, value_embedding, cos_sin = inputs[:3]
        keys = self.keys[attention.layer]
        query = attention.q_proj(x[:, -1:]).view(1, 1, -1, attention.head_dim)  # (1, 1, H, D)
        query = norm(rotate(query, *(table[-1:] for table in cos_sin)))[0, 0] * attention.scale  # (H, D)
        keys = keys[0].repeat_interleave(len(query) // keys.size(1), 0)  # (H, T, D)
        scores = (keys @ query.unsqueeze(-1))[:, :, 0].float() * attention.head_dim ** -0.5  # (H, T)
        if attention.window is not None:
            scores[:, :max(0, scores.size(1) - 1 - attention.window)] = float("-inf")
        self.patterns.append(scores.softmax(-1))  # (H, T)
        if attention.gate is not None and value_embedding is not None:
            gate = 2 * torch.sigmoid(attention.gate(x)).unsqueeze(-1)  # (1, T, G, 1)
            gated = gate * value_embedding.view(*gate.shape[:3], attention.head_dim)  # (1, T, G, D)
            self.from_table[attention.layer] = gated.transpose(1, 2)  # (1, G, T, D)


class WithoutParts:
    """The cache for the last token of `reading` in len(parts) rows. If a row has to do without value embeddings, they
    are subtracted from the values that this row sees."""

    def __init__(self, reading: Reading, parts: list[Part]):
        self.reading, self.parts = reading, parts

    def append(self, layer: int, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        k, v = (torch.cat((stored[layer][:, :, :-1].expand(len(k), -1, -1, -1), last), dim=2)  # (B, G, T, D)
                for stored, last in ((self.reading.keys, k), (self.reading.values, v)))
        for row, part in enumerate(self.parts):
            if part == Part("value_embedding", layer):
                v[row] -= self.reading.from_table[layer][0]
        return k, v, torch.ones(len(k), 1, 1, k.size(2), dtype=torch.bool, device=k.device)


def look_inside(model: GPT, ids: list[int], token: int | None = None, num_alternatives: int = 5) -> Inside:
    """What happens in `model` between `ids`, which it has read, and the next token, `token` (None: the most probable).

    Every Logprob has the log-probability of `token`, and the most probable tokens (`num_alternatives`) with theirs.
    """
    device = next(model.parameters()).device
    read = torch.tensor([ids], device=device)  # (1, T)
    with torch.inference_mode():
        reading = Reading(model, read)
        # The last state comes from `hidden`: a share of the middle layer may have been subtracted there ("backout").
        states = [norm(state) for state in reading.states[:-1]] + [reading.hidden[0, -1]]
        logits = model.logits(torch.stack(states))  # (L + 1, V)
        said = int(logits[-1].argmax()) if token is None else token  # the last row is the model's own prediction
        parts = list(all_parts(model))
        groups = [parts[first:first + ROWS] for first in range(0, len(parts), ROWS)]
        without = [logits_without(model, read, reading, group) for group in groups]
        scored = [row for group in (logits, *without) for row in logprobs(group, [said] * len(group), num_alternatives)]
        return Inside(scored[:len(states)], dict(zip(parts, scored[len(states):], strict=True)),
                      torch.stack(reading.patterns), dict(neighbours(model, ids[-1], reading.states[0])))


def all_parts(model: GPT) -> Iterator[Part]:
    """Every part that this model has, in the order of computation."""
    config = model.config
    if config.smear or config.gated_smear:
        yield Part("smear")
    for layer in range(config.n_layer):
        if config.has_value_embedding(layer):
            yield Part("value_embedding", layer)
        yield from (Part("head", layer, head) for head in range(config.n_head))
        yield Part("mlp", layer)


def logits_without(model: GPT, read: torch.Tensor, reading: Reading, parts: list[Part]) -> torch.Tensor:
    """Logits (B, V) after `read` (1, T); row i is computed without parts[i] for the last token."""
    last, before = read[:, -1:].repeat(len(parts), 1), torch.full((len(parts), 1), -1, device=read.device)
    if read.size(1) > 1:
        before[:] = read[0, -2]
    with ExitStack() as hooks:
        for row, part in enumerate(parts):
            if part.kind == "smear":
                before[row] = -1  # as at the beginning of a document: there is no preceding token
            elif part.kind in ("head", "mlp"):
                hooks.enter_context(cut(model, row, part))
        hidden = model.hidden(last, cache=WithoutParts(reading, parts), previous_ids=before,
                              positions=torch.full_like(last, read.size(1) - 1))
    return model.logits(hidden[:, 0])  # (B, V)


def cut(model: GPT, row: int, part: Part) -> RemovableHandle:
    """Until the handle is removed, the output of the head or MLP is zero for this row."""
    block, width = model.model.layers[part.layer], model.config.head_dim

    def without_head(matrix: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        heads = inputs[0].clone()  # (B, 1, H·D)
        heads[row, :, part.head * width:(part.head + 1) * width] = 0
        return (heads,)

    def without_mlp(mlp: torch.nn.Module, inputs: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        output[row] = 0
        return output

    if part.kind == "head":
        return block.get_submodule("self_attn.o_proj").register_forward_pre_hook(without_head)
    return block.get_submodule("mlp").register_forward_hook(without_mlp)


def neighbours(model: GPT, token: int, state: torch.Tensor) -> Iterator[tuple[Part, list[tuple[int, float]]]]:
    """The tokens whose rows have the largest cosines to the row of `token`, in the embedding and in each table of value
    embeddings. With smear also the rows near `state`, which enters the first layer."""
    embedding, ids = model.model.embed_tokens, torch.arange(model.config.vocab_size, device=state.device)
    yield Part("embedding"), nearest(embedding, ids, embedding(ids[token]))
    if model.config.smear or model.config.gated_smear:
        yield Part("smear"), nearest(embedding, ids, state)
    for layer, table in model.model.value_embeds.items():
        yield Part("value_embedding", int(layer)), nearest(table, ids, table(ids[token]))


def nearest(table: torch.nn.Module, ids: torch.Tensor, vector: torch.Tensor) -> list[tuple[int, float]]:
    """(id, cosine) of the `ids` (V,) whose rows of `table` have the largest cosines to `vector` (C,)."""
    # Some thousand rows at a time: the table may be packed (quantize.py), and must not be unpacked as a whole.
    parts = [F.cosine_similarity(table(some).float(), vector.float(), dim=-1)
             for some in torch.split(ids, ROWS_OF_TABLE)]
    best, rows = torch.cat(parts).topk(min(NUM_NEIGHBOURS, len(ids)))  # over the cosines (V,)
    return list(zip(rows.tolist(), best.tolist(), strict=True))
