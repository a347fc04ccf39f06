"""The inner loop over packed weights (quantize.py): 16 outputs at a time, integer products, one scale per 32 inputs.

Recent x86 processors have an instruction that multiplies pairs of 8-bit integers, adds four neighbouring products and
adds the result to a 32-bit sum, for 16 sums at the same time (AVX-512 VNNI; for 8 sums AVX-VNNI). LLVM's vectoriser
does not generate it from a Numba loop, so this loop is generated as LLVM IR. On other processors it consists of
ordinary vector instructions: slower, with the same result.
"""
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

OUTPUTS = 16  # outputs per block: 16 sums of 32 bits fill the widest register (512 bits)
GROUP = 32  # inputs that share a scale
AHEAD = 3072  # bytes from a group of 4-bit weights to the weights that are asked for
INSTRUCTIONS = ("avx512vnni", "avxvnni", "")  # the fastest first; "": every processor
INT8, INT16, INT32, FLOAT = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.FloatType()
SUMS, FLOATS = ir.VectorType(INT32, OUTPUTS), ir.VectorType(FLOAT, OUTPUTS)  # one number per output
BYTES = ir.VectorType(INT8, 4 * OUTPUTS)  # four weights (or inputs) per output
CONTRACT = ("contract",)  # LLVM may fuse a multiplication and an addition into one instruction (FMA)


