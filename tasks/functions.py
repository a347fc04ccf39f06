"""Kindergarten: short Python functions from signature and docstring: new pairs of known steps, graded by tests."""
from tasks.common import PythonFunction

TASK = PythonFunction("functions", {"test": "kindergarten/functions-test.jsonl"}, title="Functions")
