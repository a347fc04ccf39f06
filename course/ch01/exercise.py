"""Chapter 1: write `merge`, which turns one word into token ids. (docs/course/01-tokens.md)"""


def merge(word: bytes, ranks: dict[bytes, int]) -> list[int]:
    """The token ids of one word.

    A word here is what `split` (nanochat/tokenizer/reference.py) cuts from a text: the space in front belongs to it, as
    in b" April".

    `ranks` maps the bytes of each token to its id: a low id was learnt early. Every single byte is in it.

    1. Is the whole word a token? Then its id is the answer.
    2. Cut the word into pieces of one byte.
    3. Look at all neighbours. Which two, joined, are a token? Of these, join the two that make the token with the
       LOWEST id; among equal ids the leftmost two.
    4. Repeat 3 until no two neighbours make a token. The ids of the pieces are the answer.

    merge(b"abc", {b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"ab": 4}) gives [0, 3]: "bc" was learnt before "ab".
    """
    # bytes([97]) == b"a" makes a piece of one byte; pieces[i:i + 2] = [new] replaces two pieces by one.
    raise NotImplementedError
