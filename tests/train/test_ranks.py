import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start(world_size: int, out: Path) -> list[subprocess.Popen]:
    shared = {**os.environ, "WORLD_SIZE": str(world_size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(),
              "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    if sys.platform == "linux":
        shared["GLOO_SOCKET_IFNAME"] = "lo"  # a container's own name may not resolve
    program = [sys.executable, str(Path(__file__).with_name("ranks.py")), str(out)]
    return [subprocess.Popen(program, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                             stderr=subprocess.PIPE, text=True) for rank in range(world_size)]


@pytest.fixture
def one_and_two(tmp_path):
    """What one rank writes, and what two do."""
    runs = [*start(1, tmp_path / "1.pt"), *start(2, tmp_path / "2.pt")]
    try:
        said = [rank.communicate(timeout=600)[1] for rank in runs]
    finally:
        for rank in runs:
            rank.kill()
    assert [rank.returncode for rank in runs] == [0] * 3, "\n".join(said)
    return [torch.load(tmp_path / f"{number}.pt", weights_only=True) for number in (1, 2)]


def test_two_ranks_do_what_one_rank_does(one_and_two):
    """Twelve supervised steps (two ranks × two micro-batches = one rank × four), four of RL with five questions between
    two ranks, and a validation whose last batch only one of them has."""
    one, two = one_and_two
    assert len(one["losses"]) == 16
    for mine, theirs in zip(one["losses"], two["losses"], strict=True):
        assert mine == pytest.approx(theirs, abs=1e-6, rel=1e-6)
    assert one["rewards"] == [pytest.approx(stats, abs=1e-9) for stats in two["rewards"]]
    assert 0 < one["rewards"][0]["rl/mixed_groups"] <= 1
    assert two["bpb"] == pytest.approx(one["bpb"], rel=1e-6)
    assert max((one["weights"][name] - weight).abs().max() for name, weight in two["weights"].items()) < 1e-6
