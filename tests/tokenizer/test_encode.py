"""The ids are those of the obvious algorithm and of tiktoken with the same ranks."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.tokenizer import Tokenizer, encode, parallel, reference
from nanochat.tokenizer.train import train_tokenizer
from tests.tokenizer.texts import SENTENCES, any_texts, awkward_texts, runs

CORPUS = SENTENCES * 2 + [("a" * 33 + " bbbbbbbbbbbbbbbbbbb ababababababababab ") * 3, "        \n" * 5]
TOKENIZER = train_tokenizer(CORPUS, 700)
RANKS = {TOKENIZER.decode_bytes([i]): i for i in range(TOKENIZER.bos_id)}


def slowly(text: str) -> list[int]:
    return [i for word in reference.split(text) for i in reference.merge(word.encode(), RANKS)]


def test_sentences_and_runs():
    for text in CORPUS + runs(60) + runs(3):
        assert TOKENIZER.encode(text) == slowly(text)


def test_without_a_single_merge():
    tokenizer = Tokenizer([bytes([byte]) for byte in range(256)])
    for text in SENTENCES + runs(40):
        assert tokenizer.encode(text) == list(text.encode())


@given(st.lists(awkward_texts | any_texts | st.text(alphabet="ab ", max_size=150), max_size=4))
@settings(max_examples=300, deadline=None)
def test_generated(texts):
    ids, offsets = TOKENIZER.encode_batch(texts)
    assert [ids[start:end].tolist() for start, end in zip(offsets, offsets[1:])] == [slowly(text) for text in texts]
    assert TOKENIZER.decode(ids) == "".join(texts)


@pytest.mark.peers
def test_tiktoken_agrees():
    tiktoken = pytest.importorskip("tiktoken")
    theirs = tiktoken.Encoding("same", pat_str=TOKENIZER.pattern, mergeable_ranks=RANKS, special_tokens={})
    for text in CORPUS + runs(200) + ["a\ud800b\udc00", "\ud83d\ude00"]:
        assert TOKENIZER.encode(text) == theirs.encode_ordinary(text)


def test_batches_are_arrays_with_offsets(monkeypatch):
    monkeypatch.setattr(parallel, "PIECE", 100)
    texts = ["", *SENTENCES, "", "", *SENTENCES, ""] * 3
    ids, offsets = TOKENIZER.encode_batch(iter(texts))
    assert ids.dtype == np.int32 and offsets.dtype == np.int64 and len(offsets) == len(texts) + 1
    assert [ids[start:end].tolist() for start, end in zip(offsets, offsets[1:])] == list(map(slowly, texts))
    ids, offsets = TOKENIZER.encode_batch([])
    assert len(ids) == 0 and offsets.tolist() == [0]


@given(awkward_texts | any_texts | st.text(alphabet="ab \n1'.é ", max_size=150), st.integers(1, 20))
@settings(max_examples=300, deadline=None)
def test_a_long_text_is_cut_only_where_its_words_end(text, size):
    parts = list(encode.cut(text, size))
    assert "".join(parts) == text
    assert [word for part in parts for word in reference.split(part)] == reference.split(text)
    assert all(len(part) >= size for part in parts[:-1])


def test_a_long_text_of_words_is_cut():
    assert max(map(len, encode.cut("some words\n" * 1000, 100))) < 120
    assert list(encode.cut("", 5)) == [""] and list(encode.cut("short", 5)) == ["short"]


def test_a_small_cache_forgets_and_is_still_right(monkeypatch):
    """With two entries nearly every word pushes another out, halves of long ones included."""
    monkeypatch.setattr(encode, "CACHED_WORDS", 2)
    tokenizer = Tokenizer([*RANKS])
    letters = "bcdefghijklmnopqrstuvwxyz"
    words = ["a", letters[:15], letters[:16] * 2, "z" + letters + "ab", "z" + letters + "abcdef", "x"]
    for text in [" ".join(words[i:] + words[:i] + words[::-1]) for i in range(6)] * 3:
        assert tokenizer.encode(text) == slowly(text)


def test_long_words_take_no_quadratic_time():
    """A megabyte in one word: with n² steps this would take hours."""
    for text in ("a" * (1 << 20), "ab" * (1 << 19), "é" * (1 << 18)):
        ids = TOKENIZER.encode(text)
        assert TOKENIZER.decode(ids) == text and len(ids) < len(text.encode())
