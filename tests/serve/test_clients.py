"""The server as other people's programs use it: the openai client, schemathesis; keys, rates, limits, deadlines."""

import asyncio
import json
from dataclasses import replace

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from nanochat.infer import Engine, SamplingParams
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.serve.app import MIN_BODY_BYTES, create_app
from nanochat.serve.worker import Worker

from .conftest import DEFAULTS, LONG_STORY, SECONDS, STORY, wait_until

SUM = [{"role": "user", "content": "What is 123 * 456?"}]
TELL = [{"role": "user", "content": "Tell me a story."}]


@pytest.fixture(scope="module")
def openai():
    return pytest.importorskip("openai", reason="openai is missing: bash setup.sh installs it")


@pytest.fixture(scope="module")
def client(openai, url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=SECONDS) as client:
        yield client


@pytest.mark.peers
def test_openai_whole_answers(client, openai):
    assert [model.id for model in client.models.list()] == ["nanochat-test"]
    got = client.chat.completions.create(model="nanochat-test", messages=SUM, n=2, logprobs=True, top_logprobs=2,
                                         stop=["3 * 456 ="], max_tokens=None)
    assert [choice.message.content for choice in got.choices] == ["Let me see: 12"] * 2
    assert [choice.index for choice in got.choices] == [0, 1] and got.choices[1].finish_reason == "stop"
    content = got.choices[0].logprobs.content
    assert "".join(token.token for token in content) == "Let me see: 123 * 456 ="  # up to the stop string's end
    assert len(content[0].top_logprobs) == 2 and content[0].logprob == 0
    text = client.completions.create(model="nanochat-test", prompt=["one", "two"], max_tokens=9)
    assert [choice.text[:7] for choice in text.choices] == ["Answer "] * 2
    assert text.usage.completion_tokens == 18 and text.choices[1].finish_reason == "length"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


@pytest.mark.peers
def test_openai_streams_and_leaving_one(client, worker):
    chunks = list(client.chat.completions.create(model="m", messages=TELL, stream=True, n=2,
                                                 stream_options={"include_usage": True}))
    for index in (0, 1):
        choices = [choice for chunk in chunks for choice in chunk.choices if choice.index == index]
        assert "".join(choice.delta.content or "" for choice in choices) == STORY
        assert [choice.finish_reason for choice in choices if choice.finish_reason] == ["stop"]
    assert chunks[-1].usage.completion_tokens == 2 * (len(STORY.encode()) + 1)
    text = client.completions.create(model="m", prompt="x", stream=True, max_tokens=6)
    assert "".join(chunk.choices[0].text for chunk in text) == "Answer"
    stream = client.chat.completions.create(model="m", stream=True, messages=[
        {"role": "user", "content": "A long story!"}])
    next(iter(stream))
    stream.close()
    wait_until(lambda: not worker.open and not worker.live)
    with pytest.raises(Exception, match="no memory left"):
        list(client.chat.completions.create(model="m", stream=True, messages=[{"role": "user", "content": "break"}]))


@pytest.mark.peers
def test_openai_async_many_at_once(openai, url, worker):
    async def ask() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=9, timeout=SECONDS) as client:
            async def one(i: int) -> str:
                got = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": f"q{i}"}])
                return got.choices[0].message.content.split(" to: ")[1]

            slow = asyncio.create_task(client.chat.completions.create(model="m", messages=[
                {"role": "user", "content": "A long story!"}]))
            answers = await asyncio.gather(*(one(i) for i in range(12)))
            slow.cancel()
            return answers

    assert asyncio.run(ask()) == [f"q{i}" for i in range(12)]
    wait_until(lambda: not worker.open and not worker.live)  # the cancelled one as well


@pytest.mark.peers
def test_the_server_keeps_to_its_own_description(url):
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is missing: bash setup.sh installs it")
    from schemathesis.specs.openapi import checks

    all_checks = [schemathesis.checks.not_a_server_error, checks.content_type_conformance,
              checks.response_schema_conformance, checks.status_code_conformance]
    answered = set()
    for result in schemathesis.openapi.from_url(f"{url}/openapi.json").get_all_operations():
        operation = result.ok()

        @settings(max_examples=8, deadline=None, derandomize=True, database=None,
                  suppress_health_check=list(HealthCheck), phases=[Phase.generate])
        @given(operation.as_strategy())
        def check(case):
            response = case.call(timeout=SECONDS)
            answered.add((case.operation.path, response.status_code))
            case.validate_response(response, checks=all_checks)

        check()
    assert {status for path, status in answered if path == "/v1/completions"} & {200}
    assert len({path for path, _ in answered}) >= 9


