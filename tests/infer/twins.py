"""Slow and obvious twins of the engine, and models whose answers are known beforehand."""

import random

import torch

from nanochat.infer import SamplingParams
from nanochat.infer.sampling import Sampler, row_key
from nanochat.model import GPTConfig


def naive_answer(model, prompt, max_tokens, sample=0, **settings):
    """The answer of `model` without cache and batch: the whole sequence goes through the model for every token."""
    params = SamplingParams(**settings)
    ids = list(prompt)
    sampler = Sampler([row_key(params.seed, tuple(prompt), sample)], [params], torch.device("cpu"))
    with torch.no_grad():
        for _ in range(max_tokens):
            ids.append(sampler.draw(model(torch.tensor([ids]))[:, -1], [len(ids) - 1]).item())
    return ids[len(prompt):]


class Script:
    """A model that says `tokens`, one after the other, whatever it is fed; it remembers what it was fed."""

    compute_dtype = torch.float32

    def __init__(self, config, tokens):
        self.config, self.tokens, self.fed = config, tokens, []

    def parameters(self):
        return iter([torch.zeros(1)])

    def hidden(self, ids, cache, positions, previous_ids=None):
        self.fed.append(ids[0, 0].item())
        return positions[:, :, None].float()  # (1, 1, 1)

    def logits(self, hidden):
        logits = torch.zeros(len(hidden), self.config.vocab_size)
        logits[0, self.tokens[int(hidden[0, 0])]] = 50.0
        return logits


class Adder:
    """A model whose next token depends on every token it can see, so that one wrong, missing or foreign position shows:
    (7·Σ visible ids + 3·last + 5·previous + 11·position) mod 251. The keys it stores are the ids.
    """

    compute_dtype = torch.float32
    config = GPTConfig(64, 309, n_layer=1, n_head=1, n_kv_head=1, n_embd=4, head_dim=2)

    def __init__(self):
        self.widths = []  # tokens of every forward pass, with padding

    def parameters(self):
        return iter([torch.zeros(1)])

    def hidden(self, ids, cache, positions, previous_ids=None):
        self.widths.append(ids.numel())
        keys, values, mask = cache.append(0, ids[:, None, :, None].float().expand(-1, 1, -1, 2), ids[:, None, :, None])
        assert torch.equal(keys, values.to(keys.dtype).expand_as(keys))
        visible = ids.cumsum(1) if mask is None else (keys[:, 0, None, :, 0] * mask[:, 0]).sum(-1).long()  # (B, T)
        first = torch.full_like(ids[:, :1], -1) if previous_ids is None else previous_ids
        previous = torch.cat([first, ids[:, :-1]], 1)
        return ((7 * visible + 3 * ids + 5 * previous + 11 * positions) % 251)[:, :, None]

    def logits(self, hidden):
        return torch.nn.functional.one_hot(hidden[:, 0], 309).float() * 100

    @staticmethod
    def answer(prompt, max_tokens):
        """The same by plain arithmetic."""
        ids = list(prompt)
        for _ in range(max_tokens):
            previous = ids[-2] if len(ids) > 1 else -1
            ids.append((7 * sum(ids) + 3 * ids[-1] + 5 * previous + 11 * (len(ids) - 1)) % 251)
        return ids[len(prompt):]


def greedy(max_tokens, **settings):
    """Settings of a greedy answer that only its length ends."""
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, stop_ids=[], **settings)


def is_idle(engine):
    return not (engine.running or engine.slots.waiting or engine.slots.reading)


def random_traffic(engine, num_requests: int, longest: int) -> list:
    """Random requests that arrive while others are being answered, some of them cancelled."""
    draw = random.Random(1)
    requests = []
    while len(requests) < num_requests or not is_idle(engine):
        if len(requests) < num_requests and draw.random() < 0.6:
            prompt = draw.choice([[draw.randrange(250)], list(range(20)), [7] * draw.randrange(1, longest)])
            requests.append(engine.submit(prompt, greedy(draw.randrange(1, 20))))
        if requests and draw.random() < 0.05:
            engine.cancel(draw.choice(requests))
        engine.step()
    return requests


def check_answers(requests, answer):
    """Every answer is that of `answer(prompt, max_tokens)`, or its beginning if the request was cancelled."""
    for request in requests:
        expected = answer(request.prompt, request.room)
        assert request.ids == expected[:len(request.ids)]
        assert request.stop_reason == "cancel" or len(request.ids) == len(expected)
