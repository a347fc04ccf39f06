"""One row of a user's file → a conversation in our format, or the reason why the row is no conversation.

    {"messages": [{"role": "system" | "user" | "assistant", "content": …, "weight": 0 or 1}]}   ours and OpenAI's
    [{"role": …, "content": …}, …]                                                 the bare list of messages
    {"conversations": [{"from": "human" | "gpt" | "system", "value": …}]}          ShareGPT
    {"instruction": …, "input": …, "output": …}                                    Alpaca, Dolly, question and answer

docs/data.md has the rules with examples. A field that changes what would be learnt is applied or refused; all other
fields (ids, sources, dates, scores) describe the conversation and are ignored.
"""
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat.data.rows import TEXT_FIELDS, Broken, is_message, rows
from nanochat.system.files import UserError

Fields = dict[str, Any]  # the fields of a row or of a message
EXPECTED = ('expected {"messages": [{"role": …, "content": …}, …]}, a list of messages, {"conversations": [{"from": …, '
            '"value": …}, …]}, or {"instruction": …, "output": …}')
LISTS = ("messages", "conversations", "conversation")  # fields that hold the messages
QUESTIONS, INPUTS = ("instruction", "prompt", "question", "query", "input"), ("input", "context")
ANSWERS = ("output", "response", "completion", "answer")
ROLES = {"user": "user", "human": "user", "prompter": "user", "assistant": "assistant", "gpt": "assistant",
         "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant", "bot": "assistant",
         "system": "system", "developer": "system"}
PARTS = ("text", "python", "python_output")
LEARN = ("weight", "train", "training")  # fields of a message that say whether it is a target
# Fields that change what a row teaches, and that nanochat cannot apply. Empty fields are allowed.
TOOLS = ("tools", "functions", "tool_calls", "function_call", "tool_call_id")
PREFERENCES = ("preferred_output", "non_preferred_output", "chosen", "rejected")
REFUSED = {**dict.fromkeys(TOOLS, "tool calls are not supported"),
           **dict.fromkeys(PREFERENCES, "preference pairs are not supported; keep the preferred answer only"),
           **dict.fromkeys(("image", "images", "video", "videos", "audio", "audios"), "only text is supported"),
           **dict.fromkeys(("reasoning", "reasoning_content", "thinking", "refusal", "choices", "options", "input_ids",
                            "chat_template_kwargs", "train_detail", "trainable", "mask", "masked", "loss", "loss_mask"),
                           "this field is not supported; remove it or write its words into the messages")}
END_MARKS = re.compile(r"(?:\s*(?:<\|endoftext\|>|<\|end_of_text\|>|<\|im_end\|>|<\|eot_id\|>|</s>|<eos>))+\s*$")


def kind(row: Any) -> str:
    """The content of a row: "conversations", "texts", or "" for neither."""
    if isinstance(row, list):
        return "conversations" if row and is_message(row[0]) else ""
    if isinstance(row, dict):
        fields = _filled(row)
        has_messages = any(isinstance(fields.get(name), list) for name in LISTS)
        is_single_message = is_message(row) or str(fields.get("role")).lower() in ROLES
        is_exchange = _names(fields, QUESTIONS) and _names(fields, ANSWERS)
        if has_messages or is_single_message or is_exchange or _names(fields, PREFERENCES):
            return "conversations"  # `parse` refuses some of these later, with the reason
    return "texts" if text_of(row) is not None else ""


def text_of(row: Any, fields: tuple[str, ...] = TEXT_FIELDS) -> str | None:
    """The document in a row: the row if it is a string, or the first of its `fields` that is a string; else None."""
    values = [row, *(row.get(name) for name in fields)] if isinstance(row, dict) else [row]
    text = next((value for value in values if isinstance(value, str)), None)
    return text if text is not None and _is_whole(text) else None


