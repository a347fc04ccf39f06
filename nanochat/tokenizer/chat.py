"""The chat format: a conversation becomes ids and a mask, which is 1 where the model learns to write the id.

    <|bos|><|user_start|>7*8?<|user_end|><|assistant_start|>                 0: written by others
    <|python_start|>7*8<|python_end|>                                        1: the model calls the tool
    <|output_start|>56<|output_end|>                                         0: written by the tool
    It is 56.<|assistant_end|>                                               1: the model answers, and stops

A system message joins the first user turn. Names of special tokens in a message are text, never special tokens.
chat_template.jinja is the same format for Hugging Face's `apply_chat_template`; a test compares the two.
"""
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat.system.files import UserError

LEARNT, GIVEN, NEVER = 1, 0, -1  # marks of `_exchanges` for ids; NEVER: not learnt even with `learn_all`
if TYPE_CHECKING:  # bpe imports this file
    from nanochat.tokenizer.bpe import Tokenizer

PART_MARKERS = {"text": ("", ""), "python": ("<|python_start|>", "<|python_end|>"),
                "python_output": ("<|output_start|>", "<|output_end|>")}

TEMPLATE = Path(__file__).with_name("chat_template.jinja").read_text(encoding="ascii")  # for tokenizer_config.json


def render(tokenizer: "Tokenizer", conversation: dict[str, Any], max_tokens: int | None = None,
           learn_all: bool = False) -> tuple[list[int], list[int]]:
    """The ids of a conversation and its mask of the same length: 1 where the model learns to write the id.

    With `max_tokens` the first exchanges that fit are kept whole; only if the first exchange alone is too long, it is
    cut inside. ([], []) if nothing to learn is left. With `learn_all` the mask is 1 everywhere except in messages of
    weight 0. UserError names the message that is wrong.
    """
    ids, mask = [tokenizer.bos_id], [GIVEN]
    for turn_ids, turn_mask in _exchanges(tokenizer, conversation):
        if max_tokens is not None and len(ids) + len(turn_ids) > max_tokens:
            if LEARNT not in mask:
                ids, mask = (ids + turn_ids)[:max_tokens], (mask + turn_mask)[:max_tokens]
            break
        ids, mask = ids + turn_ids, mask + turn_mask
    if max_tokens is not None and LEARNT not in mask:
        return [], []
    return ids, [int(kind == LEARNT or learn_all and kind == GIVEN) for kind in mask]


def render_prompt(tokenizer: "Tokenizer", conversation: dict[str, Any]) -> list[int]:
    """The ids up to and including <|assistant_start|>; a last message of the assistant is left out."""
    messages = conversation.get("messages") or []
    if messages and messages[-1].get("role") == "assistant":
        messages = messages[:-1]
    ids, _ = render(tokenizer, {"messages": messages})
    return [*ids, tokenizer.special_id("<|assistant_start|>")]


def _exchanges(tokenizer: "Tokenizer", conversation: dict[str, Any]) -> Iterator[tuple[list[int], list[int]]]:
    """Ids of each user turn together with its answer, and for each id its mark: LEARNT, GIVEN or NEVER."""
    ids: list[int] = []
    mask: list[int] = []

    def add(text: str, mark: int, special: bool = False) -> None:
        new = [tokenizer.special_id(text)] if special else tokenizer.encode(text)
        ids.extend(new)
        mask.extend([mark] * len(new))

    for role, parts, weight in _turns(conversation):
        answer = role == "assistant"
        given = NEVER if weight == 0 else GIVEN
        learnt = LEARNT if answer and weight else given
        add(f"<|{role}_start|>", given, special=True)
        for kind, text in parts:
            mark = given if kind == "python_output" else learnt
            start, end = PART_MARKERS[kind]
            if start:
                add(start, mark, special=True)
            add(text, mark)
            if end:
                add(end, mark, special=True)
        add(f"<|{role}_end|>", learnt, special=True)
        if answer:
            yield ids, mask
            ids, mask = [], []
    if ids:
        yield ids, mask


def _turns(conversation: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]], int]]:
    """(role, parts, weight) of each turn, after checks, with the system text in the first user turn.

    The weight is 1, or 0 for an assistant message that is not to be learnt (as in OpenAI's files for fine-tuning).
    """
    messages = conversation.get("messages") if isinstance(conversation, dict) else None
    if not isinstance(messages, list) or not messages:
        raise UserError(f"a conversation is {{'messages': [...]}} with at least one message, not {conversation!r:.80}")
    turns: list[tuple[str, list[tuple[str, str]], int]] = []
    system = ""
    for index, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role == "system" and index == 0:
            system = _text_only(message, index) + "\n\n"
            continue
        expected = "user" if len(turns) % 2 == 0 else "assistant"
        if role != expected:
            raise UserError(f"message {index} has role {role!r}, expected {expected!r}: user and assistant take turns")
        if role == "user":
            turns.append((role, [("text", system + _text_only(message, index))], 1))
            system = ""
        else:
            turns.append((role, _parts(message, index), message.get("weight", 1)))
    if not turns:
        raise UserError(f"message {len(messages)} is missing: a system message needs a user message after it")
    return turns


def _text_only(message: dict[str, Any], index: int) -> str:
    parts = _parts(message, index)
    if any(kind != "text" for kind, _ in parts):
        raise UserError(f"message {index}: only an assistant can have parts other than text")
    return "".join(text for _, text in parts)


def _parts(message: dict[str, Any], index: int) -> list[tuple[str, str]]:
    """(type, text) of a message's parts."""
    content = message.get("content")
    parts: list[tuple[str, str]] = []
    for part in [{"type": "text", "text": content}] if isinstance(content, str) else content or [None]:
        kind, text = (part.get("type"), part.get("text")) if isinstance(part, dict) else (None, None)
        if kind not in PART_MARKERS or not isinstance(text, str):
            raise UserError(f"message {index} has a part {part!r:.80}; expected a string, or parts "
                            f"{{'type': {'|'.join(PART_MARKERS)}, 'text': string}}")
        if kind == "text" and parts and parts[-1][0] == "text":  # joined, because a word may continue in the next part
            parts[-1] = ("text", parts[-1][1] + text)
        else:
            parts.append((kind, text))
    return parts
