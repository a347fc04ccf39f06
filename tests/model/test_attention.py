import math

import pytest
import torch
import torch.nn.functional as F

from nanochat.model import attention


def slow(q, k, v, mask):
    """One query, one head at a time, from the definition."""
    out = torch.zeros_like(q)
    for b in range(q.size(0)):
        for h in range(q.size(1)):
            group = h // (q.size(1) // k.size(1))
            for t in range(q.size(2)):
                seen = [s for s in range(k.size(2)) if (s <= t if mask is None else mask[b, 0, t, s])]
                scores = torch.stack([q[b, h, t] @ k[b, group, s] / math.sqrt(q.size(3)) for s in seen])
                weights = torch.exp(scores - scores.max())
                out[b, h, t] = sum(w * v[b, group, s] for w, s in zip(weights / weights.sum(), seen))
    return out


def inputs(heads=4, groups=4, T=9, S=9):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    return draw(2, heads, T, 8), draw(2, groups, S, 8), draw(2, groups, S, 8)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_both_kernels_are_the_definition(groups, masked, monkeypatch):
    q, k, v = inputs(4, groups, *((3, 12) if masked else (9, 9)))
    mask = None
    if masked:  # three new tokens per row, of rows that hold 9 and 5
        mask = torch.arange(12) <= torch.tensor([[9, 10, 11], [5, 6, 7]])[:, :, None]
        mask = mask[:, None]
    expected = slow(q, k, v, mask)
    assert (attention.attend(q, k, v, mask) - expected).abs().max() < 1e-6
    monkeypatch.setattr(attention, "PLAIN_MAX_POSITIONS", 0)  # as in long rows: PyTorch's kernel
    assert (attention.attend(q, k, v, mask) - expected).abs().max() < 1e-6


def test_gradients_agree():
    grads = []
    for kernel in (attention.plain, lambda q, k, v, _: F.scaled_dot_product_attention(q, k, v, is_causal=True)):
        leaves = [part.requires_grad_() for part in inputs()]
        (kernel(*leaves, None) * torch.linspace(-1, 1, 8)).sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(*grads))


def test_rows_up_to_the_limit_are_plain(monkeypatch):
    called = []
    monkeypatch.setattr(attention, "plain", lambda *_: called.append(1))
    q = torch.zeros(1, 1, 512, 2)
    attention.attend(q, q, q, None)
    assert called
    q = torch.zeros(1, 1, 513, 2)
    attention.attend(q, q, q, None)
    assert len(called) == 1


@pytest.fixture
def kernels_as_before():
    yield
    for _, enable in attention.KERNELS.values():
        enable(True)


def test_the_choice_is_said_and_rests_on_a_real_call(monkeypatch, kernels_as_before):
    cpu = torch.device("cpu")
    assert attention.choose(cpu, torch.float32, 8, 512) == "plain masked product"
    assert attention.choose(cpu, torch.bfloat16, 16, 520) == "flash kernel"
    real = F.scaled_dot_product_attention
    for broken in (lambda *a, **k: real(*a, **k) + 1, fail):  # wrong numbers; "no kernel image for this device"
        monkeypatch.setattr(F, "scaled_dot_product_attention", broken)
        assert "no fused kernel works here" in attention.choose(cpu, torch.float32, 8, 520)
        monkeypatch.undo()
        assert not torch.backends.cuda.flash_sdp_enabled(), "and it is not used"
        q, k, v = inputs(T=520, S=520)
        assert (attention.attend(q, k, v, None) - attention.plain(q, k, v, None)).abs().max() < 1e-5
        torch.backends.cuda.enable_flash_sdp(True)


def fail(*_, **__):
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device")


def test_a_mask_of_the_last_queries_leaves_the_others_causal():
    q, k, v = inputs(4, 2, 9, 9)
    whole = torch.ones(2, 1, 9, 9, dtype=torch.bool).tril()
    whole[:, :, 6:, 2:5] = False  # only the mask can say so
    expected = slow(q, k, v, whole)
    assert (attention.attend(q, k, v, whole[:, :, 6:]) - expected).abs().max() < 1e-6
    assert (attention.attend(q, k, v, None) - expected).abs().max() > 1e-3
