"""Fetching from a hub: which shards, what stays, disks, locks, lessons."""
import fcntl
import json
import os
import subprocess
import threading
import types
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tasks
from nanochat import dataset
from nanochat.data import hub as hub_module
from nanochat.data import shards
from nanochat.system import cli, files
from nanochat.system.files import UserError
from tests.data.toy_hub import COMMIT, FIRST, LAST, REPO, SECOND, THIRD, fetch, is_whole


def test_a_fetch_takes_the_first_shards_and_pins_the_last_for_validation(hub, tmp_path):
    fetch(2, tmp_path)
    assert is_whole(hub, tmp_path, FIRST, SECOND, LAST)
    assert [path.name for path in shards.validation_shards(tmp_path)] == [LAST]
    assert next(shards.iter_texts(shards.validation_shards(tmp_path))) == "Story 3.0 of a hub."
    manifest = json.loads((tmp_path / "text/manifest.json").read_text())
    assert manifest["revision"] == COMMIT and manifest["origin"] == REPO


def test_the_shards_of_a_source_may_lie_in_a_folder(hub, tmp_path, monkeypatch):
    """As TinyStories has them: data/train-…, then data/validation-…; other folders are passed over."""
    names = dict(zip((FIRST, SECOND, THIRD, LAST), ("train-0", "train-1", "train-2", "validation-0")))
    content = {f"data/{name}.parquet": hub.contents[shard] for shard, name in names.items()}
    hub.contents = {**content, "other/train-0.parquet": b"x", "data/.train-9.parquet": b"x", "root.parquet": b"x"}
    source = hub_module.HUB["tinystories"]
    assert "CDLA-Sharing-1.0" in source.note
    monkeypatch.setitem(hub_module.HUB, "tinystories", replace(source, repo=REPO))
    for _ in range(2):
        dataset.main(["--source=tinystories", "-n", "2", "--out", str(tmp_path)])
    assert [path.name for path in shards.validation_shards(tmp_path / "data")] == ["data--validation-0.parquet"]
    assert [path.name for path in shards.train_shards(tmp_path / "data")] == [
        "data--train-0.parquet", "data--train-1.parquet"]
    assert next(shards.iter_texts(shards.validation_shards(tmp_path / "data"))) == "Story 3.0 of a hub."
    assert len([name for name in hub.gets if name.endswith(".parquet")]) == 3, "the second fetch finds all"


def test_a_second_fetch_takes_only_what_is_missing_and_asks_for_no_listing(hub, tmp_path, capsys):
    fetch(1, tmp_path)
    hub.gets.clear()
    fetch(-1, tmp_path)
    assert sorted(hub.gets) == [SECOND, THIRD]
    fetch(1, tmp_path)
    assert "2 more training shards" in capsys.readouterr().out and is_whole(hub, tmp_path, FIRST, SECOND, THIRD, LAST)
    (tmp_path / "text" / SECOND).write_bytes(b"half")
    hub.gets.clear()
    fetch(2, tmp_path)
    assert hub.gets == [SECOND]


@pytest.mark.parametrize("listing", ["kept", "of an older version", "damaged"])
def test_a_complete_folder_needs_no_network(hub, tmp_path, monkeypatch, listing):
    fetch(2, tmp_path)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    if listing == "of an older version":
        (tmp_path / "text/.listing.json").unlink()
    if listing == "damaged":
        (tmp_path / "text/.listing.json").write_text('{"repo": "toy/stories"')
        with pytest.raises(UserError, match="cannot list toy/stories"):
            fetch(2, tmp_path)
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
    fetch(2, tmp_path)
    fetch(1, tmp_path)
    assert is_whole(hub, tmp_path, FIRST, SECOND, LAST)


def test_more_shards_than_there_are_is_said(hub, tmp_path, capsys):
    fetch(500, tmp_path)
    assert "3 training shards, fewer than the 500" in capsys.readouterr().out
    assert is_whole(hub, tmp_path, FIRST, SECOND, THIRD, LAST)
    with pytest.raises(UserError, match="-1 for all"):
        fetch(0, tmp_path)


def test_a_listing_is_remembered_by_an_interrupted_fetch(hub, tmp_path):
    hub.answers[FIRST] = [(404, {})]
    with pytest.raises(UserError):
        fetch(1, tmp_path)
    hub.answers["listing"] = [(500, {})] * 99
    fetch(1, tmp_path)
    assert hub.gets.count("listing") == 1 and is_whole(hub, tmp_path, FIRST, LAST)


