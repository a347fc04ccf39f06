import pytest
from pydantic import ValidationError

from nanochat.infer import Event, SamplingParams
from nanochat.infer.fit_prompt import take_turns
from nanochat.serve.answers import Choice
from nanochat.serve.openai import UNLIMITED, ChatRequest, CompletionRequest, to_conversation
from nanochat.serve.tools import Tools

USER = {"role": "user", "content": "hi"}


def function(name, **arguments):
    schema = {"type": "object", "properties": {key: {"type": kind} for key, kind in arguments.items()}}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


CALCULATOR, WEATHER, CLOCK = function("calculator", expression="string"), function("weather", city="string"), \
    function("clock")


@pytest.mark.parametrize("fields", [
    {}, {"max_tokens": None, "temperature": None, "stop": None, "tools": None}, {"n": 1, "stop": [], "top_p": 1.0},
    {"n": 3, "stop": ["a", "b"], "top_p": 0.5, "min_p": 0.1, "logprobs": True, "top_logprobs": 20,
     "logit_bias": {"5": -3}},
    {"presence_penalty": -2, "frequency_penalty": 2, "user": "me", "seed": -1, "stop": "x", "tools": [], "store": True},
    {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [
        {"id": "1", "type": "function", "function": {"name": "python", "arguments": "1+1"}}]},
        {"role": "tool", "tool_call_id": "1", "content": "2"}]},
    {"messages": [USER, {"role": "assistant", "content": "Once"}], "continue_final_message": True},
    {"something_new": {"a": 1}}, {"response_format": {"type": "text"}}, {"max_completion_tokens": 100_000, "top_k": 0},
    {"max_tokens": -1, "top_k": -1}, {"max_tokens": 10**12, "top_k": 2**70, "seed": -2**70},
    {"messages": [USER, {"role": "system", "content": "Be brief."}]}, {"stop": "\ud83e"}, {"messages": [USER] * 600},
    {"messages": [{"role": "user", "content": "x" * 90_000}]},
    {"tools": [CLOCK], "tool_choice": "auto"}, {"tools": [CLOCK], "tool_choice": "none"},
    {"tools": [CLOCK], "tool_choice": "required"}, {"tools": [{"type": "custom", "name": "x"}]},
    {"response_format": {"type": "json_object"}}, {"functions": [{"name": "f"}], "function_call": "auto"},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}},
    {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [
        {"function": {"name": "weather", "arguments": {"city": "Oslo"}}}]}, {"role": "function", "content": "rain"}]}])
def test_accepted(fields):
    ChatRequest(**{"messages": [USER], **fields})


