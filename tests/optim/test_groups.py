"""Which parameter gets which rule, and the optimizer: saved, loaded, and with a rule of its own."""
import itertools

import pytest
import torch

from nanochat.optim import Optimizer, Schedule, sharding
from nanochat.optim.groups import RULES, Group, groups_of

RATES = dict(matrix_lr=0.02, embedding_lr=0.3, head_lr=0.008)


@pytest.mark.parametrize("features", [
    dict(value_embeddings=a, residual_scalars=b, smear=c, gated_smear=not c, backout=b)
    for a, b, c in itertools.product([False, True], repeat=3)])
def test_every_parameter_is_in_exactly_one_group(tiny_model, features):
    model = tiny_model(n_layer=3, **features)
    groups = groups_of(model, **RATES)
    names = {p: name for name, p in model.named_parameters()}
    grouped = [names[p] for group in groups for p in group.params]
    assert sorted(grouped) == sorted(names.values())
    for group in groups:
        inside = {names[p] for p in group.params}
        matrices = {name for name in inside if "_proj." in name or ".fc" in name}
        assert matrices == (inside if group.rule == "muon" else set())
        assert group.rule == "adamw" or len({p.shape for p in group.params}) == 1


def test_rates_follow_the_width(tiny_model):
    rates = {}
    for width in (16, 64):
        model = tiny_model(n_embd=width)
        names = {p: name for name, p in model.named_parameters()}
        rates[width] = {names[p]: group.lr for group in groups_of(model, **RATES, scalar_lr=0.4) for p in group.params}
    assert rates[16]["model.embed_tokens.weight"] == pytest.approx(0.3 * (16 / 768) ** -0.5)
    assert rates[64]["lm_head.weight"] == pytest.approx(rates[16]["lm_head.weight"] / 2)
    assert rates[64]["model.layers.0.mlp.fc1.weight"] == rates[16]["model.layers.0.mlp.fc1.weight"] == 0.02
    assert rates[64]["model.embedding_scalars"] == 0.4


def test_a_parameter_without_a_rule_is_an_error(tiny_model):
    model = tiny_model()
    model.odd = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(AssertionError, match="no rule for .'odd'"):
        groups_of(model, **RATES)


def make(tiny_model, seed=0):
    model = tiny_model(seed)
    return model, Optimizer(groups_of(model, **RATES, weight_decay=0.1))


def train(model, optimizer, steps):
    for step in steps:
        ids = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(step))
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step(Schedule(10), step)
        assert all(p.grad is None for p in model.parameters())


def test_a_step_moves_every_parameter_and_lowers_the_loss(tiny_model):
    model, optimizer = make(tiny_model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    ids = torch.randint(64, (2, 9), generator=torch.Generator().manual_seed(0))
    first = model.loss(ids[:, :-1], ids[:, 1:]).item()
    train(model, optimizer, [0])
    assert all(not torch.equal(before[name], p) for name, p in model.named_parameters())
    assert model.loss(ids[:, :-1], ids[:, 1:]).item() < first


def test_saved_and_loaded_it_goes_on_bit_for_bit(tiny_model, tmp_path):
    model, optimizer = make(tiny_model)
    train(model, optimizer, range(3))
    torch.save({"optimizer": optimizer.state_dict(), "model": model.state_dict()}, tmp_path / "x.pt")
    train(model, optimizer, range(3, 6))
    again, resumed = make(tiny_model, seed=5)
    saved = torch.load(tmp_path / "x.pt", weights_only=True)
    again.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(again, resumed, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
    assert resumed.updates == 6


def test_moments_of_another_model_are_refused(tiny_model):
    _, optimizer = make(tiny_model)
    for other in (dict(n_embd=32), dict(n_layer=3), dict(value_embeddings=False)):
        wrong = Optimizer(groups_of(tiny_model(**other), **RATES))
        with pytest.raises(ValueError):
            wrong.load_state_dict(optimizer.state_dict())


class Signs:
    """A third rule: it moves every element against the sign of its gradient, and counts its steps."""

    WHOLE_MATRICES = False

    @staticmethod
    def state(params, like):
        return {"steps": [torch.zeros_like(p) for p in params]}

    @staticmethod
    def update(params, grads, state, settings):
        for p, grad, steps in zip(params, grads, state["steps"], strict=True):
            p -= settings.lr * grad.sign()
            steps += 1


def test_a_new_rule_is_a_module_and_an_entry_in_the_table(monkeypatch):
    monkeypatch.setitem(RULES, "signs", Signs)
    p = torch.nn.Parameter(torch.zeros(3))
    optimizer = Optimizer([Group("signs", [p], lr=0.5)])
    p.grad = torch.tensor([3.0, -0.1, 0.0])
    optimizer.step(Schedule(10, warmdown_fraction=0), 0)
    assert p.tolist() == [-0.5, 0.5, 0.0]
    again = Optimizer([Group("signs", [p], lr=0.5)])
    again.load_state_dict(optimizer.state_dict())
    assert again.groups[0].state["steps"][0].tolist() == [1, 1, 1]


def test_a_missing_gradient_counts_as_zero(tiny_model):
    model = tiny_model()
    optimizer = Optimizer(groups_of(model, **RATES))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.model.embed_tokens.weight.grad = torch.ones_like(model.model.embed_tokens.weight)
    optimizer.step(Schedule(10), 0)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"model.embed_tokens.weight"} and optimizer.updates == 1


def test_weight_decay_falls_to_nothing(tiny_model):
    model, optimizer = make(tiny_model)
    matrices = [p for group in optimizer.groups if group.rule == "muon" for p in group.params]
    before = [p.detach().clone() for p in matrices]
    optimizer.step(Schedule(10), 0)  # there are no gradients: only the decay changes something
    shrunk = [(a / b).mean().item() for a, b in zip(matrices, before)]
    optimizer.step(Schedule(10), 10)
    assert all(value < 1 for value in shrunk)
    assert all(torch.allclose(p, b * s, rtol=1e-5) for p, b, s in zip(matrices, before, shrunk))


def test_large_tables_need_no_copies_and_no_buffers(monkeypatch):
    """What several ranks do with them is compared with one rank in tests/train/test_ranks.py."""
    monkeypatch.setattr(sharding, "rank_and_world_size", lambda: (1, 8))
    monkeypatch.setattr(sharding, "LARGE", 64)
    tables = [torch.arange(128.0).view(16, 8), torch.arange(128.0, 256).view(16, 8)]
    cut = sharding.GroupSlice(tables, whole=False)
    assert cut.full is None and cut.mine.numel() == 32
    assert [piece.tolist() for piece in cut.tensors] == [list(range(16, 32)), list(range(144, 160))]
    assert all(piece.data_ptr() == table.view(-1)[16:].data_ptr() for piece, table in zip(cut.tensors, tables))
    for others, whole in ((tables, True), ([*tables, torch.zeros(3, 5)], False), ([torch.zeros(7, 11)] * 2, False)):
        assert sharding.GroupSlice(others, whole).full is not None, "matrices, small ones, and what does not divide"
