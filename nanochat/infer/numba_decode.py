"""A decode step in plain loops, compiled by Numba: for a few rows on a CPU.

PyTorch spends most of a small model's decode step on finding and calling its kernels: .9 of 1 ms with 4 layers. And for
one row a step is matrices times a vector, which is limited by reading the weights: PyTorch reads bf16 weights at half
the speed of the memory. Here a step is one call, and all cores read weights in order.

The formulas are those of model/gpt.py, which stays the definition. Sums are fp32; weights and cache are read as they
are stored (fp32 or bf16). The cores share the work by output columns, so no sum depends on the number of threads.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# (Numba infers the types of compiled functions at the first call.)
import threading

import numpy as np
import torch
from numba import config as numba_config
from numba import prange, set_num_threads, types
from numba.extending import overload
from numba.typed import List

from nanochat.infer.cache import SlotCache
from nanochat.model.gpt import GPT, Linear
from nanochat.system.jit import njit

SMALL_MODEL = 1 << 23  # parameters of a model whose steps are mostly PyTorch's overhead
MIN_PARALLEL = 1 << 17  # multiplications; for fewer it costs more to wake the other cores than they save
EPSILON = np.float32(1e-6)  # as in model/gpt.py's norm
# The weights of a block: their names in model/gpt.py, and their numbers here.
BLOCK = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.fc1", "mlp.fc2",
         "self_attn.gate")
QUERY, KEY, VALUE, OUT, UP, DOWN, GATE, VALUE_EMBEDDING = range(8)
_numba_lock = threading.Lock()  # Numba's threads cannot serve two callers at once


class NumbaDecoder:
    """`logits` of one decode step of `model` on `cache`."""

    def __init__(self, model: GPT, cache: SlotCache):
        self.cache, self.config = cache, model.config
        weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
        # Numba's lists, because it looks at every argument at every call: 23 arguments cost 9 µs more, named tuples 90.
        # An array without elements stands for a weight that this model does not have.
        self.tables = List([_array(weights["model.embed_tokens.weight"]), _array(weights["lm_head.weight"])])
        self.blocks = List()
        for layer in range(self.config.n_layer):
            names = [*(f"model.layers.{layer}.{name}.weight" for name in BLOCK), f"model.value_embeds.{layer}.weight"]
            self.blocks.append(List([_array(weights[name]) if name in weights else self.tables[0][:0]
                                     for name in names]))
        self.angles = List([model.get_buffer(name).float().numpy() for name in ("cos", "sin")])
        vectors = [weights.get(name, torch.empty(0))
                   for name in ("model.smear", "model.residual_scalars", "model.embedding_scalars")]
        self.vectors = List([vector.float().numpy() for vector in vectors])
        # Arrays are views: they see the steps of an optimizer. Only vectors that had to be widened are copies.
        self.copies = [(copy, vector) for copy, vector in zip(self.vectors, vectors) if vector.dtype != torch.float32]
        # With more rows PyTorch's matrix products are faster than these loops; in a small model its overhead outweighs
        # that: with 1.8 million parameters it was no faster at 256 rows. The rule is counted, not timed, so that
        # the same program gives the same answers.
        self.max_rows = 256 if sum(p.numel() for p in model.parameters()) < SMALL_MODEL else 4
        self.logits([0], [-1], [0])  # compiles; it writes to slot 0, which no request owns yet

    @staticmethod
    def supports(model: GPT) -> bool:
        """Whether this model is on a CPU and has no other layers than those written here (no LoRA, int8 or FP8)."""
        linear_types = {type(module) for module in model.modules() if isinstance(module, torch.nn.Linear)}
        dtypes = {p.dtype for p in model.parameters()}
        return (type(model) is GPT and linear_types == {Linear} and len(dtypes) == 1
                and not model.config.has_imported_features
                and dtypes <= {torch.float32, torch.bfloat16} and next(model.parameters()).device.type == "cpu")

    def logits(self, ids: list[int], previous_ids: list[int], positions: list[int]) -> torch.Tensor:
        """fp32 logits (B, V) after the tokens `ids`, which stand at `positions` of slots 0 … B−1; previous_ids: the
        tokens in front of them, −1 if there is none."""
        self.cache.reserve(len(ids), max(positions) + 1)
        rows = np.array([ids, previous_ids, positions], np.int64)
        out = np.empty((len(ids), self.config.vocab_size), np.float32)
        bos = -1 if self.config.document_bos is None else self.config.document_bos
        for copy, vector in self.copies:
            copy[:] = vector.float().numpy()
        threads = min(torch.get_num_threads(), numba_config.NUMBA_NUM_THREADS)
        with _numba_lock:
            set_num_threads(threads)  # of this thread's calls: Numba would wake all cores of the machine
            _step(rows, self.tables, self.blocks, self.angles, self.vectors, _array(self.cache.keys),
                  _array(self.cache.values), (self.config.n_head, bos, self.config.softcap, threads), out)
        return torch.from_numpy(out)


def _array(t: torch.Tensor) -> np.ndarray:
    """The memory of a tensor as an array, not a copy; bf16 as uint16, since NumPy has no bf16."""
    return t.numpy() if t.dtype == torch.float32 else t.view(torch.int16).numpy().view(np.uint16)


# The next two functions compile to nothing for fp32. A bf16 number is the upper half of an fp32 number.

def _wide(stored):
    """A stored number as fp32."""


@overload(_wide, inline="always")
def _(stored):
    if isinstance(stored, types.Float):
        return lambda stored: stored
    return lambda stored: np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)


def _store(place, i, number):
    """place[i] = number; for bf16 rounded to the nearest, and to even in the middle."""


@overload(_store, inline="always")
def _(place, i, number):
    if isinstance(place.dtype, types.Float):
        def store(place, i, number):
            place[i] = number
    else:
        def store(place, i, number):
            # Add just under half of the part that is cut off, and 1 if the kept part is odd.
            bits = np.float32(number).view(np.uint32)
            place[i] = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return store


# nogil: the server's event loop runs on while a step computes. fastmath: LLVM may reorder sums, which vectorises them.

@njit(nogil=True, fastmath=True)
def _multiply_rows(x, weight, out, begin, end):
    """Columns begin … end of out (B, O) = x (B, I) · weight (O, I)ᵀ."""
    fours = len(x) // 4 * 4
    for o in range(begin, end):
        row = weight[o]
        for b in range(0, fours, 4):  # a weight is read once and used for four rows
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


@njit(nogil=True, parallel=True)
def _multiply_parallel(x, weight, out, threads):
    for t in prange(threads):
        _multiply_rows(x, weight, out, len(weight) * t // threads, len(weight) * (t + 1) // threads)


@njit(nogil=True)
def _multiply(x, weight, out, threads):
    if threads == 1 or len(x) * weight.size < MIN_PARALLEL:
        _multiply_rows(x, weight, out, 0, len(weight))
    else:
        _multiply_parallel(x, weight, out, threads)


@njit(nogil=True, fastmath=True)
def _attend_heads(q, keys, values, positions, y, begin, end):
    """Attention y (B, H, D) of q (B, H, D) to positions 0 … positions[b] of slot b, for pairs (b, head) begin … end."""
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
        scores = np.exp(scores - scores.max())  # softmax, shifted so that exp cannot overflow
        scores /= scores.sum()
        y[b, h] = 0
        for s in range(length):
            for d in range(width):
                y[b, h, d] += scores[s] * _wide(value[s, d])


@njit(nogil=True, parallel=True)
def _attend_parallel(q, keys, values, positions, y, threads):
    pairs = q.shape[0] * q.shape[1]
    for t in prange(threads):
        _attend_heads(q, keys, values, positions, y, pairs * t // threads, pairs * (t + 1) // threads)


@njit(nogil=True)
def _attend(q, keys, values, positions, y, threads):
    if threads == 1 or q.size * positions.max() < MIN_PARALLEL:
        _attend_heads(q, keys, values, positions, y, 0, q.shape[0] * q.shape[1])
    else:
        _attend_parallel(q, keys, values, positions, y, threads)


@njit(nogil=True, fastmath=True)
def _norm(x, out):
    """RMSNorm of every row of x (B, C)."""
    for b in range(len(x)):
        total = np.float32(0)
        for c in range(x.shape[1]):
            total += x[b, c] * x[b, c]
        factor = np.float32(1) / np.sqrt(total / np.float32(x.shape[1]) + EPSILON)
        for c in range(x.shape[1]):
            out[b, c] = x[b, c] * factor


@njit(nogil=True, fastmath=True)
def _rotate(x, cos, sin):
    """RoPE of the heads x (H, D), which pairs the two halves of a head, then their norm."""
    half = x.shape[1] // 2
    for h in range(len(x)):
        for d in range(half):
            first, second = x[h, d], x[h, d + half]
            x[h, d] = first * cos[d] + second * sin[d]
            x[h, d + half] = second * cos[d] - first * sin[d]
    _norm(x, x)


@njit(nogil=True)
def _embed(rows, embedding, smear, bos):
    """x (B, C): the normalised embeddings, plus (smear) a part of the previous tokens' embeddings."""
    x = np.empty((rows.shape[1], embedding.shape[1]), np.float32)
    previous = np.zeros_like(x)
    for b in range(len(x)):
        for c in range(x.shape[1]):
            x[b, c] = _wide(embedding[rows[0, b], c])
            if rows[1, b] >= 0 and rows[0, b] != bos:  # nothing comes before the first token of a document
                previous[b, c] = _wide(embedding[rows[1, b], c])
    _norm(x, x)
    if len(smear):
        _norm(previous, previous)
        x += previous * smear
        _norm(x, x)
    return x


