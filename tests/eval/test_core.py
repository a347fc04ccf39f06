"""CORE against a slow twin that builds each prompt by hand and asks the whole model one row at a time."""
import random
from types import SimpleNamespace

import pytest
import torch

from nanochat.eval import core
from nanochat.eval.core import Row
from nanochat.model import PORTABLE
from nanochat.system import files
from nanochat.system.files import UserError

from .twins import make_items, make_task


@torch.no_grad()
def slow_verdicts(model, tokenizer, kind, items, shots, delimiter, key) -> list[bool]:
    """The definition, literally: texts, tokens, spans, one forward pass per row. The seeds are
    those of karpathy/nanochat: 1337 to shuffle the items, 1234 + i to draw the examples of item i from the others."""
    items = list(items)
    random.Random(1337).shuffle(items)
    verdicts = []
    for index, item in enumerate(items):
        rest = items[:index] + items[index + 1:]
        examples = random.Random(1234 + index).sample(rest, shots)
        if kind == "multiple_choice":
            front = [e["query"] + delimiter + e["choices"][e["gold"]] for e in examples]
            texts = ["\n\n".join([*front, item["query"] + delimiter + choice]) for choice in item["choices"]]
        elif kind == "schema":
            front = [e["context_options"][e["gold"]] + delimiter + e["continuation"] for e in examples]
            texts = ["\n\n".join([*front, context + delimiter + item["continuation"]])
                     for context in item["context_options"]]
        else:
            front = [e["context"].strip() + delimiter + e["continuation"] for e in examples]
            texts = ["\n\n".join([*front, item["context"].strip() + delimiter + item["continuation"]]),
                     "\n\n".join([*front, item["context"].strip() + delimiter]).rstrip()]
        rows = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in texts]
        if kind == "language_modeling":
            logits = model(torch.tensor([rows[0]]))[0]
            verdicts.append(all(logits[at - 1].argmax() == rows[0][at] for at in range(len(rows[1]), len(rows[0]))))
            continue
        means = []
        for row in rows:
            others = [other for other in rows if other is not row]
            if kind == "multiple_choice":
                start = min(next(at for at in range(len(row)) if row[:at + 1] != other[:at + 1]) for other in others)
                span = range(start, len(row))
            else:
                same = min(next(at for at in range(len(row)) if row[-at - 1:] != other[-at - 1:]) for other in others)
                span = range(len(row) - same, len(row))
            log_probabilities = model(torch.tensor([row]))[0].log_softmax(-1)
            means.append(sum(-log_probabilities[at - 1, row[at]].item() for at in span) / len(span))
        verdicts.append(means.index(min(means)) == item[key])
    return verdicts


@pytest.mark.parametrize("kind", ["multiple_choice", "schema", "language_modeling"])
@pytest.mark.parametrize(("shots", "delimiter"), [(0, " "), (2, "\nAnswer: ")])
def test_equals_the_slow_twin(model, tokenizer, monkeypatch, kind, shots, delimiter):
    items = make_items(kind)
    monkeypatch.setitem(core.TOKENS_AT_ONCE, "cpu", 400)  # several batches
    monkeypatch.setattr(core, "LOGITS_AT_ONCE", 7 * tokenizer.vocab_size)  # spans are cut
    result = core.evaluate_task(model, tokenizer, make_task(kind, shots, delimiter), items)
    expected = slow_verdicts(model, tokenizer, kind, items, shots, delimiter, "gold")
    assert kind == "language_modeling" or 0 < sum(expected) < len(items), "both verdicts are compared"
    assert result["accuracy"] == pytest.approx(sum(expected) / len(expected)) and result["num_items"] == len(items)
    assert result["centred"] == pytest.approx((result["accuracy"] - 0.25) / 0.75) and result["cropped"] == 0
    shuffled = list(items)
    random.Random(1337).shuffle(shuffled)
    judged = core.judge(model, tokenizer, make_task(kind, shots, delimiter), shuffled, range(len(items)))
    assert [right for _, right, _ in judged] == expected, "item by item"


