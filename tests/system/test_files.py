import errno
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

    def write(temporary, content):
        if folder:
            temporary.mkdir()
        (temporary / "part" if folder else temporary).write_text(content)

    with files.replacing(path) as temporary:
        write(temporary, "old")
    with pytest.raises(type(error)), files.replacing(path) as temporary:
        write(temporary, "half")
        raise error
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
    with pytest.raises(UserError, match="cannot write .*file/inside: .*NANOCHAT_BASE_DIR"):
        files.write_atomic(tmp_path / "file" / "inside", "text")


def test_a_full_disk_leaves_the_old_file_and_says_so(mount_disk):
    small_disk = mount_disk("64k")
    path = small_disk / "numbers.json"
    files.write_json(path, [1, 2, 3])
    with pytest.raises(UserError, match=f"cannot write {path}: No space left on device; free space"):
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


def failing(number, folders_only=False):
    """An `os.fsync` that fails with this number."""
    def fsync(descriptor):
        if not folders_only or os.path.isdir(f"/proc/self/fd/{descriptor}"):
            raise OSError(number, os.strerror(number))

    return fsync


@pytest.mark.parametrize("folders_only", [True, False])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.ENOSYS, errno.EBADF])
def test_a_file_system_without_fsync_is_written_to(tmp_path, monkeypatch, number, folders_only):
    monkeypatch.setattr(os, "fsync", failing(number, folders_only))
    files.write_json(tmp_path / "x.json", [1])
    with files.replacing(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "file").touch()
    assert files.read_json(tmp_path / "x.json") == [1] and listing(tmp_path) == ["folder", "x.json"]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fails_is_not_taken_for_one_that_cannot_flush(tmp_path, monkeypatch, number):
    files.write_json(tmp_path / "x.json", [1])
    monkeypatch.setattr(os, "fsync", failing(number))
    with pytest.raises(UserError, match="cannot write"):
        files.write_json(tmp_path / "x.json", [2])
    assert files.read_json(tmp_path / "x.json") == [1]


def test_a_folder_that_cannot_be_renamed_is_copied(tmp_path, monkeypatch):
    """As those of a container's image in an overlay file system."""
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()
    rename = os.rename

    def across(source, target):
        if source == path:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        rename(source, target)

    monkeypatch.setattr(os, "rename", across)
    with files.replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert listing(path) == ["new"] and listing(tmp_path) == ["folder"]


@pytest.mark.parametrize("missing", [[], ["link"], ["link", "symlink"]])
def test_a_file_is_linked_or_copied(tmp_path, monkeypatch, missing):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    for name in missing:
        monkeypatch.setattr(os, name, refuse)
    source, target = tmp_path / "a b\nü.parquet", tmp_path / "deep/target.parquet"
    source.write_bytes(b"rows")
    for _ in range(2):  # the second time it replaces what is there
        files.link_or_copy(source, target)
        assert target.read_bytes() == b"rows" and listing(target.parent) == ["target.parquet"]
    assert target.is_symlink() == (missing == ["link"])
    assert target.samefile(source) == (len(missing) < 2)


def test_a_file_that_is_missing_is_not_linked(tmp_path):
    with pytest.raises(UserError, match="cannot write"):
        files.link_or_copy(tmp_path / "gone", tmp_path / "target")
    assert listing(tmp_path) == []


def test_names_that_are_not_utf_8_are_written_and_read_back(tmp_path):
    name = os.fsdecode(b"caf\xe9.txt")
    files.write_json(tmp_path / "x.json", {"file": name})
    files.write_jsonl(tmp_path / "x.jsonl", [{"file": name}])
    assert files.read_json(tmp_path / "x.json")["file"] == files.read_jsonl(tmp_path / "x.jsonl")[0]["file"] == name
    files.write_atomic(tmp_path / name, "text")
    assert (tmp_path / name).read_text(encoding="utf-8") == "text"


def test_a_name_of_the_longest_kind(tmp_path):
    files.write_atomic(tmp_path / ("x" * 255), "text")
    assert listing(tmp_path) == ["x" * 255]
