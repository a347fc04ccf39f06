"""Other people's clients against the server: their recorded requests, and the real clients where they are installed."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from .conftest import SECONDS

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = Path(__file__).parent / "clients"
ENVIRONMENT = Path(os.environ.get("NANOCHAT_CLIENTS", ROOT / ".venv-clients"))
SUM = {"role": "user", "content": "What is 123 * 456?"}


def function(name, /, **properties):
    schema = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()},
              "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": f"what {name} does", "parameters": schema}}


PERSON = function("Person", name="string", age="integer")
BUILT_IN = [function("get_current_timestamp"), function("ask_user", question="string", choices="array"),
            function("search_chats", query="string", count="integer"), function("in_days", days="integer")]
# (client, its request, what the answer must have): as the clients sent them to a server that wrote them down.
RECORDED = {
    "Open WebUI, a question": ({
        "stream": True, "model": "nanochat-test", "messages": [SUM], "tools": BUILT_IN,
        "stream_options": {"include_usage": True}}, "56088."),
    "Open WebUI, a title": ({"model": "nanochat-test", "stream": False, "max_completion_tokens": 1000, "messages": [
        {"role": "user", "content": "### Task:\nGenerate a 3-5 word title.\n### Chat History:\n"}]}, "Answer"),
    "LangChain, bind_tools": ({"model": "m", "messages": [SUM], "stream": False, "tools": [
        function("multiply", a="integer", b="integer")]}, "56088."),
    "pydantic-ai, output type": ({
        "model": "m", "messages": [SUM], "stream": False, "tool_choice": "required", "tools": [PERSON]}, PERSON),
    "instructor, TOOLS": ({"model": "m", "messages": [SUM], "tools": [PERSON], "tool_choice": {
        "type": "function", "function": {"name": "Person"}}}, PERSON),
    "llm --schema": ({"model": "m", "messages": [SUM], "stream": False, "response_format": {
        "type": "json_schema", "json_schema": {"name": "output", "schema": PERSON["function"]["parameters"]}}}, dict),
    "Vercel AI SDK, generateObject": ({
        "model": "m", "messages": [SUM], "response_format": {"type": "json_object"}}, dict),
    "aider": ({"model": "m", "stream": True, "temperature": 0, "messages": [
        {"role": "system", "content": "Act as an expert software developer."}, SUM,
        {"role": "assistant", "content": "Ok."}, SUM]}, "56088."),
    "LibreChat": ({"model": "m", "stream": True, "user": "6543", "presence_penalty": 0, "frequency_penalty": 0,
                   "max_tokens": 8192, "messages": [SUM]}, "56088."),
    "lm-eval, local-chat-completions": ({
        "model": "m", "messages": [{**SUM, "type": "text"}], "max_tokens": 256, "temperature": 0, "seed": 1234,
        "stop": ["<|im_end|>"]}, "56088."),
}


def answer_of(response):
    """The answer's message, put together from the chunks of a stream."""
    if response.headers["content-type"].startswith("application/json"):
        return response.json()["choices"][0]["message"]
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    deltas = [choice["delta"] for line in lines for choice in json.loads(line)["choices"]]
    return {"content": "".join(delta.get("content") or "" for delta in deltas)}


@pytest.mark.parametrize("client", RECORDED)
def test_recorded_requests(url, client):
    body, expected = RECORDED[client]
    response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=SECONDS)
    assert response.status_code == 200, response.text
    message = answer_of(response)
    if isinstance(expected, str):
        assert expected in message["content"]
    elif expected is dict:
        assert isinstance(json.loads(message["content"]), dict)
    else:
        [call] = message["tool_calls"]
        assert call["function"]["name"] == "Person"
        assert set(json.loads(call["function"]["arguments"])) == {"name", "age"}
    if client == "Open WebUI, a question":
        assert '"ignored": ["tools"]' in response.text


def interpreter(script: Path) -> list[str]:
    """The command that runs a client's script; skips the test where the client is missing."""
    install = "bash tests/serve/clients/install.sh"
    if script.suffix == ".js":
        if not (ENVIRONMENT / "node_modules" / "openai").exists() or not shutil.which("node"):
            pytest.skip(f"openai-node is missing: {install}")
        return ["node"]
    python = ENVIRONMENT / "bin" / "python"
    package = script.stem.removeprefix("with_").replace("_", "-")
    check = f"import importlib.metadata as m; m.version({package!r})"
    if not python.exists() or subprocess.run([python, "-c", check], capture_output=True).returncode:
        pytest.skip(f"{package} is missing: {install}")
    return [str(python)]


@pytest.mark.clients
@pytest.mark.parametrize("script", sorted(CLIENTS.glob("with_*")), ids=lambda script: script.stem)
def test_the_real_clients(url, script):
    command = [*interpreter(script), str(script), url]
    settings = {"NODE_PATH": str(ENVIRONMENT / "node_modules"), "OPENAI_API_KEY": "any",
                "LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # else litellm asks the network for prices
    done = subprocess.run(command, capture_output=True, text=True, timeout=10 * SECONDS, env={**os.environ, **settings})
    assert not done.returncode, done.stderr
