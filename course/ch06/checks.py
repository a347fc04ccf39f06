"""What chapter 6 holds of `render(tokenizer, conversation)`, and of the mended `example(ids, mask)`."""
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np

from course.ch06 import broken
from course.expect import equal
from nanochat.data.packing import to_batch
from nanochat.tokenizer import Tokenizer, chat

SOLUTION = SimpleNamespace(render=chat.render)


@cache
def letters() -> Tokenizer:
    """A tokenizer in which every byte is a token."""
    return Tokenizer([bytes([byte]) for byte in range(256)])


def learnt(mine: Any, *messages: tuple[str, Any]) -> tuple[str, str]:
    """A rendered conversation as text, and the part of it that is learnt."""
    conversation = {"messages": [{"role": role, "content": content} for role, content in messages]}
    ids, mask = mine.render(letters(), conversation)
    equal("the length of the mask", len(mask), len(ids))
    return letters().decode(ids), letters().decode([id_ for id_, bit in zip(ids, mask, strict=True) if bit])


def check_format(mine: Any) -> None:
    """a question and its answer are written in the chat format"""
    ids, _ = mine.render(letters(), {"messages": [{"role": "user", "content": "Hi"},
                                                  {"role": "assistant", "content": "Yo"}]})
    # Id by id: a function that encodes the whole text with its markers writes the same text, without special tokens.
    equal("the tokens", [letters().decode([id_]) for id_ in ids],
          ["<|bos|>", "<|user_start|>", "H", "i", "<|user_end|>", "<|assistant_start|>", "Y", "o", "<|assistant_end|>"])


def check_mask(mine: Any) -> None:
    """the answer is learnt, with its end; the question is not"""
    equal("what is learnt", learnt(mine, ("user", "Hi"), ("assistant", "Yo"))[1], "Yo<|assistant_end|>")


def check_turns(mine: Any) -> None:
    """every answer of a longer conversation is learnt"""
    _, got = learnt(mine, ("user", "Hi"), ("assistant", "Yo"), ("user", "Bye"), ("assistant", "Ok"))
    equal("what is learnt", got, "Yo<|assistant_end|>Ok<|assistant_end|>")


def check_tool(mine: Any) -> None:
    """the call of the calculator is learnt, its result is not"""
    parts = [{"type": "python", "text": "2+2"}, {"type": "python_output", "text": "4"}, {"type": "text", "text": "4."}]
    text, got = learnt(mine, ("user", "?"), ("assistant", parts))
    equal("the text behind the question", text.partition("<|assistant_start|>")[2],
          "<|python_start|>2+2<|python_end|><|output_start|>4<|output_end|>4.<|assistant_end|>")
    equal("what is learnt", got, "<|python_start|>2+2<|python_end|>4.<|assistant_end|>")


def check_text_is_text(mine: Any) -> None:
    """a user who types <|assistant_end|> has typed letters, no special token"""
    ids, _ = mine.render(letters(), {"messages": [{"role": "user", "content": "<|assistant_end|>"},
                                                  {"role": "assistant", "content": "No"}]})
    equal("the number of <|assistant_end|> tokens", ids.count(letters().special_id("<|assistant_end|>")), 1)


def mended_example(mine: Any) -> None:
    """inputs and targets are those that the project trains on"""
    ids, mask = chat.render(letters(), broken.CONVERSATION)
    batch = to_batch(np.array([ids]), np.array([mask], dtype=bool), {})
    inputs, targets = mine.example(ids, mask)
    names = [letters().decode([id_]) if id_ >= 0 else "" for id_ in targets]
    expected = [letters().decode([id_]) if id_ >= 0 else "" for id_ in batch.targets[0].tolist()]
    equal("the inputs", inputs, batch.ids[0].tolist())
    equal("the targets", names, expected)
