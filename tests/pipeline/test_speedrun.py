"""The GPU recipe as it is, at toy shape: every command in its order, two ranks, all data from a hub double."""
import importlib
import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace

import pytest

from nanochat import recipe
from nanochat.system import files, paths
from runs import speedrun

from . import hub_double
from .conftest import ROOT

ROWS = dict(device_batch_size=2, total_batch_size=1024, device_type="cpu", dtype="float32")
ANSWERS = dict(max_problems=3, max_new_tokens=8, device_type="cpu", dtype="float32")
TOY = {  # what replaces the recipe's flags, by module: sizes and numbers of steps, nothing else
    "scripts.tok_train": dict(vocab_size=400), "nanochat.dataset": {},
    "scripts.base_train": dict(aspect_ratio=16, head_dim=16, max_seq_len=256, num_iterations=3, eval_every=-1,
                               eval_tokens=1024, compile=False, save_every=2, **ROWS),
    "scripts.base_loss": dict(split_tokens=1024, device_type="cpu", dtype="float32"),
    "scripts.base_eval": dict(device_type="cpu", dtype="float32"),
    "scripts.mid_train": dict(num_iterations=2, compile=False, **ROWS),
    "scripts.chat_sft": dict(num_iterations=2, **ROWS),
    "scripts.chat_rl": dict(num_iterations=1, examples_per_step=2, num_samples=2, max_new_tokens=8,
                            device_batch_size=2, device_type="cpu", dtype="float32"),
    "scripts.chat_eval": ANSWERS}


class Ranks:
    """Two processes that wait for commands."""

    def __init__(self):
        shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "PYTHONPATH": str(ROOT),
                  "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        self.processes = [subprocess.Popen(
            [sys.executable, "-m", "tests.pipeline.rank"], cwd=ROOT, text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(2)]

    def run(self, module: str, flags: list[str]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        for process in self.processes:
            process.stdin.write(json.dumps([module, flags, port]) + "\n")
            process.stdin.flush()
        for process in self.processes:
            answer = process.stdout.readline().strip()
            assert answer == "done", f"{module} {' '.join(flags)}:\n{answer and json.loads(answer)}"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The out folder after the whole recipe, and the stages."""
    out, server = tmp_path_factory.mktemp("speedrun") / "out", hub_double.serve()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", url)
        patch.setenv("NANOCHAT_CORE", f"{url}/eval_bundle.zip")
        patch.setenv("NANOCHAT_BASE_DIR", str(out))
        patch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
        patch.delenv("NANOCHAT_DATA", raising=False)
        options = recipe.parse(["--depth=2", f"--out={out}", "--unsafe_execution"], "", **recipe.GPU_FLAGS)
        stages = [replace(stage, flags={**stage.flags, **toy_flags(stage)})
                  for stage in speedrun.stages(options, ranks=2)]
        ranks = Ranks()

        def run_process(words: list[str], *_) -> int:
            at = words.index(next(word for word in words if word.startswith(("nanochat.", "scripts."))))
            flags = [word for word in words[at + 1:] if word != "--"]
            if "--standalone" in words:
                ranks.run(words[at], flags)
            else:
                importlib.import_module(words[at]).main(flags)
            return 0

        patch.setattr(recipe, "_run_process", run_process)
        try:
            recipe.run("speedrun", stages, options)
            yield out, stages
        finally:
            server.shutdown()
            for process in ranks.processes:
                process.kill()


def toy_flags(stage: recipe.Stage) -> dict:
    if stage.module == "nanochat.dataset" and stage.flags.get("source") == "kindergarten":
        return dict(scale=0.01)
    return TOY.get(stage.module, {})


@pytest.mark.slow
def test_the_whole_recipe_with_two_ranks_ends_in_a_report_with_core(finished):
    out, stages = finished
    report = (out / "report/report.md").read_text()
    assert "| exam | chance | BASE | MID | SFT | RL |" in report
    for exam in (*speedrun.EXAMS.split("|"), "\\*\\*ChatCORE\\*\\*"):
        assert re.search(rf"^\| {exam} \| [\d.]+ \| – \| -?\d.* \| -?\d.* \| -?\d.* \|$", report, re.M), exam
    assert re.search(r"^\| \*\*CORE\*\* \| 0 \| \d\.\d+ .*\|$", report, re.M)
    core = files.read_json(out / "results/base/base_eval.json")
    assert core["label"] == "CORE" and len(core["tasks"]) == 22 and not core["missing"]
    for stage in paths.STAGES:
        exams = files.read_json(out / "results" / stage / "chat_eval.json")["tasks"] if stage != "base" else {}
        assert set(exams) == set(speedrun.EXAMS.split("|")) or stage == "base", "no exams of a world it has not read"
        assert list((out / "checkpoints" / stage / "d2").glob("step_*/model.safetensors"))
    assert {path.stem for path in (out / "stages").glob("*.json")} >= {stage.name for stage in stages}
    steps = files.read_jsonl(out / "results/base/metrics.jsonl")
    assert [line["step"] for line in steps] == [1, 2, 3]
