"""The whole pipeline at toy size, through the recipe that users run: undisturbed, and interrupted in every stage."""
import os
import re
import shutil
import signal
import subprocess

import pytest

from nanochat.system import files, paths

from .conftest import ENVIRONMENT, PATIENCE_SECONDS, ROOT, TRIAL, contents, curve, exams, halve

pytestmark = pytest.mark.skipif(os.name != "posix", reason="recipes are bash scripts, stopped by signals")
STAGES = paths.STAGES


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
    halve(run.out / "data/text/shard_00007.parquet")
    (run.out / "stages/base_loss.done").unlink()
    before = contents(run.out)
    begin = run.start()
    assert run.process.wait(PATIENCE_SECONDS) == 1
    said = run.said(begin)
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "shard_00007.parquet is damaged" in errors[0] and "Traceback" not in said
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
