"""Exams against a slow twin that asks one question at a time, and against an engine whose answers are known."""
import math
import random
from types import SimpleNamespace

import pytest
import torch

import tasks
from nanochat.eval import chat
from nanochat.eval.chat import ExamSettings
from nanochat.infer import Completion, Engine
from nanochat.sandbox import calculate
from nanochat.system import files
from nanochat.system.files import UserError
from nanochat.tokenizer.chat import render, render_prompt

CHOICE, PROBLEMS = tasks.find("choice_letter"), tasks.find("problems")


def make_choices(num: int, seed: int = 0) -> list[dict]:
    rng = random.Random(seed)
    ask = "what is this or that".split()
    return [{"question": " ".join(rng.choices(ask, k=rng.randint(2, 20))),
             "choices": [f"a {n}" for n in range(rng.randint(3, 5))], "answer": rng.randrange(3),
             "subject": rng.choice(("sky", "sea"))} for _ in range(num)]


@pytest.fixture
def items(data):
    """Writes 30 multiple-choice items and 12 problems; their data folder."""
    files.write_jsonl(data / "kindergarten" / "choice-test.jsonl", make_choices(30))
    files.write_jsonl(data / "kindergarten" / "problems-test.jsonl",
                      [{"question": f"What is {n}+1?", "answer": f"<<{n}+1={n + 1}>>#### {n + 1}"} for n in range(12)])
    return data


class Scripted:
    """An engine that knows n+1: it answers with the tool on even n, and wrongly where n is 3 or 4."""

    max_rows = 2

    def __init__(self, tokenizer):
        self.tokenizer, self.calls = tokenizer, []
        self.model = SimpleNamespace(config=SimpleNamespace(sequence_len=10_000))

    def generate(self, prompts, max_tokens, temperature, top_k, seed, samples):
        self.calls.append((len(prompts), max_tokens, temperature, samples))
        return [[self.answer(self.tokenizer.decode(prompt), k) for k in range(samples)] for prompt in prompts]

    def answer(self, prompt: str, k: int) -> Completion:
        n = int(prompt.split("What is ")[1].split("+")[0])
        value = n + 1 if n not in (3, 4) or k == 1 else 0
        return Completion([1], [1], f"#### {value}", "stop", [(f"{n}+1", str(n + 1))] if n % 2 == 0 else [])


@torch.no_grad()
def slow_letter(model, tokenizer, item) -> str:
    """One prompt at a time, all logits, the letters compared in text order."""
    logits = model(torch.tensor([render_prompt(tokenizer, CHOICE.conversation(item))]))[0, -1]
    return max(CHOICE.letters(item), key=lambda letter: logits[ord(letter)].item())


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_letters_are_those_of_one_question_at_a_time(model, tokenizer, items, batch_size):
    engine = SimpleNamespace(model=model, tokenizer=tokenizer)
    score = chat.evaluate(CHOICE, engine, settings=ExamSettings(batch_size=batch_size), save_to=items / "saved.jsonl")
    questions = CHOICE.load("test")
    expected = [slow_letter(model, tokenizer, item) for item in questions]
    saved = files.read_jsonl(items / "saved.jsonl")
    assert [row["completion"] for row in saved] == expected and len(set(expected)) > 1
    right = [letter == CHOICE.answer(item) for letter, item in zip(expected, questions)]
    assert [row["correct"] for row in saved] == right and score.accuracy == pytest.approx(sum(right) / 30)
    assert score.stderr == pytest.approx(math.sqrt(score.accuracy * (1 - score.accuracy) / 30))
    assert score.num_items == 30 and score.chance == 0.25 and "tool_use" not in score.extra
    assert sum(number for _, number in score.extra["groups"].values()) == 30


def test_random_weights_stay_near_chance(model, tokenizer, data):
    questions = [{**item, "choices": list("abcd"), "answer": index % 4} for index, item in enumerate(make_choices(400))]
    files.write_jsonl(data / "kindergarten" / "choice-test.jsonl", questions)
    score = chat.evaluate(CHOICE, SimpleNamespace(model=model, tokenizer=tokenizer))
    assert abs(score.accuracy - 0.25) < 3 * math.sqrt(0.25 * 0.75 / 400)


