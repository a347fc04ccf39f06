"""The $100, $300 and $1000 models on a GPU of 80 GB, counted without one: see traced.py."""
import time

import pytest
import torch

from nanochat import dial, scale
from nanochat.model import GPT, GPTConfig, chunked_loss, gpt
from nanochat.train import losses

from . import traced

LIMIT = 78e9  # an H100 has 85 GB, of which CUDA, NCCL and its workspaces take 3; the rest is for gaps


@pytest.fixture(scope="module")
def counted():
    """{depth: what two and four layers of its width keep and need, at the rows that `scale` gives 8 GPUs of 80 GB}."""
    made = {}
    for depth in (20, 26, 32):
        rows = scale.rows_that_fit(dial.make(depth), ranks=8, memory_bytes=scale.H100.memory_bytes)
        made[depth] = rows, *(traced.trace(traced.large(depth, layers), rows) for layers in (2, 4))
    return made


@pytest.mark.parametrize("depth, rows", [(20, 32), (26, 16), (32, 8)])
def test_the_peak_of_every_tier_stays_below_80_gigabytes(counted, depth, rows):
    """Every two layers keep the same, so two and four give the rest. `scale` says no less than what is counted."""
    chosen, two, four = counted[depth]
    assert chosen == rows
    layers = (depth - 4) // 2
    kept = four.kept_bytes() + layers * (four.kept_bytes() - two.kept_bytes())
    beyond = max(traced_.backward_peak() - traced_.kept_bytes() for traced_ in (two, four))
    made = dial.make(depth)
    for ranks in (8, 1):
        static = scale.static_bytes(made, ranks)
        peak = max(static + kept + beyond, static + scale.gradient_bytes(made))
        assert peak < LIMIT and peak <= scale.peak_bytes(made, rows, ranks) < LIMIT
    assert scale.peak_bytes(made, 2 * rows, 8) > LIMIT, "twice the rows do not fit, so these are not too few"


def test_the_budget_computes_no_product_twice_and_keeps_relu_squared_once(counted, monkeypatch):
    two = counted[26][1]
    monkeypatch.setattr(losses, "ACTIVATION_BUDGET", 1.0)
    whole = traced.trace(two.model, counted[26][0])
    assert two.kept_bytes() < 0.7 * whole.kept_bytes()
    for graph in ("forward", "backward"):
        assert two.products(getattr(two, graph)) == whole.products(getattr(whole, graph)) > 0
    wide = (counted[26][0], 2048, 4 * two.model.config.n_embd)
    shapes = [tuple(node.meta["val"].shape) for node in traced.outputs(two.forward)]
    assert sum(shape in (wide, (wide[0] * wide[1], wide[2])) for shape in shapes) == 2, "one a layer"


def test_the_loss_is_one_node_however_many_chunks_there_are(counted):
    """Unrolled it would be 32 chunks with a dozen nodes each, and as many partial gradients of the head."""
    two = counted[26][1]
    assert sum("nanochat.weighted_nats" in str(node.target) for node in two.forward.graph.nodes) == 1
    head = [node for node in traced.outputs(two.forward)
            if tuple(node.meta["val"].shape) == tuple(two.model.lm_head.weight.shape)]
    assert len(head) == 1 and head[0].meta["val"].dtype == torch.float32
    assert chunked_loss.COMPILED_LOGITS * 2 <= 1.1e9
    assert gpt.attend.__name__ == "attend", "tracing has put everything back"


def kernels(sources: list[str]) -> int:
    return sum(source.count("async_compile.cpp") for source in sources)


def test_generated_code_does_not_grow_with_the_chunks(monkeypatch):
    """Unrolled, 4, 16 and 64 chunks gave 30, 45 and 92 kernels, and 17, 44 and 135 seconds of code generation."""
    counts = []
    monkeypatch.setattr(chunked_loss, "MIN_ROWS", 1)
    for chunks in (1, 16):
        monkeypatch.setattr(chunked_loss, "CACHED_LOGITS", 2 * 64 * 128 // chunks)  # the code is made for a CPU
        sources = traced.generated(lambda: GPT(GPTConfig(64, 128, 2, 2, 2, 32, 16), torch.bfloat16), rows=2)
        assert len(sources) == 2 and sum("nanochat.weighted_nats" in source for source in sources) == 1
        counts.append(kernels(sources))
    assert counts[0] == counts[1] > 0


@pytest.mark.slow
def test_at_full_width_eight_chunks_and_sixty_four_are_equally_few_kernels(monkeypatch):
    """Prints the CPU seconds of the code generation (-s): the machine may be busy, so they are not asserted."""
    counts = []
    for rows in (8192, 1024):
        monkeypatch.setattr(chunked_loss, "rows_at_once", lambda *_: rows)  # noqa: B023
        began = time.process_time()
        counts.append(kernels(traced.generated(lambda: GPT(GPTConfig(n_layer=2), torch.bfloat16), rows=32)))
        print(f"{time.process_time() - began:.0f} CPU seconds, {counts[-1]} kernels")
    assert counts[0] == counts[1] and 0 < counts[0] < 60
