"""The script of the first day with a GPU: whole, at toy shape, on a processor; and every section can fail."""
import itertools
import json

import pytest
import torch

from bench import gpu_day, gpu_fast, gpu_right
from nanochat.data.packing import Batch
from nanochat.infer import Engine
from nanochat.model import GPT, chunked_loss
from nanochat.optim import Optimizer
from nanochat.train.rollout import Rollouts

TOY = ["--toy", "--device_type=cpu", "--dtype=float32", "--no_compile"]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def rows_of(folder, *flags) -> tuple[int, list[dict]]:
    with pytest.raises(SystemExit) as ended:
        gpu_day.main([*TOY, f"--out={folder}", *flags])
    return ended.value.code, [json.loads(line) for line in (folder / "gpu_day.jsonl").read_text().splitlines()]


def test_every_section_runs_and_leaves_its_rows(tmp_path):
    code, rows = rows_of(tmp_path)
    assert code == 0, [row for row in rows if "FAILED" in row or "late" in row]
    assert {row["section"] for row in rows} == {"machine", *gpu_day.SECTIONS}
    told = {row["section"]: row for row in rows}
    assert told["update"]["ms"] > 0 and told["learning"]["two equal runs apart"] == 0
    assert [row["variant"] for row in rows if row["section"] == "steps"] == list(gpu_fast.VARIANTS)


class SeesNothing:
    """A profiler in whose time nothing ran."""

    def __init__(self, **_): ...

    def __enter__(self):
        return self

    def __exit__(self, *_): ...

    def key_averages(self):
        return []


def no_numbers(*shape, **settings):
    return torch.full(shape, float("nan"), dtype=settings.get("dtype"))


def wrong_chunk(*inputs, chunk=chunked_loss._chunk):
    nats, gradient = chunk(*inputs)
    return 1.1 * nats, gradient


def wrong_below_fp64(model, *inputs, loss=GPT.loss):
    return loss(model, *inputs) * (1.0 if model.compute_dtype == torch.float64 else 1.01)


def other_each_time(model, *inputs, loss=GPT.loss, calls=itertools.count(10)):  # noqa: B008
    return loss(model, *inputs) * next(calls)


def first_piece_only(batch, pieces, cut=Batch.cut):
    return cut(batch, pieces)[:1]


def other_tokens_with_graphs(engine, prompts, generate=Engine.generate, **settings):
    return generate(engine, [[*prompt, 9] if engine.decoder else prompt for prompt in prompts], **settings)


def impossible_reward(rollouts, *_):
    rollouts.stats = {"rl/reward_mean": 2.0}


BREAKS = {  # what is made wrong for each section to find
    "ceilings": (torch, "randn", no_numbers), "correct": (GPT, "loss", wrong_below_fp64),
    "memory": (Batch, "cut", first_piece_only), "attention": (gpu_right, "profile", SeesNothing),
    "head": (chunked_loss, "_chunk", wrong_chunk), "steps": (GPT, "loss", other_each_time),
    "kernels": (gpu_fast, "profile", SeesNothing), "update": (Optimizer, "step", lambda *_: None),
    "decoding": (Engine, "generate", other_tokens_with_graphs), "practice": (Rollouts, "_describe", impossible_reward),
    "learning": (Optimizer, "step", lambda *_: None)}


@pytest.mark.parametrize("name", gpu_day.SECTIONS)
def test_every_section_can_fail_and_the_next_goes_on(name, tmp_path, monkeypatch):
    monkeypatch.setattr(*BREAKS[name])
    code, rows = rows_of(tmp_path, f"--sections={name},update" if name != "update" else "--sections=update")
    assert code == 1 and [row["section"] for row in rows if "FAILED" in row][0] == name
    assert rows[-1]["section"] == "update"


def test_a_section_that_is_late_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setitem(gpu_day.SECTIONS, "ceilings", (gpu_right.ceilings, 0.0))
    code, rows = rows_of(tmp_path, "--sections=ceilings,update")
    assert code == 1 and "late" in rows[-2] and rows[-1]["section"] == "update"
