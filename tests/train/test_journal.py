import os
import signal

import pytest
import torch

from nanochat.data.loader import batches, prefetched
from nanochat.optim import Schedule
from nanochat.system import files, paths
from nanochat.system.files import UserError
from nanochat.train import checkpoint
from nanochat.train.journal import Journal
from nanochat.train.loop import due, optimize
from nanochat.train.losses import weighted_nll

FLAGS = {"depth": 2, "matrix_lr": 0.01, "run": "dummy", "resume": False, "save_every": 4, "keep": 1, "compile": True}
STEPS = 12


class Killed(BaseException):
    """kill -9, as seen from inside: nothing else of the recipe runs."""


def recipe(learner, corpus, cpu, *, resume=False, kill_after=None, steps=STEPS, seed=0, save_every=4, keep=1,
           **changed):
    """What base_train does, in small."""
    model, optimizer = learner(seed)
    journal = Journal("base", "d2", model, optimizer, steps=steps, resume=resume,
                      flags={**FLAGS, "resume": resume, "save_every": save_every, "keep": keep, **changed}, keep=keep)
    stream = prefetched(batches(corpus, 3, 16, 0, seed=3, state=journal.state))
    with journal:
        for step in optimize(weighted_nll(model, False), optimizer, stream, Schedule(steps), runtime=cpu, steps=steps,
                             start=journal.start, accumulate=2):
            journal.record(step, **{"val/bpb": step.loss / 2})
            if due(step, save_every):
                journal.save(step)
            if step.number == kill_after:
                raise Killed
        journal.finish(flops=123)
    return model, optimizer, journal


def curve():
    """Step and loss of every line, without what the clock says."""
    rows = files.read_jsonl(paths.results_dir("base") / "metrics.jsonl")
    return [(row["step"], row["train/loss_nats"], row["train/lr_multiplier"], row["val/bpb"]) for row in rows]


def saved():
    return [path.name for _, path in checkpoint.steps(paths.checkpoint_dir("base", "d2"))]


def weights():
    path, _ = checkpoint.latest(paths.checkpoint_dir("base", "d2"))
    return {name: (path / name).read_bytes() for name in ("model.safetensors", "optimizer.pt")}


@pytest.mark.parametrize("kill_after", [1, 4, 6, 11])
def test_killed_and_resumed_it_ends_in_the_same_bits(learner, corpus, cpu, base_dir, monkeypatch, kill_after):
    recipe(learner, corpus, cpu)
    expected, whole = curve(), weights()
    assert [step for step, *_ in expected] == list(range(1, STEPS + 1)) and saved() == ["step_000012"]
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base_dir.parent / "again"))
    with pytest.raises(Killed):
        recipe(learner, corpus, cpu, kill_after=kill_after)
    # the weights a resumed recipe starts with do not matter where there is a checkpoint
    _, optimizer, journal = recipe(learner, corpus, cpu, resume=True, seed=5 if kill_after >= 4 else 0)
    assert journal.start == kill_after // 4 * 4
    assert curve() == expected and weights() == whole and optimizer.updates == STEPS
    assert journal.tokens == STEPS * 2 * 3 * 16


def test_resuming_a_finished_run_does_nothing_twice(learner, corpus, cpu, base_dir):
    _, _, first = recipe(learner, corpus, cpu)
    before = curve(), weights()
    _, _, journal = recipe(learner, corpus, cpu, resume=True)
    assert journal.start == STEPS and (curve(), weights()) == before
    run = files.read_json(paths.results_dir("base") / "run.json")
    assert run["steps"] == STEPS and run["tokens"] == first.tokens and run["flops"] == 123
    assert run["num_params"] == sum(p.numel() for p in journal.model.parameters())
    assert run["seconds"] >= journal.seconds_before > 0


def test_other_flags_are_refused_before_anything_changes(learner, corpus, cpu, base_dir):
    recipe(learner, corpus, cpu)
    before = curve(), weights()
    with pytest.raises(UserError, match=r"other flags: --depth=3 \(was 2\), --matrix_lr=0.02 \(was 0.01\); give"):
        recipe(learner, corpus, cpu, resume=True, depth=3, matrix_lr=0.02)
    with pytest.raises(UserError, match=r"--new=1 \(was None\)"):
        recipe(learner, corpus, cpu, resume=True, new=1)
    assert (curve(), weights()) == before
    recipe(learner, corpus, cpu, resume=True, compile=False, run="other", save_every=1)  # these decide nothing


def test_a_mistake_found_after_the_journal_was_made_costs_no_metrics(learner, corpus, cpu, base_dir):
    recipe(learner, corpus, cpu)
    before = curve()
    Journal("base", "d2", *learner(), steps=5, resume=False, flags=FLAGS)
    assert curve() == before  # only `with journal` begins a new curve


def test_a_fresh_run_replaces_an_older_longer_one(learner, corpus, cpu, base_dir):
    recipe(learner, corpus, cpu, keep=3)
    assert saved() == ["step_000004", "step_000008", "step_000012"]
    with pytest.raises(Killed):
        recipe(learner, corpus, cpu, kill_after=3, steps=8, keep=3)
    assert len(saved()) == 3  # the old ones stay until there is a new one
    recipe(learner, corpus, cpu, steps=8, keep=3)
    assert saved() == ["step_000004", "step_000008"] and [step for step, *_ in curve()] == list(range(1, 9))
    assert checkpoint.latest(paths.checkpoint_dir("base", "d2"))[1]["step"] == 8  # what later stages load


def test_a_damaged_newest_checkpoint_costs_only_its_steps(learner, corpus, cpu, base_dir, capsys):
    recipe(learner, corpus, cpu, keep=2)
    expected, whole = curve(), weights()
    assert saved() == ["step_000008", "step_000012"]
    (paths.checkpoint_dir("base", "d2") / "step_000012" / "model.safetensors").write_bytes(b"")
    _, _, journal = recipe(learner, corpus, cpu, resume=True, keep=2)
    said = capsys.readouterr().out
    assert "warning: " in said and "step_000012" in said and "goes on after step 8 of 12" in said
    assert journal.start == 8 and saved() == ["step_000008", "step_000012"]
    assert (curve(), weights()) == (expected, whole)


def test_with_no_checkpoint_a_resumed_run_is_a_fresh_one(learner, corpus, cpu, base_dir):
    _, _, journal = recipe(learner, corpus, cpu, resume=True)
    assert journal.start == 0 and journal.state is None and len(curve()) == STEPS


def test_sigterm_stops_it_like_control_c(learner, cpu, base_dir):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), Journal("base", "d2", *learner(), steps=5, resume=False, flags=FLAGS):
        os.kill(os.getpid(), signal.SIGTERM)
        torch.zeros(1).add_(1)  # the handler runs between two operations
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_clock_goes_on_where_it_stopped(learner, corpus, cpu, base_dir):
    with pytest.raises(Killed):
        recipe(learner, corpus, cpu, kill_after=4)
    folder = paths.checkpoint_dir("base", "d2") / "step_000004"
    files.write_json(folder / "state.json", {**files.read_json(folder / "state.json"), "seconds": 1000.0})
    recipe(learner, corpus, cpu, resume=True)
    assert 1000 < files.read_json(paths.results_dir("base") / "run.json")["seconds"] < 1500
    times = [row["time/seconds"] for row in files.read_jsonl(paths.results_dir("base") / "metrics.jsonl")]
    assert times[3] < 500 and times[4] > 1000
