"""How well the tokenizer compresses: bytes per token on texts of several kinds, compared with GPT-2 and GPT-4.

    python -m scripts.tok_eval

With more bytes per token the same text has fewer tokens, so a model reads more text for the same work. The sample texts
are in tok_eval.txt; a vocabulary learnt from English needs many tokens for texts in other scripts.
The vocabularies of GPT-2 and GPT-4 come from tiktoken's cache or from the network, or are left out.
"""
import hashlib
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from nanochat.data import shards
from nanochat.system import cli, log, paths, results
from nanochat.tokenizer import Tokenizer

PEERS = {"gpt2": "GPT-2", "cl100k_base": "GPT-4"}
TIMEOUT_SECONDS = 20  # for a network that does not answer


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(argv, __doc__, documents=cli.flag(500, "documents of each split that are measured", at_least=1))
    started = time.monotonic()
    tokenizer = Tokenizer.load(paths.tokenizer_dir())
    digest = hashlib.sha256((paths.tokenizer_dir() / "tokenizer.json").read_bytes()).hexdigest()
    # 1. The texts: the samples, on which no tokenizer was trained, and the beginning of this run's own text.
    texts = {**samples(),
             "training text": list(islice(shards.iter_texts(shards.train_shards()), args.documents)),
             "validation text": list(islice(shards.iter_texts(shards.validation_shards()), args.documents))}
    # 2. The tokenizers, as functions from texts to the number of tokens.
    encoders: dict[str, Callable[[list[str]], int]] = {"ours": lambda texts: len(tokenizer.encode_batch(texts)[0])}
    vocab_sizes = {"ours": tokenizer.vocab_size}
    for name, title in PEERS.items():
        if peer := from_tiktoken(name):
            encoders[title] = partial(count_tokens, peer)
            vocab_sizes[title] = peer.n_vocab
        else:
            log.say(f"{title}'s vocabulary is not in tiktoken's cache and could not be fetched: left out")
    # 3. The table.
    rows = []
    for name, documents in texts.items():
        num_bytes = sum(len(text.encode()) for text in documents)
        rows.append({"text": name, "bytes": num_bytes,
                     "bytes_per_token": {title: num_bytes / count(documents) for title, count in encoders.items()}})
    show(rows, vocab_sizes)
    results.write(paths.results_dir("tokenizer") / "tok_eval.json", {
        "tokenizer": digest, "vocab_sizes": vocab_sizes, "rows": rows}, identity=("tokenizer",))
    log.write_run("tok_eval", seconds=time.monotonic() - started, flags=vars(args))


def samples() -> dict[str, list[str]]:
    """The sample texts by name; in the file each text follows a line "=== name"."""
    content = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8")
    _, *names_and_texts = re.split(r"^=== (.+)\n", content, flags=re.MULTILINE)
    return {name: [text] for name, text in zip(names_and_texts[::2], names_and_texts[1::2])}


def from_tiktoken(name: str) -> Any:
    """tiktoken's encoding, or None when it is not installed or cannot get the file in time."""
    encodings: list[Any] = []

    def get() -> None:
        try:
            import tiktoken
            encodings.append(tiktoken.get_encoding(name))
        except (ImportError, OSError, ValueError):  # errors of `requests` are OSErrors; ValueError: a damaged file
            pass

    # In a thread, because tiktoken itself waits without a time limit; a daemon thread does not keep the program alive.
    thread = threading.Thread(target=get, daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    return encodings[0] if encodings else None


def count_tokens(encoding: Any, texts: list[str]) -> int:
    """The tokens of tiktoken's encoding. "Ordinary" means that names of special tokens are text, as in our encoding."""
    return sum(map(len, encoding.encode_ordinary_batch(texts)))


def show(rows: list[dict[str, Any]], vocab_sizes: dict[str, int]) -> None:
    """Prints the table, with the best number of each row in bold."""
    table = Table(title="bytes per token (more is better)")
    for heading in ("text", "bytes", *(f"{title} ({size:,})" for title, size in vocab_sizes.items())):
        table.add_column(heading, justify="left" if heading == "text" else "right")
    for row in rows:
        values = row["bytes_per_token"].values()
        cells = [f"[bold]{value:.3f}[/]" if value == max(values) else f"{value:.3f}" for value in values]
        table.add_row(row["text"], f"{row['bytes']:,}", *cells)
    Console().print(table)


if __name__ == "__main__":
    cli.run(main)
