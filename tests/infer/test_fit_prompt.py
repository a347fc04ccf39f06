import pytest

from nanochat.infer.fit_prompt import fit_prompt
from nanochat.system.files import UserError
from nanochat.tokenizer import chat

TURNS = [{"role": "system", "content": "SYS"}] + [
    {"role": role, "content": letter * 10} for role, letter in zip(["user", "assistant"] * 3, "aAbBcC")][:-1]


def test_whole_exchanges_go_oldest_first_and_the_system_text_stays(tokenizer):
    whole = chat.render_prompt(tokenizer, {"messages": TURNS})
    assert fit_prompt(tokenizer, TURNS, len(whole) + 10, 10) == (whole, 0)
    prompt, dropped = fit_prompt(tokenizer, TURNS, len(whole) + 10, 11)
    assert dropped == 2 and prompt == chat.render_prompt(tokenizer, {"messages": [TURNS[0], *TURNS[3:]]})
    prompt, dropped = fit_prompt(tokenizer, TURNS, 40, 10_000)  # the room is cut to a quarter of the context
    assert dropped == 4 and tokenizer.decode(prompt) == (
        "<|bos|><|user_start|>SYS\n\ncccccccccc<|user_end|><|assistant_start|>")


def test_a_message_that_cannot_fit_is_refused_with_numbers(tokenizer):
    shortest = len(fit_prompt(tokenizer, TURNS, 40, 10_000)[0])
    assert fit_prompt(tokenizer, TURNS, shortest + 1, 10)[1] == 4  # an answer of one token
    with pytest.raises(UserError, match=f"{shortest} tokens long, the model's context {shortest}"):
        fit_prompt(tokenizer, TURNS, shortest, 10)


def test_an_answer_that_continues_leaves_the_last_turn_open(tokenizer):
    messages = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "Once"}]
    prompt, _ = fit_prompt(tokenizer, messages, 40, 10, continues=True)
    assert tokenizer.decode(prompt) == "<|bos|><|user_start|>u<|user_end|><|assistant_start|>Once"


@pytest.mark.parametrize("size", [500, 10**7])
def test_a_question_without_an_answer_is_forgotten_like_any_other_message(tokenizer, size):
    long, short, newest = ({"role": "user", "content": text} for text in ("a" * size, "short", "hi"))
    assert tokenizer.decode(fit_prompt(tokenizer, [short, newest], 96, 10)[0]).count("short\n\nhi")
    prompt, forgotten = fit_prompt(tokenizer, [long, newest], 96, 10)
    assert forgotten == 1 and prompt == fit_prompt(tokenizer, [newest], 96, 10)[0]
    prompt, forgotten = fit_prompt(tokenizer, [long, short, {"role": "assistant", "content": "yes"}, newest], 96, 10)
    assert forgotten == 1 and "short" in tokenizer.decode(prompt)
    with pytest.raises(UserError, match="the message is"):
        fit_prompt(tokenizer, [newest, long], 96, 10)


def test_the_system_prompt_is_blamed_if_it_is_the_longer(tokenizer):
    with pytest.raises(UserError, match="system prompt is 202 tokens long and the newest message 4;.*96"):
        fit_prompt(tokenizer, [{"role": "system", "content": "x" * 200}, {"role": "user", "content": "hi"}], 96, 10)


def test_long_histories_cost_no_more_than_short_ones(tokenizer, monkeypatch):
    encoded, encode = [], type(tokenizer).encode
    monkeypatch.setattr(type(tokenizer), "encode", lambda self, text: encoded.append(text) or encode(self, text))
    history = [{"role": role, "content": "0123456789"} for _ in range(5000) for role in ("user", "assistant")]
    prompt, forgotten = fit_prompt(tokenizer, [*history, {"role": "user", "content": "hi"}], 96, 10)
    assert forgotten == 10_000 - 6 and len(prompt) <= 86 and len(encoded) < 30


def test_tool_results_stay_with_their_question(tokenizer):
    call, result = ([{"type": kind, "text": text}] for kind, text in (("python", "1+1"), ("python_output", "2")))
    messages = [{"role": "user", "content": "x" * 60}, {"role": "assistant", "content": "b"},
                {"role": "user", "content": "?"}, {"role": "assistant", "content": call},
                {"role": "assistant", "content": result}]
    prompt, forgotten = fit_prompt(tokenizer, messages, 96, 30, continues=True)
    assert forgotten == 2 and tokenizer.decode(prompt).endswith("2<|output_end|>")
