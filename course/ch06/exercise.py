"""Chapter 6: write the chat format, and what the model learns of it. (docs/course/06-chat.md)"""
from typing import Any

from nanochat.tokenizer import Tokenizer


def render(tokenizer: Tokenizer, conversation: dict[str, Any]) -> tuple[list[int], list[int]]:
    """The ids of a conversation, and a mask of the same length: 1 where the model is to learn to write the id.

    `conversation["messages"]` are the messages of user and assistant in turn, {"role": …, "content": …}. The content is
    a text, or a list of parts {"type": "text" | "python" | "python_output", "text": …}. If it is a text, treat it as a
    list with one part of type "text".

    1. The ids begin with tokenizer.bos_id.
    2. A message of the user: <|user_start|>, the text, <|user_end|>. All mask 0, because others write it.
    3. A message of the assistant: <|assistant_start|> (0, the program writes it), then its parts, then
       <|assistant_end|> (1: this is how the model learns to stop).
    4. A part "text": its ids, mask 1. A part "python": <|python_start|>, the ids, <|python_end|>, all mask 1: the model
       calls the calculator. A part "python_output": <|output_start|>, the ids, <|output_end|>, all mask 0: the
       calculator wrote it.

    tokenizer.encode(text) gives the ids of a text, tokenizer.special_id("<|user_start|>") the id of a special token.
    """
    raise NotImplementedError
