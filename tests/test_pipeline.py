"""The whole pipeline at toy size, through the recipe that users run: undisturbed, and interrupted in every stage. Then
bad input of every kind on what that run made: one clear line, a non-zero exit, and nothing lost that was finished."""
import hashlib
import importlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from nanochat.data import shards
from nanochat.system import cli, files, paths
from nanochat.tokenizer import Tokenizer

pytestmark = pytest.mark.skipif(os.name != "posix", reason="recipes are bash scripts, stopped by signals")
ROOT = Path(__file__).resolve().parents[1]
STAGES = paths.STAGES
PATIENCE_SECONDS = 3600  # of a machine that has other things to do
# Set where the tests run, and not meant for the recipe; no GPU, one thread: sums in one order; no network.
FOREIGN = ("NANOCHAT_", "RANK", "WORLD_SIZE", "LOCAL_RANK")
ENVIRONMENT = {**{name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)},
               "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "https_proxy": "http://127.0.0.1:9"}


TRIAL = ("--depth=1", "--minutes=0.4", "--seed=3")


class Run:
    """The laptop's recipe, a trial of one layer, on an out folder of its own. What it says goes to a log beside it."""

    def __init__(self, out: Path):
        self.out, self.log, self.process = out, out.with_suffix(".log"), None

    def start(self) -> int:
        """Where in the log this start begins."""
        begin = self.log.stat().st_size if self.log.exists() else 0
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["bash", ROOT / "runs/laptop.sh", *TRIAL, "--out", self.out],
                env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
        return begin

    def said(self, begin: int) -> str:
        return self.log.read_bytes()[begin:].decode()

    def finish(self) -> str:
        """Runs to the end; what it said."""
        begin = self.start()
        code = self.process.wait(PATIENCE_SECONDS)
        assert code == 0, f"exit code {code}: {self.said(begin)}"
        return self.said(begin)

    def interrupt(self, stage: str, how: signal.Signals) -> tuple[int, str]:
        """Starts it, stops all its processes in `stage` after a step that no checkpoint has; exit code and words."""
        saved_before, begin, deadline = self.saved(stage), self.start(), time.monotonic() + PATIENCE_SECONDS
        while not self.recorded(stage) > self.saved(stage) > saved_before:
            assert self.process.poll() is None, f"{stage} was over before it could be stopped: {self.said(begin)}"
            assert time.monotonic() < deadline, f"no progress in {stage}: {self.said(begin)}"
            time.sleep(0.01)
        os.killpg(self.process.pid, how)
        code = self.process.wait(PATIENCE_SECONDS)
        while not self.is_gone() and time.monotonic() < deadline:
            time.sleep(0.01)
        return code, self.said(begin)

    def is_gone(self) -> bool:
        """No process of the recipe's group is left: a killed child may outlive the shell for a moment."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return True
        return False

    def saved(self, stage: str) -> int:
        return max((int(path.name[5:]) for path in self.out.glob(f"checkpoints/{stage}/d1/step_*")), default=0)

    def recorded(self, stage: str) -> int:
        path = self.out / "results" / stage / "metrics.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    def end(self) -> None:
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """`runs(name)` → a Run; none outlives the tests."""
    if not shutil.which("bash") or not (ROOT / ".venv/bin/python").exists():
        pytest.skip("recipes need bash and .venv (bash setup.sh)")
    made = []

    def make(name: str) -> Run:
        made.append(Run(tmp_path_factory.mktemp("pipeline") / name))
        return made[-1]

    yield make
    for run in made:
        run.end()


@pytest.fixture(scope="module")
def toy(runs):
    """The undisturbed run."""
    run = runs("toy")
    run.finish()
    return run


def exams(out: Path, stage: str) -> dict:
    """A stage's chat_eval.json, without what the clock says."""
    found = files.read_json(out / "results" / stage / "chat_eval.json")
    for score in found["tasks"].values():
        score.pop("seconds")
    return found


def curve(out: Path, stage: str) -> list[dict]:
    """A stage's metrics, without what the clock says."""
    return [{key: value for key, value in line.items() if not key.startswith(("speed/", "time/"))}
            for line in files.read_jsonl(out / "results" / stage / "metrics.jsonl")]


