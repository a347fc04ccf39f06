"""Rows as other people write them → conversations in our format, or the reason why not."""
import json

import pytest

from nanochat.data import conversations
from nanochat.data.rows import Broken

USER, ANSWER = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho."}
PLAIN = [("user", "Hi"), ("assistant", "Ho.")]
TOOL_CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]}


def parsed(row) -> list[tuple]:
    return [tuple(message.values()) for message in conversations.parse(row)["messages"]]


@pytest.mark.parametrize("row", [
    {"messages": [USER, ANSWER]}, [USER, ANSWER],
    {"messages": [USER, ANSWER], "id": 7, "source": "x", "timestamp": 1.5},
    {"messages": [USER, ANSWER], "tools": [], "parallel_tool_calls": None, "label": "small talk", "prompt": "Hi"},
    {"messages": [{**USER, "name": "ann", "weight": 0}, {**ANSWER, "weight": 1, "tool_calls": None}]},
    {"messages": [{"role": "User ", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
                  {"role": "ASSISTANT", "content": [{"type": "text", "text": "Ho."}]}]},
    {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho."}]},
    {"conversations": [{"from": "user", "value": "Hi"}, {"from": "chatgpt", "value": "Ho."}], "id": "x_0"},
    {"conversations": [{"from": "human", "text": "Hi"}, {"from": "bing", "text": "Ho.", "weight": None}]},
    {"conversation": [{"role": "human", "content": "Hi"}, {"role": "model", "content": "Ho."}]},
    {"conversations": [{"from": "system", "value": ""}, {"from": "human", "value": "Hi"},
                       {"from": "gpt", "value": "Ho."}]},
    {"instruction": "Hi", "input": "", "output": "Ho."}, {"instruction": "Hi", "output": "Ho.", "text": "### Hi\nHo."},
    {"instruction": "Hi", "context": "", "response": "Ho.", "category": "open_qa"}, {"Question": "Hi", "Answer": "Ho."},
    {"prompt": "Hi", "completion": "Ho."}, {"prompt": "Hi", "response": "Ho."}, {"query": "Hi", "response": "Ho."},
    {"input": "Hi", "output": "Ho."}, {"prompt": [USER], "completion": [ANSWER]},
    [USER, {"role": "assistant", "content": "Ho.<|im_end|>\n<|endoftext|>"}],
])
def test_every_format_gives_the_same_conversation(row):
    assert conversations.kind(row) == "conversations" and parsed(row) == PLAIN
    assert conversations.parse(conversations.parse(row)) == conversations.parse(row), "read again it stays as it is"


@pytest.mark.parametrize("row, expected", [
    ({"messages": [USER, {**ANSWER, "weight": 0}, USER, ANSWER]}, [PLAIN[0], (*PLAIN[1], 0), *PLAIN]),
    ({"messages": [USER, {**ANSWER, "train": False}, USER, {**ANSWER, "training": True}]},
     [PLAIN[0], (*PLAIN[1], 0), *PLAIN]),
    ([{"role": "developer", "content": "Be kind."}, USER, ANSWER], [("system", "Be kind."), *PLAIN]),
    ({"system": "Be kind.", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho."}]},
     [("system", "Be kind."), *PLAIN]),
    ({"instruction": "Hi", "input": "all", "output": "Ho.", "system": "S", "history": [["A", "B"]]},
     [("system", "S"), ("user", "A"), ("assistant", "B"), ("user", "Hi\n\nall"), PLAIN[1]]),
    ({"question": "Hi", "context": "all", "answer": "Ho."}, [("user", "Hi\n\nall"), PLAIN[1]]),
    ([USER, USER, ANSWER, ANSWER], [("user", "Hi\n\nHi"), ("assistant", "Ho.\n\nHo.")]),
    ([*[{"role": "system", "content": "S"}] * 2, USER, ANSWER], [("system", "S\n\nS"), *PLAIN]),
    ([USER, ANSWER, USER], [*PLAIN, PLAIN[0]]),
])
def test_what_changes_the_meaning_is_kept(row, expected):
    assert parsed(row) == expected


def test_tool_parts_of_our_own_stay_parts():
    texts = {"text": "Is ", "python": "1+1", "python_output": "2"}
    content = [{"type": kind, "text": text} for kind, text in texts.items()]
    assert conversations.parse([USER, {"role": "assistant", "content": content}])["messages"][1]["content"] == content
    joined = conversations.parse([USER, {"role": "assistant", "content": content}, ANSWER])["messages"][1]["content"]
    assert joined == [*content, {"type": "text", "text": "\n\n"}, {"type": "text", "text": "Ho."}]


@pytest.mark.parametrize("row, reason", [
    ({"messages": [USER, TOOL_CALL]}, "message 2 has 'tool_calls': tool calls are not supported"),
    ({"messages": [USER, ANSWER], "tools": [{"type": "function"}]}, "'tools'"),
    ({"messages": [USER, {"role": "tool", "content": "4", "tool_call_id": "1"}, ANSWER]}, "role 'tool': tool calls"),
    ({"messages": [USER, {"role": "assistant", "function_call": {"name": "f"}}]}, "function_call"),
    ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "observation", "value": "4"}]}, "observation"),
    ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, ANSWER], "'image_url'; only"),
    ({"messages": [USER, ANSWER], "images": ["a.png"]}, "only text"),
    ({"input": {"messages": [USER]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]}, "preference"),
    ({"prompt": "Hi", "chosen": "Ho.", "rejected": "No."}, "preference pairs"),
    ({"prompt": "Hi", "completion": "Ho.", "label": False}, "`label`"),
    ({"messages": [USER, ANSWER], "weight": 0}, "`weight`"),
    ({"question": "Hi", "choices": ["a", "b"], "answer": "a"}, "'choices'"),
    ([USER, {**ANSWER, "reasoning_content": "Hmm."}], "message 2 has 'reasoning_content'"),
    ([USER, {**ANSWER, "weight": 0.5}], "weight 0.5; expected 0 or 1"),
    ([{**USER, "weight": 1}, ANSWER], "assistant only"),
    ([USER, {**ANSWER, "weight": 0}], "no assistant message to learn"),
    ([USER, {**ANSWER, "weight": 0}, ANSWER], "different weight"),
    ([{**USER, "name": "ann"}, ANSWER, {**USER, "name": "bob"}, ANSWER], r"several speakers as user \(ann, bob\)"),
    ([ANSWER, USER], "the roles are"), ([USER], "the roles are|no assistant"), ([], "the roles are"),
    ([USER, {"role": "system", "content": "S"}, ANSWER], "the roles are"),
    ([USER, {"role": "narrator", "content": "x"}], "'narrator'"),
    ([USER, {"role": "assistant", "content": " \n"}], "message 2 .assistant. is empty"),
    ([{"role": "user", "content": ""}, ANSWER], "message 1 .user. is empty"),
    ([USER, {"role": "assistant"}], "is empty"),
    ([USER, {"role": "assistant", "content": 3}], "content 3; expected"), ([USER, "Ho."], "message 2 is 'Ho.'"),
    ([USER, {"role": "assistant", "content": "\ud83d"}], "whole characters"), (USER, "a single message"),
    ({"prompt": "Hi", "question": "Ha", "answer": "Ho."}, "prompt and question"),
    ({"prompt": "Hi"}, "fields prompt; expected"),
    ({"prompt": "Hi", "answer": "a", "output": "b"}, "output and answer"), ({"question": "Hi", "answer": 4}, "strings"),
    ({"messages": [USER, ANSWER], "conversations": [USER, ANSWER]}, "two lists"), ({"messages": "Hi"}, "expected"),
    ({"instruction": "a", "output": "b", "history": ["x"]}, "history"), ({}, "no fields"), (7, "expected"),
    (None, "expected"),
    (Broken("not JSON (x)"), "not JSON"),
])
def test_what_cannot_be_followed_is_refused(row, reason):
    with pytest.raises(ValueError, match=reason) as raised:
        conversations.parse(row)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("row, kind", [
    ({"text": "a"}, "texts"), ("a", "texts"), ({"content": "a", "label": 1}, "texts"),
    ({"prompt": "a", "text": "b"}, "texts"),
    ({"name": "x"}, ""), ({"text": 1}, ""), (3, ""), ([], ""), (Broken("x"), ""),
    ({"from": "bob", "text": "Hi"}, "texts"),
    (USER, "conversations"), ({"role": "prompter", "text": "Hi"}, "conversations"),
    ({"messages": None, "text": "a"}, "texts"), ({"chosen": "a"}, "conversations"),
])
def test_rows_are_told_apart_by_their_fields(row, kind):
    assert conversations.kind(row) == kind


def test_words_are_those_of_tools_as_well():
    assert conversations.words({"content": [{"type": "text", "text": "a"}, {"type": "python", "text": "1"}]}) == "a1"
    assert json.dumps(conversations.parse([USER, ANSWER]))
