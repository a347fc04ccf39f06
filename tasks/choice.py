"""Kindergarten: the facts as multiple choice; the reply says the fact, names the option, then its letter, which counts.

"Multiple Choice question: What does a cow say?" moo=A, oink=B, baa=C, meow=D → "A cow says moo. moo=A". Saying it
first lets a small model take the two steps, knowing and looking up, one after the other; tasks/choice_letter.py asks
for both at once.
"""
from kindergarten import choices
from tasks.common import MultipleChoice, exchange


class NamedChoice(MultipleChoice):
    kind = "generative"
    fields = ("question", "choices", "answer", "reply")

    def conversation(self, item: dict) -> dict:
        named = f"{item['reply']} {item['choices'][item['answer']]}={self.answer(item)}"
        return exchange(choices.prompt(item["question"], item["choices"], choices.NAMED), named)

    def grade(self, item: dict, completion: str) -> bool:
        return completion.strip().rpartition("=")[2] == self.answer(item)


TASK = NamedChoice("choice", {"test": "kindergarten/choice-test.jsonl"}, title="Choice", chance=0.25, max_tokens=48)
