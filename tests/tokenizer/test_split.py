"""The bit-mask splitter cuts as the plain pattern does, and the plain pattern as other people's libraries do."""
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.tokenizer import reference, split, unicode_ranges
from nanochat.tokenizer.bpe import PATTERN
from tests.tokenizer.texts import SENTENCES, any_texts, awkward_texts, runs


def cut(texts: list[str], digits: int = 2) -> list[list[str]]:
    """The words of each text, as the splitter finds them."""
    data, starts = split.Splitter(digits).words(texts)
    assert starts[0] == 0 and starts[-1] + 1 <= len(data)
    words = [data[start:end].tobytes() for start, end in zip(starts, starts[1:])] + [b"\xff"]
    words_of_texts: list[list[str]] = []
    for word in words[:-1]:
        if word == b"\xff":
            words_of_texts.append([])
        else:
            words_of_texts[-1].append(word.decode())
    return words_of_texts


@pytest.mark.parametrize("digits", [1, 2, 3])
def test_sentences_and_runs(digits):
    texts = SENTENCES + runs(70) + runs(1)
    assert cut(texts, digits) == [reference.split(text, digits) for text in texts]


@given(st.lists(awkward_texts | any_texts, max_size=3), st.integers(1, 3))
@settings(max_examples=500, deadline=None)
def test_generated(texts, digits):
    assert cut(texts, digits) == [reference.split(text, digits) for text in texts]


def test_every_position_in_a_block():
    """The rules look at neighbours, which may be in the block of 64 bytes before or after."""
    texts = ["x" * shift + text for shift in range(64)
             for text in ("'ll go", "“a", "\u3000a", "!\n \n b", "  12 345", "ſ'ſa")]
    assert cut(texts) == [reference.split(text) for text in texts]


def test_all_code_points():
    texts = ["".join(map(chr, range(base, base + 0x800))) for base in range(0, 0x110000, 0x800) if base != 0xD800]
    spaced = [" a".join(text) for text in texts[:80]]
    assert cut(texts + spaced) == [reference.split(text) for text in texts + spaced]


def test_the_table_matches_the_published_pattern():
    """At both edges of every range, to be fast; the whole table was compared once, when it was written."""
    tokenizers = pytest.importorskip("tokenizers")
    for name, ranges in (("L", unicode_ranges.LETTERS), ("N", unicode_ranges.NUMBERS)):
        theirs = tokenizers.pre_tokenizers.Split(tokenizers.Regex(rf"\p{{{name}}}"), "removed", invert=True)
        for first, last in ranges:
            edges = [point for point in (first - 1, first, last, last + 1)
                     if point < 0x110000 and not 0xD800 <= point < 0xE000]
            inside = [chr(point) for point in edges if first <= point <= last]
            matched = [piece for piece, _ in theirs.pre_tokenize_str("".join(map(chr, edges)))]
            assert matched == inside, (name, hex(first))


def test_pattern_is_the_published_one():
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERN % 2), "isolated")
    for text in SENTENCES + runs(9):
        assert [piece for piece, _ in theirs.pre_tokenize_str(text)] == reference.split(text)


def test_lone_surrogates_are_replaced():
    assert split.utf8("a\ud800b") == "a\ufffdb".encode()
    assert split.utf8("\ud83d\ude00") == "😀".encode()


def test_a_splitter_can_be_used_again():
    splitter = split.Splitter(2)
    small = splitter.words(["a b"])[1].tolist()
    splitter.words(["long text " * 1000])
    assert splitter.words(["a b"])[1].tolist() == small == [0, 1, 2, 4]
    assert np.array_equal(splitter.words([])[1], [0])
