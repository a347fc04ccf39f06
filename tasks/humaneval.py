"""HumanEval: 164 Python functions from head and docstring, judged by running their tests (Chen et al. 2021; MIT).

def has_close_elements(numbers: List[float], threshold: float) -> bool: … → a fenced block with the whole function
"""
from tasks.common import PythonFunction

TASK = PythonFunction("humaneval", {"test": "humaneval/HumanEval.jsonl"}, title="HumanEval", max_tokens=512)
