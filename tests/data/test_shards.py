import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
    shards.write_manifest(folder / "text", ["shard_00007.parquet"])
    with pytest.raises(UserError, match="validation shard shard_00007.parquet is missing"):
        shards.validation_shards(folder)
    (folder / "text" / shards.MANIFEST).unlink()
    for number in range(2):
        (folder / "text" / f"shard_{number:05d}.parquet").unlink()
    with pytest.raises(UserError, match="only the validation shard shard_00002.parquet; .*dataset -n 2"):
        shards.train_shards(folder)


@pytest.mark.parametrize("manifest", ['{"valid', "{}", "[]", '{"validation": "shard_00001.parquet"}'])
def test_a_damaged_manifest_is_one_line(folder, manifest):
    (folder / "text" / shards.MANIFEST).write_text(manifest)
    with pytest.raises(UserError, match="manifest.json"):
        shards.train_shards(folder)


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


def test_a_shard_without_text_says_what_it_has(folder):
    path = folder / "text" / "x.parquet"
    for table, said in [({"content": ["a"], "id": [1]}, "content string, id int64"), ({"text": [1]}, "text int64")]:
        pq.write_table(pa.table(table), path)
        with pytest.raises(UserError, match=f"x.parquet has columns {said}; expected a string column `text`"):
            shards.open_shard(path)


def test_long_strings_and_missing_documents_are_read(folder):
    """What other writers make: polars' large strings, nulls, empty documents."""
    path = folder / "text" / "x.parquet"
    pq.write_table(pa.table({"id": [1, 2, 3], "text": pa.array(["a", None, ""], pa.large_string())}), path)
    assert list(shards.iter_texts([path])) == ["a"]


def test_a_writer_that_fails_leaves_the_old_shard(folder):
    path = folder / "text" / "shard_00000.parquet"

    def texts():
        yield "new"
        raise ValueError("no more")

    with pytest.raises(ValueError):
        shards.write(path, texts())
    assert list(shards.iter_texts([path])) == ["0: 0 ü", "0: 1 ü", "0: 2 ü"]
    assert sorted(names(path.parent.iterdir())) == [f"shard_{n:05d}.parquet" for n in range(3)]
