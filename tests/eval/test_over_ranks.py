"""Two ranks give the scores of one: exams, CORE and bpb."""
import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat.system import files

PROGRAM = Path(__file__).with_name("two_ranks.py")


def test_two_ranks_agree_with_one(tmp_path):
    files.write_jsonl(tmp_path / "kindergarten" / "choice-test.jsonl", [
        {"question": "what " * (n % 7), "choices": list("abc"), "answer": n % 3, "subject": "ab"[n % 2]}
        for n in range(31)])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [subprocess.Popen([sys.executable, PROGRAM, tmp_path], cwd=PROGRAM.parents[2], env={
        **os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "PYTHONPATH": str(PROGRAM.parents[2])}) for rank in range(2)]
    assert [process.wait(timeout=300) for process in ranks] == [0, 0]
    spec = importlib.util.spec_from_file_location("two_ranks", PROGRAM)
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    exam, task, bits = program.scores(tmp_path)
    for rank in range(2):
        their_exam, their_task, their_bits = json.loads((tmp_path / f"rank{rank}.json").read_text())
        assert their_exam == exam and their_task == task, f"rank {rank}"
        assert their_bits == pytest.approx(bits, rel=1e-6)
    assert files.read_jsonl(tmp_path / "of2.jsonl") == files.read_jsonl(tmp_path / "of1.jsonl")
