import itertools
import re
import time

import pytest
import torch

from nanochat.data.loader import batches
from nanochat.data.packing import Batch
from nanochat.optim import Schedule
from nanochat.system.files import UserError
from nanochat.train.loop import Step, due, optimize
from nanochat.train.losses import weighted_nll


def run(learner, corpus, runtime, rows, accumulate, steps=6, double=False, **more):
    model, optimizer = learner(double=double)
    stream = batches(corpus, rows, 16, 0)
    done = list(optimize(weighted_nll(model, compile=False), optimizer, stream, Schedule(steps), runtime=runtime,
                         steps=steps, accumulate=accumulate, **more))
    return model, done


def test_how_a_batch_is_cut_into_pieces_does_not_matter(learner, corpus, cpu):
    whole, steps = run(learner, corpus, cpu, rows=4, accumulate=1, steps=10, double=True)
    for rows, accumulate in ((2, 2), (1, 4)):
        cut, other = run(learner, corpus, cpu, rows, accumulate, steps=10, double=True)
        assert [step.loss for step in other] == pytest.approx([step.loss for step in steps], rel=1e-6)
        assert all((a - b).abs().max() < 1e-6 for a, b in zip(whole.parameters(), cut.parameters()))
        assert [(s.number, s.tokens, s.targets, s.state, s.lr_multiplier) for s in other] == [
            (s.number, s.tokens, s.targets, s.state, s.lr_multiplier) for s in steps]


def test_the_loss_is_nats_per_target_however_uneven_the_micro_batches(learner, corpus, cpu):
    model, optimizer = learner()
    micro = [next(batches(corpus, 3, 16, 0)), *itertools.islice(batches(corpus, 1, 16, 0, seed=1), 2)]
    assert len({int((batch.targets >= 0).sum()) for batch in micro}) == 3
    nats = sum(model.loss(batch.ids, batch.targets, "sum").item() for batch in micro)
    targets = sum(int((batch.targets >= 0).sum()) for batch in micro)
    [step] = optimize(weighted_nll(model, False), optimizer, iter(micro), Schedule(1), runtime=cpu, steps=1,
                      accumulate=3)
    assert step.loss == pytest.approx(nats / targets, rel=1e-6)
    assert step.targets == targets and step.tokens == 5 * 16


def test_the_loss_falls(learner, corpus, cpu):
    _, steps = run(learner, corpus, cpu, rows=8, accumulate=1, steps=40)
    assert steps[-1].loss < 0.6 * steps[0].loss


def test_steps_are_numbered_timed_and_the_last_one_knows(learner, corpus, cpu):
    _, steps = run(learner, corpus, cpu, rows=2, accumulate=2, steps=5, start=2)
    assert [step.number for step in steps] == [3, 4, 5]
    assert [step.is_last for step in steps] == [False, False, True]
    assert [step.lr_multiplier for step in steps] == [Schedule(5).lr(step) for step in (2, 3, 4)]
    assert all(step.tokens == 2 * 2 * 16 and step.seconds > 0 for step in steps)
    assert run(learner, corpus, cpu, rows=2, accumulate=2, steps=5, start=5)[1] == []


def test_a_loss_that_is_no_number_stops_before_the_weights_change(learner, corpus, cpu):
    model, optimizer = learner()
    with torch.no_grad():
        model.lm_head.weight[0, 0] = float("nan")
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(UserError, match="the loss became nan at step 4; .*--resume"):
        list(optimize(weighted_nll(model, False), optimizer, batches(corpus, 2, 16, 0), Schedule(9), runtime=cpu,
                      steps=9, start=3))
    assert all(torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)) for a, b in zip(model.parameters(), before))
    assert optimizer.updates == 0


def empty(rows=2, T=16):
    return Batch(torch.zeros(rows, T, dtype=torch.int64), torch.full((rows, T), -1), {"step": 1})


def test_a_step_without_targets_changes_nothing_and_divides_by_nothing(learner, cpu):
    model, optimizer = learner()
    before = [p.detach().clone() for p in model.parameters()]
    [step] = optimize(weighted_nll(model, False), optimizer, iter([empty(), empty()]), Schedule(1), runtime=cpu,
                      steps=1, accumulate=2)
    assert (step.loss, step.targets, optimizer.updates) == (0.0, 0, 0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before))


def test_padding_micro_batches_cost_no_pass_and_change_nothing(learner, corpus, cpu):
    real = list(itertools.islice(batches(corpus, 2, 16, 0), 2))
    results = []
    for micro in ([*real], [empty(), real[0], empty(), real[1], empty()]):
        model, optimizer = learner()
        calls, loss_of = [], weighted_nll(model, False)
        [step] = optimize(lambda batch: calls.append(1) or loss_of(batch), optimizer, iter(micro),  # noqa: B023
                          Schedule(1), runtime=cpu, steps=1, accumulate=len(micro))
        assert len(calls) == 2
        results.append((step.loss, [p.detach().clone() for p in model.parameters()]))
    assert results[0][0] == results[1][0] and all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1]))


