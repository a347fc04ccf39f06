"""Every task: found by its file, refusing what is missing or malformed, and judging its own worked answers as right."""
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tasks
from kindergarten import facts, functions, problems, sums, talk, words
from kindergarten.world import World
from nanochat.data import conversations
from nanochat.system import files
from nanochat.system.files import UserError
from tasks import common


def spoken(task, item) -> str:
    """The text a model that answers as the lesson does would have said."""
    content = task.conversation(item)["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content if part["type"] == "text")


def test_every_file_is_a_task_of_its_own_name():
    assert len(tasks.names()) >= 16 and "common" not in tasks.names()
    for name in tasks.names():
        task = tasks.find(name)
        assert task.name == name and task.title and task.splits
        assert task.kind in ("categorical", "generative", "source") and 0 <= task.chance < 1


def test_names_are_found_as_people_write_them():
    assert tasks.find("ARC-Easy") is tasks.find("arc_easy") and tasks.find(" GSM8K").name == "gsm8k"
    with pytest.raises(UserError, match=r"'gsm8'.*gsm8k"):
        tasks.find("gsm8")


def test_what_is_missing_is_said_with_the_way_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"gsm8k/test\.jsonl.*nanochat\.dataset.*--data"):
        tasks.find("gsm8k").load("test", tmp_path)
    with pytest.raises(UserError, match=r"no 'train' items, only test"):
        tasks.find("humaneval").load("train", tmp_path)


def test_items_are_read_plain_or_zipped_and_checked(tmp_path):
    folder = tmp_path / "arc"
    folder.mkdir()
    item = {"question": "Is it?", "choices": ["yes", "no"], "answer": 1}
    with gzip.open(folder / "ARC-Easy-test.jsonl.gz", "wt") as out:
        out.write(json.dumps(item) + "\n")
    assert tasks.find("arc_easy").load("test", tmp_path) == [item]
    (folder / "ARC-Easy-train.jsonl").write_text(json.dumps(item) + '\n{"question": "Is it?", "answer": 0}\n')
    with pytest.raises(UserError, match=r"item 2: no choices; expected question, choices, answer"):
        tasks.find("arc_easy").load("train", tmp_path)


def test_multiple_choice_is_asked_in_the_exact_words():
    task, item = tasks.find("mmlu"), {"question": "2+2?", "choices": ["3", "4", "5"], "answer": 1}
    asked, answered = task.conversation(item)["messages"]
    assert asked["content"] == ("Multiple Choice question: 2+2?\n- 3=A\n- 4=B\n- 5=C\n"
                                "Respond only with the letter of the correct answer.")
    assert answered["content"] == task.answer(item) == "B" and task.letters(item) == ["A", "B", "C"]
    assert task.grade(item, "B") and not task.grade(item, "A") and not task.grade(item, "B or C")


def test_word_problems_call_the_calculator_and_are_judged_by_the_first_final_number():
    item = {"question": "?", "answer": "It is 5*216=<<5*216=1080>>1080, so $<<1080/2=540>>540.\n#### 1,080"}
    task = tasks.find("gsm8k")
    parts = task.conversation(item)["messages"][1]["content"]
    assert [(part["type"], part["text"]) for part in parts] == [
        ("text", "It is 5*216="), ("python", "5*216"), ("python_output", "1080"), ("text", "1080, so $"),
        ("python", "1080/2"), ("python_output", "540"), ("text", "540.\n#### 1,080")]
    assert task.grade(item, "#### 1080") and task.grade(item, "so #### 1,080 coins #### 7")
    for wrong in ("1080", "#### 7 #### 1080", "####1080", "#### 1080.0", "#### -1080", ""):
        assert not task.grade(item, wrong), wrong
    assert task.reward(item, "#### 1080") == 1.0 and task.reward(item, "1080") == 0.0