def slow_score(model, row: Row) -> tuple[float, bool]:
    logits = model(torch.tensor([row.ids]))[0].double()
    span = range(row.start, row.end)
    nats = [-logits[at - 1].log_softmax(-1)[row.ids[at]].item() for at in span]
    return sum(nats) / len(nats), all(logits[at - 1].argmax() == row.ids[at] for at in span)


@torch.no_grad()
@pytest.mark.parametrize("features", [
    {}, PORTABLE, {"document_bos": 63}, {"windows": [3, 40], "smear": False, "gated_smear": True, "backout": True}],
    ids=["all", "portable", "documents", "imported"])
def test_trees_say_what_their_rows_say_alone(tiny_model, features):
    """Rows of any shape: little shared, all shared, one the beginning of another, spans inside what is shared."""
    model, rng = tiny_model(sequence_len=40, scale=0.6, **features).eval(), random.Random(4)
    trees, alone = [], []
    for _ in range(60):
        shared = [63, *(rng.randrange(64) for _ in range(rng.choice((1, 2, 9))))]
        likely = model(torch.tensor([shared]))[0].argmax(-1).tolist()  # so that some tokens are the first choice
        tails = [likely[-1:] + [rng.randrange(64) for _ in range(rng.randrange(7))] for _ in range(rng.randint(1, 5))]
        ids = [shared + tail[rng.randrange(2):] for tail in tails]
        rows = [Row(row, start := rng.randint(1, len(row) - 1), rng.randint(start + 1, len(row))) for row in ids]
        trees.append(core.tree(rows))
        alone.append([slow_score(model, row) for row in rows])
    for together, slow in zip(core.score(model, trees), alone):
        assert [first for _, first in together] == [first for _, first in slow]
        assert [nats for nats, _ in together] == pytest.approx([nats for nats, _ in slow], abs=2e-5)
    assert len({first for rows in alone for _, first in rows}) == 2, "both verdicts are compared"


def test_what_choices_share_is_computed_once(tokenizer):
    item = {"query": "the cat sat on a mat " * 9, "choices": ["and the dog", "in the sun", "of a man"], "gold": 0}
    rows = core.rows_of(tokenizer, make_task("multiple_choice", 0), [item], 0)
    choices = sum(len(row.ids) - row.start for row in rows)
    assert len(core.tree(rows).ids) == rows[0].start + choices + 3 < sum(len(row.ids) for row in rows) / 2


class Peeking:
    """A model that looks ahead and says what comes, but never the token it does not know."""

    def __init__(self, tokenizer, unknown: int):
        self.size, self.unknown = tokenizer.vocab_size, unknown
        self.config = SimpleNamespace(sequence_len=200, vocab_size=tokenizer.vocab_size)

    def parameters(self):
        return iter([torch.zeros(1)])

    def hidden(self, ids, positions=None, mask=None):
        following = ids.roll(-1, dims=1)
        return torch.nn.functional.one_hot(following.where(following != self.unknown, 0), self.size).float() * 9

    def logits(self, hidden):
        return hidden


def test_language_modeling_needs_every_token_of_the_continuation(tokenizer):
    items = make_items("language_modeling") + [{"context": "a hat", "continuation": "in the sun"}]
    unknown = tokenizer.encode(" hat")[-1]
    expected = [unknown not in tokenizer.encode(" " + item["continuation"]) for item in items]
    assert 0 < sum(expected) < len(items)
    model, task = Peeking(tokenizer, unknown), make_task("language_modeling")
    judged = core.judge(model, tokenizer, task, items, range(len(items)))
    assert [right for _, right, _ in judged] == expected


