import gzip
import json
import os

import pytest

from nanochat.system import files
from nanochat.system.files import UserError


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "deep" / "down" / "note.txt"
    files.write_atomic(path, "first")
    files.write_atomic(path, "zweite ü\n")
    assert path.read_bytes() == "zweite ü\n".encode()
    files.write_atomic(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff" and listing(path.parent) == ["note.txt"]


def test_a_folder_is_replaced_whole(tmp_path):
    for names in (["a", "b"], ["c"]):
        with files.replacing(tmp_path / "folder") as temporary:
            (temporary / "inside").mkdir(parents=True)
            for name in names:
                (temporary / "inside" / name).write_text(name)
    assert listing(tmp_path / "folder" / "inside") == ["c"] and listing(tmp_path) == ["folder"]


@pytest.mark.parametrize("error", [ValueError("ours"), KeyboardInterrupt()])
@pytest.mark.parametrize("folder", [False, True])
def test_a_failing_writer_leaves_the_old_one(tmp_path, error, folder):
    path = tmp_path / "thing"
    for content in ("old", None):
        try:
            with files.replacing(path) as temporary:
                if folder:
                    temporary.mkdir()
                (temporary / "part" if folder else temporary).write_text(content or "half")
                if content is None:
                    raise error
        except type(error):
            pass
    assert (path / "part" if folder else path).read_text() == "old"
    assert listing(tmp_path) == ["thing"]


def test_a_rename_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()

    def refuse(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(UserError, match="Input/output error"), files.replacing(path) as temporary:
        temporary.mkdir()
    assert listing(path) == ["old"]


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write .*file/inside: .*--out"):
        files.write_atomic(tmp_path / "file" / "inside", "text")


def test_a_full_disk_leaves_the_old_file_and_says_so(mount_disk):
    small_disk = mount_disk("64k")
    path = small_disk / "numbers.json"
    files.write_json(path, [1, 2, 3])
    with pytest.raises(UserError, match=f"cannot write {path}: No space left on device; free space or choose another"):
        files.write_json(path, list(range(100_000)))
    assert files.read_json(path) == [1, 2, 3] and listing(small_disk) == ["numbers.json"]


def test_json_there_and_back_and_damaged(tmp_path):
    path = tmp_path / "x.json"
    files.write_json(path, {"ä": [1, 2.5, None]})
    assert files.read_json(path) == {"ä": [1, 2.5, None]} and "ä" in path.read_text(encoding="utf-8")
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"x.json is damaged \(not JSON: .*remove it and run"):
        files.read_json(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="damaged"):
        files.read_json(path)
    with pytest.raises(UserError, match="other.json does not exist"):
        files.read_json(tmp_path / "other.json")


ROWS = [{"n": n, "text": "line\u2028ü"} for n in range(50)]  # U+2028 ends a line for str.splitlines, not in a file


def test_jsonl_plain_zipped_and_blank_lines(tmp_path):
    plain = tmp_path / "x.jsonl"
    files.write_jsonl(plain, ROWS)
    assert files.read_jsonl(plain) == ROWS
    with gzip.open(tmp_path / "y.jsonl.gz", "wb") as zipped:
        zipped.write(plain.read_bytes().replace(b"\n", b"\n\n"))
    assert files.read_jsonl(tmp_path / "y.jsonl") == files.read_jsonl(tmp_path / "y.jsonl.gz") == ROWS
    with pytest.raises(UserError, match=r"z.jsonl does not exist"):
        files.read_jsonl(tmp_path / "z.jsonl")


def test_a_bad_line_is_named_with_its_number(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"n": 0}\n\n{"n": 1\n{"n": 2}\n')
    with pytest.raises(UserError, match="x.jsonl is damaged: line 3 is not JSON"):
        files.read_jsonl(path)


def test_any_damage_to_a_zipped_file_is_one_line(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS).encode()))
    whole = path.read_bytes()
    for damaged in (whole[:-5], whole[:len(whole) // 2], b"PK" + whole[2:], b"",
                    *(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1:] for at in range(10, len(whole), 3))):
        path.write_bytes(damaged)
        try:
            assert files.read_jsonl(path) == ([] if not damaged else ROWS)
        except UserError as error:
            assert "x.jsonl.gz is damaged" in str(error) and "\n" not in str(error)


def test_a_folder_in_place_of_a_file(tmp_path):
    for read in (files.read_json, files.read_jsonl):
        with pytest.raises(UserError):
            read(tmp_path)