def test_every_stage_does_its_work(toy):
    for stage in STAGES:
        steps = files.read_json(toy.out / "results" / stage / "run.json")["steps"]
        assert [line["step"] for line in curve(toy.out, stage)] == list(range(1, steps + 1))
        assert toy.saved(stage) == exams(toy.out, stage)["step"] == steps
    losses = [line["train/loss_nats"] for line in curve(toy.out, "base")]
    assert losses[-1] < 0.7 * losses[0], "the base model learns"
    assert curve(toy.out, "mid")[-1]["train/loss_nats"] < curve(toy.out, "mid")[0]["train/loss_nats"]
    assert all(0 <= line["rl/reward_mean"] <= 1 for line in curve(toy.out, "rl"))
    bpb = files.read_json(toy.out / "results/base/base_loss.json")["bpb"]
    assert bpb["validation"] == pytest.approx(curve(toy.out, "base")[-1]["val/bpb"], rel=0.2)


def test_the_report_has_every_exam_by_stage_and_its_figures(toy):
    report = (toy.out / "report/report.md").read_text()
    asked = sorted(path.name.removesuffix("-test.jsonl") for path in toy.out.glob("data/kindergarten/*-test.jsonl"))
    assert len(asked) >= 8
    for name in asked:
        row = re.search(rf"^\| {name} \|(.*)\|$", report, re.M)[1].split("|")
        scores = [exams(toy.out, stage)["tasks"][name] for stage in STAGES]
        assert [cell.strip() for cell in row[1:]] == [
            f"{score['accuracy']:.3f} ± {score['stderr']:.3f} ({score['num_items']})" for score in scores]
    assert "| exam | chance | BASE | MID | SFT | RL |" in report and "## Missing\n\nNothing.\n" in report
    for name in ("exams", *STAGES):
        assert f"({name}.png)" in report
        assert (toy.out / f"report/{name}.png").read_bytes().startswith(b"\x89PNG")


def test_run_again_it_repeats_nothing(toy):
    before = {path: path.stat().st_mtime_ns for path in toy.out.glob("checkpoints/**/*")}
    said = toy.finish()
    done = sorted(path.stem for path in toy.out.glob("stages/*.done"))
    assert sorted(re.findall(r"== (\w+): done before", said)) == done and said.count("== ") == len(done)
    assert before == {path: path.stat().st_mtime_ns for path in toy.out.glob("checkpoints/**/*")}


