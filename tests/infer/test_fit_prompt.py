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
    prompt, dropped = fit_prompt(tokenizer, TURNS, 40, 10_000)  # the room is cut to half the context
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
