"""What a model writes is run here and nowhere else: programs by `run`, the chat's expressions by `tool`."""

from nanochat.sandbox.calculator import calculate
from nanochat.sandbox.python import Result, allow_unsafe, layers, run
from nanochat.sandbox.tool import tool

__all__ = ["Result", "allow_unsafe", "calculate", "layers", "run", "tool"]
