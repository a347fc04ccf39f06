"""The tokenizer's door: ids equal to the slow oracle and to three other libraries, files that others can load."""
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat.system.files import UserError
from nanochat.tokenizer import StreamDecoder, Tokenizer, chat, reference

TEXTS = ["The cat's hat isn't here; we've 12345 cats, they'll say 'tis 3.14!!\n\n  Next   line\r\n\tdone.  ",
         "Les élèves n'ont pas été là. Größe, naïve, ſ'ſ, Привет мир, 你好世界, こんにちは, שלום, مرحبا, 👩‍👩‍👧 🎉 ½ ②\u00a0\u3000x",
         "def f(x):\n    return {x: [1, 22, 333]}  # comment\n\n\n", "\0\x1c\x85 aaaaaaaaaaaa'LL'Re   \n \n x' 's"] * 2
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
    return Tokenizer.train(TEXTS, 400)


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