def ask(client, text="hello", path="/v1/chat/completions", headers=None, **fields):
    return client.post(path, json={"messages": [{"role": "user", "content": text}], **fields}, headers=headers)


def error(response, status):
    assert response.status_code == status
    return response.json()["error"]


def test_a_key_guards_every_route_but_health_and_the_page(worker):
    app = create_app({"m": [worker]}, DEFAULTS, key="sésame")
    routes = [(method, route.path) for route in app.routes for method in getattr(route, "methods", None) or ()]
    app.router.routes.insert(0, Route("/new", lambda request: PlainTextResponse("a route that nobody listed")))
    good = {"Authorization": "Bearer sésame".encode()}
    with TestClient(app) as client:
        assert ("POST", "/chat/completions") in routes and ("GET", "/openapi.json") in routes
        odd = ["/new", "/nothing", "/health/", "http://testserver//health", "/style.css/../metrics", "/HEALTH"]
        for method, path in [*routes, *(("GET", path) for path in odd), ("OPTIONS", "/v1/models")]:
            if path not in ("/health", "/run"):
                assert client.request(method, path).status_code == 401, (method, path)
        assert error(ask(client, headers={"Authorization": "Bearer wrong"}), 401)["code"] == "invalid_api_key"
        assert ask(client, headers=good).status_code == 200 and client.get("/new", headers=good).status_code == 200
        for scheme in ("bearer ", "BEARER  ", ""):
            assert client.get("/new", headers={"Authorization": f"{scheme}sésame".encode()}).status_code == 200
        for path in ("/health", "/", "/index.html", "/app.js", "/style.css", "/run", "/run.js"):
            assert client.get(path).status_code == 200


def test_a_client_that_asks_too_often_is_told_when_to_come_back(worker):
    with TestClient(create_app({"m": [worker]}, DEFAULTS, requests_per_minute=3)) as client:
        assert [ask(client).status_code for _ in range(3)] == [200] * 3
        refused = ask(client)
        assert error(refused, 429)["code"] == "rate_limit_exceeded" and 1 <= int(refused.headers["retry-after"]) <= 20
        assert client.get("/v1/models").status_code == 200  # reading costs nothing


def test_bodies_have_a_limit_whether_announced_or_not(worker):
    with TestClient(create_app({"m": [worker]}, DEFAULTS)) as client:
        headers = {"content-type": "application/json"}
        assert error(client.post("/v1/completions", content=b" " * (MIN_BODY_BYTES + 1), headers=headers), 413)
        pieces = (b" " * 65536 for _ in range(65))
        assert error(client.post("/v1/completions", content=pieces, headers=headers), 413)


def test_no_other_origin_may_ask_unless_named(worker):
    ask_first = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    with TestClient(create_app({"m": [worker]}, DEFAULTS)) as client:
        assert "access-control-allow-origin" not in client.options("/v1/chat/completions", headers=ask_first).headers
    app = create_app({"m": [worker]}, DEFAULTS, key="secret", cors_origins=["https://good.example"])
    with TestClient(app) as client:  # a browser's question in advance carries no key
        good = client.options("/v1/chat/completions", headers={**ask_first, "Origin": "https://good.example"})
        assert good.headers["access-control-allow-origin"] == "https://good.example"


@pytest.mark.parametrize("host, may_ask", [
    ("localhost:8000", True), ("127.0.0.1", True), ("[::1]:8000", True), ("192.168.1.7:80", True),
    ("Good.example:1", True), ("a.localhost", True), ("evil.example", False), ("localhost.evil.example:8000", False),
    ("127.0.0.1.evil.example", False)])
def test_a_page_cannot_ask_under_a_name_of_its_own(worker, host, may_ask):
    """As after DNS rebinding: the page's host name has this machine's address."""
    with TestClient(create_app({"m": [worker]}, DEFAULTS, names=["good.example"])) as client:
        for path in ("/v1/models", "/", "/health"):
            assert client.get(path, headers={"Host": host}).status_code == (200 if may_ask else 403)


