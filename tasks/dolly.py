"""Dolly: 15,011 instructions with answers written by people (Databricks 2023). A source to learn from, not an exam.

"Describe the benefits of living in a small town." → "Small town living provides a multitude of …"
"""
from tasks.common import Source, exchange


class Dolly(Source):
    """Items {"instruction", "context", "response"}; the context, where there is one, follows the instruction."""

    fields = ("instruction", "context", "response")

    def conversation(self, item: dict) -> dict:
        return exchange("\n\n".join(filter(None, (item["instruction"], item["context"]))), item["response"])


TASK = Dolly("dolly", {"train": "chat/dolly_15k.jsonl"}, title="Dolly", licence="CC BY-SA 3.0")
