"""Plain text files become shards."""
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from zlib import crc32

from nanochat.data import shards
from nanochat.system import files
from nanochat.system.files import UserError

CHARACTERS_PER_SHARD = 50_000_000  # of imported text: 20 MB packed, a good unit of shuffling
VALIDATION_ONE_IN = 20  # of imported documents


def plain_files(folder: Path) -> list[Path]:
    """The .txt, .md and .jsonl(.gz) files that `import_texts` would read: those in `folder`, or in its `text/`."""
    inner = folder / "text" if (folder / "text").is_dir() else folder
    return sorted(path for path in inner.rglob("*") if path.name.endswith((".txt", ".md", ".jsonl", ".jsonl.gz")))


def read_documents(path: Path) -> Iterator[str]:
    """A JSONL file's `text` fields, or a text file cut at blank lines into pieces of at least 2,000 characters."""
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        for number, row in enumerate(files.read_jsonl(path), 1):
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise UserError(f"{path}, record {number}: expected an object with a string `text`, "
                                f"got {json.dumps(row)[:80]}")
            yield row["text"]
        return
    piece: list[str] = []
    for paragraph in path.read_text(encoding="utf-8", errors="replace").split("\n\n"):
        piece.append(paragraph)
        if sum(map(len, piece)) >= 2000:
            yield "\n\n".join(piece)
            piece = []
    yield "\n\n".join(piece)


def import_texts(sources: Iterable[Path], text_dir: Path) -> tuple[int, int]:
    """Writes the documents of plain files as shards; (documents, characters). One document in twenty, chosen by its own
    content, goes to the validation shard, so the split does not depend on the order of the files."""
    shards.claim(text_dir, "plain files")
    for old in text_dir.glob("*.parquet"):
        old.unlink()
    train: list[str] = []
    held_out: list[str] = []
    num_shards = num_documents = num_characters = buffered = 0
    for document in (one for path in sources for one in read_documents(path) if one.strip()):
        num_documents, num_characters = num_documents + 1, num_characters + len(document)
        (held_out if crc32(document.encode()) % VALIDATION_ONE_IN == 0 else train).append(document)
        buffered += len(document)
        if buffered >= CHARACTERS_PER_SHARD:
            shards.write(text_dir / f"shard_{num_shards:05d}.parquet", train)
            train, buffered, num_shards = [], 0, num_shards + 1
    if not held_out and len(train) > 1:
        held_out = [train.pop()]  # so few documents that chance held none out
    if not held_out or not (train or num_shards):
        raise UserError(f"{num_documents} documents of text are too few: give at least two, one is for validation")
    if train:
        shards.write(text_dir / f"shard_{num_shards:05d}.parquet", train)
    shards.write(text_dir / "shard_validation.parquet", held_out)
    files.write_json(text_dir / shards.MANIFEST, {"origin": "plain files", "validation": ["shard_validation.parquet"]})
    return num_documents, num_characters
