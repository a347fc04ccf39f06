import importlib

import pytest
import torch

from nanochat.data import shards
from nanochat.system import files, paths
from nanochat.system.files import UserError
from nanochat.system.runtime import Runtime
from nanochat.train import probe
from nanochat.train.flags import wants_compiling
from nanochat.train.losses import weighted_nll


def test_memory_grows_linearly_with_the_rows(tiny_model):
    sizes = [probe.bytes_of_pass(tiny_model(), rows, 32) for rows in (1, 2, 3, 7)]
    per_row = sizes[1] - sizes[0]
    assert per_row > 0 and sizes[3] == pytest.approx(sizes[0] + 6 * per_row, rel=0.01)
    logits = 32 * 64 * 4
    assert per_row > logits, "the logits of a row are part of it"


def test_as_many_rows_as_fit(tiny_model, cpu):
    model = tiny_model()
    one, two = probe.estimate_from_short_rows(model, 32, 1e12)
    assert [one, two] == pytest.approx([probe.bytes_of_pass(model, rows, 32) for rows in (1, 2)], rel=0.2)
    for rows, found in ((1, 1), (2, 2), (5, 4), (8, 6), (100, 12)):  # of the divisors of 12
        room = (one + (rows - 1) * (two - one)) / probe.USABLE + 1
        assert probe.rows_that_fit(model, 32, 12, cpu, int(room)) == found
    with pytest.raises(UserError, match="one row of 32 tokens needs about .* MiB"):
        probe.rows_that_fit(model, 32, 12, cpu, 0)
    assert probe.rows_that_fit(model, 32, 10**4, cpu, 10**12) == 125, "the largest divisor of 10⁴ below 4,096 tokens"
    assert probe.rows_that_fit(model, 32, 4, cpu) == 4, "this machine has that much"


def test_recomputing_keeps_less(tiny_model):
    whole = tiny_model(n_layer=6)
    kept = probe.bytes_of_pass(whole, 4, 32)
    whole.recompute = True
    assert probe.bytes_of_pass(whole, 4, 32) < 0.4 * kept


def test_speed_is_counted_in_whole_steps(tiny_model, learner, cpu, monkeypatch):
    """Passes of 2 s and updates of 1 s, after a first pass of 50: a step of 256 tokens is four passes and an update."""
    clock, passes = [0.0], []
    monkeypatch.setattr(probe.time, "perf_counter", lambda: clock[0])
    model, optimizer = learner()
    step = optimizer.step

    def loss_of(batch):
        clock[0] += 2 if passes else 50
        passes.append(batch.ids.numel())
        return weighted_nll(model, False)(batch)

    def slow_step(*args):
        clock[0] += 1
        step(*args)

    optimizer.step = slow_step
    batch = probe.random_batch(2, 32, 64, cpu.device)
    assert probe.tokens_per_second(loss_of, optimizer, batch, 256, cpu, seconds=30) == pytest.approx(256 / 9)
    assert passes == [64] * 11


@pytest.fixture
def text(base_dir, tokenizer, sentences):
    tokenizer.save(paths.tokenizer_dir())
    for number in range(2):
        shards.write(base_dir / f"data/text/shard_{number}.parquet", sentences * 40)
    return base_dir


SMALL = ("--depth=1", "--aspect_ratio=16", "--head_dim=8", "--max_seq_len=16", "--total_batch_size=64", "--no_compile",
         "--device_type=cpu", "--dtype=float32", "--eval_tokens=64", "--seed=3")


def test_minutes_become_steps_once_and_the_measuring_leaves_no_trace(text, monkeypatch, capsys):
    from scripts import base_train
    asked = []
    measure = probe.tokens_per_second

    def quick(*args, seconds):
        assert seconds == pytest.approx(0.12)
        asked.append(measure(*args, seconds=0.05))
        return 640.0

    def six(minutes, *, spent, step, evaluation, eval_every):
        assert (minutes, step, eval_every) == (0.02, 0.1, 250) and spent > 0 and evaluation > 0
        return 6

    monkeypatch.setattr(probe, "tokens_per_second", quick)
    monkeypatch.setattr(probe, "steps_that_fit", six)
    base_train.main([*SMALL, "--device_batch_size=auto", "--minutes=0.02"])
    said = capsys.readouterr().out
    assert "6 steps of 64 tokens" in said and "4 rows at a time" in said and "attention: plain" in said
    folder = text / "checkpoints/base/d1/step_000006"
    weights = (folder / "model.safetensors").read_bytes()
    base_train.main([*SMALL, "--device_batch_size=2", "--minutes=0.02", "--resume"])
    assert len(asked) == 1 and "base/d1 (step 6 of 6" in capsys.readouterr().out
    base_train.main([*SMALL, "--device_batch_size=4", "--num_iterations=6", "--model_tag=again"])
    assert (text / "checkpoints/base/again/step_000006/model.safetensors").read_bytes() == weights
    line = files.read_jsonl(paths.results_dir("base") / "metrics.jsonl")[-1]
    assert 0 <= line["speed/stall_fraction"] <= 1


@pytest.mark.parametrize("minutes, spent, evaluation, eval_every, steps", [
    (1.0, 10, 0, -1, 100),  # 50 s of steps that take half a second
    (1.0, 10, 5, -1, 90),  # the validation at the end is part of the minute
    (1.0, 10, 5, 10, 45),  # as are those on the way: each costs as much as ten steps
    (10.0, 60, 2, 250, 1059), (0.1, 20, 0, -1, 12)])  # the time is over before it begins: six seconds are given anew
def test_minutes_are_those_of_the_whole_run(minutes, spent, evaluation, eval_every, steps):
    found = probe.steps_that_fit(minutes, spent=spent, step=0.5, evaluation=evaluation, eval_every=eval_every)
    assert found == steps
    validations = 1 + (steps // eval_every if eval_every > 0 else 0)
    seconds = spent + 0.5 * steps + evaluation * validations
    assert spent > 60 * minutes or abs(seconds - 60 * minutes) < 0.5 + evaluation


@pytest.mark.parametrize("flags, compiled", [
    ([], True), (["--minutes=0.5"], False), (["--minutes=1.9"], False), (["--minutes=2"], True),
    (["--minutes=0.5", "--compile"], True), (["--minutes=9", "--no_compile"], False)])
def test_a_run_too_short_to_gain_from_compiling_is_not_compiled(flags, compiled):
    from scripts import base_train, chat_sft, mid_train
    for script in (base_train, mid_train, chat_sft):
        assert wants_compiling(script.flags(flags)) == compiled


@pytest.mark.parametrize("script, other", [("base_train", "--num_iterations=3"), ("base_train", "--target_flops=1e9"),
                                           ("mid_train", "--num_iterations=3"), ("chat_sft", "--num_iterations=3")])
def test_two_lengths_are_one_too_many(text, script, other):
    with pytest.raises(UserError, match="each say how long"):
        importlib.import_module(f"scripts.{script}").main(["--device_batch_size=2", "--minutes=1", other])


def test_every_rank_takes_what_fits_on_all(tiny_model, monkeypatch):
    monkeypatch.setattr(probe, "all_reduce_sum", lambda values, device: [values[0], 2.0])  # the other has room for 2
    assert probe.rows_that_fit(tiny_model(), 32, 8, Runtime(torch.device("cpu"), torch.float32, 0, 2), 10**9) == 2
