"""A decode step in plain loops, compiled by Numba: on a CPU, for a few rows at a time.

PyTorch spends most of a small model's step on finding out what to call: 1 ms for 4 layers, of which arithmetic is a
tenth. And with one row a step is matrices times a vector, every weight read once and used once; a large model's bf16
weights it reads at half the speed of the memory. Here a step is one call, and all cores read weights in order.

The formulas are those of model/gpt.py, which stays the definition; sums are fp32, weights and cache as they are stored
(fp32 or bf16). Work is shared by output columns, so no sum depends on the number of threads.
"""
import threading
import time

import numpy as np
import torch
from llvmlite import ir
from numba import get_num_threads, njit, prange, types
from numba.extending import intrinsic, overload
from numba.typed import List

from nanochat.infer.cache import SlotCache
from nanochat.model.gpt import GPT, Linear
from nanochat.system import log

SMALL = 1 << 23  # weights of a model whose steps are mostly PyTorch's overhead
WORTH_THREADS = 1 << 17  # multiplications; below, waking the other cores costs more
EPSILON = np.float32(1e-6)
_one_at_a_time = threading.Lock()  # Numba's threads serve one caller


class Loops:
    """`logits` of one decode step of `model` on `cache`."""

    def __init__(self, model: GPT, cache: SlotCache):
        self.cache, self.config = cache, model.config
        trunk, layers = model.model, model.model.layers
        none = np.zeros((0, 0), np.float32 if trunk.embed_tokens.weight.dtype == torch.float32 else np.uint16)
        embeds = trunk.value_embeds
        self.tables = _array(trunk.embed_tokens.weight), _array(model.lm_head.weight)
        self.matrices = [List([_array(pick(layer)) for layer in layers]) for pick in (
            lambda layer: layer.self_attn.q_proj.weight, lambda layer: layer.self_attn.k_proj.weight,
            lambda layer: layer.self_attn.v_proj.weight, lambda layer: layer.self_attn.o_proj.weight,
            lambda layer: layer.mlp.fc1.weight, lambda layer: layer.mlp.fc2.weight)]
        self.gates = List([none if layer.self_attn.gate is None else _array(layer.self_attn.gate.weight)
                           for layer in layers])
        self.values = List([_array(embeds[str(i)].weight) if str(i) in embeds else none for i in range(len(layers))])
        self.angles = model.cos.float().numpy(), model.sin.float().numpy()
        # From so many rows on PyTorch's products of matrices win.
        self.most_rows = 64 if sum(p.numel() for p in model.parameters()) < SMALL else 4
        self.vectors = [getattr(trunk, name, None) for name in ("smear", "residual_scalars", "embedding_scalars")]

        began = time.monotonic()
        self.logits([0], [-1], [0])  # compiles; slot 0 is nobody's yet
        if (seconds := time.monotonic() - began) > 3:
            log.say(f"compiled the decode loops, once, in {seconds:.0f} s")

    @staticmethod
    def can(model: GPT) -> bool:
        """Whether this model is on a CPU and nothing but what is written here."""
        kinds = {type(module) for module in model.modules() if isinstance(module, torch.nn.Linear)}
        dtypes = {p.dtype for p in model.parameters()}
        return (type(model) is GPT and kinds == {Linear} and len(dtypes) == 1
                and dtypes <= {torch.float32, torch.bfloat16} and next(model.parameters()).device.type == "cpu")

    def logits(self, ids: list[int], before: list[int], positions: list[int]) -> torch.Tensor:
        """fp32 logits (B, V) of the tokens `ids`, which stand at `positions` of slots 0…B−1, behind tokens `before`."""
        self.cache.reserve(len(ids), max(positions) + 1)
        rows = np.array([ids, before, positions], np.int64)
        out = np.empty((len(ids), self.config.vocab_size), np.float32)
        vectors = [np.empty(0, np.float32) if one is None else one.detach().float().numpy() for one in self.vectors]
        bos = -1 if self.config.document_bos is None else self.config.document_bos
        with _one_at_a_time:
            _step(rows, *self.tables, *self.matrices, self.gates, self.values, *self.angles, *vectors,
                  _array(self.cache.keys), _array(self.cache.values), self.config.n_head, bos, self.config.softcap, out,
                  min(torch.get_num_threads(), get_num_threads()))
        return torch.from_numpy(out)


