"""Kindergarten: sums for the calculator that are in no lesson. "What is 123 * 456?" → 123*456 = 56088."""
import re

from tasks.common import Conversation, Item, ShortAnswer, exchange, tool_parts

NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")  # "1,080.5" is one number


class Arithmetic(ShortAnswer):
    """Items {"question", "answer": "58-9 = 49.", "required": ["49"], "forbidden": []}."""

    uses_tool = True

    def conversation(self, item: Item) -> Conversation:
        expression = item["answer"].split(" = ")[0]
        return exchange(item["question"], tool_parts(f"<<{expression}={item['required'][0]}>>{item['answer']}"))

    def grade(self, item: Item, completion: str) -> bool:
        # Only the last number counts: "5-0 = 7" is wrong, although it contains the right result, 5.
        numbers = NUMBER.findall(completion)
        return bool(numbers) and [numbers[-1].replace(",", "")] == item["required"]


TASK = Arithmetic("arithmetic", {"test": "kindergarten/arithmetic-test.jsonl"}, title="Arithmetic")
