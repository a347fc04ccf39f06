"""A portable checkpoint's folder, as it is, in transformers: the same logits, ids and rendered conversations."""
import pytest
import torch

from nanochat.model import PORTABLE
from nanochat.system import files, paths
from nanochat.tokenizer import Tokenizer, chat
from nanochat.train import checkpoint

SHAPE = dict(n_layer=3, n_embd=64, n_head=4, n_kv_head=2, head_dim=16, sequence_len=128)
TALK = {"messages": [{"role": "user", "content": "Who are you? \U0001f600"}, {"role": "assistant", "content": "Me."},
                     {"role": "user", "content": "And 12*3?"}]}


@pytest.fixture
def tokenizer(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    made = Tokenizer.train(["Who are you? Are you there? It is me, and who are they?"] * 3, 280)
    made.save(paths.tokenizer_dir())
    return made


def saved(model):
    return checkpoint.save(paths.checkpoint_dir("base", "d3"), 1, model, None, {})


@pytest.mark.peers
@pytest.mark.parametrize("trained", [False, True])
def test_a_portable_folder_loads_as_it_is(tokenizer, tiny_model, trained):
    transformers = pytest.importorskip("transformers")
    model = tiny_model(vocab_size=tokenizer.vocab_size, scale=0.1, **SHAPE, **PORTABLE).eval()
    if not trained:
        model.init_weights(3)
    folder = saved(model)
    peer = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert type(peer).__name__ == "NanoChatForCausalLM" and peer.dtype == torch.float32
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text = "Who are they? \U0001f600 It is me."
    assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text)
    prompt = theirs.apply_chat_template(TALK["messages"], add_generation_prompt=True, return_dict=False)
    assert prompt == chat.render_prompt(tokenizer, TALK)
    ids = torch.randint(tokenizer.vocab_size, (2, 128), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert float((model(ids) - peer(ids).logits).abs().max()) < 1e-4
    assert peer.config.eos_token_id == tokenizer.special_id("<|assistant_end|>")


def test_our_own_loader_reads_it_as_well(tokenizer, tiny_model):
    model = tiny_model(vocab_size=tokenizer.vocab_size, **SHAPE, **PORTABLE)
    folder = saved(model)
    loaded, _, info = checkpoint.load_model("base")
    assert loaded.config == model.config and info["path"] == str(folder)
    assert {"tokenizer.json", "config.json"} < set(info["sha256"]), "all of it is checked when read"


@pytest.mark.peers
@pytest.mark.parametrize("feature", ["value_embeddings", "residual_scalars", "smear"])
def test_other_features_are_refused_and_not_misread(tokenizer, tiny_model, feature):
    transformers = pytest.importorskip("transformers")
    folder = saved(tiny_model(vocab_size=tokenizer.vocab_size, **SHAPE, **{**PORTABLE, feature: True}))
    assert "model_type" not in files.read_json(folder / "config.json")
    with pytest.raises(ValueError, match="model_type|Unrecognized"):
        transformers.AutoModelForCausalLM.from_pretrained(folder)
