"""The model: causality, shapes, the loss, decoding through the cache; every combination of the features."""
import dataclasses
import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nanochat.infer.cache import SlotCache
from nanochat.model import GPT, PORTABLE, GPTConfig, accounting, gpt, lora
from runs import speedrun

FEATURES = [dict(value_embeddings=a, residual_scalars=b, smear=c)
            for a, b, c in itertools.product([False, True], repeat=3)]
FEATURES.append(dict(smear=False, gated_smear=True, backout=True, query_key_scale=1.2, softcap=0.0))


def ids_and_targets(model, rows=3, T=17, seed=0):
    generator = torch.Generator().manual_seed(seed)
    whole = torch.randint(model.config.vocab_size, (rows, T + 1), generator=generator)
    return whole[:, :-1].contiguous(), whole[:, 1:].contiguous()


@pytest.mark.parametrize("features", FEATURES)
def test_the_future_never_leaks(tiny_model, features):
    model = tiny_model(**features)
    ids, _ = ids_and_targets(model)
    before = model(ids)
    for t in (0, 5, 16):
        other = ids.clone()
        other[:, t] = (other[:, t] + 1) % model.config.vocab_size
        after = model(other)
        assert torch.equal(after[:, :t], before[:, :t])
        assert (after[:, t:] != before[:, t:]).any(-1).all()  # and the past always matters, at every later position


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("n_layer, n_kv_head", [(1, 4), (3, 2), (4, 1)])
def test_accounting_counts_what_is_there(features, n_layer, n_kv_head):
    config = GPTConfig(sequence_len=8, vocab_size=50, n_layer=n_layer, n_head=4, n_kv_head=n_kv_head, n_embd=24,
                       head_dim=6, **features)
    model = GPT(config)
    assert accounting.num_parameters(config) == sum(p.numel() for p in model.parameters())
    matrices = sum(p.numel() for name, p in model.named_parameters() if "_proj." in name or ".fc" in name)
    assert accounting.matrix_parameters(config) == matrices
    # 2 FLOPs per multiply-add forward, twice that backward; q·k and weights·v are two products over T positions
    assert accounting.flops_per_token(config) == 6 * (matrices + 50 * 24) + 3 * 2 * 2 * n_layer * 4 * 6 * 8


def test_d20_in_its_october_form():
    config = GPTConfig(**PORTABLE)
    with torch.device("meta"):
        model = GPT(config)
    assert sum(p.numel() for p in model.parameters()) == accounting.num_parameters(config) == 560_988_160
    expected = {"model.embed_tokens.weight": (65_536, 1280), "lm_head.weight": (65_536, 1280)}
    for layer in range(20):
        expected |= {f"model.layers.{layer}.self_attn.{p}_proj.weight": (1280, 1280) for p in "qkvo"}
        expected |= {f"model.layers.{layer}.mlp.fc1.weight": (5120, 1280),
                     f"model.layers.{layer}.mlp.fc2.weight": (1280, 5120)}
    assert len(expected) == 6 * 20 + 2
    assert {name: tuple(p.shape) for name, p in model.state_dict().items()} == expected