def parse(row: Any) -> Fields:
    """The conversation {"messages": […]} in a row. ValueError says what is wrong with the row."""
    if isinstance(row, Broken):
        raise ValueError(row.reason)
    if not isinstance(row, (dict, list)):
        raise ValueError(f"is {row!r:.40}; {EXPECTED}")
    fields = _filled(row) if isinstance(row, dict) else {"messages": row}  # a bare list of messages
    _refuse(fields, "")
    # A true or false label marks good and bad answers of one question (KTO), a number or word describes the row.
    if "weight" in fields and fields["weight"] != 1 or isinstance(fields.get("label"), bool):
        raise ValueError("the fields `weight` and `label` of a whole conversation are not supported; leave out the "
                         "rows that are not to be learnt")
    lists = [fields[name] for name in LISTS if isinstance(fields.get(name), list)]
    if len(lists) > 1:  # we cannot know which of them is meant
        raise ValueError(f"has two lists of messages ({', '.join(_names(fields, LISTS))}); keep one")
    if not lists and (is_message(row) or "role" in fields):
        raise ValueError(f"is a single message; {EXPECTED}")
    messages = lists[0] if lists else _exchange(fields)
    system = fields.get("system") if isinstance(row, dict) else None
    messages = [*([{"role": "system", "content": system}] if system else []), *messages]
    checked = [_message(message, number) for number, message in enumerate(messages, 1)]
    return {"messages": _turns([message for message in checked if message])}


def words(message: Fields) -> str:
    """The text of a message, including its tool calls and their results."""
    return "".join(part["text"] for part in _parts(message["content"]))


def _filled(row: Fields) -> Fields:
    """The fields that are not empty, with their names in lower case."""
    return {str(name).lower(): value for name, value in row.items() if value not in (None, "", [], {})}


def _names(fields: Fields, names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name in fields]


def _refuse(fields: Fields, place: str) -> None:
    """ValueError if a field changes what would be learnt and cannot be applied."""
    for name in fields:
        if name in REFUSED:
            raise ValueError(f"{place}has {name!r}: {REFUSED[name]}")


def _exchange(fields: Fields) -> list[Any]:
    """The messages of an instruction and its output, after the messages of `history`."""
    # `input` is the question only if no other field is: Alpaca has `instruction` too, and `input` is its material.
    asked = [name for name in _names(fields, QUESTIONS) if name != "input" or not _names(fields, QUESTIONS[:-1])]
    answered = _names(fields, ANSWERS)
    if not asked or not answered:
        raise ValueError(f"has {'the fields ' + ', '.join(fields) if fields else 'no fields'}; {EXPECTED}")
    for names, kind_of_text in ((asked, "question"), (answered, "answer")):
        if len(names) > 1:
            raise ValueError(f"has {' and '.join(names)}: one of them is the {kind_of_text}, remove the other")
    question, answer = fields[asked[0]], fields[answered[0]]
    history = []
    for pair in fields.get("history", []):
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError("`history` must be a list of [question, answer]")
        history += _pair(*pair)
    if isinstance(question, list) and isinstance(answer, list):  # TRL's conversational prompt and completion
        return [*history, *question, *answer]
    extra = [fields[name] for name in INPUTS if name in fields and name != asked[0]]
    if not all(isinstance(text, str) for text in (question, answer, *extra)):
        raise ValueError(f"{asked[0]} and {answered[0]} must be strings")
    return [*history, *_pair("\n\n".join([question, *extra]), answer)]


def _pair(question: Any, answer: Any) -> list[Fields]:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def _message(message: Any, number: int) -> Fields:
    """{"role", "content"} of a message, with "weight" 0 if it is not a target, and with "name" for `_turns`.

    {} for an empty system message, which many files have.
    """
    place = f"message {number} "
    if not isinstance(message, dict):
        raise ValueError(f"{place}is {message!r:.60}; expected an object with role and content")
    fields = _filled(message)
    their_role = str(fields.get("role", fields.get("from", ""))).strip().lower()
    if their_role in ("tool", "function", "observation", "function_call", "ipython", "tool_call", "tool_response"):
        raise ValueError(f"{place}has the role {their_role!r}: {REFUSED['tools']}")
    _refuse(fields, place)
    if their_role not in ROLES:
        raise ValueError(f"{place}has the role {their_role!r}; expected one of {', '.join(ROLES)}")
    role = ROLES[their_role]
    content = next((fields[name] for name in ("content", "value", "text") if name in fields), "")
    if role == "system" and content == "":
        return {}
    result: Fields = {"role": role, "content": _content(content, role, place)}
    if "name" in fields:
        result["name"] = fields["name"]
    for name in _names(fields, LEARN):
        if fields[name] not in (0, 1) or fields[name] and role != "assistant":
            raise ValueError(f"{place}has {name} {fields[name]!r}; expected 0 or 1, and 1 for the assistant only")
        if not fields[name] and role == "assistant":  # a user's message is never a target
            result["weight"] = 0
    return result