def _array(t: torch.Tensor) -> np.ndarray:
    """The tensor's own memory; bf16 as uint16."""
    t = t.detach()
    return t.numpy() if t.dtype == torch.float32 else t.view(torch.int16).numpy().view(np.uint16)


@intrinsic
def _float_of(typing_context, bits):
    """The fp32 number with these 32 bits."""
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@intrinsic
def _bits_of(typing_context, number):
    """The 32 bits of an fp32 number."""
    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


def _wide(stored):
    """fp32 of a stored number."""


@overload(_wide, inline="always")
def _(stored):
    if isinstance(stored, types.Float):
        return lambda stored: stored
    return lambda stored: _float_of(np.uint32(stored) << np.uint32(16))


def _store(place, i, number):
    """place[i] = number, rounded to the nearest, to even, where it is bf16."""


@overload(_store, inline="always")
def _(place, i, number):
    if isinstance(place.dtype, types.Float):
        def store(place, i, number):
            place[i] = number
    else:
        def store(place, i, number):
            bits = _bits_of(np.float32(number))
            place[i] = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return store


@njit(nogil=True, cache=True, fastmath=True)
def _multiply_rows(x, weight, out, begin, end):
    """out (B, O) = x (B, I) · weight (O, I)ᵀ, columns begin … end."""
    fours = len(x) // 4 * 4
    for o in range(begin, end):
        row = weight[o]
        for b in range(0, fours, 4):  # a weight that has been read serves four rows
            x0, x1, x2, x3 = x[b], x[b + 1], x[b + 2], x[b + 3]
            sum0 = sum1 = sum2 = sum3 = np.float32(0)
            for i in range(len(row)):
                w = _wide(row[i])
                sum0 += x0[i] * w
                sum1 += x1[i] * w
                sum2 += x2[i] * w
                sum3 += x3[i] * w
            out[b, o], out[b + 1, o], out[b + 2, o], out[b + 3, o] = sum0, sum1, sum2, sum3
        for b in range(fours, len(x)):
            vector, total = x[b], np.float32(0)
            for i in range(len(row)):
                total += vector[i] * _wide(row[i])
            out[b, o] = total