FUNCTION = {"task_id": "x/0", "entry_point": "root",
            "prompt": "import math\n\ndef root(x):\n    \"\"\"The root of x.\"\"\"\n",
            "canonical_solution": "    return math.sqrt(x)\n",
            "test": "def check(candidate):\n    assert candidate(9) == 3\n"}


def test_functions_are_judged_by_running_them():
    task = tasks.find("humaneval")
    assert task.grade(FUNCTION, spoken(task, FUNCTION))
    good = "def root(x):\n    return math.sqrt(x)"  # needs the prompt's import
    assert task.grade(FUNCTION, good)
    assert task.grade(FUNCTION, f"Here:\n```python\n{good}\n```\nand\n```python\n1/0\n```"), "the first block counts"
    for wrong in ("def root(x):\n    return x", "def root(x):\n    return math.sqrt(x", "", "import sys; sys.exit(0)"):
        assert not task.grade(FUNCTION, wrong), wrong


def test_short_answers_need_the_value_and_none_of_the_others():
    task, item = tasks.find("greetings"), {"required": ["made", "computer"], "forbidden": ["calculator"]}
    assert task.grade(item, "I was MADE on a computer.")
    assert not task.grade(item, "I was made.") and not task.grade(item, "I was made by a computer calculator")
    assert not task.grade(item, "I was made by computers.")
    sums = tasks.find("arithmetic")
    item = {"question": "5 - 0?", "answer": "5-0 = 5.", "required": ["5"], "forbidden": []}
    assert sums.conversation(item)["messages"][1]["content"][0] == {"type": "python", "text": "5-0"}
    assert sums.grade(item, "5-0 = 5.") and not sums.grade(item, "5-0 = 7.") and not sums.grade(item, "none")


def test_spelling_must_be_the_whole_answer():
    task, item = tasks.find("spelling"), {"question": "?", "answer": "c-a-t"}
    assert task.grade(item, " C-a-t.") and not task.grade(item, "c-a-t-s") and not task.grade(item, "It is c-a-t")


def test_the_kindergartens_exams_are_read_and_their_worked_answers_are_right(tmp_path):
    made = {"facts": facts.exam(World(1))[:40], "problems": problems.exam(1, 20),
            "arithmetic": sums.exam(1, 20), "functions": functions.exam(1, 4),
            "spelling": words.spelling_exam(1, 20), "letters": words.counting_exam(1, 20),
            "greetings": talk.exam(1, 48)}
    for name, items in made.items():
        files.write_jsonl(tmp_path / "kindergarten" / f"{name}-test.jsonl", items)
        task = tasks.find(name)
        loaded = task.load("test", tmp_path)
        assert len(loaded) == len(items) > 3
        said = [spoken(task, item) for item in loaded]
        assert all(task.grade(item, text) for item, text in zip(loaded, said)), name
        assert not any(task.grade(item, "") or task.grade(item, "I don't know.") for item in loaded), name
        crossed = sum(task.grade(item, text) for item, text in zip(loaded, said[1:] + said[:1]))
        assert crossed < len(loaded) / 2, f"{name}: {crossed} answers to other questions count as right"


def test_spellingbee_has_other_words_in_training_and_test(tmp_path):
    (tmp_path / "misc").mkdir()
    made = [f"w{a}{b}rd" for a in "abcdefghij" for b in "klmnop"]
    (tmp_path / "misc" / "english_words.txt").write_text("\n".join(made))
    task = tasks.find("SpellingBee")
    rows = {split: task.load(split, tmp_path) for split in ("train", "test")}
    assert rows["test"] and len(rows["train"]) > 4 * len(rows["test"]) and rows["test"] == task.load("test", tmp_path)
    in_test = {row["answer"].split("'")[1] for row in rows["test"]}
    assert not in_test & {row["answer"].split("'")[1] for row in rows["train"]}
    assert all(task.grade(row, spoken(task, row)) for row in rows["train"])