@njit(nogil=True)
def _add_value_embedding(rows, gate, table, v):
    """v (B, G·D) += 2 · sigmoid(gate (B, G)) · the rows' value embeddings."""
    groups, width = gate.shape[1], v.shape[1] // gate.shape[1]
    for b in range(len(v)):
        for g in range(groups):
            opening = np.float32(2) / (np.float32(1) + np.exp(-gate[b, g]))
            for d in range(g * width, (g + 1) * width):
                v[b, d] += opening * _wide(table[rows[0, b], d])


@njit(nogil=True)
def _rotate_and_store(rows, cos, sin, q, k, v, keys, values):
    """RoPE of q (B, H·D) and k (B, G·D), in place; then k and v go into the cache's keys and values (slot, G, S, D)."""
    width = keys.shape[3]
    for b in range(len(q)):
        position = rows[2, b]
        _rotate(q[b].reshape(-1, width), cos[position], sin[position])
        _rotate(k[b].reshape(-1, width), cos[position], sin[position])
        for i in range(k.shape[1]):
            _store(keys[b, i // width, position], i % width, k[b, i])
            _store(values[b, i // width, position], i % width, v[b, i])


@njit(nogil=True)
def _step(rows, tables, blocks, angles, vectors, keys, values, settings, logits):
    """Logits (B, V) of rows (3, B) = (id, previous id, position); stores its keys and values (L, slot, G, S, D)."""
    embedding, head = tables[0], tables[1]
    cos, sin = angles[0], angles[1]
    smear, residual_scalars, embedding_scalars = vectors[0], vectors[1], vectors[2]
    heads, bos, softcap, threads = settings
    x = _embed(rows, embedding, smear, bos)
    x0, h = x.copy(), np.empty_like(x)
    B, groups, width = len(x), keys.shape[2], keys.shape[4]
    q, y = np.empty((B, heads * width), np.float32), np.empty((B, heads * width), np.float32)
    k, v = np.empty((B, groups * width), np.float32), np.empty((B, groups * width), np.float32)
    gate, hidden = np.empty((B, groups), np.float32), np.empty((B, len(blocks[0][UP])), np.float32)
    for layer in range(len(blocks)):
        block = blocks[layer]
        if len(residual_scalars):
            x = residual_scalars[layer] * x + embedding_scalars[layer] * x0
        _norm(x, h)
        for matrix, out in ((block[QUERY], q), (block[KEY], k), (block[VALUE], v)):
            _multiply(h, matrix, out, threads)
        if len(block[GATE]):
            _multiply(h, block[GATE], gate, threads)
            _add_value_embedding(rows, gate, block[VALUE_EMBEDDING], v)
        _rotate_and_store(rows, cos, sin, q, k, v, keys[layer], values[layer])
        _attend(q.reshape(B, heads, width), keys[layer], values[layer], rows[2], y.reshape(B, heads, width), threads)
        _multiply(y, block[OUT], h, threads)
        x += h
        _norm(x, h)
        _multiply(h, block[UP], hidden, threads)
        hidden = np.square(np.maximum(hidden, np.float32(0)))
        _multiply(hidden, block[DOWN], h, threads)
        x += h
    _norm(x, h)
    _multiply(h, head, logits, threads)
    if softcap:
        logits[:] = np.float32(softcap) * np.tanh(logits / np.float32(softcap))
