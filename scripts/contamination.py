"""Searches the training text for the exams: runs of words that a corpus shares with items of exams.

    python -m scripts.contamination                                 the pretraining shards
    python -m scripts.contamination --mixture="text,dolly,gsm8k" --ngram=13

An item overlaps when any run of --ngram words of any of its texts is in the corpus (Brown et al. 2020, appendix C: 13
words; letters in lower case, punctuation ignored). Items without a text of that length cannot be checked; the table
shows how many could.
"""
import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import tasks
from nanochat.eval import core
from nanochat.system import cli, files, log, paths, results
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from tasks import mixture

WORD = re.compile(r"\w+")
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits without a pattern: 2^64 / golden ratio
NUM_EXAMPLES = 3


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(argv, __doc__, ngram=flag(13, "words in a run", at_least=2),
                     mixture=flag("text", "the corpus, named as in --mixture of mid_train"))
    started = time.monotonic()
    exams = {name: texts for name, texts in exam_items().items() if texts}
    if not exams:
        raise UserError(f"there are no exams in {paths.data_dir()} to compare with; name a folder that has some with "
                        "--data (NANOCHAT_DATA), or make the kindergarten: python -m nanochat.dataset")
    # The hashes of the exams' runs fit into memory; the corpus is read once and compared with them.
    runs = {name: [np.unique(np.concatenate([hashes(text, args.ngram)[1] for text in item])) for item in items]
            for name, items in exams.items()}
    exam_runs = np.unique(np.concatenate([item_runs for items in runs.values() for item_runs in items]))
    shared, documents, words = search(exam_runs, args.mixture, args.ngram)
    result = {"ngram": args.ngram, "corpus": args.mixture, "documents": documents, "words": words,
              "exams": {name: judge(items, shared) for name, items in runs.items()}}
    results.write(paths.results_dir("contamination") / "contamination.json", result, identity=("ngram", "corpus"))
    show(result)
    log.write_run("contamination", seconds=time.monotonic() - started, flags=vars(args))


def exam_items() -> dict[str, list[list[str]]]:
    """{exam: the texts of each test item}; each file of CORE once, although several tasks may use it."""
    exams = {task.name: task.load("test") for task in map(tasks.find, tasks.names())
             if task.kind != "source" and task.path("test")}
    if (paths.data_dir() / "core_tasks.yaml").exists():
        for task in {task.path: task for task in core.read_tasks(paths.data_dir())}.values():
            if files.beside(task.path).exists():
                exams[f"CORE {task.path.stem}"] = files.read_jsonl(task.path)
    return {name: [texts_in(item) for item in items] for name, items in exams.items()}


def texts_in(item: object) -> list[str]:
    """`texts_in({"question": "Who?", "choices": ["I", "you"], "answer": 0})` → ["Who?", "I", "you"]."""
    if isinstance(item, (dict, list)):
        return [text for part in (item.values() if isinstance(item, dict) else item) for text in texts_in(part)]
    return [item] if isinstance(item, str) else []


def hashes(text: str, ngram: int) -> tuple[list[str], np.ndarray]:
    """The words of a text, and a 64-bit hash (uint64) of each run of `ngram` of them, the same within this process."""
    words = WORD.findall(text.lower())
    each = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    runs = np.zeros(max(0, len(words) - ngram + 1), np.uint64)
    for first in range(ngram if len(runs) else 0):
        runs = runs * FACTOR + each[first:first + len(runs)]
    return words, runs


def search(exam_runs: np.ndarray, spec: str, ngram: int) -> tuple[dict[int, str], int, int]:
    """({run that is in the corpus too: its words}, documents, words); `exam_runs` is sorted."""
    shared: dict[int, str] = {}
    documents = num_words = 0
    with log.Progress("contamination", 0, unit="documents") as bar:
        for text in corpus(spec):
            words, runs = hashes(text, ngram)
            # Binary search is faster than np.isin, which would sort all runs of the exams again for every document.
            at = np.searchsorted(exam_runs, runs).clip(max=max(len(exam_runs) - 1, 0))
            for place in np.flatnonzero(exam_runs[at] == runs) if len(exam_runs) else ():
                shared.setdefault(int(runs[place]), " ".join(words[place:place + ngram]))
            documents, num_words = documents + 1, num_words + len(words)
            bar.update(documents, runs=len(shared))
    return shared, documents, num_words


def corpus(spec: str) -> Iterator[str]:
    """Every text of the sources of a mixture, once."""
    for name in mixture.parse(spec) or mixture.everything(paths.data_dir()):
        for row in mixture.rows(name, paths.data_dir()):
            if "text" in row:
                yield row["text"]
            else:
                yield from (text for message in row["messages"] for text in texts_in(message["content"]))


def judge(items: list[np.ndarray], shared: dict[int, str]) -> dict[str, Any]:
    """{"items", "checked", "overlapping", "examples"} of an exam, whose items are given as their runs."""
    shared_runs = np.fromiter(shared, np.uint64, len(shared))
    overlaps = [np.intersect1d(runs, shared_runs) for runs in items]
    examples = [shared[int(overlap[0])] for overlap in overlaps if len(overlap)][:NUM_EXAMPLES]
    return {"items": len(items), "checked": sum(len(runs) > 0 for runs in items),
            "overlapping": sum(len(overlap) > 0 for overlap in overlaps), "examples": examples}


def show(result: dict[str, Any]) -> None:
    """Prints the table."""
    view = Table("exam", "items", "long enough", "overlapping", "example",
                 title=f"runs of {result['ngram']} words shared with {result['documents']:,} documents")
    for name, exam in result["exams"].items():
        view.add_row(name, f"{exam['items']:,}", f"{exam['checked']:,}", f"{exam['overlapping']:,}",
                     exam["examples"][0] if exam["examples"] else "")
    Console().print(view)


if __name__ == "__main__":
    cli.run(main)
