"""Does the training text hold the exams? Runs of words that a corpus shares with evaluation items.

    python -m scripts.contamination                                 the pretraining shards
    python -m scripts.contamination --mixture="text,dolly,gsm8k" --ngram=13

An item overlaps when any run of --ngram words of any of its texts stands in the corpus (Brown et al. 2020, appendix C:
13 words; letters in lower case, punctuation ignored). Items with no text of that length can't be checked, and say so.
"""
import re
import time
from collections.abc import Iterator

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
                     mixture=flag("text", "the corpus, as --mixture of mid_train names it"))
    started = time.monotonic()
    exams = {name: texts for name, texts in exam_items().items() if texts}
    if not exams:
        raise UserError(f"there are no exams in {paths.data_dir()} to compare with; name a folder that has some with "
                        "--data (NANOCHAT_DATA), or make the kindergarten: python -m nanochat.dataset")
    runs = {name: [np.unique(np.concatenate([hashes(text, args.ngram)[1] for text in item])) for item in items]
            for name, items in exams.items()}
    wanted = np.unique(np.concatenate([own for items in runs.values() for own in items]))
    found, documents, words = search(wanted, args.mixture, args.ngram)
    result = {"ngram": args.ngram, "corpus": args.mixture, "documents": documents, "words": words,
              "exams": {name: judge(items, found) for name, items in runs.items()}}
    results.write(paths.results_dir("contamination") / "contamination.json", result, identity=("ngram", "corpus"))
    show(result)
    log.write_run("contamination", seconds=time.monotonic() - started, flags=vars(args))


def exam_items() -> dict[str, list[list[str]]]:
    """{exam: the texts of each test item}; of CORE's files each one once."""
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


def search(wanted: np.ndarray, spec: str, ngram: int) -> tuple[dict[int, str], int, int]:
    """({run found in the corpus: its words}, documents, words); `wanted` is sorted."""
    found: dict[int, str] = {}
    documents = num_words = 0
    with log.Progress("contamination", 0, unit="documents") as bar:
        for text in corpus(spec):
            words, runs = hashes(text, ngram)
            at = np.searchsorted(wanted, runs).clip(max=max(len(wanted) - 1, 0))
            for place in np.flatnonzero(wanted[at] == runs) if len(wanted) else ():
                found.setdefault(int(runs[place]), " ".join(words[place:place + ngram]))
            documents, num_words = documents + 1, num_words + len(words)
            bar.update(documents, runs=len(found))
    return found, documents, num_words


def corpus(spec: str) -> Iterator[str]:
    """Every text of a mixture's sources, once."""
    for name in mixture.parse(spec) or mixture.everything(paths.data_dir()):
        for row in mixture.rows(name, paths.data_dir()):
            if "text" in row:
                yield row["text"]
            else:
                yield from (text for message in row["messages"] for text in texts_in(message["content"]))


def judge(items: list[np.ndarray], found: dict[int, str]) -> dict:
    """{"items", "checked", "overlapping", "examples"} of one exam, whose items are given as their runs."""
    known = np.fromiter(found, np.uint64, len(found))
    shared = [np.intersect1d(own, known) for own in items]
    examples = [found[int(own[0])] for own in shared if len(own)][:NUM_EXAMPLES]
    return {"items": len(items), "checked": sum(len(own) > 0 for own in items),
            "overlapping": sum(len(own) > 0 for own in shared), "examples": examples}


def show(result: dict) -> None:
    view = Table("exam", "items", "long enough", "overlapping", "example",
                 title=f"runs of {result['ngram']} words shared with {result['documents']:,} documents")
    for name, one in result["exams"].items():
        view.add_row(name, f"{one['items']:,}", f"{one['checked']:,}", f"{one['overlapping']:,}",
                     one["examples"][0] if one["examples"] else "")
    Console().print(view)


if __name__ == "__main__":
    cli.run(main)
