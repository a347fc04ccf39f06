"""Kindergarten: the questions of `choice`, answered by the letter alone, as in ARC and MMLU."""
from tasks.common import MultipleChoice

TASK = MultipleChoice("choice_letter", {"test": "kindergarten/choice-test.jsonl"}, title="Choice, letter only",
                      chance=0.25)
