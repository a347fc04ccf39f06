"""Turns the files of a survey into a data folder: text shards, conversations, exams.

Running text is cut into documents at end-of-text marks, else at blank lines, else at line ends, else between words.
About 5 % of the text is held out for validation. A hash of the content decides which documents: of up to 20 million
characters those with the lowest hashes, until they are 5 % (so a new file can move an old document); of more text those
whose hash is a multiple of 20. Copies of a document are all in training or all in validation, and the order of the
files does not matter. Files that already have our own format are linked, not copied, and whole files of them are for
validation: those in the manifest, otherwise the last if it is small.
"""
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any
from unicodedata import combining
from zlib import crc32

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat.data import conversations, rows, shards
from nanochat.data.rows import TEXT_FIELDS
from nanochat.data.survey import IMPORTED, Item, Survey, shown
from nanochat.system import files
from nanochat.system.files import UserError
from nanochat.system.numbers import ceil_div

ORIGIN = "plain files"  # origin in the manifest: only such shards may be replaced by another import
DOCUMENT = 2000  # characters of running text after which a document ends at the next blank line
DOCUMENT_SIZES = (DOCUMENT, DOCUMENT // 4, DOCUMENT // 16, DOCUMENT // 40)  # tried in turn if there is little text
MIN_CHARACTERS = 500  # characters of text that an import needs
MAX_SIZE = 100_000  # characters of a document; longer ones are cut: a row of a model holds far less
HELD_OUT, MIN_HELD_OUT, MAX_HELD_OUT = 0.05, 0.03, 0.1  # share for validation: the target, the accepted bounds
# Pretraining reads the conversations as well, if the text has fewer characters than this share of theirs.
LITTLE_TEXT = 0.1
LINKED_HELD_OUT = 0.1  # the last parquet file is for validation if it has at most this share of documents
IN_MEMORY = 20_000_000  # characters; less text is shuffled and split as a whole
CHARACTERS_PER_SHARD = 50_000_000  # 20 MB compressed
MAX_SHARDS = 16  # all are written at the same time, so the beginning of each is a sample of all files
GROUP_CHARACTERS = 2_000_000  # a row group ends when it has this many
MARKS = re.compile(r"<\|(?:endoftext|end_of_text|begin_of_text|bos|eos)\|>")
ALL_MARKS = re.compile(MARKS.pattern + "|</?s>|<bos>|<eos>")
STRUCK_OUT = re.compile(r"[^\s>] *<s>")  # HTML's strikethrough, where <s> and </s> are no marks


def split_marks(text: str) -> list[str]:
    """The texts between end-of-text marks. The marks themselves are not learnt.

    >>> split_marks("One.<|endoftext|>Two.</s>"), split_marks("It is <s>red</s> blue.")
    (['One.', 'Two.', ''], ['It is <s>red</s> blue.'])
    """
    return (MARKS if STRUCK_OUT.search(text) else ALL_MARKS).split(text) if "<" in text else [text]


def cut(pieces: Iterable[str], size: int = DOCUMENT) -> Iterator[str]:
    """Documents of running text that comes in pieces. Once a document has `size` characters, it ends at the next blank
    line. If there is none before two to three times that length, it ends at a line end. A longer line is cut between
    words.
    """
    number, length = 0, 0  # documents so far, characters of this document
    document: list[str] = []
    for line in chain(_marked_lines(pieces, 2 * size), [None]):
        text = line or ""
        is_blank = not text or text.isspace()
        # The limit varies, so that repetitive text is not cut into equal documents; 619 is prime, so that the limits do
        # not repeat in step with the text.
        longest = 2 * size + number * 619 % size
        if document and (line is None or is_blank and length >= size or length + len(text) > longest):
            yield "\n".join(document).strip("\n")
            number, length, document = number + 1, 0, []
        if not is_blank:
            document.append(text)
            length += len(text) + 1
        elif document and document[-1]:  # several blank lines become one
            document.append("")


def _marked_lines(pieces: Iterable[str], longest: int) -> Iterator[str | None]:
    """The lines of a text; None where a document ends: at a mark, before and after parts of a line above `longest`."""
    rest = ""
    for piece in chain(pieces, ["\n"]):
        *ended, last = split_marks(rest + piece.replace("\f", "\n"))  # a form feed ends a page, not a document
        for section in ended:
            yield from _short(section.split("\n"), longest)
            yield None
        *whole, rest = last.split("\n")
        yield from _short(whole, longest)
        if len(rest) > longest:  # this line may be as long as the whole file
            *parts, rest = _parts(rest, longest)
            yield from chain.from_iterable((None, part, None) for part in parts)


def _short(lines: list[str], longest: int) -> Iterator[str | None]:
    for line in lines:
        if len(line) <= longest:
            yield line
        else:
            yield from chain.from_iterable((None, part, None) for part in _parts(line, longest))


def _parts(line: str, longest: int) -> list[str]:
    """A line in parts of `longest`/4 to `longest` characters, cut after a space or a CJK full stop if possible. The
    last part is the rest, which may be shorter."""
    parts: list[str] = []
    start = 0
    while len(line) - start > longest:
        end = start + longest // 2 + (len(parts) + 1) * 619 % (longest // 2)
        space = max(line.rfind(mark, start + longest // 4, end) for mark in " \t。！？")
        end = space + 1 if space > 0 else end
        while end < len(line) and combining(line[end]):  # an accent stays with its letter
            end += 1
        parts.append(line[start:end])
        start = end
    return [*parts, line[start:]]


def documents(items: Iterable[Item], size: int = DOCUMENT) -> Iterator[str]:
    """The documents of files. A row is one document; with a smaller `size` it is cut like running text."""
    for item in items:
        if item.kind == "texts" and rows.suffixes(item.path)[0] in rows.TEXT:  # running text
            yield from cut(rows.blocks(item.path), size)
        elif size < DOCUMENT:
            for text in row_texts(item):
                yield from cut([text], size)
        else:
            for document in chain.from_iterable(map(split_marks, row_texts(item))):
                # Documents of `cut` may have up to three times its size.
                yield from cut([document], MAX_SIZE // 3) if len(document) > MAX_SIZE else filter(str.strip, [document])


def row_texts(item: Item) -> Iterator[str]:
    """The text of each row of a file; for a conversation the text of its messages."""
    if item.kind == "conversations":
        for conversation in read_conversations(item.path):
            yield "\n\n".join(conversations.words(message) for message in conversation["messages"])
        return
    for _, row in rows.rows(item.path, [item.column] if item.column else None):
        text = conversations.text_of(row, (item.column,) if item.column else TEXT_FIELDS)
        if text and text.strip():
            yield text.replace("\r\n", "\n").replace("\ufeff", "")  # as `rows.blocks` does with running text


def read_conversations(path: Path) -> Iterator[conversations.Fields]:
    """The valid conversations of a file. The survey has reported the invalid ones."""
    for _, row in rows.rows(path):
        try:
            yield conversations.parse(row)
        except ValueError:
            continue


def write(found: Survey, data_dir: Path, reserved: Iterable[str] = (), with_text: bool = True) -> dict[str, Any]:
    """Makes the data folder `data_dir` of a survey. Returns the content of imported.json, which it writes there last.

    `reserved` are names that no file of conversations may get. UserError: too little text, or text of another origin.
    """
    old = files.read_object(data_dir / IMPORTED)  # {} without an earlier import, or if its record is damaged
    numbers: dict[str, int | bool] = {}
    if with_text:
        # Not replaced: the hub's text, which took hours to fetch, and the kindergarten's text, which its models need.
        if shards.in_folder(data_dir / "text"):
            shards.claim(data_dir / "text", ORIGIN)
        with files.replacing(data_dir / "text") as folder:  # an interrupted import leaves the old text
            folder.mkdir()
            numbers = _write_texts(found, folder)
            (data_dir / IMPORTED).unlink(missing_ok=True)  # it no longer describes the folder
    written = _write_others(found, data_dir, reserved)
    for name in set(old.get("written", ())) - set(written):  # of an earlier import; files that a user put there stay
        (data_dir / name).unlink(missing_ok=True)
    record = {**found.as_dict(), "imported": numbers, "written": written}
    files.write_json(data_dir / IMPORTED, record)
    return record


def chat_names(found: Survey, reserved: Iterable[str]) -> list[str]:
    """A name for each file of conversations, for --mixture: letters, digits, `_` and `-`; all different."""
    names: list[str] = []
    for item in found.conversations:
        name = re.sub(r"[^\w-]+", "_", rows.stem(Path(item.name.removeprefix("chat/").replace("/", "-")))).strip("_")
        number = 2
        while name in {"text", "", *reserved, *names}:  # --mixture calls the shards "text"
            name, number = f"{name.removesuffix(f'_{number - 1}')}_{number}", number + 1
        names.append(name)
    return names


def _write_others(found: Survey, data_dir: Path, reserved: Iterable[str]) -> list[str]:
    """Writes or links conversations into chat/ and exams to their places; returns the names of these files."""
    written: list[str] = []
    for item, name in zip(found.conversations, chat_names(found, reserved), strict=True):
        if item.can_be_linked:
            written.append(f"chat/{name}{''.join(rows.suffixes(item.path))}")
            files.link_or_copy(item.path, data_dir / written[-1])
            continue
        written.append(f"chat/{name}.jsonl")
        with files.replacing(data_dir / written[-1]) as temporary, open(temporary, "w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(conversation, ensure_ascii=False) + "\n"
                             for conversation in read_conversations(item.path))
    for item in found.exams:
        files.link_or_copy(item.path, data_dir / item.name)
        written.append(item.name)
    return written


def _write_texts(found: Survey, folder: Path) -> dict[str, int | bool]:
    """Makes shards and manifest in `folder`; returns the numbers of documents and of linked files."""
    linked, validation = _to_link(found)
    for item in linked:
        files.link_or_copy(item.path, folder / _shard_name(item))
    items = [item for item in found.texts if item not in linked]  # these are read and written
    words_of_conversations = sum(item.characters for item in found.conversations)
    needs_words = sum(item.characters for item in found.texts) < LITTLE_TEXT * words_of_conversations
    if needs_words:
        items = items + found.conversations
    num_documents = num_held_out = 0
    if items:
        prefix = "imported" if linked else "shard"  # linked files may be called shard_00000 too
        characters = sum(item.characters for item in items)
        if characters > IN_MEMORY:
            num_documents, num_held_out = _write_large(items, folder, prefix, characters)
        else:
            num_documents, num_held_out = _write_small(items, folder, prefix, bool(linked), shown(found.folder))
        validation = validation + [f"{prefix}_validation.parquet"] * bool(num_held_out)
    files.write_json(folder / shards.MANIFEST, {"origin": ORIGIN, "validation": validation})
    return {"documents": num_documents, "held_out": num_held_out, "linked": len(linked),
            "has_words_of_conversations": needs_words}


def _to_link(found: Survey) -> tuple[list[Item], list[str]]:
    """The parquet files that can be linked, and the names of the files for validation.

    Without a manifest the last file by name is for validation, if it holds at most a tenth of the documents. Otherwise
    all files are read, so that one document in twenty can be held out.
    """
    ready = [item for item in found.texts if item.can_be_linked]
    manifest = found.folder / "text" / shards.MANIFEST
    if manifest.exists():
        pinned = files.read_json(manifest).get("validation", [])
        missing = [name for name in pinned if f"text/{name}" not in [item.name for item in ready]]
        if missing:
            raise UserError(f"{manifest} names the validation shard {missing[0]}, which is missing or cannot be read; "
                            "bring it back, or remove the manifest: then the last shard is for validation")
        if pinned and len(ready) > len(pinned):
            return ready, [_shard_name(item) for item in ready if item.name.removeprefix("text/") in pinned]
    if len(ready) > 1 and ready[-1].rows <= LINKED_HELD_OUT * sum(item.rows for item in ready):
        return ready, [_shard_name(ready[-1])]
    return [], []


def _shard_name(item: Item) -> str:
    return rows.stem(Path(item.name.removeprefix("text/").replace("/", "--"))) + ".parquet"


def _write_small(items: list[Item], folder: Path, prefix: str, has_others: bool, where: str) -> tuple[int, int]:
    """Shuffles and splits text that fits into memory. Cuts it into smaller documents if it is short or repetitive.

    Returns (number of documents, number held out). `has_others`: there are linked shards too.
    """
    attempts = []
    for size in DOCUMENT_SIZES:
        texts = sorted(documents(items, size), key=_order)
        held_out, share = _held_out(texts)
        attempts.append((abs(share - HELD_OUT), texts, held_out if share < 1 / 3 else set()))  # never hold out a third
        if MIN_HELD_OUT <= share <= MAX_HELD_OUT or has_others:  # linked shards have their own validation text
            break
    _, texts, held_out = min(attempts, key=lambda attempt: attempt[0])
    characters = sum(map(len, texts))
    if not has_others and (not held_out or characters < MIN_CHARACTERS):
        raise UserError(f"{where} has {characters:,} characters of text; expected at least {MIN_CHARACTERS}, and not "
                        "all the same, because a part is held out for validation: add text")
    train = [text for text in texts if _order(text) not in held_out]
    validation = [text for text in texts if _order(text) in held_out]
    for name, documents_ in (("00000", train), ("validation", validation)):
        if documents_:
            shards.write(folder / f"{prefix}_{name}.parquet", documents_)
    return len(texts), len(validation)


def _order(text: str) -> int:
    """A hash of the content: it decides a document's position and whether it is held out."""
    return crc32(text.strip().encode())


def _held_out(texts: list[str]) -> tuple[set[int], float]:
    """(the `_order` of the documents to hold out, their share of the characters): about 5 %, or the shortest document
    if all are too long for that."""
    sizes: Counter[int] = Counter()
    for text in texts:
        sizes[_order(text)] += len(text)
    total, amount = max(1, sizes.total()), 0
    chosen: set[int] = set()
    for order in sorted(sizes):
        # A document that would overshoot the target by far is skipped: it may be half of the text.
        if amount < HELD_OUT * total and amount + sizes[order] <= 1.5 * HELD_OUT * total:
            chosen.add(order)
            amount += sizes[order]
    if not chosen and sizes:
        chosen = {min(sizes, key=lambda order: (sizes[order], order))}
    return chosen, sum(sizes[order] for order in chosen) / total


def _write_large(items: list[Item], folder: Path, prefix: str, characters: int) -> tuple[int, int]:
    """Distributes documents to shards by `_order`, in one pass and with bounded memory; returns as `_write_small`."""
    number = min(MAX_SHARDS, ceil_div(characters, CHARACTERS_PER_SHARD))
    names = [*(f"{index:05d}" for index in range(number)), "validation"]
    writers = [_Shard(folder / f"{prefix}_{name}.parquet") for name in names]
    one_in = round(1 / HELD_OUT)  # one document in twenty is held out
    for document in documents(items):
        order = _order(document)
        # The remainder decides about validation. If it also decided about the shard, the shards of the remainder that
        # is held out would be smaller, so the quotient does.
        writers[-1 if order % one_in == 0 else order // one_in % number].add(document)
    for writer in writers:
        writer.close()
    return sum(writer.count for writer in writers), writers[-1].count


class _Shard:
    """A shard that is written group by group. Each group is sorted by `_order`, which shuffles it."""

    def __init__(self, path: Path):
        self.schema = pa.schema([("text", pa.string())])
        self.writer = pq.ParquetWriter(path, self.schema, compression="zstd")
        self.group: list[str] = []
        self.count = self.size = 0

    def add(self, document: str) -> None:
        self.group.append(document)
        self.count, self.size = self.count + 1, self.size + len(document)
        if self.size >= GROUP_CHARACTERS or len(self.group) == shards.DOCUMENTS_PER_GROUP:  # bounds the memory
            self.flush()

    def flush(self) -> None:
        self.writer.write_table(pa.table({"text": pa.array(sorted(self.group, key=_order), pa.string())}, self.schema))
        self.group, self.size = [], 0

    def close(self) -> None:
        if self.group:
            self.flush()
        self.writer.close()
