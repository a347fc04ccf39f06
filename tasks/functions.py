"""Kindergarten: short Python functions from head and docstring, in new pairs of known steps, judged by their tests."""
from tasks.common import PythonFunction

TASK = PythonFunction("functions", {"test": "kindergarten/functions-test.jsonl"}, title="Functions")
