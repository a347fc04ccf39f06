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
from nanochat.tokenizer import Tokenizer
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
    assert names(path) == ["config.json", "model.safetensors", "optimizer.pt", "state.json"]  # there is no tokenizer
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
    if name == "optimizer.pt":  # talking, examining and the next stage do not read it
        assert state["step"] == 2 and not said
        with pytest.raises(UserError, match="optimizer.pt is (missing|damaged)"):
            checkpoint.check(path, optimizer=True)
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
    with pytest.raises(UserError, match="step_000010/model.safetensors is damaged"):
        checkpoint.load_model("base", "d4", step=10)


def without_tokenizer(path):
    """As code from before checkpoints had their tokenizer wrote it."""
    state = files.read_json(path / "state.json")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).unlink()
        del state["sha256"][name]
    files.write_json(path / "state.json", state)


def other_tokenizer(size):
    pairs = [b"=%d" % number for number in range(size - 265)]
    Tokenizer([bytes([byte]) for byte in range(256)] + pairs).save(paths.tokenizer_dir())


@pytest.mark.parametrize("change", ["other", "gone", "damaged"])
def test_a_model_talks_with_its_own_tokenizer_whatever_becomes_of_the_run_s(stages, tokenizer, change):
    if change == "other":
        other_tokenizer(tokenizer.vocab_size)
    elif change == "gone":
        shutil.rmtree(paths.tokenizer_dir())
    else:
        (paths.tokenizer_dir() / "tokenizer.json").write_text("{")
    model, loaded, _ = checkpoint.load_model("base")
    assert loaded.encode("The cat sat") == tokenizer.encode("The cat sat")


@pytest.mark.parametrize("how", ["gone", "cut", "empty", "bit"])
def test_a_damaged_tokenizer_in_a_checkpoint_is_noticed(stages, how, capsys):
    damage(stages / "checkpoints/base/d4/step_000020/tokenizer.json", how)
    assert checkpoint.load_model("base", "d4")[2]["step"] == 10 and "tokenizer.json is" in capsys.readouterr().out


@pytest.mark.parametrize("size, said", [(265, "made with another tokenizer"), (300, "made with another tokenizer")])
def test_an_older_checkpoint_has_the_run_s_tokenizer_or_none(stages, tokenizer, size, said):
    without_tokenizer(stages / "checkpoints/base/d12/step_000007")
    assert checkpoint.load_model("base")[1].vocab_size == tokenizer.vocab_size
    other_tokenizer(size)
    with pytest.raises(UserError, match=said):
        checkpoint.load_model("base")
    shutil.rmtree(paths.tokenizer_dir())
    with pytest.raises(UserError, match="scripts.tok_train"):
        checkpoint.load_model("base")


def test_weights_of_another_size_do_not_fit(stages, learner):
    model, _ = learner(vocab_size=265)
    with pytest.raises(UserError, match="do not fit the model .size mismatch for .*; the tokenizer or a flag") as one:
        checkpoint.restore(paths.checkpoint_dir("base", "d12") / "step_000007", model)
    assert "\n" not in str(one.value)


def test_state_is_readable_json(stages):
    state = json.loads((stages / "checkpoints" / "base" / "d12" / "step_000007" / "state.json").read_text())
    assert set(state["sha256"]) == {"model.safetensors", "config.json", "optimizer.pt", "tokenizer.json",
                                    "tokenizer_config.json"}


def moved(stages, how):
    """The checkpoint's folder after something that people do with folders."""
    folder, path = stages / "checkpoints/base", stages / "checkpoints/base/d12/step_000007"
    if how == "renamed":
        (folder / "d12").rename(folder / "d99")
    elif how == "linked tag":
        (folder / "d12").rename(stages / "elsewhere")
        (folder / "d12").symlink_to(stages / "elsewhere")
    elif how == "linked step":
        path.rename(stages / "elsewhere")
        path.symlink_to(stages / "elsewhere")
    elif how == "linked file":
        (path / "model.safetensors").rename(stages / "weights")
        (path / "model.safetensors").symlink_to(stages / "weights")
    elif how == "read only":
        for file in (*path.iterdir(), path):
            file.chmod(0o555)
    elif how == "leftovers of a Mac":
        for place in (path, path.parent, folder):
            (place / ".DS_Store").touch()
        (path / "._model.safetensors").touch()
        (path.parent / "._step_000007").touch()
        (path.parent / "step_000009 copy").mkdir()
    elif how == "no digests":
        state = files.read_json(path / "state.json")
        del state["sha256"]
        files.write_json(path / "state.json", state)


