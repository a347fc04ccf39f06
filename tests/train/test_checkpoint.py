import json
import os
import shutil
import subprocess

import pytest
import torch
from safetensors import SafetensorError

from nanochat.model import GPT
from nanochat.system import files, paths
from nanochat.system.files import UserError
from nanochat.train import checkpoint


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def damage(path, how):
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(path.read_bytes()[:-7])
    elif how == "empty":
        path.write_bytes(b"")
    else:  # one bit
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)


def test_what_is_saved_is_what_is_restored(learner, tmp_path):
    model, optimizer = learner()
    optimizer.groups[0].state["mean"][0].fill_(0.5)
    optimizer.updates = 7
    path = checkpoint.save(tmp_path, 500, model, optimizer, {"tokens": 12, "loader": {"row": 3}})
    assert names(tmp_path) == ["step_000500"]
    assert names(path) == ["config.json", "model.safetensors", "optimizer.pt", "state.json"]
    state = checkpoint.check(path)
    assert (state["step"], state["tokens"], state["loader"]) == (500, 12, {"row": 3})
    assert state["format"] == checkpoint.FORMAT
    other, fresh = learner(seed=3)
    checkpoint.restore(path, other, fresh)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters()))
    assert fresh.updates == 7 and torch.equal(fresh.groups[0].state["mean"][0], optimizer.groups[0].state["mean"][0])
    assert set(files.read_json(path / "config.json")) == set(model.config.as_dict())


def test_the_weights_file_holds_the_parameters_and_nothing_else(learner, tmp_path):
    from safetensors.torch import load_file
    model, _ = learner(value_embeddings=False, residual_scalars=False, smear=False)
    path = checkpoint.save(tmp_path, 1, model, None, {})
    tensors = load_file(path / "model.safetensors")
    assert len(tensors) == 6 * 2 + 2 and all(tensor.dtype is torch.float32 for tensor in tensors.values())


def test_saving_again_replaces(learner, tmp_path):
    model, optimizer = learner()
    checkpoint.save(tmp_path, 1, model, optimizer, {"tokens": 1})
    checkpoint.save(tmp_path, 1, model, None, {"tokens": 2})
    assert checkpoint.latest(tmp_path)[1]["tokens"] == 2 and "optimizer.pt" not in names(tmp_path / "step_000001")


def test_only_the_main_rank_writes_and_removes(learner, tmp_path, monkeypatch):
    model, _ = learner()
    checkpoint.save(tmp_path, 1, model, None, {})
    monkeypatch.setenv("RANK", "1")
    checkpoint.save(tmp_path, 2, model, None, {})
    checkpoint.keep_only([], tmp_path)
    assert names(tmp_path) == ["step_000001"]


def test_keep_only_removes_other_checkpoints_and_what_a_kill_left(learner, tmp_path):
    model, _ = learner()
    paths_of = [checkpoint.save(tmp_path, step, model, None, {}) for step in (5, 10, 1_234_567)]
    (tmp_path / ".step_000015.abc123" / "step_000015").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "step_by_step").mkdir()
    assert [step for step, _ in checkpoint.steps(tmp_path)] == [5, 10, 1_234_567]
    checkpoint.keep_only(paths_of[1:2], tmp_path)
    assert names(tmp_path) == ["notes", "step_000010", "step_by_step"]


@pytest.mark.parametrize("how", ["gone", "cut", "empty", "bit"])
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "state.json", "optimizer.pt"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(learner, tmp_path, capsys, name, how):
    model, optimizer = learner()
    for step in (1, 2):
        checkpoint.save(tmp_path, step, model, optimizer, {"mark": "x" * 500})
    damage(tmp_path / "step_000002" / name, how)
    path, state = checkpoint.latest(tmp_path)
    said = capsys.readouterr().out
    if name == "state.json" and how == "bit":  # inside the recipe's own numbers: still JSON, and of no consequence
        assert state["step"] == 2
        return
    assert (path.name, state["step"]) == ("step_000001", 1)
    assert "warning" in said and "step_000002" in said and said.count("\n") == 1
    damage(tmp_path / "step_000001" / "model.safetensors", "cut")
    assert checkpoint.latest(tmp_path) is None


def test_another_format_says_so(learner, tmp_path):
    model, _ = learner()
    path = checkpoint.save(tmp_path, 1, model, None, {})
    state = files.read_json(path / "state.json")
    files.write_json(path / "state.json", {**state, "format": 99})
    with pytest.raises(UserError, match="has checkpoint format 99; this code reads"):
        checkpoint.check(path)


