from argparse import Namespace

import pytest

from nanochat.system import files, paths
from nanochat.system.files import UserError
from nanochat.train import checkpoint
from nanochat.train.finetune import FLAGS, finetune


@pytest.fixture
def documents(tokenizer, sentences):
    """Sixty conversations of one sentence, of which the second half is to be learnt."""
    def make(*_):
        ids = [[tokenizer.bos_id, *tokenizer.encode(text)] for text in sentences]
        return [(one, [int(i > len(one) // 2) for i in range(len(one))]) for one in ids] * 12

    return make


@pytest.fixture
def base(base_dir, learner, tokenizer):
    tokenizer.save(paths.tokenizer_dir())
    model, optimizer = learner(vocab_size=tokenizer.vocab_size, sequence_len=64)
    checkpoint.save(paths.checkpoint_dir("base", "d2"), 3, model, optimizer, {"tokens": 1})


def settings(**changed):
    plain = {name: getattr(value, "default", value) for name, value in FLAGS.items()}
    of_the_recipe = {"total_batch_size": 512, "init_lr_frac": 0.5, "warmdown_fraction": 1.0, "compile": False,
                     "device_type": "cpu", "dtype": "float32"}
    return Namespace(**{**plain, **of_the_recipe, **changed})


def test_it_starts_from_the_source_and_saves_a_stage(base, documents, tokenizer):
    finetune("sft", "base", settings(device_batch_size=4), documents)
    model, _, state = checkpoint.load_model("sft")
    tokens = sum(len(ids) for ids, _ in documents())
    assert state["tag"] == "d2" and state["step"] == tokens // 512 and state["tokens"] == state["step"] * 512
    rows = files.read_jsonl(paths.results_dir("sft") / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, state["step"] + 1))
    assert rows[-1]["train/loss_nats"] < rows[0]["train/loss_nats"]
    assert 0.2 < rows[0]["train/targets_per_token"] < 0.6  # half of the tokens, and padding
    run = files.read_json(paths.results_dir("sft") / "run.json")
    assert run["source"] == ["base", "d2", "step_000003"] and run["documents"] == 60


@pytest.mark.parametrize("rows, length, tokens", [(4, -1, 512), (1, -1, 512), (32, -1, 512), (8, 32, 512), (5, 32, 512),
                                                  (1000, 1000, 512)])
def test_the_batch_is_as_large_as_asked_whatever_fits_the_device(base, documents, rows, length, tokens):
    args = settings(device_batch_size=rows, max_seq_len=length, num_iterations=2)
    finetune("mid", "base", args, documents)
    assert checkpoint.load_model("mid")[2]["tokens"] == 2 * tokens


def test_interrupted_it_goes_on(base, documents, stopped_behind_a_save):
    finetune("sft", "base", settings(num_iterations=4, save_every=2, model_tag="whole"), documents)
    changed = dict(num_iterations=4, save_every=2, model_tag="cut")
    with stopped_behind_a_save():
        finetune("sft", "base", settings(**changed), documents)
    finetune("sft", "base", settings(resume=True, **changed), documents)
    whole, cut = (paths.checkpoint_dir("sft", tag) / "step_000004" / "model.safetensors" for tag in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


def test_lora_learns_saves_an_ordinary_model_and_resumes_exactly(base, documents, stopped_behind_a_save):
    common = dict(lora=2, num_iterations=4, save_every=2, matrix_lr=0.2)
    finetune("mid", "base", settings(model_tag="whole", **common), documents)
    rows = files.read_jsonl(paths.results_dir("mid") / "metrics.jsonl")
    assert rows[-1]["train/loss_nats"] < rows[0]["train/loss_nats"]
    before, after = (checkpoint.load_model(*place)[0].state_dict() for place in (("base",), ("mid", "whole")))
    changed = {name.split(".")[-2] for name in before if not before[name].equal(after[name])}
    assert changed == {"q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "lm_head"}
    assert before.keys() == after.keys()
    with stopped_behind_a_save():
        finetune("mid", "base", settings(model_tag="cut", **common), documents)
    cut = paths.checkpoint_dir("mid", "cut")
    kept = {path: path.read_bytes() for path in cut.rglob("*") if path.is_file()}
    finetune("mid", "base", settings(model_tag="cut", resume=True, **common), documents)
    for name in ("model", "lora"):
        whole = paths.checkpoint_dir("mid", "whole") / "step_000004" / f"{name}.safetensors"
        assert whole.read_bytes() == (cut / "step_000004" / f"{name}.safetensors").read_bytes()
    finetune("mid", "mid", settings(source_tag="whole", model_tag="next", num_iterations=1), documents)
    (cut / "step_000002").mkdir()
    for path, content in kept.items():
        path.write_bytes(content)
    for path in (cut / "step_000004").iterdir():
        path.unlink()
    source = checkpoint.load_model("base")[0]
    source.lm_head.weight.data += 1
    source.model.embed_tokens.weight.data += 1
    checkpoint.save(paths.checkpoint_dir("base", "d2"), 3, source, None, {"tokens": 1})
    with pytest.raises(UserError, match="mid/cut began from base/d2 step 3, and base/d2 is another model now"):
        finetune("mid", "base", settings(model_tag="cut", resume=True, **common), documents)
    state = files.read_json(cut / "step_000002/state.json")
    del state["source"]  # as older code wrote it
    files.write_json(cut / "step_000002/state.json", state)
    with pytest.raises(UserError, match="another source checkpoint"):
        finetune("mid", "base", settings(model_tag="cut", resume=True, **common), documents)
