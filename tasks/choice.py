"""Kindergarten: the facts as multiple choice. The reply states the fact, then the option and its letter, which counts.

"Multiple Choice question: What does a cow say?" moo=A, oink=B, baa=C, meow=D → "A cow says moo. moo=A"
So a small model can take the two steps, recalling the fact and finding its letter, one after the other in its reply;
tasks/choice_letter.py asks for both steps in one token.
"""
from kindergarten import choices
from tasks.common import Conversation, Item, MultipleChoice, exchange


class NamedChoice(MultipleChoice):
    kind = "generative"
    fields = ("question", "choices", "answer", "reply")

    def conversation(self, item: Item) -> Conversation:
        named = f"{item['reply']} {item['choices'][item['answer']]}={self.answer(item)}"
        return exchange(choices.prompt(item["question"], item["choices"], choices.NAMED), named)

    def grade(self, item: Item, completion: str) -> bool:
        return completion.strip().rpartition("=")[2] == self.answer(item)  # the sentence before it does not count


TASK = NamedChoice("choice", {"test": "kindergarten/choice-test.jsonl"}, title="Choice", chance=0.25,
                   max_tokens=48)  # a sentence, an option and its letter
