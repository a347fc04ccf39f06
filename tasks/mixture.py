"""Which conversations a stage learns from, by name and weight.

    dolly,gsm8k*4,arc_easy*3,text*0.1       sources joined by commas; *w = passes over it (w < 1: that part of it)

A name is a file of conversations (`<data>/chat/<name>.jsonl`: {"messages": […]} a line), a task's training questions
with their worked answers, or `text`: documents of the pretraining shards. An empty mixture takes one pass over every
file in `<data>/chat` and every task that is only a source (dolly). A file of the user's own may join it by its path.

A conversation longer than a row ends at a turn; one whose first question fills the row teaches nothing: it is dropped.
"""
import random
from pathlib import Path
from typing import Any

import tasks
from nanochat.data import shards
from nanochat.data.packing import Document
from nanochat.system import files, log, paths
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.tokenizer import chat
from tasks import conversations

FLAGS: dict[str, Any] = dict(
    mixture=flag("", "sources and passes over each, e.g. dolly,gsm8k*4,identity*10,text*0.1; default: all there is"),
    conversations=flag("", "your own JSONL of conversations, and passes over it: ada.jsonl*20"))


def parse(spec: str, of: str = "--mixture") -> dict[str, float]:
    """Source → passes over it.

    >>> parse("dolly,gsm8k*4")
    {'dolly': 1.0, 'gsm8k': 4.0}
    """
    weights: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in spec.split(","))):
        name, _, weight = part.partition("*")
        try:
            weights[name.strip()] = float(weight or 1)
        except ValueError:
            raise UserError(f"{of}: {part!r} is no source; write name or name*weight, e.g. gsm8k*4") from None
        if not 0 < weights[name.strip()] <= 1000:
            raise UserError(f"{of}: {part!r} has a weight outside 0 … 1000; leave the source out, or lower it")
    return weights


def documents(spec: str, tokenizer, *, own: str = "", max_tokens: int | None = None, seed: int = 0,
              learn_all: bool = False, data_dir: Path | None = None) -> list[Document]:
    """The mixture as token ids with masks, shuffled. With `learn_all` every token is learnt, else the assistant's.

    `own` is a path*passes beside it; `max_tokens` of a conversation. UserError for unknown names, empty results and bad
    conversations.
    """
    data_dir = data_dir or paths.data_dir()
    weights = parse(spec) or {name: 1.0 for name in everything(data_dir)}
    path, _, passes = own.partition("*")
    own_conversations = conversations.read(Path(path)) if path else []
    if path:
        weights[path] = parse(f"own*{passes or 1}", "--conversations")["own"]
    found: list[Document] = []
    for name, weight in weights.items():
        rng = random.Random(f"{seed} {name}")
        there = own_conversations if path and name == path else rows(name, data_dir)
        whole, part = divmod(weight, 1)
        chosen = there * int(whole) + rng.sample(there, round(part * len(there)))
        rendered = [_render(row, tokenizer, learn_all, max_tokens) for row in chosen]
        kept = [document for document, _ in rendered if document[0]]
        cut, dropped = sum(was_cut for _, was_cut in rendered), len(rendered) - len(kept)
        log.say(f"  {name}: {len(kept):,} documents, {sum(len(ids) for ids, _ in kept):,} tokens"
                + (f"; longer than a row: {cut - dropped:,} cut, {dropped:,} dropped" if cut else ""))
        found += kept
    if not found:
        raise UserError(f"--mixture={spec!r} gives no conversation of at most {max_tokens} tokens from {data_dir}; "
                        f"name sources: {', '.join(known(data_dir))}")
    random.Random(seed).shuffle(found)
    return found


def chat_files(data_dir: Path) -> list[str]:
    return sorted({path.name.split(".jsonl")[0] for path in (data_dir / "chat").glob("*.jsonl*")})


def everything(data_dir: Path) -> list[str]:
    """What an empty mixture takes: files of conversations, and tasks that are nothing but a source of them (dolly)."""
    own = [name for name in chat_files(data_dir) if "messages" in (files.read_jsonl(_chat(data_dir, name)) or [{}])[0]]
    found = [tasks.find(name) for name in tasks.names() if name not in own]
    return own + [task.name for task in found if task.kind == "source" and task.path("train", data_dir)]


def _chat(data_dir: Path, name: str) -> Path:
    return data_dir / "chat" / f"{name}.jsonl"


def known(data_dir: Path) -> list[str]:
    return ["text", *sorted({*chat_files(data_dir), *tasks.names()})]


def rows(name: str, data_dir: Path) -> list[dict]:
    """Rows {"messages"} or {"text"} of one source."""
    if name == "text":
        return [{"text": text} for text in shards.iter_texts(shards.train_shards(data_dir))]
    if name in chat_files(data_dir):
        found = files.read_jsonl(_chat(data_dir, name))
        if found and "messages" in found[0]:
            return found
    if name not in tasks.names():
        raise UserError(f"--mixture: there is no source {name!r}; known: {', '.join(known(data_dir))}")
    task = tasks.find(name)
    return [task.conversation(item) for item in task.load("train", data_dir)]


def _render(row: dict, tokenizer, learn_all: bool, max_tokens: int | None) -> tuple[Document, bool]:
    """Ids and mask, and whether something had to go; ([], []) when nothing to learn is left. Packing cuts text."""
    if "text" in row:
        ids = [tokenizer.bos_id, *tokenizer.encode(row["text"])]
        return (ids, [1] * len(ids)), False
    ids, mask = chat.render(tokenizer, row)
    too_long = max_tokens is not None and len(ids) > max_tokens
    if too_long:
        ids, mask = chat.render(tokenizer, row, max_tokens)
    return (ids, [1] * len(ids) if learn_all else mask), too_long
