"""The decode step in loops against the model itself, with every feature on and off, and inside of the engine."""
import pytest
import torch

from nanochat.infer import Engine
from nanochat.infer.cache import SlotCache
from nanochat.infer.numba_decode import Loops
from nanochat.infer.quantize import quantized
from nanochat.model import GPT, PORTABLE, GPTConfig, fp8, lora
from tests.infer.test_cuda_graphs import mixed
from tests.infer.test_engine import naive

SHAPE = dict(sequence_len=64, vocab_size=300, n_layer=3, n_head=4, n_kv_head=2, n_embd=32, head_dim=8)


def make(dtype=torch.float32, **changes) -> GPT:
    model = GPT(GPTConfig(**{**SHAPE, **changes})).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw) * 0.3)
    model.compute_dtype = dtype
    return model.to(dtype)


def difference(model: GPT, reference: GPT, length: int = 20) -> float:
    """The largest difference of a logit between the loops on `model` and the model `reference`, three rows."""
    c = model.config
    cache = SlotCache(c.n_layer, c.n_kv_head, c.head_dim, 4, c.sequence_len, model.compute_dtype, torch.device("cpu"))
    loops = Loops(model, cache)
    ids = torch.randint(0, c.vocab_size, (3, length), generator=torch.Generator().manual_seed(1))
    ids[1, 5] = 7  # <|bos|> of one of the configurations
    with torch.inference_mode():
        expected = reference.logits(reference.hidden(ids))  # (3, T, V)
        found = [loops.logits(ids[:, t].tolist(), ids[:, t - 1].tolist() if t else [-1] * 3, [t] * 3)
                 for t in range(length)]
    return float((torch.stack(found, 1) - expected).abs().max())


@pytest.mark.parametrize("changes", [
    {}, PORTABLE, {"smear": False}, {"value_embeddings": False}, {"residual_scalars": False}, {"n_kv_head": 4},
    {"document_bos": 7}, {"n_embd": 512, "n_layer": 1}], ids=str)
def test_the_logits_are_the_models(changes):
    model = make(**changes)
    assert difference(model, model) < 5e-5


def test_bf16_weights_and_cache_are_read_as_what_they_are():
    stored = make(torch.bfloat16)
    wide = make()
    wide.load_state_dict(stored.state_dict())  # the same numbers, all sums in fp32
    assert difference(stored, wide) < 0.1  # of logits up to 15: keys and values are rounded to 8 bits
    with torch.inference_mode():
        ids = torch.randint(0, 300, (8, 20))
        assert float((stored(ids) - wide(ids)).abs().max()) > 0.05, "PyTorch rounds in between as well"


@pytest.mark.parametrize("rows", [1, 3, 4, 7])
def test_no_sum_depends_on_threads_or_company(rows):
    model = make(n_embd=512, n_layer=1)  # large enough to be shared out
    cache = SlotCache(1, 2, 8, 8, 64, torch.float32, torch.device("cpu"))
    loops = Loops(model, cache)
    before = torch.get_num_threads()
    found = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(loops.logits(list(range(rows)), [-1] * rows, [0] * rows))
    torch.set_num_threads(before)
    assert torch.equal(*found)
    alone = loops.logits([rows - 1], [-1], [0])[0]
    assert torch.allclose(alone, found[0][-1], atol=1e-5)


def test_in_the_engine_they_say_what_the_naive_loop_says(model, tokenizer):
    engine = Engine(model, tokenizer, max_rows=5, prefix_cache=True, step_tokens=16, loops=True)
    for prompt, tokens, request in mixed(engine, 25, 60):
        assert request.ids == naive(model, prompt, tokens, 0.0, None, 0)[:len(request.ids)]
    drawn = engine.generate([[5], [7, 8, 9]], 20, 1.0, None, seed=3, stop_ids=[])
    assert [one.ids for [one] in drawn] == [naive(model, prompt, 20, 1.0, None, 3) for prompt in ([5], [7, 8, 9])]


def test_what_is_not_plain_matrices_on_a_cpu_is_left_to_pytorch(tokenizer):
    assert Loops.can(make())
    for change in (lambda model: quantized(model, "int8"), lambda model: lora.attach(model, 2), fp8.switch_on,
                   lambda model: model.to("meta"), lambda model: model.half(), lambda model: model.lm_head.bfloat16()):
        model = make()
        change(model)
        assert not Loops.can(model)
    assert Engine(quantized(make(), "int8"), tokenizer, max_rows=2, loops=True).loops is None
