import pytest

from nanochat.optim import Schedule


def test_the_rate_at_its_edges():
    assert [Schedule(4, warmdown_fraction=0).lr(step) for step in range(4)] == [1.0] * 4
    assert [Schedule(4, warmdown_fraction=1.0).lr(step) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert Schedule(3, warmup_steps=100).lr(2) == 0.03  # the run ends inside its warm-up


@pytest.mark.parametrize("steps", [1, 1000, 21_400])
def test_momentum_rises_and_weight_decay_falls(steps):
    schedule = Schedule(steps)
    momenta = [schedule.momentum(step) for step in range(steps)]
    assert momenta == sorted(momenta) and momenta[0] == 0.85 and momenta[-1] <= 0.95
    assert steps == 1 or momenta[-1] == pytest.approx(0.95)
    decays = [schedule.weight_decay(step) for step in range(steps + 1)]
    assert decays == sorted(decays, reverse=True) and decays[0] == 1 and decays[-1] == 0
    assert all(0 < schedule.lr(step) <= 1 for step in range(steps))
