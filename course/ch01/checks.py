"""What chapter 1 holds of `merge(word, ranks)`."""
from types import SimpleNamespace
from typing import Any

from course.ch01 import village
from course.expect import equal
from nanochat.tokenizer import reference

SOLUTION = SimpleNamespace(merge=reference.merge)
Ranks = dict[bytes, int]
SMALL = {b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"ab": 4}


def cut(ids: list[int], ranks: Ranks) -> str:
    """cut([0, 3], SMALL) == "a|bc (ids [0, 3])"; "?" for an id that no token has."""
    tokens = {number: token for token, number in ranks.items()}
    return "|".join(tokens.get(number, b"?").decode(errors="replace") for number in ids) + f" (ids {ids})"


def agree(mine: Any, word: bytes, ranks: Ranks, expected: list[int]) -> None:
    """AssertionError, with the pieces of the word, unless merge(word, ranks) gives the expected ids."""
    got = mine.merge(word, ranks)
    assert got == expected, f"merge({word!r}, …): got {cut(got, ranks)}, expected {cut(expected, ranks)}"


def check_example(mine: Any) -> None:
    """"abc" becomes a|bc: the token that was learnt first wins"""
    agree(mine, b"abc", SMALL, [0, 3])


def check_nothing_to_join(mine: Any) -> None:
    """pieces that make no token stay single, and one byte is one token"""
    agree(mine, b"cba", SMALL, [2, 1, 0])
    agree(mine, b"c", SMALL, [2])


def check_leftmost(mine: Any) -> None:
    """of equal pairs the leftmost is joined first: "aaa" becomes aa|a"""
    agree(mine, b"aaa", {b"a": 0, b"aa": 1}, [1, 0])


def check_whole_word(mine: Any) -> None:
    """a word that is a token is one id, even where no pair leads to it"""
    agree(mine, b"abc", {b"a": 0, b"b": 1, b"c": 2, b"abc": 3}, [3])


def check_no_text_is_lost(mine: Any) -> None:
    """the tokens of every word, joined, are the word again"""
    table = village.ranks()
    tokens = list(table)
    for word in dict.fromkeys(village.words()):
        joined = b"".join(tokens[number] for number in mine.merge(word, table))
        equal(f"the tokens of {word!r}, joined,", joined, word)


def check_slow_twin(mine: Any) -> None:
    """on the words of the village it agrees with the merges, carried out one by one in their order"""
    table = village.ranks()
    for word in dict.fromkeys(village.words()):
        pieces = list(word)
        for number, pair in enumerate(village.merges(), 256):
            pieces = reference.join(pieces, pair, number)
        agree(mine, word, table, pieces)
