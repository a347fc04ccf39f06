import pytest
import torch

from nanochat.infer import Engine
from nanochat.infer.cache import SlotCache

from .twins import check_answers, greedy, naive_answer


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


class Failing:
    """While it is used, the allocation with this number fails, as it does when memory runs out."""

    def __init__(self, monkeypatch, method, number):
        self.calls, real = 0, getattr(torch.Tensor, method)

        def allocate(*args, **settings):
            self.calls += 1
            if self.calls == number:
                raise torch.OutOfMemoryError("out of memory")
            return real(*args, **settings)

        monkeypatch.setattr(torch.Tensor, method, allocate)


@pytest.mark.parametrize("number", [1, 2])
def test_without_memory_keys_and_values_both_stay_as_they_were(monkeypatch, number):
    cache = make()
    cache.reserve(2, 32)
    cache.keys.normal_()
    cache.values.normal_()
    before = cache.keys.clone(), cache.values.clone()
    for method, change in (("new_zeros", lambda: cache.reserve(4, 100)), ("clone", lambda: cache.swap(0, 1, 5, 9))):
        with monkeypatch.context() as patch:
            Failing(patch, method, number)
            with pytest.raises(torch.OutOfMemoryError):
                change()
        assert torch.equal(cache.keys, before[0]) and torch.equal(cache.values, before[1])
    cache.reserve(4, 100)
    assert cache.keys.shape == cache.values.shape == (2, 4, 1, 100, 4)
    cache.swap(0, 1, 5, 9)
    assert torch.equal(cache.keys[:, 1, :, :5], before[0][:, 0, :, :5])
    assert torch.equal(cache.values[:, 0, :, :9], before[1][:, 1, :, :9])


@pytest.mark.parametrize("method, number", [("new_zeros", 2), ("new_zeros", 4), ("clone", 2), ("clone", 4)])
def test_after_a_step_without_memory_the_next_answers_are_right(model, tokenizer, monkeypatch, method, number):
    """What serve/worker.py does: all requests of the step are cancelled, and the engine goes on with others."""
    engine = Engine(model, tokenizer, max_rows=4, prefix_cache=True, step_tokens=16)
    prompts = [list(range(30)), [*range(20), 7], [5, 6], list(range(40)), [9] * 25]
    with monkeypatch.context() as patch:
        Failing(patch, method, number)
        requests = [engine.submit(prompt, greedy(3 + 2 * i)) for i, prompt in enumerate(prompts)]
        with pytest.raises(torch.OutOfMemoryError):
            for _ in range(40):
                engine.step()
    for request in requests:
        engine.cancel(request)
    later = [engine.submit(prompt, greedy(10)) for prompt in prompts * 2]
    while not all(request.stop_reason for request in later):
        engine.step()
    check_answers(later, lambda prompt, max_tokens: naive_answer(model, prompt, max_tokens, temperature=0.0))
    assert engine.slots.num_reused_tokens, "the cancelled requests' keys and values served again"
