"""The training scripts on an out folder with a finished model of every stage: nothing of it is lost unasked."""
import hashlib
import importlib
import shlex
import shutil
from collections import namedtuple

import pytest

from kindergarten import problems
from nanochat.data import shards
from nanochat.system import files, paths
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer
from nanochat.train import checkpoint, target
from nanochat.train.journal import Journal
from tests.conftest import SENTENCES

CPU = "--no_compile --device_type=cpu --dtype=float32 --seed=3"
SMALL = "--device_batch_size=2 --total_batch_size=256 --save_every=2"
COMMANDS = {
    "base": f"base_train --depth=1 --aspect_ratio=16 --head_dim=8 --max_seq_len=512 --eval_tokens=1024 {CPU} "
            "--num_iterations=4 --device_batch_size=2 --total_batch_size=1024 --save_every=2",
    "mid": f"mid_train --mixture=mine --num_iterations=4 --max_seq_len=64 {SMALL} {CPU}",
    "sft": f"chat_sft --mixture=mine --num_iterations=4 --max_seq_len=64 {SMALL} {CPU}",
    "rl": f"chat_rl --task=problems --num_iterations=2 --examples_per_step=1 --num_samples=2 --max_new_tokens=3 "
          f"--device_batch_size=2 {CPU}"}
STAGES = paths.STAGES


def run(line: str) -> None:
    script, *flags = shlex.split(line)
    importlib.import_module(f"scripts.{script}").main(flags)


def contents(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tokenizer):
    """A tokenizer, data, and a finished model of every stage, each trained by its script."""
    out = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NANOCHAT_DATA", "RANK", "WORLD_SIZE", "NANOCHAT_PARSE_ONLY"):
            patch.delenv(name, raising=False)
        patch.setenv("NANOCHAT_BASE_DIR", str(out))
        tokenizer.save(paths.tokenizer_dir())
        for number in range(2):
            shards.write(out / f"data/text/shard_{number}.parquet", SENTENCES * 60)
        files.write_jsonl(out / "data/chat/mine.jsonl", [
            {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "The cat."}]}
            for text in SENTENCES * 20])
        for split, seed in (("train", 1), ("test", 2)):
            files.write_jsonl(out / f"data/kindergarten/problems-{split}.jsonl", problems.exam(seed, 4))
        for stage in STAGES:
            run(COMMANDS[stage])
    return out


@pytest.fixture
def out(finished, base_dir):
    """A copy of it, to be worked on."""
    shutil.copytree(finished, base_dir)
    return base_dir


def newest(stage, tag="d1"):
    return checkpoint.present(paths.checkpoint_dir(stage, tag))


@pytest.mark.parametrize("stage", STAGES)
def test_a_finished_model_is_not_replaced_unasked(out, stage, monkeypatch):
    def work(*_, **__):
        pytest.fail("work was done before the refusal")

    script = COMMANDS[stage].split()[0]
    for place in (f"scripts.{script}.start_runtime", "nanochat.tokenizer.Tokenizer.load",
                  "nanochat.train.checkpoint.check"):
        monkeypatch.setattr(place, work)
    before = contents(out)
    with pytest.raises(UserError) as refused:
        run(COMMANDS[stage])
    message = str(refused.value)
    assert f"{stage}/d1 (step " in message and "\n" not in message
    assert all(way in message for way in ("--model_tag=", "--resume", "--overwrite"))
    assert contents(out) == before


@pytest.mark.parametrize("stage", STAGES)
def test_a_trial_under_another_name_leaves_the_finished_model_and_its_results(out, stage):
    before = contents(out)
    run(f"{COMMANDS[stage]} --num_iterations=1 --model_tag=trial")
    assert before.items() <= contents(out).items()
    assert newest(stage, "trial")[1]["step"] == 1
    rows = files.read_jsonl(paths.results_dir(stage) / "models/trial/metrics.jsonl")
    assert len(rows) == 1 and (paths.results_dir(stage) / "models/trial/run.json").exists()


@pytest.mark.parametrize("stage", STAGES)
def test_overwrite_replaces_the_model_when_the_new_one_is_whole(out, stage, monkeypatch):
    before, old_curve = contents(out), (paths.results_dir(stage) / "metrics.jsonl").read_bytes()

    def fails(*_):
        raise UserError("the disk is gone")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="disk is gone"):
        patch.setattr(checkpoint, "write", fails)
        run(f"{COMMANDS[stage]} --num_iterations=1 --overwrite")
    kept = {name: digest for name, digest in before.items() if name.startswith(("checkpoints", "tokenizer"))}
    assert kept.items() <= contents(out).items()
    run(f"{COMMANDS[stage]} --num_iterations=1 --overwrite")
    assert [path.name for path in paths.checkpoint_dir(stage, "d1").glob("[!.]*")] == ["step_000001"]
    assert old_curve in [path.read_bytes() for path in (paths.results_dir(stage) / "earlier").glob("*/metrics.jsonl")]


