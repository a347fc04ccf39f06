"""The loss in chunks, which computes its gradients itself, against autograd on the definition."""
import pytest
import torch
import torch.nn.functional as F

from nanochat.model import chunked_loss

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
    monkeypatch.setattr(chunked_loss, "rows_at_once", lambda *_: N // chunks)
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
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert chunked_loss.rows_at_once(2048, cpu) * 2048 == chunked_loss.CACHED_LOGITS
    assert chunked_loss.rows_at_once(65_536, cpu) == chunked_loss.MIN_ROWS
    assert chunked_loss.rows_at_once(65_536, gpu, compiled=True) * 65_536 == chunked_loss.COMPILED_LOGITS
    monkeypatch.setattr(chunked_loss, "MAX_LOGITS", 1000)
    for device in (cpu, gpu):
        for vocab_size in (1, 64, 999, 1000, 5000):
            rows = chunked_loss.rows_at_once(vocab_size, device)
            assert rows == 1 or 1 < rows * vocab_size <= 1000


def test_rows_without_weight_are_not_computed(monkeypatch):
    """20 of 51 rows count, so chunks of 8 rows are three, not seven; whichever rows they are, nothing else changes."""
    hidden, matrix, targets, weights = inputs()
    weights[torch.randperm(N, generator=torch.Generator().manual_seed(1))[:31]] = 0.0
    targets = targets.masked_fill(weights == 0, -1)
    assert (num_counted := int(weights.count_nonzero())) <= 20
    sizes = []
    chunk = chunked_loss._chunk
    monkeypatch.setattr(chunked_loss, "_chunk", lambda h, *rest: (sizes.append(len(h)), chunk(h, *rest))[1])
    monkeypatch.setattr(chunked_loss, "rows_at_once", lambda *_: 8)
    results = [(loss.detach(), *torch.autograd.grad(loss, (hidden, matrix)))
               for loss in (definition(hidden, matrix, targets, weights),
                            chunked_loss.weighted_nats(hidden, matrix, targets, weights, SOFTCAP))]
    assert sizes == [8] * -(-num_counted // 8)
    assert all((a - b).abs().max() < 2e-5 * a.abs().max() for a, b in zip(*results))
    assert not results[1][1][weights == 0].any()


def test_without_any_weight_loss_and_gradients_are_zero():
    hidden, matrix, targets, weights = inputs()
    loss = chunked_loss.weighted_nats(hidden, matrix, targets, weights * 0, SOFTCAP)
    assert loss.item() == 0 and not any(grad.any() for grad in torch.autograd.grad(loss, (hidden, matrix)))


@pytest.mark.parametrize("softcap", [0.0, 15.0, 1000.0])
def test_extreme_logits_stay_finite(softcap):
    """exp neither overflows nor loses a target far below the largest logit."""
    hidden, matrix, targets, weights = inputs()
    with torch.no_grad():
        matrix *= 100
    loss = chunked_loss.weighted_nats(hidden, matrix, targets, weights, softcap)
    grads = torch.autograd.grad(loss, (hidden, matrix))
    expected = definition(hidden, matrix, targets, weights, softcap)
    assert abs(loss / expected - 1) < 1e-5 and all(grad.isfinite().all() for grad in grads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiled_it_is_the_same(dtype):
    hidden, matrix, targets, weights = inputs(dtype)
    compiled = torch.compile(chunked_loss.weighted_nats, dynamic=False, fullgraph=True)
    results = [(loss.detach(), *torch.autograd.grad(0.37 * loss, (hidden, matrix)))
               for loss in (function(hidden, matrix, targets, weights, SOFTCAP)
                            for function in (chunked_loss.weighted_nats, compiled))]
    assert all((a.float() - b.float()).norm() <= 0.01 * a.float().norm() for a, b in zip(*results))
    with torch.no_grad():
        assert abs(compiled(hidden, matrix, targets, weights, SOFTCAP) / results[1][0] - 1) < 1e-5


def test_the_operator_tells_pytorch_the_truth_about_itself():
    """Shapes, dtypes and strides without running it, autograd, no writing to its inputs: PyTorch's own checks."""
    hidden, matrix, targets, weights = inputs()
    arguments = (hidden, matrix, targets, weights, SOFTCAP, 13, True, False)
    torch.library.opcheck(chunked_loss._operator, arguments)
