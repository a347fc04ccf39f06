"""Your own conversations: give the model a name, a job, a tone. docs/data.md lists the formats that are read."""
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat.data import conversations
from nanochat.data.rows import rows
from nanochat.system.files import UserError


def read(path: Path) -> list[dict[str, Any]]:
    """The conversations of a file, each checked. UserError names the row that is wrong, and how."""
    conversations_read = list(iterate(Path(path)))
    if not conversations_read:
        raise UserError(f"{path} is empty; expected one conversation per line")
    return conversations_read


def iterate(path: Path) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise UserError(f"{path} {'is not a file' if path.exists() else 'does not exist'}; expected a file of "
                        "conversations, one per line")
    for place, row in rows(path):
        try:
            yield conversations.parse(row)
        except ValueError as error:
            raise UserError(f"{path}, {place}: {error}") from None
