"""mid_train and chat_sft as programs, on a tiny base model: where they start, how large a step is, exact resuming."""
import pytest

from nanochat.system import files, paths
from nanochat.system.files import UserError
from nanochat.train import checkpoint
from scripts import chat_sft, mid_train

FLAGS = ["--mixture=mine", "--total_batch_size=512", "--init_lr_frac=0.5", "--warmdown_fraction=1", "--no_compile",
         "--device_type=cpu", "--dtype=float32"]


@pytest.fixture
def base(base_dir, learner, tokenizer, sentences):
    """A base model of two layers, and sixty short conversations."""
    tokenizer.save(paths.tokenizer_dir())
    model, optimizer = learner(vocab_size=tokenizer.vocab_size, sequence_len=64)
    checkpoint.save(paths.checkpoint_dir("base", "d2"), 3, model, optimizer, {"tokens": 1})
    files.write_jsonl(base_dir / "data/chat/mine.jsonl", [
        {"messages": [{"role": "user", "content": text[:12]}, {"role": "assistant", "content": text}]}
        for text in sentences * 12])


def mid(*flags):
    mid_train.main([*FLAGS, *flags])


def sft(*flags):
    chat_sft.main([*FLAGS, "--source=base", *flags])


@pytest.mark.parametrize("train, stage", [(mid, "mid"), (sft, "sft")])
def test_it_starts_from_the_source_and_saves_a_stage(base, train, stage):
    train("--device_batch_size=4", "--loss_on=assistant")
    state = checkpoint.load_model(stage)[2]
    assert state["tag"] == "d2" and state["step"] >= 3 and state["tokens"] == state["step"] * 512
    rows = files.read_jsonl(paths.results_dir(stage) / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, state["step"] + 1))
    assert rows[-1]["train/loss_nats"] < rows[0]["train/loss_nats"]
    assert 0.2 < rows[0]["train/targets_per_token"] < 0.7  # the assistant's tokens, and padding
    run = files.read_json(paths.results_dir(stage) / "run.json")
    assert run["source"] == ["base", "d2", "step_000003"] and run["documents"] == 60


@pytest.mark.parametrize("rows, length", [(4, -1), (1, -1), (32, -1), (8, 32), (5, 32), (1000, 1000)])
def test_the_batch_is_as_large_as_asked_whatever_fits_the_device(base, rows, length):
    mid(f"--device_batch_size={rows}", f"--max_seq_len={length}", "--num_iterations=2")
    assert checkpoint.load_model("mid")[2]["tokens"] == 2 * 512


@pytest.mark.parametrize("train, stage", [(mid, "mid"), (sft, "sft")])
def test_interrupted_it_goes_on(base, train, stage, stopped_behind_a_save):
    steps = ["--num_iterations=4", "--save_every=2"]
    train(*steps, "--model_tag=whole")
    with stopped_behind_a_save():
        train(*steps, "--model_tag=cut")
    train(*steps, "--model_tag=cut", "--resume")
    whole, cut = (paths.checkpoint_dir(stage, tag) / "step_000004" / "model.safetensors" for tag in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


def test_a_resumed_run_keeps_its_steps_when_the_data_has_grown(base, base_dir, stopped_behind_a_save):
    with stopped_behind_a_save():
        mid("--save_every=1")
    rows = files.read_jsonl(base_dir / "data/chat/mine.jsonl")
    files.write_jsonl(base_dir / "data/chat/mine.jsonl", rows * 3)
    steps = checkpoint.present(paths.checkpoint_dir("mid", "d2"))[1]["steps"]
    mid("--resume")
    assert checkpoint.load_model("mid")[2]["step"] == steps


def test_minutes_become_steps_and_measuring_leaves_no_trace(base):
    sft("--minutes=0.01", "--model_tag=timed")
    steps = checkpoint.load_model("sft", "timed")[2]["step"]
    sft(f"--num_iterations={steps}", "--model_tag=counted")
    timed, counted = (paths.checkpoint_dir("sft", tag) / f"step_{steps:06d}" / "model.safetensors"
                      for tag in ("timed", "counted"))
    assert timed.read_bytes() == counted.read_bytes()


def test_lora_learns_saves_an_ordinary_model_and_resumes_exactly(base, stopped_behind_a_save):
    common = ["--lora=2", "--num_iterations=4", "--save_every=2", "--matrix_lr=0.2"]
    mid(*common, "--model_tag=whole")
    rows = files.read_jsonl(paths.results_dir("mid") / "metrics.jsonl")
    assert rows[-1]["train/loss_nats"] < rows[0]["train/loss_nats"]
    before, after = (checkpoint.load_model(*place)[0].state_dict() for place in (("base",), ("mid", "whole")))
    changed = {name.split(".")[-2] for name in before if not before[name].equal(after[name])}
    assert changed == {"q_proj", "k_proj", "v_proj", "o_proj", "fc1", "fc2", "lm_head"}
    assert before.keys() == after.keys()
    with stopped_behind_a_save():
        mid(*common, "--model_tag=cut")
    cut = paths.checkpoint_dir("mid", "cut")
    kept = {path: path.read_bytes() for path in cut.rglob("*") if path.is_file() and path.name != ".lock"}
    mid(*common, "--model_tag=cut", "--resume")
    for name in ("model", "lora"):
        whole = paths.checkpoint_dir("mid", "whole") / "step_000004" / f"{name}.safetensors"
        assert whole.read_bytes() == (cut / "step_000004" / f"{name}.safetensors").read_bytes()
    chat_sft.main([*FLAGS, "--source=mid", "--source_tag=whole", "--model_tag=next", "--num_iterations=1"])
    (cut / "step_000002").mkdir()
    for path, content in kept.items():
        path.write_bytes(content)
    for path in (cut / "step_000004").iterdir():
        path.unlink()
    source = checkpoint.load_model("base")[0]
    source.lm_head.weight.data += 1
    source.model.embed_tokens.weight.data += 1
    checkpoint.save(paths.checkpoint_dir("base", "d2"), 3, source, None, {"tokens": 1})
    with pytest.raises(UserError, match="mid/cut began from base/d2 step 3, and base/d2 has been trained again since"):
        mid(*common, "--model_tag=cut", "--resume")
    state = files.read_json(cut / "step_000002/state.json")
    del state["source"]  # as older code wrote it
    files.write_json(cut / "step_000002/state.json", state)
    with pytest.raises(UserError, match="another source checkpoint"):
        mid(*common, "--model_tag=cut", "--resume")
