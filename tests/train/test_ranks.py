import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start(world_size: int, out: Path, *arguments: str) -> list[subprocess.Popen]:
    shared = {**os.environ, "WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(),
              "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        shared["GLOO_SOCKET_IFNAME"] = "lo"  # a container's own name may not resolve
    program = [sys.executable, str(Path(__file__).with_name("ranks.py")), str(out), *arguments]
    return [subprocess.Popen(program, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                             stderr=subprocess.PIPE, text=True) for rank in range(world_size)]


def finish(runs: list[subprocess.Popen]) -> None:
    deadline = time.monotonic() + 300
    while any(rank.poll() is None for rank in runs) and not any(rank.poll() for rank in runs):
        assert time.monotonic() < deadline, "a collective hangs"
        time.sleep(0.05)
    for rank in runs:  # one that failed leaves the others waiting
        rank.kill()
    said = [rank.communicate()[1] for rank in runs]
    assert not any(rank.returncode for rank in runs), "\n".join(said)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What one rank, two and three write, from the beginning; and one and three from the checkpoint of the two."""
    folder = tmp_path_factory.mktemp("ranks")
    finish([rank for number in (1, 2, 3) for rank in start(number, folder / f"{number}.pt")])
    half_way = str(folder / "from2" / "step_000025")
    finish([rank for number in (1, 3) for rank in start(number, folder / f"{number}-resumed.pt", half_way)])
    return {path.stem: torch.load(path, weights_only=True) for path in folder.glob("*.pt")}


def same(one: dict, other: dict) -> None:
    count = min(len(one["losses"]), len(other["losses"]))
    for mine, theirs in zip(one["losses"][-count:], other["losses"][-count:], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6, rel=1e-6)
    assert one["rewards"] == [pytest.approx(stats, abs=1e-9) for stats in other["rewards"]]
    assert other["bpb"] == pytest.approx(one["bpb"], rel=1e-6)
    assert max((one["weights"][name] - weight).abs().max() for name, weight in other["weights"].items()) < 1e-6


@pytest.mark.parametrize("ranks", ["2", "3"])
def test_several_ranks_do_what_one_rank_does(results, ranks):
    """Fifty supervised steps of six micro-batches, however they are dealt; four of RL with five questions between them;
    a validation whose last batch not every rank has. Three ranks share eight matrices of one shape unevenly, and of two
    the third gets none."""
    assert len(results["1"]["losses"]) == 54
    assert 0 < results["1"]["rewards"][0]["rl/mixed_groups"] <= 1
    same(results["1"], results[ranks])


@pytest.mark.parametrize("ranks", ["1", "3"])
def test_saved_on_two_ranks_it_goes_on_with_another_number(results, ranks):
    assert len(results[f"{ranks}-resumed"]["losses"]) == 29
    same(results["1"], results[f"{ranks}-resumed"])
