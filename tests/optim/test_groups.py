import itertools

import pytest
import torch

from nanochat.optim import Optimizer, Schedule, adamw
from nanochat.optim.groups import groups_of

RATES = dict(matrix_lr=0.02, embedding_lr=0.3, head_lr=0.008)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("betas, eps", [((0.9, 0.999), 1e-8), ((0.8, 0.95), 1e-10)])
def test_adamw_is_torchs(weight_decay, betas, eps):
    generator = torch.Generator().manual_seed(0)
    mine = [torch.randn(shape, generator=generator) for shape in [(5, 3), (7,), (1, 1)]]
    theirs = [torch.nn.Parameter(p.clone()) for p in mine]
    reference = torch.optim.AdamW(theirs, lr=1.0, betas=betas, eps=eps, weight_decay=weight_decay)
    moments = adamw.state(mine)
    for step in range(1, 12):
        grads = [torch.randn(p.shape, generator=generator) * (step % 3) for p in mine]  # zero every third time
        lr = 0.1 / step
        adamw.update(mine, grads, moments, step=step, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        reference.param_groups[0]["lr"] = lr
        for p, grad in zip(theirs, grads):
            p.grad = grad.clone()
        reference.step()
        assert all((a - b).abs().max() < 1e-6 for a, b in zip(mine, theirs))


@pytest.mark.parametrize("features", [dict(value_embeddings=a, residual_scalars=b, smear=c)
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


def test_a_missing_gradient_counts_as_zero(tiny_model):
    model, optimizer = make(tiny_model)
    head = model.lm_head.weight.detach().clone()
    model.model.embed_tokens.weight.grad = torch.ones_like(model.model.embed_tokens.weight)
    optimizer.step(Schedule(10), 0)
    assert torch.equal(head, model.lm_head.weight) and optimizer.updates == 1


def test_schedule_at_its_edges():
    assert [Schedule(4, warmdown_fraction=0).lr(step) for step in range(4)] == [1.0] * 4
    assert [Schedule(4, warmdown_fraction=1.0).lr(step) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert Schedule(10, warmdown_fraction=0.5, final_fraction=0.1).lr(9) == pytest.approx(0.1 + 0.9 * 0.2)
    assert Schedule(3, warmup_steps=100).lr(2) == 0.03  # stopped inside its warm-up
    for schedule in (Schedule(1), Schedule(1000), Schedule(21_400)):
        momenta = [schedule.momentum(step) for step in range(schedule.steps)]
        assert momenta == sorted(momenta) and momenta[0] == 0.85 and momenta[-1] <= 0.95
        assert schedule.steps == 1 or momenta[-1] == pytest.approx(0.95)
        assert all(0 < schedule.lr(step) <= 1 for step in range(schedule.steps))


def test_weight_decay_falls_to_nothing(tiny_model):
    model, optimizer = make(tiny_model)
    matrices = [p for group in optimizer.groups if group.rule == "muon" for p in group.params]
    before = [p.detach().clone() for p in matrices]
    optimizer.step(Schedule(10), 0)  # no gradients: what moves is decay alone
    shrunk = [(a / b).mean().item() for a, b in zip(matrices, before)]
    optimizer.step(Schedule(10), 10)
    assert all(value < 1 for value in shrunk)
    assert all(torch.allclose(p, b * s, rtol=1e-5) for p, b, s in zip(matrices, before, shrunk))
