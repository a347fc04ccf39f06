"""What the model is asked. One file = one task: `tasks/<name>.py` defines TASK and is found by its name."""
import importlib
import pkgutil

from nanochat.system.files import UserError
from tasks.common import Task

__all__ = ["Task", "find", "names"]
NOT_TASKS = {"common", "conversations", "mixture"}  # what tasks share, and how stages mix them


def names() -> list[str]:
    """The tasks there are, by file name."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - NOT_TASKS)


def find(name: str) -> Task:
    """The task of this name; capitals and hyphens do not matter. UserError lists the known ones.

    >>> find("ARC-Easy").title
    'ARC-Easy'
    """
    wanted = name.strip().lower().replace("-", "_")
    if wanted not in names():
        raise UserError(f"there is no task {name!r}; choose from {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{wanted}").TASK
