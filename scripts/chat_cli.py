"""Talk to a model in the terminal.

    python -m scripts.chat_cli                               # the SFT model, interactive
    python -m scripts.chat_cli -i rl "What is 12 * 34?"      # one answer on stdout
    python -m scripts.chat_cli -i base -p "Once upon a time" # a base model continues the text
    python -m scripts.chat_cli --stages "Who are you?"       # base, mid, sft and rl answer, one below the other
    echo "Who are you?" | python -m scripts.chat_cli         # the question on stdin
    python -m scripts.chat_cli -p "Sum this up:" < letter.txt   # a question about the text on stdin

Ctrl-C stops an answer; /help lists the commands. If the context is full, the oldest messages are dropped.
"""
import contextlib
import difflib
import os
import random
import select
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any, cast

from nanochat.system.log import is_terminal
from nanochat.system.terminal import BOLD, DIM, PLAIN, Paper, erase_line, styled, unseen_typing

if __name__ == "__main__" and is_terminal(sys.stderr):  # before torch, which takes seconds to load
    print("loading the model …", end="\r", file=sys.stderr, flush=True)

from nanochat import sandbox
from nanochat.infer import Engine, Event
from nanochat.infer.fit_prompt import fit_prompt
from nanochat.infer.numba_decode import numba_decoder
from nanochat.infer.quantize import FORMS, packer
from nanochat.system import cli, paths
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.system.runtime import Runtime
from nanochat.system.runtime import start as start_runtime
from nanochat.train import checkpoint

Message = dict[str, Any]  # a message of the tokenizer's chat format
HELP = '''/new             a new conversation; the system prompt stays
/again           another answer to the last question
/system TEXT     a new conversation with this system prompt; without TEXT: with none
/temperature 0.6, /topk 50
/quit, Ctrl-D    the end
Ctrl-C stops an answer. A text of many lines can be pasted. A line that ends in \\ goes on in the next one; \"\"\" on a
line of its own begins and ends a text of many lines.'''
COMMANDS = ("/help", "/new", "/clear", "/again", "/system", "/temperature", "/topk", "/quit", "/exit")
HISTORY_LINES = 1000  # typed lines that are kept for the next session
STDIN_SECONDS = 1.0  # silence on stdin after which the program says that it waits


def flags(argv: list[str] | None) -> cli.Args:
    return cli.parse(
        argv, __doc__, **checkpoint.flags("sft"),
        prompt=flag("", "answer this and exit; the text on stdin follows it unless stdin is a terminal; - = stdin "
                        "alone. Words without a flag are the prompt as well", short="p", takes_words=True),
        stages=flag(False, "the newest model of every stage answers, in the order of the training"),
        temperature=flag(0.6, "0 = always the most probable token", at_least=0, at_most=2, short="t"),
        top_k=flag(50, "choose among this many tokens", at_least=1, short="k"),
        max_tokens=flag(512, "length limit of an answer", at_least=1, short="m"),
        seed=flag(-1, "random seed; −1 = a new seed for every session", at_least=0),
        dtype=flag("", "dtype of activations and weights: float32, bfloat16, float16", short="d"),
        quantize=flag("", "weights in 8 or 4 bits (CPU)", choices=("", *FORMS)),
        device_type=flag("", "cuda, mps or cpu"))


def main(argv: list[str] | None = None) -> None:
    args = flags(argv)
    runtime = start_runtime(args.device_type, args.dtype)
    stages = stages_to_ask(args) if args.stages else [args.source]
    speakers = {stage: speaker(stage, args, runtime) for stage in stages}

    def answer(messages: list[Message]) -> Message:
        """Prints every stage's answer; returns the last stage's, with which the conversation continues."""
        for stage, (speak_up, tag) in speakers.items():
            if args.stages:
                print(styled(f"{stage} {tag}:", BOLD, sys.stdout), flush=True)
            message = speak_up(messages)
        return message

    erase_line(sys.stderr)  # "loading the model …"
    if args.prompt or not (sys.stdin and sys.stdin.isatty()):
        text = "\n\n".join(filter(None, ["" if args.prompt == "-" else args.prompt, piped()]))
        if not text:
            raise UserError('there is no question: give one with -p "…" or on stdin')
        answer([{"role": "user", "content": text}])
    else:
        names = ", ".join(f"{stage} {tag}" for stage, (_, tag) in speakers.items())
        print(f"nanochat {names}: /help lists the commands, Ctrl-C stops an answer, Ctrl-D ends")
        with kept_history():
            converse(answer, args)


