"""Learns the tokenizer from the training shards.

    python -m scripts.tok_train --max_chars=2000000000 --vocab_size=65536

The ids of the tokens go to out/tokenizer/, in Hugging Face's format.
"""
import time
from collections.abc import Iterable, Iterator
from itertools import islice

from nanochat.data import shards
from nanochat.system import cli, log, paths
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer
from nanochat.train import checkpoint

COMPRESSION_SAMPLE = 1000  # documents


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__,
        max_chars=flag(2_000_000_000, "characters to learn from", at_least=1),
        doc_cap=flag(10_000, "characters of one document", at_least=1),
        vocab_size=flag(65_536, "tokens, with the 256 bytes and the 9 specials", at_least=265, at_most=1 << 20),
        digits=flag(2, "longest run of digits in a token", choices=(1, 2, 3)),
        overwrite=flag(False, "replace the tokenizer that is there; models keep theirs in their checkpoints"))
    claim(args.overwrite)
    started = time.monotonic()
    files = shards.train_shards()
    num_documents = sum(shards.open_shard(path).metadata.num_rows for path in files)
    Tokenizer.train(["warm up, up"], 270)
    compile_seconds = time.monotonic() - started
    log.say(f"loops ready after {compile_seconds:.1f} s (compiled at the first use, about 10 s; then only loaded)")
    seen = Seen()
    with log.Progress("tok_train", num_documents, "documents") as bar:
        tokenizer = Tokenizer.train(seen.texts(shards.iter_texts(files), args.max_chars, args.doc_cap, bar),
                                    args.vocab_size, args.digits)
    tokenizer.save(paths.tokenizer_dir())
    if tokenizer.vocab_size < args.vocab_size:
        log.say(f"the text has only enough pairs for {tokenizer.vocab_size:,} tokens, fewer than --vocab_size")
    sample = [text[:args.doc_cap] for text in islice(shards.iter_texts(files), COMPRESSION_SAMPLE)]
    bytes_per_token = compression(tokenizer, sample)
    seconds = time.monotonic() - started
    log.say(f"{tokenizer.vocab_size:,} tokens from {seen.chars:,} characters in {seen.documents:,} documents, "
            f"{seconds:.1f} s; {bytes_per_token:.3f} bytes per token; saved to {paths.tokenizer_dir()}")
    log.write_run("tokenizer", seconds=seconds, compile_seconds=compile_seconds, flags=vars(args),
                  vocab_size=tokenizer.vocab_size, characters=seen.chars, documents=seen.documents,
                  bytes_per_token=bytes_per_token)


def claim(overwrite: bool) -> None:
    """UserError when there is a tokenizer already. With `overwrite`, models of older code get their tokenizer first."""
    folder = paths.tokenizer_dir()
    try:
        size = Tokenizer.load(folder).vocab_size
    except UserError:  # none, or damaged: nothing is lost
        return
    before = checkpoint.read_tokenizer(folder)
    models = checkpoint.models_of(before)
    if not overwrite:
        names = f", with which {len(models)} models were made ({', '.join(name for name, _ in models)})" * bool(models)
        raise UserError(f"there is a tokenizer of {size:,} tokens in {folder}{names}; --overwrite replaces it (models "
                        "that are there keep theirs and stay usable)")
    for _, path in models:
        checkpoint.give_tokenizer(path, before)


class Seen:
    """Passes texts on, cut to size, and counts them."""

    chars = documents = 0

    def texts(self, texts: Iterable[str], max_chars: int, doc_cap: int, bar: log.Progress) -> Iterator[str]:
        for text in texts:
            text = text[:min(doc_cap, max_chars - self.chars)]
            self.chars += len(text)
            self.documents += 1
            yield text
            if self.documents % shards.DOCUMENTS_PER_GROUP == 0:
                bar.update(self.documents, million_characters=self.chars / 1e6)
            if self.chars >= max_chars:
                return


def compression(tokenizer: Tokenizer, texts: list[str]) -> float:
    """Bytes of UTF-8 per token."""
    return sum(len(text.encode()) for text in texts) / max(1, len(tokenizer.encode_batch(texts)[0]))


if __name__ == "__main__":
    cli.run(main)
