"""/v1/inside: the same prompt as the chat's, texts instead of ids, errors, other requests at the same time."""
import math
import threading

import httpx
import pytest
import torch

from nanochat.infer.inside import look_inside
from nanochat.serve import inside

from .conftest import LONG_STORY, SECONDS

PATH = "/v1/inside"
HELLO = {"role": "user", "content": "Hello"}
SUM = {"role": "assistant", "content": [{"type": "python", "text": "1+1"}, {"type": "python_output", "text": "2"},
                                        {"type": "text", "text": "It is 2 🦊."}]}


def look(url, **body):
    return httpx.post(url + PATH, json=body, timeout=SECONDS)


def test_a_token_of_an_answer(url, worker, tokenizer):
    got = look(url, messages=[HELLO, SUM], position=11).json()
    words = ["<|bos|>", "<|user_start|>", *"Hello", "<|user_end|>", "<|assistant_start|>", "<|python_start|>", *"1+1",
             "<|python_end|>", "<|output_start|>", "2", "<|output_end|>", *"It is 2 ",
             *(f"bytes:\\x{byte:02x}" for byte in "🦊".encode()), ".", "<|assistant_end|>"]
    assert (got["tokens"], got["prompt_tokens"], got["position"]) == (words, 9, 11)
    special = tokenizer.special_id
    ids = [tokenizer.bos_id, special("<|user_start|>"), *b"Hello", special("<|user_end|>"),
           special("<|assistant_start|>"), special("<|python_start|>"), *b"1"]
    expected = look_inside(worker.engine.model, ids, ord("+"))
    assert [layer["logprob"] for layer in got["layers"]] == pytest.approx([nats for nats, _ in expected.layers])
    assert [(part["part"], part["layer"], part.get("head")) for part in got["parts"]] == [
        ("smear", 0, None), ("value_embedding", 1, None), ("head", 1, 1), ("mlp", 1, None)], "counted from 1"
    assert [part["without"]["logprob"] for part in got["parts"]] == pytest.approx(
        [nats for nats, _ in expected.without.values()])
    weights = dict(got["parts"][2]["attends"])
    assert [weights[i] for i in range(11)] == pytest.approx(expected.patterns[0, 0].tolist())
    assert [table["part"] for table in got["neighbours"]] == ["embedding", "smear", "value_embedding"]
    assert got["neighbours"][0]["tokens"][0] == ["1", pytest.approx(1)], "a token is its own nearest neighbour"


def test_the_last_layer_is_what_completions_say(url):
    """The same numbers by the other route, which scores a text; a fresh model gives every token nearly the same."""
    got = look(url, prompt="Hello").json()
    assert got["position"] == got["prompt_tokens"] == 6 == len(got["tokens"])
    scored = httpx.post(f"{url}/v1/completions", timeout=SECONDS, json={
        "prompt": "Hellop", "echo": True, "max_tokens": 0, "logprobs": 5}).json()["choices"][0]["logprobs"]
    assert max(got["layers"][-1]["top_logprobs"].values()) == got["layers"][-1]["logprob"]
    assert sorted(got["layers"][-1]["top_logprobs"].values()) == pytest.approx(
        sorted(scored["top_logprobs"][-1].values()), abs=1e-5)


@pytest.mark.parametrize("limits", [{}, {"max_tokens": 100}, {"max_tokens": -1}])
def test_it_forgets_what_the_chat_forgets(url, limits):
    turns = [{"role": "system", "content": "Be kind."}]
    turns += [{"role": "user", "content": "a" * 900}, {"role": "assistant", "content": "b" * 900}] * 4
    question = {"role": "user", "content": "Tell me a story."}
    asked = httpx.post(f"{url}/v1/chat/completions", timeout=SECONDS, json={
        "messages": [*turns, question], **limits}).json()
    said = asked["choices"][0]["message"]["content"]
    got = look(url, messages=[*turns, question, {"role": "assistant", "content": said}], **limits).json()
    assert got["forgotten_messages"] == asked["nanochat"]["forgotten_messages"] > 0
    assert got["prompt_tokens"] == asked["usage"]["prompt_tokens"] == got["position"], "at the answer's first token"
    assert len(got["tokens"]) == asked["usage"]["total_tokens"] + (asked["choices"][0]["finish_reason"] == "length")


def test_what_does_not_fit_behind_the_prompt_is_not_read(url):
    got = look(url, messages=[HELLO, {"role": "assistant", "content": "x" * 5000}], position=4095).json()
    assert len(got["tokens"]) == 4096


ERRORS = [({}, 400, "either messages or prompt"), ({"prompt": "a", "messages": [HELLO]}, 400, "either"),
          ({"messages": [SUM]}, 400, "user"), ({"prompt": "a", "position": 9}, 400, "reads 2 tokens"),
          ({"prompt": "a", "position": 0}, 400, "position"), ({"prompt": "a", "layer": 1}, 400, "layer"),
          ({"prompt": "a", "model": "nanochat-other"}, 404, "nanochat-test"),
          ({"prompt": "a" * 4096}, 400, "4,097 tokens"), ({"prompt": "a" * 10**6}, 400, "1,000,000 characters"),
          ({"messages": [HELLO, {"role": "assistant", "content": "a" * 10**6}]}, 400, "1,000,000 characters"),
          ({"messages": [{"role": "user", "content": "a" * 5000}]}, 400, "context")]


@pytest.mark.parametrize("body, status, words", ERRORS)
def test_errors_have_openais_shape(url, body, status, words):
    refused = look(url, **body)
    assert refused.status_code == status and words in refused.json()["error"]["message"]


def test_running_answers_wait_but_do_not_change(url, worker):
    stories = []

    def tell():
        body = {"messages": [{"role": "user", "content": "A long story!"}], "max_tokens": 1500}
        stories.append(httpx.post(f"{url}/v1/chat/completions", json=body, timeout=SECONDS).json())

    thread = threading.Thread(target=tell)
    thread.start()
    while not worker.live:
        pass
    looks = [look(url, prompt="Hello").json() for _ in range(2)]
    assert worker.live, "they were answered between its steps"
    thread.join()
    assert stories[0]["choices"][0]["message"]["content"] == LONG_STORY.encode()[:1500].decode(errors="ignore")
    assert all(one == looks[0] for one in looks) and not worker.open


def test_a_failure_is_told_and_the_server_goes_on(url, worker, monkeypatch, capfd):
    monkeypatch.setattr(inside, "look_inside", lambda *_: torch.zeros(1)[2])
    failed = look(url, prompt="Hello")
    assert failed.status_code == 500 and "the model failed" in failed.json()["error"]["message"]
    assert "IndexError" in capfd.readouterr().err
    monkeypatch.undo()
    assert look(url, prompt="Hello").status_code == 200 and math.isfinite(worker.num_open) and not worker.open


def test_a_full_queue_is_429(url, worker, monkeypatch):
    monkeypatch.setattr(worker, "max_open", 0)
    monkeypatch.setattr(worker, "open", {type("Busy", (), {"size": 1})()})
    refused = look(url, prompt="Hello")
    assert refused.status_code == 429 and refused.json()["error"]["code"] == "queue_full"