@njit(nogil=True, cache=True, parallel=True)
def _multiply_parallel(x, weight, out, threads):
    for t in prange(threads):
        _multiply_rows(x, weight, out, len(weight) * t // threads, len(weight) * (t + 1) // threads)


@njit(nogil=True, cache=True)
def _multiply(x, weight, out, threads):
    if threads == 1 or len(x) * weight.size < WORTH_THREADS:
        _multiply_rows(x, weight, out, 0, len(weight))
    else:
        _multiply_parallel(x, weight, out, threads)


@njit(nogil=True, cache=True, fastmath=True)
def _attend_heads(q, keys, values, positions, y, begin, end):
    """y (B, H, D) of queries q (B, H, D) over positions 0 … positions[b] of slot b; pairs (row, head) begin … end."""
    heads, width = q.shape[1], q.shape[2]
    shared = heads // keys.shape[1]
    scale = np.float32(width ** -0.5)
    for pair in range(begin, end):
        b, h = pair // heads, pair % heads
        length = positions[b] + 1
        key, value = keys[b, h // shared], values[b, h // shared]
        scores = np.empty(length, np.float32)
        for s in range(length):
            total = np.float32(0)
            for d in range(width):
                total += q[b, h, d] * _wide(key[s, d])
            scores[s] = total * scale
        scores = np.exp(scores - scores.max())
        scores /= scores.sum()
        y[b, h] = 0
        for s in range(length):
            for d in range(width):
                y[b, h, d] += scores[s] * _wide(value[s, d])


@njit(nogil=True, cache=True, parallel=True)
def _attend_parallel(q, keys, values, positions, y, threads):
    pairs = q.shape[0] * q.shape[1]
    for t in prange(threads):
        _attend_heads(q, keys, values, positions, y, pairs * t // threads, pairs * (t + 1) // threads)


@njit(nogil=True, cache=True)
def _attend(q, keys, values, positions, y, threads):
    if threads == 1 or q.size * positions.max() < WORTH_THREADS:
        _attend_heads(q, keys, values, positions, y, 0, q.shape[0] * q.shape[1])
    else:
        _attend_parallel(q, keys, values, positions, y, threads)


@njit(nogil=True, cache=True, fastmath=True)
def _norm(x, out):
    """RMSNorm of every row of x (B, C)."""
    for b in range(len(x)):
        total = np.float32(0)
        for c in range(x.shape[1]):
            total += x[b, c] * x[b, c]
        factor = np.float32(1) / np.sqrt(total / np.float32(x.shape[1]) + EPSILON)
        for c in range(x.shape[1]):
            out[b, c] = x[b, c] * factor


@njit(nogil=True, cache=True, fastmath=True)
def _rotate(x, cos, sin):
    """RoPE of the heads x (H, D), halves paired, then their norm."""
    half = x.shape[1] // 2
    for h in range(len(x)):
        for d in range(half):
            first, second = x[h, d], x[h, d + half]
            x[h, d] = first * cos[d] + second * sin[d]
            x[h, d + half] = second * cos[d] - first * sin[d]
    _norm(x, x)


@njit(nogil=True, cache=True)
def _embed(rows, embedding, smear, bos):
    """x (B, C): the normalised embeddings, with a part of those before them."""
    x = np.empty((rows.shape[1], embedding.shape[1]), np.float32)
    previous = np.zeros_like(x)
    for b in range(len(x)):
        for c in range(x.shape[1]):
            x[b, c] = _wide(embedding[rows[0, b], c])
            if rows[1, b] >= 0 and rows[0, b] != bos:
                previous[b, c] = _wide(embedding[rows[1, b], c])
    _norm(x, x)
    if len(smear):
        _norm(previous, previous)
        x += previous * smear
        _norm(x, x)
    return x


@njit(nogil=True, cache=True)
def _step(rows, embedding, head, wq, wk, wv, wo, w1, w2, gates, value_embeddings, cos, sin, smear, residual, first,
          keys, values, heads, bos, softcap, logits, threads):
    """Logits (B, V) of rows (3, B) = (id, the id before, position); stores its keys and values (L, slot, G, S, D)."""
    x = _embed(rows, embedding, smear, bos)
    x0, h = x.copy(), np.empty_like(x)
    B, groups, width = len(x), keys.shape[2], keys.shape[4]
    q, y = np.empty((B, heads * width), np.float32), np.empty((B, heads * width), np.float32)
    k, v = np.empty((B, groups * width), np.float32), np.empty((B, groups * width), np.float32)
    gate, hidden = np.empty((B, groups), np.float32), np.empty((B, len(w1[0])), np.float32)
    for layer in range(len(wq)):
        if len(residual):
            x = residual[layer] * x + first[layer] * x0
        _norm(x, h)
        for matrix, out in ((wq[layer], q), (wk[layer], k), (wv[layer], v)):
            _multiply(h, matrix, out, threads)
        if len(gates[layer]):
            _multiply(h, gates[layer], gate, threads)
        for b in range(B):
            at = rows[2, b]
            for g in range(groups if len(gates[layer]) else 0):
                part = np.float32(2) / (np.float32(1) + np.exp(-gate[b, g]))
                for d in range(g * width, (g + 1) * width):
                    v[b, d] += part * _wide(value_embeddings[layer][rows[0, b], d])
            _rotate(q[b].reshape(heads, width), cos[at], sin[at])
            _rotate(k[b].reshape(groups, width), cos[at], sin[at])
            for g in range(groups):
                for d in range(width):
                    _store(keys[layer, b, g, at], d, k[b, g * width + d])
                    _store(values[layer, b, g, at], d, v[b, g * width + d])
        _attend(q.reshape(B, heads, width), keys[layer], values[layer], rows[2], y.reshape(B, heads, width), threads)
        _multiply(y, wo[layer], h, threads)
        x += h
        _norm(x, h)
        _multiply(h, w1[layer], hidden, threads)
        hidden = np.square(np.maximum(hidden, np.float32(0)))
        _multiply(hidden, w2[layer], h, threads)
        x += h
    _norm(x, h)
    _multiply(h, head, logits, threads)
    logits[:] = np.float32(softcap) * np.tanh(logits / np.float32(softcap))
