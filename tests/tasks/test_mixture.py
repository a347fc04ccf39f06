"""Mixtures: by name, weight and file, cut to the row; whatever comes out can be trained on."""
import json
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data import conversations
from nanochat.data.loader import ListCorpus, batches
from nanochat.system import files
from nanochat.system.files import UserError
from nanochat.tokenizer import chat
from nanochat.train.losses import weighted_nll
from tasks import mixture

EXAMPLE = Path(__file__).parents[2] / "docs" / "ada.jsonl"


def talk(*texts: str) -> dict:
    return {"messages": [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]}


@pytest.fixture
def data(tmp_path):
    files.write_jsonl(tmp_path / "chat" / "short.jsonl", [talk(f"Who is {n}?", f"It is {n}.") for n in range(20)])
    return tmp_path


def documents(*arguments, **settings) -> list[tuple[list[int], list[int]]]:
    """The mixture's arrays as `chat.render` gives them: lists that can be compared."""
    return [(ids.tolist(), mask.astype(int).tolist()) for ids, mask in mixture.documents(*arguments, **settings)]


def test_a_token_takes_five_bytes(data, tokenizer):
    """Of two lists it would take 16, and 44 with the numbers in them."""
    for ids, mask in mixture.documents("short", tokenizer, data_dir=data):
        assert (ids.itemsize, mask.itemsize) == (4, 1) and ids.base is mask.base is None, "no view of something larger"


def test_own_conversations_join_the_mixture_by_path_and_passes(data, tokenizer, capsys):
    files.write_jsonl(data / "my.jsonl", [talk("Name?", "Ada."), talk("Job?", "A cook.")])
    plain = documents("short*0.5", tokenizer, data_dir=data)
    both = documents("short*0.5", tokenizer, own=f"{data}/my.jsonl*3", data_dir=data)
    mine = chat.render(tokenizer, talk("Name?", "Ada."))
    assert len(plain) == 10 and len(both) == 16 and both.count(mine) == 3 and all(one in both for one in plain)
    assert "my.jsonl: 6 documents" in capsys.readouterr().out
    assert len(mixture.documents("", tokenizer, own=f"{data}/my.jsonl", data_dir=data)) == 22, "beside all there is"


def test_the_shipped_example_is_valid_and_small(tokenizer):
    rows = conversations.read(EXAMPLE)
    assert 10 <= len(rows) <= 50 and any("Ada" in row["messages"][-1]["content"] for row in rows)
    assert all(any(chat.render(tokenizer, row)[1]) for row in rows)


@pytest.mark.parametrize("own, lines, said", [
    ("my.jsonl", ["{"], "my.jsonl, line 2: not JSON"), ("gone.jsonl", [], "gone.jsonl does not exist"),
    ("my.jsonl*x", [], r"my.jsonl\*x: 'x' is not a number of passes"), ("my.jsonl*0", [], "'0' is not a number"),
    ("my.jsonl*nan", [], "'nan' is not"), ("gone.jsonl*2", [], "gone.jsonl does not exist"), ("", [], "is not a file"),
    ("my.jsonl", [json.dumps({"messages": talk("a", "b")["messages"][::-1]})], "line 2: the roles are"),
    ("my.jsonl", ['{"messages": [{"role": "user", "content": 3}, {"role": "assistant", "content": "b"}]}'],
     "line 2: message 1 has the content 3")])
def test_what_is_wrong_with_them_is_said(data, tokenizer, own, lines, said):
    (data / "my.jsonl").write_text("\n".join([json.dumps(talk("Name?", "Ada.")), *lines]))
    with pytest.raises(UserError, match=said):
        mixture.documents("short", tokenizer, own=f"{data}/{own}", data_dir=data)


@pytest.mark.parametrize("name", ["my.jsonl", "a,b.jsonl", "two*.jsonl", "two*3"])
def test_own_files_may_have_any_name(data, tokenizer, name):
    files.write_jsonl(data / name, [talk("Name?", "Ada.")])
    for passes in ("", "*2"):
        found = mixture.documents("short*0.5", tokenizer, own=f"{data}/{name}{passes}", data_dir=data)
        assert len(found) == (12 if passes else 11)


FORMATS = {"sharegpt.jsonl": {"conversations": [{"from": "human", "value": "Name?"}, {"from": "gpt", "value": "Ada."}]},
           "alpaca.JSONL": {"instruction": "Name?", "input": "", "output": "Ada."},
           "ours.json": [talk("Name?", "Ada.")], "bare.ndjson": talk("Name?", "Ada.")["messages"]}


