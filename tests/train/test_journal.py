import signal
import threading
from argparse import Namespace

import pytest
import torch

from nanochat.data.loader import batches, prefetched
from nanochat.figures import panels
from nanochat.optim import Schedule
from nanochat.system import files, lock, paths
from nanochat.system.files import UserError
from nanochat.train import checkpoint, flags, stop, target
from nanochat.train.journal import Journal
from nanochat.train.loop import Step, due, optimize
from nanochat.train.losses import weighted_nll

FLAGS = {"depth": 2, "matrix_lr": 0.01, "compile": True, "model_tag": ""}
STEPS = 12


class Killed(BaseException):
    """kill -9, as seen from inside: nothing else of the recipe runs."""


def settings(**changed):
    """The flags of a training script."""
    return Namespace(**{**FLAGS, **{name: value.default for name, value in flags.CHECKPOINTS.items()}, **changed})


def journal_of(model, optimizer, stage="base", steps=5, **changed):
    return Journal(target.claim(stage, "d2", settings(**changed)), model, optimizer, steps=steps)


def recipe(learner, corpus, cpu, *, resume=False, kill_after=None, steps=STEPS, seed=0, save_every=4, keep=1,
           on_step=None, keep_optimizer=True, **changed):
    """What base_train does, in small; `on_step` {6: f} calls f when step 6 is done and recorded."""
    place = target.claim("base", "d2", settings(resume=resume, save_every=save_every, keep=keep,
                                                keep_optimizer=keep_optimizer, **changed))
    if place.finished:
        return None, None, None
    model, optimizer = learner(seed)
    journal = Journal(place, model, optimizer, steps=steps)
    stream = prefetched(batches(corpus, 3, 16, 0, seed=3, state=journal.state))
    with journal:
        for step in optimize(weighted_nll(model, False), optimizer, stream, Schedule(steps), runtime=cpu, steps=steps,
                             start=journal.start, accumulate=2):
            journal.record(step, **{"val/bpb": step.loss / 2})
            if due(step, save_every):
                journal.save(step)
            (on_step or {}).get(step.number, int)()
            journal.stop_if_asked(step)
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


def checkpoints():
    return {path.name: path for _, path in checkpoint.steps(paths.checkpoint_dir("base", "d2"))}


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


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def test_a_checkpoint_names_the_suggestions_of_its_data(learner, corpus, cpu, base_dir):
    recipe(learner, corpus, cpu)
    assert checkpoint.present(paths.checkpoint_dir("base", "d2"))[1]["suggestions"] == []
    files.write_json(paths.data_dir() / paths.SUGGESTIONS, ["Moo?"])
    recipe(learner, corpus, cpu, overwrite=True)
    assert checkpoint.present(paths.checkpoint_dir("base", "d2"))[1]["suggestions"] == ["Moo?"]


def test_resuming_a_finished_run_touches_nothing(learner, corpus, cpu, base_dir, capsys):
    model, _, journal = recipe(learner, corpus, cpu)
    run = files.read_json(paths.results_dir("base") / "run.json")
    assert run["steps"] == STEPS and run["tokens"] == journal.tokens and run["flops"] == 123
    assert run["num_params"] == sum(p.numel() for p in model.parameters()) and run["seconds"] > 0
    before = contents(base_dir)
    assert recipe(learner, corpus, cpu, resume=True) == (None, None, None) and contents(base_dir) == before
    assert "base/d2 (step 12 of 12, 20" in (said := capsys.readouterr().out) and "is finished" in said
    (paths.results_dir("base") / "run.json").unlink()  # killed between the last checkpoint and the record of the run
    recipe(learner, corpus, cpu, resume=True)
    assert files.read_json(paths.results_dir("base") / "run.json")["tokens"] == run["tokens"]


def test_other_flags_are_refused_before_anything_changes(learner, corpus, cpu, base_dir):
    with pytest.raises(Killed):
        recipe(learner, corpus, cpu, kill_after=5)
    before = contents(base_dir)
    with pytest.raises(UserError, match=r"other flags: --depth=3 \(was 2\); give"):
        recipe(learner, corpus, cpu, resume=True, depth=3, matrix_lr=0.02)  # a rate may change
    with pytest.raises(UserError, match=r"--new=1 \(was not there\)"):
        recipe(learner, corpus, cpu, resume=True, new=1)
    assert contents(base_dir) == before
    recipe(learner, corpus, cpu, resume=True, compile=False, save_every=1)  # these decide nothing


def test_a_mistake_found_after_the_journal_was_made_costs_no_metrics(learner, corpus, cpu, base_dir):
    recipe(learner, corpus, cpu)
    before = curve()
    journal_of(*learner(), overwrite=True)
    assert curve() == before  # only `with journal` begins a new curve


