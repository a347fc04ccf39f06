"""Matrix products of few rows on a CPU, compiled by Numba, directly on stored weights: fp32, bf16, 8 or 4 bits.

The dtype of an array is its format: float32; uint16, the bits of bf16, since NumPy has no bf16; int8 and uint8, blocks
of packed weights with 8 and 4 bits (quantize.py). Each thread computes whole output columns, so no sum depends on the
number of threads. The other rows change at most how a sum of floats is rounded: four rows are computed together.

For packed weights x is rounded to 8 bits as well, with one scale per row and 32 channels, like llama.cpp's Q8_0.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, no-redef"
# (Numba infers the types of compiled functions at the first call.)
import threading

import numpy as np
import torch
from numba import config as numba_config
from numba import prange, set_num_threads, types
from numba.extending import overload

from nanochat.infer.packed_dot import GROUP, OUTPUTS, block_products
from nanochat.system.jit import njit

MIN_PARALLEL = 1 << 17  # multiplications; for fewer it costs more to wake the other cores than they save
CACHED_BYTES = 1 << 19  # bytes of x that stay in a core's cache, to be read again for every block
# Packed formats: dtype → bits of a weight. Nothing else marks a format, so a third one (5 bits) needs another dtype or
# a mark beside the array; docs/small-machines.md names the places to change.
PACKED = {torch.int8: 8, torch.uint8: 4}
_numba_lock = threading.Lock()  # Numba's threads cannot serve two callers at once
_one_row_of_8, _four_rows_of_8 = (block_products(8, rows) for rows in (1, 4))
_one_row_of_4, _four_rows_of_4 = (block_products(4, rows) for rows in (1, 4))


class Cores:
    """`with Cores() as threads:` gives the number of threads that compiled code may use; one caller at a time."""

    def __enter__(self) -> int:
        _numba_lock.acquire()
        threads = min(torch.get_num_threads(), numba_config.NUMBA_NUM_THREADS)
        set_num_threads(threads)  # for calls from this thread; by default Numba uses all cores of the machine
        return threads

    def __exit__(self, *error: object) -> None:
        _numba_lock.release()


def array(t: torch.Tensor) -> np.ndarray:
    """The memory of a tensor as an array, not a copy; bf16 as uint16."""
    return t.view(torch.int16).numpy().view(np.uint16) if t.dtype == torch.bfloat16 else t.numpy()


def product(x: torch.Tensor, weight: torch.Tensor, num_outputs: int) -> torch.Tensor:
    """x (B, I) fp32 times a stored matrix with `num_outputs` rows (O, I): (B, O) fp32."""
    out = torch.empty(len(x), num_outputs)  # (B, O)
    with Cores() as threads:
        multiply(array(x), (array(weight),), (array(out),), threads)
    return out


def rows_of(table: torch.Tensor, ids: torch.Tensor, width: int) -> torch.Tensor:
    """The rows `ids` (N,) of a stored matrix with `width` columns, (N, width) fp32."""
    out = torch.empty(len(ids), width)  # (N, width)
    _read_rows(array(table), array(ids), array(out))
    return out


# The bodies of the next functions are empty: Numba replaces a call by the overload for the dtype when it compiles.

def wide(stored):
    """A stored number as fp32. A bf16 number is the upper 16 bits of an fp32 number."""


@overload(wide, inline="always")
def _(stored):
    if isinstance(stored, types.Float):
        return lambda stored: stored
    return lambda stored: np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)


def store(place, i, number):
    """place[i] = number; for bf16 rounded to the nearest, a tie to the even one."""


@overload(store, inline="always")
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


def read_row(table, index, out):
    """out (C,) = row `index` of a stored matrix (R, C)."""


@overload(read_row)
def _(table, index, out):
    if table.dtype not in (types.int8, types.uint8):
        def read(table, index, out):
            for c in range(len(out)):
                out[c] = wide(table[index, c])
    elif table.dtype == types.int8:
        def read(table, index, out):
            block, output = table[index // OUTPUTS].view(np.uint8), index % OUTPUTS
            output_scale = block[-4 * OUTPUTS:].view(np.float32)[output]
            for c in range(len(out)):
                four, place = c // 4, c % 4
                out[c] = (np.float32(block[(four * OUTPUTS + output) * 4 + place]) - np.float32(128)) * output_scale
    else:
        def read(table, index, out):
            block, output, groups = table[index // OUTPUTS], index % OUTPUTS, -(-len(out) // GROUP)
            output_scale = block[-4 * OUTPUTS:].view(np.float32)[output]
            multipliers = block[groups * OUTPUTS * GROUP // 2:].view(np.int8)
            for c in range(len(out)):
                group, four, place = c // GROUP, c % GROUP // 4, c % 4
                both = block[((group * 4 + four % 4) * OUTPUTS + output) * 4 + place]
                number = np.float32(both >> 4 if four >= 4 else both & 15) - np.float32(8)
                out[c] = number * np.float32(multipliers[group * OUTPUTS + output]) * output_scale
    return read


@njit(nogil=True)
def _read_rows(table, ids, out):
    for i in range(len(ids)):
        read_row(table, ids[i], out[i])


def prepared(x, weight):
    """x (B, I) in the form that `_columns` needs: as it is for floats, quantized to 8 bits for packed weights."""


@overload(prepared)
def _(x, weight):
    if weight.dtype not in (types.int8, types.uint8):
        return lambda x, weight: x
    offset = 128 if weight.dtype == types.int8 else 8  # what packing adds, so that weights are not negative
    return lambda x, weight: _in_8_bits(x, offset)


# nogil: the server's event loop runs on while a step computes. fastmath: LLVM may reorder sums, which vectorises them.

@njit(nogil=True, fastmath=True)
def _in_8_bits(x, offset):
    """x as int8 (B, groups · 32), a scale per row and group, and −offset · Σ of the group's integers (start value)."""
    groups = -(-x.shape[1] // GROUP)
    integers = np.zeros((len(x), groups * GROUP), np.int8)
    scales, starts = np.empty((len(x), groups), np.float32), np.empty((len(x), groups), np.int32)
    for b in range(len(x)):
        for g in range(groups):
            part, rounded = x[b, g * GROUP:(g + 1) * GROUP], integers[b, g * GROUP:(g + 1) * GROUP]
            largest, total = np.float32(0), np.int32(0)
            for i in range(len(part)):
                largest = max(largest, abs(part[i]))
            inverse = np.float32(127) / max(largest, np.float32(1e-30))  # all inputs 0: no division by 0
            for i in range(len(part)):
                integer = np.int32(np.rint(part[i] * inverse))
                rounded[i] = integer
                total += integer
            scales[b, g], starts[b, g] = largest / np.float32(127), -offset * total
    return integers, scales, starts


def _columns(x, weight, out, begin, end):
    """Columns of out (B, O) = x (B, I) · weightᵀ: for rows begin … end of `weight`. A row of it is one output, or one
    packed block of 16 outputs."""


@overload(_columns, jit_options={"nogil": True, "fastmath": True})
def _(x, weight, out, begin, end):
    return _packed_columns if weight.dtype in (types.int8, types.uint8) else _float_columns


def _packed_columns(x, weight, out, begin, end):
    at_once, tile = max(4, CACHED_BYTES // x[0].shape[1]), np.empty((4, OUTPUTS), np.float32)
    for first in range(0, len(out), at_once):
        for block in range(begin, end):
            block_columns(x, weight, out, tile, block, first, min(first + at_once, len(out)))


def block_columns(x, weight, out, tile, block, first, end):
    """The columns of one block, for rows first … end of x; `tile` (4, 16) is a scratch buffer."""


@overload(block_columns)
def _(x, weight, out, tile, block, first, end):
    one_row, four_rows = (_one_row_of_8, _four_rows_of_8) if weight.dtype == types.int8 else (
        _one_row_of_4, _four_rows_of_4)

    def columns(x, weight, out, tile, block, first, end):
        integers, scales, starts = x
        groups, b = np.uintp(scales.shape[1]), first
        while b < end:
            addresses = (weight[block].ctypes.data, integers[b].ctypes.data, scales[b].ctypes.data,
                         starts[b].ctypes.data, groups, tile.ctypes.data)
            if end - b >= 4:  # four rows share each read of the weights
                four_rows(*addresses)
                rows = 4
            else:
                one_row(*addresses)
                rows = 1
            _store_tile(tile, out[b:b + rows, block * OUTPUTS:(block + 1) * OUTPUTS])
            b += rows
    return columns


@njit(nogil=True)
def _store_tile(tile, out):
    for r in range(len(out)):
        for o in range(out.shape[1]):
            out[r, o] = tile[r, o]


def _float_columns(x, weight, out, begin, end):
    fours = len(x) // 4 * 4
    for o in range(begin, end):
        row = weight[o]
        for b in range(0, fours, 4):  # a weight is read once and used for four rows
            x0, x1, x2, x3 = x[b], x[b + 1], x[b + 2], x[b + 3]
            sum0 = sum1 = sum2 = sum3 = np.float32(0)
            for i in range(len(row)):
                w = wide(row[i])
                sum0 += x0[i] * w
                sum1 += x1[i] * w
                sum2 += x2[i] * w
                sum3 += x3[i] * w
            out[b, o], out[b + 1, o], out[b + 2, o], out[b + 3, o] = sum0, sum1, sum2, sum3
        for b in range(fours, len(x)):
            vector, total = x[b], np.float32(0)
            for i in range(len(row)):
                total += vector[i] * wide(row[i])
            out[b, o] = total


@njit(nogil=True, parallel=True)
def _columns_parallel(x, weights, outs, threads):
    for t in prange(threads):
        for weight, out in zip(weights, outs):
            _columns(x, weight, out, len(weight) * t // threads, len(weight) * (t + 1) // threads)


@njit(nogil=True)
def multiply(x, weights, outs, threads):
    """out (B, O) = x (B, I) · weightᵀ, for each of `weights` and `outs`, which are tuples."""
    ready, num_outputs = prepared(x, weights[0]), 0  # all weights of a call have the same format
    for out in outs:
        num_outputs += out.shape[1]
    if threads == 1 or x.size * num_outputs < MIN_PARALLEL:
        for weight, out in zip(weights, outs):
            _columns(ready, weight, out, 0, len(weight))
    else:
        _columns_parallel(ready, weights, outs, threads)
