"""What every rank of test_ranks.py runs: `python ranks.py OUT [CHECKPOINT]`, with RANK, WORLD_SIZE and so on in the
environment.

Supervised steps, from the checkpoint on if one is named, with a checkpoint half way; then rollouts, then a validation
pass. The main rank writes losses, weights and figures to OUT.
"""
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from nanochat.data.loader import ListCorpus, batches
from nanochat.eval.bpb import bits_per_byte
from nanochat.model import GPT, GPTConfig
from nanochat.optim import Optimizer, Schedule, sharding
from nanochat.optim.groups import groups_of
from nanochat.system import cli
from nanochat.system.runtime import start as start_runtime
from nanochat.train import checkpoint
from nanochat.train.loop import optimize
from nanochat.train.losses import weighted_nll
from nanochat.train.rollout import Rollouts

STEPS, ROWS_PER_STEP = 50, 12


def documents() -> ListCorpus:
    draw = torch.Generator().manual_seed(0)
    ids = [[0, *torch.randint(1, 64, (3 + n % 17,), generator=draw).tolist()] for n in range(50)]
    return ListCorpus([(one, [int(n % 3 == 0 or i > 2) for i in range(len(one))]) for n, one in enumerate(ids)], 16)


def answers(prompts: list[list[int]], seed: int) -> list[list]:
    """Three answers to each prompt that depend on nothing but prompt and seed, of uneven length."""
    def answer(prompt, sample):
        draw = torch.Generator().manual_seed(1000 * seed + 10 * prompt[1] + sample)
        ids = torch.randint(1, 64, (2 + (prompt[1] + sample) % 4,), generator=draw).tolist()
        return SimpleNamespace(ids=ids, mask=[1] * (len(ids) - 1) + [0], text=str(ids[0]), tool_calls=[])

    return [[answer(prompt, sample) for sample in range(3)] for prompt in prompts]


def main(out: str, resumed: str = "") -> None:
    runtime = start_runtime("cpu", "float32")
    torch.manual_seed(runtime.rank)  # nothing may depend on it
    sharding.LARGE = 1000  # the tables of this toy count as large: two ranks cut them one by one, three cannot
    model = GPT(GPTConfig(16, 64, 2, 2, 2, 16, 8)).init_weights(0).double()  # fp64: see learner() in conftest.py
    model.compute_dtype = torch.float64
    optimizer = Optimizer(groups_of(model, matrix_lr=0.02, embedding_lr=0.02, head_lr=0.002))
    loss_of = weighted_nll(model, compile=False)
    ranks = {"rank": runtime.rank, "world_size": runtime.world_size}
    start, place = 0, None
    if resumed:
        state = checkpoint.check(Path(resumed), optimizer=True)
        checkpoint.restore(Path(resumed), model, optimizer)
        start, place = state["step"], state["loader"]
    losses = []
    for step in optimize(loss_of, optimizer, batches(documents(), 2, 16, 0, state=place, **ranks), Schedule(STEPS),
                         runtime=runtime, steps=STEPS, start=start,
                         accumulate=ROWS_PER_STEP // 2 // runtime.world_size):
        losses.append((step.loss, step.tokens, step.targets, step.state["row"]))
        if step.number == STEPS // 2:
            checkpoint.save(Path(out).parent / f"from{runtime.world_size}", step.number, model, optimizer,
                            {"loader": step.state})

    items, prompts = [{"question": str(n)} for n in range(11)], [[0, n] for n in range(11)]
    rollouts = Rollouts(answers, items, prompts, lambda item, text: float(int(text) % 3 == 0), runtime,
                        questions_per_step=5, rows=4, row_len=9, pad_id=0)
    rewards = []
    for step in optimize(loss_of, optimizer, iter(rollouts), Schedule(4), runtime=runtime, steps=4,
                         accumulate=rollouts.micro_batches(3)):
        losses.append((step.loss, step.targets))
        rewards.append({name: value for name, value in rollouts.stats.items() if not name.startswith("speed/")})
    held_out = ((batch.ids, batch.targets) for batch in batches(documents(), 3, 16, 0, epochs=1, **ranks))
    bpb = bits_per_byte(model, held_out, torch.arange(64) % 5)
    if runtime.is_main:
        torch.save({"losses": losses, "rewards": rewards, "bpb": bpb, "weights": model.state_dict()}, out)
    runtime.close()


if __name__ == "__main__":
    cli.run(lambda: main(*sys.argv[1:]))
