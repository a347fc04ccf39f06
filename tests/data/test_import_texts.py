"""Importing plain text, and the command around it."""
import gzip
import json

import pytest

from nanochat import dataset
from nanochat.data import shards
from nanochat.system.files import UserError


def test_plain_text_becomes_shards_split_by_content(tmp_path, capsys):
    own = tmp_path / "own"
    own.mkdir()
    (own / "a.txt").write_text("\n\n".join(f"Paragraph {i}. " + "word " * 100 for i in range(200)))
    with gzip.open(own / "b.jsonl.gz", "wt") as lines:
        lines.writelines(json.dumps({"text": f"Document {i}."}) + "\n" for i in range(300))
    dataset.main(["--data", str(own), "--out", str(tmp_path / "out")])
    data = tmp_path / "out/data"
    train = list(shards.iter_texts(shards.train_shards(data)))
    held_out = list(shards.iter_texts(shards.validation_shards(data)))
    assert not set(train) & set(held_out)
    assert 5 <= len(held_out) <= 45, "one in twenty of some 350"
    joined = "\n\n".join(text for text in train + held_out if text.startswith("Paragraph"))
    assert sorted(joined.split("\n\n")) == sorted((own / "a.txt").read_text().split("\n\n")), "nothing lost or doubled"
    assert f"{len(train):,} documents" in capsys.readouterr().out
    before = (data / "text/shard_validation.parquet").read_bytes()
    dataset.main(["--data", str(own), "--out", str(tmp_path / "out")])
    assert (data / "text/shard_validation.parquet").read_bytes() == before


@pytest.mark.parametrize("name, content, said", [
    ("a.jsonl", '{"text": "fine"}\n{"story": "no text field"}\n', "a.jsonl, record 2"), ("a.txt", "alone", "too few"),
    ("a.pdf", "not text", "expected a folder with text/"),
])
def test_folders_that_do_not_work_are_named(tmp_path, name, content, said):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / name).write_text(content)
    with pytest.raises(UserError, match=said):
        dataset.main(["--data", str(tmp_path / "own"), "--out", str(tmp_path / "out")])


def test_a_damaged_shard_is_named_by_the_check(tmp_path):
    for number in range(2):
        shards.write(tmp_path / f"text/shard_{number}.parquet", ["a", "b"])
    (tmp_path / "text/shard_0.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="shard_0.parquet is damaged"):
        dataset.main(["--data", str(tmp_path)])
