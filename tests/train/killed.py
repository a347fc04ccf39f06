"""What test_killed.py and test_nodes.py start and stop: `python killed.py STEPS [SECONDS_PER_STEP]`, a small training
run that goes on where an earlier one stopped, on as many ranks as the environment says."""
import sys
import time
from argparse import Namespace

import torch

from nanochat.data.loader import ListCorpus, batches, prefetched
from nanochat.model import GPT, GPTConfig
from nanochat.optim import Optimizer, Schedule
from nanochat.optim.groups import groups_of
from nanochat.system import cli
from nanochat.system.runtime import start as start_runtime
from nanochat.train import flags, target
from nanochat.train.journal import Journal
from nanochat.train.loop import due, optimize
from nanochat.train.losses import weighted_nll

ROWS_PER_STEP = 8


def main(steps: int, pause: float) -> None:
    args = Namespace(steps=steps, model_tag="", **{name: value.default for name, value in flags.CHECKPOINTS.items()})
    args.resume = args.keep_optimizer = True
    place = target.claim("base", "d2", args)
    if place.finished:
        return
    runtime = start_runtime("cpu", "float32")
    model = GPT(GPTConfig(16, 64, 2, 2, 2, 16, 8)).init_weights(0)
    optimizer = Optimizer(groups_of(model, matrix_lr=0.02, embedding_lr=0.02, head_lr=0.002))
    journal = Journal(place, model, optimizer, steps=steps)
    draw = torch.Generator().manual_seed(0)
    documents = [[0, *torch.randint(1, 64, (3 + n % 17,), generator=draw).tolist()] for n in range(50)]
    stream = prefetched(batches(ListCorpus([(one, [1] * len(one)) for one in documents], 16), 2, 16, 0,
                                rank=runtime.rank, world_size=runtime.world_size, state=journal.state))
    with journal:
        for step in optimize(weighted_nll(model, False), optimizer, stream, Schedule(steps), runtime=runtime,
                             steps=steps, start=journal.start, accumulate=ROWS_PER_STEP // 2 // runtime.world_size):
            journal.record(step, **{"ranks": runtime.world_size})
            if due(step, 7):
                journal.save(step)
            journal.stop_if_asked(step)
            time.sleep(pause)
        journal.finish()
    runtime.close()


if __name__ == "__main__":
    cli.run(lambda: main(int(sys.argv[1]), float((sys.argv[2:] or ["0"])[0])))
