"""The script of the first day with a GPU: whole, at toy shape, on a processor; and every section can fail."""
import contextlib
import importlib
import io
import itertools
import json

import pytest
import torch

from bench import gpu_day, gpu_fast, gpu_right, sides
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


# The peer's lines and modules as far as bench/sides.py and bench/peer.py read them; it says equal odds for each token.
PEER = {"scripts/base_train.py": """
import pathlib, sys, os, rustbpe, wandb
flags = dict(word.removeprefix("--").split("=") for word in sys.argv[1:])
assert flags["window-pattern"] == "L"
for step in range(int(flags["num-iterations"])):
    print(f"step {step:05d} | loss: 5.0 | dt: 100.00ms | tok/sec: {1000 + step:,} | bf16_mfu: 0.00 | epoch: 1")
""", "nanochat/common.py": """
import os
get_base_dir = lambda: os.environ["NANOCHAT_BASE_DIR"]
""", "nanochat/checkpoint_manager.py": """
import torch, rustbpe
find_last_step = lambda folder: 3
build_model = lambda *_: ((lambda ids, targets, loss_reduction: torch.full(targets.shape, 5.0).flatten()), None, None)
"""}


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    checkout = tmp_path_factory.mktemp("peer")
    for name, text in PEER.items():
        (checkout / name).parent.mkdir(exist_ok=True)
        (checkout / name).write_text(text)
    return checkout


@pytest.fixture
def quick(monkeypatch):
    """Our commands run in this process: Python and PyTorch need not start again."""
    child = sides.child

    def run(command, environment, cwd):
        if command[0] != "-m":
            return child(command, environment, cwd)
        with contextlib.redirect_stdout(io.StringIO()) as said:
            importlib.import_module(command[1]).main(command[2:])
        return said.getvalue()
    monkeypatch.setattr(sides, "child", run)


def rows_of(folder, *flags) -> tuple[int, list[dict]]:
    with pytest.raises(SystemExit) as ended:
        gpu_day.main([*TOY, f"--out={folder}", *flags])
    return ended.value.code, [json.loads(line) for line in (folder / "gpu_day.jsonl").read_text().splitlines()]


def test_every_section_runs_and_leaves_its_rows(tmp_path, peer, quick):
    code, rows = rows_of(tmp_path, f"--peer={peer}")
    assert code == 0, [row for row in rows if "FAILED" in row or "late" in row]
    assert {row["section"] for row in rows} == {"machine", *gpu_day.SECTIONS}
    told = {row["section"]: row for row in rows}
    assert told["update"]["ms"] > 0 and told["learning"]["two equal runs apart"] == 0
    sides_ = {row["side"]: row for row in rows if "side" in row}
    assert {name: row["steps"] for name, row in sides_.items()} == {"ours": 3, "peer": 3}
    assert sides_["ours"]["attention"] and sides_["peer"]["attention"] == "PyTorch's own order"
    assert sides_["peer"]["tokens/s"] == 1002 and sides_["ours"]["bpb"] > 0 and sides_["peer"]["bpb"] > 0
    assert told["peer"]["ours / peer"] == pytest.approx(sides_["ours"]["tokens/s"] / 1002)
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


def impossible_reward(rollouts, *details, describe=Rollouts._describe):
    describe(rollouts, *details)
    rollouts.stats = {"rl/reward_mean": 2.0}


def fewer_steps(*_):
    return sides.Result(1000.0, 1.0, 2)


BREAKS = {  # what is made wrong for each section to find
    "ceilings": (torch, "randn", no_numbers), "correct": (GPT, "loss", wrong_below_fp64),
    "memory": (Batch, "cut", first_piece_only), "attention": (gpu_right, "profile", SeesNothing),
    "head": (chunked_loss, "_chunk", wrong_chunk), "steps": (GPT, "loss", other_each_time),
    "kernels": (gpu_fast, "profile", SeesNothing), "update": (Optimizer, "step", lambda *_: None),
    "decoding": (Engine, "generate", other_tokens_with_graphs), "practice": (Rollouts, "_describe", impossible_reward),
    "learning": (Optimizer, "step", lambda *_: None), "peer": (sides, "ours", fewer_steps)}


@pytest.mark.parametrize("name", gpu_day.SECTIONS)
def test_every_section_can_fail_and_the_next_goes_on(name, tmp_path, monkeypatch, peer, quick):
    monkeypatch.setattr(*BREAKS[name])
    sections = dict.fromkeys((name, "update"))  # a dict: each of them once
    code, rows = rows_of(tmp_path, f"--peer={peer}", f"--sections={','.join(sections)}")
    assert code == 1 and [row["section"] for row in rows if "FAILED" in row][0] == name
    assert rows[-1]["section"] == "update"


def test_without_the_peer_its_section_is_a_row_that_says_so(tmp_path):
    code, rows = rows_of(tmp_path, "--sections=peer")
    assert code == 0 and "--peer" in rows[-1]["skipped"]


@pytest.mark.gpu
def test_on_a_gpu_every_way_of_computing_is_right(tmp_path):
    with pytest.raises(SystemExit) as ended:
        gpu_day.main(["--sections=correct,memory,attention", f"--out={tmp_path}"])
    assert ended.value.code == 0, (tmp_path / "gpu_day.jsonl").read_text()


def test_a_section_that_is_late_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setitem(gpu_day.SECTIONS, "ceilings", (gpu_right.ceilings, 0.0))
    code, rows = rows_of(tmp_path, "--sections=ceilings,update")
    assert code == 1 and "late" in rows[-2] and rows[-1]["section"] == "update"