def test_a_choice_that_starts_another_still_has_a_token_to_score(tokenizer):
    item = {"query": "q", "choices": ["0", "0,1"], "gold": 0}
    rows = core.rows_of(tokenizer, make_task("multiple_choice", 0), [item], 0)
    assert all(row.start < row.end for row in rows)


def test_the_scored_span_is_the_continuation(tokenizer):
    item = {"context": "the dog ate ", "continuation": "the hat"}
    row, = core.rows_of(tokenizer, make_task("language_modeling", 0), [item], 0)
    assert tokenizer.decode(row.ids[row.start:row.end]) == " the hat" and row.ids[0] == tokenizer.bos_id
    item = {"context_options": ["the cat", "the man"], "continuation": "sat on it", "gold": 0}
    rows = core.rows_of(tokenizer, make_task("schema", 0), [item], 0)
    assert [tokenizer.decode(row.ids[row.start:row.end]) for row in rows] == [" sat on it"] * 2


def test_long_prompts_lose_their_beginning_and_are_counted(model, tokenizer):
    assert core.crop([Row([1, 2, 3, 4, 5], 3, 5)], 3) == [Row([1, 4, 5], 1, 3)]
    assert core.crop([Row([1, 2, 3, 4, 5], 1, 5)], 3) == [Row([1, 4, 5], 1, 3)]
    short = Row([1, 2, 3, 9], 3, 4)
    assert core.crop([Row([1, 2, 3, 4, 5], 3, 5), short], 4)[1] == Row([1, 3, 9], 2, 3), "choices keep their context"
    assert core.crop([short], 4) == [short]
    items = make_items("multiple_choice", 4)
    items[0]["query"] = "the cat " * 400
    assert core.evaluate_task(model, tokenizer, make_task("multiple_choice", 0), items)["cropped"] == 1


def write_suite(folder, kinds) -> None:
    rows = "".join(f"- label: {kind}\n  dataset_uri: core/{kind}.jsonl\n  icl_task_type: {kind}\n  num_fewshot: 1\n"
                   "  random_baseline_percent: 25.0\n" for kind in (*kinds, "coqa"))
    files.write_atomic(folder / "core_tasks.yaml", "icl_tasks:\n" + rows)
    for kind in kinds:
        files.write_jsonl(folder / "core" / f"{kind}.jsonl", make_items(kind))


def test_the_suite_names_what_is_missing_and_claims_no_more_than_it_is(model, tokenizer, tmp_path):
    kinds = ("multiple_choice", "schema")
    write_suite(tmp_path, kinds)
    new = []
    result = core.evaluate(model, tokenizer, tmp_path, 5, on_task=lambda label, _: new.append(label))
    assert new == list(kinds) and result["missing"] == ["coqa"]
    assert result["label"] == "CORE-2 (at most 5 items a task)"
    assert result["value"] == pytest.approx(sum(result["tasks"][kind]["centred"] for kind in kinds) / 2)
    again = core.evaluate(model, tokenizer, tmp_path, 5, finished=result["tasks"], on_task=lambda *_: 1 / 0)
    assert again == result, "finished tasks are not asked again"
    full = {str(i): {"accuracy": 0.5, "stderr": 0.1, "baseline": 0.0} for i in range(22)}
    assert core.summary(full)["label"] == "CORE" and core.summary(full)["stderr"] == pytest.approx(0.1 / 22 ** 0.5)


def test_a_missing_or_damaged_suite_is_an_error(model, tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"core_tasks\.yaml does not exist.*NANOCHAT_DATA"):
        core.evaluate(model, tokenizer, tmp_path)
    write_suite(tmp_path, ())
    with pytest.raises(UserError, match="none of the 1 CORE files"):
        core.evaluate(model, tokenizer, tmp_path)
    (tmp_path / "core_tasks.yaml").write_text("icl_tasks:\n- label: x\n")
    with pytest.raises(UserError, match="damaged.*dataset_uri"):
        core.evaluate(model, tokenizer, tmp_path)
