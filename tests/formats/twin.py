"""karpathy/nanochat's forms, written a second time: small checkpoints in its files, and a slow forward pass in NumPy.

No line is shared with nanochat/formats or nanochat/model. tests/formats/test_upstream.py holds this twin to logits that
the other project's own code computed, where they are at hand, and then the importer to the twin.
"""
import copyreg
import json
import pickle
import sys
import types
from dataclasses import dataclass, replace

import numpy as np
import torch


@dataclass(frozen=True)
class Form:
    """One form of the architecture. The sizes are small and odd, to meet every rounding."""

    lambdas: bool = False
    gate: int = 0  # channels of the gates of the value tables; 0 = there are none
    smear: bool = False  # and backout
    pattern: str | None = None  # None: the meta file has no window_pattern
    layers: int = 3
    heads: int = 4
    kv_heads: int = 4
    width: int = 64
    length: int = 40
    vocab: int = 300
    softcap: float = 15.0
    prefix: str = ""

    @property
    def tuned(self):
        return self.gate == 12

    def has_table(self, layer):
        return bool(self.gate) and layer % 2 == (self.layers - 1) % 2

    def window(self, layer):
        """How many keys in front of its own a query sees."""
        letter = (self.pattern or "L").upper()[layer % len(self.pattern or "L")]
        if letter == "L" or layer == self.layers - 1:
            return self.length
        if not self.tuned:
            return self.length // 2
        return int(np.ceil(np.ceil(self.length / (4 if self.smear else 3)) / 128)) * 128


FORMS = {
    "g0": Form(), "g1": Form(lambdas=True), "g2": Form(lambdas=True, pattern="SSSL"),
    "g3": Form(lambdas=True, gate=32, pattern="SSL"), "g4": Form(lambdas=True, gate=12, pattern="SSSL", length=600),
    "g5": Form(lambdas=True, gate=12, smear=True, pattern="SSSL", length=600)}
RELATIVES = {
    "g0 with groups": replace(FORMS["g0"], kv_heads=2), "g0 compiled": replace(FORMS["g0"], prefix="_orig_mod."),
    "g0 not padded": replace(FORMS["g0"], vocab=320), "g3, softcap 20": replace(FORMS["g3"], softcap=20.0),
    "g2 in lower case": replace(FORMS["g2"], pattern="sl", layers=4), "g2 long": replace(FORMS["g2"], pattern="L"),
    "g3 with one group": replace(FORMS["g3"], kv_heads=1, layers=2), "g5 with groups": replace(FORMS["g5"], kv_heads=2),
    "g5 short": replace(FORMS["g5"], length=64, layers=4), "g4 of one layer": replace(FORMS["g4"], layers=1),
    "g5 of one layer": replace(FORMS["g5"], layers=1, pattern="S"), "g1 wide": replace(FORMS["g1"], width=96, heads=3,
                                                                                       kv_heads=3)}


