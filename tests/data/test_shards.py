import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.data import shards
from nanochat.system.files import UserError


@pytest.fixture
def folder(tmp_path):
    """Three shards; the last holds 2,500 documents, so three row groups."""
    text = tmp_path / "text"
    for number in range(3):
        count = 2500 if number == 2 else 3
        shards.write(text / f"shard_{number:05d}.parquet", (f"{number}: {i} ü" for i in range(count)))
    return tmp_path


def names(paths):
    return [path.name for path in paths]


def test_written_and_read_again_in_order(folder):
    last = folder / "text" / "shard_00002.parquet"
    reader = shards.open_shard(last)
    assert [reader.metadata.row_group(i).num_rows for i in range(reader.num_row_groups)] == [1024, 1024, 452]
    assert list(shards.iter_texts([last])) == [f"2: {i} ü" for i in range(2500)]
    assert len(list((folder / "text").iterdir())) == 3  # nothing temporary is left


def test_without_a_manifest_the_last_shard_is_for_validation(folder):
    assert names(shards.train_shards(folder)) == ["shard_00000.parquet", "shard_00001.parquet"]
    assert names(shards.validation_shards(folder)) == ["shard_00002.parquet"]


def test_a_manifest_pins_the_validation_shard_whatever_comes_later(folder):
    shards.write_manifest(folder / "text", ["shard_00001.parquet"])
    shards.write(folder / "text" / "shard_00009.parquet", ["new"])
    assert names(shards.validation_shards(folder)) == ["shard_00001.parquet"]
    assert names(shards.train_shards(folder)) == [f"shard_{n:05d}.parquet" for n in (0, 2, 9)]


def test_the_data_folder_is_found_by_itself(folder, base_dir, monkeypatch):
    monkeypatch.setenv("NANOCHAT_DATA", str(folder))
    assert len(shards.train_shards()) == 2


def test_what_is_missing_is_named_with_its_cure(folder, tmp_path):
    with pytest.raises(UserError, match="no .*parquet in .*nowhere/text; .*python -m nanochat.dataset"):
        shards.train_shards(tmp_path / "nowhere")
    shards.write(tmp_path / "nested/text/lang=en/part-0.parquet", ["a"])
    with pytest.raises(UserError, match="lang=en/part-0.parquet lies in a folder below"):
        shards.train_shards(tmp_path / "nested")
    shards.write_manifest(folder / "text", ["shard_00007.parquet"])
    with pytest.raises(UserError, match="validation shard shard_00007.parquet is missing .*manifest.json names"):
        shards.validation_shards(folder)
    (folder / "text" / shards.MANIFEST).unlink()
    for number in range(2):
        (folder / "text" / f"shard_{number:05d}.parquet").unlink()
    with pytest.raises(UserError, match="only the validation shard shard_00002.parquet; it needs two") as raised:
        shards.train_shards(folder)
    assert "nanochat.dataset" not in str(raised.value), "a folder of one's own is not mended by another corpus"


@pytest.mark.parametrize("manifest", ['{"valid', "{}", "[]", '{"validation": "shard_00001.parquet"}',
                                      '{"validation": []}', '{"validation": [["x"]]}', "7", ""])
def test_a_damaged_manifest_is_one_line(folder, manifest):
    (folder / "text" / shards.MANIFEST).write_text(manifest)
    for read in (shards.train_shards, shards.validation_shards):
        with pytest.raises(UserError, match="manifest.json"):
            read(folder)


def test_files_of_other_programs_are_passed_over_and_capitals_count(folder):
    text = folder / "text"
    for name in ("._shard_00000.parquet", ".hidden.parquet", "notes.txt", "a.parquet.part"):
        (text / name).write_bytes(b"no shard")
    (text / "shard_00000.parquet").rename(text / "SHARD_00000.PARQUET")
    assert names(shards.train_shards(folder)) == ["SHARD_00000.PARQUET", "shard_00001.parquet"]
    assert names(shards.validation_shards(folder)) == ["shard_00002.parquet"]


def test_a_shard_damaged_anywhere_is_named(folder):
    path = folder / "text" / "shard_00002.parquet"
    whole = path.read_bytes()
    refused = 0
    for damaged in [b"", b"PAR1", whole[:-1], whole[:len(whole) // 2], whole[:100] + bytes(200) + whole[300:],
                    *(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1:] for at in range(4, len(whole), 997))]:
        path.write_bytes(damaged)
        try:
            list(shards.iter_texts([path]))
        except UserError as error:
            assert "shard_00002.parquet" in str(error) and "is damaged" in str(error)
            refused += 1
    assert refused >= 5  # a flipped bit may hit what nobody reads; cuts never go unnoticed


def test_text_that_is_no_utf8_is_damage(folder):
    path = folder / "text" / "x.parquet"
    raw = pa.array([b"fine", b"\xff\xfe"])
    pq.write_table(pa.table({"text": pa.Array.from_buffers(pa.string(), 2, raw.buffers())}), path)
    with pytest.raises(UserError, match="x.parquet, row group 0, is damaged"):
        list(shards.iter_texts([path]))


TEXTS = [f"Document {number} ü " + "word " * 9 for number in range(2100)]


