"""A decode step in plain loops, compiled by Numba: for a few rows on a CPU.

PyTorch spends most of a small model's decode step on dispatching its kernels: .9 of 1 ms with 4 layers. And for
one row a step is matrices times a vector, which is limited by reading the weights: PyTorch reads bf16 weights at half
the speed of the memory. Here a step is one call, and all cores read weights in order.

The formulas are those of model/gpt.py, which stays the definition; formats/page/forward.js has them a third time. Sums
are fp32; weights and cache are read as they are stored (products.py). Each thread computes whole output columns, so no
sum depends on the number of threads.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# (Numba infers the types of compiled functions at the first call.)
import functools

import numpy as np
import torch
from numba import prange
from numba.typed import List

from nanochat.infer.cache import SlotCache
from nanochat.infer.products import MIN_PARALLEL, PACKED, Cores, array, multiply, read_row, store, wide
from nanochat.model.gpt import GPT, Linear
from nanochat.system import log
from nanochat.system.jit import njit

SMALL_MODEL = 1 << 23  # parameters; in a smaller model PyTorch's overhead takes most of a step
EPSILON = np.float32(1e-6)  # as in model/gpt.py's norm
# The weights of a block: their names in model/gpt.py, and their indices here.
BLOCK = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.fc1", "mlp.fc2",
         "self_attn.gate")
QUERY, KEY, VALUE, OUT, UP, DOWN, GATE = range(7)
EMBEDDING, HEAD, SMEAR_GATE, VALUE_EMBEDDING = range(4)
TABLES = ("model.embed_tokens.weight", "lm_head.weight", "model.smear_gate.weight")  # then L value-embedding tables
VECTORS = ("model.smear", "model.residual_scalars", "model.embedding_scalars", "model.smear_share", "model.backout")


def numba_decoder(model: GPT, cache: SlotCache) -> "NumbaDecoder | None":
    """The `decoder` of an Engine; None if PyTorch has to decode: on GPUs, and for models with other layers."""
    if NumbaDecoder.supports(model):
        return NumbaDecoder(model, cache)
    if cache.keys.device.type == "cpu":
        _say_slower()
    return None


@functools.cache  # once in a process
def _say_slower() -> None:
    log.note("decoding by PyTorch, which is slower: the compiled step does not support LoRA, FP8 or float16")


class NumbaDecoder:
    """A Decoder of engine.py."""

    def __init__(self, model: GPT, cache: SlotCache):
        self.cache, self.config = cache, model.config
        weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
        # Numba's lists: Numba unpacks every argument at every call, so 23 arguments cost 9 µs more, named tuples 90.
        # An array without elements stands for a weight that this model does not have.
        def arrays(names: list[str], like: torch.Tensor) -> List:
            return List([array(weights.get(name, like[:0])) for name in names])

        layers = range(self.config.n_layer)
        self.tables = arrays([*TABLES, *(f"model.value_embeds.{layer}.weight" for layer in layers)],
                             weights["lm_head.weight"])
        self.blocks = List([arrays([f"model.layers.{layer}.{name}.weight" for name in BLOCK],
                                   weights["model.layers.0.mlp.fc1.weight"]) for layer in layers])
        self.angles = List([model.get_buffer(name).float().numpy() for name in ("cos", "sin")])
        vectors = [weights.get(name, torch.empty(0)) for name in VECTORS]
        self.vectors = List([vector.float().numpy() for vector in vectors])
        # A window of sequence_len tokens is no limit: full attention.
        self.windows = np.array(self.config.windows or [self.config.sequence_len] * self.config.n_layer)
        # Arrays are views, so they follow the steps of an optimizer. Only vectors converted to fp32 are copies.
        self.copies = [(copy, vector) for copy, vector in zip(self.vectors, vectors) if vector.dtype != torch.float32]
        # With more than 4 rows PyTorch's matrix products are faster than these loops for floats. In a small model its
        # overhead outweighs that: with 1.8 million parameters it was not faster even at 256 rows. The limit comes from
        # the number of parameters, not from a measurement: otherwise two runs could round differently.
        is_small = sum(p.numel() for p in model.parameters()) < SMALL_MODEL
        self.max_rows = 256 if is_small or weights["lm_head.weight"].dtype in PACKED else 4
        self.logits([0], [-1], [0])  # compiles; it writes to slot 0, which no request owns yet

    @staticmethod
    def supports(model: GPT) -> bool:
        """Whether this model is on a CPU and has no other layers than those written here (no LoRA, no FP8)."""
        linear_types = {type(module) for module in model.modules() if isinstance(module, torch.nn.Linear)}
        dtypes = {p.dtype for p in model.parameters()} - PACKED.keys()
        return (type(model) is GPT and linear_types <= {Linear} and len(dtypes) <= 1
                and dtypes | {model.compute_dtype} <= {torch.float32, torch.bfloat16}
                and next(model.parameters()).device.type == "cpu")

    def logits(self, ids: list[int], previous_ids: list[int], positions: list[int]) -> torch.Tensor:
        self.cache.reserve(len(ids), max(positions) + 1)
        rows = np.array([ids, previous_ids, positions], np.int64)  # (3, B)
        out = np.empty((len(ids), self.config.vocab_size), np.float32)  # (B, V)
        bos = -1 if self.config.document_bos is None else self.config.document_bos  # −1: no id is equal to it
        for copy, vector in self.copies:
            copy[:] = vector.float().numpy()  # a step of the optimizer may have changed it
        with Cores() as threads:
            c = self.config
            settings = (c.n_head, c.n_embd, bos, c.query_key_scale, threads)
            _step(rows, self.tables, self.blocks, self.angles, self.vectors, self.windows, array(self.cache.keys),
                  array(self.cache.values), settings, out)
        logits = torch.from_numpy(out)
        # PyTorch's tanh computes 16 numbers at a time, Numba's one.
        return logits.div_(c.softcap).tanh_().mul_(c.softcap) if c.softcap else logits


@njit(nogil=True, fastmath=True)
def _attend_heads(q, keys, values, positions, window, y, begin, end):
    """Attention y (B, H, D) of q (B, H, D) to position positions[b] of slot b and the `window` positions before it,
    for pairs (b, head) begin … end."""
    heads, width = q.shape[1], q.shape[2]
    shared = heads // keys.shape[1]  # query heads per key/value head
    scale = np.float32(width ** -0.5)
    for pair in range(begin, end):
        b, h = pair // heads, pair % heads
        first, length = max(0, positions[b] - window), min(window, positions[b]) + 1
        key, value = keys[b, h // shared, first:], values[b, h // shared, first:]
        scores = np.empty(length, np.float32)  # one per visible position
        for s in range(length):
            total = np.float32(0)
            for d in range(width):
                total += q[b, h, d] * wide(key[s, d])
            scores[s] = total * scale
        scores = np.exp(scores - scores.max())  # softmax, shifted so that exp cannot overflow
        scores /= scores.sum()
        y[b, h] = 0
        for s in range(length):
            for d in range(width):
                y[b, h, d] += scores[s] * wide(value[s, d])


@njit(nogil=True, parallel=True)
def _attend_parallel(q, keys, values, positions, window, y, threads):
    pairs = q.shape[0] * q.shape[1]
    for t in prange(threads):
        _attend_heads(q, keys, values, positions, window, y, pairs * t // threads, pairs * (t + 1) // threads)


@njit(nogil=True)
def _attend(q, keys, values, positions, window, y, threads):
    if threads == 1 or q.size * positions.max() < MIN_PARALLEL:
        _attend_heads(q, keys, values, positions, window, y, 0, q.shape[0] * q.shape[1])
    else:
        _attend_parallel(q, keys, values, positions, window, y, threads)


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
def _rotate(x, cos, sin, scale):
    """RoPE of the heads x (H, D): channel d is paired with d + D/2. Then the norm, times `scale`. In place."""
    half = x.shape[1] // 2
    for h in range(len(x)):
        for d in range(half):
            first, second = x[h, d], x[h, d + half]
            x[h, d] = first * cos[d] + second * sin[d]
            x[h, d + half] = second * cos[d] - first * sin[d]
    _norm(x, x)
    x *= scale


@njit(nogil=True)
def _embed(rows, tables, smear, smear_share, bos, width):
    """x (B, C): the normalised embeddings, plus (smear) a part of the previous tokens' embeddings."""
    x = np.empty((rows.shape[1], width), np.float32)  # (B, C)
    previous = np.zeros_like(x)  # stays 0 where no token comes before
    for b in range(len(x)):
        read_row(tables[EMBEDDING], rows[0, b], x[b])
        if rows[1, b] >= 0 and rows[0, b] != bos:  # nothing comes before the first token of a document
            read_row(tables[EMBEDDING], rows[1, b], previous[b])
    _norm(x, x)
    _norm(previous, previous)
    if len(smear):
        x += previous * smear
        _norm(x, x)
    if len(smear_share):
        gate = np.empty((len(x), 1), np.float32)  # (B, 1)
        multiply(x, (tables[SMEAR_GATE],), (gate,), 1)  # one thread: the matrix has a single output
        x += smear_share / (np.float32(1) + np.exp(-gate)) * previous
    return x


