"""Kindergarten: spelling words that the model has never seen. "Spell the word blimat." → … b-l-i-m-a-t."""
from tasks.common import Spelling

TASK = Spelling("spelling", {"test": "kindergarten/spelling-test.jsonl"}, title="Spelling")
