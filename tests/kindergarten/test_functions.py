"""Functions: exam pairs and names in no lesson, checks that find mistakes."""
import keyword
import random
import re

import pytest

from kindergarten import functions

NUM = 2000


def passes(program: str, item: dict) -> bool:
    namespace = {}
    try:
        exec(f"{program}\n{item['test']}\ncheck({item['entry_point']})", namespace)  # written by functions.py, no model
    except Exception:
        return False
    return True


@pytest.fixture(scope="module")
def items() -> list[dict]:
    return functions.exam(0, 200)


def test_same_seed_same_items(items):
    assert functions.exam(0, 200) == items and functions.exam(1, 20) != items[:20]
    assert functions.lesson(random.Random(3)) == functions.lesson(random.Random(3))


def test_canonical_solutions_pass_and_forgetful_ones_fail(items):
    for item in items:
        assert passes(item["prompt"] + item["canonical_solution"], item), item
        first, second = item["canonical_solution"].splitlines()
        only_first = "    return" + first.split("=", 1)[1]
        assert not passes(item["prompt"] + only_first, item), item
        assert not passes(item["prompt"] + second, item), item
        assert item["test"].count("assert") >= 3


def test_exam_pairs_and_names_are_in_no_lesson_or_text(items):
    rng = random.Random(0)
    lessons = "\n".join(functions.lesson(rng)["messages"][0]["content"] for _ in range(NUM))
    texts = "\n".join(functions.code_text(rng) for _ in range(NUM))
    names = set(re.findall(r"def (\w+)\(", lessons + texts))
    assert len(names) > 300 and not names & {item["entry_point"] for item in items}
    assert not any(item["prompt"].splitlines()[1] in lessons + texts for item in items)


def test_every_operation_is_taught_alone_and_first_and_last_where_possible():
    for operation in functions.OPERATIONS:
        firsts = [pair for pair in functions.PAIRS if pair[0] is operation]
        assert not firsts or any(pair in functions.TRAINING_PAIRS for pair in firsts), operation.name
        lasts = [pair for pair in functions.PAIRS if pair[1] is operation]
        assert any(pair in functions.TRAINING_PAIRS for pair in lasts), operation.name
    names = {operation.name for operation in functions.OPERATIONS}
    assert len(names) == len(functions.OPERATIONS) and not any(keyword.iskeyword(name) for name in names)
    assert not names & set(dir(__builtins__))  # `def sum(xs): return sum(xs)` would never end


def test_lessons_are_runnable_fenced_blocks():
    rng = random.Random(5)
    examples = {"x": 7, "xs": [3, 8, 2, 9, 4], "s": "Apple"}
    for _ in range(300):
        prompt, answer = (message["content"] for message in functions.lesson(rng)["messages"])
        code = re.fullmatch(r"```python\n(def (\w+)\((\w+)\):\n.*)```", answer, re.DOTALL)
        assert prompt.startswith(code[1].splitlines()[0] + '\n    """') and prompt.endswith('"""\n')
        namespace = {}
        exec(code[1], namespace)
        try:
            assert namespace[code[2]](examples[code[3]]) is not None
        except (IndexError, ValueError):
            assert "xs = [x for x in xs if" in code[1]  # the first item of an empty list
