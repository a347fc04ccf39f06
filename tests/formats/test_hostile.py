"""Files that are damaged, or made to do harm: each is refused in one line, and nothing in it is executed."""
import io
import json
import math
import os
import pickle
import pickletools
import struct
import zipfile
from dataclasses import replace

import pytest
import torch

from nanochat.formats.tokenizer_pickle import CLASS, unpickle
from nanochat.system.files import UserError
from scripts import import_model

from . import twin

FORM = replace(twin.FORMS["g3"], layers=2)
CANARY = "NANOCHAT_TEST_CANARY"  # a harmful file sets this variable


class Harm:
    """Its pickle calls a function when it is read."""

    def __reduce__(self):
        return os.putenv, (CANARY, "sung")


class Slots(dict):
    def __reduce__(self):
        return eval, (f"__import__('os').environ.__setitem__('{CANARY}', 'sung')",)


@pytest.fixture(scope="module")
def good(tokenizer, tmp_path_factory):
    return twin.write(tmp_path_factory.mktemp("good"), FORM, tokenizer)


@pytest.fixture
def folder(good, tmp_path):
    """A copy of a whole checkpoint, for a test to damage."""
    (tmp_path / "theirs").mkdir()
    for file in good.iterdir():
        os.link(file, tmp_path / "theirs" / file.name)
    return tmp_path / "theirs"


def refused(folder, monkeypatch):
    monkeypatch.setenv(CANARY, "silent")
    with pytest.raises(UserError) as caught:
        import_model.read(folder, "", "", 15.0)
    text = str(caught.value)
    assert "\n" not in text and 20 < len(text) < 500
    assert os.environ[CANARY] == "silent"
    return text


def short(text):
    return bytes([0x8c, len(text)]) + text.encode()


def named(module, name):
    """A pickle's instructions for the value of that name."""
    return short(module) + short(name) + b"\x93"


def fields(tokenizer, **changes):
    return {**twin.encoding_fields(tokenizer), **changes}


HARMFUL_NAMES = [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("builtins", "exec"),
                 ("builtins", "getattr"), ("subprocess", "Popen"), ("tiktoken.core", "Encoding.__init__"),
                 ("tiktoken.core", "Encoding\x00"), ("tiktoken", "core.Encoding"), ("tiktoken.load", "read_file"),
                 ("nanochat.system.files", "write_atomic"), ("torch", "load"), ("numpy", "load"), ("pickle", "loads"),
                 ("importlib", "import_module"), ("runpy", "run_path"), ("copyreg", "_reconstructor"), ("", "")]