def test_bodies_without_their_content_type(worker):
    content = json.dumps({"messages": TELL, "max_tokens": 3})
    with TestClient(create_app({"m": [worker]}, DEFAULTS)) as client:
        for kind in ({}, {"Content-Type": "application/x-www-form-urlencoded"}, {"Content-Type": "text/plain;a=b"}):
            assert client.post("/v1/chat/completions", content=content, headers=kind).status_code == 200
        page = {"Origin": "https://evil.example", "Content-Type": "text/plain"}  # needs no permission of the server
        refused = error(client.post("/v1/chat/completions", content=content, headers=page), 400)
        assert "Content-Type: application/json" in refused["message"]


def test_head_is_answered_wherever_get_is(url):
    for path in ("/", "/health", "/v1/models", "/v1/models/nanochat-test", "/metrics", "/app.js"):
        got, head = (getattr(httpx, method)(url + path) for method in ("get", "head"))
        assert head.status_code == got.status_code == 200 and not head.content
        assert head.headers["content-type"] == got.headers["content-type"]
    assert httpx.head(f"{url}/nothing").status_code == 404


def test_streams_tell_proxies_not_to_wait(url):
    body = {"messages": TELL, "stream": True, "max_tokens": 2}
    assert httpx.post(f"{url}/v1/chat/completions", json=body).headers["x-accel-buffering"] == "no"


def test_metrics_and_token_counts(worker):
    with TestClient(create_app({"m": [worker]}, DEFAULTS)) as client:
        ask(client)
        client.get("/nothing/such")
        text = client.get("/metrics").text
        assert 'nanochat_requests_total{route="/v1/chat/completions",status="200"} 1.0' in text
        assert "nanochat_time_to_first_token_seconds_count 1.0" in text and 'status="404"' in text
        assert "such" not in text  # whatever is asked for makes no new series
        got = client.post("/tokenize", json={"prompt": "zqa"}).json()
        assert got["count"] == 3 and got["max_model_len"] == 4096
        assert client.post("/detokenize", json={"tokens": got["tokens"][1:]}).json() == {"prompt": "zqa"}
        got = client.post("/tokenize", json={"messages": SUM}).json()
        assert got["count"] == ask(client, SUM[0]["content"], max_tokens=1).json()["usage"]["prompt_tokens"]
        assert error(client.post("/detokenize", json={"tokens": [9999]}), 400)
        assert error(client.post("/tokenize", json={"model": "nanochat-x", "prompt": "a"}), 404)["code"]


def test_what_an_evaluation_harness_asks_about_the_tokenizer(worker, tokenizer):
    """As lm-evaluation-harness does with tokenizer_backend=remote."""
    with TestClient(create_app({"m": [worker]}, DEFAULTS)) as client:
        info = client.get("/tokenizer_info").json()
        assert "<|assistant_start|>" in info["chat_template"] and info["max_model_len"] == 4096
        for name in (info["bos_token"], info["eos_token"]):
            asked = client.post("/tokenize", json={"prompt": name, "add_special_tokens": False}).json()
            assert asked["tokens"] == [tokenizer.special_id(name)]
            assert client.post("/detokenize", json={"tokens": asked["tokens"]}).json() == {"prompt": name}
        inside = client.post("/tokenize", json={"prompt": f"{info['bos_token']} ", "add_special_tokens": False})
        assert tokenizer.bos_id not in inside.json()["tokens"], "a text is never read for special tokens"


def test_an_answer_goes_on_with_the_last_message(worker):
    begun = [*TELL, {"role": "assistant", "content": "Once"}]
    with TestClient(create_app({"m": [worker]}, replace(DEFAULTS, max_tokens=1))) as client:
        sent = [client.post("/v1/chat/completions", json=body).json()["usage"]["prompt_tokens"]
                for body in ({"messages": TELL}, {"messages": begun, "continue_final_message": True})]
    assert sent[1] - sent[0] == len("Once")


@pytest.fixture
def real(tokenizer):
    """A worker with a real model of random weights."""
    import torch

    torch.manual_seed(0)
    model = GPT(GPTConfig(128, tokenizer.vocab_size, n_layer=1, n_head=2, n_kv_head=1, n_embd=16, head_dim=8)).eval()
    model.init_weights(0).lm_head.weight.data.normal_()
    worker = Worker(Engine(model, tokenizer, None, 4, prefix_cache=True, step_tokens=8))
    yield worker
    worker.stop()


