"""The server over real HTTP: formats, errors, many clients, leaving clients."""

import gzip
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from nanochat.system import cli
from scripts import chat_web

from .conftest import SECONDS, STORY, wait_until

SUM = "What is 123 * 456?"
PATHS = ("/v1/chat/completions", "/chat/completions")  # the second: a client whose base URL lacks /v1


def ask(url, text, path=PATHS[0], timeout=SECONDS, **fields):
    body = {"messages": [{"role": "user", "content": text}], **fields}
    return httpx.post(url + path, json=body, timeout=timeout)


def stream(url, text, path=PATHS[0], **fields):
    """All data events of a stream, parsed, "[DONE]" included."""
    body = {"messages": [{"role": "user", "content": text}], "stream": True, **fields}
    with httpx.stream("POST", url + path, json=body, timeout=SECONDS) as response:
        assert response.status_code == 200 and response.headers["content-type"].startswith("text/event-stream")
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@pytest.mark.parametrize("path", PATHS)
def test_a_whole_answer(url, path):
    got = ask(url, SUM, path).json()
    assert got["object"] == "chat.completion" and got["model"] == "nanochat-test"
    [choice] = got["choices"]
    assert choice["message"]["content"] == "Let me see: 123 * 456 = 56088." and choice["finish_reason"] == "stop"
    assert choice["message"]["nanochat"] == {"tools": [{"expression": "123*456", "result": "56088"}]}
    usage = got["usage"]
    assert usage["prompt_tokens"] == len(SUM) + 4
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["completion_tokens"] == len("Let me see: 123 * 456 = 56088.") + len("123*45656088") + 5
    [choice] = ask(url, "code", path, max_tokens=None, max_completion_tokens=3).json()["choices"]
    assert choice["finish_reason"] == "length"


@pytest.mark.parametrize("path", PATHS)
def test_a_stream(url, path):
    *chunks, usage, done = stream(url, SUM, path, stream_options={"include_usage": True})
    assert done == "[DONE]" and usage["choices"] == [] and usage["usage"]["completion_tokens"] == 47
    assert len({chunk["id"] for chunk in chunks}) == 1
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"] == {"role": "assistant", "content": ""}
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["stop"]
    tool = [choice["delta"] for choice in choices if "nanochat" in choice["delta"]]
    assert tool == [{"nanochat": {"tool": {"expression": "123*456", "result": "56088"}}}]
    story = stream(url, "Tell me a story.", path)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in story[:-1]) == STORY  # UTF-8 whole


def test_many_clients_at_once_share_the_steps(url, worker):
    before = worker.num_tokens
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda i: ask(url, f"question {i}").json(), range(8)))
    answers = [reply["choices"][0]["message"]["content"] for reply in replies]
    assert [answer.split(" to: ")[1] for answer in answers] == [f"question {i}" for i in range(8)]
    assert worker.num_tokens - before == sum(len(answer) + 1 for answer in answers)


def test_a_client_that_leaves_is_cancelled(url, worker):
    body = {"messages": [{"role": "user", "content": "A long story!"}]}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json={**body, "stream": True}, timeout=SECONDS) as response:
        next(response.iter_lines())
    wait_until(lambda: not worker.open and not worker.live)
    with pytest.raises(httpx.ReadTimeout):
        ask(url, "A long story!", timeout=0.2)
    wait_until(lambda: not worker.open and not worker.live)
    assert worker.num_tokens > 0


def test_a_full_queue_is_429_and_recovers(url, worker):
    story = {"target": ask, "args": (url, "A long story!"), "kwargs": {"max_tokens": 250}}
    stories = [threading.Thread(**story) for _ in range(8)]
    for thread in stories:
        thread.start()
    wait_until(lambda: len(worker.open) == 8)
    refused = ask(url, "one more")
    assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "queue_full"
    for thread in stories:
        thread.join()
    assert ask(url, "one more").status_code == 200