def tensors(form, seed=0):
    """Random weights under the other project's names; the padding rows hold large numbers, as no form may read them."""
    draw = torch.Generator().manual_seed(seed)
    rows, head = -(-form.vocab // 64) * 64, form.width // form.heads

    def table(columns, size=1.0):
        values = torch.randn(rows, columns, generator=draw) * size
        values[form.vocab:] = 1000.0
        return values

    def matrix(out, inside):
        return torch.randn(out, inside, generator=draw) * inside ** -0.5

    made = {"transformer.wte.weight": table(form.width).bfloat16(), "lm_head.weight": table(form.width, 0.5)}
    for layer in range(form.layers):
        block = f"transformer.h.{layer}."
        made |= {f"{block}attn.c_q.weight": matrix(form.width, form.width),
                 f"{block}attn.c_k.weight": matrix(form.kv_heads * head, form.width),
                 f"{block}attn.c_v.weight": matrix(form.kv_heads * head, form.width),
                 f"{block}attn.c_proj.weight": matrix(form.width, form.width),
                 f"{block}mlp.c_fc.weight": matrix(4 * form.width, form.width),
                 f"{block}mlp.c_proj.weight": matrix(form.width, 4 * form.width)}
        if form.has_table(layer):
            made |= {f"value_embeds.{layer}.weight": table(form.kv_heads * head).bfloat16(),
                     f"{block}attn.ve_gate.weight": matrix(form.kv_heads, form.gate)}
    if form.lambdas:
        made |= {"resid_lambdas": 1 + torch.randn(form.layers, generator=draw) * 0.2,
                 "x0_lambdas": torch.randn(form.layers, generator=draw) * 0.3}
    if form.smear:
        made |= {"smear_gate.weight": matrix(1, 24), "smear_lambda": torch.tensor([0.7]),
                 "backout_lambda": torch.tensor([0.3])}
    return {form.prefix + name: tensor for name, tensor in made.items()}


def meta(form, step=30):
    config = {"sequence_len": form.length, "vocab_size": form.vocab, "n_layer": form.layers, "n_head": form.heads,
              "n_kv_head": form.kv_heads, "n_embd": form.width}
    if form.pattern is not None:
        config["window_pattern"] = form.pattern
    return {"step": step, "val_bpb": 1.0, "model_config": config}


def encoding_fields(tokenizer):
    """The fields that tiktoken pickles of an encoding."""
    tokens = tokenizer._tokens[:-len(tokenizer.specials)]
    return {"name": "rustbpe", "pat_str": tokenizer.pattern,
            "mergeable_ranks": {token: i for i, token in enumerate(tokens)}, "special_tokens": tokenizer.specials}


class Encoding:
    """Its pickle is that of tiktoken's, but for one letter of the module's name."""

    def __init__(self, fields):
        self.fields = fields

    def __reduce_ex__(self, protocol):
        return copyreg.__newobj__, (Encoding,), self.fields


def pickled(fields, protocol=4):
    """The bytes that `pickle.dump(encoding)` writes, without tiktoken."""
    stand_in = types.ModuleType("tiktoken_core")
    stand_in.Encoding, Encoding.__module__ = Encoding, "tiktoken_core"
    sys.modules["tiktoken_core"] = stand_in
    return pickle.dumps(Encoding(fields), protocol=protocol).replace(b"tiktoken_core", b"tiktoken.core")


def write(folder, form, tokenizer, seed=0):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(tensors(form, seed), folder / "model_000030.pt")
    (folder / "meta_000030.json").write_text(json.dumps(meta(form)))
    (folder / "tokenizer.pkl").write_bytes(pickled(encoding_fields(tokenizer)))
    return folder


def norm(x):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1.2e-7)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def logits(form, weights, ids):
    """The logits (T, V) of one row of ids, every query on its own."""
    w = {name.removeprefix("_orig_mod."): tensor.double().numpy() for name, tensor in weights.items()}
    head = form.width // form.heads
    x = norm(w["transformer.wte.weight"][ids])
    if form.smear:
        gates = w["smear_lambda"] * sigmoid(x[1:, :24] @ w["smear_gate.weight"].T)
        x = np.concatenate([x[:1], x[1:] + gates * x[:-1]])
    x0 = middle = x
    for layer in range(form.layers):
        if form.lambdas:
            x = w["resid_lambdas"][layer] * x + w["x0_lambdas"][layer] * x0
        block = f"transformer.h.{layer}."
        x = x + attention(form, w, layer, norm(x), ids, head) @ w[f"{block}attn.c_proj.weight"].T
        hidden = np.maximum(norm(x) @ w[f"{block}mlp.c_fc.weight"].T, 0) ** 2
        x = x + hidden @ w[f"{block}mlp.c_proj.weight"].T
        if layer == form.layers // 2:
            middle = x
    if form.smear:
        x = x - w["backout_lambda"] * middle
    raw = (norm(x) @ w["lm_head.weight"].T)[:, :form.vocab]
    return form.softcap * np.tanh(raw / form.softcap)


def attention(form, w, layer, x, ids, head):
    block = f"transformer.h.{layer}.attn."
    q, k, v = ((x @ w[f"{block}c_{name}.weight"].T).reshape(len(ids), -1, head) for name in "qkv")
    if form.has_table(layer):
        gate = (3 if form.tuned else 2) * sigmoid(x[:, :form.gate] @ w[f"{block}ve_gate.weight"].T)
        v = v + gate[:, :, None] * w[f"value_embeds.{layer}.weight"][ids].reshape(v.shape)
    angles = np.outer(np.arange(len(ids)), (100_000.0 if form.tuned else 10_000.0) ** -(np.arange(0, head, 2) / head))
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    scale = 1.0 if not form.tuned else 1.2 if form.smear else 1.15
    q, k = (scale * norm(np.concatenate([a[..., :head // 2] * cos + a[..., head // 2:] * sin,
                                         a[..., head // 2:] * cos - a[..., :head // 2] * sin], -1)) for a in (q, k))
    out = np.zeros_like(q)
    for t in range(len(ids)):
        first = max(0, t - form.window(layer))
        for h in range(form.heads):
            group = h * form.kv_heads // form.heads
            scores = k[first:t + 1, group] @ q[t, h] / head ** 0.5
            weights = np.exp(scores - scores.max())
            out[t, h] = weights @ v[first:t + 1, group] / weights.sum()
    return out.reshape(len(ids), -1)
