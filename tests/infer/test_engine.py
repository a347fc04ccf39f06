"""The engine against the naive loop (whole sequence through the model for every token), alone and in any company."""

import random

import pytest
import torch

from nanochat.infer import Engine, SamplingParams

from .twins import Script, greedy, is_idle, naive_answer

PROMPTS = [[5], [7, 8, 9], [5, 6], list(range(40, 90)), [7, 8, 9], list(range(100, 120)), [1] * 33]


@pytest.mark.parametrize("temperature, top_k", [(0.0, None), (1.0, None), (0.8, 5)])
def test_a_batch_says_what_the_naive_loop_says(model, tokenizer, temperature, top_k):
    engine = Engine(model, tokenizer, max_rows=4)  # fewer than prompts: some wait, some join late
    answers = engine.generate(PROMPTS, max_tokens=20, temperature=temperature, top_k=top_k, seed=3, stop_ids=[])
    seen = []
    for prompt, [completion] in zip(PROMPTS, answers):
        expected = naive_answer(model, prompt, 20, seen.count(prompt), temperature=temperature, top_k=top_k, seed=3)
        seen.append(prompt)
        assert completion.ids == expected
        assert completion.mask == [1] * 20 and completion.stop_reason == "length"


def test_random_arrivals_settings_and_cancels_change_nothing(model, tokenizer):
    draw = random.Random(0)
    engine = Engine(model, tokenizer, max_rows=5)
    requests = []
    while len(requests) < 40 or not is_idle(engine):
        if len(requests) < 40 and draw.random() < 0.6:
            prompt = [draw.randrange(256) for _ in range(draw.choice([1, 2, 5, 30]))]
            requests.append(engine.submit(prompt, SamplingParams(
                max_tokens=draw.randrange(1, 25), temperature=draw.choice([0.0, 0.7, 1.5]),
                top_k=draw.choice([None, 1, 3, 50]), seed=draw.randrange(3), stop_ids=[])))
        if requests and draw.random() < 0.05:
            engine.cancel(draw.choice(requests))
        engine.step()
        assert len(engine.running) <= 5
    reasons = [request.stop_reason for request in requests]
    assert reasons.count("cancel") and reasons.count("length") > 20
    for request in requests:
        params = request.params
        expected = naive_answer(model, request.prompt, params.max_tokens, temperature=params.temperature,
                                top_k=params.top_k, seed=params.seed)
        assert request.ids == expected[:len(request.ids)]
        assert request.stop_reason == "cancel" or len(request.ids) == len(expected)


def test_samples_differ_share_the_prefill_and_repeat_with_the_seed(model, tokenizer, monkeypatch):
    engine = Engine(model, tokenizer, max_rows=8)
    shapes, plan = [], engine.cache.plan

    def recording_plan(slots, starts, num_new):
        shapes.append((len(starts), num_new))
        return plan(slots, starts, num_new)

    monkeypatch.setattr(engine.cache, "plan", recording_plan)
    [group] = engine.generate([[3, 4, 5, 6]], samples=6, max_tokens=12, seed=1, stop_ids=[])
    assert shapes[0] == (1, 3) and shapes[1] == (6, 1)  # one row of prompt[:-1], then six rows of one token
    assert len({tuple(completion.ids) for completion in group}) == 6
    again = engine.generate([[9], [3, 4, 5, 6], [3, 4, 5, 6]], samples=3, max_tokens=12, seed=1, stop_ids=[])
    assert again[1] + again[2] == group  # in other company, in two parts: the same six
    assert engine.generate([[3, 4, 5, 6]], samples=6, max_tokens=12, seed=2, stop_ids=[]) != [group]


def test_never_past_the_context(model, tokenizer):
    engine = Engine(model, tokenizer)
    prompts = [[1] * 90, [2] * 96, [3] * 95, [4] * 200]
    lengths = []
    for prompt, [completion] in zip(prompts, engine.generate(prompts, max_tokens=50, stop_ids=[])):
        assert completion.stop_reason == "length"
        lengths.append(len(prompt) + len(completion.ids))
    assert lengths == [96, 96, 96, 200]  # sequence_len is 96; what does not fit gets nothing
    assert engine.generate([[1]], max_tokens=0)[0][0].ids == []


