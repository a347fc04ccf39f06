"""What /run shows of an out folder, and the models of a run that still trains."""
import asyncio
import contextlib
import os
import re
import signal
import threading
import time
from dataclasses import replace

import httpx
import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient

from nanochat import closing
from nanochat.infer import Engine
from nanochat.model import GPT, GPTConfig
from nanochat.run_folder import RunFolder
from nanochat.serve import run_view
from nanochat.serve.app import create_app
from nanochat.serve.live import LiveModels
from nanochat.serve.run_view import Runs, appended, read_run
from nanochat.serve.worker import Worker
from nanochat.system import files, paths
from nanochat.system.files import UserError
from nanochat.system.lock import is_locked, run_lock
from nanochat.tokenizer import Tokenizer
from nanochat.train import checkpoint
from scripts import chat_web

from .conftest import DEFAULTS, wait_until


def line(step, **more):
    return {"step": step, "train/steps": 100, **more}


@pytest.fixture
def out(tmp_path):
    """A run of four stages: one is done, one has begun."""
    out = tmp_path / "out"
    files.write_json(out / "run.json", {"stages": {"data": 5, "base": 60, "chat_eval_base": 9, "mid": 7}})
    folder = RunFolder(out)
    folder.finish("data", ["-m", "x"], 4.2)
    folder.begin("base", ["-m", "y"])
    files.write_jsonl(out / "results/base/metrics.jsonl", [line(1), line(2, words=[["a", "b"]])])
    files.write_json(out / "results/base/chat_eval.json", {"tasks": {
        "facts": {"accuracy": 0.5, "stderr": 0.1, "chance": 0.25, "num_items": 4, "groups": {"x": [1, 2]}}}})
    files.write_jsonl(out / "results/base/models/trial/metrics.jsonl", [line(7)])
    return out


@pytest.mark.parametrize("is_running", [True, False])
def test_the_stages_are_done_running_stopped_or_to_come(out, is_running):
    with run_lock(out) if is_running else threading.Lock():
        assert is_locked(out) == is_running
        state = read_run(out, "", {})
    assert [(row["name"], row["state"]) for row in state["stages"]] == [
        ("data", "done"), ("base", "running" if is_running else "stopped"), ("chat_eval_base", "to come"),
        ("mid", "to come")]
    assert [row["expected"] for row in state["stages"]] == [5, 60, 9, 7] and state["stages"][0]["seconds"] == 4.2
    assert state["exams"] == {"facts": {"base": {"accuracy": 0.5, "stderr": 0.1, "chance": 0.25, "num_items": 4}}}
    assert not is_locked(out / "nothing") and not (out / "nothing").exists()


def test_to_look_never_keeps_a_run_from_starting(out):
    looks = threading.Event()

    def look():
        while not looks.is_set():
            is_locked(out)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        for _ in range(50):
            with run_lock(out):
                assert is_locked(out)
    finally:
        looks.set()
        watcher.join()


def test_only_what_was_appended_is_read(out):
    path = out / "results/base/metrics.jsonl"
    first = appended(path, "")
    assert first["fresh"] and [row["step"] for row in first["lines"]] == [1, 2]
    assert appended(path, first["cursor"]) == {"cursor": first["cursor"], "fresh": False, "lines": []}
    with open(path, "a") as file:
        file.write('{"step": 3}\n{"step": ')  # a process is killed, or in the middle of writing
    second = appended(path, first["cursor"])
    assert not second["fresh"] and second["lines"] == [{"step": 3}]
    with open(path, "a") as file:
        file.write('4}\n')
    assert appended(path, second["cursor"])["lines"] == [{"step": 4}]
    files.write_jsonl(path, [line(1), line(2)])  # resumed from a checkpoint: another file
    third = appended(path, second["cursor"])
    assert third["fresh"] and len(third["lines"]) == 2
    for strange in ("x", "1.-5", third["cursor"] + "0000", "٣.٣"):
        assert appended(path, strange)["fresh"]
    assert appended(out / "nothing", "") is None


def test_a_long_run_comes_thinned_with_its_words(out):
    lines = [line(step, **({"words": [["a", str(step)]]} if step % 1000 == 7 else {})) for step in range(1, 20_001)]
    files.write_jsonl(out / "results/base/metrics.jsonl", lines)
    read = read_run(out, "", {})["metrics"]["base"]["lines"]
    assert len(read) <= 1.1 * run_view.MAX_LINES and read[-1] == lines[-1]
    assert sum("words" in row for row in read) == 20


