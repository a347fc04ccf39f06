"""Dolly: 15,011 instructions with answers written by people (Databricks 2023; CC BY-SA 3.0). Not an exam.

"Describe the benefits of living in a small town." → "Small town living provides a multitude of …"
"""
from tasks.common import Conversation, Item, Source, exchange


class Dolly(Source):
    """Items {"instruction", "context", "response"}; the context, if not empty, comes after the instruction."""

    fields = ("instruction", "context", "response")

    def conversation(self, item: Item) -> Conversation:
        question = "\n\n".join(filter(None, (item["instruction"], item["context"])))  # most items have no context
        return exchange(question, item["response"])


TASK = Dolly("dolly", {"train": "chat/dolly_15k.jsonl"}, title="Dolly")
