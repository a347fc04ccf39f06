"""Both ways to compute attention against the definition, and the choice of a kernel that really works."""
import math

import pytest
import torch
import torch.nn.functional as F

from nanochat.model import attention

CPU = torch.device("cpu")


def definition(q, k, v, mask):
    """One query, one head at a time."""
    out = torch.zeros_like(q)
    for b in range(q.size(0)):
        for h in range(q.size(1)):
            group = h // (q.size(1) // k.size(1))
            for t in range(q.size(2)):
                visible = [s for s in range(k.size(2)) if (s <= t if mask is None else mask[b, 0, t, s])]
                scores = torch.stack([q[b, h, t] @ k[b, group, s] / math.sqrt(q.size(3)) for s in visible])
                weights = torch.exp(scores - scores.max())
                out[b, h, t] = sum(w * v[b, group, s] for w, s in zip(weights / weights.sum(), visible))
    return out


def inputs(heads=4, groups=4, T=9, S=9):
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, heads, T, 8), (2, groups, S, 8), (2, groups, S, 8))
    return [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("masked", [False, True])
def test_both_kernels_are_the_definition(groups, masked, monkeypatch):
    q, k, v = inputs(4, groups, *((3, 12) if masked else (9, 9)))
    mask = None
    if masked:  # three new tokens in each row, of rows that hold 9 and 5
        mask = torch.arange(12) <= torch.tensor([[9, 10, 11], [5, 6, 7]])[:, :, None]
        mask = mask[:, None]
    expected = definition(q, k, v, mask)
    assert (attention.attend(q, k, v, mask) - expected).abs().max() < 1e-6
    monkeypatch.setattr(attention, "PLAIN_MAX_POSITIONS", 0)  # PyTorch's kernel, as for long rows
    assert (attention.attend(q, k, v, mask) - expected).abs().max() < 1e-6


def test_gradients_agree():
    grads = []
    for kernel in (attention.plain, lambda q, k, v, _: F.scaled_dot_product_attention(q, k, v, is_causal=True)):
        leaves = [leaf.requires_grad_() for leaf in inputs()]
        (kernel(*leaves, None) * torch.linspace(-1, 1, 8)).sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(*grads))


def test_rows_up_to_the_limit_are_plain(monkeypatch):
    called = []
    monkeypatch.setattr(attention, "plain", lambda *_: called.append(1))
    for length, calls in ((512, 1), (513, 1)):
        q = torch.zeros(1, 1, length, 2)
        attention.attend(q, q, q, None)
        assert len(called) == calls


def test_a_server_has_no_plain_product(monkeypatch):
    called, q = [], torch.zeros(1, 1, 8, 2)
    monkeypatch.setattr(attention, "plain", lambda *_: called.append(1))
    monkeypatch.setattr(attention, "_plain_max_without_gradients", 256)
    with torch.no_grad():
        attention.attend(q, q, q, None)
        attention.always_fused()
        assert len(called) == 1 and attention.attend(q, q, q, None).shape == q.shape
    assert len(called) == 1


@pytest.fixture
def all_kernels_enabled_afterwards():
    yield
    for _, enable in attention.KERNELS.values():
        enable(True)


def no_kernel_image(*_, **__):
    raise RuntimeError("CUDA error: no kernel image is available for execution on the device")


def test_a_kernel_is_chosen_by_a_real_call_and_a_broken_one_is_disabled(monkeypatch, all_kernels_enabled_afterwards):
    assert attention.enable_fastest_kernel(CPU, torch.float32, 8, 512) == "plain masked product"
    assert attention.enable_fastest_kernel(CPU, torch.bfloat16, 16, 520) == "flash kernel"
    real = F.scaled_dot_product_attention
    for broken in (lambda *a, **k: real(*a, **k) + 1, lambda *a, **k: real(*a, **k) * math.nan, no_kernel_image):
        monkeypatch.setattr(F, "scaled_dot_product_attention", broken)
        assert "no fused kernel" in attention.enable_fastest_kernel(CPU, torch.float32, 8, 520)
        monkeypatch.undo()
        assert not torch.backends.cuda.flash_sdp_enabled()
        q, k, v = inputs(T=520, S=520)
        assert (attention.attend(q, k, v, None) - attention.plain(q, k, v, None)).abs().max() < 1e-5
        torch.backends.cuda.enable_flash_sdp(True)


def test_a_mask_of_the_last_queries_leaves_the_others_causal():
    q, k, v = inputs(4, 2, 9, 9)
    whole = torch.ones(2, 1, 9, 9, dtype=torch.bool).tril()
    whole[:, :, 6:, 2:5] = False  # differs from causality in the last three rows only
    expected = definition(q, k, v, whole)
    assert (attention.attend(q, k, v, whole[:, :, 6:]) - expected).abs().max() < 1e-6
    assert (attention.attend(q, k, v, None) - expected).abs().max() > 1e-3