def test_dolly_is_a_source_only():
    task = tasks.find("dolly")
    item = {"instruction": "Say hi.", "context": "To Ann.", "response": "Hi, Ann."}
    asked, answered = task.conversation(item)["messages"]
    assert asked["content"] == "Say hi.\n\nTo Ann." and answered["content"] == "Hi, Ann."
    with pytest.raises(UserError, match="can't be evaluated"):
        task.grade({}, "Hi")


GOOD = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "Ada."}]


@pytest.mark.parametrize(("line", "problem"), [
    ('{"messages": [', "not JSON"), ('{"text": "hello"}', "fields text; expected"), ("[]", "roles"),
    (json.dumps(GOOD[::-1]), "roles"), (json.dumps(GOOD[:1]), "no assistant message"),
    (json.dumps([GOOD[0], {"role": "assistant", "content": 3}]), "message 2 has the content 3"),
    (json.dumps([GOOD[0], {"role": "assistant", "content": [{"type": "image", "text": "x"}]}]), "'image'"),
])
def test_your_own_conversations_are_checked_line_by_line(tmp_path, line, problem):
    path = tmp_path / "my.jsonl"
    path.write_text(json.dumps(GOOD) + "\n\n" + line + "\n")
    with pytest.raises(UserError, match=rf"my\.jsonl, line 3: .*{problem}"):
        conversations.read(path)


@pytest.mark.parametrize("name, content, number", [
    ("my.jsonl", json.dumps(GOOD) + "\r\n" + json.dumps({"messages": GOOD}), 2),
    ("my.json", json.dumps([GOOD, GOOD]), 2),
    ("my.json", json.dumps([{"messages": GOOD}] * 3, indent=2), 3), ("my.json", json.dumps(GOOD, indent=2), 1),
    ("my.json", json.dumps(GOOD), 1), ("my.jsonl", json.dumps({"messages": GOOD}, indent=1), 1),
    ("noname", json.dumps([{"messages": GOOD}]), 1), ("my.jsonl", "\ufeff" + json.dumps(GOOD), 1),
    ("my.JSON", json.dumps({"messages": GOOD}, indent=1) + "\n" + json.dumps({"messages": GOOD}, indent=1), 2),
])
def test_your_own_conversations_come_as_lines_arrays_or_objects(tmp_path, name, content, number):
    (tmp_path / name).write_text(content)
    assert conversations.read(tmp_path / name) == [{"messages": GOOD}] * number
    (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
    assert conversations.read(tmp_path / f"{name}.gz") == [{"messages": GOOD}] * number


def test_your_own_conversations_come_as_parquet(tmp_path):
    rows = [{"messages": [{**message, "weight": None} for message in GOOD], "source": "x"}] * 3
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "my.parquet")
    assert conversations.read(tmp_path / "my.parquet") == [{"messages": GOOD}] * 3


@pytest.mark.parametrize("content, said", [
    (json.dumps([GOOD, GOOD[:1]]), "element 2: has no assistant"),
    ("[" + json.dumps(GOOD) + ", {'a'}]", "element 2 that is not JSON"),
    (json.dumps([GOOD])[:-1], "not closed"), ("", "is empty"), ("[]", "is empty"), (None, "does not exist"),
])
def test_errors_name_the_element(tmp_path, content, said):
    if content is not None:
        (tmp_path / "my.json").write_text(content)
    with pytest.raises(UserError, match=rf"my\.json.* {said}"):
        conversations.read(tmp_path / "my.json")
    with pytest.raises(UserError, match="is not a file"):
        conversations.read(tmp_path)


@pytest.mark.parametrize(("text", "phrase", "found"), [
    ("a cow", "cow", True), ("cowboy", "cow", False), ("It is 1,200.", "200", False), ("It is 12.", "12", True),
    ("12.5", "12", False), ("-12", "12", False), ("the guinea pig!", "guinea pig", True),
])
def test_whole_words_and_whole_numbers_only(text, phrase, found):
    assert common.says(text, phrase) is found
