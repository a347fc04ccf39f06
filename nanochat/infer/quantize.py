"""Weights in 8 or 4 bits, for the CPU: a token costs the time to read all weights, and packed they are fewer bytes.

    8 bits   w ≈ scale · q                 one fp32 scale per output; q from −127 to 127
    4 bits   w ≈ scale · multiplier · q    one multiplier (int8) per output and 32 inputs; q from −8 to 7

`int8` stores every matrix and every table of embeddings in 8 bits, `int4` the matrices of the blocks in 4. Head and
tables stay in 8, as llama.cpp keeps the head in 6: in the laptop's model head and tables of 4 bits would lose more than
all blocks of 4 bits. The dtype is the only mark of a format: a packed array is int8 for 8 bits, uint8 for 4
(products.PACKED). docs/small-machines.md names the places that a third format changes.

Sixteen outputs are a block, in the order in which packed_dot.py reads it: for each 32 inputs, for each four of these,
for each output: four bytes, q + 128. With 4 bits the first and the second half of the 32 inputs share bytes: q + 8 in
the lower and in the upper four bits. The block ends with its multipliers (groups, 16) and its scales (16) fp32.
`python -m bench.quantize` measures the loss in bits per byte and in exams.
"""
import mmap
from collections.abc import Callable

import torch
import torch.nn as nn

from nanochat.infer.packed_dot import GROUP, OUTPUTS
from nanochat.infer.products import product, rows_of
from nanochat.model.gpt import GPT, Embedding, Linear
from nanochat.system.files import UserError

FORMS = ("int8", "int4")  # the values of --quantize
CHUNK = 1 << 20  # number of weights packed at a time: they stay in the processor's cache


class PackedLinear(nn.Module):
    """`Linear` with packed weights."""

    def __init__(self, weight: torch.Tensor, bits: int):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.weight = nn.Parameter(pack(weight, bits), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (…, I) in any float dtype → (…, O) in the same dtype."""
        rows = x.detach().flatten(0, -2).float().contiguous()  # packed weights do not learn
        return product(rows, self.weight.data, self.out_features).to(x.dtype).view(*x.shape[:-1], -1)


class PackedEmbedding(nn.Module):
    """`Embedding` with packed weights."""

    def __init__(self, weight: torch.Tensor, bits: int):
        super().__init__()
        self.width = weight.shape[1]
        self.weight = nn.Parameter(pack(weight, bits), requires_grad=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """ids (…) int64 → (…, C) fp32."""
        return rows_of(self.weight.data, ids.flatten(), self.width).view(*ids.shape, -1)


def pack(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """The blocks (⌈O / 16⌉, bytes) of a matrix (O, I) of floats; dtype int8 for 8 bits, uint8 for 4."""
    rows = max(OUTPUTS, CHUNK // weight.shape[1] // OUTPUTS * OUTPUTS)
    chunks = torch.split(weight.detach(), rows)  # whole blocks each
    first = _pack(chunks[0].float(), bits)
    # Not from the heap, where the temporary tensors between large blocks would leave gaps.
    memory = mmap.mmap(-1, -(-len(weight) // OUTPUTS) * first.shape[1])
    blocks = torch.frombuffer(memory, dtype=torch.uint8).view(-1, first.shape[1])
    for number, chunk in enumerate(chunks):
        start = number * rows // OUTPUTS
        packed = first if number == 0 else _pack(chunk.float(), bits)
        blocks[start:start + len(packed)] = packed
    return blocks.view(torch.int8) if bits == 8 else blocks


def _pack(weight: torch.Tensor, bits: int) -> torch.Tensor:
    weight = nn.functional.pad(weight, (0, -weight.shape[1] % GROUP, 0, -len(weight) % OUTPUTS))
    groups = weight.view(len(weight), -1, GROUP)  # (O, G, 32)
    if bits == 8:
        scale = groups.abs().amax((1, 2), keepdim=True).clamp(min=1e-30) / 127  # never 0, because we divide by it
        integers = (groups / scale).round() + 128
    else:
        # The largest weight of a group, whatever its sign, becomes −8: of the 16 integers it is the farthest from 0.
        peaks = groups.gather(2, groups.abs().argmax(2, keepdim=True)) / -8  # (O, G, 1)
        scale = peaks.abs().amax(1, keepdim=True).clamp(min=1e-30) / 127
        # Rounded up, so that the largest weight is not clipped. One of the other sign that is nearly as large is: to 7.
        multipliers = (peaks / scale).abs().ceil().clamp(1, 127).copysign(peaks)
        integers = (groups / (scale * multipliers)).round().clamp(-8, 7) + 8
    blocks = integers.to(torch.uint8).view(len(weight) // OUTPUTS, OUTPUTS, -1, GROUP // 4, 4)
    blocks = blocks.permute(0, 2, 3, 1, 4)  # (blocks, G, 8, 16, 4)
    scales = scale.view(-1, OUTPUTS).view(torch.uint8)  # (blocks, 64): 16 fp32 numbers as bytes
    if bits == 8:
        return torch.cat((blocks.flatten(1), scales), 1)  # (blocks, bytes)
    both = blocks[:, :, :4] | blocks[:, :, 4:] << 4  # (blocks, G, 4, 16, 4): two numbers per byte
    by_group = multipliers.to(torch.int8).view(len(blocks), OUTPUTS, -1).transpose(1, 2)  # (blocks, G, 16)
    return torch.cat((both.flatten(1), by_group.flatten(1).view(torch.uint8), scales), 1)


def packer(form: str, device: torch.device) -> Callable[[str, nn.Module, torch.Tensor], nn.Module | None] | None:
    """The `replace` of `checkpoint.load_model`: it returns a packed module instead of a module that has a weight. None
    if `form` is "".

    UserError if the model is not for a CPU.
    """
    if not form:
        return None
    if device.type != "cpu":
        raise UserError(f"--quantize={form} is for the CPU; add --device_type=cpu, or leave it out")
    return lambda name, module, weight: packed(name, module, weight, form)


def packed(name: str, module: nn.Module, weight: torch.Tensor, form: str) -> nn.Module | None:
    """A packed module of `weight` to use instead of `module` if this is a matrix or a table; otherwise None."""
    kinds = {Linear: PackedLinear, Embedding: PackedEmbedding}
    bits = 4 if form == "int4" and name.startswith("model.layers.") else 8
    return kinds[type(module)](weight, bits) if type(module) in kinds else None


def quantized(model: GPT, form: str) -> GPT:
    """The model with its matrices and tables replaced, in place; `form` "" changes nothing."""
    for name, module in list(model.named_modules()) if form else []:
        if isinstance(module, (Linear, Embedding)) and (other := packed(name, module, module.weight, form)):
            model.set_submodule(name, other)
    return model
