"""Talk to a model in the terminal.

    python -m scripts.chat_cli                               # the SFT model, interactive
    python -m scripts.chat_cli -i rl -p "What is 12 * 34?"   # one answer on stdout
    python -m scripts.chat_cli -i base -p "Once upon a time" # a base model goes on with the text

Ctrl-C stops an answer; /new starts over, /quit (or Ctrl-D) leaves. Past the context the oldest exchanges are forgotten.
"""
import contextlib
import random
from collections.abc import Callable, Iterator

from nanochat import sandbox
from nanochat.infer import Engine, Event
from nanochat.infer.context import fit_prompt
from nanochat.system import cli, paths, runtime
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.train import checkpoint

COMMANDS = "/new starts over, /quit leaves, Ctrl-C stops an answer"


def flags(argv: list[str] | None):
    return cli.parse(
        argv, __doc__,
        prompt=flag("", "answer this and exit", short="p"),
        source=flag("sft", "the stage whose model talks", choices=paths.STAGES, short="i"),
        model_tag=flag("", "name of the checkpoint folder; default: the only one", short="g"),
        step=flag(-1, "checkpoint step; −1 = the newest", at_least=0, short="s"),
        temperature=flag(0.6, "0 = always the likeliest token", at_least=0, at_most=2, short="t"),
        top_k=flag(50, "choose among this many tokens", at_least=1, short="k"),
        max_tokens=flag(512, "length limit of an answer", at_least=1, short="m"),
        seed=flag(-1, "−1 = another one every time", at_least=0),
        dtype=flag("", "of activations and weights: float32, bfloat16, float16", short="d"),
        device_type=flag("", "cuda, mps or cpu"))


def main(argv: list[str] | None = None) -> None:
    args = flags(argv)
    run = runtime.start(args.device_type, args.dtype)
    step = None if args.step < 0 else args.step
    model, tokenizer, info = checkpoint.load_model(args.source, args.model_tag, step, run.device, run.dtype)
    engine = Engine(model.eval().to(run.dtype), tokenizer, sandbox.calculate, max_rows=1)
    draw = random.Random(None if args.seed < 0 else args.seed)

    def answer(messages: list[dict]) -> dict:
        """The assistant's message, written to stdout while it comes."""
        if args.source == "base":  # knows no chat: goes on with the newest text
            context = tokenizer.encode(messages[-1]["content"])[-(model.config.sequence_len // 2):]
            prompt = [tokenizer.bos_id, *context]
        else:
            prompt, _ = fit_prompt(tokenizer, messages, model.config.sequence_len, args.max_tokens)
        return speak(engine.stream(prompt, max_tokens=args.max_tokens, temperature=args.temperature, top_k=args.top_k,
                                   seed=draw.getrandbits(31)))

    if args.prompt:
        answer([{"role": "user", "content": args.prompt}])
    else:
        print(f"nanochat {args.source} {info['tag']}: {COMMANDS}")
        converse(answer)


def converse(answer: Callable[[list[dict]], dict]) -> None:
    """Read, answer, repeat."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (gives input() a history and cursor keys)
    messages: list[dict] = []
    while True:
        try:
            text = input("\n> ").strip()
        except EOFError:
            return print()
        except KeyboardInterrupt:
            print(f"\n({COMMANDS})")
            continue
        if text in ("/quit", "/exit"):
            return
        if text == "/new":
            messages = []
            print("(a new conversation)")
        elif text.startswith("/"):
            print(f"({COMMANDS})")
        elif text:
            messages.append({"role": "user", "content": text})
            try:
                messages.append(answer(messages))
            except UserError as error:  # too long a message: say so, forget it
                messages.pop()
                print(f"error: {error}")


def speak(events: Iterator[Event]) -> dict:
    """Print events as they come, tool calls as [expression = result]; Ctrl-C ends them. Returns them as a message."""
    parts: list[dict] = []
    marks = {"text": ("", ""), "python": ("[", ""), "python_output": (" = ", "]")}
    kind = "text"
    with contextlib.closing(events), contextlib.suppress(KeyboardInterrupt):
        for event in events:
            new = "python_output" if event.kind == "output" else event.kind
            if new != kind:
                print(marks[kind][1] + marks[new][0], end="")
                kind = new
                parts.append({"type": kind, "text": ""})
            if event.text:
                parts = parts or [{"type": "text", "text": ""}]
                parts[-1]["text"] += event.text
                print(event.text, end="", flush=True)
    print(marks[kind][1])
    return {"role": "assistant", "content": parts or ""}


if __name__ == "__main__":
    cli.run(main)
