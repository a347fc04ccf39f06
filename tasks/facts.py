"""Kindergarten: questions about its world, alone and in combinations that no lesson shows.

"What sound does Tom's pet make?" → "Tom's pet is a cow. A cow says moo." The reply is right when its last sentence has
the value and none of the other values of the same kind.
"""
from kindergarten import facts
from tasks.common import Conversation, Item, Task, exchange


class Facts(Task):
    """Items {"question", "answer": a word, "others": its rivals, "reply": the worked answer, "kind"}."""

    fields = ("question", "answer", "others", "reply")

    def conversation(self, item: Item) -> Conversation:
        return exchange(item["question"], item["reply"])

    def grade(self, item: Item, completion: str) -> bool:
        return facts.grade(item, completion)  # the rule stands beside the questions that it has to fit


TASK = Facts("facts", {"test": "kindergarten/facts-test.jsonl"}, title="Facts")
