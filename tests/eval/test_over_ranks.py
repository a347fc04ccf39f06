"""Two ranks give the scores of one: exams, CORE and bpb."""
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.eval import over_ranks
from nanochat.system import files

from . import two_ranks

ROOT = Path(__file__).resolve().parents[2]


def test_two_ranks_agree_with_one(data, monkeypatch):
    files.write_jsonl(data / "kindergarten" / "choice-test.jsonl", [
        {"question": "what " * (n % 7), "choices": list("abc"), "answer": n % 3, "subject": "ab"[n % 2]}
        for n in range(31)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [subprocess.Popen([sys.executable, two_ranks.__file__, data], cwd=ROOT, env={
        **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}) for rank in range(2)]
    assert [process.wait(timeout=300) for process in ranks] == [0, 0]
    monkeypatch.setattr(over_ranks, "GROUP", two_ranks.SMALL_GROUP)
    exam, task, bits = two_ranks.scores(data)
    for rank in range(2):
        their_exam, their_task, their_bits = json.loads((data / f"rank{rank}.json").read_text())
        assert their_exam == exam and their_task == task, f"rank {rank}"
        assert their_bits == pytest.approx(bits, rel=1e-6)
    assert files.read_jsonl(data / "of2.jsonl") == files.read_jsonl(data / "of1.jsonl")
