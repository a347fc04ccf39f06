"""The model's words: what is asked in which form, when, and that training does not notice."""
import itertools

import pytest
import torch

from nanochat.data.loader import ListCorpus, batches
from nanochat.eval import words
from nanochat.eval.words import Words
from nanochat.infer import Engine
from nanochat.optim import Optimizer, Schedule
from nanochat.optim.groups import groups_of
from nanochat.system.runtime import Runtime
from nanochat.train.loop import optimize
from nanochat.train.losses import weighted_nll


@pytest.fixture
def model(tiny_model, tokenizer):
    return tiny_model(vocab_size=tokenizer.vocab_size, sequence_len=96)


@pytest.mark.parametrize("stage", ["base", "mid", "sft", "rl"])
def test_every_stage_answers_the_same_five_prompts_in_its_own_form(model, tokenizer, stage, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(words, "greedy_answers", lambda model, tokenizer, prompts, tool: asked.extend(prompts)
                        or ["yes\x1b"] * 5)
    said = Words(model, tokenizer, stage)(40)
    assert [prompt for prompt, _ in said] == list(words.PROMPTS) and len(said) == 5
    user = tokenizer.special_id("<|user_start|>")
    assert [user in ids for ids in asked] == [False, *[stage != "base"] * 4]
    [line] = capsys.readouterr().out.splitlines()
    assert line.startswith(f"{stage} 40 %") and words.PROMPTS[words.SHOWN[stage]] in line and "\x1b" not in line


def test_the_words_are_those_of_the_engine(model, tokenizer):
    """Also where heads like to call the tool, which refuses some of the expressions."""
    expressions = []

    def tool(expression):
        expressions.append(expression)
        return "42" if len(expression) % 2 else None

    for _ in range(8):
        with torch.no_grad():
            model.lm_head.weight.normal_()
            for name in words.TOOL_TOKENS:
                model.lm_head.weight[tokenizer.special_id(name)] *= 3
        said = Words(model, tokenizer, "sft", tool)()
        engine = Engine(model, tokenizer, tool)
        for prompt, answer in said:
            ids = words.prompt_ids(tokenizer, prompt, as_chat=prompt != words.TEXT)
            [[alone]] = engine.generate([ids], max_tokens=words.MAX_TOKENS, temperature=0.0)
            calls = "".join(f"[{call} = {result}] " for call, result in alone.tool_calls)
            assert calls + alone.text.strip() == answer
    assert len(expressions) > 8


@pytest.mark.parametrize("context", [8, 40])
def test_a_short_context_shortens_the_answers(tiny_model, tokenizer, context):
    said = Words(tiny_model(vocab_size=tokenizer.vocab_size, sequence_len=context), tokenizer, "sft")()
    assert len(said) == 5 and said[-1][1] == "", "the longest question leaves no room"


def test_without_memory_the_training_goes_on(model, tokenizer, monkeypatch, capsys):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(words, "greedy_answers", fail)
    assert Words(model, tokenizer, "base")(20) == [] and "memory" in capsys.readouterr().out


def losses(tiny_model, tokenizer, words_every):
    """Twelve steps; all random numbers and weights that they leave."""
    torch.manual_seed(7)
    model = tiny_model(vocab_size=tokenizer.vocab_size, document_bos=tokenizer.bos_id)
    optimizer = Optimizer(groups_of(model, matrix_lr=0.01, embedding_lr=0.02, head_lr=0.002))
    documents = [[tokenizer.bos_id, *tokenizer.encode("The cat sat. " * (1 + n % 3))] for n in range(20)]
    stream = batches(ListCorpus([(ids, [1] * len(ids)) for ids in documents]), 3, 16, tokenizer.bos_id)
    speak, seen = Words(model, tokenizer, "sft"), []
    for step in optimize(weighted_nll(model, False), optimizer, stream, Schedule(12),
                         runtime=Runtime(torch.device("cpu"), torch.float32), steps=12):
        seen.append(step.loss)
        if words_every and step.number % words_every == 0:
            speak()
    return seen, torch.rand(3).tolist(), [p.detach().clone() for p in model.parameters()]


def test_speaking_changes_neither_losses_nor_weights_nor_random_numbers(tiny_model, tokenizer):
    silent, speaking = (losses(tiny_model, tokenizer, every) for every in (0, 2))
    assert silent[0] == speaking[0] and silent[1] == speaking[1]
    assert all(torch.equal(one, other) for one, other in itertools.zip_longest(silent[2], speaking[2]))