def test_a_fresh_run_replaces_an_older_longer_one(learner, corpus, cpu, base_dir):
    recipe(learner, corpus, cpu, keep=3)
    assert saved() == ["step_000004", "step_000008", "step_000012"]
    with pytest.raises(Killed):
        recipe(learner, corpus, cpu, kill_after=3, steps=8, keep=3, overwrite=True)
    assert len(saved()) == 3  # the old ones stay until there is a new one
    recipe(learner, corpus, cpu, steps=8, keep=3, overwrite=True)
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


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_finishes_the_step_saves_it_and_stops(learner, corpus, cpu, base_dir, monkeypatch, sign):
    recipe(learner, corpus, cpu)
    expected, whole = curve(), weights()
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base_dir.parent / "again"))
    before = signal.getsignal(sign)
    with pytest.raises(KeyboardInterrupt):
        recipe(learner, corpus, cpu, on_step={6: lambda: signal.raise_signal(sign)})
    assert saved() == ["step_000006"] and signal.getsignal(sign) == before
    _, _, journal = recipe(learner, corpus, cpu, resume=True)
    assert journal.start == 6 and (curve(), weights()) == (expected, whole)


def test_a_signal_that_is_ignored_from_the_start_stays_ignored(learner, corpus, cpu, base_dir, monkeypatch):
    """As nohup starts a run."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        recipe(learner, corpus, cpu, on_step={6: lambda: signal.raise_signal(signal.SIGHUP)})
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN and saved() == ["step_000012"]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_signal_in_the_last_step_does_not_keep_the_run_from_its_end(learner, corpus, cpu, base_dir):
    recipe(learner, corpus, cpu, on_step={STEPS: lambda: signal.raise_signal(signal.SIGTERM)})
    assert saved() == ["step_000012"] and (paths.results_dir("base") / "run.json").exists()


@pytest.mark.parametrize("seconds, asks_twice", [(0.0, True), (60.0, False)])
def test_a_second_signal_does_not_wait_but_the_same_one_twice_does(learner, base_dir, monkeypatch, seconds, asks_twice):
    """Where both the terminal and a launcher send it, it comes twice at once."""
    monkeypatch.setattr(stop, "SAME_REQUEST_SECONDS", seconds)
    with pytest.raises(KeyboardInterrupt), journal_of(*learner()) as journal:
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
            torch.zeros(1).add_(1)  # the handler runs between two operations
        assert not asks_twice and journal.stop.asked
        raise KeyboardInterrupt


def test_checkpoints_are_written_while_training_goes_on(learner, corpus, cpu, base_dir, monkeypatch):
    """The writer is held up until two steps later; what it then writes is the state of its own step."""
    recipe(learner, corpus, cpu, steps=STEPS, save_every=4, keep=3)
    expected = {name: (path / "model.safetensors").read_bytes() for name, path in checkpoints().items()}
    monkeypatch.setenv("NANOCHAT_BASE_DIR", str(base_dir.parent / "again"))
    may_write, write = threading.Event(), checkpoint.write
    monkeypatch.setattr(checkpoint, "write", lambda *args: may_write.wait(60) and write(*args))
    at_six = []
    recipe(learner, corpus, cpu, keep=3, on_step={6: lambda: at_six.append(saved()) or may_write.set()})
    assert at_six == [[]], "step 6 was reached although the checkpoint of step 4 was not written"
    assert {name: (path / "model.safetensors").read_bytes() for name, path in checkpoints().items()} == expected


def test_a_checkpoint_that_could_not_be_written_stops_the_run(learner, corpus, cpu, base_dir, monkeypatch):
    def fail(*_):
        raise UserError("cannot write: no space")

    monkeypatch.setattr(checkpoint, "write", fail)
    with pytest.raises(UserError, match="no space"):
        recipe(learner, corpus, cpu)
    assert len(curve()) == 8, "said at the next checkpoint"


def step_of(number, loss, is_last=False):
    return Step(number, loss, 1.0, 10, 10, {"epoch": 0, "group": 0, "row": 0}, 1.0, is_last)


def test_a_loss_that_rises_and_stays_up_stops_the_run_with_the_checkpoint_before(learner, base_dir):
    journal = journal_of(*learner(), steps=90)
    message = "rose from about 2 to 6 .* step 41 to 60; the last good checkpoint is step_000040"
    with journal, pytest.raises(UserError, match=message):
        for number in range(1, 90):
            lone = number == 30  # one bad batch is no spike
            journal.record(step_of(number, 9.0 if lone else 2.0 if number <= 40 else 6.0))
            if number % 5 == 0:
                journal.save(step_of(number, 2.0))
    assert saved() == ["step_000040"] and journal.metrics.path.read_text().count("\n") == 60


def test_a_falling_or_noisy_loss_is_no_spike_and_rl_has_none(learner, base_dir):
    with journal_of(*learner(), steps=900) as journal:
        for number in range(1, 400):
            journal.record(step_of(number, 7 / number**0.3 + (number % 7) / 10))
        for number in range(400, 500):  # the end of easy text
            journal.record(step_of(number, 12 / (number - 399) ** 0.5 + (number % 3) / 10))
    with journal_of(*learner(), "rl", steps=900) as journal:
        for number in range(1, 100):
            journal.record(step_of(number, -1.0 if number < 50 else 5.0))


@pytest.mark.parametrize("tag", ["d2", "d3"], ids=["the same model", "another model, the same results"])
def test_two_processes_do_not_write_to_one_place(learner, base_dir, monkeypatch, tag):
    monkeypatch.setattr(lock, "PATIENCE_SECONDS", 0.1)
    first, second = (Journal(target.claim("base", name, settings()), *learner(), steps=5) for name in ("d2", tag))
    with first, pytest.raises(UserError, match="another run"), second:
        pass
    with first:  # the refused one has left nothing locked
        pass


def test_checkpoints_that_came_since_the_claim_are_not_replaced_unseen(learner, corpus, cpu, base_dir):
    late = journal_of(*learner(), steps=5)
    recipe(learner, corpus, cpu)
    before = contents(base_dir)
    with pytest.raises(UserError, match="another run has written"), late:
        pass
    assert contents(base_dir) == before


def test_broken_weights_are_never_saved(learner, base_dir):
    model, optimizer = learner()
    with journal_of(model, optimizer, steps=9) as journal:
        journal.save(step_of(1, 2.0))
        with torch.no_grad():
            model.lm_head.weight[0, 0] = float("inf")
        with pytest.raises(UserError, match="infinite or NaN by step 2; .*--resume and lower"):
            journal.save(step_of(2, 2.0))
    assert saved() == ["step_000001"]


def test_a_run_that_diverged_goes_on_with_other_rates(learner, corpus, cpu, base_dir, capsys):
    with pytest.raises(Killed):
        recipe(learner, corpus, cpu, kill_after=4)
    recipe(learner, corpus, cpu, resume=True, matrix_lr=0.005)
    assert "base: continues with the new rates --matrix_lr=0.005 (was 0.01)" in capsys.readouterr().out


def test_the_clock_goes_on_where_it_stopped(learner, corpus, cpu, base_dir):
    with pytest.raises(Killed):
        recipe(learner, corpus, cpu, kill_after=4)
    folder = paths.checkpoint_dir("base", "d2") / "step_000004"
    files.write_json(folder / "state.json", {**files.read_json(folder / "state.json"), "seconds": 1000.0})
    recipe(learner, corpus, cpu, resume=True)
    assert 1000 < files.read_json(paths.results_dir("base") / "run.json")["seconds"] < 1500
    times = [row["time/seconds"] for row in files.read_jsonl(paths.results_dir("base") / "metrics.jsonl")]
    assert times[3] < 500 and times[4] > 1000


@pytest.mark.parametrize("save_every, expected", [(4, [3, 4, 5, 8, 10, 12]), (-1, [3, 5, 8, 10, 12])])
def test_the_model_speaks_at_every_fifth_and_at_every_checkpoint(base_dir, learner, cpu, save_every, expected):
    """Step by step what is asked of it; a killed run goes on with the words that its checkpoint knew."""
    model, optimizer = learner()
    asked = []
    journal = Journal(target.claim("base", "d2", settings(save_every=save_every)), model, optimizer, steps=STEPS,
                      words=lambda percent: asked.append(percent) or [["Who?", f"I, {len(asked)}"]])
    with journal:
        for number in range(1, STEPS + 1):
            journal.record(Step(number, 1.0, 1.0, 8, 8, {}, 1.0, number == STEPS))
    rows = files.read_jsonl(paths.results_dir("base") / "metrics.jsonl")
    assert [row["step"] for row in rows if "words" in row] == expected
    assert [percent for percent in asked if percent] == [25, 41, 66, 83, 100], "the lines in the terminal"
    assert rows[2]["words"] == [["Who?", "I, 1"]] and {row["train/steps"] for row in rows} == {STEPS}
    assert panels(rows)[0][0] == "loss, nats per token", "the figures of the report leave words out"
