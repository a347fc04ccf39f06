"""Two LLVM intrinsics (machine instructions) for which Numba has no function.

Both exist on every processor: where the hardware lacks one, LLVM writes other instructions with the same result.
"""
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

INT1, INT8, INT32 = (ir.IntType(bits) for bits in (1, 8, 32))


@intrinsic
def lowest_bit(typing_context: Any, mask: Any) -> Any:
    """The index of the lowest bit that is set in a uint64, which must not be 0: lowest_bit(0b1000) == 3."""
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], INT1(1))  # 1 promises LLVM that the mask is not 0

    return types.uint64(types.uint64), generate


@intrinsic
def prefetch(typing_context: Any, address: Any) -> Any:
    """Requests the cache line at an address that will soon be written, without waiting for it."""
    # Otherwise the processor waits for one random access after the other: with it, counting is twice as fast.
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer = builder.inttoptr(arguments[0], INT8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, INT32, INT32, INT32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        builder.call(function, [pointer, INT32(1), INT32(3), INT32(1)])  # write, keep in all caches, data
        return context.get_dummy_value()

    return types.void(types.uint64), generate