@pytest.mark.parametrize("how", ["renamed", "linked tag", "linked step", "linked file", "read only",
                                 "leftovers of a Mac", "no digests"])
def test_a_checkpoint_can_be_moved_linked_and_littered(stages, how):
    weights = checkpoint.load_model("base")[2]["sha256"]["model.safetensors"]
    moved(stages, how)
    loaded = checkpoint.load_model("base")[2]
    assert loaded["step"] == 7 and loaded["sha256"]["model.safetensors"] == weights


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "optimizer.pt"])
def test_a_git_lfs_pointer_is_no_file(stages, name):
    path = stages / "checkpoints/base/d12/step_000007"
    (path / name).write_bytes(checkpoint.LFS_POINTER + b"v1\noid sha256:0\nsize 123\n")
    with pytest.raises(UserError, match=f"{name} is a Git LFS pointer.*git lfs pull"):
        checkpoint.check(path, optimizer=True)


@pytest.mark.parametrize("how", ["cut", "empty"])
@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt"])
def test_damage_without_digests_is_one_line(stages, learner, tokenizer, name, how):
    path = stages / "checkpoints/base/d12/step_000007"
    moved(stages, "no digests")
    damage(path / name, how)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        checkpoint.restore(path, *learner(vocab_size=tokenizer.vocab_size))


def test_a_link_is_removed_and_what_it_points_at_stays(stages):
    moved(stages, "linked step")
    checkpoint.keep_only([], stages / "checkpoints/base/d12")
    assert not checkpoint.steps(stages / "checkpoints/base/d12") and len(names(stages / "elsewhere")) == 6


FIELDS_OF_2026 = {"sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd", "head_dim", "rope_base",
                  "softcap", "value_embeddings", "residual_scalars", "smear", "document_bos"}


def test_a_field_that_came_later_means_what_was_true_before_it(tmp_path, tiny_model):
    config = tiny_model(value_embeddings=False, smear=False).config.as_dict()
    files.write_json(tmp_path / "config.json",
                     {name: value for name, value in config.items() if name not in checkpoint.BEFORE_THE_FIELD})
    found = checkpoint.config_of(tmp_path)
    assert (found.n_layer, found.smear, found.residual_scalars, found.softcap) == (2, False, False, 15.0)
    new = set(config) - FIELDS_OF_2026
    assert new <= set(checkpoint.BEFORE_THE_FIELD), "a new field of GPTConfig needs its value for older checkpoints"


@pytest.mark.parametrize("change, said", [
    ({"sliding_window": 512, "z_loss": 1.0}, "does not know: sliding_window, z_loss"), ({"n_layer": None}, "n_layer")])
def test_a_config_that_cannot_be_read_names_its_fields(tmp_path, tiny_model, change, said):
    config = {**tiny_model().config.as_dict(), **change}
    files.write_json(tmp_path / "config.json", {name: value for name, value in config.items() if value is not None})
    with pytest.raises(UserError, match=said):
        checkpoint.config_of(tmp_path)


@pytest.mark.parametrize("tags, default", [(("d4", "d12"), "d12"), (("d4", "d4-trial"), "d4"), (("d4", "trial9"), "d4"),
                                           (("ada", "bob"), "bob"), (("d4", ".DS_Store"), "d4")])
def test_the_tag_that_commands_take_by_themselves(base_dir, tags, default):
    for tag in tags:
        (paths.checkpoint_dir("sft", tag) / "step_000001").mkdir(parents=True)
    assert checkpoint.default_tag("sft") == default
