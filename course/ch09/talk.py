"""Chapter 9: the same answer without a cache and with yours, and the seconds that each takes.

    python -m course.ch09.talk "tell me a story about a penguin"

`answer` is the loop around a model: read, take the likeliest next token, repeat.
"""
import time
from collections.abc import Callable
from typing import Any

import torch

from course.ch09 import exercise
from nanochat.infer import Engine
from nanochat.model import GPT
from nanochat.system import cli
from nanochat.system.cli import flag
from nanochat.tokenizer import Tokenizer, chat
from nanochat.train import checkpoint


@torch.no_grad()
def answer(model: GPT, prompt: list[int], num_tokens: int, cache: Any = None, chunk: int = 1 << 30) -> list[int]:
    """The `num_tokens` likeliest tokens after `prompt`, one after the other.

    Without a cache the model reads the whole text again for every token. With one it reads what is new: the prompt in
    pieces of `chunk` tokens, then a token at a time.
    """
    ids, num_read = list(prompt), 0
    logits = torch.empty(0)
    while True:
        if cache is None:
            logits = model(torch.tensor([ids]))
        while cache is not None and num_read < len(ids):
            new = ids[num_read:num_read + chunk]
            positions = torch.arange(num_read, num_read + len(new))[None]
            # Smear mixes the embedding of the token in front into each token, so the model asks for that token.
            previous = torch.tensor([[ids[num_read - 1] if num_read else -1]])
            logits = model(torch.tensor([new]), cache, positions, previous_ids=previous)
            num_read += len(new)
        if len(ids) == len(prompt) + num_tokens:
            return ids[len(prompt):]
        ids.append(int(logits[0, -1].argmax()))


def shown(tokenizer: Tokenizer, ids: list[int]) -> str:
    """The answer up to <|assistant_end|>. Its time is that of all ids: every run shall write the same number."""
    end = tokenizer.special_id("<|assistant_end|>")
    length = ids.index(end) + 1 if end in ids else len(ids)
    hidden = f" (and {len(ids) - length} tokens behind the end, which are not shown)" if length < len(ids) else ""
    return tokenizer.decode(ids[:length]) + hidden


def flags(argv: list[str] | None, doc: str | None) -> cli.Args:
    return cli.parse(argv, doc, **checkpoint.flags("sft"), max_tokens=flag(120, "tokens of the answer", at_least=1),
                     question=flag("tell me a story about a penguin", "what to ask", takes_words=True))


def compare(args: cli.Args, caches: dict[str, Callable[[int], Any] | None]) -> None:
    """Prints the model's answer with each cache (None: without one), and how long it took."""
    model, tokenizer, _ = checkpoint.load_model(args.source, args.model_tag, args.step)
    model.eval()
    prompt = chat.render_prompt(tokenizer, {"messages": [{"role": "user", "content": args.question}]})
    num_tokens = min(args.max_tokens, model.config.sequence_len - len(prompt))
    for name, make in caches.items():
        began = time.perf_counter()
        ids = answer(model, prompt, num_tokens, make(model.config.n_layer) if make else None)
        print(f"{name}: {num_tokens / (time.perf_counter() - began):.0f} tokens a second\n{shown(tokenizer, ids)}\n")


def main(argv: list[str] | None = None) -> None:
    args = flags(argv, __doc__)
    compare(args, {"without a cache": None, "with your cache": exercise.Cache})
    model, tokenizer, _ = checkpoint.load_model(args.source, args.model_tag, args.step)
    engine = Engine(model.eval(), tokenizer, max_rows=16)
    prompt = chat.render_prompt(tokenizer, {"messages": [{"role": "user", "content": args.question}]})
    began = time.perf_counter()
    engine.generate([prompt], samples=16, max_tokens=args.max_tokens, stop_ids=[])
    print(f"the engine, 16 answers at once: {16 * args.max_tokens / (time.perf_counter() - began):.0f} tokens a second")


if __name__ == "__main__":
    cli.run(main)
