"""The tokenizer: save it, load it, turn text into ids and ids into text. train.py makes it.

A tokenizer is a list of byte strings. Ids 0–255 are the bytes themselves, then come the merged tokens in the order in
which they were learnt, then nine special tokens that no text can produce. To encode, `PATTERN` cuts text into words. In
each word the adjacent pair that forms the token with the lowest id is merged, until no pair forms a token (tiktoken's
rule). With the tokens "ab" and "abc", "abcd" becomes a b c d → ab c d → abc d.

On disk it is Hugging Face's `tokenizer.json` and `tokenizer_config.json`, so that `tokenizers` and `transformers` load
the folder and agree with us on every id. The chat format is in `chat.py`.
"""
import codecs
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from nanochat.system import files
from nanochat.system.files import UserError
from nanochat.tokenizer import chat
from nanochat.tokenizer.encode import Encoder

# GPT-4's pattern as published in tiktoken, except for the number of digits in a word: GPT-4 has 3. With at most 2 there
# are 110 words of digits instead of 1,110 that compete for the tokens of a small vocabulary.
PATTERN = (r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,%d}| ?[^\s\p{L}\p{N}]++[\r\n]*"
           r"|\s*[\r\n]|\s+(?!\S)|\s+")
SPECIALS = ("<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>",
            "<|python_start|>", "<|python_end|>", "<|output_start|>", "<|output_end|>")
BYTES = [bytes([byte]) for byte in range(256)]  # tokens 0–255
# Hugging Face's tokenizer_config.json
CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
          "bos_token": "<|bos|>", "eos_token": "<|assistant_end|>", "chat_template": chat.TEMPLATE}


