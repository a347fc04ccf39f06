import torch

from nanochat.infer.cache import SlotCache


def make(max_rows=4, max_len=100):
    return SlotCache(2, 1, 4, max_rows, max_len, torch.float32, torch.device("cpu"))


def test_chunks_and_steps_see_what_was_stored():
    cache = make()
    k = torch.randn(2, 1, 7, 4)
    view = cache.plan(slice(1, 3), [0, 0], 3)
    assert view.positions.tolist() == [[0, 1, 2]] * 2
    keys, _, mask = view.append(0, k[:, :, :3], k[:, :, :3])
    assert mask is None and torch.equal(keys, k[:, :, :3])
    view = cache.plan(slice(1, 3), [3, 2], 2)  # a chunk of two; the second row overwrites its padding
    assert view.positions.tolist() == [[3, 4], [2, 3]]
    keys, values, mask = view.append(0, k[:, :, 3:5], k[:, :, 3:5] * 2)
    assert keys.shape[2] == 32 and mask.shape == (2, 1, 2, 32)
    assert mask[:, 0].sum(-1).tolist() == [[4, 5], [3, 4]]
    assert torch.equal(keys[0, :, :5], k[0, :, :5])
    assert torch.equal(keys[1, :, :4], torch.cat([k[1, :, :2], k[1, :, 3:5]], 1))
    assert torch.equal(values[0, :, 3:5], k[0, :, 3:5] * 2)


def test_growing_and_copying_keep_the_contents():
    cache = make()
    view, k = cache.plan(slice(0, 1), [0], 5), torch.randn(1, 1, 5, 4)
    for layer in range(2):
        view.append(layer, k, k)
    cache.copy(0, 3, 5)
    cache.reserve(4, 100)
    assert cache.keys.shape == (2, 4, 1, 100, 4)
    assert torch.equal(cache.keys[1, 3, :, :5], k[0]) and torch.equal(cache.values[0, 0, :, :5], k[0])
    assert not cache.keys[:, :, :, 5:].any()