def out_of_memory_above(rows, loss_of, asked):
    """As a GPU would: room for so many rows, in the middle of a step."""
    def loss(batch):
        asked.append(len(batch.ids))
        if len(batch.ids) > rows and len(asked) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss_of(batch)
    return loss


@pytest.mark.parametrize("fit, asked_rows", [(4, [8]), (2, [8, 4]), (1, [8, 4, 2])])
def test_it_halves_until_the_rows_fit_down_to_one(learner, corpus, cpu, fit, asked_rows):
    results = []
    for rows in (8, fit):
        model, optimizer = learner(double=True)
        asked, loss_of = [], weighted_nll(model, False)
        limit = out_of_memory_above(fit, loss_of, [None] + asked)
        steps = list(optimize(lambda batch: asked.append(len(batch.ids)) or limit(batch), optimizer,  # noqa: B023
                              batches(corpus, rows, 16, 0), Schedule(2), runtime=cpu, steps=2, accumulate=8 // rows))
        results.append(([step.loss for step in steps], list(model.parameters())))
        assert asked == (asked_rows if rows == 8 else []) + [fit] * (16 // fit)
    assert results[0][0] == results[1][0] and all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1]))


@pytest.mark.parametrize("message, is_memory", [
    ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
    ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True), ("CUDA error: out of memory", True),
    ("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory", True),
    ("CUDA error: device-side assert triggered", False), ("mat1 and mat2 shapes cannot be multiplied", False)])
def test_memory_that_a_library_lacks_counts_and_other_errors_do_not(learner, corpus, cpu, message, is_memory):
    model, optimizer = learner()
    asked, loss_of = [], weighted_nll(model, False)

    def loss(batch):
        asked.append(len(batch.ids))
        if len(batch.ids) > 2:
            raise RuntimeError(message)
        return loss_of(batch)

    steps = optimize(loss, optimizer, batches(corpus, 4, 16, 0), Schedule(1), runtime=cpu, steps=1)
    if is_memory:
        assert [step.number for step in steps] == [1] and asked == [4, 2, 2]
    else:
        with pytest.raises(RuntimeError, match=re.escape(message)):
            list(steps)


def test_memory_that_the_update_lacks_is_one_line(learner, corpus, cpu, monkeypatch):
    model, optimizer = learner()
    monkeypatch.setattr(optimizer, "step", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory")))
    with pytest.raises(UserError, match="out of memory in the update.*--lora"):
        list(optimize(weighted_nll(model, False), optimizer, batches(corpus, 4, 16, 0), Schedule(1), runtime=cpu,
                      steps=1))


def test_out_of_memory_halves_the_micro_batches_once_and_for_all(learner, corpus, cpu, capsys):
    results = []
    for rows in (4, 2):  # four rows at a time do not fit, which shows in the second micro-batch
        model, optimizer = learner(double=True)
        asked, loss_of = [], weighted_nll(model, False)
        steps = list(optimize(out_of_memory_above(2, loss_of, asked), optimizer, batches(corpus, rows, 16, 0),
                              Schedule(3), runtime=cpu, steps=3, accumulate=8 // rows))
        results.append(([(step.loss, step.targets, step.state) for step in steps], list(model.parameters())))
        assert asked == ([4, 4] if rows == 4 else []) + [2] * 12
    (losses, weights), (expected, others) = results
    assert losses == expected and all(torch.equal(a, b) for a, b in zip(weights, others))
    assert capsys.readouterr().out.count("out of memory with 4 rows at a time") == 1


def test_out_of_memory_with_one_row_is_one_line(learner, corpus, cpu):
    model, optimizer = learner()
    with pytest.raises(UserError, match="single row at a time; give --recompute"):
        list(optimize(out_of_memory_above(0, weighted_nll(model, False), []), optimizer, batches(corpus, 4, 16, 0),
                      Schedule(3), runtime=cpu, steps=3, accumulate=2))
    assert optimizer.updates == 0


def test_the_wait_for_data_is_counted(learner, corpus, cpu):
    def slow():
        for batch in batches(corpus, 2, 16, 0):
            time.sleep(0.02)
            yield batch

    model, optimizer = learner()
    steps = list(optimize(weighted_nll(model, False), optimizer, slow(), Schedule(2), runtime=cpu, steps=2,
                          accumulate=2))
    assert all(0.04 <= step.waited < step.seconds for step in steps)


def test_due_at_every_nth_and_always_at_the_last():
    steps = [Step(number, 0.0, 1.0, 1, 1, {}, 1.0, number == 7) for number in range(1, 8)]
    assert [step.number for step in steps if due(step, 3)] == [3, 6, 7]
    assert [step.number for step in steps if due(step, -1)] == [7] == [step.number for step in steps if due(step, 0)]
    assert [step.number for step in steps if due(step, 1)] == list(range(1, 8))