def test_the_tool_is_called_and_its_answer_forced(model, tokenizer):
    mark = tokenizer.special_id
    answer = [*tokenizer.encode("so "), mark("<|python_start|>"), *tokenizer.encode("2*3"), mark("<|python_end|>")]
    forced = [mark("<|output_start|>"), *tokenizer.encode("6"), mark("<|output_end|>")]
    rest = [*tokenizer.encode("é!"), mark("<|assistant_end|>")]
    script = Script(model.config, [*answer, *[0] * len(forced), *rest])
    calls = []
    engine = Engine(script, tokenizer, tool=lambda text: calls.append(text) or "6")
    [[got]] = engine.generate([[1]], temperature=0.0)
    assert calls == ["2*3"] and got.tool_calls == [("2*3", "6")]
    assert got.ids == answer + forced + rest
    assert got.mask == [1] * len(answer) + [0] * len(forced) + [1] * len(rest)
    assert got.text == "so é!" and got.stop_reason == "stop"
    assert script.fed == [1, *got.ids[:-1]]  # forced tokens are read like any other

    events = list(engine.stream([1], temperature=0.0))
    assert [event.token_id for event in events] == got.ids
    assert [(event.kind, event.text) for event in events if event.text] == [
        ("text", "s"), ("text", "o"), ("text", " "), ("python", "2"), ("python", "*"), ("python", "3"), ("output", "6"),
        ("text", "é"), ("text", "!")]
    assert [event.stop_reason for event in events] == [""] * (len(got.ids) - 1) + ["stop"]

    refusing = Engine(script, tokenizer, tool=lambda text: None)
    [[got]] = refusing.generate([[1]], max_tokens=len(answer) + 7, temperature=0.0)
    assert got.tool_calls == [("2*3", "error")]
    assert tokenizer.decode(got.ids[len(answer):]) == "<|output_start|>error<|output_end|>"


def test_an_answer_ends_with_a_call_that_the_caller_runs(model, tokenizer):
    mark = tokenizer.special_id
    call = [mark("<|python_start|>"), *tokenizer.encode("2*3"), mark("<|python_end|>")]
    engine = Engine(Script(model.config, [0, *call[1:], *[0] * 9]), tokenizer, tool=str)
    [[got]] = engine.generate([[1]], temperature=0.0, begins_with=call[:1], caller_runs=lambda text: text == "2*3")
    assert got.ids == call and got.mask == [0, 1, 1, 1, 1] and got.stop_reason == "tool_calls" and not got.tool_calls
    [[got]] = engine.generate([[1]], temperature=0.0, begins_with=call[:1], caller_runs=lambda _: False, max_tokens=8)
    assert got.stop_reason == "length" and got.tool_calls == [("2*3", "2*3")]


def test_the_model_cannot_speak_as_the_tool(model, tokenizer):
    script = Script(model.config, [tokenizer.special_id("<|output_start|>")] * 8)
    [[got]] = Engine(script, tokenizer, tool=str).generate([[1]], max_tokens=5, temperature=0.0)
    assert tokenizer.special_id("<|output_start|>") not in got.ids


def test_stream_equals_generate_and_frees_its_slot_when_closed(model, tokenizer):
    engine = Engine(model, tokenizer)
    [[whole]] = engine.generate([[5, 6]], max_tokens=30, top_k=20, seed=4)
    events = list(engine.stream([5, 6], max_tokens=30, temperature=1.0, top_k=20, seed=4))
    assert [event.token_id for event in events] == whole.ids
    assert "".join(event.text for event in events if event.kind == "text") == whole.text
    stream = engine.stream([5, 6], max_tokens=80, stop_ids=[])
    next(stream)
    other = engine.stream([7], max_tokens=3, temperature=0.0, stop_ids=[])  # two streams at once
    assert [event.token_id for event in other] == naive_answer(model, [7], 3, temperature=0.0)
    stream.close()
    engine.step()
    assert is_idle(engine)


def test_an_unfinished_character_is_flushed_at_the_end(model, tokenizer):
    engine = Engine(Script(model.config, "é".encode()[:1] * 9), tokenizer)
    request = engine.submit([1], greedy(2))
    engine.step()
    assert [event.text for event in request.take_events()] == [""]
    engine.step()
    assert [event.text for event in request.take_events()] == ["\ufffd\ufffd"]