@pytest.mark.parametrize("module, function, error", [
    ("nanochat.train.checkpoint", "save_file", SafetensorError("I/O error: No space left on device (os error 28)")),
    ("torch", "save", RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0\nmore")),
    ("torch", "save", OSError(28, "No space left on device"))])
def test_a_full_disk_is_one_line_and_the_old_checkpoint_stays(learner, tmp_path, monkeypatch, module, function, error):
    model, optimizer = learner()
    checkpoint.save(tmp_path, 1, model, optimizer, {})

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(f"{module}.{function}", fail)
    with pytest.raises(UserError, match="cannot write .*step_000002.* free space, or set NANOCHAT_BASE_DIR") as raised:
        checkpoint.save(tmp_path, 2, model, optimizer, {})
    assert "\n" not in str(raised.value) and names(tmp_path) == ["step_000001"]


def test_a_disk_that_really_is_full(learner, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    model, optimizer = learner()
    if os.geteuid() or not shutil.which("mount") or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=150k", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        checkpoint.save(disk, 1, model, optimizer, {})
        for step in (2, 3):
            with pytest.raises(UserError, match=f"cannot write .*step_00000{step}.* free space"):
                checkpoint.save(disk, step, model, optimizer, {})
            assert names(disk) == ["step_000001"] and checkpoint.latest(disk)[1]["step"] == 1
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.fixture
def stages(base_dir, learner, tokenizer):
    """An out folder with a tokenizer and two base models."""
    tokenizer.save(paths.tokenizer_dir())
    for tag, steps in (("d4", (10, 20)), ("d12", (7,))):
        model, optimizer = learner(vocab_size=tokenizer.vocab_size)
        for step in steps:
            checkpoint.save(paths.checkpoint_dir("base", tag), step, model, optimizer, {"tokens": step})
    return base_dir


def test_load_model_takes_the_deepest_tag_and_the_newest_step(stages, tokenizer):
    model, loaded, state = checkpoint.load_model("base")
    assert (state["tag"], state["step"], state["tokens"]) == ("d12", 7, 7)
    assert state["path"].endswith("base/d12/step_000007")
    assert isinstance(model, GPT) and loaded.encode("The cat") == tokenizer.encode("The cat")
    assert checkpoint.load_model("base", "d4")[2]["step"] == 20
    assert checkpoint.load_model("base", "d4", step=10, dtype=torch.bfloat16)[0].compute_dtype is torch.bfloat16


def test_a_number_in_the_rest_of_a_tag_is_no_depth(stages, learner, tokenizer):
    model, _ = learner(vocab_size=tokenizer.vocab_size)
    checkpoint.save(paths.checkpoint_dir("base", "d4-run99"), 1, model, None, {})
    assert checkpoint.load_model("base")[2]["tag"] == "d12"


@pytest.mark.parametrize("arguments, said", [
    (("rl",), "no rl checkpoint in .*; make one: python -m scripts.chat_rl"),
    (("bse",), "there is no stage 'bse'; choose one of base, mid, sft, rl"),
    (("base", "d7"), r"no whole checkpoint in .*base/d7 \(there are: none\)"),
    (("base", "d4", 15), r"no checkpoint of step 15 in .*base/d4 \(there are: step_000010, step_000020\)")])
def test_what_is_not_there_is_said_with_what_is(stages, arguments, said):
    with pytest.raises(UserError, match=said):
        checkpoint.load_model(*arguments)


def test_a_checkpoint_asked_for_by_step_must_be_whole(stages):
    damage(stages / "checkpoints" / "base" / "d4" / "step_000010" / "model.safetensors", "bit")
    with pytest.raises(UserError, match="step_000010/model.safetensors is missing or damaged"):
        checkpoint.load_model("base", "d4", step=10)


def test_another_tokenizer_is_noticed(stages, learner):
    from nanochat.tokenizer import Tokenizer
    Tokenizer([bytes([byte]) for byte in range(256)]).save(paths.tokenizer_dir())
    with pytest.raises(UserError, match="has 265 tokens, the checkpoint .* 300; train the model again"):
        checkpoint.load_model("base")
    model, _ = learner(vocab_size=265)  # as a run that resumes makes it, from the tokenizer
    with pytest.raises(UserError, match="do not fit the model .size mismatch for .*; the tokenizer has changed") as one:
        checkpoint.restore(paths.checkpoint_dir("base", "d12") / "step_000007", model)
    assert "\n" not in str(one.value)
    (paths.tokenizer_dir() / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="scripts.tok_train"):
        checkpoint.load_model("base")


def test_another_tokenizer_of_the_same_size_is_noticed(stages, learner, tokenizer):
    from nanochat.tokenizer import Tokenizer
    model, optimizer = learner(vocab_size=tokenizer.vocab_size)
    checkpoint.save(paths.checkpoint_dir("base", "d99"), 1, model, optimizer, {})
    assert checkpoint.load_model("base")[2]["tag"] == "d99"
    others = [bytes([byte]) for byte in range(256)] + [b"=%d" % n for n in range(tokenizer.vocab_size - 265)]
    Tokenizer(others).save(paths.tokenizer_dir())
    with pytest.raises(UserError, match="made with another tokenizer"):
        checkpoint.load_model("base")


def test_state_is_readable_json(stages):
    state = json.loads((stages / "checkpoints" / "base" / "d12" / "step_000007" / "state.json").read_text())
    assert set(state["sha256"]) == {"model.safetensors", "config.json", "optimizer.pt"}
