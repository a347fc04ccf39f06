"""The two chat commands with a real (untrained) checkpoint: one answer, a conversation past the context, Ctrl-C."""

import builtins
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest
import torch

from nanochat.infer import Event
from nanochat.model import GPT, GPTConfig, attention
from nanochat.system import paths, runtime
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer
from nanochat.train import checkpoint
from scripts import chat_cli, chat_web

SECONDS_TO_WAIT = 60
FLAGS = ["--device_type=cpu", "--dtype=float32", "--seed=1", "-m", "12", "-k", "5"]


@pytest.fixture(autouse=True)
def trained(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    monkeypatch.setattr(attention, "_plain_max_without_gradients", 256)  # chat_web changes it for its process
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


def test_every_stage_answers_the_same_question(capsys, monkeypatch):
    chat_cli.main([*FLAGS, "--stages", "hello"])
    out = capsys.readouterr().out
    assert re.findall(r"^(\w+) d1:$", out, re.M) == ["base", "sft"] and len(out) > 30
    alone = []
    for stage in ("base", "sft"):
        chat_cli.main([*FLAGS, "-i", stage, "hello"])
        alone.append(f"{stage} d1:\n{capsys.readouterr().out}")
    assert out == "".join(alone), "each as if it were asked alone"
    typed(monkeypatch, "hi", "and you?")
    chat_cli.main([*FLAGS, "--stages"])
    assert capsys.readouterr().out.count("sft d1:\n") == 2
    for flags in (["-i", "base"], ["--step=1"]):
        with pytest.raises(UserError, match="--stages"):
            chat_cli.main([*FLAGS, "--stages", *flags, "hello"])


def test_a_long_conversation_never_crashes(capsys, monkeypatch):
    typed(monkeypatch, *["some twenty characters"] * 5, "x" * 80, "/help", KeyboardInterrupt(), "hi", "/new", "hi",
          "/quit", "never read")
    chat_cli.main(FLAGS)
    out = capsys.readouterr().out
    assert "error: the message is" in out and "context 64" in out  # 80 characters do not fit, the chat goes on
    assert "a new conversation" in out and out.count("Ctrl-D") == 3  # the greeting, /help, Ctrl-C


def test_commands_and_texts_of_many_lines(capsys, monkeypatch):
    asked = []
    typed(monkeypatch, "/again", "one", "/again", "two\\", "lines", '"""', "a", "", "b", '"""', "/temperature 1.5",
          "/temperature 3", "/topk x", "/system Be brief.", "hi", "/new", "ho", "/system", "hi", "/nothing", "/sistem")
    monkeypatch.setattr(chat_cli, "speak", lambda *_: {"role": "assistant", "content": "yes"})
    monkeypatch.setattr(chat_cli, "fit_prompt", lambda tokenizer, messages, *_: asked.append(messages) or ([1], 0))
    chat_cli.main(FLAGS)
    assert [messages[-1]["content"] for messages in asked] == ["one", "one", "two\nlines", "a\n\nb", "hi", "ho", "hi"]
    assert [len(messages) for messages in asked] == [1, 1, 3, 5, 2, 2, 1]
    assert asked[4][0]["content"] == asked[5][0]["content"] == "Be brief.", "a new conversation keeps it"
    out = capsys.readouterr().out
    assert "there is no answer yet" in out and "system prompt: Be brief." in out and "no system prompt" in out
    assert "temperature is 1.5" in out and "3 is not possible; temperature is 1.5" in out
    assert "x is not possible; topk is 5;" in out and "there is no /nothing" in out and "did you mean /system?" in out


def test_a_question_on_stdin_is_answered_and_nothing_else_is_said(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n" * 2))
    chat_cli.main(FLAGS)
    out, err = capsys.readouterr()
    assert len(out) > 1 and "nanochat" not in out and not err
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    with pytest.raises(UserError, match="no question"):
        chat_cli.main(FLAGS)


@pytest.mark.parametrize("words, stdin, question", [
    (["What", "is this?"], "", "What is this?"), (["-p", "Explain:"], "the file\n", "Explain:\n\nthe file"),
    (["Explain:"], "the file\n", "Explain:\n\nthe file"), (["-p", "-"], "the file\n", "the file")])
def test_words_and_stdin_are_the_question(monkeypatch, words, stdin, question):
    asked = []
    monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
    monkeypatch.setattr(chat_cli, "fit_prompt", lambda tokenizer, messages, *_: asked.append(messages) or ([1], 0))
    chat_cli.main([*FLAGS, *words])
    assert [message["content"] for message in asked[0]] == [question]


@pytest.mark.parametrize("words", [["hi", "--sorce", "sft"], ["-p", "hi", "there"], ["--nothing"]])
def test_a_misspelt_flag_is_no_question(words, capsys):
    with pytest.raises(SystemExit):
        chat_cli.main(words)
    error = capsys.readouterr().err
    assert "unknown flag" in error or "'there' follows no flag" in error


ON_A_TERMINAL = """
import sys, termios
from scripts import chat_cli
def answer(messages):
    assert not termios.tcgetattr(sys.stdin)[3] & termios.ECHO, "what is typed now would stand in the answer"
    print("asked", [message["content"] for message in messages][-1:], flush=True)
    return {"role": "assistant", "content": "yes"}
with chat_cli.kept_history():
    chat_cli.converse(answer, None)
"""


def on_a_terminal(*keys):
    """What a terminal shows when the `keys` are typed into the chat, each once the one before has been answered."""
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    leader, follower = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", ON_A_TERMINAL], stdin=follower, stdout=follower, stderr=follower,
                               env={**os.environ, "TERM": "xterm"})
    os.close(follower)
    shown = b""
    for number, text in enumerate((*keys, None)):
        while shown.count(b"\x1b[?2004h") + shown.count(b"asked") < 2 * number + 1:  # the box is open, so many answers
            shown += os.read(leader, 4096)
        os.write(leader, b"\x04" if text is None else text)
    assert process.wait(timeout=SECONDS_TO_WAIT) == 0
    os.close(leader)
    return shown.decode()


def test_a_pasted_text_is_one_question_and_is_remembered(tmp_path):
    pytest.importorskip("readline")
    assert "asked ['one\\ntwo\\nthree']" in on_a_terminal(b"\x1b[200~one\ntwo\nthree\x1b[201~\r", b"last\r")
    history = tmp_path / "state" / "nanochat" / "history"
    assert history.read_text().endswith("last\n") and history.stat().st_mode & 0o077 == 0
    assert "asked ['last']" in on_a_terminal(b"\x1b[A\r"), "the arrow finds it in the next session"


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


@pytest.mark.parametrize("text, expected", [
    ("https://good.example", "https://good.example"), (" HTTPS://Good.Example:443/", "https://good.example"),
    ("http://localhost:3000/", "http://localhost:3000"), ("http://[::1]:80", "http://[::1]"), ("*", "*"),
    ("chrome-extension://abc", "chrome-extension://abc"), ("good.example", None), ("https://good.example/page", None),
    ("https://", None), ("https://good.example:x", None), ("null", None)])
def test_origins_are_normalised_and_checked(text, expected):
    if expected:
        assert chat_web.origin(text) == expected
    else:
        with pytest.raises(UserError, match="--cors_origin"):
            chat_web.origin(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::", ""])
def test_every_kind_of_address(host):
    try:
        door = chat_web.listen(host, 0)
    except UserError:
        assert ":" in host  # a machine without IPv6
        pytest.skip("this machine has no IPv6")
    with door:
        first, *others = chat_web.addresses(host, door.getsockname()[1])
        assert re.search(r"//(127\.0\.0\.1|localhost|\[::1\]):\d+$", first)
        assert len(others) <= (host in ("0.0.0.0", "::", ""))
        with socket.create_connection(("::1" if host == "::1" else "127.0.0.1", door.getsockname()[1])):
            pass


def test_sigterm_lets_answers_end(tmp_path):
    """The command in a process of its own: SIGTERM in the middle of a stream; it ends whole, then the process."""
    command = [sys.executable, "-m", "scripts.chat_web", "--device_type=cpu", "--dtype=float32", "-p", "0", "-m", "50"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        url = next(filter(None, (re.search(r"http://[\w.:]+", line) for line in server.stdout)))[0]
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
    greetings, answers, kept = [], [], {}

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

    config = chat_web.uvicorn.Config
    monkeypatch.setattr(chat_web.uvicorn, "Config", lambda *args, **settings: kept.update(settings) or config(
        *args, **settings))
    monkeypatch.setattr(chat_web.log, "say", greet)
    chat_web.main(["--device_type=cpu", "-p", "0", "--max_rows=2"])
    assert "nanochat-sft-d1 is ready: http://127.0.0.1:" in greetings[0]
    assert answers[0]["usage"]["completion_tokens"] <= 5 and answers[0]["model"] == "nanochat-sft-d1"
    assert answers[0]["choices"] == answers[1]["choices"]  # the same seed
    assert kept["timeout_keep_alive"] >= 65  # longer than proxies keep a connection


@pytest.mark.parametrize("stage, state, expected", [
    ("sft", {"suggestions": ["Moo?"]}, ["Moo?"]), ("sft", {}, chat_web.SUGGESTIONS),
    ("sft", {"suggestions": []}, chat_web.SUGGESTIONS), ("base", {"suggestions": ["Moo?"]}, ())])
def test_the_page_suggests_what_the_checkpoint_names(stage, state, expected):
    checkpoint.save(paths.checkpoint_dir(stage, "d1"), 2, checkpoint.load_model(stage)[0], None, state)
    args = chat_web.flags(["--device_type=cpu"])
    _, [worker] = chat_web.load(stage, args, runtime.start("cpu", "float32"))
    worker.stop()
    assert worker.suggestions == expected
