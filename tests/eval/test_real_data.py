"""The real exams, where their files are: reference answers are right, wrong ones wrong, and a model of random letters
stays at chance."""
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tasks
from nanochat.eval import chat, core

FOLDER = Path(os.environ.get("NANOCHAT_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def needs(name: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(tasks.find(name).path("test", FOLDER) is None, reason=f"no {name} in {FOLDER}")


@needs("humaneval")
def test_humaneval_canonical_solutions_pass_and_one_wrong_line_fails():
    task = tasks.find("humaneval")
    items = task.load("test", FOLDER)
    right = [task.conversation(item)["messages"][1]["content"] for item in items]
    assert len(items) == 164 and all(task.grade(item, text) for item, text in zip(items, right))
    wrong = [f"{item['prompt']}    return None\n{item['canonical_solution']}" for item in items]
    assert not any(task.grade(item, text) for item, text in zip(items, wrong))


@needs("gsm8k")
def test_gsm8k_reference_answers_are_right_and_another_number_is_wrong():
    task = tasks.find("gsm8k")
    for item in (items := task.load("test", FOLDER)):
        parts = task.conversation(item)["messages"][1]["content"]
        text = "".join(part["text"] for part in parts if part["type"] == "text")
        assert task.grade(item, text) and not task.grade(item, text.replace("#### ", "#### 9"))
    assert len(items) > 1000


class Random:
    """Logits that depend on the whole prompt and on nothing one could learn from."""

    config = SimpleNamespace(sequence_len=2048)

    def parameters(self):
        return iter([torch.zeros(1)])

    def hidden(self, ids):
        return (ids * torch.arange(1, ids.size(1) + 1)).cumsum(1).double().unsqueeze(-1)  # (B, T, 1)

    def logits(self, hidden):
        return torch.sin(hidden * torch.linspace(1, 2, 300, dtype=torch.double) * 12.9898)


@pytest.mark.parametrize("name", [name for name in tasks.names() if tasks.find(name).kind == "categorical"])
def test_letters_of_a_random_model_stay_at_chance(name, tokenizer, monkeypatch):
    task = tasks.find(name)
    if task.path("test", FOLDER) is None:
        pytest.skip(f"no {name} in {FOLDER}")
    monkeypatch.setenv("NANOCHAT_DATA", str(FOLDER))
    score = chat.evaluate(task, SimpleNamespace(model=Random(), tokenizer=tokenizer), 1000)
    assert score.num_items == 1000 and abs(score.accuracy - task.chance) < 3 * score.stderr


@pytest.mark.skipif(not (FOLDER / "core_tasks.yaml").exists(), reason=f"no CORE in {FOLDER}")
def test_core_is_named_by_what_is_there(model, tokenizer):
    result = core.evaluate(model, tokenizer, FOLDER, 2)
    num_tasks = len(core.read_tasks(FOLDER)) - len(result["missing"])
    assert len(core.read_tasks(FOLDER)) == core.NUM_TASKS and num_tasks == len(result["tasks"]) >= 20
    name = "CORE" if num_tasks == core.NUM_TASKS else f"CORE-{num_tasks}"
    assert result["label"] == f"{name} (at most 2 items a task)"
    scores = result["tasks"].values()
    assert {score["kind"] for score in scores} == {"multiple_choice", "schema", "language_modeling"}
    assert all(score["centred"] <= 1 and score["num_items"] == 2 for score in scores)
