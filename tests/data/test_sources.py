"""Fetching from a hub (a small one, served here), importing plain text, and the command around both."""
import gzip
import hashlib
import http.server
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tasks
from nanochat import dataset
from nanochat.data import shards, sources
from nanochat.system import files
from nanochat.system.files import UserError

REPO = "toy/stories"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.ThreadingHTTPServer):
    """The two routes of the hub that a download uses. `cut` shards break off halfway once, `corrupt` ones lie."""

    def __init__(self, contents: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents, self.ranges, self.gets = contents, [], []
        self.cut: set[str] = set()
        self.corrupt: set[str] = set()
        self.missing: set[str] = set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._file(with_body=False)

    def do_GET(self):
        if not self.path.startswith("/api/"):
            return self._file(with_body=True)
        if not self.path.startswith(f"/api/datasets/{REPO}"):
            return self.send_error(404)
        files = [{"rfilename": name, "size": len(data), "blobId": "0" * 40,
                  "lfs": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 1}}
                 for name, data in {**self.server.contents, "README.md": b"x"}.items()]
        body = json.dumps({"_id": "1", "id": REPO, "sha": COMMIT, "private": False, "gated": False, "disabled": False,
                           "downloads": 0, "likes": 0, "tags": [], "siblings": files}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _file(self, with_body: bool):
        folder = f"/datasets/{REPO}/resolve/{COMMIT}/"
        assert self.path.startswith(folder)
        name = self.path.removeprefix(folder)
        if name in self.server.missing:
            return self.send_error(404)
        data = self.server.contents[name]
        start = 0
        if with_body:
            self.server.gets.append(name)
            if asked := self.headers.get("Range"):
                self.server.ranges.append((name, asked))
                start = int(asked.removeprefix("bytes=").split("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if with_body:
            self._body(name, data[start:])

    def _body(self, name: str, data: bytes):
        if name in self.server.corrupt:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if name in self.server.cut:
            self.server.cut.remove(name)
            data = data[:len(data) // 2]
            self.close_connection = True
        self.wfile.write(data)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    for number in range(4):
        texts = [f"Story {number}.{index} of a hub." for index in range(50)]
        if number == 0:  # a large one: more than the megabyte that is written at a time, even after packing and halving
            texts.append(random.Random(0).randbytes(3_000_000).hex())
        shards.write(tmp_path / f"made/shard_{number:05d}.parquet", texts)
    server = Hub({path.name: path.read_bytes() for path in sorted((tmp_path / "made").iterdir())})
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setattr(sources, "PAUSE_SECONDS", 0.01)
    monkeypatch.setitem(sources.HUB, "toy", sources.HubSource(REPO, "a toy"))
    yield server
    server.shutdown()
    server.server_close()


def fetch(count, folder):
    sources.fetch(sources.HUB["toy"], count, folder / "text")


def test_a_fetch_takes_the_first_shards_and_pins_the_last_for_validation(hub, tmp_path):
    fetch(2, tmp_path)
    assert [path.name for path in shards.train_shards(tmp_path)] == ["shard_00000.parquet", "shard_00001.parquet"]
    assert [path.name for path in shards.validation_shards(tmp_path)] == ["shard_00003.parquet"]
    assert next(shards.iter_texts(shards.validation_shards(tmp_path))) == "Story 3.0 of a hub."
    manifest = json.loads((tmp_path / "text/manifest.json").read_text())
    assert manifest["revision"] == COMMIT and manifest["origin"] == REPO
    assert not (tmp_path / "text/.fetching").exists()


def test_a_second_fetch_takes_only_what_is_missing(hub, tmp_path):
    fetch(1, tmp_path)
    hub.gets.clear()
    fetch(-1, tmp_path)
    assert sorted(hub.gets) == ["shard_00001.parquet", "shard_00002.parquet"]
    assert len(shards.train_shards(tmp_path)) == 3


def test_a_broken_connection_goes_on_where_it_stopped(hub, tmp_path):
    hub.cut = {"shard_00000.parquet"}
    fetch(1, tmp_path)
    kept = len(hub.contents["shard_00000.parquet"]) // 2 // 2**20 * 2**20
    assert kept > 0 and ("shard_00000.parquet", f"bytes={kept}-") in hub.ranges, "whole megabytes are kept"
    assert (tmp_path / "text/shard_00000.parquet").read_bytes() == hub.contents["shard_00000.parquet"]


def test_a_killed_fetch_goes_on_where_it_stopped(hub, tmp_path):
    half = hub.contents["shard_00000.parquet"][:1_500_000]
    (tmp_path / "text/.fetching").mkdir(parents=True)
    (tmp_path / "text/.fetching/shard_00000.parquet").write_bytes(half)
    fetch(1, tmp_path)
    assert ("shard_00000.parquet", "bytes=1500000-") in hub.ranges
    assert (tmp_path / "text/shard_00000.parquet").read_bytes() == hub.contents["shard_00000.parquet"]


def test_a_corrupt_shard_is_refused_and_the_others_are_kept(hub, tmp_path):
    hub.corrupt = {"shard_00001.parquet"}
    with pytest.raises(UserError, match="1 of 4 shards failed: shard_00001.parquet.*SHA-256"):
        fetch(-1, tmp_path)
    assert not (tmp_path / "text/shard_00001.parquet").exists()
    hub.corrupt = set()
    hub.gets.clear()
    fetch(-1, tmp_path)
    assert hub.gets == ["shard_00001.parquet"]


def disk_usage(free):
    return lambda path: types.SimpleNamespace(total=free, used=0, free=free)


def test_a_disk_without_room_is_said_before_the_first_byte(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(sources.shutil, "disk_usage", disk_usage(10**6))
    with pytest.raises(UserError, match=r"has 0.0 GB free; the shards need 0.0 GB: take fewer .-n. or another folder"):
        fetch(-1, tmp_path)
    assert not hub.gets


def test_a_disk_that_fills_up_holds_no_half_shard_and_goes_on_when_there_is_room(hub, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or not shutil.which("mount") or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    monkeypatch.setattr(sources.shutil, "disk_usage", disk_usage(10**12))  # somebody else fills it while we fetch
    try:
        with pytest.raises(UserError, match="No space left on device") as raised:
            fetch(-1, disk)
        assert "\n" not in str(raised.value) and not (disk / "text/shard_00000.parquet").exists()
        for path in (disk / "text").glob("*.parquet"):
            assert path.read_bytes() == hub.contents[path.name]
        subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
        hub.ranges.clear()
        fetch(-1, disk)
        asked = [where for name, where in hub.ranges if name == "shard_00000.parquet"]
        assert asked and "bytes=0-" not in asked, "what was there of the large one is not fetched again"
        for name, content in hub.contents.items():
            assert (disk / "text" / name).read_bytes() == content
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_missing_file_ends_in_one_line_and_exit_code_one(hub, tmp_path, monkeypatch, capsys):
    from nanochat.system import cli
    hub.missing = {"shard_00003.parquet"}
    monkeypatch.setitem(sources.HUB, "fineweb-edu", sources.HUB["toy"])
    with pytest.raises(SystemExit) as exit_:
        cli.run(lambda: dataset.main(["-n", "1", "--source", "fineweb-edu", "--out", str(tmp_path)]))
    assert exit_.value.code == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and "shard_00003.parquet" in errors[0]


def test_an_unknown_data_set_and_an_unreachable_hub_are_said(hub, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot list no/such"):
        sources.fetch(sources.HubSource("no/such", ""), 1, tmp_path / "text")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="http://127.0.0.1:9.*--source=kindergarten"):
        fetch(1, tmp_path)


def test_text_of_two_origins_is_never_mixed(hub, tmp_path):
    fetch(1, tmp_path)
    (tmp_path / "a.txt").write_text("one\n\n" * 2000)
    with pytest.raises(UserError, match="holds text from toy/stories, not plain files"):
        sources.import_texts([tmp_path / "a.txt"], tmp_path / "text")
    with pytest.raises(UserError, match="holds text from another place"):
        sources.claim(tmp_path / "made", "kindergarten")


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


def test_without_a_gpu_the_default_is_the_kindergarten(tmp_path, monkeypatch, capsys):
    def write(data_dir, seed, scale):
        for number in range(2):
            shards.write(data_dir / f"text/shard_{number:05d}.parquet", [f"Ann has {seed} cats."])
        shards.write_manifest(data_dir / "text", ["shard_00001.parquet"])

    monkeypatch.setitem(sys.modules, "kindergarten.write", types.SimpleNamespace(write_all=write))
    monkeypatch.setattr("kindergarten.write", types.SimpleNamespace(write_all=write), raising=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for _ in range(2):  # a second time replaces the first
        dataset.main(["-n", "8", "--seed=7", "--out", str(tmp_path)])
    assert "kindergarten with seed 7" in capsys.readouterr().out
    assert list(shards.iter_texts(shards.train_shards(tmp_path / "data"))) == ["Ann has 7 cats."]


def test_lessons_become_the_files_that_tasks_and_mixtures_read(hub, tmp_path, monkeypatch, capsys):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
    question = {"question": "Is it?", "choices": ["yes", "no"], "answer": 1, "subject": "logic"}
    tables = {"data/train-0.parquet": [{"messages": messages, "source": "x"}], "data/train-1.parquet":
              [{"messages": messages, "source": "y"}], "aux/train-0.parquet": [{"train": question}],
              "easy/train-0.parquet": [{"id": "7", "question": "Is it?", "answerKey": "2",
                                        "choices": {"text": ["yes", "no"], "label": ["1", "2"]}}]}
    for name, rows in tables.items():
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "one.parquet")
        hub.contents[name] = (tmp_path / "one.parquet").read_bytes()
    monkeypatch.setitem(sources.HUB, "talk", sources.HubSource(REPO, "toy talk", {
        "data/train-": "chat/talk.jsonl", "aux/": "mmlu/auxiliary_train.jsonl",
        "easy/": "arc/ARC-Easy-train.jsonl"}))
    hub.cut.add("data/train-0.parquet")
    dataset.main(["--source=talk", f"--out={tmp_path}"])
    assert files.read_jsonl(tmp_path / "data/chat/talk.jsonl") == [{"messages": messages}] * 2
    assert tasks.find("mmlu").load("train", tmp_path / "data") == [question]
    assert tasks.find("arc_easy").load("train", tmp_path / "data") == [
        {"question": "Is it?", "choices": ["yes", "no"], "answer": 1}]
    assert "chat/talk.jsonl: 2 rows" in capsys.readouterr().out and not list(tmp_path.rglob("*--*"))
    gets = len(hub.gets)
    dataset.main(["--source=talk", f"--out={tmp_path}"])
    assert len(hub.gets) == gets, "what is there stays"
    monkeypatch.setitem(sources.HUB, "talk", sources.HubSource(REPO, "", {"other/": "chat/other.jsonl"}))
    with pytest.raises(UserError, match="no parquet files other/"):
        dataset.main(["--source=talk", f"--out={tmp_path}"])