@pytest.fixture
def serve():
    servers = []

    def start(app):
        servers.append(uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical")))
        threading.Thread(target=servers[-1].run, daemon=True).start()
        wait_until(lambda: servers[-1].started)
        return f"http://127.0.0.1:{servers[-1].servers[0].sockets[0].getsockname()[1]}"

    yield start
    for server in servers:
        server.should_exit = True


def test_several_runs_and_those_of_another_server(out, worker, serve):
    elsewhere = serve(create_app({"m": [worker]}, DEFAULTS, runs=[str(out)]))
    runs = Runs([str(out), str(out.parent / "none"), elsewhere])
    assert list(runs.names()) == ["out", "out: trial", "none", elsewhere]
    assert runs.read("", {})["run"] == "out"
    trial = runs.read("out: trial", {})
    assert trial["metrics"]["base"]["lines"] == [line(7)] and not trial["stages"]
    assert runs.read("none", {})["metrics"] == {}
    there = runs.read(elsewhere, {})
    assert there["run"] == elsewhere and there["metrics"] == runs.read("out", {})["metrics"]
    cursors = {stage: new["cursor"] for stage, new in there["metrics"].items()}
    assert runs.read(elsewhere, cursors)["metrics"]["base"]["lines"] == []
    assert runs.read("http://127.0.0.1:9/secret", {})["run"] == "out", "a visitor cannot name an address"
    for problem in ("http://127.0.0.1:9", elsewhere + "/v1/models?"):
        with pytest.raises(UserError):
            run_view.ask(problem, {})


def test_the_guard_protects_the_data_and_not_the_page(out, worker):
    with TestClient(create_app({"m": [worker]}, DEFAULTS, key="secret", runs=[str(out)])) as client:
        assert client.get("/run").status_code == 200
        assert "default-src 'none'" in client.get("/run").headers["content-security-policy"]
        assert client.get("/run/data").status_code == 401
        assert client.get("/run/data", headers={"Authorization": "Bearer secret"}).json()["runs"][0] == "out"
    with TestClient(create_app({"m": [worker]}, DEFAULTS)) as client:
        assert "--runs" in client.get("/run/data").json()["error"]["message"]


# ---- models of a run that still trains


@pytest.fixture
def train(tmp_path, monkeypatch):
    """`train(stage, step)` writes a checkpoint whose model says nothing but the byte `step`."""
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    tokenizer = Tokenizer([*(bytes([byte]) for byte in range(256)), b"zq"])
    tokenizer.save(paths.tokenizer_dir())

    def write(stage, step):
        model = GPT(GPTConfig(64, tokenizer.vocab_size, n_layer=1, n_head=1, n_kv_head=1, n_embd=8, head_dim=8))
        with torch.no_grad():
            model.init_weights(0)
        checkpoint.save(paths.checkpoint_dir(stage, "d1"), step, model, None, {"suggestions": ["Moo?"]})

    return write


@pytest.fixture
def live():
    loads = []

    def load(stage):
        model, tokenizer, info = checkpoint.load_model(stage)
        loads.append((stage, info["step"]))
        return Worker(Engine(model.eval(), tokenizer, max_rows=2), step=info["step"])

    models = LiveModels(load)
    models.loads = loads
    yield models
    for worker in [worker for workers in models.values() for worker in workers]:
        worker.stop()


def test_a_model_is_loaded_when_it_is_asked_and_again_when_there_is_a_newer_one(train, live):
    with TestClient(create_app(live, replace(DEFAULTS, max_tokens=2))) as client:
        def ask(model):
            body = {"messages": [{"role": "user", "content": "hi"}], "model": model}
            answer = client.post("/v1/chat/completions", json=body)
            return answer.status_code, answer.json().get("model")

        assert client.get("/health").status_code == 200 and client.get("/v1/models").status_code == 503
        assert ask("")[0] == 503 and "no checkpoint" in client.get("/v1/models").json()["error"]["message"]
        train("base", 5)
        [listed] = client.get("/v1/models").json()["data"]
        assert (listed["id"], listed["nanochat"]["step"], listed["nanochat"]["suggestions"]) == (
            "nanochat-base-d1", 5, [])
        assert client.get("/metrics").status_code == 200 and not live.loads, "to look loads nothing"
        assert ask("gpt-4") == ask("nanochat-base-d1") == (200, "nanochat-base-d1") and live.loads == [("base", 5)]
        train("base", 9)
        train("mid", 2)
        assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [
            "nanochat-mid-d1", "nanochat-base-d1"]
        assert ask("nanochat-base-d1") == (200, "nanochat-base-d1") and ask("")[1] == "nanochat-mid-d1"
        assert live.loads == [("base", 5), ("base", 9), ("mid", 2)]
        assert ask("nanochat-rl-d1")[0] == 404
        assert client.post("/tokenize", json={"prompt": "ab"}).json()["count"] == 3


def test_an_answer_that_is_being_written_keeps_its_model(train, live):
    async def talk():
        train("base", 1)
        await live.ready(None)
        [first] = live["nanochat-base-d1"]
        job = first.submit([[1, 2]], 1, replace(DEFAULTS, max_tokens=20))
        train("base", 2)
        await asyncio.gather(live.ready(None), live.ready("nanochat-base-d1"))
        [second] = live["nanochat-base-d1"]
        assert second is not first and second.step == 2 and live.replaced == [first]
        tokens = [event async for batch in job.events() for _, event in batch]
        assert tokens[-1].stop_reason
        job.close()
        live.refresh()
        assert not live.replaced
        deadline = time.monotonic() + 5
        while first._thread.is_alive() and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        assert not first._thread.is_alive(), "its memory is free"

    asyncio.run(talk())
    assert live.loads == [("base", 1), ("base", 2)]


# ---- the page beside a run


def test_a_run_on_a_terminal_has_its_page_and_takes_it_along_at_its_end(out, monkeypatch, capsys):
    monkeypatch.setattr(closing, "is_terminal", lambda stream: True)
    with closing.page_of_the_run(out):
        url = re.search(r"http://[\d.:]+", capsys.readouterr().out)[0]

        def answers():
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{url}/run/data").json()["run"] == "out"

        wait_until(answers)
        assert httpx.get(f"{url}/v1/models").status_code == 503
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/run")


def test_without_a_terminal_there_is_no_page(out, monkeypatch, capsys):
    monkeypatch.setattr(closing.subprocess, "Popen", lambda *_, **__: pytest.fail("nobody looks"))
    with closing.page_of_the_run(out):
        assert "http" not in capsys.readouterr().out


def test_the_page_ends_with_the_run_even_when_that_is_killed(monkeypatch):
    parents, sent = [7, 7, 1], []
    monkeypatch.setattr(chat_web.os, "getppid", lambda: parents.pop(0))
    monkeypatch.setattr(chat_web.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(chat_web.os, "kill", lambda process, sign: sent.append((process, sign)))
    chat_web.end_with(7)
    assert not parents and sent == [(os.getpid(), signal.SIGTERM)]