WRONG = [  # the param that the error names, the fields
    ("stop", {"stop": 5}), ("stop.0", {"stop": [5]}), ("tool_choice", {"tool_choice": 5}),
    ("messages", {"messages": "a"}), ("messages.1", {"messages": [{"role": "user", "content": "a"}, 5]}),
    ("messages.0.content.0.text", {"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
    ("logit_bias.-1.[key]", {"logit_bias": {"-1": 5}})]


def test_errors_have_openais_shape(url):
    def error(response, status):
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        return response.json()["error"]

    post = f"{url}/v1/chat/completions"
    assert error(httpx.post(post, json={}), 400)["param"] == "messages"
    assert error(httpx.post(post, content=b"{", headers={"content-type": "application/json"}), 400)
    assert "tools" in error(ask(url, "x", tools=[{}]), 400)["message"]
    unreadable = (b"\xe9", gzip.compress(b"{}"), b"[" * 100_000, b'{"seed": ' + b"9" * 5000 + b"}")
    for content, word in ((b"{", "not JSON"), (b"", "object is required"), (b"[]", "object is required"),
                          *((content, "UTF-8") for content in unreadable)):
        refused = httpx.post(post, content=content, headers={"content-type": "application/json"})
        assert word in error(refused, 400)["message"]
    for param, fields in WRONG:
        assert error(ask(url, "x", **fields), 400)["param"] == param
    for schema, word in (({"type": "object", "not": {}}, "'not'"), ({"enum": list(range(2000))}, "too large"),
                         ({"anyOf": [{"$ref": "#"}, {"type": "null"}]}, "leads back to itself")):
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        assert word in error(ask(url, "x", response_format=wanted), 400)["message"]
    assert "nanochat-test" in error(ask(url, "x", model="nanochat-other"), 404)["message"]
    for path in ("/v1/responses", "/v1/embeddings", "/v1", "/v1/models/", "/v1/chat/completions/chat/completions"):
        assert "/v1/chat/completions" in error(httpx.post(url + path, json={}), 404)["message"]
    assert error(ask(url, "é" * 2100), 400)["code"] == "context_length_exceeded"
    assert error(httpx.get(f"{url}/v1/models/other"), 404)["code"] == "model_not_found"
    assert error(httpx.get(f"{url}/nothing"), 404) and "POST" in error(httpx.get(post), 405)["message"]
    assert "GET" in error(httpx.delete(f"{url}/v1/models"), 405)["message"]


def test_a_failing_model_says_so_and_the_server_goes_on(url, capfd):
    assert ask(url, "break").status_code == 500
    events = stream(url, "break")
    assert events[-2]["error"]["message"].endswith("no memory left") and events[-1] == "[DONE]"
    assert ask(url, "hello").status_code == 200
    assert "no memory left" in capfd.readouterr().err


def test_a_failing_step_ends_all_answers_that_are_being_written(url, worker):
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(ask, url, "A long story!", max_tokens=1500)
        wait_until(lambda: worker.num_running == 1)
        assert ask(url, "break").status_code == 500
        assert other.result().status_code == 500 and "no memory left" in other.result().json()["error"]["message"]
    assert ask(url, "hello").status_code == 200 and not worker.open


def test_oldest_messages_make_room(url):
    turns = [{"role": "user", "content": "a" * 1000}, {"role": "assistant", "content": "b" * 1000}] * 3
    got = httpx.post(f"{url}/v1/chat/completions", timeout=SECONDS, json={
        "messages": [*turns, {"role": "user", "content": "and now?"}], "max_tokens": 100}).json()
    assert got["nanochat"]["forgotten_messages"] == 4
    assert got["choices"][0]["message"]["content"].endswith("and now?")


def test_small_routes(url):
    assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == "nanochat-test"
    assert httpx.get(f"{url}/v1/models/nanochat-test").json()["nanochat"]["context_tokens"] == 4096
    assert httpx.get(f"{url}/v1/models/nanochat-test").json()["nanochat"]["suggestions"][1] == "Tell me a story."
    assert httpx.get(f"{url}/health").json() == {"status": "ok", "ready": True, "num_gpus": 1, "available_workers": 1}
    page = httpx.get(url)
    assert "script-src 'self'" in page.headers["content-security-policy"] and "//" not in page.text.replace("<!--", "")
    assert all(httpx.get(f"{url}/{name}").status_code == 200 for name in ("app.js", "style.css", "logo.svg"))


def test_a_port_in_use_is_one_line_and_exit_1(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as exit:
        cli.run(lambda: chat_web.main(["-p", str(taken.getsockname()[1])]))
    assert exit.value.code == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "in use" in error and "-p" in error
