"""The loss in chunks, which computes its gradients itself, against autograd on the definition."""
import pytest
import torch
import torch.nn.functional as F

from nanochat.model import chunked_loss
from nanochat.system.numbers import ceil_div

N, C, V, SOFTCAP = 51, 8, 64, 15.0


def inputs(dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    hidden = (torch.randn(N, C, generator=draw) * 3).to(dtype).requires_grad_()
    matrix = torch.randn(V, C, generator=draw).requires_grad_()
    targets = torch.randint(V, (N,), generator=draw)
    weights = torch.randn(N, generator=draw)
    targets[3::7], weights[3::7] = -1, 0.0
    return hidden, matrix, targets, weights


def definition(hidden, matrix, targets, weights, softcap=SOFTCAP):
    logits = F.linear(hidden.float(), matrix)
    logits = softcap * torch.tanh(logits / softcap) if softcap else logits
    return (weights * F.cross_entropy(logits, targets, ignore_index=-1, reduction="none")).sum()


@pytest.mark.parametrize("chunks, softcap", [(1, SOFTCAP), (2, SOFTCAP), (3, 0.0), (51, SOFTCAP)])
def test_loss_and_gradients_equal_the_definition(monkeypatch, chunks, softcap):
    monkeypatch.setattr(chunked_loss, "MAX_LOGITS", N * V // chunks)
    hidden, matrix, targets, weights = inputs()
    results = []
    for loss in (definition(hidden, matrix, targets, weights, softcap),
                 chunked_loss.weighted_nats(hidden, matrix, targets, weights, softcap)):
        results.append((loss.detach(), *torch.autograd.grad(0.37 * loss, (hidden, matrix))))
    assert all((a - b).abs().max() < 2e-5 * a.abs().max() for a, b in zip(*results))


def test_bf16_gradients_are_near():
    hidden, matrix, targets, weights = inputs(torch.bfloat16)
    expected = torch.autograd.grad(definition(hidden, matrix, targets, weights), (hidden, matrix))
    loss = chunked_loss.weighted_nats(hidden, matrix, targets, weights, SOFTCAP)
    grads = torch.autograd.grad(loss, (hidden, matrix))
    assert [grad.dtype for grad in grads] == [torch.bfloat16, torch.float32]
    assert all((a.float() - b.float()).norm() < 0.02 * a.float().norm() for a, b in zip(expected, grads))


def test_a_frozen_head_gets_no_gradient_and_its_input_the_same():
    hidden, matrix, targets, weights = inputs()
    expected, = torch.autograd.grad(chunked_loss.weighted_nats(hidden, matrix, targets, weights, SOFTCAP), hidden)
    chunked_loss.weighted_nats(hidden, matrix.detach(), targets, weights, SOFTCAP).backward()
    assert torch.equal(hidden.grad, expected)


def test_no_chunk_is_larger_than_allowed(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr(chunked_loss, "MAX_LOGITS", 1000)
    for device in (cpu, torch.device("cuda")):
        for vocab_size in (1, 64, 999, 1000, 5000):
            rows = chunked_loss.rows_at_once(10_000, vocab_size, device)
            assert rows == 1 or 1 < rows * vocab_size <= 1000
    monkeypatch.undo()
    assert chunked_loss.rows_at_once(4096, 2048, cpu) * 2048 == chunked_loss.CACHED_LOGITS
    assert ceil_div(10**6, chunked_loss.rows_at_once(10**6, 64, cpu)) <= chunked_loss.MAX_CHUNKS
    with torch.no_grad():
        assert chunked_loss.rows_at_once(10**6, 64, cpu) * 64 == chunked_loss.CACHED_LOGITS


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The operator, run by the CPU."""
    monkeypatch.setattr(chunked_loss, "uses_operator", lambda device: True)


@pytest.mark.parametrize("chunks", [1, 3, 51])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_operator_is_the_loop_that_torch_compile_sees(monkeypatch, chunks, dtype):
    monkeypatch.setattr(chunked_loss, "MAX_LOGITS", N * V // chunks)
    hidden, matrix, targets, weights = inputs(dtype)
    results = []
    for operator in (False, True):
        monkeypatch.setattr(chunked_loss, "uses_operator", lambda device: operator)  # noqa: B023
        loss = chunked_loss.weighted_nats(hidden, matrix, targets, weights, SOFTCAP)
        results.append((loss.detach(), *torch.autograd.grad(0.37 * loss, (hidden, matrix))))
    assert all(torch.equal(a, b) for a, b in zip(*results))
    with torch.no_grad():
        assert chunked_loss.weighted_nats(hidden, matrix, targets, weights, SOFTCAP).item() == results[0][0]


def test_the_operator_leaves_a_frozen_head_alone(as_on_a_gpu):
    test_a_frozen_head_gets_no_gradient_and_its_input_the_same()


def test_the_operator_tells_pytorch_the_truth_about_itself(as_on_a_gpu):
    """Shapes, dtypes and strides without running it, autograd, no writing to its inputs: PyTorch's own checks."""
    hidden, matrix, targets, weights = inputs()
    arguments = (hidden, matrix, targets, weights, SOFTCAP, 13, True, False)
    torch.library.opcheck(chunked_loss._operator, arguments)
