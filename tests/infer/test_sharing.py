"""Prefix reuse, prompts in chunks, cancelling: what nobody may notice. The slow twin here is plain arithmetic: a model
whose next token is a function of every token it can see, so a single wrong, missing or foreign position shows."""

import random

import pytest
import torch

from nanochat.infer import Engine
from nanochat.model import GPTConfig


class Tape:
    """Stores each token's id as its key; says (7·Σ visible ids + 3·last + 5·the one before + 11·position) mod 251."""

    compute_dtype = torch.float32
    config = GPTConfig(64, 309, n_layer=1, n_head=1, n_kv_head=1, n_embd=4, head_dim=2)

    def __init__(self):
        self.widths = []

    def parameters(self):
        return iter([torch.zeros(1)])

    def hidden(self, ids, cache, positions, previous_ids=None):
        self.widths.append(ids.numel())
        keys, values, mask = cache.append(0, ids[:, None, :, None].float().expand(-1, 1, -1, 2), ids[:, None, :, None])
        assert torch.equal(keys, values.to(keys.dtype).expand_as(keys))
        seen = ids.cumsum(1) if mask is None else (keys[:, 0, None, :, 0] * mask[:, 0]).sum(-1).long()  # (B, T)
        first = torch.full_like(ids[:, :1], -1) if previous_ids is None else previous_ids
        previous = torch.cat([first, ids[:, :-1]], 1)
        return ((7 * seen + 3 * ids + 5 * previous + 11 * positions) % 251)[:, :, None]

    def logits(self, hidden):
        return torch.nn.functional.one_hot(hidden[:, 0], 309).float() * 100


def said(prompt, num_tokens):
    ids = list(prompt)
    for _ in range(num_tokens):
        ids.append((7 * sum(ids) + 3 * ids[-1] + 5 * (ids[-2] if len(ids) > 1 else -1) + 11 * (len(ids) - 1)) % 251)
    return ids[len(prompt):]


def check_books(engine, requests):
    """Every request is in exactly one place, and every slot holds the tokens of its owner."""
    live = [one for one in requests if not one.stop_reason]
    owners = [one for one in engine.slots if one is not None]
    assert len(set(map(id, owners))) == len(owners) <= engine.max_rows
    for one in live:
        assert (one in engine.waiting) + (one in owners) == 1
    assert all(one in owners for one in live if one.ids), "a running request lost its slot"
    for slot, one in enumerate(engine.slots):
        assert (slot < engine.num_running) <= (one is not None)
        if one is not None and one.cached:
            kept = engine.cache.keys[0, slot, 0, :one.cached, 0].long().tolist()
            assert kept == [*one.prompt, *one.ids][:one.cached]


def play(engine, num_steps, seed):
    """Random arrivals, lengths, common beginnings and cancels; returns all requests with what they were to say."""
    draw = random.Random(seed)
    openings = [[draw.randrange(250) for _ in range(n)] for n in (0, 3, 20, 40)]
    requests = []
    for step in range(num_steps):
        if draw.random() < (0.9 if step % 200 < 100 else 0.1):  # floods, then quiet times
            prompt = draw.choice(openings) + [draw.randrange(250) for _ in range(draw.choice([1, 1, 2, 9, 20]))]
            if requests and draw.random() < 0.3:  # the next turn of a chat, or the same question again
                before = draw.choice(requests[-20:])
                prompt = [*before.prompt, *before.ids, 7][:60] if draw.random() < 0.7 else list(before.prompt)
            requests.append(engine.submit(prompt, draw.randrange(1, 20), 0.0, stop_ids=[], events=False))
        if requests and draw.random() < 0.1:
            engine.cancel(draw.choice(requests[-10:]))
        engine.step()
        if step % 10 == 0:
            check_books(engine, requests[-60:])
    while any(not one.stop_reason for one in requests):
        engine.step()
    return requests


