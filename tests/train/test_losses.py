import pytest
import torch

from nanochat.data.packing import Batch
from nanochat.train.losses import can_compile, mean_kl, weighted_nll


def batch(weights=None):
    ids = torch.randint(64, (3, 17), generator=torch.Generator().manual_seed(0))
    targets = ids[:, 1:].clone()
    targets[:, :4] = -1
    return Batch(ids[:, :-1], targets, {}, weights)


def test_without_weights_it_is_the_sum_of_nats(tiny_model):
    model, one = tiny_model(), batch()
    assert weighted_nll(model, False)(one).item() == model.loss(one.ids, one.targets, "sum").item()
    assert weighted_nll(model, False)(batch(torch.ones(3, 16))).item() == pytest.approx(
        model.loss(one.ids, one.targets, "sum").item(), rel=1e-6)


def test_its_gradient_is_that_of_reinforce(tiny_model):
    """−Σ A·∇log p(token), with log p from the logits and the sum written out."""
    model = tiny_model()
    weights = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    one = batch(weights)
    weighted_nll(model, False)(one).backward()
    got = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    log_probs = torch.log_softmax(model(one.ids), -1)
    for b in range(3):
        for t in range(16):
            if one.targets[b, t] >= 0:
                (-weights[b, t] * log_probs[b, t, one.targets[b, t]]).backward(retain_graph=True)
    for p, grad in zip(model.parameters(), got):
        assert (p.grad - grad).abs().max() < 1e-4 * max(1.0, p.grad.abs().max())


def test_a_machine_without_a_compiler_says_so_and_trains_anyway(monkeypatch, capsys):
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert can_compile(torch.device("cpu")) is False
    assert "apt install g++" in capsys.readouterr().out
    assert can_compile(torch.device("cuda")) is True and can_compile(torch.device("mps")) is False


@pytest.mark.parametrize("fails_at", [1, 3])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), RuntimeError("failed to map segment\n" * 70),
                                   BlockingIOError(11, "no more processes"), AssertionError()])
def test_where_compiling_fails_it_trains_uncompiled_and_says_so_once(tiny_model, monkeypatch, capsys, error, fails_at):
    """A temporary folder that is full or may not hold programs, a broken compiler, no room for another process."""
    calls = []

    def compile(function, **_):
        def compiled(*inputs):
            calls.append(inputs)
            if len(calls) >= fails_at:
                raise error
            return function(*inputs)
        return compiled

    monkeypatch.setattr(torch, "compile", compile)
    model = tiny_model()
    loss_of, plain = weighted_nll(model, True), weighted_nll(model, False)
    for _ in range(5):
        assert loss_of(batch()).item() == plain(batch()).item()
    printed = capsys.readouterr().out
    assert len(calls) == fails_at and printed.count("\n") == 1 and "uncompiled" in printed and len(printed) < 400


def test_errors_of_the_loss_itself_and_full_memory_are_not_hidden(tiny_model, monkeypatch, capsys):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    model = tiny_model()
    for error in (torch.OutOfMemoryError("no memory"), ValueError("ours")):
        monkeypatch.setattr(model, "loss", lambda *_, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(type(error)):
            weighted_nll(model, True)(batch())


@pytest.mark.slow
def test_a_compiler_that_is_broken(tmp_path, monkeypatch, tiny_model, capsys):
    (tmp_path / "c++").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    (tmp_path / "c++").chmod(0o755)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, str(tmp_path / "c++")))
    loss = weighted_nll(tiny_model(), True)(batch())
    loss.backward()
    assert "uncompiled" in capsys.readouterr().out


@pytest.mark.slow
def test_compiled_it_is_the_same(tiny_model):
    if not can_compile(torch.device("cpu")):
        pytest.skip("no C++ compiler or no Python headers here")
    results = []
    for compile in (False, True):
        model = tiny_model()
        loss_of = weighted_nll(model, compile)
        loss = loss_of(batch()) + loss_of(batch(torch.full((3, 16), 0.5)))
        loss.backward()
        results.append((loss.item(), [p.grad for p in model.parameters()]))
    (eager, grads), (compiled, others) = results
    assert compiled == pytest.approx(eager, rel=1e-5)
    assert all((a - b).abs().max() < 1e-4 * max(1.0, a.abs().max()) for a, b in zip(grads, others))


def test_kl_is_that_of_the_definition(tiny_model, cpu):
    model, reference = tiny_model(1).eval(), tiny_model(2).eval()
    draw = torch.Generator().manual_seed(0)
    answers = [(torch.randint(64, (n,), generator=draw).tolist(), torch.randint(2, (n,), generator=draw).tolist())
               for n in (5, 9, 3, 12, 2)] + [([1, 2, 3], [0, 0, 0])]
    slow = []
    with torch.no_grad():
        for ids, mask in answers:
            p, q = (one(torch.tensor([ids]))[0].double().softmax(-1) for one in (model, reference))
            slow += [(p[at - 1] * (p[at - 1] / q[at - 1]).log()).sum().item() for at in range(1, len(ids)) if mask[at]]
    assert mean_kl(model, reference, answers, 2, cpu.device) == pytest.approx(sum(slow) / len(slow), rel=1e-4)
    assert mean_kl(model, model, answers, 4, cpu.device) == mean_kl(model, reference, answers[-1:], 4, cpu.device) == 0
