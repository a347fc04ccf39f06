"""Bad input of every kind on what the toy run made: one clear line, a non-zero exit, nothing lost that was finished.

Commands run in this process, as `python -m` would run them."""
import importlib
import os
import shlex
import shutil
import socket
from pathlib import Path

import pytest

from nanochat.data import shards
from nanochat.system import cli, paths
from nanochat.tokenizer.train import train_tokenizer

from .conftest import ROOT, contents, exams, halve

pytestmark = pytest.mark.skipif(os.name != "posix", reason="recipes are bash scripts, stopped by signals")
SMALL = ("--depth=1 --aspect_ratio=32 --head_dim=64 --max_seq_len=64 --device_batch_size=2 --total_batch_size=128 "
         "--num_iterations=2 --eval_tokens=128")
CPU = "--device_type=cpu --dtype=float32"
NEW = "--overwrite --no_compile"  # the models of the toy run are there
BASE = f"scripts.base_train {SMALL} {NEW} {CPU}"
MID = f"scripts.mid_train --mixture=talk --num_iterations=4 --total_batch_size=256 {NEW} {CPU}"
SFT = f"scripts.chat_sft --mixture=talk --num_iterations=2 --total_batch_size=256 {NEW} {CPU}"
RL = f"scripts.chat_rl --task=problems --num_iterations=1 --examples_per_step=1 --num_samples=2 {NEW} {CPU}"
TOKENIZER = "scripts.tok_train --vocab_size=300 --overwrite"


@pytest.fixture
def out(toy, base_dir):
    """A copy of what the toy run made, to be damaged."""
    for name in ("data", "tokenizer", "checkpoints", "results"):
        shutil.copytree(toy.out / name, base_dir / name)
    return base_dir


def ends(line: str) -> int:
    """Runs a command; its exit code."""
    module, *flags = shlex.split(line)
    try:
        cli.run(lambda: importlib.import_module(module).main(flags))
    except SystemExit as exit_:
        return exit_.code
    return 0


def refused(line: str, capsys, code: int = 1) -> str:
    """Runs a command that must fail with one line; that line."""
    capsys.readouterr()
    assert ends(line) == code
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "Traceback" not in message, message
    return message


MODULES = sorted([f"scripts.{path.stem}" for path in (ROOT / "scripts").glob("[!_]*.py")]
                 + ["nanochat.dataset", "nanochat.plan", "nanochat.report"])


@pytest.mark.parametrize("module", MODULES)
def test_unknown_flags_are_refused_by_every_command(module, base_dir, capsys):
    assert "unknown flag --no_such_flag=3" in refused(f"{module} --no_such_flag=3", capsys, code=2)
    assert not base_dir.exists()


@pytest.mark.parametrize("line, said", [
    ("nanochat.dataset --source=nowhere", "choose one of kindergarten, core, fineweb-edu"),
    ("nanochat.dataset --scale=0", "too small"),
    ("nanochat.plan --depth=0", "too small"),
    ("nanochat.report --dollars_per_hour=-1.5", "too small"),
    ("scripts.tok_train --vocab_size=100", "give at least 265"),
    ("scripts.tok_eval --documents=0", "too small"),
    ("scripts.base_train --depth=0", "too small"),
    ("scripts.base_train --depth=4.5", "invalid whole number"),
    ("scripts.base_train --seed=99999999999999999999", "invalid whole number"),
    ("scripts.base_train --target_param_data_ratio=0", "too small"),
    ("scripts.base_train --warmdown_fraction=2", "too large"),
    ("scripts.base_loss --split_tokens=0", "too small"),
    ("scripts.base_eval --max_per_task=0", "too small"),
    ("scripts.mid_train --total_batch_size=0", "too small"),
    ("scripts.mid_train --loss_on=nothing", "choose one of all, assistant"),
    ("scripts.chat_sft --source=rl", "choose one of base, mid, sft"),
    ("scripts.chat_rl --num_samples=1", "give at least 2"),
    ("scripts.chat_rl --temperature=0", "too small"),
    ("scripts.chat_eval -i tokenizer", "choose one of base, mid, sft, rl"),
    ("scripts.chat_eval -x 0", "too small"),
    ("scripts.chat_cli --temperature=nan", "invalid number"),
    ("scripts.chat_web -p 70000", "too large"),
])
def test_values_that_make_no_sense_are_refused_at_once(line, said, base_dir, capsys):
    assert said in refused(line, capsys, code=2)
    assert not base_dir.exists()


