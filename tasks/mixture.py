"""The conversations that a stage learns from, by name and weight.

    dolly,gsm8k*4,arc_easy*3,text*0.1       sources joined by commas; *w = number of passes (w < 1: a fraction of it)

A name is a file of conversations (`<data>/chat/<name>.jsonl`; docs/data.md lists the formats), a task's training
questions with their worked answers, or `text`: documents of the pretraining shards. An empty mixture takes one pass
over every file in `<data>/chat` and every task that is only a source (dolly). A file of the user's own may be added by
its path.

A conversation longer than a row is cut after a turn; if its first question fills the row, it is dropped, because
nothing in it would be learnt.
"""
import contextlib
import random
from pathlib import Path
from typing import Any

import numpy as np

import tasks
from nanochat.data import conversations, shards
from nanochat.data import rows as row_files
from nanochat.data.packing import Document
from nanochat.system import log, paths
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer, chat

FLAGS: dict[str, Any] = dict(
    mixture=flag("", "sources and passes over each, e.g. dolly,gsm8k*4,identity*10,text*0.1; default: all sources"),
    conversations=flag("", "your own file of conversations, and passes over it: ada.jsonl*20"))


def parse(spec: str) -> dict[str, float]:
    """Source → passes over it.

    >>> parse("dolly,gsm8k*4")
    {'dolly': 1.0, 'gsm8k': 4.0}
    """
    return dict(_weighted(part.strip(), "mixture") for part in spec.split(",") if part.strip())


def _weighted(text: str, flag_name: str) -> tuple[str, float]:
    """(name, passes over it) of "name*passes"; one pass if the name has no number after it."""
    name, star, passes = text.rpartition("*")
    if not star:
        return text, 1.0
    with contextlib.suppress(ValueError):
        if 0 < float(passes) <= 1000:  # also false for nan
            return name.strip(), float(passes)
    raise UserError(f"--{flag_name}={text}: {passes!r} is not a number of passes between 0 and 1000; "
                    f"write e.g. {name}*20")


def documents(spec: str, tokenizer: Tokenizer, *, own: str = "", max_tokens: int | None = None, seed: int = 0,
              learn_all: bool = False, data_dir: Path | None = None) -> list[Document]:
    """The mixture as token ids with masks, shuffled. With `learn_all` every token is learnt, otherwise only the
    assistant's tokens.

    `own`: the user's file as path*passes, in addition; `max_tokens`: length limit of a conversation. UserError for
    unknown names, empty results and bad conversations.
    """
    data_dir = data_dir or paths.data_dir()
    path, passes = own_file(own)
    own_sources = [(str(path), passes, conversations.read(path))] if own else []
    weights = parse(spec) or {name: 1.0 for name in everything(data_dir)}
    found: list[Document] = []
    for name, weight, own_rows in [*((*source, None) for source in weights.items()), *own_sources]:
        rng = random.Random(f"{seed} {name}")  # one per source: adding a source does not change the others' samples
        available = own_rows or rows(name, data_dir)
        whole, part = divmod(weight, 1)
        chosen = available * int(whole) + rng.sample(available, round(part * len(available)))
        rendered = [_render(row, tokenizer, learn_all, max_tokens) for row in chosen]
        kept = [document for document, _ in rendered if len(document[0])]
        cut, dropped = sum(was_cut for _, was_cut in rendered), len(rendered) - len(kept)
        log.say(f"  {name}: {len(kept):,} documents, {sum(len(ids) for ids, _ in kept):,} tokens"
                + (f"; longer than a row: {cut - dropped:,} cut, {dropped:,} dropped" if cut else ""))
        found += kept
    if not found:
        raise UserError(f"--mixture={spec!r} gives no conversation of at most {max_tokens} tokens from {data_dir}; "
                        f"name sources: {', '.join(known(data_dir))}")
    random.Random(seed).shuffle(found)
    return found


def own_file(spec: str) -> tuple[Path, float]:
    """(the file, passes over it) of --conversations. A file whose own name has a `*` is found as well."""
    path = Path(spec).expanduser()
    if path.is_file():
        return path, 1.0
    name, passes = _weighted(spec, "conversations")
    return Path(name).expanduser(), passes


def chat_files(data_dir: Path) -> dict[str, Path]:
    """{name: file} of the files in `<data>/chat`; if a file exists packed and unpacked, the unpacked one is used."""
    found: dict[str, Path] = {}
    folder = data_dir / "chat"
    for path in sorted(folder.iterdir() if folder.is_dir() else ()):
        suffix, packing = row_files.suffixes(path)
        # macOS makes a file "._name" beside each file that it copies to other disks.
        if path.name.startswith(".") or suffix not in (*row_files.JSON, *row_files.PARQUET):
            continue
        other = found.setdefault(row_files.stem(path), path)
        if other != path and not (packing and path.name.startswith(other.name)):
            raise UserError(f"{other} and {path.name} have the same name in a mixture; rename one")
    return found


def everything(data_dir: Path) -> list[str]:
    """The sources of an empty mixture: files of conversations, and tasks that are only a source (dolly).

    Prints which files in `<data>/chat` it leaves out, and why.
    """
    sources = [task for task in map(tasks.find, tasks.names()) if task.kind == "source"]
    of_tasks = names_of_tasks()
    own = []
    for name, path in chat_files(data_dir).items():
        _, first = next(row_files.rows(path), ("", None))
        if name not in of_tasks and conversations.kind(first) == "conversations":
            own.append(name)
        elif name not in of_tasks:
            log.say(f"  {path} is left out: its first row is not a conversation (docs/data.md lists the formats)")
    return own + [task.name for task in sources if task.name not in own and task.path("train", data_dir)]


def names_of_tasks() -> list[str]:
    """Names that files of conversations must not have: a task reads its own file of this name."""
    return [Path(task.splits["train"]).stem for task in map(tasks.find, tasks.names()) if task.kind == "source"]


def known(data_dir: Path) -> list[str]:
    return ["text", *sorted({*chat_files(data_dir), *tasks.names()})]


def rows(name: str, data_dir: Path) -> list[dict[str, Any]]:
    """Rows {"messages"} or {"text"} of one source."""
    if name == "text":
        return [{"text": text} for text in shards.iter_texts(shards.train_shards(data_dir))]
    if path := chat_files(data_dir).get(name):
        return conversations.read(path)
    if name not in tasks.names():
        raise UserError(f"--mixture: there is no source {name!r}; known: {', '.join(known(data_dir))}")
    task = tasks.find(name)
    return [task.conversation(item) for item in task.load("train", data_dir)]


def _render(row: dict[str, Any], tokenizer: Tokenizer, learn_all: bool,
            max_tokens: int | None) -> tuple[Document, bool]:
    """((ids, mask), whether the conversation was too long); empty if nothing to learn is left. Packing cuts texts."""
    if "text" in row:
        ids = [tokenizer.bos_id, *tokenizer.encode(row["text"])]
        return _as_arrays(ids, [1] * len(ids)), False
    document = chat.render(tokenizer, row, learn_all=learn_all)
    too_long = max_tokens is not None and len(document[0]) > max_tokens
    return _as_arrays(*(chat.render(tokenizer, row, max_tokens, learn_all) if too_long else document)), too_long


def _as_arrays(ids: list[int], mask: list[int]) -> Document:
    """5 bytes per token instead of the 44 of two lists: every rank keeps SmolTalk's 330 million tokens in memory."""
    return np.array(ids, dtype=np.int32), np.array(mask, dtype=bool)
