"""Not a test: what each rank of test_over_ranks.py runs. `python two_ranks.py FOLDER` under RANK and WORLD_SIZE."""
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

import tasks
from nanochat.eval import bpb, chat, core, over_ranks
from nanochat.system import runtime


def sibling(name: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def scores(data: Path, rank: int = 0, world_size: int = 1) -> list:
    """Exam, CORE task and bpb, of all ranks together."""
    shared, suite = sibling("conftest"), sibling("test_core")
    tokenizer = shared.make_tokenizer()
    model = shared.make_model(tokenizer)
    engine = SimpleNamespace(model=model, tokenizer=tokenizer)
    exam = chat.evaluate(tasks.find("choice_letter"), engine, data_dir=data, save_to=data / f"of{world_size}.jsonl")
    result = core.evaluate_task(model, tokenizer, suite.task_of("schema"), suite.make_items("schema"))
    batches = list(sibling("test_bpb").make_batches(tokenizer, 4))[rank::world_size]
    return [exam.as_dict(), result, bpb.bits_per_byte(model, batches, torch.from_numpy(tokenizer.token_bytes()))]


over_ranks.GROUP = 4  # so that both ranks have something to do

if __name__ == "__main__":
    device = runtime.start("cpu")
    folder = Path(sys.argv[1])
    found = scores(folder, device.rank, device.world_size)
    (folder / f"rank{device.rank}.json").write_text(json.dumps(found))
    device.close()
