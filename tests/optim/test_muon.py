"""Muon against an update computed number by number, and its orthogonalisation against a decomposition."""
import math

import pytest
import torch

from nanochat.optim import muon

SHAPES = [(8, 8), (24, 8), (8, 24), (5, 1), (1, 6)]


def with_singular_values(shape, values, seed=0):
    generator = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(shape[0], shape[0], generator=generator)).Q
    v = torch.linalg.qr(torch.randn(shape[1], shape[1], generator=generator)).Q
    k = len(values)
    return u[:, :k] @ torch.diag(torch.as_tensor(values)) @ v[:, :k].T


def orthogonalize_slow(matrices):
    """The definition, U·Vᵀ of each matrix U·S·Vᵀ, by singular value decomposition."""
    u, _, vh = torch.linalg.svd(matrices.double(), full_matrices=False)
    return (u @ vh).float()


def after_five_steps(values):
    """What the polynomials make of singular values (of matrices with Frobenius norm 1)."""
    values = values / 1.02
    for a, b, c in muon.POLAR_EXPRESS:
        values = a * values + b * values**3 + c * values**5
    return values


def test_every_singular_value_above_a_thousandth_ends_near_one():
    ends = after_five_steps(torch.logspace(-3, 0, 100_000, dtype=torch.float64))
    assert 0.84 < ends.min() and ends.max() < 1.15


@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_the_singular_values_change(shape, dtype):
    values = torch.tensor([10.0, 5.0, 2.0, 1.0, 0.5, 0.3, 0.1, 0.05])
    x = torch.stack([with_singular_values(shape, values, seed) for seed in range(3)])
    near, exact = muon.orthogonalize(x, dtype), orthogonalize_slow(x)
    assert near.dtype is torch.float32 and near.shape == x.shape
    assert (torch.linalg.svdvals(exact) - 1).abs().max() < 1e-5
    assert (torch.linalg.matrix_norm(near - exact) / torch.linalg.matrix_norm(exact)).max() < 0.16
    if dtype is torch.float32:  # in bf16 the smallest, 0.4 % of the norm, is as large as the rounding, and turns
        expected = after_five_steps(values / values.norm()).sort(descending=True).values
        assert (torch.linalg.svdvals(near) - expected).abs().max() < 1e-4
        assert torch.linalg.matrix_norm(near - exact, 2).max() < 0.16


def test_scale_does_not_matter_and_zero_stays_zero():
    x = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    assert (muon.orthogonalize(1e4 * x, torch.float32) - muon.orthogonalize(x, torch.float32)).abs().max() < 1e-4
    assert not muon.orthogonalize(torch.zeros(2, 6, 4), torch.float32).any()


def times(a, b):
    return [[sum(x * y for x, y in zip(row, column)) for column in zip(*b)] for row in a]


def slow_polynomial(matrix):
    """Polar Express on a list of lists, in double precision."""
    turned = len(matrix) > len(matrix[0])
    x = [list(row) for row in zip(*matrix)] if turned else [list(row) for row in matrix]
    size = math.sqrt(sum(value * value for row in x for value in row)) * 1.02 + 1e-6
    x = [[value / size for value in row] for row in x]
    for a, b, c in muon.POLAR_EXPRESS:
        gram = times(x, [list(row) for row in zip(*x)])
        square = times(gram, gram)
        mixed = [[b * g + c * s for g, s in zip(*rows)] for rows in zip(gram, square)]
        x = [[a * value + more for value, more in zip(*rows)] for rows in zip(x, times(mixed, x))]
    return [list(row) for row in zip(*x)] if turned else x


def slow_update(weight, grad, state, lr, beta, weight_decay, beta_square=0.95):
    """The whole rule for one matrix, number by number."""
    rows, columns = len(weight), len(weight[0])
    cells = [(i, j) for i in range(rows) for j in range(columns)]
    for i, j in cells:
        state["momentum"][i][j] = beta * state["momentum"][i][j] + (1 - beta) * grad[i][j]
    nesterov = [[(1 - beta) * grad[i][j] + beta * state["momentum"][i][j] for j in range(columns)] for i in range(rows)]
    update = slow_polynomial(nesterov)
    line_of = (lambda i, j: i) if rows >= columns else (lambda i, j: j)
    lines, width = max(rows, columns), min(rows, columns)
    now = [0.0] * lines
    for i, j in cells:
        now[line_of(i, j)] += update[i][j] ** 2 / width
    state["square"] = [beta_square * old + (1 - beta_square) * new for old, new in zip(state["square"], now)]
    before = math.sqrt(sum(value * value for row in update for value in row))
    update = [[update[i][j] / math.sqrt(max(state["square"][line_of(i, j)], 1e-10)) for j in range(columns)]
              for i in range(rows)]
    after = math.sqrt(sum(value * value for row in update for value in row))
    step = lr * math.sqrt(max(1, rows / columns))
    for i, j in cells:
        change = update[i][j] * (before / after if after else 0)
        shrink = step * weight_decay if change * weight[i][j] >= 0 else 0
        weight[i][j] += -shrink * weight[i][j] - step * change


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_the_whole_update_is_its_slow_twin(settings, shape, weight_decay):
    generator = torch.Generator().manual_seed(1)
    params = [torch.randn(shape, generator=generator) for _ in range(3)]
    state = muon.state(params, params[0])
    slow = [p.double().tolist() for p in params]
    slow_states = [{"momentum": torch.zeros(shape).tolist(), "square": [0.0] * max(shape)} for _ in params]
    for step in range(6):
        grads = [torch.randn(shape, generator=generator) * 10.0 ** (step - 3) for _ in params]
        if step == 3:
            grads[1].zero_()
        rates = dict(lr=0.02 * (step + 1), weight_decay=weight_decay)
        muon.update(params, grads, state, settings(momentum=0.85 + 0.01 * step, **rates))
        for weight, grad, slow_state in zip(slow, grads, slow_states):
            slow_update(weight, grad.double().tolist(), slow_state, beta=0.85 + 0.01 * step, **rates)
        for p, weight in zip(params, slow):
            assert (p - torch.tensor(weight)).abs().max() < 2e-5


def test_matrices_in_one_batch_are_updated_as_if_alone(settings):
    generator = torch.Generator().manual_seed(2)
    together = [torch.randn(6, 4, generator=generator) for _ in range(3)]
    grads = [torch.randn(6, 4, generator=generator) for _ in range(3)]
    alone = [p.clone() for p in together]
    muon.update(together, grads, muon.state(together, together[0]), settings(weight_decay=0.1))
    for p, grad in zip(alone, grads):
        muon.update([p], [grad], muon.state([p], p), settings(weight_decay=0.1))
    assert all((a - b).abs().max() < 1e-6 for a, b in zip(together, alone))