def _content(content: Any, role: str, place: str) -> str | list[Fields]:
    """The content of a message: a string, or parts if the calculator is used."""
    if isinstance(content, str):
        if not (stripped := content.rstrip()):
            raise ValueError(f"{place}({role}) is empty")
        if not _is_whole(content):
            raise ValueError(f"{place}has {content!r:.60}; expected whole characters")
        # Other chat formats end a message with a mark, which our model would learn to write out.
        return END_MARKS.sub("", content) if stripped[-1] == ">" else content
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise ValueError(f"{place}has the content {content!r:.60}; expected a string or a list of parts")
    for part in content:
        if part.get("type") not in (PARTS if role == "assistant" else PARTS[:1]):
            raise ValueError(f"{place}has a part of type {part.get('type')!r}; only text is supported")
        if not isinstance(part.get("text"), str):
            raise ValueError(f"{place}has a part {part!r:.60}; expected a string `text`")
    text = "".join(part["text"] for part in content)
    checked = _content(text, role, place)
    if all(part["type"] == "text" for part in content):
        return checked
    return [{"type": part["type"], "text": part["text"]} for part in content]


def _is_whole(text: str) -> bool:
    """False for text with an unpaired surrogate (half of a character), such as "\\ud83d" in JSON."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _turns(messages: list[Fields]) -> list[Fields]:
    """The messages as turns: adjacent messages of one role are joined. ValueError if they are no conversation."""
    for role in ("user", "assistant"):
        # The model sees roles, not names, so it could not learn who of two speakers says what.
        names = {str(message["name"]) for message in messages if "name" in message and message["role"] == role}
        if len(names) > 1:
            raise ValueError(f"has several speakers as {role} ({', '.join(sorted(names))}); the model cannot tell them "
                             "apart")
    turns: list[Fields] = []
    for message in messages:
        turn = {name: value for name, value in message.items() if name != "name"}
        if not turns or turns[-1]["role"] != turn["role"]:
            turns.append(turn)
        elif turns[-1].get("weight") != turn.get("weight"):  # a joined turn can have only one weight
            raise ValueError("has neighbouring assistant messages of different weight; put a user message between them")
        else:
            turns[-1] = {**turn, "content": _joined(turns[-1]["content"], turn["content"])}
    roles = [turn["role"] for turn in turns]
    first = roles[roles[:1] == ["system"]:]  # without a system message at the beginning
    if not first or first != (["user", "assistant"] * len(first))[:len(first)]:
        raise ValueError(f"the roles are {roles}; expected (system,) user, assistant, user, assistant, …")
    if not any(turn["role"] == "assistant" and turn.get("weight", 1) for turn in turns):
        raise ValueError("has no assistant message to learn")
    return turns


def _joined(first: str | list[Fields], second: str | list[Fields]) -> str | list[Fields]:
    if isinstance(first, str) and isinstance(second, str):
        return f"{first}\n\n{second}"
    return [*_parts(first), *_parts("\n\n"), *_parts(second)]


def _parts(content: str | list[Fields]) -> list[Fields]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def read(path: Path) -> list[dict[str, Any]]:
    """All conversations of a file. UserError names the row that is wrong, and how."""
    found = list(iterate(path))
    if not found:
        raise UserError(f"{path} is empty; expected one conversation per line")
    return found


def iterate(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} {'is not a file' if path.exists() else 'does not exist'}; expected a file of "
                        "conversations, one per line")
    for place, row in rows(path):
        try:
            yield parse(row)
        except ValueError as error:
            raise UserError(f"{path}, {place}: {error}") from None