def column(values, kind=None):
    return pa.table({"text": pa.array(values, kind)})


READ = {
    **{codec: (column(TEXTS), {"compression": codec}) for codec in ("none", "snappy", "gzip", "brotli", "lz4", "zstd")},
    **{str(kind): (column(TEXTS, kind), {}) for kind in (pa.large_string(), pa.string_view())},
    **{str(kind): (column([text.encode() for text in TEXTS], kind), {})
       for kind in (pa.binary(), pa.large_binary(), pa.binary_view())},
    "dictionary": (pa.table({"text": pa.array(TEXTS).dictionary_encode()}), {}),
    "nulls and empty documents": (column([text for entry in TEXTS for text in (entry, None, "")]), {}),
    "page index": (column(TEXTS), {"write_page_index": True, "data_page_version": "2.0", "write_page_checksum": True}),
    "another encoding": (column(TEXTS), {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}}),
    "groups of one": (column(TEXTS), {"row_group_size": 1}),
    "groups of 1,500": (column(TEXTS), {"row_group_size": 1500}),
    "other columns": (pa.table({"text.x": ["x"] * 2100, "blob": [bytes(900)] * 2100, "text": TEXTS, "z": TEXTS}), {}),
}


@pytest.mark.parametrize("case", READ)
def test_what_other_writers_make_is_read(tmp_path, case):
    table, options = READ[case]
    pq.write_table(table, tmp_path / "x.parquet", **options)
    assert list(shards.iter_texts([tmp_path / "x.parquet"])) == TEXTS


@pytest.mark.parametrize("table, message", [
    (pa.table({"content": ["a"], "id": [1]}), "content string, id int64; expected one string column `text`"),
    (column([1]), "text int64"), (column([{"text": "a"}]), "text struct"), (column([["a"]]), "text list"),
    (column([None]), "text null"), (pa.table({"row": [{"text": "a"}]}), "row struct"),
    (pa.table([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), "text string, text string"),
    (pa.table({f"c{number}": [1] for number in range(3000)}), "c7 int64 and 2992 more"),
])
def test_a_shard_without_text_says_what_it_has(tmp_path, table, message):
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(UserError, match=f"x.parquet has columns .*{message}") as raised:
        shards.open_shard(tmp_path / "x.parquet")
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("content, message", [
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a Git LFS pointer.*git lfs pull"),
    (b"", "is damaged"), (b"<html>", "is damaged"), ("folder", "is a folder"), ("dead link", "does not exist"),
])
def test_what_is_no_parquet_is_named(tmp_path, content, message):
    path = tmp_path / "text/x.parquet"
    shards.write(tmp_path / "text/y.parquet", ["a"])
    if content == "folder":
        path.mkdir()
    elif content == "dead link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"x.parquet {message}"):
        list(shards.iter_texts(shards.train_shards(tmp_path)))


def slow_slices(path, size):
    """Each row group read whole, then cut."""
    shard = pq.ParquetFile(path)
    for group in range(shard.num_row_groups):
        texts = shard.read_row_group(group).column("text").to_pylist()
        for start in range(0, max(1, len(texts)), size):
            yield [text for text in texts[start:start + size] if text]


@given(st.lists(st.integers(0, 14), max_size=5), st.lists(st.integers(0, 30), max_size=12), st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_slices_in_any_order_are_those_of_the_slow_reader(tmp_path_factory, sizes, order, size):
    path = tmp_path_factory.mktemp("slices") / "x.parquet"
    with pq.ParquetWriter(path, pa.schema([("text", pa.string())])) as writer, pytest.MonkeyPatch.context() as patch:
        for number, rows in enumerate(sizes):
            texts = [None if row % 5 == 4 else f"{number}.{row}" for row in range(rows)]
            writer.write_table(column(texts, pa.string()), row_group_size=20)
        writer.close()
        patch.setattr(shards, "DOCUMENTS_PER_GROUP", size)
        places, expected = shards.places(path), list(slow_slices(path, size))
        assert len(places) == len(expected)
        reader = shards.Reader()
        for index in [*range(len(places)), *(step % max(1, len(places)) for step in order if places)]:
            assert reader.read(*places[index]) == expected[index]


def test_memory_does_not_grow_with_the_row_group(tmp_path):
    """Twenty megabytes in one row group; Arrow holds only a few of them at a time."""
    draw = random.Random(0)
    pq.write_table(column([draw.randbytes(500).hex() for _ in range(20_000)]), tmp_path / "x.parquet",
                   row_group_size=1 << 20)
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for _ in shards.iter_texts([tmp_path / "x.parquet"]))
    assert most < 8e6


def test_a_writer_that_fails_leaves_the_old_shard(folder):
    path = folder / "text" / "shard_00000.parquet"

    def texts():
        yield "new"
        raise ValueError("no more")

    with pytest.raises(ValueError):
        shards.write(path, texts())
    assert list(shards.iter_texts([path])) == ["0: 0 ü", "0: 1 ü", "0: 2 ü"]
    assert sorted(names(path.parent.iterdir())) == [f"shard_{n:05d}.parquet" for n in range(3)]