def test_echo_scores_a_text_as_evaluation_harnesses_want_it(real, tokenizer):
    import torch

    with TestClient(create_app({"m": [real]}, DEFAULTS)) as client:
        ids = [tokenizer.bos_id, *tokenizer.encode("abc")]
        body = {"prompt": ids, "echo": True, "logprobs": 2, "max_tokens": 1, "temperature": 0}
        [choice] = client.post("/v1/completions", json=body).json()["choices"]
        logprobs = choice["logprobs"]
        whole = [*ids, *tokenizer.encode(logprobs["tokens"][-1])]
        with torch.no_grad():
            nats = real.engine.model(torch.tensor([whole]))[0].log_softmax(-1)
        expected = [nats[i, whole[i + 1]].item() for i in range(len(whole) - 1)]
        assert logprobs["token_logprobs"][0] is None
        assert logprobs["token_logprobs"][1:] == pytest.approx(expected, abs=1e-4)
        assert all(len(best) == 2 for best in logprobs["top_logprobs"][1:])
        assert logprobs["text_offset"][1] == len("<|bos|>")
        body = {**body, "prompt": "abc", "max_tokens": 0}  # the server's own <|bos|> does not show
        [choice] = client.post("/v1/completions", json=body).json()["choices"]
        assert choice["text"] == "abc" and choice["logprobs"]["tokens"] == ["a", "b", "c"]
        assert choice["logprobs"]["token_logprobs"] == pytest.approx(expected[:3], abs=1e-4)
        assert error(client.post("/v1/completions", json={**body, "prompt": [999]}), 400)
        assert error(client.post("/v1/completions", json={**body, "prompt": "x" * 200}), 400)
        biased = {"messages": SUM, "logit_bias": {"999": 1}}
        assert "no token 999" in error(client.post("/v1/chat/completions", json=biased), 400)["message"]


@pytest.mark.parametrize("fields", [
    {"top_k": 2**70}, {"seed": -2**70}, {"max_tokens": 10**12}, {"temperature": 2e-4, "min_p": 1e-300}, {"top_p": 0},
    {"logit_bias": {str(token): -100 for token in range(266)}}, {"stop": ["\0", "x" * 100_000]}, {"user": "\0"},
    {"presence_penalty": -2, "frequency_penalty": 2, "logprobs": True, "top_logprobs": 20}, {"\ud83e": "\ud83e"},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": {"enum": ["\ud83e", "a"]}}}},
    {"tools": [{"function": {"name": "\ud83e", "parameters": {"type": "object"}}}], "tool_choice": "required"},
    {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "string", "minLength": -5}}}}])
def test_no_settings_harm_the_answers_of_others(real, fields):
    with TestClient(create_app({"m": [real]}, replace(DEFAULTS, max_tokens=20))) as client:
        job = client.portal.call(lambda: real.submit([[1, 2, 3]], 1, SamplingParams(max_tokens=90, stop_ids=())))
        content = json.dumps({"messages": SUM, **fields})  # escaped: httpx itself refuses half characters
        for stream in (False, True):
            body = f'{content[:-1]}, "stream": {json.dumps(stream)}}}'
            assert client.post("/v1/chat/completions", content=body).status_code in (200, 400)
        wait_until(lambda: job.requests and job.requests[0].stop_reason)
        assert job.requests[0].stop_reason == "length" and len(job.requests[0].ids) == 90
        client.portal.call(job.close)


def test_a_deadline_ends_answers_and_frees_their_place(worker):
    slow = Worker(worker.engine, seconds=0.3)  # a second thread with the same engine: the first one sleeps meanwhile
    try:
        with TestClient(create_app({"m": [slow]}, replace(DEFAULTS, max_tokens=4000))) as client:
            assert error(ask(client, "A long story!"), 504)["code"] == "timeout"
            assert '"code": "timeout"' in ask(client, "A long story!", stream=True).text
        wait_until(lambda: not slow.live)
        assert not slow.open
    finally:
        slow.stop()


def test_slow_readers_slow_only_themselves(url, worker):
    body = {"messages": [{"role": "user", "content": "A long story!"}], "stream": True,
            "max_tokens": 800}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=SECONDS) as slow:
        lines = slow.iter_lines()
        next(lines)  # and then reads nothing while somebody else gets a whole answer
        got = httpx.post(f"{url}/v1/chat/completions", json={"messages": TELL}, timeout=SECONDS).json()
        assert got["choices"][0]["message"]["content"] == STORY
        wait_until(lambda: not worker.live)  # the engine has long finished when the slow one begins to read
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in map(json.loads, (
            line.removeprefix("data: ") for line in lines if line not in ("", "data: [DONE]"))))
        assert 700 < len(text) <= 800 and LONG_STORY.startswith(text)  # some tokens are parts of characters