def test_words_are_graded_and_tool_use_is_counted(tokenizer, items):
    engine, reported = Scripted(tokenizer), []
    score = chat.evaluate(PROBLEMS, engine, save_to=items / "saved.jsonl", report=reported.append)
    assert score.accuracy == pytest.approx(10 / 12) and score.num_items == 12
    assert score.extra == {"tool_use": 0.5, "accuracy_with_tool": pytest.approx(5 / 6)}
    assert engine.calls == [(8, PROBLEMS.max_tokens, 0.0, 1), (4, PROBLEMS.max_tokens, 0.0, 1)]
    assert reported == [8, 12]
    saved = files.read_jsonl(items / "saved.jsonl")
    assert [row["item"] for row in saved] == list(range(12)) and saved[4]["correct"] is False
    assert saved[4]["prompt"] == "What is 4+1?" and saved[4]["tool_calls"] == [["4+1", "5"]]
    assert score.as_dict()["tool_use"] == 0.5


def test_samples_give_a_mean_and_pass_at_k(tokenizer, items):
    score = chat.evaluate(PROBLEMS, Scripted(tokenizer), settings=ExamSettings(samples=2, temperature=1.0))
    assert score.accuracy == pytest.approx((10 + 2 * 0.5) / 12) and score.extra["pass_at_k"] == 1.0
    assert score.extra["pass_at"] == {1: pytest.approx(score.accuracy), 2: 1.0}
    assert score.num_items == 12


def test_some_of_the_items_are_drawn_at_random_and_always_the_same(tokenizer, items):
    for name in ("first.jsonl", "second.jsonl"):
        assert chat.evaluate(PROBLEMS, Scripted(tokenizer), 5, save_to=items / name).num_items == 5
    chosen = [row["item"] for row in files.read_jsonl(items / "first.jsonl")]
    assert chosen == [row["item"] for row in files.read_jsonl(items / "second.jsonl")] != [0, 1, 2, 3, 4]


def test_with_the_real_engine(model, tokenizer, items):
    engine = Engine(model, tokenizer, tool=calculate, max_rows=4)
    chat.evaluate(PROBLEMS, engine, settings=ExamSettings(max_tokens=12), save_to=items / "saved.jsonl")
    for row in files.read_jsonl(items / "saved.jsonl"):
        prompt = render_prompt(tokenizer, {"messages": [{"role": "user", "content": row["prompt"]}]})
        assert row["completion"] == engine.generate([prompt], max_tokens=12, temperature=0.0)[0][0].text


STRANGERS = tasks.find("strangers")


@pytest.fixture
def visitors(monkeypatch):
    """`visitors(items)` puts items in the place of the strangers'."""
    return lambda items: monkeypatch.setattr(type(STRANGERS), "load", lambda self, split, data_dir=None: items)


def visitor(*turns, kind="turns", **rules) -> dict:
    return {"kind": kind, "turns": list(turns), **(rules or {"any": ["cat"]})}


@pytest.mark.parametrize("samples, temperature", [(1, 0.0), (2, 1.0)])
def test_the_models_own_answers_stand_between_the_turns(model, tokenizer, visitors, tmp_path, samples, temperature):
    """Against a twin that asks one conversation at a time."""
    items = [visitor("hi", "a cat?", "and a dog?"), visitor("the cat", kind="who", system="You are Bob.", any=["Bob"]),
             visitor("a cat?", "The dog?"), visitor("hi", "a house")]
    visitors(items)
    engine = Engine(model, tokenizer, tool=calculate, max_rows=4)
    settings = ExamSettings(max_tokens=6, samples=samples, temperature=temperature)
    chat.evaluate(STRANGERS, engine, settings=settings, save_to=tmp_path / "saved.jsonl")
    saved = files.read_jsonl(tmp_path / "saved.jsonl")
    assert [row["item"] for row in saved] == sorted(list(range(4)) * samples)
    if samples > 1:
        assert len({row["completion"] for row in saved if row["item"] == 0}) == 2, "each sample has its own talk"
        return
    for row, item in zip(saved, items):
        messages = [{"role": "system", "content": item["system"]}] if "system" in item else []
        for turn in item["turns"]:
            messages.append({"role": "user", "content": turn})
            prompt = render_prompt(tokenizer, {"messages": messages})
            completion = engine.generate([prompt], max_tokens=6, temperature=0.0)[0][0]
            messages.append(chat.spoken(tokenizer, completion))
        assert row["completion"] == completion.text and row["group"] == item["kind"]


