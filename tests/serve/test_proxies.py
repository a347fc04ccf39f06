"""The examples of docs/proxies.md, with the real nginx and the real Caddy, where they are installed."""

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from .conftest import LONG_STORY, SECONDS

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "proxies.md").read_text(encoding="utf-8")
HOST = {"Host": "chat.example.org"}


def example(language: str) -> str:
    return re.search(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)[1]


def nginx(folder: Path, port: int, server: str) -> list[str]:
    config = example("nginx").replace("listen 80;", f"listen 127.0.0.1:{port};")
    config = config.replace("http://127.0.0.1:8000", server)
    paths = "".join(f"{name}_temp_path {folder}/{name};\n" for name in (
        "client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"{'' if os.geteuid() else 'user root;'} pid {folder}/pid; daemon off;\nevents {{}}\n"  # it writes to `folder`
        f"http {{ access_log off; {paths} {config} }}")
    return ["nginx", "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log"), "-p", str(folder)]


def caddy(folder: Path, port: int, server: str) -> list[str]:
    config = example("caddy").replace("chat.example.org", f"http://chat.example.org:{port}")
    config = config.replace("127.0.0.1:8000", server.removeprefix("http://"))
    (folder / "Caddyfile").write_text(f"{{\n    admin off\n    auto_https off\n}}\n{config}")
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


@pytest.fixture(params=[nginx, caddy], ids=["nginx", "caddy"])
def proxy(request, url, tmp_path, monkeypatch):
    """The proxy's address."""
    name = request.param.__name__
    if not shutil.which(name):
        pytest.skip(f"{name} is missing: apt-get install {name}")
    monkeypatch.setenv("HOME", str(tmp_path))  # Caddy keeps its state there
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    process = subprocess.Popen(request.param(tmp_path, port, url), cwd=tmp_path, stderr=subprocess.PIPE)
    try:
        for _ in range(100 * SECONDS):
            assert process.poll() is None, process.stderr.read().decode()
            if listens(port):
                break
            time.sleep(0.01)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def pieces(address: str, messages: list) -> Iterator[str]:
    """The texts of a streamed answer, as they come."""
    body = {"messages": messages, "stream": True, "max_tokens": 900}
    with httpx.stream("POST", address, json=body, headers=HOST, timeout=SECONDS) as got:
        assert got.status_code == 200, got.read()
        chunks = (json.loads(line.removeprefix("data: ")) for line in got.iter_lines() if line.startswith("data: {"))
        yield from filter(None, (choice["delta"].get("content") for chunk in chunks for choice in chunk["choices"]))


def test_answers_come_through_a_proxy_as_they_are_written(proxy, worker):
    story = [{"role": "user", "content": "A long story!"}]
    for path in ("", "/chat"):
        before = worker.num_tokens
        text = pieces(f"{proxy}{path}/v1/chat/completions", story)
        first = next(text)
        assert worker.num_tokens - before < 450  # the first piece comes long before the last exists
        whole = first + "".join(text)
        assert len(whole) > 800 and LONG_STORY.startswith(whole)
    assert "<title>" in httpx.get(f"{proxy}/chat/", headers=HOST).text
    assert httpx.get(f"{proxy}/chat/app.js", headers=HOST).status_code == 200
    assert httpx.head(f"{proxy}/health", headers=HOST).status_code == 200
    long = {"messages": [{"role": "user", "content": "x" * 3_000_000}, *story], "max_tokens": 1}
    got = httpx.post(f"{proxy}/v1/chat/completions", json=long, headers=HOST, timeout=SECONDS)
    assert got.status_code == 200, got.text
    assert got.json()["nanochat"]["forgotten_messages"] == 1  # so its megabytes have passed the proxy
