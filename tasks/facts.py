"""Kindergarten: questions about its world, in combinations no lesson shows.

"What sound does Tom's pet make?" → "Tom's pet is a cow. A cow says moo." Right when the last sentence has the value and
none of the others it could have been.
"""
from kindergarten import facts
from tasks.common import Task, exchange


class Facts(Task):
    """Items {"question", "answer": a word, "others": its rivals, "reply": the worked answer, "kind"}."""

    fields = ("question", "answer", "others", "reply")

    def conversation(self, item: dict) -> dict:
        return exchange(item["question"], item["reply"])

    def grade(self, item: dict, completion: str) -> bool:
        return facts.grade(item, completion)


TASK = Facts("facts", {"test": "kindergarten/facts-test.jsonl"}, title="Facts")