def test_a_call_of_the_tool_is_said_again_as_a_call(tokenizer):
    content = [{"type": "text", "text": "It is "}, {"type": "python", "text": "1+1"},
               {"type": "python_output", "text": "2"}, {"type": "text", "text": "2."}]
    messages = [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": content}]
    ids = render(tokenizer, {"messages": messages})[0]
    ids = ids[ids.index(tokenizer.special_id("<|assistant_start|>")) + 1:]
    assert chat.spoken(tokenizer, Completion(ids, [], "", "stop", [])) == messages[1]
    assert chat.spoken(tokenizer, Completion([], [], "", "length", [])) == {"role": "assistant", "content": ""}


def test_an_answer_that_was_cut_off_is_wrong(tokenizer, visitors, monkeypatch):
    class Cat(Scripted):
        def answer(self, prompt, k):
            return Completion([1], [1], "A cat.", "length" if "go on" in prompt else "stop", [])

    visitors([visitor("say cat", kind="animals"), visitor("go on", kind="animals")])
    score = chat.evaluate(STRANGERS, Cat(tokenizer))
    assert score.accuracy == 0.5 and score.extra == {"refused": 0.0}


def test_of_questions_held_back_only_the_verdicts_are_kept(tokenizer, visitors, tmp_path):
    class Unsure(Scripted):
        def answer(self, prompt, k):
            return Completion([1], [1], "I do not know.", "stop", [])

    visitors([visitor("a cat?", kind="animals"), visitor("the capital of Norway?", kind="unknown", unsure=True)])
    score = chat.evaluate(tasks.find("strangers_held"), Unsure(tokenizer), save_to=tmp_path / "saved.jsonl")
    assert score.extra["groups"] == {"animals": [0.0, 1], "unknown": [1.0, 1]} and score.extra["refused"] == 1.0
    words = (tmp_path / "saved.jsonl").read_text()
    assert '"correct": true' in words and not any(word in words for word in ("cat?", "Norway", "I do not know"))


def test_prompts_longer_than_the_context_are_counted(model, tokenizer, data):
    questions = [{"question": "why? " * 200, "choices": ["a", "b"], "answer": 0}, *make_choices(1)]
    files.write_jsonl(data / "kindergarten" / "choice-test.jsonl", questions)
    score = chat.evaluate(CHOICE, SimpleNamespace(model=model, tokenizer=tokenizer))
    assert score.num_items == 2 and score.extra["too_long"] == 1


def test_an_empty_file_is_an_error(tokenizer, data):
    files.write_jsonl(data / "kindergarten" / "problems-test.jsonl", [])
    with pytest.raises(UserError, match="problems-test.jsonl holds no items"):
        chat.evaluate(PROBLEMS, Scripted(tokenizer))


def test_chat_core_needs_all_five_tasks():
    scores = {name: {"accuracy": 0.25, "stderr": 0.03, "chance": tasks.find(name).chance} for name in chat.CHAT_CORE}
    error = (3 * 0.04**2 + 2 * 0.03**2) ** 0.5 / 5  # three of the five are centred on chance 1/4
    assert chat.chat_core(scores) == pytest.approx(((0 + 0 + 0 + 0.25 + 0.25) / 5, error))
    published = dict(zip(chat.CHAT_CORE, (0.3876, 0.2807, 0.3151, 0.0455, 0.0854)))
    d20 = {name: {**scores[name], "accuracy": accuracy} for name, accuracy in published.items()}
    assert chat.chat_core(d20)[0] == pytest.approx(0.0884, abs=5e-5), "the d20 run's published ChatCORE"
    del scores["mmlu"]
    assert chat.chat_core(scores) is None
