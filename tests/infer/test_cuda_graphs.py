"""Static shapes say what the usual way says. On a CPU they run unrecorded; with a GPU (marker) as CUDA graphs."""
import copy
import random

import pytest
import torch

from nanochat.infer import Engine
from tests.infer.test_engine import naive
from tests.infer.test_slots import Tape, said


def mixed(engine, jobs: int, longest: int) -> list:
    """Random requests that come while others are being answered, some cancelled: (prompt, max_tokens, request)."""
    draw = random.Random(1)
    done = []
    while len(done) < jobs or engine.running or engine.waiting or engine.reading:
        if len(done) < jobs and draw.random() < 0.6:
            prompt = draw.choice([[draw.randrange(250)], list(range(20)), [7] * draw.randrange(1, longest)])
            tokens = draw.randrange(1, 20)
            done.append((prompt, tokens, engine.submit(prompt, tokens, temperature=0, stop_ids=[])))
        if done and draw.random() < 0.05:
            engine.cancel(draw.choice(done)[2])
        engine.step()
    return done


@pytest.mark.parametrize("max_rows", [1, 4, 5])
def test_static_shapes_say_what_arithmetic_says(tokenizer, max_rows):
    engine = Engine(Tape(), tokenizer, max_rows=max_rows, prefix_cache=True, step_tokens=16, static_shapes=True)
    for prompt, tokens, request in mixed(engine, 60, 40):
        expected = said(prompt, tokens)[:len(request.ids)]
        assert request.ids == expected and (request.stop_reason == "cancel" or len(request.ids) == tokens)
    assert 1 <= len(engine.graphs.recorded) <= 4, "few shapes"


def test_static_shapes_say_what_the_naive_loop_says(model, tokenizer):
    engine = Engine(model, tokenizer, max_rows=3, static_shapes=True)
    stored = engine.cache.keys.data_ptr()
    for prompt, tokens, request in mixed(engine, 25, 60):
        assert request.ids == naive(model, prompt, tokens, 0.0, None, 0)[:len(request.ids)]
    assert engine.cache.keys.data_ptr() == stored, "what a graph has recorded must stay where it is"


def test_rehearsals_and_fillers_touch_nobodys_slot(model, tokenizer):
    engine = Engine(model, tokenizer, max_rows=4, static_shapes=True)
    engine.cache.keys.fill_(9), engine.cache.values.fill_(9)
    engine.graphs.logits([1, 2, 3], [-1, -1, -1], [5, 6, 7])
    changed = (engine.cache.keys != 9).any(-1).any(2).any(0)  # (slots, positions)
    assert changed.nonzero().tolist() == [[0, 5], [1, 6], [2, 7], [4, 0]]


@pytest.mark.gpu
def test_cuda_graphs_say_what_the_engine_says_without(model, tokenizer):
    there = copy.deepcopy(model).cuda()
    usual, static = Engine(there, tokenizer, max_rows=4), Engine(there, tokenizer, max_rows=4, static_shapes=True)
    torch.backends.cuda.matmul.allow_tf32 = False
    prompts = [[5], [7, 8, 9], list(range(40, 90)), [1] * 33]
    assert [one.ids for [one] in static.generate(prompts, 40, 0.0, stop_ids=[])] == [
        one.ids for [one] in usual.generate(prompts, 40, 0.0, stop_ids=[])]