def test_the_one_command_names_the_report_and_the_model_to_talk_to(toy):
    stamp = ROOT / ".venv/nanochat.stamp"
    if not stamp.exists() or stamp.read_text() != f"{ROOT}\n{(ROOT / 'pyproject.toml').read_text()}":
        pytest.skip("set-up has something to do first: bash setup.sh")
    done = subprocess.run(["bash", ROOT / "speedrun.sh", "--no-serve", *TRIAL, "--out", toy.out],
                          env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rl: done before" in done.stdout and f"The report: {toy.out}/report/report.md" in done.stdout
    assert f"NANOCHAT_BASE_DIR={toy.out} .venv/bin/python -m scripts.chat_web -i rl -g d1" in done.stdout


def test_a_stage_that_fails_is_named_and_the_finished_ones_stay(toy, runs):
    run = runs("broken")
    shutil.copytree(toy.out, run.out)
    halve(run.out / "tokenizer/tokenizer.json")
    (run.out / "stages/base_loss.done").unlink()
    before = contents(run.out)
    begin = run.start()
    assert run.process.wait(PATIENCE_SECONDS) == 1
    said = run.said(begin)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "tokenizer.json is damaged" in errors[0] and "Traceback" not in said
    assert "laptop.sh: base_loss failed (exit code 1, see above); when mended, run it again to go on" in said
    assert before.items() <= contents(run.out).items()


INTERRUPTIONS = [("base", signal.SIGINT), ("base", signal.SIGTERM), ("base", signal.SIGKILL), ("mid", signal.SIGKILL),
                 ("sft", signal.SIGKILL), ("rl", signal.SIGKILL)]


@pytest.fixture(scope="module")
def disturbed(toy, runs):
    """The same run, interrupted in every stage and started again each time; what each interruption brought."""
    run = runs("disturbed")
    told = [run.interrupt(stage, how) for stage, how in INTERRUPTIONS]
    return run, told, run.finish()


def test_an_interruption_ends_it_and_says_how_to_go_on(disturbed):
    for (_, how), (code, said) in zip(INTERRUPTIONS, disturbed[1]):
        if how == signal.SIGKILL:
            assert code == -signal.SIGKILL
        else:
            assert code == 130 and "laptop.sh: interrupted; run it again to go on" in said
            assert "Traceback" not in said


def test_an_interrupted_run_goes_on_where_it_stopped(disturbed):
    run, told, last = disturbed
    for (stage, _), said in zip(INTERRUPTIONS, [*(said for _, said in told[1:]), last]):
        assert re.search(rf"^{stage}: goes on after step \d+ of \d+", said, re.M)
    assert "tokenizer: done before" in told[1][1] and "sft: done before" in last


def test_an_interrupted_run_ends_like_an_undisturbed_one(toy, disturbed):
    out = disturbed[0].out
    for stage in STAGES:
        assert curve(out, stage) == curve(toy.out, stage)
        assert exams(out, stage) == exams(toy.out, stage)
        ours, theirs = ((folder / f"checkpoints/{stage}/d1/step_{toy.saved(stage):06d}/model.safetensors").read_bytes()
                        for folder in (out, toy.out))
        assert ours == theirs, f"the weights of {stage} differ"
    for section in ("What each stage can do", "The calculator", "The same questions, stage by stage"):
        ours, theirs = ((folder / "report/report.md").read_text().split(f"## {section}\n")[1].split("\n## ")[0]
                        for folder in (out, toy.out))
        assert ours == theirs, section


# From here on: what can be wrong. Commands run in this process, as `python -m` would run them.

SMALL = ("--depth=1 --aspect_ratio=32 --head_dim=64 --max_seq_len=64 --device_batch_size=2 --total_batch_size=128 "
         "--num_iterations=2 --eval_tokens=128")
CPU = "--device_type=cpu --dtype=float32"
BASE = f"scripts.base_train {SMALL} --no_compile {CPU}"
MID = f"scripts.mid_train --mixture=talk --num_iterations=4 --total_batch_size=256 --no_compile {CPU}"
SFT = f"scripts.chat_sft --mixture=talk --num_iterations=2 --total_batch_size=256 --no_compile {CPU}"
RL = f"scripts.chat_rl --task=problems --num_iterations=1 --examples_per_step=1 --num_samples=2 --no_compile {CPU}"


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


def contents(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file."""
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()}


MODULES = sorted([f"scripts.{path.stem}" for path in (ROOT / "scripts").glob("[!_]*.py")]
                 + ["nanochat.dataset", "nanochat.plan", "nanochat.report"])


@pytest.mark.parametrize("module", MODULES)
def test_unknown_flags_are_refused_by_every_command(module, base_dir, capsys):
    assert "unknown flag --no_such_flag=3" in refused(f"{module} --no_such_flag=3", capsys, code=2)
    assert not base_dir.exists()


@pytest.mark.parametrize("line, said", [
    ("nanochat.dataset --source=nowhere", "choose one of kindergarten, fineweb-edu"),
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
    (f"{BASE} --total_batch_size=100", "--total_batch_size=100 is no multiple of 128"),
    (f"{BASE} --head_dim=3", "--head_dim=3 must be even"),
    (f"{BASE} --model_tag=../../elsewhere", "no plain name"),
    (f"{BASE} --device_type=tpu", "choose cuda, mps or cpu"),
    (f"{BASE} --dtype=int8", "choose one of float32"),
    (f"{MID} --mixture=facts,nowhere", "there is no source 'nowhere'; known: text"),
    (f"{MID} --mixture=facts*much", "write name or name*weight"),
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


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:path.stat().st_size // 2])


CHAT_EVAL = f"scripts.chat_eval -i base -a facts -x 2 {CPU}"
SHARD, LAST = "data/text/shard_00000.parquet", "data/text/shard_00007.parquet"


@pytest.mark.parametrize("name, damage, line, said", [
    (SHARD, overwrite, BASE, "shard_00000.parquet, row group 0, is damaged"),
    (SHARD, halve, BASE, "shard_00000.parquet is damaged"),
    (SHARD, halve, "scripts.tok_train --vocab_size=300", "shard_00000.parquet is damaged"),
    (LAST, Path.unlink, BASE, "validation shard shard_00007.parquet is missing"),
    (LAST, overwrite, f"scripts.base_loss --split_tokens=512 {CPU}", "shard_00007.parquet, row group 0, is damaged"),
    ("data/text", shutil.rmtree, BASE, "python -m nanochat.dataset"),
    ("data/text/manifest.json", halve, BASE, "manifest.json is damaged"),
    ("data/chat/talk.jsonl", halve, MID, "talk.jsonl is damaged: line"),
    ("data/kindergarten/facts-test.jsonl", overwrite, CHAT_EVAL, "facts-test.jsonl is damaged"),
    ("data/kindergarten/problems-train.jsonl", halve, RL, "problems-train.jsonl is damaged: line"),
    ("tokenizer/tokenizer.json", halve, BASE, "tokenizer.json"),
    ("tokenizer/tokenizer.json", overwrite, CHAT_EVAL, "tokenizer.json"),
    ("tokenizer", shutil.rmtree, BASE, "python -m scripts.tok_train"),
    ("tokenizer", shutil.rmtree, CHAT_EVAL, "python -m scripts.tok_train"),
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
    assert sorted(path.name for path in folder.iterdir()) == ["step_000002", "step_000004"]
    whole = (folder / "step_000004/model.safetensors").read_bytes()
    overwrite(folder / "step_000004/model.safetensors")
    assert ends(f"scripts.chat_eval -i mid -a facts -x 2 {CPU}") == 0
    assert exams(out, "mid")["step"] == 2 and "trying the checkpoint before it" in capsys.readouterr().out
    assert ends(f"{MID} --save_every=2 --keep=2 --resume") == 0
    assert "goes on after step 2 of 4" in capsys.readouterr().out
    assert (folder / "step_000004/model.safetensors").read_bytes() == whole


def test_another_vocabulary_is_noticed(out, capsys):
    own = (out / "tokenizer/tokenizer.json").read_bytes()
    texts = list(shards.iter_texts(shards.train_shards()))
    Tokenizer.train(texts[:500], 300).save(paths.tokenizer_dir())
    assert "has 300 tokens" in refused(CHAT_EVAL, capsys) and "has 300 tokens" in refused(SFT, capsys)
    size = len(json.loads(own)["model"]["vocab"])
    Tokenizer.train(texts[::-2], size, digits=2).save(paths.tokenizer_dir())
    assert "python -m scripts.base_train" in refused(CHAT_EVAL, capsys), "the same size, other tokens"
    (out / "tokenizer/tokenizer.json").write_bytes(own)
    assert ends(CHAT_EVAL) == 0


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    if os.geteuid() or not mount or subprocess.run([mount, "-t", "tmpfs", "-o", "size=64m", "tmpfs", folder],
                                                   capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # an error that pytest keeps may hold a file open


def test_a_disk_that_fills_up_costs_no_finished_work(toy, small_disk, base_dir, monkeypatch, capsys):
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(small_disk))
    for name in ("data", "tokenizer", "checkpoints/base"):
        shutil.copytree(toy.out / name, small_disk / name)
    one = sum(path.stat().st_size for path in small_disk.glob("checkpoints/base/d1/*/*"))
    room = shutil.disk_usage(small_disk).free - one * 3 // 2  # for one checkpoint, not for two
    (small_disk / "filler").write_bytes(bytes(room))
    before = contents(small_disk)
    message = refused(f"{MID} --save_every=2", capsys)
    assert "no space left on device" in message.lower() and "step_000004" in message
    after = contents(small_disk)
    assert before.items() <= after.items(), "what was there is whole"
    (small_disk / "filler").unlink()
    assert ends(f"{MID} --save_every=2 --resume") == 0
    assert "goes on after step 2 of 4" in capsys.readouterr().out


@pytest.mark.parametrize("line", [f"{BASE} --keep=2", "nanochat.dataset --source=kindergarten --scale=0.01",
                                  "scripts.tok_train --vocab_size=300", CHAT_EVAL, "nanochat.report generate"])
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