@njit(nogil=True)
def _add_value_embedding(rows, gate, table, v):
    """v (B, G·D) += 2 · sigmoid(gate (B, G)) · the rows' value embeddings."""
    groups, width, embedding = gate.shape[1], v.shape[1] // gate.shape[1], np.empty(v.shape[1], np.float32)
    for b in range(len(v)):
        read_row(table, rows[0, b], embedding)
        for g in range(groups):
            gate_value = np.float32(2) / (np.float32(1) + np.exp(-gate[b, g]))
            for d in range(g * width, (g + 1) * width):
                v[b, d] += gate_value * embedding[d]


@njit(nogil=True)
def _rotate_and_store(rows, angles, scale, q, k, v, keys, values):
    """RoPE and norm of q (B, H·D) and k (B, G·D), in place; then k and v go into the cache's keys and values (slot, G,
    S, D)."""
    width = keys.shape[3]
    for b in range(len(q)):
        position = rows[2, b]
        for heads in (q[b], k[b]):
            _rotate(heads.reshape(-1, width), angles[0][position], angles[1][position], scale)
        for i in range(k.shape[1]):
            store(keys[b, i // width, position], i % width, k[b, i])
            store(values[b, i // width, position], i % width, v[b, i])


@njit(nogil=True)
def _step(rows, tables, blocks, angles, vectors, windows, keys, values, settings, logits):
    """Logits (B, V) without the cap, of rows (3, B) = (id, previous id, position). Keys and values of the rows go into
    the cache's (L, slot, G, S, D)."""
    smear, residual_scalars, embedding_scalars = vectors[0], vectors[1], vectors[2]
    smear_share, backout = vectors[3], vectors[4]
    heads, channels, bos, scale, threads = settings
    B, groups, width = rows.shape[1], keys.shape[2], keys.shape[4]
    q, y = np.empty((B, heads * width), np.float32), np.empty((B, heads * width), np.float32)
    k, v = np.empty((B, groups * width), np.float32), np.empty((B, groups * width), np.float32)
    x = _embed(rows, tables, smear, smear_share, bos, channels)
    x0, middle, h = x.copy(), x, np.empty_like(x)  # embedding; middle layer's output (backout); scratch (B, C)
    gate, hidden = np.empty((B, groups), np.float32), np.empty((B, 4 * x.shape[1]), np.float32)
    for layer in range(len(blocks)):
        block = blocks[layer]
        if len(residual_scalars):
            x = residual_scalars[layer] * x + embedding_scalars[layer] * x0  # as in GPT.hidden
        _norm(x, h)
        multiply(h, (block[QUERY], block[KEY], block[VALUE]), (q, k, v), threads)
        if len(block[GATE]):  # this layer has a table of value embeddings
            multiply(h, (block[GATE],), (gate,), threads)
            _add_value_embedding(rows, gate, tables[VALUE_EMBEDDING + layer], v)
        _rotate_and_store(rows, angles, np.float32(scale), q, k, v, keys[layer], values[layer])
        _attend(q.reshape(B, heads, width), keys[layer], values[layer], rows[2], windows[layer],
                y.reshape(B, heads, width), threads)
        multiply(y, (block[OUT],), (h,), threads)  # attention's output matrix
        x += h
        _norm(x, h)
        multiply(h, (block[UP],), (hidden,), threads)
        hidden = np.square(np.maximum(hidden, np.float32(0)))  # relu², as MLP in gpt.py, forward.js and fold.py
        multiply(hidden, (block[DOWN],), (h,), threads)
        x += h
        if layer == len(blocks) // 2 and len(backout):
            middle = x.copy()
    if len(backout):  # imported models only
        x -= backout * middle
    _norm(x, h)
    multiply(h, (tables[HEAD],), (logits,), threads)
