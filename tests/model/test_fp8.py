"""FP8 products against fp32. PyTorch computes them on a CPU, too: slowly, with the same rounding of the factors."""
import pytest
import torch

from nanochat.model import GPT, GPTConfig, fp8
from nanochat.model.gpt import Linear


@pytest.fixture
def layer():
    torch.manual_seed(0)
    layer = Linear(64, 48)
    torch.nn.init.normal_(layer.weight, std=0.1)
    return layer


def error(result, expected):
    return ((result - expected).norm() / expected.norm()).item()


def test_products_and_gradients_are_those_of_fp32_to_a_few_percent(layer):
    x = (torch.randn(2, 16, 64) * 30).requires_grad_()  # every tensor has its own scale: 30 or 1e-4 is all the same
    upstream = torch.randn(2, 16, 48) * 1e-4
    expected = torch.autograd.grad(layer(x), (x, layer.weight), upstream)
    plain = layer(x)
    y = fp8.Fp8Linear(layer.weight)(x)
    grads = torch.autograd.grad(y, (x, layer.weight), upstream)
    assert 0.001 < error(y, plain) < 0.06, "8 bits, and not fp32 again"
    assert all(0.001 < error(a, b) < 0.1 for a, b in zip(grads, expected))
    assert grads[1].dtype == torch.float32 and y.dtype == x.dtype


def test_sizes_that_the_kernels_do_not_take_are_multiplied_as_before(layer):
    x = torch.randn(3, 5, 64)
    assert torch.equal(fp8.Fp8Linear(layer.weight)(x), layer(x))


def test_what_is_only_measured_has_whole_weights(layer):
    x = torch.randn(32, 64)
    with torch.no_grad():
        assert torch.equal(fp8.Fp8Linear(layer.weight)(x), layer(x))


def test_zeros_stay_zeros_and_no_scale_is_zero(layer):
    x = torch.zeros(16, 64, requires_grad=True)
    y = fp8.Fp8Linear(layer.weight)(x)
    y.sum().backward()
    assert not y.any() and x.grad.isfinite().all()


def test_only_the_blocks_matrices_are_switched_and_a_model_learns():
    torch.manual_seed(0)
    config = GPTConfig(sequence_len=16, vocab_size=64, n_layer=2, n_head=2, n_kv_head=2, n_embd=32, head_dim=16)
    model = GPT(config).init_weights(0)
    before = dict(model.named_parameters())
    number = fp8.switch_on(model, min_width=16)
    assert all(parameter is before[name] for name, parameter in model.named_parameters()), "no copies"
    assert number == sum(type(module) is fp8.Fp8Linear for module in model.modules()) == 2 * 6  # not the gate
    assert type(model.lm_head) is Linear and model.state_dict().keys() == GPT(config).state_dict().keys()
    ids = torch.randint(0, 64, (4, 17))
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    losses = []
    for _ in range(30):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_cpu_says_that_it_cannot():
    assert "does not multiply in 8 bits" in fp8.unsupported(torch.device("cpu"))


@pytest.mark.gpu
def test_a_gpu_gives_what_the_definition_gives(layer):
    if problem := fp8.unsupported(torch.device("cuda")):
        pytest.skip(problem)
    x = torch.randn(32, 64)
    plain = layer(x)
    layer.cuda()
    y = torch.compile(fp8.Fp8Linear(layer.weight))(x.cuda().bfloat16())
    y.float().sum().backward()
    assert error(y.float().cpu(), plain) < 0.06 and layer.weight.grad.isfinite().all()
