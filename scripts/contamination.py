"""Does the training text hold the exams? Runs of words that a corpus shares with evaluation items.

    python -m scripts.contamination                                 the pretraining shards
    python -m scripts.contamination --mixture="text,dolly,gsm8k" --ngram=13

An item overlaps when the corpus has any run of --ngram words of any of the item's texts (Brown et al. 2020, appendix C:
13 words; letters in lower case, punctuation ignored). Items with no text of that length cannot be checked; the result
counts them.
"""
import re
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

import tasks
from nanochat.eval import core, record
from nanochat.system import cli, files, log, paths, results
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from tasks import mixture

WORD = re.compile(r"\w+")
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits without a pattern: 2^64 / golden ratio
NUM_EXAMPLES = 3
Runs = npt.NDArray[np.uint64]  # the hashes of runs of words


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(argv, __doc__, ngram=flag(13, "words in a run", at_least=2),
                     mixture=flag("text", "the corpus, as --mixture of mid_train names it"))
    started = time.monotonic()

    # ---- The exams. Their runs are kept in memory: 8 bytes a word, where the corpus would not fit.
    exams = {name: texts for name, texts in exam_items().items() if texts}
    if not exams:
        raise UserError(f"there are no exams in {paths.data_dir()} to compare with; name a folder that has some with "
                        "--data (NANOCHAT_DATA), or make the kindergarten: python -m nanochat.dataset")
    runs_of_items = {name: [np.unique(np.concatenate([hashes(text, args.ngram)[1] for text in item]))
                            for item in items] for name, items in exams.items()}
    exam_runs = np.unique(np.concatenate([runs for items in runs_of_items.values() for runs in items]))

    # ---- The corpus, once from beginning to end.
    matches, documents, words = search(exam_runs, args.mixture, args.ngram)
    result = {"ngram": args.ngram, "corpus": args.mixture, "documents": documents, "words": words,
              "exams": {name: judge(items, matches) for name, items in runs_of_items.items()}}
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


def hashes(text: str, ngram: int) -> tuple[list[str], Runs]:
    """The words of a text, and a 64-bit hash of each run of `ngram` words, the same within this process."""
    words = WORD.findall(text.lower())
    word_hashes = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    runs = np.zeros(max(0, len(words) - ngram + 1), np.uint64)
    for first in range(ngram if len(runs) else 0):
        runs = runs * FACTOR + word_hashes[first:first + len(runs)]
    return words, runs


def search(exam_runs: Runs, spec: str, ngram: int) -> tuple[dict[int, str], int, int]:
    """({run that the corpus and an exam share: its words}, documents, words); `exam_runs` is sorted."""
    matches: dict[int, str] = {}
    num_documents = num_words = 0
    with log.Progress("contamination", 0, unit="documents") as bar:
        for text in corpus(spec):
            words, runs = hashes(text, ngram)
            nearest = np.searchsorted(exam_runs, runs).clip(max=max(len(exam_runs) - 1, 0))
            for start in np.flatnonzero(exam_runs[nearest] == runs) if len(exam_runs) else ():
                matches.setdefault(int(runs[start]), " ".join(words[start:start + ngram]))
            num_documents, num_words = num_documents + 1, num_words + len(words)
            bar.update(num_documents, runs=len(matches))
    return matches, num_documents, num_words


def corpus(spec: str) -> Iterator[str]:
    """Every text of a mixture's sources, once."""
    for name in mixture.parse(spec) or mixture.everything(paths.data_dir()):
        for row in mixture.rows(name, paths.data_dir()):
            yield from [row["text"]] if "text" in row else texts_in([turn["content"] for turn in row["messages"]])


def judge(items: list[Runs], matches: dict[int, str]) -> dict[str, Any]:
    """{"items", "checked", "overlapping", "examples"} of one exam, whose items are given as their runs."""
    matching_runs = np.fromiter(matches, np.uint64, len(matches))
    shared = [np.intersect1d(runs, matching_runs) for runs in items]
    examples = [matches[int(runs[0])] for runs in shared if len(runs)][:NUM_EXAMPLES]
    return {"items": len(items), "checked": sum(len(runs) > 0 for runs in items),
            "overlapping": sum(len(runs) > 0 for runs in shared), "examples": examples}


def show(result: dict[str, Any]) -> None:
    view = Table("exam", "items", "long enough", "overlapping", "example",
                 title=f"runs of {result['ngram']} words shared with {result['documents']:,} documents")
    for name, exam in result["exams"].items():
        view.add_row(name, f"{exam['items']:,}", f"{exam['checked']:,}", f"{exam['overlapping']:,}",
                     exam["examples"][0] if exam["examples"] else "")
    Console().print(view)


if __name__ == "__main__":
    cli.run(main)
