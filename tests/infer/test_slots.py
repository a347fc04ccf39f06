"""Slots, shared beginnings, prompts in chunks, cancelling: bookkeeping that no answer may show."""

import gc
import random
import weakref

import pytest

from nanochat.infer import Engine

from .twins import Adder, check_answers, greedy, is_idle


def check_books(engine, requests):
    """Every request is in exactly one place, and every slot holds the tokens of its owner."""
    occupants, waiting = engine.slots.occupants, engine.slots.waiting
    owners = [row.request for row in occupants if row is not None]
    assert len(set(map(id, owners))) == len(owners) <= engine.max_rows
    for request in requests:
        if not request.stop_reason:
            assert (request in waiting) + (request in owners) == 1
            assert request in owners or not request.ids, "a running request lost its slot"
    for slot, row in enumerate(occupants):
        assert (slot < engine.slots.num_running) <= (row is not None)
        if row is not None and row.cached:
            stored = engine.cache.keys[0, slot, 0, :row.cached, 0].long().tolist()
            assert stored == [*row.request.prompt, *row.request.ids][:row.cached]


def play(engine, num_steps, seed):
    """Random arrivals, lengths, common beginnings and cancels, until all requests have ended."""
    draw = random.Random(seed)
    openings = [[draw.randrange(250) for _ in range(n)] for n in (0, 3, 20, 40)]
    requests = []
    for step in range(num_steps):
        if draw.random() < (0.9 if step % 200 < 100 else 0.1):  # floods, then quiet times
            prompt = draw.choice(openings) + [draw.randrange(250) for _ in range(draw.choice([1, 1, 2, 9, 20]))]
            if requests and draw.random() < 0.3:  # the next turn of a chat, or the same question again
                earlier = draw.choice(requests[-20:])
                next_turn = [*earlier.prompt, *earlier.ids, 7][:60]
                prompt = next_turn if draw.random() < 0.7 else list(earlier.prompt)
            requests.append(engine.submit(prompt, greedy(draw.randrange(1, 20)), events=False))
        if requests and draw.random() < 0.1:
            engine.cancel(draw.choice(requests[-10:]))
        engine.step()
        if step % 10 == 0:
            check_books(engine, requests[-60:])
    while any(not request.stop_reason for request in requests):
        engine.step()
    return requests


@pytest.mark.parametrize("prefix_cache, step_tokens, max_rows",
                         [(False, None, 4), (True, None, 5), (False, 7, 3), (True, 7, 4), (True, 16, 1), (True, 1, 9)])
def test_ten_thousand_random_steps_change_nothing(tokenizer, prefix_cache, step_tokens, max_rows):
    model = Adder()
    engine = Engine(model, tokenizer, max_rows=max_rows, prefix_cache=prefix_cache, step_tokens=step_tokens)
    check_answers(play(engine, 1700, seed=max_rows), Adder.answer)  # six settings: ten thousand steps in all
    engine.step()
    assert is_idle(engine)
    if step_tokens:
        assert max(model.widths) <= max(step_tokens, max_rows)
    assert engine.slots.num_reused_tokens > 0 and (prefix_cache or not any(engine.slots.occupants))


def test_the_next_turn_of_a_chat_reads_only_the_new_message(tokenizer):
    engine = Engine(Adder(), tokenizer, max_rows=2, prefix_cache=True)

    def num_read(prompt, max_tokens=5):
        already = engine.num_prompt_tokens
        [[completion]] = engine.generate([prompt], max_tokens=max_tokens, temperature=0.0, stop_ids=[])
        return engine.num_prompt_tokens - already, completion.ids

    first_prompt = list(range(30))
    num_tokens, answer = num_read(first_prompt, max_tokens=10)
    assert num_tokens == 29
    # The last id of the answer, 3 and 4; the decode step feeds 5.
    assert num_read([*first_prompt, *answer, 3, 4, 5])[0] == 3
    assert num_read([9] * 20)[0] == 19  # takes the other slot, which is free: the chat is still known
    assert num_read([*first_prompt, *answer, 3, 4, 6])[0] == 0


def test_a_long_prompt_does_not_hold_up_running_requests(tokenizer):
    engine = Engine(Adder(), tokenizer, max_rows=4, step_tokens=8)
    running = engine.submit([1], greedy(40))
    engine.step()
    reading = engine.submit(list(range(60)), greedy(4))
    steps = 0
    while not reading.ids:
        engine.step()
        steps += 1
        assert len(running.ids) == steps + 1
    assert steps == -(-59 // 7)  # seven prompt tokens a step beside the one that is decoded


def test_a_cancelled_request_is_gone_in_the_next_step_wherever_it_was(tokenizer):
    engine = Engine(Adder(), tokenizer, max_rows=2, step_tokens=8)
    running, reading, waiting = (engine.submit([1] * n, greedy(40)) for n in (1, 50, 2))
    engine.step()
    assert engine.running == [running] and list(engine.slots.waiting) == [waiting]
    assert [row.request for row in engine.slots.reading] == [reading]
    engine.cancel(reading)
    engine.cancel(running)
    assert engine.step() == [waiting]
    assert engine.running == [waiting] and engine.slots.occupants[1] is None


def test_prompts_of_all_lengths_are_read_in_few_shapes(tokenizer):
    model = Adder()
    engine = Engine(model, tokenizer, max_rows=4, prefix_cache=True, step_tokens=64)
    requests = [engine.submit([n] * n, greedy(1)) for n in range(1, 64)]
    while not all(request.stop_reason for request in requests):
        engine.step()
    check_answers(requests, Adder.answer)
    assert {width for width in model.widths if width > 4} <= {16, 32, 48, 64}, "up to 4 rows are decoded"


def test_a_finished_request_leaves_nothing_but_its_tokens(tokenizer):
    engine = Engine(Adder(), tokenizer, max_rows=4, prefix_cache=True, step_tokens=8)
    requests = [engine.submit([n] * 30, greedy(3)) for n in range(3)]
    engine.step()
    engine.cancel(requests[2])  # while its prompt is being read
    while not all(request.stop_reason for request in requests):
        engine.step()
    probabilities_and_grammars = [weakref.ref(request) for request in requests]
    requests.clear()
    engine.generate([[0] * 30], max_tokens=1, temperature=0.0)
    assert engine.slots.num_reused_tokens, "the tokens are still there"
    gc.collect()
    assert not any(request() for request in probabilities_and_grammars)


def test_cold_and_warm_cache_say_the_same_with_a_real_model(model, tokenizer):
    draw = random.Random(3)
    system = [draw.randrange(256) for _ in range(40)]
    prompts = [system + [draw.randrange(256) for _ in range(n)] for n in (1, 5, 17, 30)] + [[5, 6, 7]]
    for settings in (dict(temperature=0.0), dict(top_p=0.9), dict(temperature=0.9, min_p=0.05)):
        settings |= dict(max_tokens=12, stop_ids=[])
        cold = [Engine(model, tokenizer).generate([prompt], **settings)[0] for prompt in prompts]
        warm = Engine(model, tokenizer, max_rows=3, prefix_cache=True, step_tokens=10)
        for _ in range(2):  # the second time the engine knows every prompt
            assert warm.generate(prompts, **settings) == cold
        assert warm.slots.num_reused_tokens > 100
