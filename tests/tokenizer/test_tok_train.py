"""What the tokenizer learns from: all of a small corpus, an even sample of a large one, and one's own conversations."""
import json

import pytest

from nanochat.data import shards
from nanochat.system import files, log
from scripts.tok_train import Seen, sample


def seen_texts(data, max_chars, doc_cap=100):
    with log.Progress("test", 1) as bar:
        return list(Seen().texts(shards.train_shards(data), max_chars, doc_cap, bar))


@pytest.fixture
def data(tmp_path):
    """Four shards for training, whose documents tell where they lie."""
    for number in range(5):
        texts = [f"{number} {i:04d} " + "clay " * 20 for i in range(3000)]
        shards.write(tmp_path / f"text/shard_{number}.parquet", texts)
    return tmp_path


def test_a_small_corpus_is_seen_whole_whatever_the_cap(data):
    assert seen_texts(data, 10**9, 10) == list(shards.iter_texts(shards.train_shards(data)))


@pytest.mark.parametrize("share", [0.9, 0.3, 0.05])
def test_a_large_corpus_is_sampled_from_end_to_end(data, share):
    total = sum(map(len, shards.iter_texts(shards.train_shards(data))))
    texts = seen_texts(data, int(share * total), 10_000)
    assert 0.6 * share * total <= sum(map(len, texts)) <= share * total
    assert len({text[0] for text in texts}) == (4 if share > 0.1 else 1) and len(set(texts)) > 100


def test_long_documents_are_sampled_from_end_to_end():
    text = "".join(f"{i:05d}" for i in range(10_000))
    pieces = sample(text, 1000)
    assert len(pieces) <= 1010 and pieces.startswith("00000") and pieces.endswith("09999")
    assert sample("short", 10) == "short"


@pytest.mark.parametrize("are_text, expected", [(False, ["Who?", "Mara.", "Who?"]), (True, []), (None, [])])
def test_own_conversations_are_seen_up_to_the_amount_of_text(tmp_path, are_text, expected):
    talk = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Mara."}]
    files.write_atomic(tmp_path / "chat/mara.jsonl", "\n".join([json.dumps(talk)] * 9))
    if are_text is not None:
        files.write_json(tmp_path / "imported.json", {"imported": {"has_words_of_conversations": are_text}})
    seen = Seen()
    seen.chars = 12
    assert list(seen.conversations(tmp_path)) == expected
