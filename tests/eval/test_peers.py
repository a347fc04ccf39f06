"""Agreement with independent implementations: transformers' loss, and lm-evaluation-harness item by item.

On weights that do something, and made-up items; bench/agreement.py does the same with a trained model on real ones.
"""
import importlib.util
import math
import random
from pathlib import Path

import pytest
import torch

from nanochat.eval import core
from nanochat.eval.bpb import bits_per_byte
from nanochat.model import PORTABLE
from nanochat.system import paths
from nanochat.train import checkpoint

pytestmark = pytest.mark.peers
pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytest.importorskip("lm_eval")
WORDS = "the cat sat on a mat and the dog ran to the red house who are you".split()


@pytest.fixture
def agreement():
    spec = importlib.util.spec_from_file_location("agreement", Path(__file__).parents[2] / "bench" / "agreement.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def portable(base_dir, tiny_model, tokenizer, agreement):
    """(our model, lm-eval's) from one checkpoint folder."""
    model = tiny_model(vocab_size=tokenizer.vocab_size, sequence_len=320, **PORTABLE).eval()
    tokenizer.save(paths.tokenizer_dir())
    path = checkpoint.save(paths.checkpoint_dir("base", "d2"), 1, model, None, {})
    return model, agreement.harness(model, str(path), 4)


def make_items(kind: str, num: int = 24) -> list[dict]:
    draw = random.Random(kind)

    def text(low: int, high: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(low, high)))

    if kind == "language_modeling":
        return [{"context": text(2, 20), "continuation": text(1, 2)} for _ in range(num)]
    return [{"query": text(2, 20), "choices": [text(1, 6) for _ in range(4)], "gold": 0} for _ in range(num)]


@pytest.mark.parametrize("kind, shots", [("multiple_choice", 0), ("multiple_choice", 2), ("language_modeling", 0)])
def test_every_choice_is_lm_evals(portable, tokenizer, agreement, kind, shots):
    model, theirs = portable
    task, items = core.CoreTask(kind, Path(), kind, shots, "\nAnswer: " if shots else " "), make_items(kind)
    agreed = agreement.compare(model, tokenizer, theirs, task, items, range(len(items)))
    assert agreed.too_long == 0 and agreed.largest < 1e-3
    assert agreed.items == agreed.same_sum == agreed.same_mean == len(items), agreed.explained


def test_what_does_not_fit_the_context_is_counted(portable, tokenizer, agreement):
    items = make_items("multiple_choice", 4)
    items[2]["query"] *= 40
    task = core.CoreTask("mc", Path(), "multiple_choice", 0, " ")
    agreed = agreement.compare(portable[0], tokenizer, portable[1], task, items, range(4))
    assert (agreed.items, agreed.too_long, agreed.same_sum) == (3, 1, 3)


def test_a_difference_is_found_and_explained(portable, tokenizer, agreement):
    model, theirs = portable
    with torch.no_grad():
        model.lm_head.weight.mul_(-1)
    task = core.CoreTask("mc", Path(), "multiple_choice", 0, " ")
    items = make_items("multiple_choice")
    agreed = agreement.compare(model, tokenizer, theirs, task, items, range(len(items)))
    assert agreed.same_sum < len(items) and agreed.largest > 1
    assert len(agreed.explained) == 2 * len(items) - agreed.same_sum - agreed.same_mean
    assert "unexplained" in agreed.explained[0]


def test_bpb_is_transformers_loss_per_byte(portable, tokenizer, sentences):
    model, theirs = portable
    ids = torch.tensor([tokenizer.bos_id, *tokenizer.encode("".join(sentences))])[:100].unsqueeze(0)
    with torch.no_grad():
        loss = theirs.model(ids, labels=ids).loss.item()  # the mean over 99 targets
    num_bytes = len(tokenizer.decode_bytes(ids[0, 1:].tolist()))
    ours = bits_per_byte(model, [(ids[:, :-1], ids[:, 1:])], torch.from_numpy(tokenizer.token_bytes()))
    assert ours == pytest.approx(loss * 99 / math.log(2) / num_bytes, rel=1e-5)