def block_products(bits: int, rows: int, instructions: tuple[str, ...] = INSTRUCTIONS) -> Any:
    """A function for compiled code: out (rows, 16) fp32 = x (rows, I) · (16, I)ᵀ, the weights of one packed block.

    Its arguments are addresses: of the block; of x as int8; of x's scales (rows, groups) fp32; of the start values of
    the sums (rows, groups) int32, which are −offset · Σ x (products.py); then the number of groups; the address of out.
    """
    @intrinsic
    def products(typing_context: Any, block: Any, x: Any, scales: Any, starts: Any, num_groups: Any, out: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            available = context.codegen().magic_tuple()[2]  # (platform, processor, its features: "+avx2,-avx512vnni,…")
            usable = next(name for name in instructions if not name or f"+{name}" in available.split(","))
            _Loop(builder, bits, rows, usable, *arguments).generate()
            return context.get_dummy_value()

        return types.void(*[types.uintp] * 6), generate

    return products


class _Loop:
    """The loop as LLVM IR; methods that return a value append the instructions that compute it."""

    def __init__(self, builder: Any, bits: int, rows: int, instructions: str, block: Any, x: Any, scales: Any,
                 starts: Any, num_groups: Any, out: Any):
        self.builder, self.bits, self.rows, self.instructions = builder, bits, rows, instructions
        self.block, self.x, self.scales, self.starts = block, x, scales, starts
        self.num_groups, self.out = num_groups, out

    def generate(self) -> None:
        b = self.builder
        totals = [cgutils.alloca_once_value(b, ir.Constant(FLOATS, None)) for _ in range(self.rows)]
        end_of_weights = self.at(self.block, self.num_groups, OUTPUTS * GROUP * self.bits // 8)
        with cgutils.for_range(b, self.num_groups) as loop:
            weights = self.weights(loop.index)
            if self.bits == 4:
                multipliers = b.sitofp(self.load(self.at(end_of_weights, loop.index, OUTPUTS),
                                                 ir.VectorType(INT8, OUTPUTS)), FLOATS)
                # The multipliers of the same group in the next block: they are far from the weights.
                next_block = self.at(end_of_weights, self.num_groups, OUTPUTS * GROUP // 2 + OUTPUTS, 4 * OUTPUTS)
                self.prefetch(self.at(next_block, loop.index, OUTPUTS))
            for row in range(self.rows):
                index = b.add(b.mul(self.num_groups, self.number(row)), loop.index)  # index of (row, group)
                total = self.broadcast(self.load(self.at(self.starts, index, 4), INT32))
                for step, weight in enumerate(weights):
                    four = self.broadcast(self.load(self.at(self.x, index, GROUP, 4 * step), INT32))
                    total = self.dot(total, weight, b.bitcast(four, BYTES))
                scale = self.broadcast(self.load(self.at(self.scales, index, 4), FLOAT))
                if self.bits == 4:
                    scale = b.fmul(scale, multipliers)
                product = b.fmul(b.sitofp(total, FLOATS), scale, flags=CONTRACT)
                b.store(b.fadd(b.load(totals[row]), product, flags=CONTRACT), totals[row])
        if self.bits == 4:
            end_of_weights = self.at(end_of_weights, self.num_groups, OUTPUTS)
        output_scales = self.load(end_of_weights, FLOATS)
        for row, total in enumerate(totals):
            target = b.inttoptr(self.at(self.out, self.number(row), 4 * OUTPUTS), FLOATS.as_pointer())
            b.store(b.fmul(b.load(total), output_scales), target, align=4)

    def weights(self, group: Any) -> list[Any]:
        """The group's eight vectors of 16 outputs × 4 inputs, as unsigned bytes."""
        b, size = self.builder, OUTPUTS * GROUP * self.bits // 8
        stored = [self.load(self.at(self.block, group, size, start), BYTES) for start in range(0, size, 4 * OUTPUTS)]
        if self.bits == 8:
            return stored
        # With three times the instructions per byte the processor itself looks less far ahead than with 8 bits.
        for start in range(0, size, 4 * OUTPUTS):
            self.prefetch(self.at(self.block, group, size, AHEAD + start))
        low, four = (ir.Constant(BYTES, [number] * 4 * OUTPUTS) for number in (15, 4))
        return [*(b.and_(both, low) for both in stored), *(b.lshr(both, four) for both in stored)]

    def dot(self, total: Any, weight: Any, x: Any) -> Any:
        """total (16) + the sums of four neighbouring products of weight (64, unsigned) and x (64, signed)."""
        if not self.instructions:
            return self.dot_everywhere(total, weight, x)
        # vpdpbusd adds without saturation: the 32 products of a group, at most 255 · 127 each, are far below 2^31.
        lanes = OUTPUTS if self.instructions == "avx512vnni" else OUTPUTS // 2
        narrow = ir.VectorType(INT32, lanes)
        function = self.builder.module.declare_intrinsic(
            f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", fnty=ir.FunctionType(narrow, [narrow] * 3))
        weight, x = self.builder.bitcast(weight, SUMS), self.builder.bitcast(x, SUMS)
        parts = [self.builder.call(function, [self.part(vector, start, lanes) for vector in (total, weight, x)])
                 for start in range(0, OUTPUTS, lanes)]
        return parts[0] if len(parts) == 1 else self.shuffled(parts[0], parts[1], list(range(OUTPUTS)))

    def dot_everywhere(self, total: Any, weight: Any, x: Any) -> Any:
        b, wide = self.builder, ir.VectorType(INT16, 4 * OUTPUTS)
        sums = b.mul(b.zext(weight, wide), b.sext(x, wide))  # at most 255 · 128, which 16 bits hold
        sums = b.sext(sums, ir.VectorType(INT32, 4 * OUTPUTS))
        for size in (4 * OUTPUTS, 2 * OUTPUTS):  # 64 products → 32 sums of two → 16 sums of four
            sums = b.add(*(self.shuffled(sums, sums, list(range(odd, size, 2))) for odd in (0, 1)))
        return b.add(total, sums)

    def part(self, vector: Any, start: int, lanes: int) -> Any:
        return vector if lanes == OUTPUTS else self.shuffled(vector, vector, list(range(start, start + lanes)))

    def shuffled(self, first: Any, second: Any, places: list[int]) -> Any:
        return self.builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(INT32, len(places)), places))

    def broadcast(self, number: Any) -> Any:
        """A vector with the same number 16 times."""
        vector = self.builder.insert_element(ir.Constant(ir.VectorType(number.type, OUTPUTS), ir.Undefined), number,
                                             ir.Constant(INT32, 0))
        return self.shuffled(vector, vector, [0] * OUTPUTS)

    def number(self, value: int) -> Any:
        return ir.Constant(self.num_groups.type, value)

    def at(self, address: Any, index: Any, size: int, offset: int = 0) -> Any:  # address + index · size + offset
        return self.builder.add(address, self.builder.add(self.builder.mul(index, self.number(size)),
                                                          self.number(offset)))

    def prefetch(self, address: Any) -> None:
        """Asks for a line of memory before it is needed."""
        pointer = INT8.as_pointer()
        function = self.builder.module.declare_intrinsic("llvm.prefetch", [pointer], ir.FunctionType(
            ir.VoidType(), [pointer, INT32, INT32, INT32]))
        # 0: to read; 1: into the outer caches, because the innermost waits for few lines at a time; 1: data
        hints = (ir.Constant(INT32, number) for number in (0, 1, 1))
        self.builder.call(function, [self.builder.inttoptr(address, pointer), *hints])

    def load(self, address: Any, kind: Any) -> Any:
        return self.builder.load(self.builder.inttoptr(address, kind.as_pointer()), align=1)