@pytest.mark.parametrize("line, said", [
    (f"{BASE} --total_batch_size=100", "--total_batch_size=100 is not a multiple of 128"),
    (f"{BASE} --head_dim=3", "--head_dim=3 is odd"),
    (f"{BASE} --model_tag=../../elsewhere", "plain name"),
    (f"{BASE} --device_type=tpu", "choose cuda, mps or cpu"),
    (f"{BASE} --dtype=int8", "choose one of float32"),
    (f"{MID} --mixture=facts,nowhere", "there is no source 'nowhere'; known: text"),
    (f"{MID} --mixture=facts*much", "write e.g. facts*20"),
    (f"{MID} --source_tag=d99", "no whole checkpoint in"),
    (f"{SFT} --mixture=gsm8k", "gsm8k/train.jsonl"),
    (f"{RL} --task=choice_letter", "--task=choice_letter has no reward"),
    (f"{RL} --task=nothing", "there is no task 'nothing'; choose from"),
    (f"scripts.chat_eval -s 7777 {CPU}", "no checkpoint of step 7777"),
    (f"scripts.chat_eval -a nothing {CPU}", "there is no task 'nothing'"),
    (f"scripts.base_loss -i rl --model_tag=d9 {CPU}", "no whole checkpoint in"),
    ("scripts.chat_cli -p hi -g d9 --device_type=cpu", "no whole checkpoint in"),
])
def test_what_does_not_fit_this_run_is_one_line_and_changes_nothing(line, said, out, capsys):
    before = contents(out.parent)
    assert said in refused(line, capsys)
    assert contents(out.parent) == before


