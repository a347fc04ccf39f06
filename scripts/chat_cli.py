"""Talk to a model in the terminal.

    python -m scripts.chat_cli                               # the SFT model, interactive
    python -m scripts.chat_cli -i rl -p "What is 12 * 34?"   # one answer on stdout
    python -m scripts.chat_cli -i base -p "Once upon a time" # a base model continues the text
    echo "Who are you?" | python -m scripts.chat_cli         # the question on stdin

Ctrl-C stops an answer; /help lists the commands. Past the context the oldest exchanges are forgotten.
"""
import contextlib
import random
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

from nanochat import sandbox
from nanochat.infer import Engine, Event
from nanochat.infer.fit_prompt import fit_prompt
from nanochat.infer.quantize import FORMS, quantized
from nanochat.system import cli
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.system.runtime import start as start_runtime
from nanochat.train import checkpoint

COMMANDS = "/help, /new, /again, /system TEXT, /temperature 0.6, /topk 50, /quit; Ctrl-C stops an answer"
HELP = f'''{COMMANDS}
A line that ends in \\ goes on in the next one; \"\"\" on a line of its own begins and ends a text of many lines.'''
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # a model's bytes must not steer the terminal
Message = dict[str, Any]


def flags(argv: list[str] | None) -> cli.Args:
    return cli.parse(
        argv, __doc__, **checkpoint.flags("sft"),
        prompt=flag("", "answer this and exit; - = the text on stdin", short="p"),
        temperature=flag(0.6, "0 = always the likeliest token", at_least=0, at_most=2, short="t"),
        top_k=flag(50, "choose among this many tokens", at_least=1, short="k"),
        max_tokens=flag(512, "length limit of an answer", at_least=1, short="m"),
        seed=flag(-1, "−1 = a new one every time", at_least=0),
        dtype=flag("", "of activations and weights: float32, bfloat16, float16", short="d"),
        quantize=flag("", "weights in fewer bits (CPU)", choices=("", *FORMS)),
        device_type=flag("", "cuda, mps or cpu"))


def main(argv: list[str] | None = None) -> None:
    args = flags(argv)
    runtime = start_runtime(args.device_type, args.dtype)
    model, tokenizer, info = checkpoint.load_model(
        args.source, args.model_tag, args.step, runtime.device, runtime.dtype)
    # Cast once: the model would cast its fp32 weights at every use.
    engine = Engine(quantized(model.eval().to(runtime.dtype), args.quantize), tokenizer, sandbox.calculate, max_rows=1,
                    prefix_cache=True, numba_decode=True)
    seeds = random.Random(None if args.seed < 0 else args.seed)

    def answer(messages: list[Message]) -> Message:
        """The assistant's message, written to stdout while it comes."""
        if args.source == "base":  # it has not learnt the chat format, so it continues the newest text
            context = tokenizer.encode(str(messages[-1]["content"]))[-(model.config.sequence_len // 2):]
            prompt = [tokenizer.bos_id, *context]
        else:
            prompt, dropped = fit_prompt(tokenizer, messages, model.config.sequence_len, args.max_tokens)
            if dropped:
                print(f"(the oldest {dropped} messages no longer fit the context)", file=sys.stderr)
        return speak(engine.stream(prompt, max_tokens=args.max_tokens, temperature=args.temperature, top_k=args.top_k,
                                   seed=seeds.getrandbits(31)))

    if args.prompt or not sys.stdin.isatty():
        text = sys.stdin.read().strip() if args.prompt in ("", "-") else args.prompt
        if not text:
            raise UserError('there is no question: give one with -p "…" or on stdin')
        answer([{"role": "user", "content": text}])
    else:
        print(f"nanochat {args.source} {info['tag']}: {COMMANDS}")
        converse(answer, args)


def converse(answer: Callable[[list[Message]], Message], args: cli.Args) -> None:
    """Reads, answers and repeats until the user leaves."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (gives input() a history and cursor keys)
    system: list[Message] = []
    messages: list[Message] = []
    while True:
        try:
            text = read()
        except EOFError:
            return print()
        except KeyboardInterrupt:
            print(f"\n({COMMANDS})")
            continue
        command, _, value = text.partition(" ")
        if command in ("/quit", "/exit"):
            return
        if command == "/again" and messages:  # the same question, and another random number
            text = [str(message["content"]) for message in messages if message["role"] == "user"][-1]
            messages = messages[:-2]
        elif command in ("/new", "/clear", "/system"):
            messages = []
            system = [{"role": "system", "content": value}] if command == "/system" and value else []
            print("(a new conversation)")
            continue
        elif text.startswith("/"):
            print(f"({set_value(args, command, value)})")
            continue
        if text:
            question: Message = {"role": "user", "content": text}
            try:
                messages += [question, answer([*system, *messages, question])]
            except UserError as error:  # the message is too long for the context: it is left out, the chat goes on
                print(f"error: {error}")


def read() -> str:
    """The next input: a line, lines joined by a backslash at their ends, or the text between two \"\"\" lines."""
    line = input("\n> ")
    if line.strip() == '"""':
        return "\n".join(iter(lambda: input("… "), '"""')).strip()
    while line.endswith("\\"):
        line = line[:-1] + "\n" + input("… ")
    return line.strip()


def set_value(args: cli.Args, command: str, value: str) -> str:
    """Carries out /temperature and /topk; returns a sentence about the result, or the help."""
    names = {"/temperature": ("temperature", 0, 2, float), "/topk": ("top_k", 1, 10**6, int)}
    if command not in names:
        return HELP if command == "/help" else f"there is no {command}: {COMMANDS}"
    name, low, high, kind = names[command]
    with contextlib.suppress(ValueError):
        if low <= kind(value) <= high:
            setattr(args, name, kind(value))
    return f"{command[1:]} is {getattr(args, name)}; it can be {low} to {high}"


def speak(events: Iterator[Event]) -> Message:
    """Prints events as they come, tool calls as [expression = result]; Ctrl-C ends them. Returns them as a message."""
    parts: list[dict[str, str]] = []
    brackets = {"text": ("", ""), "python": ("[", ""), "python_output": (" = ", "]")}  # around a part of each kind
    kind = "text"
    with contextlib.closing(events), contextlib.suppress(KeyboardInterrupt):
        for event in events:
            new_kind = "python_output" if event.kind == "output" else event.kind
            if new_kind != kind:
                print(brackets[kind][1] + brackets[new_kind][0], end="")
                kind = new_kind
                parts.append({"type": kind, "text": ""})
            if event.text:
                parts = parts or [{"type": "text", "text": ""}]
                parts[-1]["text"] += event.text
                print(CONTROL.sub("\ufffd", event.text), end="", flush=True)
    print(brackets[kind][1])
    return {"role": "assistant", "content": parts or ""}


if __name__ == "__main__":
    cli.run(main)
