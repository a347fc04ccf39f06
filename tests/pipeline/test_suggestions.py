"""The questions that the chat page suggests, asked of a finished model of the laptop's recipe in the project's out/."""
import pytest

import tasks
from nanochat import sandbox
from nanochat.dataset import SUGGESTIONS
from nanochat.infer import Engine
from nanochat.system import files, paths
from nanochat.tokenizer.chat import render_prompt
from nanochat.train import checkpoint

RULES = {  # as in tasks/strangers.py
    "Hello! Who are you?": {"kind": "who", "any": ["nanochat"]},
    "What is 123 * 456?": {"kind": "sums", "number": "56088"},
    "Tell me a story about a fox.": {"kind": "stories", "story": 120, "all": ["fox"]},
    "Write a Python function that doubles a number.": {"kind": "functions", "calls": [[2, 4], [0, 0], [-3, -6]]}}


def test_every_suggestion_has_a_right_answer():
    assert set(RULES) == set(SUGGESTIONS)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["sft", "rl"])
def test_a_finished_model_answers_each_of_them(stage, monkeypatch):
    out = paths.REPO / "out"
    if not (out / "report").exists() or not files.read_json(out / "run.json")["settings"]["recipe"] == "laptop":
        pytest.skip(f"there is no finished run of the laptop's recipe in {out}; make one: bash speedrun.sh")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(out))
    model, tokenizer, state = checkpoint.load_model(stage)
    assert state["suggestions"] == list(SUGGESTIONS)
    engine = Engine(model, tokenizer, tool=sandbox.calculate, max_rows=4)
    prompts = [render_prompt(tokenizer, {"messages": [{"role": "user", "content": question}]}) for question in RULES]
    answers = engine.generate(prompts, max_tokens=200, temperature=0.0)
    grade = tasks.find("strangers").grade
    wrong = [f"{question} → {answer.text}" for (question, rule), [answer] in zip(RULES.items(), answers)
             if answer.stop_reason != "stop" or not grade({"turns": [question], **rule}, answer.text)]
    assert not wrong, "\n".join(wrong)