@pytest.mark.parametrize("features", FEATURES)
def test_the_first_loss_is_that_of_a_blind_guess(features):
    model = GPT(GPTConfig(32, 300, 2, 2, 2, 32, 16, **features)).init_weights(0)
    loss = model.loss(*ids_and_targets(model, rows=8, T=32))
    assert abs(loss.item() - math.log(300)) < 0.01


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    config = GPTConfig(32, 64, 2, 2, 2, 16, 8)
    first, again, other = (dict(GPT(config).init_weights(seed).named_parameters()) for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_value_embeddings_alternate_and_always_reach_the_last_layer():
    for n_layer in (1, 2, 5, 6):
        config = GPTConfig(n_layer=n_layer)
        has = [config.has_value_embedding(layer) for layer in range(n_layer)]
        assert has[-1] and all(a != b for a, b in zip(has, has[1:]))


@pytest.mark.parametrize("features", FEATURES)
def test_loss_is_the_mean_nats_of_the_targets(tiny_model, features):
    model = tiny_model(**features)
    ids, targets = ids_and_targets(model)
    targets[0, 3:] = -1
    log_probs = torch.log_softmax(model(ids), -1)
    slow = [-log_probs[b, t, targets[b, t]].item() for b in range(3) for t in range(17) if targets[b, t] >= 0]
    nats = model.loss(ids, targets, "none")
    assert nats.shape == (3, 17) and (nats[0, 3:] == 0).all()
    assert model.loss(ids, targets).item() == pytest.approx(sum(slow) / len(slow), rel=1e-6)
    assert model.loss(ids, targets, "sum").item() == pytest.approx(sum(slow), rel=1e-6)
    assert nats.sum().item() == pytest.approx(sum(slow), rel=1e-6)
    weights = torch.randn(targets.shape)
    assert model.loss(ids, targets, "sum", weights).item() == pytest.approx((weights * nats).sum().item(), rel=1e-5)


def test_without_targets_the_loss_is_zero_and_so_are_its_gradients(tiny_model):
    model = tiny_model()
    ids, targets = ids_and_targets(model)
    loss = model.loss(ids, torch.full_like(targets, -1))
    loss.backward()
    assert loss.item() == 0.0 and all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_packed_documents_do_not_see_each_other(tiny_model):
    """A row of three documents and padding gives each token the loss it has in its document alone."""
    bos = 0
    documents = [[bos, 5, 6, 7], [bos, 9, 8], [bos, 5, 5, 5, 5, 6]]
    row = [token for document in documents for token in document] + [bos] * 3
    alone = tiny_model()
    model = GPT(dataclasses.replace(alone.config, document_bos=bos))
    model.load_state_dict(alone.state_dict())
    whole = torch.tensor([row])
    nats = model.loss(whole[:, :-1], whole[:, 1:], "none")[0]
    at = 0
    for document in documents:
        single = torch.tensor([[*document, bos]])
        expected = alone.loss(single[:, :-1], single[:, 1:], "none")[0]
        assert (nats[at:at + len(document)] - expected).abs().max() < 1e-5
        at += len(document)
    assert (alone.loss(whole[:, :-1], whole[:, 1:], "none")[0] - nats).abs().max() > 1e-3  # without it they do


@pytest.mark.parametrize("features", FEATURES)
def test_computing_blocks_again_changes_no_bit(tiny_model, features):
    results = []
    for again in (False, True):
        model = tiny_model(n_layer=3, **features)
        model.recompute = again
        loss = model.loss(*ids_and_targets(model))
        loss.backward()
        results.append((loss, [p.grad for p in model.parameters()]))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1]))


@pytest.mark.parametrize("features", FEATURES)
@pytest.mark.parametrize("chunks", [[1] * 20, [7, 1, 1, 5, 6], [20]])
def test_decoding_through_the_cache_is_the_full_forward(tiny_model, features, chunks):
    model = tiny_model(**features).eval()
    config = model.config
    ids, _ = ids_and_targets(model, rows=2, T=20)
    whole = model(ids)
    cache = SlotCache(config.n_layer, config.n_kv_head, config.head_dim, 2, config.sequence_len, torch.float32,
                      torch.device("cpu"))
    at = 0
    for size in chunks:
        view = cache.plan(slice(0, 2), [at, at], size)
        part = model(ids[:, at:at + size], cache=view, positions=view.positions,
                     previous_ids=ids[:, at - 1:at] if at else None)
        assert (part - whole[:, at:at + size]).abs().max() < 1e-5
        at += size


def test_more_positions_than_the_model_has_are_refused(tiny_model):
    model = tiny_model()
    with pytest.raises(AssertionError, match="33 positions > 32"):
        model(torch.zeros(1, 33, dtype=torch.int64))


def test_positions_matter_only_relative_to_each_other(tiny_model):
    model = tiny_model(**PORTABLE)
    ids, _ = ids_and_targets(model, T=8)
    shifted = model(ids, positions=torch.arange(8)[None].expand(3, 8) + 20)
    assert (shifted - model(ids)).abs().max() < 1e-4
    mixed = model(ids, positions=torch.arange(0, 24, 3)[None].expand(3, 8))
    assert (mixed - model(ids)).abs().max() > 1e-2  # but they do matter


