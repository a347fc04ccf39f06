"""Static shapes say what the usual way says. On a CPU they run unrecorded; with a GPU (marker) as CUDA graphs."""
import copy

import pytest
import torch

from nanochat.infer import Engine
from nanochat.infer.cuda_graphs import CudaGraphs

from .twins import Adder, check_answers, naive_answer, random_traffic


@pytest.mark.parametrize("max_rows", [1, 4, 5])
def test_static_shapes_say_what_arithmetic_says(tokenizer, max_rows):
    engine = Engine(Adder(), tokenizer, max_rows=max_rows, prefix_cache=True, step_tokens=16, decoder=CudaGraphs)
    check_answers(random_traffic(engine, 60, longest=40), Adder.answer)
    assert 1 <= len(engine.decoder.recorded) <= 4, "few shapes"


def test_static_shapes_say_what_the_naive_loop_says(model, tokenizer):
    engine = Engine(model, tokenizer, max_rows=3, decoder=CudaGraphs)
    address = engine.cache.keys.data_ptr()
    check_answers(random_traffic(engine, 25, longest=60),
                  lambda prompt, max_tokens: naive_answer(model, prompt, max_tokens, temperature=0.0))
    assert engine.cache.keys.data_ptr() == address, "what a graph has recorded must stay where it is"


def test_padding_rows_write_to_the_spare_slot(model, tokenizer):
    engine = Engine(model, tokenizer, max_rows=4, decoder=CudaGraphs)
    engine.cache.keys.fill_(9), engine.cache.values.fill_(9)
    engine.decoder.logits([1, 2, 3], [-1, -1, -1], [5, 6, 7])
    changed = (engine.cache.keys != 9).any(-1).any(2).any(0)  # (slots, positions)
    assert changed.nonzero().tolist() == [[0, 5], [1, 6], [2, 7], [4, 0]]


@pytest.mark.gpu
def test_cuda_graphs_say_what_the_engine_says_without(model, tokenizer):
    on_gpu = copy.deepcopy(model).cuda()
    torch.backends.cuda.matmul.allow_tf32 = False
    prompts = [[5], [7, 8, 9], list(range(40, 90)), [1] * 33]
    usual, static = (Engine(on_gpu, tokenizer, max_rows=4, decoder=decoder).generate(
        prompts, max_tokens=40, temperature=0.0, stop_ids=[]) for decoder in (None, CudaGraphs))
    assert usual == static
