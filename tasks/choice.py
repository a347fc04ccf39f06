"""Kindergarten: the facts as multiple choice, answered by a letter.

"Multiple Choice question: What does a cow say?" moo=A, oink=B, baa=C, meow=D → A
"""
from tasks.common import MultipleChoice

TASK = MultipleChoice("choice", {"test": "kindergarten/choice-test.jsonl"}, title="Choice", chance=0.25)
