import numpy as np
import torch

from nanochat.infer import SamplingParams
from nanochat.infer.sampling import Sampler, row_key, uniforms

CPU = torch.device("cpu")


def make_sampler(params):
    return Sampler([row_key(0, (1,), i) for i in range(len(params))], params, CPU)


def test_uniforms_are_uniform_and_never_one():
    keys = np.array([row_key(1, (2, 3), i) for i in range(4)], dtype=np.uint64)
    u = np.stack([uniforms(keys, np.full(4, position, dtype=np.uint64)) for position in range(20_000)])
    assert u.dtype == np.float32 and u.min() >= 0 and u.max() < 1
    assert np.abs(u.mean(0) - 0.5).max() < 0.01 and np.abs(u.var(0) - 1 / 12).max() < 0.003
    assert np.abs(np.corrcoef(u.T) - np.eye(4)).max() < 0.03  # rows know nothing of each other
    assert abs(np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]) < 0.03  # nor positions


def test_draws_follow_the_distribution():
    logits = torch.tensor([[2.0, 0.0, -1.0, float("-inf"), 1.0]]).expand(4000, 5)
    # probabilities at temperature 1: .64 .09 .03 0 .24, at .5: .864 .016 .002 0 .117
    for temperature, top_k, top_p, min_p, support in (
            (1.0, None, 1.0, 0.0, [0, 1, 2, 4]), (0.5, None, 1.0, 0.0, [0, 1, 2, 4]), (1.0, 2, 1.0, 0.0, [0, 4]),
            (1.0, None, 0.9, 0.0, [0, 1, 4]), (1.0, None, 0.85, 0.0, [0, 4]), (0.5, None, 0.87, 0.0, [0, 4]),
            (1.0, None, 0.0, 0.0, [0]), (1.0, 1, 0.99, 0.0, [0]), (1.0, None, 1.0, 0.1, [0, 1, 4]),
            (1.0, None, 1.0, 0.2, [0, 4]), (1.0, 3, 1.0, 1.0, [0]), (0.5, None, 0.999, 0.05, [0, 4])):
        params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
        drawn = make_sampler([params] * 4000).draw(logits, [7] * 4000)
        expected = torch.zeros(5)
        expected[support] = torch.softmax(logits[0, support] / temperature, 0)
        got = torch.bincount(drawn, minlength=5) / 4000
        assert (got - expected).abs().max() < 0.03  # 0.03 is 3.8 standard errors of a frequency of 0.5
        assert (got[expected == 0] == 0).all()


def test_rows_keep_their_own_settings_in_any_company():
    logits = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    settings = [(0.0, None, 0.5, 0.5), (1.0, 3, 1.0, 0.1), (0.5, 1, 1.0, 0.0), (1.0, 50, 0.7, 0.0),
                (2.0, None, 0.9, 0.01), (0.0, 2, 1.0, 0.0)]
    params = [SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
              for temperature, top_k, top_p, min_p in settings]
    together = make_sampler(params).draw(logits, [3, 4, 5, 6, 7, 8])
    for i in range(6):
        alone = Sampler([row_key(0, (1,), i)], params[i:i + 1], CPU).draw(logits[i:i + 1], [3 + i])
        assert alone.item() == together[i].item()
    assert together[[0, 2, 5]].tolist() == logits[[0, 2, 5]].argmax(-1).tolist()  # temperature 0 and top_k 1