def overwrite(path: Path) -> None:
    """A bad patch in the middle of a file."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle:middle + 64] = b"\xff" * 64
    path.write_bytes(data)


CHAT_EVAL = f"scripts.chat_eval -i base -a facts -x 2 {CPU}"
SHARD, LAST = "data/text/shard_00000.parquet", "data/text/shard_00007.parquet"


@pytest.mark.parametrize("name, damage, line, said", [
    (SHARD, overwrite, BASE, "shard_00000.parquet, row group 0, is damaged"),
    (SHARD, halve, BASE, "shard_00000.parquet is damaged"),
    (SHARD, halve, TOKENIZER, "shard_00000.parquet is damaged"),
    (LAST, Path.unlink, BASE, "validation shard shard_00007.parquet is missing"),
    (LAST, overwrite, f"scripts.base_loss --split_tokens=512 {CPU}", "shard_00007.parquet, row group 0, is damaged"),
    ("data/text", shutil.rmtree, BASE, "python -m nanochat.dataset"),
    ("data/text/manifest.json", halve, BASE, "manifest.json is damaged"),
    ("data/chat/talk.jsonl", halve, MID, "talk.jsonl, line"),
    ("data/kindergarten/facts-test.jsonl", overwrite, CHAT_EVAL, "facts-test.jsonl is damaged"),
    ("data/kindergarten/problems-train.jsonl", halve, RL, "problems-train.jsonl is damaged: line"),
    ("tokenizer/tokenizer.json", halve, BASE, "tokenizer.json"),
    ("checkpoints/base/d1/*/tokenizer.json", overwrite, CHAT_EVAL, "python -m scripts.base_train"),
    ("tokenizer", shutil.rmtree, BASE, "python -m scripts.tok_train"),
    ("checkpoints/base", shutil.rmtree, MID, "no base checkpoint in"),
    ("checkpoints/base/d1/*/model.safetensors", overwrite, MID, "python -m scripts.base_train"),
    ("checkpoints/sft/d1/*/config.json", halve, RL, "python -m scripts.chat_sft"),
    ("checkpoints/base/d1/*/state.json", Path.unlink, CHAT_EVAL, "python -m scripts.base_train"),
])
def test_missing_and_damaged_files_are_named_and_nothing_else_changes(name, damage, line, said, out, capsys):
    damage(next(out.glob(name)))
    before = contents(out)
    assert said in refused(line, capsys)
    assert contents(out) == before


def test_a_damaged_newest_checkpoint_costs_only_its_steps(out, capsys):
    assert ends(f"{MID} --save_every=2 --keep=2") == 0
    folder = out / "checkpoints/mid/d1"
    assert sorted(path.name for path in folder.glob("step_*")) == ["step_000002", "step_000004"]
    whole = (folder / "step_000004/model.safetensors").read_bytes()
    overwrite(folder / "step_000004/model.safetensors")
    assert ends(f"scripts.chat_eval -i mid -a facts -x 2 {CPU}") == 0
    assert exams(out, "mid")["step"] == 2 and "trying the previous checkpoint" in capsys.readouterr().out
    assert ends(f"{MID} --save_every=2 --keep=2 --resume".replace("--overwrite", "")) == 0
    assert "goes on after step 2 of 4" in capsys.readouterr().out
    assert (folder / "step_000004/model.safetensors").read_bytes() == whole


def test_another_tokenizer_is_noticed_where_it_matters(out, capsys):
    """Models have theirs; pretraining would go on with other tokens."""
    train_tokenizer(list(shards.iter_texts(shards.train_shards()))[:500], 300).save(paths.tokenizer_dir())
    assert ends(CHAT_EVAL) == ends(SFT) == 0
    assert ends(f"{BASE} --model_tag=cut --save_every=1 --keep=2 --keep_optimizer") == 0
    shutil.rmtree(out / "checkpoints/base/cut/step_000002")
    train_tokenizer(["other words"] * 9, 270).save(paths.tokenizer_dir())
    line = f"{BASE} --model_tag=cut --resume".replace("--overwrite", "")
    assert "made with another tokenizer" in refused(line, capsys)


def test_a_disk_that_fills_up_costs_no_finished_work(toy, mount_disk, base_dir, monkeypatch, capsys):
    small_disk = mount_disk("64m")
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(small_disk))
    for name in ("data", "tokenizer", "checkpoints/base"):
        shutil.copytree(toy.out / name, small_disk / name)
    line = f"{MID} --save_every=2 --keep_optimizer".replace("--overwrite", "")
    assert ends(f"{line} --model_tag=size --num_iterations=1") == 0
    one = sum(path.stat().st_size for path in small_disk.glob("checkpoints/mid/size/*/*"))
    room = shutil.disk_usage(small_disk).free - one * 3 // 2  # for one checkpoint, not for two
    (small_disk / "filler").write_bytes(bytes(room))
    before = contents(small_disk)
    message = refused(line, capsys)
    assert "checkpoints need" in message and "--save_every=-1" in message and contents(small_disk) == before
    shutil.rmtree(small_disk / "results")  # of that trial: they are moved
    before = contents(small_disk)
    usage = shutil.disk_usage(small_disk)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**9))  # as others fill it meanwhile
    message = refused(line, capsys)
    assert "no space left on device" in message.lower() and "step_000004" in message
    assert before.items() <= contents(small_disk).items(), "what was there is whole"
    (small_disk / "filler").unlink()
    assert ends(f"{line} --resume") == 0
    assert "goes on after step 2 of 4" in capsys.readouterr().out


@pytest.mark.parametrize("line", [f"{BASE} --keep=2", "nanochat.dataset --source=kindergarten --scale=0.01",
                                  TOKENIZER, CHAT_EVAL, "nanochat.report generate"])
def test_where_nothing_more_can_be_written_what_was_there_stays(line, out, capsys):
    """A limit on the size of files stands for a full disk."""
    import resource
    before = contents(out)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        message = refused(line, capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "File too large" in message
    assert contents(out) == before


def test_a_port_in_use_is_one_line_before_the_model_is_loaded(base_dir, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = refused(f"scripts.chat_web -p {port}", capsys)
    assert f"cannot listen on 127.0.0.1:{port}" in message and "choose another port" in message
