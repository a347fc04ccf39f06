"""Bad answers of hubs, proxies and networks: a shard is complete in the end, or one line says why not."""
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanochat.data import download
from nanochat.data import hub as hub_module
from nanochat.system.files import UserError
from tests.data.toy_hub import COMMIT, FIRST, HTML, LAST, POINTER, REPO, SECOND, fetch, is_whole

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
    assert hub.gets == ["listing"] + [LAST] * download.ATTEMPTS and sum(pauses) == 127