@pytest.mark.parametrize("fields, named", [
    ({"messages": []}, "messages"), ({"temperature": 2.1}, "temperature"), ({"temperature": float("nan")}, "finite"),
    ({"messages": [{"role": "system", "content": "x"}]}, "last message is from 'system'"),
    ({"top_k": -2}, "top_k"), ({"max_tokens": 0}, "max_tokens is 0"), ({"max_tokens": -2}, "max_tokens"),
    ({"n": 17}, "n\n"), ({"max_tokens": True}, "not true"), ({"temperature": False}, "not false"),
    ({"tools": [{"type": "function"}]}, "tools.0"), ({"stop": list("abcde")}, "stop has 5"),
    ({"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tools has clock"),
    ({"tool_choice": "required"}, "no function"), ({"tools": [CLOCK], "tool_choice": "perhaps"}, "perhaps"),
    ({"functions": [{"name": "f"}], "function_call": {"name": "f"}}, "function_call"),
    ({"response_format": {"type": "xml"}}, "json_schema"), ({"messages": [{"role": "robot"}]}, "role"),
    ({"continue_final_message": True}, "must be from 'assistant'"), ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"top_logprobs": 21}, "top_logprobs"), ({"top_p": 1.1}, "top_p"),
    ({"messages": [{"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "image_url"}]}]},
     "part 1 is image_url"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "text only"),
    ({"messages": [{"role": "user", "content": 5}]}, "not 5"),
    ({"messages": [{"role": "user", "content": [5]}]}, "part 0 is 5"),
    ({"messages": [USER, {"role": "assistant", "content": "yes"}]}, "continue_final_message"),
    ({"messages": [{"role": "user", "content": [{"type": "python", "text": "1"}]}]}, "python")])
def test_refused_with_the_name_of_what_is_wrong(fields, named):
    with pytest.raises(ValidationError) as error:
        ChatRequest(**{"messages": [USER], **fields})
    assert named in str(error.value)


@pytest.mark.parametrize("text, read", [("🦊", "🦊"), ("\ud83e\udd8a", "🦊"), ("half \ud83e", "half \ufffd"),
                                        ("\udd8a!", "\ufffd!"), ("a\0b", "a\0b"), ("", "")])
def test_halves_of_characters_are_no_reason_to_refuse_a_text(text, read):
    for content in (text, [{"type": "text", "text": text}]):
        [turn] = to_conversation(ChatRequest(messages=[{"role": "user", "content": content}]).messages)
        assert turn["content"] == [{"type": "text", "text": read}]
    assert CompletionRequest(prompt=text).prompts == CompletionRequest(prompt=[text]).prompts == [read]


def test_conversation_takes_turns():
    tool = [{"type": "python", "text": "1+1"}, {"type": "python_output", "text": "2"}]
    request = ChatRequest(messages=[
        {"role": "developer", "content": "Be brief."}, {"role": "assistant", "content": "Hello"}, USER, USER,
        {"role": "assistant", "content": tool}, {"role": "user", "content": [{"type": "text", "text": "a"}]}])
    system, *turns = take_turns(to_conversation(request.messages))
    assert system == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2 + ["user"]
    texts = ["".join(part["text"] for part in turn["content"]) for turn in turns]
    assert texts == ["", "Hello", "hi\n\nhi", "1+12", "a"]
    assert turns[3]["content"] == tool


@pytest.mark.parametrize("name, arguments, text", [
    ("python", "1+1", "1+1"), ("calculator", '{"expression": "1+1"}', "1+1"),
    ("weather", {"city": "Oslo"}, "weather('Oslo')"), ("clock", "{}", "clock({})"),
    ("book", '{"day": 3, "name": "A"}', 'book({"day": 3, "name": "A"})')])
def test_other_models_tool_calls_become_ours(name, arguments, text):
    request = ChatRequest(messages=[USER, {"role": "assistant", "content": None, "tool_calls": [
        {"function": {"name": name, "arguments": arguments}}]}, {"role": "tool", "content": "2"}])
    assert request.continues and to_conversation(request.messages)[1]["content"] == [
        {"type": "text", "text": ""}, {"type": "python", "text": text}]


@pytest.mark.parametrize("tools, expression, called", [
    ([CALCULATOR], "12*3", ("calculator", '{"expression": "12*3"}')),
    ([function("run_python", code="string")], "12*3", ("run_python", '{"code": "12*3"}')),
    ([WEATHER, CALCULATOR], "weather('Oslo')", ("weather", '{"city": "Oslo"}')),
    ([WEATHER], "12*3", None), ([CLOCK], "clock()", None), ([WEATHER], "weather(", None), ([], "12*3", None)])
def test_what_the_model_calls(tools, expression, called):
    read = Tools(tools, None)
    assert read.is_call(expression) is bool(called) and read.unusable == tools.count(CLOCK)
    if called:
        assert tuple(read.call(expression)["function"].values()) == called
        assert not Tools(tools, "none").is_call(expression)


def test_what_had_no_effect_is_named():
    assert ChatRequest(messages=[USER], store=True, audio=None, metadata={}, suffix="", user="me").ignored == ["store"]
    for tools, choice, ignored in [([CLOCK], None, ["tools"]), ([CLOCK, WEATHER], "auto", ["tools"]),
                                   ([WEATHER], None, []), ([CLOCK], "required", [])]:
        assert ChatRequest(messages=[USER], tools=tools, tool_choice=choice).ignored == ignored
    asked = ChatRequest(messages=[USER], tools=[WEATHER], response_format={"type": "json_object"})
    assert asked.ignored == ["tools"]


def test_what_a_request_says_replaces_the_defaults():
    defaults = SamplingParams(max_tokens=30, temperature=0.5, top_k=7)
    assert ChatRequest(messages=[USER], top_p=None).sampling_params(defaults) == defaults
    request = ChatRequest(messages=[USER], temperature=0, max_tokens=5, max_completion_tokens=6, stop="x",
                          logprobs=True, logit_bias={"3": -1})
    assert request.sampling_params(defaults) == SamplingParams(
        max_tokens=6, temperature=0, top_k=7, stop=("x",), logprobs=0, logit_bias={3: -1})
    for no_limit in ({"max_tokens": -1}, {"max_completion_tokens": -1}, {"max_tokens": None}):
        assert ChatRequest(messages=[USER], **no_limit).sampling_params(defaults).max_tokens == UNLIMITED
    assert ChatRequest(messages=[USER], top_k=0).sampling_params(defaults).top_k is None
    unchecked = ChatRequest(messages=[USER], stop_ids=["x"], echo="yes")  # no fields of a chat
    assert unchecked.sampling_params(defaults) == defaults
    text = CompletionRequest(prompt="a", max_tokens=0, logprobs=2, echo=True, stop=["", "y"])
    assert text.sampling_params(defaults) == SamplingParams(
        max_tokens=0, temperature=0.5, top_k=7, stop=("y",), logprobs=2, echo=True)


@pytest.mark.parametrize("prompt, number", [("a", 1), (["a", "b"], 2), ([1, 2], 1), ([[1], [2, 3]], 2)])
def test_prompts_in_every_form(prompt, number):
    assert len(CompletionRequest(prompt=prompt).prompts) == number


@pytest.mark.parametrize("fields", [{"prompt": []}, {"prompt": [[]]}, {"prompt": [-1]}, {"prompt": ["a"] * 65}, {},
                                    {"prompt": 5}, {"prompt": ["a", [1]]}, {"prompt": [1, "a"]}, {"prompt": [True]},
                                    {"prompt": "x", "echo": True, "stream": True}, {"prompt": "x", "logprobs": True},
                                    {"prompt": "x", "suffix": "y"}, {"prompt": "x", "best_of": 3}])
def test_prompts_that_are_refused(fields):
    with pytest.raises(ValidationError) as error:
        CompletionRequest(**fields)
    assert "string" not in str(error.value)  # the kind that pydantic tried last says nothing about what is wrong


def test_a_full_batch_fits():
    assert len(CompletionRequest(prompt=[[5] * 2047] * 64, logprobs=False).prompts) == 64


def test_a_choice_puts_a_tool_call_in_one_piece(tokenizer):
    choice, end = Choice(tokenizer), tokenizer.special_id("<|output_end|>")
    events = [Event(1, "so ", "text"), Event(7, "", "python"), Event(2, "1+", "python"), Event(3, "1", "python"),
              Event(8, "", "python"), Event(6, "", "output"), Event(4, "2", "output"), Event(end, "", "output"),
              Event(5, "!", "text", "stop")]
    gained = [{"content": "so "}, {"nanochat": {"tool": {"expression": "1+1", "result": "2"}}}, {"content": "!"}]
    assert [delta for event in events for delta in choice.push([event])] == gained
    assert choice.finish_reason == "stop"
    assert list(Choice(tokenizer).push([Event(3, "and ", "text"), *events])) == [{"content": "and so "}, *gained[1:]]


def test_calls_of_the_clients_functions(tokenizer):
    events = [Event(7, "", "python"), Event(2, "1+1", "python"), Event(8, "", "python", "tool_calls")]
    choice = Choice(tokenizer, tools=Tools([CALCULATOR], None))
    [delta] = choice.push(events)
    [call] = delta["tool_calls"]
    assert call["function"] == {"name": "calculator", "arguments": '{"expression": "1+1"}'} and call["index"] == 0
    assert choice.chunk({}, is_chat=True)["finish_reason"] == "tool_calls"
    assert choice.whole_chat()["message"]["tool_calls"][0]["id"] == call["id"] and not choice.own_calls
    text = '{"name": "clock", "arguments": {}}'
    for said, gained in ((text, "tool_calls"), (text[:-1], "content")):  # cut off: not a call, and shown as it is
        choice = Choice(tokenizer, tools=Tools([CLOCK, WEATHER], "required"))
        assert not list(choice.push([Event(1, said[:9], "text")]))
        [delta] = choice.push([Event(1, said[9:], "text", "stop")])
        assert list(delta) == [gained]


def test_a_tool_call_that_the_end_cuts_off_is_shown(tokenizer):
    choice = Choice(tokenizer)
    events = [Event(7, "", "python"), Event(2, "1+", "python"), Event(9, "", "python", "length")]
    assert list(choice.push(events)) == [{"nanochat": {"tool": {"expression": "1+", "result": ""}}}]
    assert choice.finish_reason == "length"
    assert not list(Choice(tokenizer).push([Event(7, "", "python"), Event(9, "", "python", "stop")]))


def test_logprobs_of_half_characters_come_with_the_next_text(tokenizer):
    choice = Choice(tokenizer)
    first, second = "é".encode()
    assert not list(choice.push([Event(first, "", "text", "", (-1.0, [(65, -2.0)]))]))
    [delta] = choice.push([Event(second, "é", "text", "", (-0.5, []))])
    [half, rest] = choice.chunk(delta, is_chat=True)["logprobs"]["content"]
    assert half["bytes"] == [first] and rest["bytes"] == [second] and half["logprob"] == -1.0
    assert half["top_logprobs"] == [{"token": "A", "bytes": [65], "logprob": -2.0}]
    list(choice.push([Event(65, "A", "text", "length", (-0.5, [(66, -1.0)]))]))
    last = choice.chunk({}, is_chat=False)
    assert last["finish_reason"] == "length" and last["logprobs"] == {
        "tokens": ["A"], "token_logprobs": [-0.5], "text_offset": [0], "top_logprobs": [{"B": -1.0}]}
    assert choice.chunk({}, is_chat=False)["logprobs"] is None
