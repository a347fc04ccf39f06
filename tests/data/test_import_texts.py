"""From a folder of one's own to a data folder: documents, what is held out, links, memory, and nothing half done."""
import json
import os
import re
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import dataset
from nanochat.data import import_texts, rows, shards
from nanochat.data.import_texts import cut
from nanochat.system import files
from nanochat.system.files import UserError

USER, ANSWER = {"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "Mara."}


def notes(count: int, words: int = 60) -> str:
    return "\n\n".join(f"Note {number}. " + "The kiln is warm. " * words for number in range(count))


def bring_in(tmp_path: Path, contents: dict[str, str | bytes], out: str = "out",
             of: str = "") -> tuple[list[str], list[str]]:
    """(training documents, held-out documents) of an import of these files."""
    for name, content in contents.items():
        files.write_atomic(tmp_path / "own" / name, content)
    dataset.main([f"--data={tmp_path / 'own' / of}", f"--out={tmp_path / out}"])
    data = tmp_path / out / "data"
    return list(shards.iter_texts(shards.train_shards(data))), list(shards.iter_texts(shards.validation_shards(data)))


@pytest.mark.parametrize("text, documents", [
    ("one\n\ntwo", ["one\n\ntwo"]), ("a" * 60 + "\n\n" + "b" * 60, ["a" * 60, "b" * 60]),
    ("a\n\n\n \n\n\nb", ["a\n\nb"]), ("\n\n  a\n\n", ["  a"]), ("", []), ("\n \n", []),
    ("a<|endoftext|>b", ["a", "b"]), ("a\n<|endoftext|>\n\nb<|bos|>", ["a", "b"]), ("<s>a</s>\n<s>b</s>", ["a", "b"]),
    ("It is <s>red</s> blue.", ["It is <s>red</s> blue."]), ("a<|user_start|>b", ["a<|user_start|>b"]),
    ("a\fb", ["a\nb"]),
    ("line of clay\n" * 12, ["line of clay\n" * 5 + "line of clay"] * 2), ("x" * 55 + "\n", ["x" * 55]),
])
def test_running_text_is_cut_where_it_ends(text, documents):
    found = list(cut([text], 50))
    assert found == documents or len(documents) == 2 and "line" in text and "".join(found).count("clay") == 12
    assert list(cut(list(text), 50)) == found, "wherever the pieces end"


@given(st.text("ab \n\n\n。", max_size=600), st.integers(10, 60), st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_nothing_is_lost_or_too_long(text, size, step):
    found = list(cut([text[at:at + step] for at in range(0, len(text), step)], size))
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(document.strip() and len(document) <= 6 * size for document in found)


def test_a_line_without_end_is_cut_between_words():
    found = list(cut(["clay kiln " * 100_000]))
    assert "".join(found) == "clay kiln " * 100_000 and all(1000 <= len(one) <= 6000 for one in found[:-1])
    assert all(one.split()[-1] in ("clay", "kiln") for one in found) and len(set(found)) > 50
    assert len(list(cut(["陶土很暖。" * 5000]))) > 5 and max(map(len, cut(["e\u0301" * 9000]))) < 4500
    assert not any(one.startswith("\u0301") for one in cut(["e\u0301" * 9000]))


@pytest.mark.parametrize("contents", [
    {"a.txt": notes(200)}, {"a.txt": notes(30)}, {"a.txt": notes(1)}, {"a.txt": "clay kiln " * 50_000},
    {"a.txt": "\n".join(f"clay {i}" for i in range(9000))}, {"a.txt": ("café’s bowl. " * 200 + "\n\n") * 20},
    {"a.txt": "A kiln. " * 99 + "\n" * 10**6},
    {"a.jsonl": "\n".join(json.dumps({"text": f"Document {i}."}) for i in range(300))},
    {"a.jsonl": "\n".join(json.dumps({"text": notes(9) + str(i)}) for i in range(3))},
    {"a.json": json.dumps([notes(5), notes(5), notes(5)])},
    {"a.md": notes(20), "b.md": notes(20), "copy/b.md": notes(20)},
    {"a.md": notes(7), "requirements.txt": "numpy"},
    {"README.md": "# Mara", "b.json": json.dumps([[USER, ANSWER]] * 99)},
    {"mara.jsonl": "\n".join(json.dumps([{**USER, "content": f"Who is {i}?"}, ANSWER]) for i in range(40))},
], ids=lambda contents: f"{next(iter(contents))} {len(str(contents))}")
def test_about_a_twentieth_is_held_out_and_nothing_is_in_both(tmp_path, contents):
    train, held_out = bring_in(tmp_path, contents)
    share = sum(map(len, held_out)) / sum(map(len, train + held_out))
    assert held_out and train and share < 1 / 3
    assert not {text.strip() for text in train} & {text.strip() for text in held_out}
    assert 0.02 < share < 0.1 or sum(map(len, train)) < 4000


def test_the_split_follows_the_content_not_the_names(tmp_path):
    first = bring_in(tmp_path / "1", {"a.txt": notes(40), "b.txt": notes(80, 50)})
    second = bring_in(tmp_path / "2", {"z/a.txt": notes(40), "b.txt": notes(80, 50)})
    assert sorted(first[0]) == sorted(second[0]) and sorted(first[1]) == sorted(second[1])
    assert "".join(sorted("".join(first[0] + first[1]).split())) == "".join(sorted((notes(40) + notes(80, 50)).split()))


def test_importing_twice_gives_the_same_files(tmp_path):
    contents = {"a.txt": notes(90), "mara.jsonl": json.dumps([USER, ANSWER])}
    bring_in(tmp_path, contents)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    bring_in(tmp_path, {})
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    (tmp_path / "own/mara.jsonl").rename(tmp_path / "own/ada.jsonl")
    files.write_atomic(tmp_path / "out/data/chat/by_hand.jsonl", json.dumps([USER, ANSWER]))
    bring_in(tmp_path, {})
    assert sorted(path.name for path in (tmp_path / "out/data/chat").iterdir()) == ["ada.jsonl", "by_hand.jsonl"]


def test_an_import_that_is_interrupted_leaves_the_old_one(tmp_path, monkeypatch):
    old = bring_in(tmp_path, {"a.txt": notes(90)})

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(shards, "write", stop)
    with pytest.raises(KeyboardInterrupt):
        bring_in(tmp_path, {"b.txt": notes(90, 20)})
    monkeypatch.undo()
    data = tmp_path / "out/data"
    assert list(shards.iter_texts(shards.train_shards(data))) == old[0]
    assert [item["name"] for item in files.read_json(data / "imported.json")["texts"]] == ["a.txt"]
    assert sorted(path.name for path in data.iterdir()) == ["imported.json", "survey.json", "text"]


@pytest.mark.parametrize("contents, said", [
    ({"a.txt": "alone"}, "5 characters of text; expected at least 500"), ({"a.txt": "x" * 9}, "expected at least"),
    ({"a.pdf": "x"}, "nothing to learn from"), ({"a.txt": b"caf\xe9"}, "nothing to learn from"),
    ({".a.txt": notes(9)}, "nothing"),
    ({"a.jsonl": '{"text": "fine"}\n{"story": "no text field"}\n'}, "4 characters"),
])
def test_what_does_not_suffice_is_said_in_one_line(tmp_path, contents, said):
    with pytest.raises(UserError, match=said) as raised:
        bring_in(tmp_path, contents)
    assert "\n" not in str(raised.value) and not (tmp_path / "out/data/text").exists()


def test_text_of_another_origin_is_not_replaced(tmp_path):
    for origin in ("toy/stories", None):
        text = tmp_path / f"{origin}/data/text"
        shards.write(text / "shard_0.parquet", ["a"])
        files.write_json(text / "manifest.json", {"validation": []} | ({"origin": origin} if origin else {}))
        with pytest.raises(UserError, match=f"holds text from {origin or 'kindergarten'}"):
            bring_in(tmp_path, {"a.txt": notes(9)}, out=str(origin))
        assert (text / "shard_0.parquet").exists()


def test_our_own_layout_comes_through_linked_and_unchanged(tmp_path):
    for number in range(3):
        shards.write(tmp_path / f"own/text/shard_{number}.parquet", [f"{number} {i}" for i in range(30)])
    exams = {"gsm8k/test.jsonl": "{}", "core_tasks.yaml": "x", "core/a/b.jsonl.gz": "x", "misc/english_words.txt": "a",
             "chat/dolly_15k.jsonl": "{}"}
    train, held_out = bring_in(tmp_path, {
        "text/manifest.json": '{"validation": ["shard_1.parquet"], "revision": "x"}', "README.md": notes(9),
        "chat/mara.jsonl": json.dumps({"messages": [USER, ANSWER], "id": 1}),
        "chat/list.jsonl": json.dumps([USER, ANSWER]), **exams})
    assert held_out == [f"1 {i}" for i in range(30)] and len(train) == 60
    data = tmp_path / "out/data"
    for name in ["text/shard_0.parquet", "text/shard_1.parquet", "chat/mara.jsonl", *exams]:
        assert os.path.samefile(data / name, tmp_path / "own" / name), name
    assert json.loads((data / "chat/list.jsonl").read_text()) == {"messages": [USER, ANSWER]}
    record = files.read_json(data / "imported.json")
    assert record["imported"]["linked"] == 3 and sorted(exams) == sorted(item["name"] for item in record["exams"])
    (tmp_path / "own/text/shard_1.parquet").write_bytes(b"damaged")
    with pytest.raises(UserError, match="validation shard shard_1.parquet, which is missing or cannot be read"):
        bring_in(tmp_path, {})


@pytest.mark.parametrize("counts, linked", [((100, 100, 20), 3), ((100, 100, 100), 0), ((100, 5), 2), ((100,), 0)])
def test_parquet_is_linked_where_its_last_file_is_no_more_than_a_tenth(tmp_path, counts, linked):
    for number, count in enumerate(counts):
        texts = [f"Note {number} {i}." + " Clay." * 9 for i in range(count)]
        shards.write(tmp_path / f"own/deep/s{number}.parquet", texts)
    train, held_out = bring_in(tmp_path, {})
    assert len(train) + len(held_out) == sum(counts) and len(held_out) <= sum(counts) / 10
    assert files.read_json(tmp_path / "out/data/imported.json")["imported"]["linked"] == linked


def test_text_beside_linked_shards_is_added(tmp_path):
    for number, count in enumerate((100, 5)):
        shards.write(tmp_path / f"own/s{number}.parquet", [f"Note {number} {i}." for i in range(count)])
    train, held_out = bring_in(tmp_path, {"a.txt": notes(60)})
    assert len(held_out) > 5 and sum("Note 0" in text for text in train) >= 100
    assert "kiln" in "".join(train) and "kiln" in "".join(held_out)


def test_conversations_get_names_that_a_mixture_can_name(tmp_path):
    talk = json.dumps([USER, ANSWER])
    bring_in(tmp_path, {"a.txt": notes(9), **dict.fromkeys((
        "my chats, 2*x.jsonl", "b/text.jsonl", "text.json", "b/a.jsonl", "b-a.jsonl", "dolly_15k.jsonl", "Über.jsonl"),
        talk)})
    names = sorted(path.stem for path in (tmp_path / "out/data/chat").iterdir())
    assert len(names) == 7 and not {"text", "dolly_15k"} & set(names)
    assert all(re.fullmatch(r"[\w-]+", name) for name in names)


def test_the_out_folder_may_lie_in_the_data_and_data_in_the_out_folder_may_not(tmp_path, capsys):
    first = bring_in(tmp_path, {"a.txt": notes(60)}, out="own/out")
    files.write_atomic(tmp_path / "own/out/results/base/metrics.jsonl", '{"step": 1}')
    assert bring_in(tmp_path, {}, out="own/out") == first
    with pytest.raises(UserError, match="is in .*out/data, which the import writes"):
        bring_in(tmp_path, {}, out="own/out", of="out/data/text")
    capsys.readouterr()
    dataset.main([f"--data={tmp_path}/own/out/data", f"--out={tmp_path}/own/out"])
    assert "train: 1 shards" in capsys.readouterr().out, "the data folder itself is checked"
    bring_in(tmp_path, {}, of="a.txt", out="other")


def test_a_damaged_shard_is_named_by_the_check(tmp_path):
    for number in range(2):
        shards.write(tmp_path / f"data/text/shard_{number}.parquet", ["a", "b"])
    (tmp_path / "data/text/shard_0.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UserError, match="shard_0.parquet is damaged"):
        dataset.main([f"--data={tmp_path}/data", f"--out={tmp_path}"])


@pytest.mark.parametrize("block", [b"The kiln is warm.\n\n", b"clay kiln ", b"\n", b"x"])
def test_memory_does_not_grow_with_the_file(monkeypatch, tmp_path, block):
    """Files that are made while they are read: a text, one line, newlines only, one word."""
    class Endless:
        def __init__(self, block: bytes, count: int):
            self.block, self.left = block, count

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def read(self, _):
            self.left -= 1
            return self.block if self.left >= 0 else b""

    (tmp_path / "a.txt").write_text("x")

    def peak(count: int) -> int:
        monkeypatch.setattr(rows, "_unpacked", lambda _: Endless((block * 70_000)[:70_000], count))
        tracemalloc.start()
        characters = sum(len(document) for document in cut(rows.blocks(tmp_path / "a.txt")))
        assert characters > 0 or block == b"\n"
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    assert peak(25) < 1.3 * peak(5) + 500_000


def test_large_text_is_dealt_to_shards_by_content(monkeypatch, tmp_path):
    for name, value in (("IN_MEMORY", 10_000), ("CHARACTERS_PER_SHARD", 30_000), ("GROUP_CHARACTERS", 5000)):
        monkeypatch.setattr(import_texts, name, value)
    texts = [f"Note {i % 900}. " + "Clay. " * 20 for i in range(1000)]
    contents = {"a.jsonl": "\n".join(json.dumps({"text": text}) for text in texts), "b.txt": "fire " * 9000}
    train, held_out = bring_in(tmp_path, contents)
    files_ = shards.train_shards(tmp_path / "out/data")
    assert len(files_) == 6 and len(train) + len(held_out) > 1000 and not set(train) & set(held_out)
    assert 0.02 < len(held_out) / len(train) < 0.1
    assert all("Note" in text for text in map("".join, (shards.iter_texts([path]) for path in files_)))
    assert max(pq.ParquetFile(path).metadata.row_group(0).num_rows for path in files_) < 60


def test_a_row_group_of_any_size_is_read_in_batches(tmp_path):
    (tmp_path / "own").mkdir()
    table = pa.table({"text": [f"Note {i}. " + "Clay. " * 9 for i in range(5000)], "id": range(5000)})
    pq.write_table(table, tmp_path / "own/a.parquet")
    train, held_out = bring_in(tmp_path, {})
    assert len(train) + len(held_out) == 5000
