import pytest
from pydantic import ValidationError

from nanochat.infer import Event, SamplingParams
from nanochat.serve.openai import ChatRequest, Choice, CompletionRequest, to_turns

USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize("fields", [
    {}, {"max_tokens": None, "temperature": None, "stop": None, "tools": None}, {"n": 1, "stop": [], "top_p": 1.0},
    {"n": 3, "stop": ["a", "b"], "top_p": 0.5, "min_p": 0.1, "logprobs": True, "top_logprobs": 20,
     "logit_bias": {"5": -3}},
    {"presence_penalty": -2, "frequency_penalty": 2, "user": "me", "seed": -1, "stop": "x", "tools": [], "store": True},
    {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "python", "arguments": "1+1"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "2"}]},
    {"messages": [USER, {"role": "assistant", "content": "Once"}], "continue_final_message": True},
    {"something_new": {"a": 1}}, {"response_format": {"type": "text"}}, {"max_completion_tokens": 4096, "top_k": 200}])
def test_accepted(fields):
    ChatRequest(**{"messages": [USER], **fields})


@pytest.mark.parametrize("fields, named", [
    ({"messages": []}, "messages"), ({"messages": [USER] * 501}, "messages"), ({"temperature": 2.1}, "temperature"),
    ({"top_k": 0}, "top_k"), ({"max_tokens": 4097}, "max_tokens"), ({"n": 17}, "n\n"),
    ({"tools": [{"type": "function"}]}, "tools is not supported"), ({"stop": list("abcde")}, "stop has 5"),
    ({"response_format": {"type": "json_object"}}, "response_format"), ({"messages": [{"role": "robot"}]}, "role"),
    ({"continue_final_message": True}, "must be from 'assistant'"), ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"top_logprobs": 21}, "top_logprobs"), ({"top_p": 1.1}, "top_p"),
    ({"messages": [{"role": "user", "content": "x" * 8001}]}, "8,001 characters"),
    ({"messages": [{"role": "user", "content": "x" * 8000}] * 5}, "40,000 characters"),
    ({"messages": [USER, {"role": "assistant", "content": "yes"}]}, "last message"),
    ({"messages": [{"role": "user", "content": [{"type": "python", "text": "1"}]}]}, "python")])
def test_refused_with_the_name_of_what_is_wrong(fields, named):
    with pytest.raises(ValidationError) as error:
        ChatRequest(**{"messages": [USER], **fields})
    assert named in str(error.value)


def test_conversation_takes_turns():
    tool = [{"type": "python", "text": "1+1"}, {"type": "python_output", "text": "2"}]
    request = ChatRequest(messages=[
        {"role": "developer", "content": "Be brief."}, {"role": "assistant", "content": "Hello"}, USER, USER,
        {"role": "assistant", "content": tool}, {"role": "user", "content": [{"type": "text", "text": "a"}]}])
    system, *turns = to_turns(request.messages)
    assert system == {"role": "system", "content": "Be brief."}
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2 + ["user"]
    texts = ["".join(part["text"] for part in turn["content"]) for turn in turns]
    assert texts == ["", "Hello", "hi\n\nhi", "1+12", "a"]
    assert turns[3]["content"] == tool


def test_other_models_tool_calls_become_ours():
    request = ChatRequest(messages=[USER, {"role": "assistant", "content": None, "tool_calls": [
        {"function": {"name": "python", "arguments": "1+1"}}]}, {"role": "tool", "content": "2"}])
    assert request.continues and to_turns(request.messages)[1]["content"] == [
        {"type": "text", "text": ""}, {"type": "python", "text": "1+1"}, {"type": "python_output", "text": "2"}]


