"""Planted overlaps are found, and nothing else."""
import random

import pytest

from nanochat.data import shards
from nanochat.system import files, paths
from nanochat.system.files import UserError
from scripts import contamination

WORDS = [f"word{n}" for n in range(5000)]


def slow_runs(text: str, n: int) -> set[tuple[str, ...]]:
    words = contamination.WORD.findall(text.lower())
    return {tuple(words[at:at + n]) for at in range(len(words) - n + 1)}


def test_what_is_planted_is_found_and_nothing_else(base_dir, capsys):
    draw = random.Random(0)

    def text(num_words: int) -> str:
        return " ".join(draw.choices(WORDS, k=num_words))

    items = [{"question": text(30), "answer": f"#### {n}"} for n in range(40)] + [{"question": text(5), "answer": "1"}]
    documents = [text(60) for _ in range(50)]
    for n in (3, 17):  # in the middle of a document, with other capitals and punctuation
        words = items[n]["question"].split()[8:21]
        documents[n] += " " + ", ".join(words).upper() + "! " + text(4)
    documents[30] += " " + " ".join(items[30]["question"].split()[:12])  # one word too few
    documents[31] += " " + items[5]["question"][:40]
    for number, shard in enumerate((documents[:49], documents[49:])):
        shards.write(paths.data_dir() / "text" / f"shard_{number}.parquet", shard)
    files.write_jsonl(paths.data_dir() / "gsm8k" / "test.jsonl", items)
    contamination.main([])
    result = files.read_json(paths.results_dir("contamination") / "contamination.json")
    corpus = set().union(*(slow_runs(document, 13) for document in documents[:49]))
    slow = [n for n, item in enumerate(items) if slow_runs(item["question"], 13) & corpus]
    assert slow == [3, 17] and result["documents"] == 49 and "overlapping" in capsys.readouterr().out
    exam = result["exams"]["gsm8k"]
    assert (exam["items"], exam["checked"], exam["overlapping"]) == (41, 40, 2)
    assert exam["examples"] == [" ".join(items[n]["question"].split()[8:21]) for n in slow]
    contamination.main(["--ngram=12"])
    result = files.read_json(paths.results_dir("contamination") / "contamination.json")
    assert result["exams"]["gsm8k"]["overlapping"] == 3


def test_a_mixture_is_searched_too_and_without_exams_it_says_so(base_dir):
    question = "how many apples does ann have when she buys four and then eats two of them on monday"
    answer = {"role": "assistant", "content": [{"type": "text", "text": "2"}]}
    files.write_jsonl(paths.data_dir() / "chat" / "mine.jsonl", [
        {"messages": [{"role": "user", "content": "x " + question}, answer]}])
    with pytest.raises(UserError, match="no exams"):
        contamination.main(["--mixture=mine"])
    files.write_jsonl(paths.data_dir() / "gsm8k" / "test.jsonl", [{"question": question, "answer": "#### 2"}])
    contamination.main(["--mixture=mine"])
    result = files.read_json(paths.results_dir("contamination") / "contamination.json")
    assert result["exams"]["gsm8k"]["overlapping"] == 1
