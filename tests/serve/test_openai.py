import pytest
from pydantic import ValidationError

from nanochat.infer import Event
from nanochat.serve.openai import ChatRequest, Deltas

USER = {"role": "user", "content": "hi"}


@pytest.mark.parametrize("fields", [
    {}, {"max_tokens": None, "temperature": None, "stop": None, "tools": None}, {"n": 1, "stop": [], "top_p": 1.0},
    {"something_new": {"a": 1}}, {"response_format": {"type": "text"}}, {"max_completion_tokens": 4096, "top_k": 200}])
def test_accepted(fields):
    ChatRequest(messages=[USER], **fields)


@pytest.mark.parametrize("fields, named", [
    ({"messages": []}, "messages"), ({"messages": [USER] * 501}, "messages"), ({"temperature": 2.1}, "temperature"),
    ({"top_k": 0}, "top_k"), ({"max_tokens": 4097}, "max_tokens"), ({"n": 2}, "n is not supported"),
    ({"tools": [{"type": "function"}]}, "tools is not supported"), ({"stop": "x"}, "stop is not supported"),
    ({"response_format": {"type": "json_object"}}, "response_format"), ({"messages": [{"role": "tool"}]}, "role"),
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
    system, *turns = request.conversation()
    assert system == {"role": "system", "content": "Be brief."}
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2 + ["user"]
    texts = ["".join(part["text"] for part in turn["content"]) for turn in turns]
    assert texts == ["", "Hello", "hi\n\nhi", "1+12", "a"]
    assert turns[3]["content"] == tool


def test_deltas_put_a_tool_call_in_one_piece():
    deltas = Deltas(output_end_id=9)
    events = [Event(1, "so ", "text"), Event(7, "", "python"), Event(2, "1+", "python"), Event(3, "1", "python"),
              Event(8, "", "python"), Event(6, "", "output"), Event(4, "2", "output"), Event(9, "", "output"),
              Event(5, "!", "text", "stop")]
    assert [delta for delta in map(deltas.push, events) if delta] == [
        {"content": "so "}, {"nanochat": {"tool": {"expression": "1+1", "result": "2"}}}, {"content": "!"}]
