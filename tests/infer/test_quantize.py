import copy

import pytest
import torch

from nanochat.infer import Engine
from nanochat.infer.quantize import Int8Linear, quantized, rows_to_int8
from nanochat.model.gpt import Linear
from nanochat.system.files import UserError


def test_products_are_near_and_rows_do_not_know_each_other():
    torch.manual_seed(0)
    linear = Linear(96, 40)
    with torch.no_grad():
        linear.weight.uniform_(-96**-0.5, 96**-0.5)
        linear.weight[3] *= 50  # one large output must not spoil the others
    x = torch.randn(7, 5, 96) * torch.logspace(-3, 3, 7)[:, None, None]  # nor a large row
    exact, got = linear(x), Int8Linear(linear)(x)
    usual = x.norm(dim=-1, keepdim=True) * linear.weight.norm(dim=-1) / 96**0.5  # size of a product of such vectors
    error = ((got - exact) / usual).square().mean((1, 2)).sqrt()  # of each of the seven sizes of rows
    # Rounding to 1/127 of the largest of 96 (2.5 σ in x, 1.7 σ in w) errs by .0057 and .0039 of σ each: .7 % together.
    assert got.shape == exact.shape and got.dtype == x.dtype and 0.004 < error.min() and error.max() < 0.011
    assert torch.equal(got[2:3, 1:2], Int8Linear(linear)(x[2:3, 1:2]))
    assert Int8Linear(linear)(x.bfloat16()).dtype == torch.bfloat16
    assert rows_to_int8(torch.zeros(1, 4))[0].tolist() == [[0] * 4]


def test_a_quantized_model_says_the_same_alone_and_in_a_batch(model, tokenizer):
    small = quantized(copy.deepcopy(model), "int8")
    assert sum(isinstance(module, Int8Linear) for module in small.modules()) == 6 * 3 + 1 + sum(
        layer.self_attn.gate is not None for layer in model.model.layers)
    prompts = [[5], [7, 8, 9], list(range(40, 80)), [3] * 20]
    together = Engine(small, tokenizer, max_rows=3).generate(prompts, max_tokens=15, temperature=0.0, stop_ids=[])
    for prompt, group in zip(prompts, together):
        alone = Engine(small, tokenizer).generate([prompt], max_tokens=15, temperature=0.0, stop_ids=[])
        assert [group] == alone
    ids = torch.tensor([prompts[2]])
    with torch.no_grad():
        exact, near = model(ids).log_softmax(-1), small(ids).log_softmax(-1)
    divergence = (exact.exp() * (exact - near)).sum(-1).mean()
    assert 0 < divergence < 0.5 and model(ids).argmax(-1).eq(small(ids).argmax(-1)).float().mean() > 0.7


def test_only_where_there_are_kernels(model):
    assert quantized(model, "") is model
    with torch.device("meta"):
        elsewhere = torch.nn.Linear(2, 2)
    with pytest.raises(UserError, match="--device_type=cpu"):
        quantized(elsewhere, "int8")
