"""What the model is asked. One file = one task: a module here that defines TASK is found by its name."""
import importlib
import pkgutil

from nanochat.system.files import UserError
from tasks.common import Task

__all__ = ["Task", "find", "names"]


def names() -> list[str]:
    """The tasks there are, by file name."""
    modules = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [name for name in modules if hasattr(importlib.import_module(f"{__name__}.{name}"), "TASK")]


def find(name: str) -> Task:
    """The task of this name; capitals and hyphens do not matter. UserError lists the known ones.

    >>> find("ARC-Easy").title
    'ARC-Easy'
    """
    wanted = name.strip().lower().replace("-", "_")
    if wanted not in names():
        raise UserError(f"there is no task {name!r}; choose from {', '.join(names())}")
    return importlib.import_module(f"{__name__}.{wanted}").TASK
