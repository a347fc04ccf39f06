"""Both ways to compute attention against the definition, and the choice of a kernel that really works."""
import functools
import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from nanochat.model import GPT, GPTConfig, attention

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


@pytest.mark.parametrize("T", [1, 2, 9, 12])
@pytest.mark.parametrize("masked", [False, True])
def test_in_halves_it_is_the_same(T, masked, monkeypatch):
    mask = None
    if masked:  # documents of four tokens that do not see each other
        document = torch.arange(T) // 4
        mask = ((document[:, None] == document) & torch.ones(T, T, dtype=torch.bool).tril())[None, None]
    results, sizes = [], []
    for kernel in (attention.plain, attention.attend):
        leaves = [leaf.requires_grad_() for leaf in inputs(T=T, S=T)]
        y = kernel(*leaves, mask)
        results.append((y.detach(), *torch.autograd.grad((y * torch.linspace(-1, 1, 8)).sum(), leaves)))
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(*results))
    plain = attention.plain
    monkeypatch.setattr(attention, "plain", lambda q, k, *rest: (sizes.append((q.size(2), k.size(2))),
                                                                 plain(q, k, *rest))[1])
    attention.attend(*inputs(T=T, S=T), mask)
    assert sizes == [(T // 2, T // 2), (T - T // 2, T)][T == 1:]


def test_rows_up_to_the_limit_are_plain(monkeypatch):
    called = []
    monkeypatch.setattr(attention, "plain_in_halves", lambda *_: called.append(1))
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
    assert attention.enable_fastest_kernel(CPU, torch.float32, 8, 512) == "plain masked attention"
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


def flash_of_packed_rows(q, k, v, ends_q, ends_k, max_q, max_k, *, window_size):
    """What PyTorch's `varlen_attn` computes, which runs on GPUs only: rows (T, H, D) end to end, each by itself."""
    out, (window, right) = [], window_size
    assert right == 0 and ends_q.dtype == torch.int32 and (ends_q.diff() == max_q).all() and ends_q[-1] == len(q)
    for first, last in itertools.pairwise(ends_q.tolist()):
        at = torch.arange(last - first)
        near = (at[:, None] >= at) & (at[:, None] - at <= window)
        heads = (x[first:last].transpose(0, 1)[None] for x in (q, k, v))
        out.append(attention.plain(*heads, near)[0].transpose(0, 1))
    return torch.cat(out)


@pytest.fixture
def skipping(monkeypatch):
    """Windows are skipped as on a GPU; the number of calls."""
    calls = []
    monkeypatch.setattr(attention, "varlen_attn", lambda *a, **k: calls.append(1) or flash_of_packed_rows(*a, **k))
    monkeypatch.setattr(attention, "_skips_windows", [True])
    return calls


def test_a_skipped_window_gives_what_its_mask_gives(skipping, monkeypatch):
    config = GPTConfig(16, 50, 3, 2, 2, 16, 8, windows=[3, 16, 5])
    model, results = GPT(config).init_weights(0), []
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn_like(p) * 0.3)
    ids = torch.randint(50, (2, 16))
    for skips in (True, False):
        monkeypatch.setattr(attention, "_skips_windows", [skips])
        model.zero_grad()
        loss = model.loss(ids, ids)
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    assert len(skipping) == 2, "two of three layers, in one of two passes"
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(*results))
    with torch.no_grad():
        model(ids)
    assert len(skipping) == 2, "answers and exams have masks of their own"


def test_windows_are_skipped_only_where_the_kernel_is_right(skipping, monkeypatch):
    at = torch.arange(20)[None]
    mask = attention.within_window(None, 5, at, 20)

    def works(window):
        near = functools.partial(attention.attend_near, window=window)
        return attention._works(near, CPU, torch.float32, 8, 20, mask)

    assert works(5) and not works(6)
    for broken in (no_kernel_image, lambda q, k, v, ends_q, ends_k, max_q, max_k, is_causal=False: q):  # PyTorch 2.10
        monkeypatch.setattr(attention, "varlen_attn", broken)
        assert not works(5)
