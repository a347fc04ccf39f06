"""The whole pipeline at toy size, through the recipe that users run: undisturbed, and interrupted in every stage."""
import re
import shutil
import signal
import subprocess
import sys

import pytest

from nanochat.run_folder import RunFolder
from nanochat.system import files, paths

from .conftest import ENVIRONMENT, PATIENCE_SECONDS, ROOT, TRIAL, contents, curve, exams, halve

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
        assert f"({name}.svg)" in report and (toy.out / f"report/{name}.svg").exists()


def test_run_again_it_repeats_nothing(toy):
    before = {path: path.stat().st_mtime_ns for path in toy.out.glob("checkpoints/**/*")}
    said = toy.finish()
    done = set(RunFolder(toy.out).records())
    assert set(re.findall(r"== (\w+) \(stage \d+ of \d+\): done before", said)) == done - {"report"}
    assert said.count("== ") == len(done)
    assert before == {path: path.stat().st_mtime_ns for path in toy.out.glob("checkpoints/**/*")}


def test_the_one_command_shows_what_came_out_and_how_to_talk_to_it(toy):
    done = subprocess.run([sys.executable, "-m", "runs", "--no-serve", *TRIAL, "--out", toy.out], cwd=ROOT,
                          env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"The report: {toy.out}/report/report.md" in done.stdout
    assert "nanochat" in (toy.out / "report/chat.html").read_text()[:1000]
    table = done.stdout[done.stdout.index("BASE"):]
    facts = re.search(r"^facts +(\S+) +(\S+) +(\S+) +(\S+)$", table, re.M).groups()
    assert facts == tuple(f"{exams(toy.out, stage)['tasks']['facts']['accuracy']:.3f}" for stage in STAGES)
    assert done.stdout.count("\n> ") == 3, "three questions with the model's answers"
    command = re.search(r"^To talk to it: (.*)$", done.stdout, re.M)[1]
    pasted = subprocess.run(["bash", "-c", f"{command} --help"], env=ENVIRONMENT, cwd="/", capture_output=True)
    assert pasted.returncode == 0 and b"scripts.chat_web" in pasted.stdout


def test_a_stage_that_fails_is_named_and_the_finished_ones_stay(toy, runs):
    run = runs("broken")
    shutil.copytree(toy.out, run.out)
    halve(next(run.out.glob("checkpoints/base/d1/*/tokenizer.json")))
    (run.out / "stages/base_loss.json").unlink()
    before = contents(run.out)
    begin = run.start()
    assert run.process.wait(PATIENCE_SECONDS) == 1
    said = run.said(begin)
    assert "tokenizer.json" in said and "base_loss failed" in said and "Traceback" not in said
    after = contents(run.out)
    assert {name: digest for name, digest in before.items() if after.get(name) != digest}.keys() <= {".lock"}


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
            assert code == 130 and "interrupted; run the same command again to go on" in said
            assert "Traceback" not in said


def test_an_interrupted_run_goes_on_where_it_stopped(disturbed):
    run, told, last = disturbed
    for (stage, _), said in zip(INTERRUPTIONS, [*(said for _, said in told[1:]), last]):
        assert re.search(rf"^{stage}: goes on after step \d+ of \d+", said, re.M)
    assert re.search(r"== tokenizer .*done before", told[1][1]) and re.search(r"== sft .*done before", last)


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
