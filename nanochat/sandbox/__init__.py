"""Run what a model wrote. `run` executes a Python program in a child that cannot reach anything; `calculate` is the chat's tool."""

from nanochat.sandbox.calculator import calculate
from nanochat.sandbox.python import Result, run

__all__ = ["Result", "calculate", "run"]
