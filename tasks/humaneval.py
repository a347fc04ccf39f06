"""HumanEval: 164 Python functions from signature and docstring, graded by running tests (Chen et al. 2021; MIT).

def has_close_elements(numbers: List[float], threshold: float) -> bool: … → a fenced block with the whole function
"""
from tasks.common import PythonFunction

TASK = PythonFunction("humaneval", {"test": "humaneval/HumanEval.jsonl"}, title="HumanEval", max_tokens=512)