def test_after_generating_the_model_still_has_gradients(model, tokenizer):
    Engine(model, tokenizer).generate([[1, 2]], max_tokens=4)  # in inference mode, whose tensors have none
    model.loss(torch.tensor([[1, 2, 3]]), torch.tensor([[2, 3, 4]])).backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())
    model.zero_grad()


def events_of(engine, text, **settings):
    """The events of an engine whose model says `text`, bytes as tokens."""
    engine.model.tokens = [0, *text.encode(), engine.tokenizer.special_id("<|assistant_end|>")]
    return list(engine.stream([1, 1], temperature=0.0, **settings))


@pytest.mark.parametrize("stop, shown", [
    (("STOP",), "one two "), (("two", "one t"), ""), (("é",), "one two STOP three "), (("never",), None),
    (("e two", "P"), "on"), (("four\n\n",), None), (("\n",), "one two STOP three é four")])
def test_stop_strings_end_the_answer_and_never_show(model, tokenizer, stop, shown):
    text = "one two STOP three é four\n"
    engine = Engine(Script(model.config, []), tokenizer)
    events = events_of(engine, text, stop=stop)
    assert "".join(event.text for event in events) == (text if shown is None else shown)
    assert events[-1].stop_reason == "stop" and not any(event.stop_reason for event in events[:-1])
    if shown is not None:
        assert events[-1].token_id != engine.tokenizer.special_id("<|assistant_end|>")  # and no token was wasted
        assert engine.generate([[1, 1]], temperature=0.0, stop=stop)[0][0].text == shown


def test_a_held_back_beginning_of_a_stop_string_is_shown_when_it_comes_to_nothing(model, tokenizer):
    engine = Engine(Script(model.config, []), tokenizer)
    events = events_of(engine, "ab abc abd", stop=("abcd",))
    assert [event.text for event in events] == ["", "", "ab ", "", "", "", "abc ", "", "", "abd", ""]
    cut = events_of(engine, "ab abc abd", stop=("abcd",), max_tokens=6)
    assert "".join(event.text for event in cut) == "ab abc" and cut[-1].stop_reason == "length"


def test_logprobs_are_those_of_the_naive_loop_in_any_company(model, tokenizer):
    engine = Engine(model, tokenizer, max_rows=3)
    requests = [engine.submit(prompt, SamplingParams(max_tokens=8, temperature=0.7, seed=1, stop_ids=[],
                                                     logprobs=num_alternatives, echo=num_alternatives == 2))
                for prompt, num_alternatives in (([5, 6], 3), ([7], None), ([5, 6, 9, 1], 2), ([8], 0))]
    while not is_idle(engine):
        engine.step()
    for request in requests:
        ids = [*request.prompt, *request.ids]
        with torch.no_grad():
            nats = model(torch.tensor([ids]))[0].log_softmax(-1)
        reported = [*request.prompt_logprobs, *(event.logprob for event in request.events)]
        if request.params.logprobs is None:
            assert not any(reported)
            continue
        for place, (own_nats, best) in enumerate(reported, len(ids) - len(reported)):
            assert own_nats == pytest.approx(nats[place - 1, ids[place]].item(), abs=1e-4)
            likeliest = nats[place - 1].topk(request.params.logprobs).indices.tolist()
            assert [token for token, _ in best] == likeliest
    assert len(requests[2].prompt_logprobs) == 3


def test_penalties_and_biases(model, tokenizer):
    engine = Engine(model, tokenizer)

    def answer(max_tokens, **settings):
        return engine.generate([[5]], max_tokens=max_tokens, temperature=0.0, stop_ids=[], **settings)[0][0].ids

    plain = answer(20)
    banned = {plain[0], plain[3]}
    assert not banned & set(answer(20, logit_bias=dict.fromkeys(banned, -100.0)))
    assert answer(5, logit_bias={77: 100.0}) == [77] * 5
    assert len(set(answer(20, presence_penalty=100.0))) == 20
    twice = answer(5, logit_bias={77: 50.0, 78: 40.0}, frequency_penalty=6.0)
    assert twice == [77, 77, 78, 77, 78]  # 50, 44, 38 < 40 > 34, 38, 32 < 34


def test_tiny_temperatures_are_greedy(model, tokenizer):
    engine = Engine(model, tokenizer)
    tiny, zero = (engine.generate([[5]], max_tokens=9, temperature=t, stop_ids=[]) for t in (1e-30, 0.0))
    assert tiny == zero