class Tokenizer:
    """Text to ids and back. `tokens[i]` are the bytes of id i; the ids of the special tokens follow."""

    def __init__(self, tokens: list[bytes], digits: int = 2):
        assert tokens[:256] == BYTES, "the first 256 tokens must be the bytes"
        assert len(set(tokens)) == len(tokens), "two tokens have the same bytes"
        self.digits = digits
        self.specials = {name: len(tokens) + i for i, name in enumerate(SPECIALS)}
        self.vocab_size = len(tokens) + len(SPECIALS)
        self.bos_id = self.specials["<|bos|>"]
        self.max_token_bytes = max(map(len, tokens))
        self._tokens = [*tokens, *(name.encode() for name in SPECIALS)]  # the bytes that decoding writes for each id
        self._ranks = {token: i for i, token in enumerate(tokens)}  # special tokens are not among these
        self._encoder = Encoder(tokens, digits)

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[list[bytes], int]]:
        """How a tokenizer is sent to a worker process: as its tokens, without the caches of the encoder."""
        return Tokenizer, (self._tokens[:-len(SPECIALS)], self.digits)

    @property
    def pattern(self) -> str:
        return PATTERN % self.digits

    def special_id(self, name: str) -> int:
        """The id of a special token such as `<|user_start|>`."""
        if name not in self.specials:
            raise UserError(f"{name} is not a special token; known: {' '.join(self.specials)}")
        return self.specials[name]

    def encode(self, text: str) -> list[int]:
        """The ids of `text`. Special tokens are never parsed: "<|bos|>" in a text is seven characters."""
        # A user who types "<|assistant_end|>" into the chat must not be able to end the assistant's turn.
        ids: list[int] = self._encoder.encode([text])[0].tolist()
        return ids

    def encode_batch(self, texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """All ids in one int32 array, and int64 offsets: text i has ids[offsets[i]:offsets[i + 1]]. Uses all cores."""
        return self._encoder.encode_batch(texts)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of `ids`; for a special token, its name."""
        return b"".join([self._tokens[i] for i in ids])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; bytes that are not UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def token_bytes(self) -> np.ndarray:
        """The number of bytes of each id's text, int32 (V,); 0 for special tokens."""
        # Bits per byte count the bytes of the text that a model predicts; a special token has no text.
        return np.array([len(token) for token in self._tokens[:-len(SPECIALS)]] + [0] * len(SPECIALS), np.int32)

    def save(self, folder: Path) -> None:
        """Writes tokenizer.json and tokenizer_config.json, which `tokenizers` and `transformers` can read."""
        names = self.visible_tokens()
        added = [{"id": i, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                  "special": True} for name, i in self.specials.items()]
        # The pattern cuts the text, so ByteLevel must not do it (use_regex); it only turns bytes into characters.
        byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        split = {"type": "Split", "pattern": {"Regex": self.pattern}, "behavior": "Isolated", "invert": False}
        # ignore_merges: a word that is a token becomes this token without any merge, as in tiktoken.
        model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                 "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
                 "vocab": {name: i for i, name in enumerate(names)}, "merges": self.all_merges()}
        content = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
                   "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]}, "post_processor": None,
                   "decoder": byte_level, "model": model}
        files.write_atomic(Path(folder) / "tokenizer.json", json.dumps(content, ensure_ascii=False))
        files.write_json(Path(folder) / "tokenizer_config.json", CONFIG)

    def visible_tokens(self) -> list[str]:
        """The tokens as Hugging Face's ByteLevel writes them, without the special ones: " the" is "Ġthe"."""
        return [_visible(token) for token in self._ranks]

    def all_merges(self) -> list[tuple[str, str]]:
        """Every pair of tokens whose bytes together are a token, in the order of the tokens' ids."""
        # Hugging Face merges only listed pairs. With all pairs listed, its rule is tiktoken's.
        return [(_visible(token[:cut]), _visible(token[cut:])) for token in list(self._ranks)[256:]
                for cut in range(1, len(token)) if token[:cut] in self._ranks and token[cut:] in self._ranks]

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Reads what `save` wrote. UserError when it is missing, damaged, or not a tokenizer of this kind."""
        path = Path(folder) / "tokenizer.json"
        if not path.exists():
            raise UserError(f"no tokenizer at {path}; train one with `python -m scripts.tok_train`")
        content = files.read_json(path)
        try:
            pattern = content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
            specials = {added["content"]: added["id"] for added in content["added_tokens"]}
            ids = {bytes(_BYTE_OF[character] for character in name): i
                   for name, i in content["model"]["vocab"].items()}
            return cls.checked(ids, specials, pattern)
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise UserError(f"{path} is not a tokenizer of nanochat ({type(error).__name__}: {error}); train one with "
                            "`python -m scripts.tok_train`") from None

    @classmethod
    def checked(cls, ids: dict[bytes, int], specials: dict[str, int], pattern: str) -> "Tokenizer":
        """The tokenizer of a file from an unknown author. ValueError if the file does not fit our encoder."""
        digits = [n for n in range(1, 10) if PATTERN % n == pattern]
        if not digits:
            raise ValueError(f"its pattern is {pattern!r:.120}")
        tokens = sorted(ids, key=ids.__getitem__)
        if [ids[token] for token in tokens] != list(range(len(tokens))) or tokens[:256] != BYTES:
            raise ValueError("its first 256 tokens are not the bytes, or an id is missing or given twice")
        if specials != {name: len(tokens) + i for i, name in enumerate(SPECIALS)}:
            raise ValueError(f"its special tokens are {str(list(specials.items())[:9]):.200}")
        return cls(tokens, digits[0])


class StreamDecoder:
    """Decodes one id at a time, but only complete characters: a token may end inside a character of several bytes.

    >>> decoder = StreamDecoder(Tokenizer([bytes([byte]) for byte in range(256)]))
    >>> [decoder.push(byte) for byte in "é!".encode()]
    ['', 'é', '!']
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokens = tokenizer._tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The characters that this id completes."""
        return self._decoder.decode(self._tokens[token_id])

    def finish(self) -> str:
        """The rest after the last id: U+FFFD if a character is still incomplete, otherwise ""."""
        return self._decoder.decode(b"", final=True)


def _byte_characters() -> Iterator[str]:
    """GPT-2's printable character for each byte, which Hugging Face's ByteLevel expects in a vocabulary.

    Visible Latin-1 characters stand for themselves; the other 68 bytes take U+0100, U+0101, …
    """
    spare = 0x100
    for byte in range(256):
        # Not the space, control characters, and U+00AD, a hyphen that is not shown.
        visible = 0x21 <= byte <= 0x7E or 0xA1 <= byte <= 0xAC or 0xAE <= byte
        yield chr(byte if visible else spare)
        spare += not visible


_CHARACTERS = list(_byte_characters())
_BYTE_OF = {character: byte for byte, character in enumerate(_CHARACTERS)}


def _visible(token: bytes) -> str:
    """_visible(b" the") == "Ġthe"."""
    return "".join(_CHARACTERS[byte] for byte in token)
