"""A real server around an engine whose model says what a script says: the same tokens and tool calls every time."""

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
import uvicorn

from nanochat import sandbox
from nanochat.infer import Engine, SamplingParams
from nanochat.model.gpt import GPT, GPTConfig
from nanochat.serve.app import create_app
from nanochat.serve.worker import Worker
from nanochat.tokenizer import Tokenizer, chat

collect_ignore_glob = ["clients/*"]  # programs for other environments
DOORS = [f"Then Tim the fox found door number {i}, and behind it sat a small 🦊 friend." for i in range(1, 41)]
STORY, LONG_STORY = " ".join(DOORS[:5]), " ".join(DOORS)  # the long one takes at least 3 seconds
CODE = ("Here is **a** `function`:\n\n```python\ndef f(x):\n    return x < 3\n```\n\n- one\n"
        "- <img src=x onerror=alert(1)>\n")
SECONDS_PER_TOKEN = 0.001
DEFAULTS = SamplingParams(temperature=0.8, top_k=50, max_tokens=512)  # those of scripts/chat_web.py
SECONDS = 60  # to wait before failing: this machine may be busy


def wait_until(is_true):
    end = time.monotonic() + SECONDS
    while not is_true() and time.monotonic() < end:
        time.sleep(0.01)
    assert is_true()


class ScriptedEngine(Engine):
    """The real engine (slots, sampling, tool, cancelling) with another forward pass."""

    num_answers = 0

    def script(self, row) -> list[int]:
        if not hasattr(row, "script"):
            self.num_answers += 1
            text = self.tokenizer.decode(row.prompt).split("<|user_start|>")[-1].split("<|user_end|>")[0]
            parts = {"What is 123 * 456?": [("text", "Let me see: "), ("python", "123*456"), ("python_output", "56088"),
                                            ("text", "123 * 456 = 56088.")],
                     "Tell me a story.": [("text", STORY)], "A long story!": [("text", LONG_STORY)],
                     "code": [("text", CODE)]}
            parts = parts.get(text, [("text", f"Answer {self.num_answers} to: {text}")])
            if row.prompt[-1] == self.tokenizer.special_id("<|output_end|>"):  # the client has run the tool
                parts = parts[-1:]
            conversation = {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": [
                {"type": kind, "text": part} for kind, part in parts]}]}
            ids, _ = chat.render(self.tokenizer, conversation)
            row.script = ids[ids.index(self.tokenizer.special_id("<|assistant_start|>")) + 1:]
            row.broken = text == "break"
        return row.script

    def _forward(self, ids, slots, starts, previous_ids=None):
        if not isinstance(slots, slice):
            return None  # a prompt is being read
        time.sleep(SECONDS_PER_TOKEN)
        logits = torch.full((len(ids), 1, self.config.vocab_size), -100.0)
        logits[:, :, list(b'"]}')] = torch.tensor([-90.0, -80.0, -70.0])  # under a grammar everything ends soon
        for i, row in enumerate(self.running):
            if len(row.ids) < len(self.script(row)):  # else a grammar goes on, with random tokens
                logits[i, 0, self.script(row)[len(row.ids)]] = 100.0
            if row.broken and len(row.ids) == 5:
                raise RuntimeError("no memory left")
        return logits


@pytest.fixture(scope="session")
def tokenizer():
    made = Tokenizer([*(bytes([byte]) for byte in range(256)), b"zq"])  # a token per byte of what is said here
    made.encode("The first time this is compiled: now, not while a browser waits for an answer.")
    return made


@pytest.fixture(scope="session")
def worker(tokenizer):
    model = GPT(GPTConfig(4096, tokenizer.vocab_size, n_layer=1, n_head=1, n_kv_head=1, n_embd=8, head_dim=8)).eval()
    model.init_weights(0)
    model.logits = lambda hidden: hidden if hidden.size(-1) > 8 else GPT.logits(model, hidden)  # a script gives logits
    worker = Worker(ScriptedEngine(model, tokenizer, sandbox.calculate, max_rows=4), max_waiting=4,
                    suggestions=("What is 123 * 456?", "Tell me a story."))
    yield worker
    worker.stop()


@contextlib.contextmanager
def serving(app) -> Iterator[str]:
    """The address of a server with this application, in a thread of this process."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=5)


@pytest.fixture(scope="session")
def url(worker):
    with serving(create_app({"nanochat-test": [worker]}, replace(DEFAULTS, max_tokens=4000))) as address:
        yield address
