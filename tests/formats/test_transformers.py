"""A portable checkpoint's folder, as it is, in transformers: the same logits, ids and rendered conversations."""
import pytest
import torch
from safetensors.torch import save_file

from nanochat.formats import portable
from nanochat.formats import transformers as transformers_format
from nanochat.model import PORTABLE
from nanochat.system import files, paths
from nanochat.system.files import UserError
from nanochat.tokenizer import chat
from nanochat.tokenizer.train import train_tokenizer
from nanochat.train import checkpoint
from scripts import import_model

SHAPE = dict(n_layer=3, n_embd=64, n_head=4, n_kv_head=2, head_dim=16, sequence_len=128)
TALK = {"messages": [{"role": "user", "content": "Who are you? \U0001f600"}, {"role": "assistant", "content": "Me."},
                     {"role": "user", "content": "And 12*3?"}]}


@pytest.fixture
def tokenizer(tmp_path, monkeypatch):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(tmp_path))
    made = train_tokenizer(["Who are you? Are you there? It is me, and who are they?"] * 3, 280)
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


def folder_of_transformers(tmp_path, tokenizer, model, **changes):
    """A folder as `save_pretrained` writes it: without our names, the weights in two parts."""
    config = {**portable.described(model.config.as_dict()), **changes}
    folder = tmp_path / "theirs"
    tokenizer.save(folder)
    files.write_json(folder / "config.json", {name: value for name, value in config.items() if value != "gone"})
    weights = {name: p.detach().bfloat16() for name, p in model.named_parameters()}
    parts = {"a.safetensors": dict(list(weights.items())[:5]), "b.safetensors": dict(list(weights.items())[5:])}
    for name, tensors in parts.items():
        save_file(tensors, folder / name)
    files.write_json(folder / "model.safetensors.index.json", {
        "weight_map": {name: part for part, tensors in parts.items() for name in tensors}})
    return folder


@pytest.mark.parametrize("softcap, base", [(15.0, 10_000.0), (0.0, 100_000.0)])
def test_a_folder_of_transformers_is_imported(tokenizer, tiny_model, tmp_path, softcap, base):
    model = tiny_model(vocab_size=tokenizer.vocab_size, **SHAPE, **PORTABLE, softcap=softcap, rope_base=base).eval()
    for p in model.parameters():
        p.data = p.data.bfloat16().float()
    folder = folder_of_transformers(tmp_path, tokenizer, model)
    import_model.main([str(folder), "--stage=rl", "--tag=friend"])
    loaded, again, info = checkpoint.load_model("rl")
    assert info["tag"] == "friend" and again._tokens == tokenizer._tokens and loaded.config == model.config
    ids = torch.randint(tokenizer.vocab_size, (1, 40), generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.eval()(ids), model(ids))


@pytest.mark.parametrize("changes", [
    {"model_type": "llama"}, {"model_type": "gone"}, {"hidden_act": "silu"}, {"attention_bias": True},
    {"tie_word_embeddings": True}, {"intermediate_size": 100}, {"rope_parameters": {"rope_type": "yarn"}},
    {"rope_parameters": "x"}, {"rope_parameters": {"rope_theta": "1"}}, {"rope_parameters": {"rope_theta": 0}},
    {"final_logit_softcapping": -1}, {"final_logit_softcapping": "15"}, {"hidden_size": 2**40}, {"vocab_size": True},
    {"num_hidden_layers": 2}, {"num_key_value_heads": 3}, {"max_position_embeddings": "gone"}, {"head_dim": 15},
], ids=str)
def test_folders_that_are_something_else_are_refused(tokenizer, tiny_model, tmp_path, changes):
    model = tiny_model(vocab_size=tokenizer.vocab_size, **SHAPE, **PORTABLE)
    with pytest.raises(UserError) as caught:
        transformers_format.read(folder_of_transformers(tmp_path, tokenizer, model, **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name, content", [
    ("a.safetensors", b""), ("a.safetensors", b"\xff" * 80), ("a.safetensors", None), ("config.json", b"[]"),
    ("model.safetensors.index.json", b'{"weight_map": {"x": "../../a.safetensors"}}'),
    ("model.safetensors.index.json", b'{"weight_map": {"x": "model.bin"}}'), ("tokenizer.json", b"{}"),
    ("model.safetensors.index.json", b"{}"), ("tokenizer.json", None)], ids=str)
def test_folders_that_are_damaged_are_refused(tokenizer, tiny_model, tmp_path, name, content):
    model = tiny_model(vocab_size=tokenizer.vocab_size, **SHAPE, **PORTABLE)
    folder = folder_of_transformers(tmp_path, tokenizer, model)
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        transformers_format.read(folder)
    assert "\n" not in str(caught.value)


def test_padding_is_not_the_beginning(tokenizer, tiny_model):
    """transformers hides padding tokens where no mask is given; ours must not be hidden <|bos|>."""
    config = files.read_json(saved(tiny_model(vocab_size=tokenizer.vocab_size, **SHAPE, **PORTABLE)) / "config.json")
    assert config["pad_token_id"] == config["eos_token_id"] == tokenizer.special_id("<|assistant_end|>")
    assert config["bos_token_id"] == tokenizer.bos_id