@pytest.mark.parametrize("name", FORMATS)
def test_files_in_chat_are_read_in_every_format(data, tokenizer, name):
    (data / "chat" / name).write_text(json.dumps(FORMATS[name]))
    mine = chat.render(tokenizer, talk("Name?", "Ada."))
    assert documents(name.split(".")[0], tokenizer, data_dir=data) == [mine]
    assert mine in documents("", tokenizer, data_dir=data)


def test_what_an_empty_mixture_leaves_out_is_said(data, tokenizer, capsys):
    (data / "chat" / "mine.jsonl").write_text('{"words": "clay"}')
    (data / "chat" / "empty.jsonl").write_text("")
    (data / "chat" / "._short.jsonl").write_bytes(b"\0")
    (data / "chat" / "dolly_15k.jsonl").write_text('{"instruction": "Name?", "context": "", "response": "Ada."}')
    assert len(mixture.documents("", tokenizer, data_dir=data)) == 21, "dolly once"
    said = capsys.readouterr().out
    assert "mine.jsonl is left out" in said and "empty.jsonl is left out" in said and "._short" not in said
    with pytest.raises(UserError, match="mine.jsonl, line 1: has the fields words; expected"):
        mixture.documents("mine", tokenizer, data_dir=data)


def test_two_files_of_one_name_are_refused_but_a_file_and_its_archive_are_one(data):
    (data / "chat" / "short.jsonl.gz").write_bytes(b"")
    assert list(mixture.chat_files(data)) == ["short"]
    (data / "chat" / "short.json").write_text("[]")
    with pytest.raises(UserError, match="short.json.* the same name"):
        mixture.chat_files(data)


@pytest.mark.parametrize("learn_all", [False, True])
def test_a_message_of_weight_0_is_never_learnt(data, tokenizer, learn_all):
    wrong = {"role": "assistant", "content": "5", "weight": 0}
    row = {"messages": [*talk("2+2?")["messages"], wrong, *talk("2+2?", "4")["messages"]]}
    files.write_jsonl(data / "chat" / "sums.jsonl", [row])
    (ids, mask), = documents("sums", tokenizer, learn_all=learn_all, data_dir=data)
    learnt = tokenizer.decode([token for token, is_learnt in zip(ids, mask) if is_learnt])
    assert "5" not in learnt and "4" in learnt and ("2+2?" in learnt) == learn_all
    assert len(mask) == len(ids) == len(chat.render(tokenizer, talk("2+2?", "5", "2+2?", "4"))[0])


def test_long_conversations_end_at_a_turn_or_are_dropped_and_both_are_counted(data, tokenizer, capsys):
    whole = talk("Hi", "Ho", "And now?", "x" * 200)
    files.write_jsonl(data / "chat" / "long.jsonl", [whole, talk("q" * 300, "a"), talk("Hi", "y" * 300)])
    kept = documents("long", tokenizer, max_tokens=40, data_dir=data)
    first = chat.render(tokenizer, talk("Hi", "Ho"))
    assert first in kept and len(kept) == 2 and max(len(ids) for ids, _ in kept) == 40
    assert "longer than a row: 2 cut, 1 dropped" in capsys.readouterr().out
    with pytest.raises(UserError, match="no conversation of at most 9 tokens"):
        files.write_jsonl(data / "chat" / "long.jsonl", [talk("q" * 300, "a")])
        mixture.documents("long", tokenizer, max_tokens=9, data_dir=data)


@given(seed=st.integers(0, 999), row=st.integers(8, 60), rows=st.integers(1, 7), learn_all=st.booleans())
@settings(max_examples=40, deadline=None)
def test_no_row_is_without_a_target_and_no_loss_is_nan(tmp_path_factory, tokenizer, tiny_model, seed, row, rows,
                                                       learn_all):
    draw = random.Random(seed)
    text = lambda: "word " * draw.choice((0, 1, 3, 30)) + "."  # noqa: E731
    data = tmp_path_factory.mktemp("data")
    talks = [talk("?", "!")] + [talk(*(text() for _ in range(2 * draw.randint(1, 4))))
                                for _ in range(draw.randint(0, 12))]
    files.write_jsonl(data / "chat" / "any.jsonl", talks)
    found = mixture.documents("any", tokenizer, max_tokens=row + 1, learn_all=learn_all, data_dir=data)
    loss_of = weighted_nll(tiny_model(vocab_size=tokenizer.vocab_size, sequence_len=64), compile=False)
    for batch in batches(ListCorpus(found, 4), rows, row, tokenizer.bos_id, epochs=2):
        assert (batch.targets >= 0).any(dim=1).all(), "an empty row"
        assert torch.isfinite(loss_of(batch)) and batch.ids.shape[1] == row
