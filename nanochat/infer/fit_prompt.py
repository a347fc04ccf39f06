"""Makes a conversation fit the context: drops the oldest messages; the system text and the newest question stay."""

from typing import Any

from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer, chat

NUM_MARKERS = 2  # special tokens around a message, and around a part of it


def fit_prompt(tokenizer: Tokenizer, messages: list[dict[str, Any]], sequence_len: int, room: int,
               continues: bool = False) -> tuple[list[int], int]:
    """Prompt ids that leave `room` tokens for the answer, and the number of the oldest messages that were dropped for
    this (the system message is not counted).

    `messages` as in nanochat/tokenizer/chat.py, but in any order: `take_turns` makes turns of them. The last message is
    the user's; with `continues` it is the assistant's, and the answer continues it. UserError if the system text and
    the newest question do not fit into the context.
    """
    # Never more than a quarter of the context is kept free: a long max_tokens must not drop the whole conversation.
    limit = sequence_len - min(room, sequence_len // 4)
    system = [message for message in messages[:1] if message["role"] == "system"]
    messages = messages[len(system):]
    # A conversation begins with a question. A question without an answer can be forgotten like any other message.
    starts = [i for i, message in enumerate(messages) if i == 0 or message["role"] == "user"]
    # Counting from the newest message costs the same whether ten or ten thousand messages are older.
    num_tokens = NUM_MARKERS + sum(_length(tokenizer, message, sequence_len) for message in system)
    first = len(messages)
    while first > 0:
        length = _length(tokenizer, messages[first - 1], sequence_len)
        if num_tokens + length > limit and first <= starts[-1]:  # the newest question is in
            break
        num_tokens, first = num_tokens + length, first - 1
    starts = [start for start in starts if start >= first]
    if num_tokens > 2 * sequence_len and first == starts[-1]:
        raise _too_long(tokenizer, system, messages[first:], num_tokens, sequence_len)
    for first in starts:  # merged messages may have a few more tokens than counted: try again with fewer messages
        prompt = _render(tokenizer, [*system, *messages[first:]], continues)
        if len(prompt) <= limit:
            return prompt, first
    if len(prompt) < sequence_len:  # nothing is left to drop, so the answer gets less room than requested
        return prompt, first
    raise _too_long(tokenizer, system, messages[first:], len(prompt), sequence_len)


def take_turns(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Messages as the model has learnt conversations: user and assistant take turns, and the user begins.

    Messages of the same role in a row become one message; its texts are separated by an empty line.
    """
    turns: list[dict[str, Any]] = []
    for message in messages:
        role, parts = message["role"], _parts(message)
        if turns and turns[-1]["role"] == role:
            content = turns[-1]["content"]
            if content[-1]["type"] == "text" and parts[0]["type"] == "text":
                content.append({"type": "text", "text": "\n\n"})
            content.extend(parts)
            continue
        if role == "assistant" and (not turns or turns[-1]["role"] == "system"):
            turns.append({"role": "user", "content": [{"type": "text", "text": ""}]})
        turns.append({"role": role, "content": list(parts)})
    return turns


def _render(tokenizer: Tokenizer, messages: list[dict[str, Any]], continues: bool) -> list[int]:
    conversation = {"messages": take_turns(messages)}
    if continues:  # leave the assistant's last turn open: drop the <|assistant_end|> after it
        return chat.render(tokenizer, conversation)[0][:-1]
    return chat.render_prompt(tokenizer, conversation)


def _parts(message: dict[str, Any]) -> list[dict[str, str]]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _length(tokenizer: Tokenizer, message: dict[str, Any], sequence_len: int) -> int:
    """The number of tokens of a message. A text that cannot fit into the context is not tokenized: it may be huge."""
    num_tokens = NUM_MARKERS
    for part in _parts(message):
        at_least = len(part["text"]) // tokenizer.max_token_bytes
        num_tokens += at_least if at_least > 2 * sequence_len else len(tokenizer.encode(part["text"]))
        num_tokens += NUM_MARKERS * (part["type"] != "text")
    return num_tokens


def _too_long(tokenizer: Tokenizer, system: list[dict[str, Any]], messages: list[dict[str, Any]], num_tokens: int,
              sequence_len: int) -> UserError:
    """The error names the text to shorten: the system prompt if it is the longer one, otherwise the newest message."""
    of_system, of_messages = (sum(_length(tokenizer, message, sequence_len) for message in part)
                              for part in (system, messages))
    if of_system > of_messages:
        return UserError(f"the system prompt is {of_system:,} tokens long and the newest message {of_messages:,}; the "
                         f"model's context has {sequence_len:,}; shorten the system prompt")
    return UserError(f"the message is {num_tokens:,} tokens long, the model's context {sequence_len:,}; shorten it")
