"""The tokenizer's door: files that others can load, damaged ones refused, text in pieces."""
import json

import pytest

from nanochat.system.files import UserError
from nanochat.tokenizer import StreamDecoder, Tokenizer, chat
from nanochat.tokenizer.train import train_tokenizer
from tests.tokenizer.texts import SENTENCES

TEXTS = SENTENCES * 2
CONVERSATION = {"messages": [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "7*8?"},
    {"role": "assistant", "content": [{"type": "text", "text": "Let me"}, {"type": "text", "text": " see: "},
                                      {"type": "python", "text": "7*8"}, {"type": "python_output", "text": "56"},
                                      {"type": "text", "text": " 56."}]},
    {"role": "user", "content": "Thanks!"},
    {"role": "assistant", "content": "You're welcome."}]}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, 400)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    return folder


def test_round_trip(tokenizer, folder):
    again = Tokenizer.load(folder)
    assert again.vocab_size == tokenizer.vocab_size == 400 and again.specials == tokenizer.specials
    for text in TEXTS:
        assert again.encode(text) == tokenizer.encode(text)
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_specials_are_never_parsed_out_of_text(tokenizer):
    ids = tokenizer.encode("<|bos|>")
    assert max(ids) < tokenizer.bos_id and tokenizer.decode(ids) == "<|bos|>"


def test_token_bytes(tokenizer):
    sizes = tokenizer.token_bytes()
    assert len(sizes) == tokenizer.vocab_size and sizes[tokenizer.bos_id:].tolist() == [0] * 9
    for text in TEXTS:
        assert sizes[tokenizer.encode(text)].sum() == len(text.encode())


def test_unknown_special(tokenizer):
    with pytest.raises(UserError, match="<|eos|> is not a special token; known: <|bos|>".replace("|", r"\|")):
        tokenizer.special_id("<|eos|>")


def test_stream_never_gives_half_a_character(tokenizer):
    for text in [*TEXTS, "😀é"]:
        decoder = StreamDecoder(tokenizer)
        pieces = [decoder.push(i) for i in text.encode()]  # byte by byte: ids below 256 are the bytes
        assert "".join(pieces) + decoder.finish() == text and "\ufffd" not in "".join(pieces)
    decoder = StreamDecoder(tokenizer)
    assert decoder.push(0xF0) == "" and decoder.finish() == "\ufffd"


def test_bytes_that_are_no_text(tokenizer):
    assert tokenizer.decode([0xFF, 0x41, 0xC3]) == "\ufffdA\ufffd"
    assert tokenizer.decode_bytes([0xFF, tokenizer.bos_id]) == b"\xff<|bos|>"


@pytest.mark.parametrize("spoil", [
    lambda whole: whole["pre_tokenizer"].clear(),
    lambda whole: whole["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\w+"),
    lambda whole: whole["model"]["vocab"].update({"€": 900}),
    lambda whole: whole["model"]["vocab"].pop("a"),
    lambda whole: whole["added_tokens"].pop(),
    lambda whole: whole.update(model=None),
])
def test_foreign_file(folder, tmp_path, spoil):
    whole = json.loads((folder / "tokenizer.json").read_text())
    spoil(whole)
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    with pytest.raises(UserError, match="is not a tokenizer of nanochat.*tok_train"):
        Tokenizer.load(tmp_path)


def test_missing_or_damaged_file(folder, tmp_path):
    with pytest.raises(UserError, match="no tokenizer at .*tok_train"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text((folder / "tokenizer.json").read_text()[:1000])
    with pytest.raises(UserError, match="damaged"):
        Tokenizer.load(tmp_path)


@pytest.mark.peers
def test_hugging_face_agrees(tokenizer, folder):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        assert theirs.encode(text) == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text
    assert theirs.bos_token_id == tokenizer.bos_id and len(theirs) == tokenizer.vocab_size
    ids, _ = chat.render(tokenizer, CONVERSATION)
    assert theirs.apply_chat_template(CONVERSATION["messages"], tokenize=False) == tokenizer.decode(ids)
    assert theirs.apply_chat_template(CONVERSATION["messages"], return_dict=False) == ids
    prompt = theirs.apply_chat_template(CONVERSATION["messages"][:4], add_generation_prompt=True, return_dict=False)
    assert prompt == chat.render_prompt(tokenizer, CONVERSATION)
