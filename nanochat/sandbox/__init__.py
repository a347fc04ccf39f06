"""What a model writes is run here and nowhere else: programs by `run`, the chat's tool by `calculate`."""

from nanochat.sandbox.calculator import calculate
from nanochat.sandbox.python import Result, allow_unsafe, layers, run

__all__ = ["Result", "allow_unsafe", "calculate", "layers", "run"]
