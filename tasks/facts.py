"""Kindergarten: questions about single facts of its world, and about combinations that are in no lesson.

"What sound does Tom's pet make?" → "Tom's pet is a cow. A cow says moo." The reply is right if its last sentence
contains the value and no other value of the same kind.
"""
from kindergarten import facts
from tasks.common import Conversation, Item, Task, exchange


class Facts(Task):
    """Items {"question", "answer": a word, "others": wrong values, "reply": the worked answer, "kind"}."""

    fields = ("question", "answer", "others", "reply")

    def conversation(self, item: Item) -> Conversation:
        return exchange(item["question"], item["reply"])

    def grade(self, item: Item, completion: str) -> bool:
        return facts.grade(item, completion)  # the rule is in kindergarten/facts.py, beside the questions


TASK = Facts("facts", {"test": "kindergarten/facts-test.jsonl"}, title="Facts")
