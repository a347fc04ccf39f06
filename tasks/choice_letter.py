"""Kindergarten: the same multiple choice, answered by the bare letter, as ARC and MMLU ask it."""
from tasks.common import MultipleChoice

TASK = MultipleChoice("choice_letter", {"test": "kindergarten/choice-test.jsonl"}, title="Choice, letter only",
                      chance=0.25)
