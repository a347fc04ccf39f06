"""The only place where model-written code runs: programs by `run`, the chat's expressions by `calculate`."""

from nanochat.sandbox.calculator import calculate
from nanochat.sandbox.python import Result, allow_unsafe, can_isolate, layers, require, run

__all__ = ["Result", "allow_unsafe", "calculate", "can_isolate", "layers", "require", "run"]
