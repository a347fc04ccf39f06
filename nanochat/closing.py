"""The output of a run: the page while it trains; at its end the exams by stage, the minutes, three questions with the
model's answers, and the chat."""
import contextlib
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest
from pathlib import Path

from nanochat import report, sandbox
from nanochat.data import conversations
from nanochat.eval.words import QUESTIONS
from nanochat.infer import Engine
from nanochat.infer.fit_prompt import fit_prompt
from nanochat.infer.numba_decode import numba_decoder
from nanochat.run_folder import CHAT_PAGE, RunFolder
from nanochat.system import paths
from nanochat.system.files import UserError
from nanochat.system.log import clock, is_terminal, say
from nanochat.train import checkpoint
from tasks import mixture

NUM_QUESTIONS = 3  # questions that are asked at the end
LOOKED_AT = 20  # conversations of each file that are searched for questions
ANSWER_TOKENS = 96  # length limit of an answer
FIRST_PORT, PORTS = 8000, 100  # ports that are tried


@contextlib.contextmanager
def page_of_the_run(out: Path) -> Iterator[None]:
    """Shows the page /run in its own process while the run trains; no page if the output is not a terminal."""
    if not is_terminal(sys.stdout):
        yield
        return
    port = free_port()
    words = [sys.executable, "-m", "scripts.chat_web", "--live", f"--port={port}", f"--parent={os.getpid()}",
             "--drain=1"]
    # stdout is dropped, because its first line would appear inside a progress line; errors (stderr) are shown.
    page = subprocess.Popen(words, cwd=paths.REPO, env={**os.environ, "NANOCHAT_BASE_DIR": str(out)},
                            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    say(f"See it learn: http://127.0.0.1:{port}/run   (from another machine: ssh -L {port}:localhost:{port} THIS-ONE)")
    try:
        yield
    finally:
        page.terminate()
        page.wait()


def show(folder: RunFolder, has_own_conversations: bool = False) -> None:
    """Prints the results of the run. The questions at the end are the first of the user's own conversations, if any."""
    os.environ["NANOCHAT_BASE_DIR"] = str(folder.path)  # the functions below find the run by it
    stage, tag = newest_model(folder)
    if table := exam_table():
        say("\n" + table)
    records = folder.records().values()
    say(f"\n{len(records)} stages in {clock(sum(record['seconds'] for record in records))}")
    for question, answer in answers(stage, tag, own_questions(folder) if has_own_conversations
                                    else QUESTIONS[:NUM_QUESTIONS]):
        say(f"> {question}\n{answer}")
    say(f"\nThe report: {folder.path / 'report/report.md'}")
    if (page := folder.path / CHAT_PAGE).exists():
        say(f"The model in one file, to send to a friend: {page}")
    say(f"To talk to it: {talk_command(folder, stage, tag, free_port())}")


def newest_model(folder: RunFolder) -> tuple[str, str]:
    """(stage, tag) of the newest model of the last stage that has one."""
    for stage in reversed(paths.STAGES):
        steps = (folder.path / "checkpoints" / stage).glob("*/step_*")
        if newest := max(steps, key=lambda path: path.stat().st_mtime, default=None):
            return stage, newest.parent.name
    raise UserError(f"there is no model in {folder.path / 'checkpoints'}; run bash speedrun.sh again")


def exam_table() -> str:
    """Accuracy of every exam by stage, in at most 80 columns; "" if no exam was taken."""
    scores, means = report.exam_scores([])
    if not scores and not means:
        return ""
    rows = [["", *report.HEADS]]
    for task, by_stage in scores.items():
        for name, key in ((task, "accuracy"), (f"{task}: refused", "refused")):
            shares = {stage: f"{score[key]:.3f}" for stage, score in by_stage.items() if key in score}
            rows += [[name, *report.in_order(shares, "-")]] if shares else []
    rows += [[name, *report.in_order({stage: text.split(" ")[0] for stage, text in by_stage.items()}, "-")]
             for name, by_stage in means.items()]
    return "\n".join(f"{name[:32]:32}" + "".join(f"{cell:>10}" for cell in cells) for name, *cells in rows)


def own_questions(folder: RunFolder) -> list[str]:
    by_file = []
    for path in mixture.chat_files(folder.path / "data").values():
        rows = islice(conversations.iterate(path), LOOKED_AT)
        asked = (message["content"] for row in rows for message in row["messages"][:2] if message["role"] == "user")
        by_file.append(dict.fromkeys(text for text in asked if isinstance(text, str)))
    # One question from each file, then the second from each: one long file must not hide the others.
    in_turn = [text for texts in zip_longest(*by_file) for text in texts if text]
    return in_turn[:NUM_QUESTIONS] or list(QUESTIONS[:NUM_QUESTIONS])


def answers(stage: str, tag: str, questions: Sequence[str]) -> list[tuple[str, str]]:
    """(question, greedy answer). A base model has not learnt the chat format: it continues the question as a text."""
    model, tokenizer, _ = checkpoint.load_model(stage, tag)
    engine = Engine(model, tokenizer, tool=sandbox.calculate, max_rows=NUM_QUESTIONS, decoder=numba_decoder)
    room = min(ANSWER_TOKENS, model.config.sequence_len // 2)  # half of a short context is for the question
    if stage == "base":
        prompts = [[tokenizer.bos_id, *tokenizer.encode(question)[-room:]] for question in questions]
    else:
        prompts = [fit_prompt(tokenizer, [{"role": "user", "content": question}], model.config.sequence_len, room)[0]
                   for question in questions]
    # Greedy, so that the same run shows the same answers again. Calls of the calculator come before the text.
    texts = ["".join(f"[{call} = {result}] " for call, result in answer.tool_calls) + answer.text.strip()
             for [answer] in engine.generate(prompts, max_tokens=room, temperature=0.0)]
    return list(zip(questions, texts, strict=True))


def free_port() -> int:
    """The first free port from 8000 to 8099. UserError if none is free."""
    for port in range(FIRST_PORT, FIRST_PORT + PORTS):
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue
    raise UserError(f"no port from {FIRST_PORT} to {FIRST_PORT + PORTS - 1} is free; start the page with one of yours: "
                    "python -m scripts.chat_web -p PORT")


def talk_words(stage: str, tag: str, port: int) -> list[str]:
    """Arguments of the chat server with the newest model and, for comparison, the models of earlier stages."""
    others = [other for other in reversed(paths.STAGES) if other != stage and checkpoint.steps(
        paths.checkpoint_dir(other, tag))]
    words = ["-m", "scripts.chat_web", "-i", stage, "-g", tag, *([f"--also={','.join(others)}"] if others else [])]
    return words if port == FIRST_PORT else [*words, "-p", str(port)]


def talk_command(folder: RunFolder, stage: str, tag: str, port: int) -> str:
    """The command of the chat server, for pasting in any folder."""
    python = paths.REPO / ".venv/bin/python"
    program = str(python if python.exists() else sys.executable)
    return (f"cd {shlex.quote(str(paths.REPO))} && NANOCHAT_BASE_DIR={shlex.quote(str(folder.path))} "
            + shlex.join([program, *talk_words(stage, tag, port)]))


def serve(folder: RunFolder) -> None:
    """Opens the chat page of the newest model, until Ctrl-C."""
    port = free_port()
    if port != FIRST_PORT:
        say(f"port {FIRST_PORT} is taken, so the page is on port {port}")
    say("Next comes the chat page. To see it again, run the same command again: no finished stage is repeated.")
    words = [sys.executable, *talk_words(*newest_model(folder), port)]
    try:
        raise SystemExit(subprocess.run(words, cwd=paths.REPO).returncode)
    except KeyboardInterrupt:
        raise SystemExit(0) from None