PICKLES = {
    **{f"names {module}.{name!r}": b"\x80\x04" + named(module, name) + short("true") + b"\x85R."
       for module, name in HARMFUL_NAMES},
    **{f"protocol {n} calls": pickle.dumps(Harm(), protocol=n) for n in range(6)},
    "calls eval inside a table": pickle.dumps({"name": Slots()}),
    "old GLOBAL": b"\x80\x02ctiktoken.core\nEncoding\n)\x81.", "INST": b"(S'true'\nios\nsystem\n.",
    "OBJ": b"\x80\x04(" + named("tiktoken.core", "Encoding") + b"o.", "an extension code": b"\x80\x04\x82\x01.",
    "a persistent id": b"Pcanary\n.", "REDUCE of the class": b"\x80\x04" + named("tiktoken.core", "Encoding") + b")R.",
    "NEWOBJ with arguments": b"\x80\x04" + named("tiktoken.core", "Encoding") + short("x") + b"\x85\x81.",
    "the class itself": b"\x80\x04" + named("tiktoken.core", "Encoding") + b".",
    "a huge memo index": b"\x80\x04}r\xff\xff\xff\x7f.", "huge bytes": b"\x80\x04B\xff\xff\xff\xffx.",
    "a huge bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 62) + b".",
    "a huge string": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b".",
    "a huge integer": b"\x80\x04\x8b\xff\xff\xff\x7f1.", "a memo that is empty": b"\x80\x04h\x07.",
    "a memo of 16 GB": b"\x80\x04}r\xff\xff\xff\x7f.",
    "fields of the class": b"\x80\x04" + named(*CLASS) + b"}" + short("a") + b"K\x01sb.",
    "no mark": b"\x80\x04}u.", "nothing to set": b"\x80\x04s.", "an odd number of items": b"\x80\x04}(K\x01u.",
    "two values": b"\x80\x04}}.", "keys that are tables": b"\x80\x04}(}}u.", "BUILD with a tuple": b"\x80\x04})b.",
    "a table in itself": b"\x80\x04}\x94(" + short("a") + b"h\x00u.", "no end": b"\x80\x04}", "nothing": b"",
    "a text": b"<html>404</html>", "zeros": bytes(64), "an LFS pointer": b"version https://git-lfs.github.com/spec/v1\n",
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_that_are_no_tokenizer(name, folder, monkeypatch):
    (folder / "tokenizer.pkl").unlink()
    (folder / "tokenizer.pkl").write_bytes(PICKLES[name])
    refused(folder, monkeypatch)


def ranks_with(tokenizer, **more):
    return {**twin.encoding_fields(tokenizer)["mergeable_ranks"], **{k.encode(): v for k, v in more.items()}}


FIELDS = {
    "no pattern": lambda t: {k: v for k, v in fields(t).items() if k != "pat_str"},
    "a field more": lambda t: fields(t, _core_bpe="x"), "another pattern": lambda t: fields(t, pat_str="(a+)+$"),
    "a pattern that is a table": lambda t: fields(t, pat_str={}),
    "ranks that are a text": lambda t: fields(t, mergeable_ranks="x"),
    "an id twice": lambda t: fields(t, mergeable_ranks=ranks_with(t, zzz=290)),
    "an id missing": lambda t: fields(t, mergeable_ranks=ranks_with(t, zzz=400)),
    "a negative id": lambda t: fields(t, mergeable_ranks=ranks_with(t, zzz=-1)),
    "an id that is a text": lambda t: fields(t, mergeable_ranks=ranks_with(t, zzz="291")),
    "bytes in another order": lambda t: fields(t, mergeable_ranks={**ranks_with(t), b"a": 98, b"b": 97}),
    "few bytes": lambda t: fields(t, mergeable_ranks={b"a": 0}), "no tokens": lambda t: fields(t, mergeable_ranks={}),
    "a token without bytes": lambda t: fields(t, mergeable_ranks={**ranks_with(t), b"": 291}),
    "a token of a kilobyte": lambda t: fields(t, mergeable_ranks={**ranks_with(t), b"a" * 1025: 291}),
    "a token that is a text": lambda t: fields(t, mergeable_ranks={**ranks_with(t), "abc": 291}),
    "no specials": lambda t: fields(t, special_tokens={}),
    "another special": lambda t: fields(t, special_tokens={**t.specials, "<|evil|>": 300}),
    "specials in another order": lambda t: fields(t, special_tokens=dict(zip(t.specials, range(299, 290, -1)))),
    "a smaller vocabulary": lambda t: fields(type(t)(t._tokens[:280], 2)),
}


@pytest.mark.parametrize("name", FIELDS)
def test_tokenizers_that_are_not_ours(name, folder, tokenizer, monkeypatch):
    (folder / "tokenizer.pkl").unlink()
    (folder / "tokenizer.pkl").write_bytes(twin.pickled(FIELDS[name](tokenizer)))
    refused(folder, monkeypatch)


def config_with(**changes):
    made = twin.meta(FORM)
    made["model_config"] = {k: v for k, v in {**made["model_config"], **changes}.items() if v != "gone"}
    return json.dumps(made)


METAS = {
    "no JSON": "{", "a list": "[]", "null": "null", "deep": "[" * 100_000, "not UTF-8": b"\xff\xfe{}", "nothing": "",
    "no model_config": '{"step": 3}', "model_config a list": '{"model_config": [1]}',
    "a field more": config_with(engram_layers=2), "no vocab_size": config_with(vocab_size="gone"),
    **{f"{name} = {value}": config_with(**{name: value}) for name in ("n_layer", "n_embd", "vocab_size", "sequence_len")
       for value in (0, -1, 2.0, True, "4", None, 10**30, math.nan, 1 << 40)},
    "heads that do not divide": config_with(n_head=3), "groups that do not divide": config_with(n_kv_head=3),
    "odd heads": config_with(n_head=64, n_kv_head=64), "more layers than weights": config_with(n_layer=3),
    "fewer layers": config_with(n_layer=1), "wider": config_with(n_embd=128),
    "more tokens": config_with(vocab_size=301), "another number of groups": config_with(n_kv_head=2),
    **{f"window_pattern {value!r:.9}": config_with(window_pattern=value)
       for value in ("", "X", "SL\n", 5, ["S"], "S" * 999)},
}


@pytest.mark.parametrize("name", METAS)
def test_meta_files_that_are_wrong(name, folder, monkeypatch):
    path, content = folder / "meta_000030.json", METAS[name]
    path.unlink()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(folder, monkeypatch)


def change(**changes):
    """The weights with other entries; dots are written as two underscores, None takes an entry away."""
    def of(tensors):
        for name, make in changes.items():
            name = name.replace("__", ".")
            value = make(tensors.get(name)) if callable(make) else make
            tensors.pop(name, None)
            if value is not None:
                tensors[name] = value
        return tensors
    return of


HEAD, WTE = "lm_head__weight", "transformer__wte__weight"
WEIGHTS = {
    "a list": lambda t: list(t.values()), "a tensor": lambda t: t["lm_head.weight"], "nothing": lambda t: {},
    "a number for a name": lambda t: {0: t["lm_head.weight"]}, "a text inside": change(extra="text"),
    "a table inside": change(extra={"a": torch.ones(1)}), "code": change(extra=Harm()), "eval": change(extra=Slots()),
    "no head": change(**{HEAD: None}), "a weight more": change(v0_lambdas=torch.ones(2)),
    "a weight more in a block": change(transformer__h__0__attn__c_x__weight=torch.ones(4, 4)),
    "integers": change(**{HEAD: lambda t: t.long()}), "doubles": change(**{HEAD: lambda t: t.double()}),
    "complex": change(**{HEAD: lambda t: t.cfloat()}), "sparse": change(**{HEAD: lambda t: t.to_sparse()}),
    "one number seen as a table": change(**{HEAD: lambda t: torch.ones(1).expand(320, 64)}),
    "one number seen as 16 TB": change(**{HEAD: lambda t: torch.ones(1).expand(1 << 21, 1 << 21)}),
    "a transposed view": change(**{HEAD: lambda t: t.t()}), "no memory": change(**{HEAD: lambda t: t.to("meta")}),
    "an empty table": change(**{HEAD: lambda t: t[:0]}), "a row less": change(**{WTE: lambda t: t[:299].clone()}),
    "a row more than padding": change(**{WTE: lambda t: torch.cat((t, t[:1]))}),
    "a flat table": change(**{WTE: lambda t: t.flatten()}), "NaN": change(**{HEAD: lambda t: t * math.nan}),
    "one infinity": change(resid_lambdas=torch.tensor([1.0, math.inf])),
    "lambdas too few": change(x0_lambdas=torch.ones(1)), "only some lambdas": change(x0_lambdas=None),
    "smear alone": change(smear_lambda=torch.ones(1)),
    "gates of 16": change(transformer__h__1__attn__ve_gate__weight=torch.ones(4, 16)),
    "a gate in the wrong block": change(transformer__h__0__attn__ve_gate__weight=torch.ones(4, 32)),
    "twice": lambda t: {**t, "_orig_mod.lm_head.weight": t["lm_head.weight"]},
    "a table of a block that is not there": change(value_embeds__9__weight=torch.ones(320, 64)),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_that_are_not_those_of_the_model(name, folder, monkeypatch):
    (folder / "model_000030.pt").unlink()
    torch.save(WEIGHTS[name](twin.tensors(FORM)), folder / "model_000030.pt")
    refused(folder, monkeypatch)


def rewritten(content, compression=zipfile.ZIP_STORED, **replaced):
    """The archive with other entries, or compressed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", compression) as new:
        for entry in old.namelist():
            new.writestr(entry, replaced.get(entry.rsplit("/")[-1], old.read(entry)))
    return out.getvalue()


def legacy(content):
    out = io.BytesIO()
    torch.save({"lm_head.weight": torch.ones(2)}, out, _use_new_zipfile_serialization=False)
    return out.getvalue()


ARCHIVES = {
    **{f"the first {part} of 8": lambda c, part=part: c[:len(c) * part // 8] for part in range(8)},
    "compressed": lambda c: rewritten(c, zipfile.ZIP_DEFLATED), "legacy": legacy, "a text": lambda c: b"404: Not Found",
    "a plain pickle": lambda c: pickle.dumps(Harm()), "zeros": lambda c: bytes(len(c)),
    **{f"an index of protocol {n} that calls": lambda c, n=n: rewritten(
        c, **{"data.pkl": pickle.dumps(Harm(), protocol=n)}) for n in (2, 4)},
    "an index that is no pickle": lambda c: rewritten(c, **{"data.pkl": b"nonsense"}),
    "an index of 32 MB": lambda c: rewritten(c, **{"data.pkl": bytes(1 << 25)}),
    "no index": lambda c: rewritten(c).replace(b"data.pkl", b"data.pkk"),
    "an LFS pointer": lambda c: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 8\n",
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_archives_that_are_damaged(name, folder, monkeypatch):
    path = folder / "model_000030.pt"
    content = ARCHIVES[name](path.read_bytes())
    path.unlink()
    path.write_bytes(content)
    refused(folder, monkeypatch)


@pytest.mark.parametrize("name", ["meta_000030.json", "tokenizer.pkl", "model_000030.pt"])
@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "huge"])
def test_files_that_are_no_files(name, kind, folder, monkeypatch):
    path = folder / name
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(1 << 40)  # a file with a hole: it takes no room
    refused(folder, monkeypatch)


def test_every_cut_of_a_pickle_is_refused(tokenizer):
    whole = twin.pickled(twin.encoding_fields(tokenizer))
    assert unpickle(whole)["mergeable_ranks"][b"a"] == 97
    for end in range(0, len(whole) - 1, 29):
        with pytest.raises(ValueError):
            unpickle(whole[:end])


def test_the_instructions_of_a_real_tokenizer_are_those_that_are_known(tokenizer):
    tiktoken = pytest.importorskip("tiktoken")
    made = twin.encoding_fields(tokenizer)
    encoding = tiktoken.Encoding(**made)
    for protocol in (4, 5):
        assert unpickle(pickle.dumps(encoding, protocol=protocol)) == made
    names = {opcode.name for opcode, _, _ in pickletools.genops(pickle.dumps(encoding))}
    assert {"STACK_GLOBAL", "NEWOBJ", "BUILD"} < names and not names & {"REDUCE", "GLOBAL"}
