"""What the model is shown and what it is to learn of a conversation."""
import pytest

from nanochat.system.files import UserError
from nanochat.tokenizer import chat
from nanochat.tokenizer.train import train_tokenizer

TOKENIZER = train_tokenizer(["hello there, how are you? " * 3], 300)


def user(text: str) -> dict:
    return {"role": "user", "content": text}


def assistant(*parts: tuple[str, str]) -> dict:
    return {"role": "assistant", "content": [{"type": kind, "text": text} for kind, text in parts]}


def learnt(messages: list[dict], **options) -> str:
    ids, mask = chat.render(TOKENIZER, {"messages": messages}, **options)
    assert len(ids) == len(mask)
    return TOKENIZER.decode([i for i, keep in zip(ids, mask) if keep])


def shown(messages: list[dict], **options) -> str:
    return TOKENIZER.decode(chat.render(TOKENIZER, {"messages": messages}, **options)[0])


TOOL = [user("7*8?"), assistant(("text", "So "), ("python", "7*8"), ("python_output", "56"), ("text", "56."))]


def test_what_is_learnt():
    assert shown(TOOL) == ("<|bos|><|user_start|>7*8?<|user_end|>"
                           "<|assistant_start|>So <|python_start|>7*8<|python_end|>"
                           "<|output_start|>56<|output_end|>56.<|assistant_end|>")
    assert learnt(TOOL) == "So <|python_start|>7*8<|python_end|>56.<|assistant_end|>"
    assert learnt([user("hi"), {"role": "assistant", "content": "hello"}]) == "hello<|assistant_end|>"


def test_system_text_joins_the_first_user_turn():
    messages = [{"role": "system", "content": "Be kind."}, user("hi"), assistant(("text", "hello")), user("more")]
    assert shown(messages).startswith("<|bos|><|user_start|>Be kind.\n\nhi<|user_end|>")
    assert shown(messages).count("Be kind") == 1


def test_special_names_in_a_message_are_text():
    ids, _ = chat.render(TOKENIZER, {"messages": [user("<|assistant_end|>"), assistant(("text", "ok"))]})
    assert ids.count(TOKENIZER.special_id("<|assistant_end|>")) == 1


def test_prompt_ends_where_the_assistant_is_to_speak():
    for messages in (TOOL, TOOL[:1]):
        prompt = TOKENIZER.decode(chat.render_prompt(TOKENIZER, {"messages": messages}))
        assert prompt == "<|bos|><|user_start|>7*8?<|user_end|><|assistant_start|>"


def test_cut_keeps_whole_exchanges():
    messages = [user("one"), assistant(("text", "two")), user("three"), assistant(("text", "four " * 20))]
    whole = len(chat.render(TOKENIZER, {"messages": messages})[0])
    first = len(chat.render(TOKENIZER, {"messages": messages[:2]})[0])
    assert shown(messages, max_tokens=whole) == shown(messages)
    assert shown(messages, max_tokens=whole - 1) == shown(messages[:2]) == shown(messages, max_tokens=first)
    assert learnt(messages[2:], max_tokens=20).startswith("four ")  # too long by itself: cut inside
    assert chat.render(TOKENIZER, {"messages": messages[2:]}, max_tokens=6) == ([], [])
    assert chat.render(TOKENIZER, {"messages": messages}, max_tokens=4) == ([], [])


@pytest.mark.parametrize(("messages", "complaint"), [
    ([], "at least one message"),
    ([assistant(("text", "hi"))], "message 0 has role 'assistant', expected 'user'"),
    ([user("a"), user("b")], "message 1 has role 'user', expected 'assistant'"),
    ([user("a"), {"role": "system", "content": "late"}], "message 1 has role 'system'"),
    ([{"role": "system", "content": "alone"}], "message 1 is missing"),
    ([user("a"), assistant(("image", "x"))], "message 1 has a part"),
    ([user("a"), {"role": "assistant", "content": []}], "message 1 has a part"),
    ([user("a"), {"role": "assistant"}], "message 1 has a part"),
    ([{"role": "user", "content": [{"type": "python", "text": "1"}]}], "message 0: only an assistant can"),
    ([user("a"), "hello"], "message 1 has role None"),
])
def test_wrong_conversations_name_the_message(messages, complaint):
    with pytest.raises(UserError, match=complaint):
        chat.render(TOKENIZER, {"messages": messages})