def stages_to_ask(args: cli.Args) -> list[str]:
    """The stages that have a model. UserError for flags that select a single model."""
    if named := {"source", "step"} & args.given:
        raise UserError(f"--stages asks the newest model of every stage; leave out --{sorted(named)[0]}")
    found = [stage for stage in paths.STAGES if any(
        checkpoint.steps(folder) for folder in paths.checkpoint_dir(stage).glob(args.model_tag or "*"))]
    return found or [args.source]  # loading it raises the error that says what is missing


def speaker(stage: str, args: cli.Args, runtime: Runtime) -> tuple[Callable[[list[Message]], Message], str]:
    """(a function that answers on stdout while the answer comes, the model's tag)."""
    model, tokenizer, info = checkpoint.load_model(
        stage, args.model_tag, args.step, runtime.device, runtime.dtype, packer(args.quantize, runtime.device))
    # The weights are cast once; otherwise the model casts fp32 weights at every use. With the prefix cache a turn reads
    # only the tokens that are new since the last turn.
    engine = Engine(model.eval().to(runtime.dtype), tokenizer, sandbox.calculate, max_rows=1, prefix_cache=True,
                    decoder=numba_decoder)
    seeds = random.Random(None if args.seed < 0 else args.seed)
    context = model.config.sequence_len

    def answer(messages: list[Message]) -> Message:
        if stage == "base":  # it has not learnt the chat format, so it continues the newest text
            prompt = [tokenizer.bos_id, *tokenizer.encode(str(messages[-1]["content"]))[-(context // 2):]]
        else:
            prompt, dropped = fit_prompt(tokenizer, messages, context, args.max_tokens)
            if dropped:
                print(f"(the oldest {dropped} messages no longer fit the context)", file=sys.stderr)
        return speak(engine.stream(prompt, max_tokens=args.max_tokens, temperature=args.temperature, top_k=args.top_k,
                                   seed=seeds.getrandbits(31)), len(prompt), context)

    return answer, info["tag"]


def piped() -> str:
    """The text on stdin; "" if stdin is a terminal, or closed."""
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    with contextlib.suppress(OSError, ValueError):  # stdin is no file of the system, or select() does not support it
        if not select.select([sys.stdin], [], [], STDIN_SECONDS)[0]:
            print("(waiting for the end of stdin; add </dev/null if there is nothing on it)", file=sys.stderr)
    return sys.stdin.read().strip()


@contextlib.contextmanager
def kept_history() -> Iterator[None]:
    """Line editing with the lines of earlier sessions, which are kept in a file that only the user can read."""
    try:
        import readline
    except ImportError:  # a Python without readline: input() then has no cursor keys
        yield
        return
    # Python turns this off when it loads readline; then every line of a pasted text would be a separate question.
    readline.parse_and_bind("set enable-bracketed-paste on")
    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    path = state / "nanochat" / "history"
    with contextlib.suppress(OSError):  # the first session has no file
        readline.read_history_file(path)
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
            readline.write_history_file(path)
        except OSError as error:
            print(f"(the typed lines are not kept for the next session: {error})", file=sys.stderr)


def converse(answer: Callable[[list[Message]], Message], args: cli.Args) -> None:
    """Reads, answers and repeats until the user leaves."""
    answer = unseen_typing()(answer)
    system: list[Message] = []
    messages: list[Message] = []
    while True:
        try:
            text = read()
        except EOFError:
            return print()
        except KeyboardInterrupt:
            note("\n/help lists the commands, Ctrl-D ends")
            continue
        command, _, value = text.partition(" ")
        if command in ("/quit", "/exit"):
            return
        if command == "/again" and messages:  # the same question with another seed
            text = [str(message["content"]) for message in messages if message["role"] == "user"][-1]
            messages = messages[:-2]
        elif command in ("/new", "/clear", "/system"):
            messages = []
            if command == "/system":
                system = [{"role": "system", "content": value.strip()}] if value.strip() else []
            note("a new conversation, " + (f"system prompt: {system[0]['content']}" if system else "no system prompt"))
            continue
        elif text.startswith("/"):
            note(set_value(args, command, value))
            continue
        if text:
            question: Message = {"role": "user", "content": text}
            try:
                messages += [question, answer([*system, *messages, question])]
            except UserError as error:  # the message is too long for the context: it is left out, the chat goes on
                print(f"error: {error}")


def note(text: str) -> None:
    """Prints a message of the program, dimmed, to tell it from the model's text."""
    print(styled(text, DIM, sys.stdout))


def read() -> str:
    """The next input: a line, a pasted text, lines joined by a backslash at their ends, or the text between two
    \"\"\" lines."""
    # \1 and \2 tell readline that the characters between them have no width.
    line = input("\n" + ("> " if styled(">", BOLD, sys.stdout) == ">" else f"\1{BOLD}\2> \1{PLAIN}\2"))
    if line.strip() == '"""':
        return "\n".join(iter(lambda: input("… "), '"""')).strip()
    while line.endswith("\\"):
        line = line[:-1] + "\n" + input("… ")
    return line.strip()


def set_value(args: cli.Args, command: str, value: str) -> str:
    """Executes /temperature and /topk; returns a sentence about the result, or the help."""
    name = {"/temperature": "temperature", "/topk": "top_k"}.get(command)
    if name is None:
        close = difflib.get_close_matches(command, COMMANDS, n=1)
        words = {"/help": HELP, "/again": "there is no answer yet"}
        return words.get(command, f"there is no {command}; " + (f"did you mean {close[0]}?" if close else "try /help"))
    low, high, kind = (0, 2, float) if name == "temperature" else (1, 10**6, int)
    problem = f"{value} is not possible; " if value else ""
    with contextlib.suppress(ValueError):
        if low <= kind(value) <= high:
            setattr(args, name, kind(value))
            problem = ""
    return f"{problem}{command[1:]} is {getattr(args, name)}; it can be {low} to {high}"


def show_event(event: Event, paper: Paper, parts: list[dict[str, str]]) -> None:
    """Prints one event and adds it to the message's parts."""
    kind = parts[-1]["type"] if parts else "text"
    new = "python_output" if event.kind == "output" else event.kind
    if new != kind:
        if new == "python":
            paper.fresh_line()
        paper.write("]\n" if kind == "python_output" else "", DIM)
        paper.write({"text": "", "python": "[", "python_output": " = "}[new], DIM)
    if new != kind or event.text and not parts:
        parts.append({"type": new, "text": ""})
    if event.text:
        parts[-1]["text"] += event.text
        paper.write(event.text, "" if new == "text" else DIM)


def speak(events: Iterator[Event], prompt_size: int = 0, context: int = 0) -> Message:
    """Prints events as they arrive, tool calls as [expression = result], until the end or Ctrl-C; returns a message.

    On a terminal a note follows: tokens, speed, and how much of the context is used.
    """
    paper, parts = Paper(), list[dict[str, str]]()
    num_tokens, started, first, end = 0, time.monotonic(), 0.0, ""
    with contextlib.closing(cast(Generator[Event, None, None], events)):
        try:
            for event in events:
                first = first or time.monotonic()
                num_tokens += event.token_id >= 0  # −1: there was no room for any token
                show_event(event, paper, parts)
        except KeyboardInterrupt:
            end = "stopped, "
    paper.write("]" if parts and parts[-1]["type"] == "python_output" else "", DIM)
    paper.end()
    if is_terminal(sys.stdout) and sys.stdin and sys.stdin.isatty():
        rate = (num_tokens - 1) / max(time.monotonic() - first, 1e-9) if num_tokens > 1 else 0
        note(f"({end}{num_tokens} tokens, {rate:,.0f} per second after {max(first - started, 0):.1f} s, "
             f"{prompt_size + num_tokens:,} of {context:,} tokens of context in use)")
    return {"role": "assistant", "content": parts or ""}


if __name__ == "__main__":
    cli.run(main)