def test_two_processes_fetch_one_after_the_other(hub, tmp_path, capsys):
    (tmp_path / "text").mkdir()
    lock = os.open(tmp_path / "text", os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    second = threading.Thread(target=fetch, args=(1, tmp_path), daemon=True)
    second.start()
    second.join(0.3)
    assert second.is_alive() and not hub.gets
    os.close(lock)
    second.join(20)
    assert "another process is fetching" in capsys.readouterr().out and is_whole(hub, tmp_path, FIRST, LAST)


def test_a_file_system_without_locks_is_no_reason_to_stop(hub, tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    fetch(1, tmp_path)
    assert is_whole(hub, tmp_path, FIRST, LAST)


def test_the_revision_stays_when_the_data_set_grows(hub, tmp_path):
    """Else the validation shard would change, and the old one would be trained on."""
    fetch(1, tmp_path)
    (tmp_path / "text/.listing.json").unlink()
    fetch(3, tmp_path)
    assert hub.listings == [f"/api/datasets/{REPO}?blobs=true", f"/api/datasets/{REPO}/revision/{COMMIT}?blobs=true"]


def disk_usage(free):
    return lambda path: types.SimpleNamespace(total=free, used=0, free=free)


def test_a_disk_without_room_is_said_before_the_first_byte(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_module.shutil, "disk_usage", disk_usage(10**6))
    with pytest.raises(UserError, match=r"has 0.0 GB free; the shards need 0.0 GB: take fewer .-n. or another folder"):
        fetch(-1, tmp_path)
    assert hub.gets == ["listing"]


def test_a_disk_that_fills_up_holds_no_half_shard_and_goes_on_when_there_is_room(hub, mount_disk, monkeypatch):
    disk = mount_disk("1500k")
    monkeypatch.setattr(hub_module.shutil, "disk_usage", disk_usage(10**12))  # somebody else fills it while we fetch
    with pytest.raises(UserError, match="No space left on device") as raised:
        fetch(-1, disk)
    assert "\n" not in str(raised.value) and not (disk / "text/shard_00000.parquet").exists()
    for path in (disk / "text").glob("*.parquet"):
        assert path.read_bytes() == hub.contents[path.name]
    subprocess.run(["mount", "-o", "remount,size=20m", disk], check=True)
    hub.ranges.clear()
    fetch(-1, disk)
    asked = [where for name, where in hub.ranges if name == "shard_00000.parquet"]
    assert len(asked) == 1, "what was there of the large one is not fetched again"
    for name, content in hub.contents.items():
        assert (disk / "text" / name).read_bytes() == content


def test_a_missing_file_ends_in_one_line_and_exit_code_one(hub, tmp_path, monkeypatch, capsys):
    hub.answers[LAST] = [(404, {})] * 9
    monkeypatch.setitem(hub_module.HUB, "fineweb-edu", hub_module.HUB["toy"])
    with pytest.raises(SystemExit) as exit_:
        cli.run(lambda: dataset.main(["-n", "1", "--source", "fineweb-edu", "--out", str(tmp_path)]))
    assert exit_.value.code == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 1 and LAST in errors[0]


def test_text_of_two_origins_is_never_mixed(hub, tmp_path):
    fetch(1, tmp_path / "out/data")
    (tmp_path / "a.txt").write_text("one\n\n" * 2000)
    with pytest.raises(UserError, match="holds text from toy/stories, not plain files"):
        dataset.main([f"--data={tmp_path / 'a.txt'}", f"--out={tmp_path / 'out'}"])
    with pytest.raises(UserError, match="holds text from another place"):
        shards.claim(tmp_path / "made", "kindergarten")


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
    monkeypatch.setitem(hub_module.HUB, "talk", hub_module.HubSource(REPO, "toy talk", {
        "data/train-": "chat/talk.jsonl", "aux/": "mmlu/auxiliary_train.jsonl",
        "easy/": "arc/ARC-Easy-train.jsonl"}))
    hub.answers["train-0.parquet"] = ["half"]
    dataset.main(["--source=talk", f"--out={tmp_path}"])
    assert files.read_jsonl(tmp_path / "data/chat/talk.jsonl") == [{"messages": messages}] * 2
    assert tasks.find("mmlu").load("train", tmp_path / "data") == [question]
    assert tasks.find("arc_easy").load("train", tmp_path / "data") == [
        {"question": "Is it?", "choices": ["yes", "no"], "answer": 1}]
    assert "chat/talk.jsonl: 2 rows" in capsys.readouterr().out and not list(tmp_path.rglob("*--*"))
    gets = len(hub.gets)
    dataset.main(["--source=talk", f"--out={tmp_path}"])
    assert len(hub.gets) == gets, "what is there stays"
    monkeypatch.setitem(hub_module.HUB, "talk", hub_module.HubSource(REPO, "", {"other/": "chat/other.jsonl"}))
    with pytest.raises(UserError, match="no parquet files other/"):
        dataset.main(["--source=talk", f"--out={tmp_path}"])


def test_lessons_with_other_columns_are_one_line(hub, tmp_path, monkeypatch):
    pq.write_table(pa.table({"answerKey": ["A"], "choices": ["a, b"]}), tmp_path / "x.parquet")
    hub.contents["easy/x.parquet"] = (tmp_path / "x.parquet").read_bytes()
    monkeypatch.setitem(hub_module.HUB, "talk", hub_module.HubSource(REPO, "", {"easy/": "arc/x.jsonl"}))
    with pytest.raises(UserError, match="x.parquet has rows that are not as expected"):
        dataset.main(["--source=talk", f"--out={tmp_path}"])


def test_without_a_gpu_the_default_is_the_kindergarten(tmp_path, monkeypatch, capsys):
    def write(data_dir, seed, scale):
        for number in range(2):
            shards.write(data_dir / f"text/shard_{number:05d}.parquet", [f"Ann has {seed} cats."])
        shards.write_manifest(data_dir / "text", ["shard_00001.parquet"])

    monkeypatch.setattr("kindergarten.write.write_all", write)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for _ in range(2):  # a second time replaces the first
        dataset.main(["-n", "8", "--seed=7", "--out", str(tmp_path)])
    assert "kindergarten with seed 7" in capsys.readouterr().out
    assert list(shards.iter_texts(shards.train_shards(tmp_path / "data"))) == ["Ann has 7 cats."]
