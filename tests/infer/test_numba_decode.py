"""The decode step by Numba against the model itself, with every feature on and off, and inside of the engine."""
import pytest
import torch

from nanochat.infer import Engine
from nanochat.infer.cache import SlotCache
from nanochat.infer.numba_decode import NumbaDecoder, numba_decoder
from nanochat.infer.quantize import FORMS, quantized
from nanochat.model import GPT, PORTABLE, GPTConfig, fp8, lora

from .twins import check_answers, naive_answer, random_traffic

SHAPE = dict(sequence_len=64, vocab_size=300, n_layer=3, n_head=4, n_kv_head=2, n_embd=32, head_dim=8)


def make(dtype=torch.float32, **changes) -> GPT:
    model = GPT(GPTConfig(**{**SHAPE, **changes})).eval()
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=draw) * 0.3)
    model.compute_dtype = dtype
    return model.to(dtype)


def differences(model: GPT, reference: GPT, length: int = 20) -> torch.Tensor:
    """Of the logits between the decoder on `model` and the model `reference`, three rows: (3, T, V)."""
    c = model.config
    cache = SlotCache(c.n_layer, c.n_kv_head, c.head_dim, 4, c.sequence_len, model.compute_dtype, torch.device("cpu"))
    decoder = NumbaDecoder(model, cache)
    ids = torch.randint(0, c.vocab_size, (3, length), generator=torch.Generator().manual_seed(1))
    ids[1, 5] = 7  # <|bos|> of one of the configurations
    with torch.inference_mode():
        expected = reference.logits(reference.hidden(ids))  # (3, T, V)
        logits = [decoder.logits(ids[:, t].tolist(), ids[:, t - 1].tolist() if t else [-1] * 3, [t] * 3)
                  for t in range(length)]
    return (torch.stack(logits, 1) - expected).abs()


@pytest.mark.parametrize("changes", [
    {}, PORTABLE, {"smear": False}, {"value_embeddings": False}, {"residual_scalars": False}, {"n_kv_head": 4},
    {"document_bos": 7}, {"softcap": 0.0}, {"n_embd": 512, "n_layer": 1},
    {"windows": [3, 7, 64]}, {"query_key_scale": 1.2}, {"smear": False, "gated_smear": True}, {"backout": True}],
    ids=str)
def test_the_logits_are_the_models(changes):
    model = make(**changes)
    assert differences(model, model).max() < 5e-5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("changes", [
    {}, {"windows": [3, 7, 64], "query_key_scale": 1.2, "smear": False, "gated_smear": True, "backout": True}], ids=str)
def test_packed_weights_give_the_logits_of_the_packed_model(form, changes):
    model = quantized(make(**changes), form)
    # Both round their activations to 8 bits; where sums differ in the last bit, some are rounded to the other side.
    apart = differences(model, model)
    assert apart.median() < 1e-4 and apart.mean() < 0.01 and apart.max() < 0.5


def test_bf16_weights_and_cache_are_read_as_what_they_are():
    stored = make(torch.bfloat16)
    wide = make()
    wide.load_state_dict(stored.state_dict())  # the same numbers, all sums in fp32
    assert differences(stored, wide).max() < 0.1  # of logits up to 15: keys and values are rounded to 8 bits
    with torch.inference_mode():
        ids = torch.randint(0, 300, (8, 20))
        assert float((stored(ids) - wide(ids)).abs().max()) > 0.05, "PyTorch rounds in between as well"


@pytest.mark.parametrize("rows", [1, 3, 4, 7])
def test_no_sum_depends_on_threads_or_company(rows):
    model = make(n_embd=512, n_layer=1)  # large enough to be shared out
    cache = SlotCache(1, 2, 8, 8, 64, torch.float32, torch.device("cpu"))
    decoder = NumbaDecoder(model, cache)
    usual_threads, logits = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        logits.append(decoder.logits(list(range(rows)), [-1] * rows, [0] * rows))
    torch.set_num_threads(usual_threads)
    assert torch.equal(*logits)
    alone = decoder.logits([rows - 1], [-1], [0])[0]
    assert torch.allclose(alone, logits[0][-1], atol=1e-5)