def test_bfloat16_is_near_and_keeps_fp32_parameters_and_logits(tiny_model):
    exact = tiny_model(**PORTABLE)
    model = GPT(exact.config, compute_dtype=torch.bfloat16)
    model.load_state_dict(exact.state_dict())
    ids, targets = ids_and_targets(model)
    logits = model(ids)
    assert logits.dtype is torch.float32 and (logits - exact(ids)).abs().max() < 0.3
    model.loss(ids, targets).backward()
    assert all(p.dtype is torch.float32 and p.grad.dtype is torch.float32 for p in model.parameters())


def test_logits_stay_inside_the_soft_cap(tiny_model):
    model = tiny_model(softcap=2.0)
    with torch.no_grad():
        model.lm_head.weight.mul_(100)
    logits = model(ids_and_targets(model)[0])
    assert 1.9 < logits.abs().max() <= 2.0


@pytest.mark.parametrize("wrong, field", [(dict(n_head=3, n_kv_head=2), "n_head 3"), (dict(head_dim=7), "head_dim 7")])
def test_impossible_shapes_are_refused(wrong, field):
    with pytest.raises(AssertionError, match=field):
        GPTConfig(**wrong)


def as_on_a_gpu(monkeypatch) -> None:
    """Through the operations that a GPU is given, computed by the CPU."""
    monkeypatch.setattr(gpt, "use_fused_ops", lambda device: True)


@pytest.mark.parametrize("n_kv_head", [1, 2, 4])
def test_one_product_and_one_norm_give_what_three_and_two_give(monkeypatch, n_kv_head):
    config = GPTConfig(sequence_len=16, vocab_size=50, n_layer=2, n_head=4, n_kv_head=n_kv_head, n_embd=32, head_dim=8)
    model = GPT(config).double()
    model.compute_dtype = torch.float64
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=draw) * 0.3)
    ids = torch.randint(50, (2, 16), generator=draw)
    results = []
    for fused in (False, True):
        if fused:
            as_on_a_gpu(monkeypatch)
        model.zero_grad()
        loss = model.loss(ids, ids)
        loss.backward()
        results.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
    # The norm is computed in fp32 in the one way, in fp64 in the other.
    assert all((a - b).abs().max() < 1e-5 * a.abs().max().clamp_min(1e-9) for a, b in zip(*results))


def test_thin_matrices_beside_the_big_ones_are_not_lost_in_one_product(monkeypatch):
    model = GPT(GPTConfig(16, 50, 2, 2, 2, 16, 8)).init_weights(0)
    lora.attach(model, 2)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("lora_b"):
                p.fill_(0.1)
    ids = torch.arange(16)[None]
    expected = model(ids)
    as_on_a_gpu(monkeypatch)
    assert (model(ids) - expected).abs().max() < 1e-5


class Operations(TorchDispatchMode):
    """Counts what a device is given to do; a view is nothing to do. Attention and the norm are one operation each, as
    their kernels for GPUs are."""

    VIEWS = {"view", "transpose", "t", "slice", "select", "unsqueeze", "expand", "split", "split_with_sizes", "alias",
             "_unsafe_view", "detach", "unbind", "permute", "squeeze", "as_strided"}

    def __init__(self):
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += function.overloadpacket.__name__ not in self.VIEWS
        return function(*args, **(kwargs or {}))


def test_a_decode_step_of_d20_starts_few_operations(monkeypatch):
    """1,493 before, of 6 µs each on a GPU. runs/speedrun.py counts with DECODE_OPERATIONS for each layer."""
    with torch.device("meta"):
        model = GPT(GPTConfig(n_layer=20), torch.bfloat16)
    model = model.to("meta").to(torch.bfloat16)
    ids = torch.zeros(32, 1, dtype=torch.int64, device="meta")
    cache = SlotCache(20, 10, 128, 32, 256, torch.bfloat16, torch.device("meta"))
    monkeypatch.setattr(gpt, "norm", lambda x: x.neg())  # one operation of the same shape
    monkeypatch.setattr(gpt, "attend", lambda q, k, v, mask: q.neg())
    with torch.no_grad():
        view = cache.plan(slice(0, 32), [100] * 32, 1)
        with Operations() as counted:
            model.logits(model.hidden(ids, cache=view, positions=view.positions, previous_ids=ids)[:, 0])
    assert 20 * 20 < counted.number <= 20 * speedrun.DECODE_OPERATIONS + 50