@pytest.mark.parametrize("prefix_cache, step_tokens, max_rows",
                         [(False, None, 4), (True, None, 5), (False, 7, 3), (True, 7, 4), (True, 16, 1), (True, 1, 9)])
def test_ten_thousand_random_steps_change_nothing(tokenizer, prefix_cache, step_tokens, max_rows):
    model = Tape()
    engine = Engine(model, tokenizer, None, max_rows, prefix_cache, step_tokens)
    requests = play(engine, 1700, seed=max_rows)  # six settings: ten thousand in all
    for one in requests:
        expected = said(one.prompt, one.max_tokens)
        assert one.ids == expected[:len(one.ids)]
        assert one.stop_reason == "cancel" or one.ids == expected and one.stop_reason == "length"
    engine.step()
    assert not engine.waiting and not engine.num_running
    if step_tokens:
        assert max(model.widths) <= max(step_tokens, max_rows)
    assert engine.num_reused_tokens > 0 and (prefix_cache or not any(engine.slots))


def test_a_chats_next_turn_reads_only_the_new_message(tokenizer):
    engine = Engine(Tape(), tokenizer, None, 2, prefix_cache=True)
    first = engine.generate([list(range(30))], 10, 0.0, stop_ids=[])[0][0]
    read = engine.num_prompt_tokens
    assert read == 29
    engine.generate([[*range(30), *first.ids, 3, 4, 5]], 5, 0.0, stop_ids=[])
    assert engine.num_prompt_tokens - read == 3  # the last id of the answer, 3 and 4; 5 is fed by the decode
    engine.generate([[9] * 20], 5, 0.0, stop_ids=[])  # the other slot is free: the chat is still known
    engine.generate([[*range(30), *first.ids, 3, 4, 6]], 5, 0.0, stop_ids=[])
    assert engine.num_prompt_tokens - read == 3 + 19 + 0


def test_a_long_prompt_does_not_hold_up_those_who_are_answered(tokenizer):
    engine = Engine(Tape(), tokenizer, None, 4, step_tokens=8)
    talking = engine.submit([1], 40, 0.0, stop_ids=[])
    engine.step()
    reading = engine.submit(list(range(60)), 4, 0.0, stop_ids=[])
    steps = 0
    while not reading.ids:
        engine.step()
        steps += 1
        assert len(talking.ids) == steps + 1
    assert steps == -(-59 // 7)  # seven prompt tokens a step beside the one that is decoded


def test_a_cancelled_request_is_gone_in_the_next_step_wherever_it_was(tokenizer):
    engine = Engine(Tape(), tokenizer, None, 2, step_tokens=8)
    running, reading, waiting = (engine.submit([1] * n, 40, 0.0, stop_ids=[]) for n in (1, 50, 2))
    engine.step()
    assert engine.running == [running] and engine.reading == [reading] and list(engine.waiting) == [waiting]
    for one in (reading, running):
        engine.cancel(one)
    assert engine.step() == [waiting] and engine.slots == [waiting, None]


def test_cold_and_warm_cache_say_the_same_with_a_real_model(model, tokenizer):
    draw = random.Random(3)
    system = [draw.randrange(256) for _ in range(40)]
    prompts = [system + [draw.randrange(256) for _ in range(n)] for n in (1, 5, 17, 30)] + [[5, 6, 7]]
    for settings in (dict(temperature=0.0), dict(temperature=1.0, top_p=0.9), dict(temperature=0.9, min_p=0.05)):
        cold = [Engine(model, tokenizer).generate([one], 12, stop_ids=[], **settings)[0][0].ids for one in prompts]
        warm = Engine(model, tokenizer, max_rows=3, prefix_cache=True, step_tokens=10)
        for _ in range(2):  # the second time everything is known
            assert [one.ids for [one] in warm.generate(prompts, 12, stop_ids=[], **settings)] == cold
        assert warm.num_reused_tokens > 100
