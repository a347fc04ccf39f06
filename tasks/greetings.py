"""Kindergarten: greetings and identity in new words. "And who made you?" → an answer with "made" and "computer"."""
from tasks.common import ShortAnswer

TASK = ShortAnswer("greetings", {"test": "kindergarten/greetings-test.jsonl"}, title="Greetings")
