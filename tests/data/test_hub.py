"""Fetching from a hub: a small one, served here, which answers as badly as hubs, proxies and networks do."""
import fcntl
import hashlib
import http.server
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tasks
from nanochat import dataset
from nanochat.data import download, shards
from nanochat.data import hub as hub_module
from nanochat.system import cli, files
from nanochat.system.files import UserError

REPO = "toy/stories"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FIRST, SECOND, THIRD, LAST = (f"shard_{number:05d}.parquet" for number in range(4))
HTML = b"<html>Welcome to the hotel. Please log in.</html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 99\n"


class Hub(http.server.ThreadingHTTPServer):
    """The two routes of the hub that a download uses.

    `answers[name]` (name of a shard, or "listing") are given first, one a request: (status, headers, body), or a word:
    "half" closes the connection in the middle, "stall" is silent after the first half, "corrupt" changes the last byte,
    "no ranges" ignores the range, "no length" names no length and ends early.
    """

    def __init__(self, contents: dict[str, bytes]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents, self.ranges, self.gets, self.listings = contents, [], [], []
        self.answers: dict[str, list] = {}
        self.sizes, self.hashes = True, True
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_):
        pass  # clients that hang up


class Handler(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_):
        pass

    def do_GET(self):
        name = "listing" if self.path.startswith("/api/") else self.path.rpartition("/")[2]
        self.server.gets.append(name)
        left = self.server.answers.get(name)
        answer = left.pop(0) if left else None
        if isinstance(answer, tuple):
            return self._send(*answer)
        if name == "listing":
            return self._listing()
        assert self.path == f"/datasets/{REPO}/resolve/{COMMIT}/{self.path.split('/resolve/')[1].split('/', 1)[1]}"
        self._file(self.path.split(COMMIT + "/")[1], answer)

    def _send(self, status: int, headers: dict, body: bytes = b""):
        self.send_response_only(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def _listing(self):
        self.server.listings.append(self.path)
        if self.path.split("?")[0] not in (f"/api/datasets/{REPO}", f"/api/datasets/{REPO}/revision/{COMMIT}"):
            return self._send(404, {})
        siblings = [{"rfilename": name,
                     **({"size": len(data)} if self.server.sizes else {}),
                     **({"lfs": {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}}
                        if self.server.hashes else {"lfs": None})}
                    for name, data in {**self.server.contents, "README.md": b"x", ".hid.parquet": b"x"}.items()]
        self._send(200, {"Content-Type": "application/json"},
                   json.dumps({"id": REPO, "sha": COMMIT, "siblings": siblings}).encode())

    def _file(self, name: str, answer: str | None):
        data, start = self.server.contents[name], 0
        if asked := self.headers.get("Range"):
            self.server.ranges.append((name, asked))
            start = 0 if answer == "no ranges" else int(asked.removeprefix("bytes=").split("-")[0])
        if start >= len(data):
            return self._send(416, {"Content-Range": f"bytes */{len(data)}"})
        part = data[start:]
        self.send_response(206 if start else 200)
        if answer == "no length":
            self.close_connection = True
        else:
            self.send_header("Content-Length", str(len(part)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.end_headers()
        if answer == "corrupt":
            part = part[:-1] + bytes([part[-1] ^ 1])
        if answer in ("half", "stall", "no length"):
            part = part[:len(part) // 2]
            self.close_connection = True
        self.wfile.write(part)
        if answer == "stall":
            self.wfile.flush()
            time.sleep(1.5)


@pytest.fixture
def pauses(monkeypatch):
    """The pauses that a fetch wants to make; it makes none."""
    wanted = []

    def pause(self, seconds):
        if round(seconds) > 0:
            wanted.append(round(seconds))
            self._not_before = 0.0

    monkeypatch.setattr(download.Attempts, "_pause", pause)
    return wanted


@pytest.fixture
def hub(tmp_path, monkeypatch, pauses):
    for number in range(4):
        texts = [f"Story {number}.{index} of a hub." for index in range(50)]
        if number == 0:  # a large one: many reads of the connection
            texts.append(random.Random(0).randbytes(3_000_000).hex())
        shards.write(tmp_path / f"made/shard_{number:05d}.parquet", texts)
    server = Hub({path.name: path.read_bytes() for path in sorted((tmp_path / "made").iterdir())})
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")  # people write the slash
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setitem(hub_module.HUB, "toy", hub_module.HubSource(REPO, "a toy"))
    yield server
    server.shutdown()
    server.server_close()


def fetch(count, folder):
    hub_module.fetch(hub_module.HUB["toy"], count, folder / "text")


def is_whole(hub, folder, *names):
    there = {path.name: path.read_bytes() for path in shards.in_folder(folder / "text")}
    return there == {name: hub.contents[name] for name in names} and not (folder / "text/.fetching").exists()


def test_a_fetch_takes_the_first_shards_and_pins_the_last_for_validation(hub, tmp_path):
    fetch(2, tmp_path)
    assert is_whole(hub, tmp_path, FIRST, SECOND, LAST)
    assert [path.name for path in shards.validation_shards(tmp_path)] == [LAST]
    assert next(shards.iter_texts(shards.validation_shards(tmp_path))) == "Story 3.0 of a hub."
    manifest = json.loads((tmp_path / "text/manifest.json").read_text())
    assert manifest["revision"] == COMMIT and manifest["origin"] == REPO


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


HUGE_WAIT = (429, {"Retry-After": "86400"})
MENDED = {  # what a shard's first answers are, and the pauses that a client makes; then it has the shard
    "closed in the middle": (["half", "half", "half"], [1, 1, 1]),
    "silent in the middle": (["stall"], [1]),
    "no length and cut": (["no length"], [1]),
    "closed, then no ranges": (["half", "no ranges"], [1]),
    "corrupt": (["corrupt"], [1]),
    "busy for a while": ([(503, {}), (500, {}), (502, {}), (504, {})], [1, 2, 4, 8]),
    "told to wait": ([(429, {"Retry-After": "20"})] * 12, [20] * 12),
    "told to wait until a date": ([(429, {"Retry-After": "Mon, 30 Nov 2026 12:00:30 GMT",
                                          "Date": "Mon, 30 Nov 2026 12:00:00 GMT"})], [30]),
    "told by the hub's own header": ([(429, {"RateLimit": '"resolvers";r=0;t=55'})], [55]),
    "told nonsense": ([(429, {"Retry-After": "soon"})], [1]),
    "told to wait 0 s": ([(503, {"Retry-After": "0"})], [1]),
    "a page for guests": ([(200, {"Content-Type": "text/html"}, HTML)], [1]),
    "a page as a file": ([(200, {}, HTML)], [1]),
    "a pointer": ([(200, {}, POINTER)], [1]),
    "half a page of bytes": ([(200, {}, b"PAR1 and a bit")], None),
    "a range that is not there": ([(416, {})], [1]),
    "moved": ([(302, {"Location": f"/datasets/{REPO}/resolve/{COMMIT}/{FIRST}"})], []),
}


@pytest.mark.parametrize("case, known", [
    (case, known) for case in MENDED for known in (True, False)
    if known or case not in ("corrupt", "no length and cut")])  # there nothing but a size or a hash can tell
def test_a_shard_is_whole_after_bad_answers(hub, tmp_path, pauses, monkeypatch, case, known):
    hub.sizes = hub.hashes = known
    answers, expected = MENDED[case]
    if "stall" in answers:
        monkeypatch.setattr(download, "TIMEOUT_SECONDS", 1)
    hub.answers[FIRST] = list(answers)
    fetch(1, tmp_path)
    assert is_whole(hub, tmp_path, FIRST, LAST) and not hub.answers[FIRST]
    assert expected is None or pauses == expected


def test_a_wait_is_said_once_for_all_threads(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(download.Attempts, "_pause", lambda *_: None)
    for name in (FIRST, SECOND, LAST):
        hub.answers[name] = [(429, {"Retry-After": "20"})]
    fetch(2, tmp_path)
    assert capsys.readouterr().out.count("asks to wait 20 s") == 1


def test_the_listing_is_asked_again_and_waited_for(hub, tmp_path, pauses, capsys):
    hub.answers["listing"] = [(429, {"Retry-After": "20"}), (503, {}), (200, {}, HTML)]
    fetch(1, tmp_path)
    assert pauses == [20, 1, 2] and "asks to wait 20 s" in capsys.readouterr().out
    assert is_whole(hub, tmp_path, FIRST, LAST)


def test_a_listing_is_remembered_by_an_interrupted_fetch(hub, tmp_path):
    hub.answers[FIRST] = [(404, {})]
    with pytest.raises(UserError):
        fetch(1, tmp_path)
    hub.answers["listing"] = [(500, {})] * 99
    fetch(1, tmp_path)
    assert hub.gets.count("listing") == 1 and is_whole(hub, tmp_path, FIRST, LAST)


REFUSED = {
    "gated": ((403, {"X-Error-Code": "GatedRepo"}), "gated.*HF_TOKEN"),
    "private": ((401, {"X-Error-Code": "RepoNotFound"}), "does not exist or is not public.*HF_TOKEN"),
    "an old token": ((401, {"X-Error-Message": "Invalid credentials in Authorization header"}), "unset it"),
    "not there": ((404, {}), "HTTP 404.*does not have it"),
    "a day's wait": (HUGE_WAIT, "asks to wait 1440 minutes"),
    "a teapot": ((418, {}), "HTTP 418"),
}


@pytest.mark.parametrize("where", ["listing", SECOND])
@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_one_line_and_is_not_asked_again(hub, tmp_path, pauses, case, where):
    answer, message = REFUSED[case]
    hub.answers[where] = [answer] * 99
    with pytest.raises(UserError, match=message) as raised:
        fetch(2, tmp_path)
    assert "\n" not in str(raised.value) and not pauses and hub.gets.count(where) == 1


@pytest.mark.parametrize("name, value, message", [
    ("HF_ENDPOINT", "http://127.0.0.1:9", "http://127.0.0.1:9.*--source=kindergarten"),
    ("HF_ENDPOINT", "127.0.0.1:9", "HF_ENDPOINT=https://"), ("HF_ENDPOINT", "ftp://127.0.0.1", "HF_ENDPOINT=https://"),
    ("HF_ENDPOINT", "http://no host", "HF_ENDPOINT"), ("HTTP_PROXY", "http://127.0.0.1:9", "proxy"),
    ("HTTP_PROXY", "socks9://127.0.0.1:9", "proxy"),
])
def test_a_wrong_address_is_one_line_and_claims_nothing(hub, tmp_path, name, value, message):
    code = ("from pathlib import Path\nfrom nanochat.data import download, hub\nfrom nanochat.system import cli\n"
            "download.Attempts._pause = lambda *_: None\n"
            f"cli.run(lambda: hub.fetch(hub.HubSource({REPO!r}, ''), 1, Path('t')))")
    root = Path(__file__).resolve().parents[2]
    environment = {key: text for key, text in os.environ.items() if key.lower() != "no_proxy"}
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60,
                           env={**environment, "PYTHONPATH": str(root), name: value})
    lines = ended.stderr.strip().splitlines()
    assert ended.returncode == 1 and len(lines) == 1 and re.search(message, lines[0]), ended.stderr
    assert not list((tmp_path / "t").iterdir()), "another source may be used now"


def test_an_unknown_data_set_and_offline_mode_are_said(hub, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="cannot list no/such"):
        hub_module.fetch(hub_module.HubSource("no/such", ""), 1, tmp_path / "text")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        fetch(1, tmp_path)


def test_what_a_broken_connection_brought_is_kept(hub, tmp_path):
    hub.answers[FIRST] = ["half"]
    fetch(1, tmp_path)
    assert hub.ranges == [(FIRST, f"bytes={len(hub.contents[FIRST]) // 2}-")]


@pytest.mark.parametrize("sizes", [True, False])
@pytest.mark.parametrize("have", [1_500_000, None])
def test_a_killed_fetch_goes_on_where_it_stopped(hub, tmp_path, have, sizes):
    """Also one that was killed between the last byte and the renaming."""
    hub.sizes = hub.hashes = sizes
    (tmp_path / "text/.fetching").mkdir(parents=True)
    (tmp_path / "text/.fetching" / FIRST).write_bytes(hub.contents[FIRST][:have])
    fetch(1, tmp_path)
    whole = len(hub.contents[FIRST])
    assert hub.ranges == ([(FIRST, f"bytes={have or whole}-")] if have or not sizes else [])
    assert is_whole(hub, tmp_path, FIRST, LAST)


def test_a_fetch_killed_at_any_time_goes_on(hub, tmp_path):
    """kill -9 of the process, not of a simulation; and its lock is gone with it."""
    hub.answers[FIRST] = ["stall"] * 99
    code = ("from nanochat.data import hub; from pathlib import Path\n"
            f"hub.fetch(hub.HubSource({REPO!r}, ''), 1, Path('text'))")
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.DEVNULL,
                               env={**os.environ, "PYTHONPATH": str(root)})
    end = time.monotonic() + 30
    while FIRST not in hub.gets and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    hub.answers.clear()
    fetch(1, tmp_path)
    assert is_whole(hub, tmp_path, FIRST, LAST) and hub.gets.count("listing") == 1


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


@pytest.mark.parametrize("bad, message", [("corrupt", "SHA-256"), ((200, {}, POINTER), "Git LFS pointer"),
                                          ((200, {"Content-Type": "text/html"}, HTML), "web page")])
def test_a_wrong_shard_is_refused_and_the_others_are_kept(hub, tmp_path, bad, message):
    hub.answers[SECOND] = [bad] * 99
    with pytest.raises(UserError, match=f"1 of 4 shards failed: {SECOND}.*{message}"):
        fetch(-1, tmp_path)
    assert hub.gets.count(SECOND) == 3, "a large shard is not fetched for ever"
    assert not (tmp_path / "text" / SECOND).exists()
    hub.answers.clear()
    hub.gets.clear()
    fetch(-1, tmp_path)
    assert hub.gets == [SECOND]


def test_when_the_network_is_gone_not_every_shard_is_tried(hub, tmp_path, pauses, monkeypatch):
    monkeypatch.setattr(hub_module, "THREADS", 1)
    hub.answers[LAST] = [(500, {})] * 99
    with pytest.raises(UserError, match="1 of 4 shards failed"):
        fetch(-1, tmp_path)
    assert hub.gets == ["listing"] + [LAST] * download.FIRST_ATTEMPTS and sum(pauses) == 15


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


def test_a_disk_that_fills_up_holds_no_half_shard_and_goes_on_when_there_is_room(hub, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or not shutil.which("mount") or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    monkeypatch.setattr(hub_module.shutil, "disk_usage", disk_usage(10**12))  # somebody else fills it while we fetch
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
        assert len(asked) == 1, "what was there of the large one is not fetched again"
        for name, content in hub.contents.items():
            assert (disk / "text" / name).read_bytes() == content
    finally:
        subprocess.run(["umount", disk], check=True)


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
