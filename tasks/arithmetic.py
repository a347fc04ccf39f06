"""Kindergarten: sums for the calculator, with numbers no lesson has. "What is 123 * 456?" → 123*456 = 56088."""
import re

from tasks.common import ShortAnswer, exchange, tool_parts

NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")


class Arithmetic(ShortAnswer):
    """Items {"question", "answer": "58-9 = 49.", "required": ["49"], "forbidden": []}."""

    uses_tool = True

    def conversation(self, item: dict) -> dict:
        expression = item["answer"].split(" = ")[0]
        return exchange(item["question"], tool_parts(f"<<{expression}={item['required'][0]}>>{item['answer']}"))

    def grade(self, item: dict, completion: str) -> bool:
        # the last number: "5-0 = 7" does contain the 5
        return [number.replace(",", "") for number in NUMBER.findall(completion)[-1:]] == item["required"]


TASK = Arithmetic("arithmetic", {"test": "kindergarten/arithmetic-test.jsonl"}, title="Arithmetic")
