"""The merges are those of the obvious algorithm and of rustbpe, whatever the number of threads."""
import random

import pytest

from nanochat.tokenizer import parallel, reference, train
from nanochat.tokenizer.bpe import PATTERN
from nanochat.tokenizer.count import count_words
from nanochat.tokenizer.train import train_tokenizer
from tests.tokenizer.texts import SENTENCES


def merges(texts: list[str], number: int, digits: int = 2) -> list[tuple[int, int]]:
    return [tuple(pair) for pair in train.Merges(*count_words(texts, digits).export()).more(number).tolist()]


def small_corpora(number: int) -> list[list[str]]:
    """Few letters and short texts: nearly every choice is a tie."""
    rng = random.Random(0)
    alphabets = ["ab", "a", "abc ", "aab  ", "aaé你 ", "abcdefgh    '1\n", "ab" * 20 + " ", "xyz" * 9 + " "]
    return [["".join(rng.choices(rng.choice(alphabets), k=rng.randint(0, 120))) for _ in range(rng.randint(1, 4))]
            for _ in range(number)]


def test_small_corpora_with_ties():
    for texts in small_corpora(150):
        words = [word.encode() for text in texts for word in reference.split(text)]
        assert merges(texts, 50) == reference.learn(words, 50), texts


@pytest.mark.peers
def test_rustbpe_agrees():
    rustbpe = pytest.importorskip("rustbpe")
    for texts in [*small_corpora(150), SENTENCES * 3]:
        theirs = rustbpe.Tokenizer()
        theirs.train_from_iterator(iter(texts), 256 + 100, pattern=PATTERN % 2)
        tokens = [bytes([byte]) for byte in range(256)]
        for first, second in merges(texts, 100):
            tokens.append(tokens[first] + tokens[second])
        assert tokens == [bytes(token) for token, _ in theirs.get_mergeable_ranks()], texts


def test_the_number_of_threads_does_not_matter(monkeypatch):
    rng = random.Random(1)
    texts = [" ".join(rng.choices("abcdefghij", k=8)) + "".join(rng.choices("xyzw", k=30)) for _ in range(300)]
    monkeypatch.setattr(parallel, "PIECE", 500)
    learnt = []
    for number in (1, 2, 5):
        monkeypatch.setattr(parallel, "num_threads", lambda number=number: number)
        learnt.append(train.learn_tokens(iter(texts), 500, 2))
    assert learnt[0] == learnt[1] == learnt[2] and len(learnt[0]) == 500


def test_counts_are_those_of_a_counter():
    rng = random.Random(2)
    words = ["".join(rng.choices("ab", k=rng.choice([1, 2, 7, 8, 15, 16, 17, 40]))) for _ in range(300)]
    texts = [" ".join(rng.choices(words, k=50)) for _ in range(200)]
    data, starts, weights = count_words(texts, 2).export()
    counted = {data[start:end].tobytes().decode(): int(weight)
               for start, end, weight in zip(starts[::2], starts[1::2], weights[::2])}
    expected: dict[str, int] = {}
    for text in texts:
        for word in reference.split(text):
            expected[word] = expected.get(word, 0) + 1
    assert counted == {word: count for word, count in expected.items() if len(word.encode()) > 1}


def test_two_ways_to_spell_a_token_count_once():
    texts = ["abc " * 7 + "bcx " * 9 + "xab " * 9 + "xabc " * 3]
    tokens = train.learn_tokens(texts, 256 + 12, 2)
    assert len(set(tokens)) == len(tokens)


def test_stops_when_no_pair_is_left():
    assert train_tokenizer(["ab"], 500).vocab_size == 256 + 1 + 9
    assert train_tokenizer([], 500).vocab_size == 256 + 9


def test_more_goes_on_where_it_stopped():
    state = train.Merges(*count_words(SENTENCES * 2, 2).export())
    piecemeal = [tuple(pair) for number in (1, 2, 30) for pair in state.more(number).tolist()]
    assert piecemeal == merges(SENTENCES * 2, 33)
