"""Your own conversations: give the model a name, a job, a tone. One conversation per line of a JSONL file:

    {"messages": [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "I am Ada, a cook."}]}

or the bare list of messages. A system message may come first; user and assistant take turns, the assistant ends.
"""
import gzip
import json
from pathlib import Path

from nanochat.system.files import UserError
from tasks.common import Source

PART_TYPES = ("text", "python", "python_output")


class Conversations(Source):
    """A file of conversations, each line checked."""

    def load(self, split: str, data_dir: Path | None = None) -> list[dict]:
        return read(self.require_path(split, data_dir))

    def conversation(self, item: dict) -> dict:
        return item


def read(path: Path) -> list[dict]:
    """The conversations of a JSONL file (`.gz` as well). UserError names the line that is wrong, and how."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected a JSONL file with one conversation per line")
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        found = [_parse(f"{path}, line {number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise UserError(f"{path} is empty; expected one conversation per line")
    return found


def _parse(place: str, line: str) -> dict:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise UserError(f"{place}: not JSON ({error})") from None
    messages = value.get("messages") if isinstance(value, dict) else value
    if problem := _problem(messages):
        raise UserError(f"{place}: {problem}")
    return {"messages": messages}


def _problem(messages: object) -> str:
    """What is wrong with a list of messages, or ""."""
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        return 'expected {"messages": [{"role": …, "content": …}, …]}'
    roles = [message.get("role") for message in messages]
    turns = roles[roles[:1] == ["system"]:]
    if not turns or turns != ["user", "assistant"] * (len(turns) // 2):
        return f"the roles are {roles}; expected (system,) user, assistant, user, assistant, …"
    for role, content in ((message["role"], message.get("content")) for message in messages):
        parts = content if role == "assistant" and isinstance(content, list) else [{"type": "text", "text": content}]
        if not all(isinstance(part, dict) and part.get("type") in PART_TYPES and isinstance(part.get("text"), str)
                   for part in parts):
            return f"the {role}'s content is {content!r:.60}; expected a string (or parts, for the assistant)"
    return ""


TASK = Conversations("conversations", {"train": "chat/conversations.jsonl"}, title="Conversations")
