"""The two chat commands with a real (untrained) checkpoint: one answer, a conversation past the context, Ctrl-C."""

import builtins
import io
import os
import re
import signal
import subprocess
import sys
import threading

import httpx
import pytest
import torch

from nanochat.infer import Event
from nanochat.model import GPT, GPTConfig
from nanochat.system import paths, runtime
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer
from nanochat.train import checkpoint
from scripts import chat_cli, chat_web

FLAGS = ["--device_type=cpu", "--dtype=float32", "--seed=1", "-m", "12", "-k", "5"]


@pytest.fixture(autouse=True)
def trained(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    tokenizer = Tokenizer([*(bytes([byte]) for byte in range(256)), b"zq"])
    tokenizer.save(paths.tokenizer_dir())
    model = GPT(GPTConfig(64, tokenizer.vocab_size, n_layer=1, n_head=1, n_kv_head=1, n_embd=16, head_dim=16))
    with torch.no_grad():
        model.init_weights(0).lm_head.weight[:256].normal_(generator=torch.Generator().manual_seed(0))
    for stage in ("base", "sft"):
        checkpoint.save(paths.checkpoint_dir(stage, "d1"), 1, model, None, {})


def typed(monkeypatch, *lines):
    """What input() returns, line by line, then the end of the input."""
    left = list(lines)

    def read(prompt):
        if not left:
            raise EOFError
        line = left.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr(builtins, "input", read)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)


@pytest.mark.parametrize("source", ["base", "sft"])
def test_one_answer_and_the_same_with_the_same_seed(capsys, source):
    answers = []
    for _ in range(2):
        chat_cli.main([*FLAGS, "-i", source, "-p", "hello " * 5])
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] and len(answers[0]) > 5


def test_a_long_conversation_never_crashes(capsys, monkeypatch):
    typed(monkeypatch, *["some twenty characters"] * 5, "x" * 80, "/help", KeyboardInterrupt(), "hi", "/new", "hi",
          "/quit", "never read")
    chat_cli.main(FLAGS)
    out = capsys.readouterr().out
    assert "error: the message is" in out and "context 64" in out  # 80 characters do not fit, the chat goes on
    assert "a new conversation" in out and out.count("/quit; Ctrl-C") == 3


def test_commands_and_texts_of_many_lines(capsys, monkeypatch):
    asked = []
    typed(monkeypatch, "one", "/again", "two\\", "lines", '"""', "a", "", "b", '"""', "/temperature 1.5", "/topk x",
          "/system Be brief.", "hi", "/nothing")
    monkeypatch.setattr(chat_cli, "speak", lambda events: {"role": "assistant", "content": "yes"})
    monkeypatch.setattr(chat_cli, "fit_prompt", lambda tokenizer, messages, *_: asked.append(messages) or ([1], 0))
    chat_cli.main(FLAGS)
    assert [messages[-1]["content"] for messages in asked] == ["one", "one", "two\nlines", "a\n\nb", "hi"]
    assert [len(messages) for messages in asked] == [1, 1, 3, 5, 2] and asked[-1][0]["content"] == "Be brief."
    out = capsys.readouterr().out
    assert "temperature is 1.5" in out and "topk is 5;" in out and "there is no /nothing" in out


def test_a_question_on_stdin_is_answered_and_nothing_else_is_said(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n" * 2))
    chat_cli.main(FLAGS)
    out, err = capsys.readouterr()
    assert len(out) > 1 and "nanochat" not in out and not err
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(UserError, match="no question"):
        chat_cli.main(FLAGS)


def test_a_reader_that_goes_away_ends_it_without_a_word():
    """As `| head -c 1` does."""
    command = [sys.executable, "-m", "scripts.chat_cli", *FLAGS[:3], "-p", "hello", "-m", "50"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.wait(timeout=300) == 141 and not process.stderr.read()


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(capsys):
    closed = []

    def events():
        try:
            yield from (Event(1, "one ", "text"), Event(2, "1+1", "python"), Event(3, "2", "output"))
            raise KeyboardInterrupt
        finally:
            closed.append(True)

    message = chat_cli.speak(events())
    assert closed and capsys.readouterr().out == "one [1+1 = 2]\n"
    assert message["content"] == [{"type": "text", "text": "one "}, {"type": "python", "text": "1+1"},
                                  {"type": "python_output", "text": "2"}]


def test_sigterm_lets_answers_end(tmp_path):
    """The command in a process of its own: SIGTERM in the middle of a stream; it ends whole, then the process."""
    command = [sys.executable, "-m", "scripts.chat_web", "--device_type=cpu", "--dtype=float32", "-p", "0", "-m", "50"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        url = re.search(r"http://[\w.:]+", server.stdout.readline())[0]
        body = {"messages": [{"role": "user", "content": "hi"}], "stream": True, "logit_bias": {"65": 100}}
        with httpx.stream("POST", f"{url}/v1/chat/completions", json=body, timeout=60) as response:
            lines = response.iter_lines()
            next(lines)
            server.send_signal(signal.SIGTERM)
            events = [line for line in lines if line]
        assert events[-1] == "data: [DONE]" and '"finish_reason": "length"' in events[-2]
        assert server.wait(timeout=60) in (0, -signal.SIGTERM)
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/health")
    finally:
        server.kill()
        server.wait()


def test_chat_web_serves_the_checkpoint_until_ctrl_c(monkeypatch):
    """The command itself, in this process: it greets with its address, answers, and SIGINT ends it."""
    greetings, answers = [], []

    def visit(greeting):
        url = re.search(r"http://[\w.:]+", greeting)[0]
        try:
            body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "seed": 1}
            answers.extend(httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30).json() for _ in range(2))
        finally:
            os.kill(os.getpid(), signal.SIGINT)

    def greet(greeting):
        greetings.append(greeting)
        threading.Thread(target=visit, args=(greeting,)).start()

    monkeypatch.setattr(chat_web.log, "say", greet)
    chat_web.main(["--device_type=cpu", "-p", "0", "--max_rows=2"])
    assert "nanochat-sft-d1 is ready: http://127.0.0.1:" in greetings[0]
    assert answers[0]["usage"]["completion_tokens"] <= 5 and answers[0]["model"] == "nanochat-sft-d1"
    assert answers[0]["choices"] == answers[1]["choices"]  # the same seed


@pytest.mark.parametrize("stage, state, expected", [
    ("sft", {"suggestions": ["Moo?"]}, ["Moo?"]), ("sft", {}, chat_web.SUGGESTIONS),
    ("sft", {"suggestions": []}, chat_web.SUGGESTIONS), ("base", {"suggestions": ["Moo?"]}, ())])
def test_the_page_suggests_what_the_checkpoint_names(stage, state, expected):
    checkpoint.save(paths.checkpoint_dir(stage, "d1"), 2, checkpoint.load_model(stage)[0], None, state)
    args = chat_web.flags(["--device_type=cpu"])
    _, [worker] = chat_web.load(stage, args, runtime.start("cpu", "float32"))
    worker.stop()
    assert worker.suggestions == expected
