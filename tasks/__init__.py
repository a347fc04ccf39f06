"""The exams (benchmarks) and training sources. One file = one task: `tasks/<name>.py` defines TASK."""
import importlib
import pkgutil

from nanochat.system.files import UserError
from tasks.common import Task

__all__ = ["Task", "find", "names"]
NOT_TASKS = {"common", "mixture"}  # the interface; the mixture of a training stage


def names() -> list[str]:
    """All tasks by file name."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - NOT_TASKS)


def find(name: str) -> Task:
    """The task of this name; upper case and hyphens have no effect. UserError lists the known names.

    >>> find("ARC-Easy").title
    'ARC-Easy'
    """
    file_name = name.strip().lower().replace("-", "_")
    if file_name not in names():
        raise UserError(f"there is no task {name!r}; choose from {', '.join(names())}")
    task: Task = importlib.import_module(f"{__name__}.{file_name}").TASK
    return task
