"""Which files of a model's repository are fetched, from a hub that answers by itself."""
import hashlib
from types import SimpleNamespace

import huggingface_hub
import pytest

from nanochat.data import hub_model
from nanochat.system.files import UserError

FILES = {"model_000030.pt": b"old", "model_000650.pt": b"weights", "meta_000030.json": b"{}", "meta_000650.json": b"{}",
         "tokenizer.pkl": b"tokens", "token_bytes.pt": b"x", "README.md": b"hi", "optim_000650_rank0.pt": b"y"}


@pytest.fixture
def hub(monkeypatch):
    """A hub with FILES; `hub.content` may be changed, to lie about a file."""
    state = SimpleNamespace(content=dict(FILES), asked=[])

    class Api:
        def __init__(self, endpoint):
            pass

        def model_info(self, repo, files_metadata):
            if repo == "no/such":
                raise OSError("404: not found\nmore lines")
            return SimpleNamespace(sha="abc", siblings=[SimpleNamespace(rfilename=name, lfs=SimpleNamespace(
                sha256=hashlib.sha256(content).hexdigest())) for name, content in FILES.items()])

        def hf_hub_download(self, repo, name, revision, local_dir):
            state.asked.append(name)
            (local_dir / name).write_bytes(state.content[name])
            return local_dir / name

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return state


def test_the_newest_step_is_fetched_and_checked(hub, tmp_path):
    assert hub_model.fetch("a/b", tmp_path) == tmp_path
    assert sorted(hub.asked) == ["meta_000650.json", "model_000650.pt", "tokenizer.pkl"]
    hub.content["model_000650.pt"] = b"other"
    with pytest.raises(UserError, match="SHA-256"):
        hub_model.fetch("a/b", tmp_path)
    assert not (tmp_path / "model_000650.pt").exists()


def test_a_hub_that_does_not_answer_is_one_line(hub, tmp_path):
    with pytest.raises(UserError) as caught:
        hub_model.fetch("no/such", tmp_path)
    assert "404" in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_of_transformers_has_other_files():
    names = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tokenizer.json",
             "tokenizer_config.json"]
    assert hub_model.names_to_fetch([*names, "README.md", "model.bin"]) == names


@pytest.mark.parametrize("source, expected", [("a/b", True), ("tests/data", False), ("a", False), ("a/b/c", False),
                                              ("/a/b", False), ("a b/c", False)])
def test_what_is_a_repository(source, expected):
    assert hub_model.is_repository(source) == expected