def test_in_the_engine_it_says_what_the_naive_loop_says(model, tokenizer):
    engine = Engine(model, tokenizer, max_rows=5, prefix_cache=True, step_tokens=16, decoder=numba_decoder)
    check_answers(random_traffic(engine, 25, longest=60),
                  lambda prompt, max_tokens: naive_answer(model, prompt, max_tokens, temperature=0.0))
    prompts = [[5], [7, 8, 9]]
    drawn = engine.generate(prompts, max_tokens=20, seed=3, stop_ids=[])
    assert [group[0].ids for group in drawn] == [naive_answer(model, prompt, 20, seed=3) for prompt in prompts]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_change_in_place_are_read_anew(dtype):
    """As between two steps of reinforcement learning."""
    model, other = make(dtype), make(dtype)
    c = model.config
    cache = SlotCache(c.n_layer, c.n_kv_head, c.head_dim, 1, c.sequence_len, dtype, torch.device("cpu"))
    decoder = NumbaDecoder(model, cache)
    with torch.no_grad():
        for mine, others in zip(model.parameters(), other.parameters()):
            mine.mul_(0.5)
            others.copy_(mine)
    assert torch.equal(decoder.logits([5], [-1], [0]), NumbaDecoder(other, cache).logits([5], [-1], [0]))


@pytest.mark.parametrize("sampling", [dict(temperature=0.0), dict(temperature=1.0, top_k=20)], ids=str)
def test_thirty_two_rows_say_what_the_naive_loop_says(model, tokenizer, sampling):
    engine = Engine(model, tokenizer, max_rows=32, decoder=numba_decoder)
    assert engine.decoder.max_rows >= 32
    prompts = [[5 + i, *range(i % 5)] for i in range(32)]
    answers = engine.generate(prompts, max_tokens=6, seed=3, stop_ids=[], **sampling)
    assert [group[0].ids for group in answers] == [naive_answer(model, prompt, 6, seed=3, **sampling)
                                                   for prompt in prompts]


def test_changing_between_the_decoder_and_pytorch_within_an_answer_changes_no_token(model, tokenizer):
    """As in a larger model, where `max_rows` is 4: answers run together, some end, and the rest change the decoder."""
    engine = Engine(model, tokenizer, max_rows=6, prefix_cache=True, decoder=numba_decoder)
    engine.decoder.max_rows, rows, compute = 2, [], engine.decoder.logits
    engine.decoder.logits = lambda ids, *others: (rows.append(len(ids)), compute(ids, *others))[1]
    steps, step = [], engine.step
    engine.step = lambda: steps.append(step()) or steps[-1]
    check_answers(random_traffic(engine, 25, longest=60),
                  lambda prompt, max_tokens: naive_answer(model, prompt, max_tokens, temperature=0.0))
    assert {1, 2} == set(rows) and len(rows) < sum(bool(ran) for ran in steps), "both have decoded"


def test_what_is_not_plain_matrices_on_a_cpu_is_left_to_pytorch(tokenizer):
    assert NumbaDecoder.supports(make())
    for form in FORMS:
        assert NumbaDecoder.supports(quantized(make(), form))
        assert not NumbaDecoder.supports(quantized(make(torch.float16), form))
    for change in (lambda model: lora.attach(model, 2),
                   lambda model: fp8.switch_on(model, min_width=2),
                   lambda model: model.to("meta"), lambda model: model.half(), lambda model: model.lm_head.bfloat16()):
        model = make()
        change(model)
        assert not NumbaDecoder.supports(model)
    model = make()
    lora.attach(model, 2)
    assert Engine(model, tokenizer, max_rows=2, decoder=numba_decoder).decoder is None
