"""Packed weights against their definition: unpacked by plain arithmetic, multiplied in float64."""
import copy

import numpy as np
import pytest
import torch
from numba import njit

from nanochat.infer import Engine
from nanochat.infer.numba_decode import numba_decoder
from nanochat.infer.packed_dot import INSTRUCTIONS, block_products
from nanochat.infer.products import array, product, rows_of
from nanochat.infer.quantize import FORMS, PackedEmbedding, PackedLinear, pack, packer, quantized
from nanochat.model.gpt import Embedding, Linear
from nanochat.system.files import UserError
from nanochat.train import checkpoint

BITS = (8, 4)
SHAPES = [(16, 32), (40, 96), (3, 5), (17, 33), (300, 128)]


def unpacked(blocks: torch.Tensor, outputs: int, inputs: int, bits: int) -> np.ndarray:
    """The matrix (O, I) that packed blocks mean, byte by byte."""
    data, groups = blocks.view(torch.uint8).numpy(), -(-inputs // 32)
    matrix = np.empty((outputs, inputs))
    for o in range(outputs):
        block, lane = data[o // 16], o % 16
        unit = block[-64:].view(np.float32)[lane]
        for i in range(inputs):
            group, four, place = i // 32, i % 32 // 4, i % 4
            if bits == 8:
                matrix[o, i] = unit * (int(block[group * 512 + four * 64 + lane * 4 + place]) - 128)
            else:
                both = int(block[group * 256 + four % 4 * 64 + lane * 4 + place])
                multiplier = block[groups * 256:groups * 272].view(np.int8)[group * 16 + lane]
                matrix[o, i] = unit * int(multiplier) * ((both & 15 if four < 4 else both >> 4) - 8)
    return matrix


def in_8_bits(x: torch.Tensor) -> np.ndarray:
    """x (B, I) rounded to 127ths of the largest of 32 channels."""
    wide = torch.nn.functional.pad(x.double(), (0, -x.shape[1] % 32)).view(len(x), -1, 32)
    unit = wide.abs().amax(2, keepdim=True).clamp(min=1e-30) / 127
    return ((wide / unit).round() * unit).flatten(1)[:, :x.shape[1]].numpy()


def matrix(outputs: int, inputs: int) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=draw) * inputs**-0.5
    weight[1] *= 50  # one large output must not spoil the others
    weight[2] = 0
    return weight


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("outputs, inputs", SHAPES)
def test_packed_weights_are_near(outputs, inputs, bits):
    weight = matrix(outputs, inputs)
    found = unpacked(pack(weight, bits), outputs, inputs, bits)
    largest = weight.abs().amax(1, keepdim=True).numpy()
    # int8: half of 1/127 of the row's largest. int4: half of a step; a step is 1/8 of the group's largest, but −8 has
    # no counterpart +8, so that the far end errs by a whole step, and multipliers are rounded up.
    bound = (0.5 / 127 if bits == 8 else 1 / 8 + 1 / 127) * largest + 1e-9
    assert (np.abs(found - weight.numpy()) <= bound).all()
    if inputs >= 96:  # the root mean square of what a row loses, of that of the row
        lost = np.sqrt(((found - weight.numpy())**2).mean(1) / (weight.numpy()**2).mean(1).clip(1e-30))
        low, high = (0.003, 0.012) if bits == 8 else (0.06, 0.13)
        assert low < np.delete(lost, 2).min() and np.delete(lost, 2).max() < high and lost[2] == 0


def test_packing_in_parts_is_packing_at_once(monkeypatch):
    weight, whole = matrix(70, 64), {bits: pack(matrix(70, 64), bits) for bits in BITS}
    monkeypatch.setattr("nanochat.infer.quantize.CHUNK", 2048)
    assert all(torch.equal(pack(weight.bfloat16().float(), bits), pack(weight.bfloat16(), bits)) for bits in BITS)
    assert all(torch.equal(pack(weight, bits), whole[bits]) for bits in BITS)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("outputs, inputs", SHAPES)
def test_products_and_rows_are_those_of_the_unpacked_matrix(outputs, inputs, bits):
    blocks = pack(matrix(outputs, inputs), bits)
    slow = unpacked(blocks, outputs, inputs, bits)
    x = torch.randn(7, inputs, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 3, 7)[:, None]
    x[3] = 0
    expected = in_8_bits(x) @ slow.T
    size = np.abs(in_8_bits(x)) @ np.abs(slow).T + 1e-12  # of the sum that is rounded
    found = product(x, blocks, outputs)
    assert (np.abs(found.numpy() - expected) / size).max() < 1e-5
    for row in range(7):
        assert torch.equal(product(x[row:row + 1], blocks, outputs)[0], found[row]), "rows do not know each other"
    ids = torch.tensor([outputs - 1, 0, 2, 0])
    assert np.allclose(rows_of(blocks, ids, inputs).numpy(), slow[ids], rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("instructions", INSTRUCTIONS)
def test_every_processor_computes_the_same_integers(instructions, bits):
    loops = [block_products(bits, 4, choice) for choice in ((instructions, ""), ("",))]
    draw = np.random.default_rng(0)
    blocks = array(pack(torch.from_numpy(draw.standard_normal((16, 96), dtype=np.float32)), bits))
    x = draw.integers(-127, 128, (4, 96)).astype(np.int8)
    scales, starts = draw.random((4, 3), dtype=np.float32), draw.integers(-9, 9, (4, 3)).astype(np.int32)
    results = np.zeros((2, 4, 16), np.float32)
    for loop, out in zip(loops, results):
        @njit
        def run(blocks, x, scales, starts, out, loop=loop):
            loop(blocks.ctypes.data, x.ctypes.data, scales.ctypes.data, starts.ctypes.data, np.uintp(3),
                 out.ctypes.data)

        run(blocks, x, scales, starts, out)
    assert results.any() and np.array_equal(*results)


@pytest.mark.parametrize("form", FORMS)
def test_a_quantized_model_says_the_same_alone_and_in_a_batch(form, model, tokenizer):
    small = quantized(copy.deepcopy(model), form)
    kinds = {kind: sum(isinstance(module, kind) for module in small.modules()) for kind in (
        Linear, Embedding, PackedLinear, PackedEmbedding)}
    assert kinds == {Linear: 0, Embedding: 0, PackedEmbedding: 1 + len(model.model.value_embeds),
                     PackedLinear: 6 * 3 + 1 + len(model.model.value_embeds)}
    in_4_bits = {name.split(".")[1] for name, p in small.named_parameters() if p.dtype == torch.uint8}
    assert in_4_bits == ({"layers"} if form == "int4" else set())
    prompts = [[5], [7, 8, 9], list(range(40, 80)), [3] * 20]
    for compiled in (None, numba_decoder):
        together = Engine(small, tokenizer, max_rows=3, decoder=compiled).generate(
            prompts, max_tokens=15, temperature=0.0, stop_ids=[])
        for prompt, group in zip(prompts, together):
            alone = Engine(small, tokenizer, decoder=compiled).generate(
                [prompt], max_tokens=15, temperature=0.0, stop_ids=[])
            assert [group] == alone


@pytest.mark.parametrize("form, most", [("int8", 0.03), ("int4", 1.5)])
def test_what_a_model_loses(form, most, model):
    """With random weights, of which every bit counts; a trained model loses less (docs/import.md)."""
    small, ids = quantized(copy.deepcopy(model), form), torch.arange(40, 80)[None]
    with torch.no_grad():
        exact, near = model(ids).log_softmax(-1), small(ids).log_softmax(-1)
    divergence = (exact.exp() * (exact - near)).sum(-1).mean()
    assert 0 < divergence < most
    assert near.dtype == torch.float32 and small.lm_head(torch.ones(1, 2, 32).bfloat16()).dtype == torch.bfloat16


def test_only_on_a_cpu_and_only_when_asked(model):
    assert quantized(model, "") is model and packer("", torch.device("meta")) is None
    with pytest.raises(UserError, match="--device_type=cpu"):
        packer("int8", torch.device("meta"))


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_is_packed_while_it_is_read(form, model, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    tokenizer.save(tmp_path / "tokenizer")
    checkpoint.save(tmp_path / "checkpoints" / "sft" / "d3", 1, model, None, {})
    read, _, _ = checkpoint.load_model("sft", replace=packer(form, torch.device("cpu")))
    expected = quantized(copy.deepcopy(model), form).state_dict()
    assert read.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in read.state_dict().items())
    ids = torch.arange(40)[None]
    assert torch.equal(read(ids), quantized(copy.deepcopy(model), form)(ids))
