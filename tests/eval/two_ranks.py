"""Not a test: what each rank of test_over_ranks.py runs. `python two_ranks.py FOLDER` under RANK and WORLD_SIZE."""
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

import tasks
from nanochat.eval import bpb, chat, core, over_ranks
from nanochat.system import runtime
from tests.eval.twins import make_batches, make_items, make_model, make_task, make_tokenizer

SMALL_GROUP = 4  # so that both ranks have something to do


def scores(folder: Path, rank: int = 0, world_size: int = 1) -> list:
    """Exam, CORE task and bpb, of all ranks together."""
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    engine = SimpleNamespace(model=model, tokenizer=tokenizer)
    exam = chat.evaluate(tasks.find("choice_letter"), engine, save_to=folder / f"of{world_size}.jsonl")
    result = core.evaluate_task(model, tokenizer, make_task("schema"), make_items("schema"))
    batches = list(make_batches(tokenizer, 4))[rank::world_size]
    return [exam.as_dict(), result, bpb.bits_per_byte(model, batches, torch.from_numpy(tokenizer.token_bytes()))]


if __name__ == "__main__":
    over_ranks.GROUP = SMALL_GROUP
    here = runtime.start("cpu")
    out = Path(sys.argv[1])
    (out / f"rank{here.rank}.json").write_text(json.dumps(scores(out, here.rank, here.world_size)))
    here.close()