@pytest.mark.parametrize("stage", STAGES)
def test_resuming_a_finished_model_changes_nothing(out, stage, capsys):
    before = contents(out)
    run(f"{COMMANDS[stage]} --resume")
    assert "is finished" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"finished run, .*--num_iterations=9 \(was [24]\); --overwrite"):
        run(f"{COMMANDS[stage]} --num_iterations=9 --resume")
    assert contents(out) == before


@pytest.mark.parametrize("how", ["no state", "half a state", "half the weights", "no weights", "what a kill left"])
def test_damaged_leftovers_do_not_stand_in_the_way(out, how, capsys):
    folder = paths.checkpoint_dir("sft", "d1")
    path = folder / "step_000004"
    if how == "what a kill left":
        path.rename(folder / ".step_000004.abc")
    elif how in ("no state", "no weights"):
        (path / ("state.json" if how == "no state" else "model.safetensors")).unlink()
    else:
        file = path / ("state.json" if how == "half a state" else "model.safetensors")
        file.write_bytes(file.read_bytes()[:file.stat().st_size // 2])
    run(f"{COMMANDS['sft']} --num_iterations=1")
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "step_000001"]


def test_two_ways_at_once_are_refused(out):
    with pytest.raises(UserError, match="give one of them"):
        run(f"{COMMANDS['sft']} --resume --overwrite")
    with pytest.raises(UserError, match="sft/d1, which this run starts from"):
        run(f"{COMMANDS['sft']} --source=sft --overwrite")


@pytest.mark.parametrize("stage", STAGES)
def test_only_resume_reads_the_optimizer(out, stage):
    assert not list(paths.checkpoint_dir(stage, "d1").glob("step_*/optimizer.pt")), "a finished stage has none"
    model = checkpoint.load_model(stage)[0]
    assert model.config.n_layer == 1
    run(f"{COMMANDS[stage]} --num_iterations=1 --model_tag=kept --keep_optimizer")
    assert (newest(stage, "kept")[0] / "optimizer.pt").exists()


def stopped(line: str, stopped_behind_a_save) -> None:
    with stopped_behind_a_save():
        run(line)


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_an_unfinished_model_without_its_optimizer_can_talk_but_not_go_on(out, damage, stopped_behind_a_save):
    line = f"{COMMANDS['mid']} --model_tag=cut"
    stopped(line, stopped_behind_a_save)
    path = newest("mid", "cut")[0] / "optimizer.pt"
    path.unlink() if damage == "gone" else path.write_bytes(path.read_bytes()[:99])
    assert checkpoint.load_model("mid", "cut")[2]["step"] == 2
    before = contents(out)
    with pytest.raises(UserError, match="mid/cut cannot be resumed: .*optimizer.pt is .*--overwrite"):
        run(f"{line} --resume")
    assert contents(out) == before
    run(f"{COMMANDS['sft']} --source=mid --source_tag=cut")  # the next stage needs the weights only
    assert newest("sft", "cut")[1]["source"]["tag"] == "cut"


def test_a_source_that_was_trained_again_is_noticed(out, stopped_behind_a_save, capsys):
    line = f"{COMMANDS['sft']} --model_tag=cut"
    stopped(line, stopped_behind_a_save)
    run(f"{COMMANDS['mid']} --num_iterations=1 --overwrite")
    with pytest.raises(UserError, match="sft/cut began from mid/d1 step 4, and mid/d1 has been trained again since"):
        run(f"{line} --resume")
    run(f"{COMMANDS['sft']} --resume")
    assert "warning: sft/d1 began from mid/d1" in capsys.readouterr().out


def test_resume_alone_goes_on_with_the_saved_flags(out, stopped_behind_a_save, capsys):
    run(f"{COMMANDS['mid']} --model_tag=whole")
    stopped(f"{COMMANDS['mid']} --model_tag=cut", stopped_behind_a_save)
    run("mid_train --model_tag=cut --resume --device_batch_size=2 --no_compile --device_type=cpu")
    said = capsys.readouterr().out
    assert "continues with the saved flags " in said and "--mixture=mine" in said
    whole, cut = ((newest("mid", tag)[0] / "model.safetensors").read_bytes() for tag in ("whole", "cut"))
    assert whole == cut


def as_older_code_wrote_it(path) -> None:
    """A checkpoint of d28e6e4: no tokenizer, no source, other flags."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).unlink()
    state = files.read_json(path / "state.json")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        del state["sha256"][name]
    del state["source"]
    state["flags"] |= {"model_tag": "cut", "source_tag": "", "gone_since": 7}  # a flag that exists no longer
    del state["flags"]["warmdown_fraction"]  # a flag that did not exist yet
    files.write_json(path / "state.json", state)


@pytest.mark.parametrize("stage", ["base", "mid", "sft"])
def test_a_checkpoint_of_older_code_loads_and_resumes(out, stage, stopped_behind_a_save, capsys):
    line = f"{COMMANDS[stage]} --model_tag=cut"
    stopped(line, stopped_behind_a_save)
    as_older_code_wrote_it(newest(stage, "cut")[0])
    assert checkpoint.load_model(stage, "cut")[2]["step"] == 2
    run(f"{line} --resume")
    said = capsys.readouterr().out
    assert "no longer has --gone_since=7" in said and "goes on after step 2 of 4" in said
    assert (newest(stage, "cut")[0] / "model.safetensors").read_bytes() == (
        newest(stage)[0] / "model.safetensors").read_bytes()


def test_a_folder_can_be_renamed_before_it_goes_on(out, stopped_behind_a_save):
    stopped(f"{COMMANDS['mid']} --model_tag=cut", stopped_behind_a_save)
    paths.checkpoint_dir("mid", "cut").rename(paths.checkpoint_dir("mid", "moved"))
    run(f"{COMMANDS['mid']} --model_tag=moved --resume")
    assert newest("mid", "moved")[1]["step"] == 4


def test_another_tokenizer_is_not_trained_on(out, stopped_behind_a_save):
    stopped(f"{COMMANDS['base']} --model_tag=cut", stopped_behind_a_save)
    size = Tokenizer.load(paths.tokenizer_dir()).vocab_size
    Tokenizer([bytes([byte]) for byte in range(256)] + [b"=%d" % n for n in range(size - 265)]).save(
        paths.tokenizer_dir())
    with pytest.raises(UserError, match="was made with another tokenizer"):
        run(f"{COMMANDS['base']} --model_tag=cut --resume")
    run(f"{COMMANDS['sft']} --model_tag=later")  # has that of its source
    assert (newest("sft", "later")[0] / "tokenizer.json").read_bytes() == (
        newest("base")[0] / "tokenizer.json").read_bytes()


def test_a_tokenizer_is_replaced_only_when_asked_and_models_keep_theirs(out, monkeypatch):
    monkeypatch.setattr("scripts.tok_train.train_tokenizer",
                        lambda texts, *_: [*texts] and Tokenizer([bytes([byte]) for byte in range(256)]))
    older = newest("base")[0]  # a model of older code, which kept no tokenizer
    state = files.read_json(older / "state.json")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (older / name).unlink()
        del state["sha256"][name]
    files.write_json(older / "state.json", state)
    before = contents(out)
    with pytest.raises(UserError, match="made with it: 4, base/d1, mid/d1, sft/d1, rl/d1.; --overwrite"):
        run("tok_train --vocab_size=300")
    run("tok_train --vocab_size=300 --resume")  # it is finished; no run.json tells its flags
    assert contents(out) == before
    run("tok_train --vocab_size=300 --overwrite")
    assert Tokenizer.load(paths.tokenizer_dir()).vocab_size == 265
    with pytest.raises(UserError, match=r"with other flags: --digits=1 \(was 2\); --overwrite"):
        run("tok_train --vocab_size=300 --digits=1 --resume")
    for stage in STAGES:
        assert checkpoint.load_model(stage)[1].vocab_size == 300


Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("keep, free, said", [
    (1, 0, "free space, --save_every=-1, or"), (3, 10_000, "--keep=1"), (1, 10**9, ""), (10**6, 10**9, "")])
def test_room_for_the_checkpoints_is_asked_for_before_training(learner, base_dir, monkeypatch, capsys, keep, free,
                                                                   said):
    from .test_journal import settings
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 0, free))
    place = target.claim("base", "d2", settings(keep=keep, save_every=5))
    if said:
        with pytest.raises(UserError, match=f"checkpoints need .* has .* free; .*{said}"):
            Journal(place, *learner(), steps=100)
    else:
        Journal(place, *learner(), steps=100)
    assert "at a time" in capsys.readouterr().out and not base_dir.exists()


def test_a_file_system_that_does_not_tell_its_size_is_trusted(learner, base_dir, monkeypatch):
    from .test_journal import settings
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 0))
    Journal(target.claim("base", "d2", settings()), *learner(), steps=100)
