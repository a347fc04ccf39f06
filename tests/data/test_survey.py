"""What is taken of somebody's folder, by kind of file: tables of bytes and names → taken, or the reason why not."""
import codecs
import gzip
import json
import os
import re
import shutil
import socket
from fnmatch import fnmatch
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tasks
from nanochat.data import survey
from nanochat.data.survey import EXAMS
from nanochat.system import files
from nanochat.system.files import UserError

TEXT = "The kiln is warm.\nCafé bowls.\n"
USER, ANSWER = {"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "Mara."}
TALK = json.dumps([USER, ANSWER])
GIT_LFS = b"version https://git-lfs.github.com/spec/v1"
ROW = json.dumps({"text": "Clay."}).encode()


def zst(data: bytes) -> bytes:
    return pa.compress(data, "zstd", asbytes=True)


def parquet(**columns) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


def test_what_has_changed_since_an_import_is_named(tmp_path):
    before = look(tmp_path, {"a.txt": b"clay", "b.txt": b"fire", "c.jsonl": TALK.encode(), "d.txt": b"kiln"}).as_dict()
    (tmp_path / "own/d.txt").rename(tmp_path / "own/e.txt")
    found = look(tmp_path, {"b.txt": b"wood", "c.jsonl": TALK.replace("Mara", "Ada").encode()})
    assert found.changes_since(before) == "b.txt has changed, c.jsonl has changed, d.txt is gone, e.txt is new"
    assert not found.changes_since(found.as_dict()) and not found.changes_since({}), "nothing was imported before"
    (tmp_path / "own/b.txt").touch()
    assert not look(tmp_path, {}).changes_since(found.as_dict()), "a date is no change"


@pytest.mark.parametrize("name, content, characters", [
    ("a.txt", TEXT.encode(), 30), ("A.TXT", TEXT.encode(), 30), ("b.Md", b"# Clay\n", 7),
    ("deep/er/c.text", b"clay", 4),
    ("bom.txt", codecs.BOM_UTF8 + b"clay", 4), ("joined.txt", b"clay\n\xef\xbb\xbffire", 9),
    ("crlf.txt", b"a\r\nb\rc\n", 6),
    ("a.txt.gz", gzip.compress(TEXT.encode()), 30), ("a.md.ZST", zst(TEXT.encode()), 30),
    ("two.txt.gz", gzip.compress(b"clay") + gzip.compress(b"fire"), 8),
    ("a.jsonl", ROW + b"\n\n" + ROW, 10), ("a.ndjson", ROW, 5), ("bom.jsonl", codecs.BOM_UTF8 + ROW, 5),
    ("a.json", b"[" + ROW + b",\n" + ROW + b"]", 10), ("pretty.json", b'{\n "text":\n "Clay."\n}', 5),
    ("strings.json", b'["Clay.", "Fire."]', 10),
    ("content.jsonl.gz", gzip.compress(b'{"content": "Clay.", "id": 1}'), 5),
    ("separator.jsonl", '{"text": "a\u2028b"}'.encode(), 3),
    ("mail.jsonl", b'{"from": "bob", "to": "ann", "text": "Hi"}', 2),
    ("a.parquet", parquet(text=["Clay.", None, ""]), 5),
    ("large.parquet", parquet(text=pa.array(["Clay."], pa.large_string())), 5),
    ("view.parquet", parquet(text=pa.array(["Clay."], pa.string_view())), 5),
    ("dictionary.parquet", parquet(text=pa.array(["Clay."] * 3).dictionary_encode()), 15),
    ("bytes.parquet", parquet(text=[b"Clay."]), 5), ("other.PARQUET", parquet(id=[1], story=["Clay."]), 5),
])
def test_text_is_taken(tmp_path, name, content, characters):
    found = look(tmp_path, {name: content})
    assert [item.characters for item in found.texts] == [characters] and not found.left_out
    assert not found.conversations and not found.exams


@pytest.mark.parametrize("name, content, reason", [
    ("a.txt", "one\ncafé".encode("cp1252"), "line 2: not UTF-8 .*save it as UTF-8"),
    ("far.txt", b"clay\n" * 400_000 + b"\xff", "line 400001: not UTF-8"),
    ("cut.txt", "é".encode()[:1], "not UTF-8"),
    ("a.jsonl", ROW + b'\n{"text": "caf\xe9"}', "line 2: not UTF-8"),
    ("a.txt", TEXT.encode("utf-16"), "line 1: .*UTF-16"),
    ("a.md", TEXT.encode("utf-32"), "UTF-32"), ("bare.txt", TEXT.encode("utf-16-le"), "NUL"),
    ("photo.txt", b"\x89PNG\r\n\0", "."),
    ("noise.txt", bytes(range(256)) * 9, "NUL|UTF-8"),
    ("half.txt.gz", gzip.compress(TEXT.encode() * 99)[:-20], "cannot be read"),
    ("not.txt.gz", b"clay", "cannot be read"),
    ("half.txt.zst", zst(TEXT.encode() * 99)[:-9], "cannot be read"),
    ("a.txt", b"", "empty"), ("blank.txt", b" \n\r\n", "empty"), ("a.jsonl", b"\n", "empty"),
    ("a.json", b"[]", "empty"),
    ("lfs.parquet", GIT_LFS + b"\noid sha256:1\nsize 9\n", "git lfs pull"),
    ("lfs.jsonl.gz", GIT_LFS + b"\noid", "git lfs pull"), ("a.parquet", b"PAR1 no", "damaged"),
    ("n.parquet", parquet(n=[1]), "columns n; expected a column `text`"),
    ("two.parquet", parquet(a=["x"], b=["y"]), "columns a, b"),
    ("package.json", b'{"name": "x"}', "fields name; expected a document"),
    ("cut.json", b"[" + ROW, "not closed"),
    ("more.json", b"[" + ROW + b"] and so on", "text after its array"),
    ("bad.json", b"[" + ROW + b", {'text': 1}]", "element 2 that is not JSON"),
    ("deep.json", b"[" * 100_000, "not JSON"),
    ("half.jsonl", b'{"text": "\\ud83d"}', "no row that can be read: line 1"),
    ("a.pdf", b"%PDF", r"\.pdf: this kind is not read"),
    ("Makefile", b"all:", "without a suffix"),
    ("a.tar.gz", b"", r"\.tar\.gz"),
    ("a.parquet.gz", b"", r"\.parquet\.gz: this kind"),
])
def test_what_cannot_be_read_is_left_out_with_the_reason(tmp_path, name, content, reason):
    found = look(tmp_path, {name: content, "good.txt": b"clay"})
    assert [item.name for item in found.texts] == ["good.txt"] and not found.conversations
    assert len(found.left_out) == 1 and "\n" not in found.left_out[0].reason
    assert re.search(reason, found.left_out[0].reason)


@pytest.mark.parametrize("name", [".git/a.txt", ".venv/b.md", "node_modules/c/README.md", "x/__pycache__/d.txt",
                                  "._a.txt", "__MACOSX/a.txt", "notes.txt~", "#notes.txt#", "~$letter.txt",
                                  "lost+found/a.txt"])
def test_names_of_programs_are_passed_over(tmp_path, name):
    found = look(tmp_path, {name: b"secret", "good.txt": b"clay"})
    assert [item.name for item in found.texts] == ["good.txt"]
    assert found.left_out[0].reason.startswith("skipped: ")


@pytest.mark.parametrize("made", ["pyvenv.cfg", "data/imported.json", "stages/x.done data/text/a"])
def test_environments_and_other_runs_are_passed_over(tmp_path, made):
    program = {f"sub/{name}": b"x" for name in made.split()}
    found = look(tmp_path, {"good.txt": b"clay", "sub/deep/a.txt": b"no", **program})
    assert [item.name for item in found.texts] == ["good.txt"]
    with pytest.raises(UserError, match="out folder of a run"):
        survey.survey(tmp_path / "own/sub")


def test_the_out_folder_is_no_part_of_the_data_wherever_it_lies(tmp_path):
    out = tmp_path / "own/x/../results"
    found = look(tmp_path, {"good.txt": b"clay", "results/x/b.txt": b"no"}, skipped_folders=(out,))
    assert [item.name for item in found.texts] == ["good.txt"]


def test_links_pipes_and_folders_with_names_of_files_are_named_and_nothing_hangs(tmp_path, monkeypatch):
    own = tmp_path / "own"
    (own / "old.txt").mkdir(parents=True)
    (own / "old.txt/inner.txt").write_text("fire")
    (own / "a.txt").write_text("clay")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/far.txt").write_text("far")
    (own / "linked").symlink_to(tmp_path / "elsewhere")
    (own / "gone.md").symlink_to("nowhere")
    (own / "round").symlink_to(".")
    (own / "self.txt").symlink_to("self.txt")
    os.link(own / "a.txt", own / "z.txt")
    os.mkfifo(own / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(own)  # a socket's path must be short
        listener.bind("socket.txt")
    found = survey.survey(own)
    assert [item.name for item in found.texts] == ["a.txt", "linked/far.txt", "old.txt/inner.txt"]
    assert {item.name: item.reason for item in found.left_out} == {
        "gone.md": "is a link to nothing", "round": "is the same as .", "z.txt": "is the same as a.txt",
        "self.txt": "is a link to nothing", "pipe.txt": "is a pipe, a socket or a device",
        "socket.txt": "is a pipe, a socket or a device"}


def test_a_file_that_may_not_be_read_is_named(tmp_path):
    if not os.geteuid():
        pytest.skip("root may read everything")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/a.txt").write_text("clay")
    (tmp_path / "own/a.txt").chmod(0)
    assert "Permission denied" in survey.survey(tmp_path / "own").left_out[0].reason


def test_odd_names_are_shown_in_one_line(tmp_path):
    (tmp_path / "own").mkdir()
    for name in (b"caf\xe9.txt", b"two\nlines.txt", "ünï, * 1.txt".encode()):
        Path(os.fsdecode(bytes(tmp_path / "own") + b"/" + name)).write_bytes(b"\xff")
    found = survey.survey(tmp_path / "own", cache=tmp_path / "cache.json")
    assert len(found.left_out) == 3 and len(found.table().splitlines()) == 4
    found.table().encode()
    json.dumps(found.as_dict()).encode()


def test_bad_rows_are_counted_and_the_first_is_named(tmp_path):
    lines = [TALK] * 9 + ['{"messages": [', json.dumps([USER])]
    found = look(tmp_path, {"mara.jsonl": "\n".join(lines).encode(), "t.jsonl": ROW + b'\n{"story": "x"}'})
    assert (found.conversations[0].rows, found.conversations[0].bad_rows) == (9, 2)
    assert found.conversations[0].first_bad.startswith("line 10: not JSON")
    assert found.texts[0].first_bad.startswith("line 2: has the fields story")
    assert "mara.jsonl: 2 of 11 rows" in found.table() and "3 single rows" in found.table()


def test_the_layout_of_a_data_folder_is_read_as_such(tmp_path):
    shard = parquet(text=["a", "b"])
    found = look(tmp_path, {
        "text/s0.parquet": shard, "text/more.txt": b"clay", "text/manifest.json": b'{"validation": ["s0.parquet"]}',
        "chat/mara.jsonl": TALK.encode(), "chat/README.md": b"no", "README.md": b"no", "squad/x.jsonl": ROW,
        "gsm8k/test.jsonl": b"{}", "core_tasks.yaml": b"x", "core/a/b.jsonl.gz": b"x"})
    assert [item.name for item in found.texts] == ["text/more.txt", "text/s0.parquet"]
    assert [item.name for item in found.conversations] == ["chat/mara.jsonl"]
    assert [item.name for item in found.exams] == ["core/a/b.jsonl.gz", "core_tasks.yaml", "gsm8k/test.jsonl"]
    assert [(item.count, item.name) for item in found.left_out] == [(1, "chat/README.md"), (2, "2 files")]


def test_a_folder_called_core_is_an_exam_only_beside_its_list(tmp_path):
    assert [item.name for item in look(tmp_path, {"core/notes.jsonl": ROW}).texts] == ["core/notes.jsonl"]


def test_every_file_of_every_task_is_taken_as_an_exam():
    for task in map(tasks.find, tasks.names()):
        for name in task.splits.values() if task.name not in ("strangers", "strangers_held") else ():  # beside the code
            assert any(fnmatch(name, pattern) and fnmatch(f"{name}.gz", pattern) for pattern in EXAMS), name


def test_the_fingerprint_follows_contents_not_dates_or_places(tmp_path):
    found = look(tmp_path, {"a.txt": b"clay", "b.jsonl": TALK.encode(), "c.pdf": b"x"})
    before, own = found.fingerprint, tmp_path / "own"
    os.utime(own / "a.txt", (1, 1))
    (own / "c.pdf").write_bytes(b"y")
    (own / ".hidden.txt").write_text("x")
    shutil.copytree(own, tmp_path / "copy")
    assert survey.survey(own).fingerprint == survey.survey(tmp_path / "copy").fingerprint == before
    changes = [lambda: (own / "a.txt").write_text("clax"), lambda: (own / "d.txt").write_text("new"),
               lambda: (own / "d.txt").rename(own / "e.txt"), lambda: (own / "b.jsonl").unlink()]
    seen = {before}
    for change in changes:
        change()
        seen.add(survey.survey(own).fingerprint)
    assert len(seen) == len(changes) + 1


def test_files_that_did_not_change_are_not_read_again(tmp_path, monkeypatch):
    cache, own = tmp_path / "out/survey.json", tmp_path / "own"
    look(tmp_path, {"a.txt": b"clay", "b.jsonl": TALK.encode(), "bad.txt": b"\xff"})
    first = survey.survey(own, cache=cache)
    read, examine = [], survey._examine
    monkeypatch.setattr(survey, "_examine", lambda path, *rest: read.append(path.name) or examine(path, *rest))
    again = survey.survey(own, cache=cache)
    assert again == first and again.fingerprint == first.fingerprint and read == ["bad.txt"]
    (own / "a.txt").write_text("fire")
    read.clear()
    assert survey.survey(own, cache=cache).fingerprint != first.fingerprint and "a.txt" in read
    for damaged in ("{", "[]", '{"code": []}'):
        files.write_atomic(cache, damaged)
        assert len(survey.survey(own, cache=cache).texts) == 1


def test_a_single_file_and_what_is_not_there(tmp_path):
    found = look(tmp_path, {"a.txt": b"clay", "b.txt": b"fire"}, of="a.txt")
    assert [item.name for item in found.texts] == ["a.txt"]
    with pytest.raises(UserError, match="does not exist"):
        survey.survey(tmp_path / "nowhere")


def look(tmp_path: Path, contents: dict[str, bytes], of: str = "", **settings) -> survey.Survey:
    for name, content in contents.items():
        files.write_atomic(tmp_path / "own" / name, content)
    return survey.survey(tmp_path / "own" / of, **settings)


