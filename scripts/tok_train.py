"""Trains the tokenizer on the training shards.

    python -m scripts.tok_train --max_chars=2000000000 --vocab_size=65536

It reads a text of up to --max_chars characters completely. From a larger corpus it takes slices of documents at equal
distances, and from long documents pieces at equal distances. Conversations that were imported with the text
(nanochat.dataset --data) are read as well, up to the same number of characters: otherwise a model on little text would
write its answers byte by byte. The tokenizer is saved in out/tokenizer/, in Hugging Face's format.
"""
import time
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from nanochat.data import shards
from nanochat.data.conversations import words
from nanochat.data.survey import IMPORTED
from nanochat.system import cli, files, log, paths
from nanochat.system.cli import Args, flag
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer
from nanochat.tokenizer.train import train_tokenizer
from nanochat.train import checkpoint
from tasks import mixture

COMPRESSION_SAMPLE = 1000  # documents on which compression is measured


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__,
        max_chars=flag(2_000_000_000, "characters to learn from", at_least=1),
        doc_cap=flag(10_000, "characters to read of a document, if the text is longer than --max_chars", at_least=10),
        vocab_size=flag(65_536, "tokens, including 256 bytes and 9 special tokens", at_least=265, at_most=1 << 20),
        digits=flag(2, "longest run of digits in a token", choices=(1, 2, 3)),
        resume=flag(False, "keep the existing tokenizer, if it was made with these flags"),
        overwrite=flag(False, "replace the existing tokenizer; models keep theirs in their checkpoints"))
    if is_made(args):
        return
    started = time.monotonic()
    # 1. Compile, by training on a few words, so that the progress line below shows the speed of the real work.
    train = shards.train_shards()
    num_documents = sum(shards.open_shard(path).metadata.num_rows for path in train)
    train_tokenizer(["warm up, up"], 270)
    compile_seconds = time.monotonic() - started
    log.say(f"loops ready after {compile_seconds:.1f} s (compiled at the first use, about 10 s; then only loaded)")
    # 2. Train.
    seen = Seen()
    with log.Progress("tok_train", num_documents, "documents") as bar:
        texts = chain(seen.texts(train, args.max_chars, args.doc_cap, bar), seen.conversations(paths.data_dir()))
        tokenizer = train_tokenizer(texts, args.vocab_size, args.digits)
    if tokenizer.vocab_size < args.vocab_size:
        log.say(f"the text has only enough pairs for {tokenizer.vocab_size:,} tokens, fewer than --vocab_size")
    # 3. Measure and save.
    measured = [text[:args.doc_cap] for text in islice(shards.iter_texts(train), COMPRESSION_SAMPLE)]
    bytes_per_token = compression(tokenizer, measured)
    tokenizer.save(paths.tokenizer_dir())
    seconds = time.monotonic() - started
    log.say(f"{tokenizer.vocab_size:,} tokens from {seen.chars:,} characters in {seen.documents:,} documents, "
            f"{seconds:.1f} s; {bytes_per_token:.3f} bytes per token; saved to {paths.tokenizer_dir()}")
    log.write_run("tokenizer", seconds=seconds, compile_seconds=compile_seconds, flags=vars(args),
                  vocab_size=tokenizer.vocab_size, characters=seen.chars, documents=seen.documents,
                  bytes_per_token=bytes_per_token)


def is_made(args: Args) -> bool:
    """With --resume: whether the existing tokenizer was made with these flags. UserError when it would be lost.

    With --overwrite, models of older versions get the tokenizer into their checkpoints first, where they lack it.
    """
    folder, record = paths.tokenizer_dir(), paths.results_dir("tokenizer") / "run.json"
    before = checkpoint.read_tokenizer(folder)
    try:
        size = Tokenizer.load(folder).vocab_size
    except UserError:  # missing or damaged: nothing can be lost
        return False
    models = checkpoint.models_of(before)
    if args.overwrite:
        for _, path in models:
            checkpoint.give_tokenizer(path, before)
        return False
    made_with = files.read_json(record).get("flags", {}) if record.exists() else {}
    changed = [f"--{name}={value} (was {made_with[name]})" for name, value in vars(args).items()
               if name not in ("resume", "overwrite") and made_with.get(name, value) != value]
    if args.resume and not changed:
        log.say(f"there is a tokenizer of {size:,} tokens in {folder}: nothing to resume")
        return True
    others = f" with other flags: {', '.join(changed)}" if args.resume else ""
    names = f" (models made with it: {len(models)}, {', '.join(name for name, _ in models)})" if models else ""
    raise UserError(f"there is a tokenizer of {size:,} tokens in {folder}{names}{others}; --overwrite replaces it, and "
                    "models keep theirs")


class Seen:
    """Passes texts to the trainer and counts them."""

    chars = documents = 0

    def texts(self, paths_: list[Path], max_chars: int, doc_cap: int, bar: log.Progress) -> Iterator[str]:
        """The documents of shards, or a sample of `max_chars` characters."""
        places = [place for path in paths_ for place in shards.places(path)]
        share = max_chars / max(1, sum(map(num_bytes, paths_)))  # bytes, as the shards do not count characters
        chosen = places[::max(1, int(1 / share))] if share < 1 else places
        reader = shards.Reader()
        for number, place in enumerate(chosen, 1):
            # Each slice may use only its share of the characters, so that the sample reaches the end of the corpus.
            limit = max_chars * number // len(chosen) if share < 1 else max_chars
            for text in reader.read(*place):
                text = (sample(text, doc_cap) if share < 1 else text)[:limit - self.chars]
                if not text:
                    break
                self.chars += len(text)
                self.documents += 1
                yield text
            bar.update(self.documents, million_characters=self.chars / 1e6)

    def conversations(self, data_dir: Path) -> Iterator[str]:
        """The text of imported conversations, up to as many characters as the corpus had."""
        record = files.read_json(data_dir / IMPORTED) if (data_dir / IMPORTED).exists() else {}
        if not record or record["imported"]["has_words_of_conversations"]:
            return
        limit = 2 * self.chars  # as many characters again as the text had
        rows = (row for name in mixture.chat_files(data_dir) for row in mixture.rows(name, data_dir))
        for text in (words(message) for row in rows for message in row["messages"]):
            if self.chars >= limit:
                return
            self.chars += len(text)
            yield text


def num_bytes(path: Path) -> int:
    """The bytes of text in a shard."""
    metadata = shards.open_shard(path).metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    columns = [group.column(index) for group in groups for index in range(group.num_columns)]
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == "text")


def sample(text: str, num_chars: int) -> str:
    """Ten pieces at even distances of a text that is longer than `num_chars`."""
    piece = num_chars // 10
    if len(text) <= num_chars:
        return text
    # The first piece is the beginning of the text, the last piece its end.
    starts = [(len(text) - piece) * number // 9 for number in range(10)]
    return " ".join(text[start:start + piece] for start in starts)


def compression(tokenizer: Tokenizer, texts: list[str]) -> float:
    """Bytes of UTF-8 per token."""
    return sum(len(text.encode()) for text in texts) / max(1, len(tokenizer.encode_batch(texts)[0]))


if __name__ == "__main__":
    cli.run(main)
