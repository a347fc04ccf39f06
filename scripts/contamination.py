"""Does the training text hold the exams? Runs of words that a corpus shares with evaluation items.

    python -m scripts.contamination                                 the pretraining shards
    python -m scripts.contamination --mixture="text,dolly,gsm8k" --ngram=13

An item overlaps if the corpus contains any run of --ngram words of any of the item's texts (Brown et al. 2020, appendix
C: 13 words; letters in lower case, punctuation ignored). Items without a text of this length cannot be checked; the
result has their number.
"""
import re
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

import tasks
from nanochat.eval import core, record
from nanochat.system import cli, files, log, paths, results
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from tasks import mixture

WORD = re.compile(r"\w+")
NUM_EXAMPLES = 3
Run = tuple[str, ...]  # successive words of a text


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(argv, __doc__, ngram=flag(13, "words in a run", at_least=2),
                     mixture=flag("text", "the corpus, in the syntax of mid_train's --mixture"))
    started = time.monotonic()

    # ---- The exams. Their runs stay in memory; the corpus, which is far larger, is read only once.
    exams = {name: [{run for text in item for run in runs_of(words_of(text), args.ngram)} for item in items]
             for name, items in exam_items().items() if items}
    if not exams:
        raise UserError(f"there are no exams in {paths.data_dir()} to compare with; name a folder that has some with "
                        "--data (NANOCHAT_DATA), or make the kindergarten: python -m nanochat.dataset")
    exam_runs = {run for items in exams.values() for runs in items for run in runs}

    # ---- The corpus. Letters in lower case without punctuation, so that another layout of a question is found too.
    shared: set[Run] = set()
    num_documents = num_words = 0
    with log.Progress("contamination", 0, unit="documents") as bar:
        for text in corpus(args.mixture):
            words = words_of(text)
            shared |= exam_runs.intersection(runs_of(words, args.ngram))
            num_documents, num_words = num_documents + 1, num_words + len(words)
            bar.update(num_documents, runs=len(shared))

    # ---- The result. `results.write` keeps an earlier result of another corpus or length.
    result = {"ngram": args.ngram, "corpus": args.mixture, "documents": num_documents, "words": num_words,
              "exams": {name: judge(items, shared) for name, items in exams.items()}}
    folder = paths.results_dir("contamination")
    results.write(folder / "contamination.json", result, identity=("ngram", "corpus"))
    show(result)
    record.write_run("contamination", folder, args, started)


def exam_items() -> dict[str, list[list[str]]]:
    """{exam: the texts of each test item}. Several of CORE's tasks may share a file, which is read once."""
    exams = {task.name: task.load("test") for task in map(tasks.find, tasks.names())
             if task.kind != "source" and task.path("test")}
    if (paths.data_dir() / "core_tasks.yaml").exists():
        for path in dict.fromkeys(task.path for task in core.read_tasks(paths.data_dir())):
            if files.beside(path).exists():
                exams[f"CORE {path.stem}"] = files.read_jsonl(path)
    return {name: [texts_in(item) for item in items] for name, items in exams.items()}


def texts_in(item: object) -> list[str]:
    """Every text in an item of any shape.

    >>> texts_in({"question": "Who?", "choices": ["I", "you"], "answer": 0})
    ['Who?', 'I', 'you']
    """
    if isinstance(item, (dict, list)):
        return [text for value in (item.values() if isinstance(item, dict) else item) for text in texts_in(value)]
    return [item] if isinstance(item, str) else []


def words_of(text: str) -> list[str]:
    return WORD.findall(text.lower())


def runs_of(words: list[str], ngram: int) -> Iterator[Run]:
    """`runs_of(["a", "b", "c"], 2)` → ("a", "b"), ("b", "c")."""
    return zip(*(words[first:] for first in range(ngram)))


def corpus(spec: str) -> Iterator[str]:
    """Every text of a mixture's sources, once."""
    for name in mixture.parse(spec) or mixture.everything(paths.data_dir()):
        for row in mixture.rows(name, paths.data_dir()):
            yield from [row["text"]] if "text" in row else texts_in([turn["content"] for turn in row["messages"]])


def judge(items: list[set[Run]], shared: set[Run]) -> dict[str, Any]:
    """{"items", "checked", "overlapping", "examples"} of one exam, whose items are given as their runs."""
    overlaps = [" ".join(min(runs & shared)) for runs in items if not runs.isdisjoint(shared)]
    return {"items": len(items), "checked": sum(bool(runs) for runs in items), "overlapping": len(overlaps),
            "examples": overlaps[:NUM_EXAMPLES]}


def show(result: dict[str, Any]) -> None:
    view = Table("exam", "items", "long enough", "overlapping", "example",
                 title=f"runs of {result['ngram']} words shared with {result['documents']:,} documents")
    for name, exam in result["exams"].items():
        view.add_row(name, f"{exam['items']:,}", f"{exam['checked']:,}", f"{exam['overlapping']:,}",
                     exam["examples"][0] if exam["examples"] else "")
    Console().print(view)


if __name__ == "__main__":
    cli.run(main)
