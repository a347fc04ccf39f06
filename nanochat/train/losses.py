"""What a stage minimises, as a function of one batch, compiled where that pays."""
import shutil
import sys
import sysconfig
from pathlib import Path

import torch

from nanochat.model import GPT
from nanochat.system import log
from nanochat.train.loop import LossOf


def weighted_nll(model: GPT, compile: bool) -> LossOf:
    """Σ weight · nats over a batch's targets (weight 1 where the batch has none).

    With weight = advantage this is REINFORCE (Williams 1992): its gradient is −Σ A·∇log p(token).
    """
    def loss(ids: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None) -> torch.Tensor:
        if weights is None:
            return model.loss(ids, targets, reduction="sum")
        return (weights * model.loss(ids, targets, reduction="none")).sum()

    run = torch.compile(loss, dynamic=False) if compile else loss
    return lambda batch: run(batch.ids, batch.targets, batch.weights)


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile has what it needs: Triton on a GPU, a C++ compiler and Python's headers on a CPU."""
    if device.type != "cpu":
        return device.type == "cuda"
    compiler = shutil.which("g++") or shutil.which("clang++")
    if not compiler or not (Path(sysconfig.get_path("include")) / "Python.h").exists():
        log.say("training runs uncompiled (about half as fast): install a C++ compiler and Python's headers, e.g. "
                "apt install g++ python3-dev, to change that")
        return False
    return sys.platform != "win32"
