"""Kindergarten: counting a letter in words that are in no lesson, with the tool.

"How many times does the letter a appear in blimat?" → <<' blimat'.count('a')=1>> #### 1
"""
from tasks.common import WordProblem

TASK = WordProblem("letters", {"test": "kindergarten/letters-test.jsonl"}, title="Letter counting")