def test_what_a_request_says_replaces_the_defaults():
    defaults = SamplingParams(max_tokens=30, temperature=0.5, top_k=7)
    assert ChatRequest(messages=[USER], top_p=None).sampling_params(defaults) == defaults
    request = ChatRequest(messages=[USER], temperature=0, max_tokens=5, max_completion_tokens=6, stop="x",
                          logprobs=True, logit_bias={"3": -1})
    assert request.sampling_params(defaults) == SamplingParams(
        max_tokens=6, temperature=0, top_k=7, stop=("x",), logprobs=0, logit_bias={3: -1})
    unchecked = ChatRequest(messages=[USER], stop_ids=["x"], echo="yes")  # no fields of a chat
    assert unchecked.sampling_params(defaults) == defaults
    text = CompletionRequest(prompt="a", max_tokens=0, logprobs=2, echo=True, stop=["", "y"])
    assert text.sampling_params(defaults) == SamplingParams(
        max_tokens=0, temperature=0.5, top_k=7, stop=("y",), logprobs=2, echo=True)


@pytest.mark.parametrize("prompt, number", [("a", 1), (["a", "b"], 2), ([1, 2], 1), ([[1], [2, 3]], 2)])
def test_prompts_in_every_form(prompt, number):
    assert len(CompletionRequest(prompt=prompt).prompts) == number


@pytest.mark.parametrize("fields", [{"prompt": []}, {"prompt": [[]]}, {"prompt": [-1]}, {"prompt": ["a"] * 65}, {},
                                    {"prompt": "x" * 40_000}, {"prompt": "x", "echo": True, "stream": True},
                                    {"prompt": "x", "suffix": "y"}, {"prompt": "x", "best_of": 3}])
def test_prompts_that_are_refused(fields):
    with pytest.raises(ValidationError):
        CompletionRequest(**fields)


def test_a_choice_puts_a_tool_call_in_one_piece(tokenizer):
    choice, end = Choice(tokenizer), tokenizer.special_id("<|output_end|>")
    events = [Event(1, "so ", "text"), Event(7, "", "python"), Event(2, "1+", "python"), Event(3, "1", "python"),
              Event(8, "", "python"), Event(6, "", "output"), Event(4, "2", "output"), Event(end, "", "output"),
              Event(5, "!", "text", "stop")]
    assert [delta for delta in map(choice.push, events) if delta] == [
        {"content": "so "}, {"nanochat": {"tool": {"expression": "1+1", "result": "2"}}}, {"content": "!"}]
    assert choice.finish_reason == "stop"


def test_a_tool_call_that_the_end_cuts_off_is_shown(tokenizer):
    choice = Choice(tokenizer)
    events = [Event(7, "", "python"), Event(2, "1+", "python"), Event(9, "", "python", "length")]
    assert [choice.push(event) for event in events][-1] == {"nanochat": {"tool": {"expression": "1+", "result": ""}}}
    assert choice.finish_reason == "length"
    choice = Choice(tokenizer)
    assert [choice.push(Event(7, "", "python")), choice.push(Event(9, "", "python", "stop"))] == [None, None]


def test_logprobs_of_half_characters_come_with_the_next_text(tokenizer):
    choice = Choice(tokenizer)
    first, second = "é".encode()
    assert choice.push(Event(first, "", "text", "", (-1.0, [(65, -2.0)]))) is None
    delta = choice.push(Event(second, "é", "text", "", (-0.5, [])))
    [half, rest] = choice.chunk(delta, is_chat=True)["logprobs"]["content"]
    assert half["bytes"] == [first] and rest["bytes"] == [second] and half["logprob"] == -1.0
    assert half["top_logprobs"] == [{"token": "A", "bytes": [65], "logprob": -2.0}]
    choice.push(Event(65, "A", "text", "length", (-0.5, [(66, -1.0)])))
    last = choice.chunk({}, is_chat=False)
    assert last["finish_reason"] == "length" and last["logprobs"] == {
        "tokens": ["A"], "token_logprobs": [-0.5], "text_offset": [0], "top_logprobs": [{"B": -1.0}]}
    assert choice.chunk({}, is_chat=False)["logprobs"] is None
