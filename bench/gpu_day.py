"""The first day with a GPU, in sections with clocks: is it right, how fast is it, where does the time go?

    python -m bench.gpu_day --out=/tmp/day                    all sections on one GPU, about 25 minutes
    python -m bench.gpu_day --sections=correct,memory         some of them
    python -m bench.gpu_day --toy --device_type=cpu           every section at toy shape, to try the script itself

It needs no network and no data: random tokens, all seeds fixed. Every section prints its rows at once and appends them
to OUT/gpu_day.jsonl. A section that fails, or is late, is a row as well; the others go on, and the exit code is 1. With
--peer the last section measures karpathy/nanochat, turn by turn with ours (bench/gpu_peer.py); --data names a folder
with a shard of text for both, without which the kindergarten's few words make a small vocabulary.
"""
import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from bench import gpu_fast, gpu_peer, gpu_right
from bench.gpu_right import Day, Row
from nanochat.system import cli, hardware, runtime
from nanochat.system.cli import flag
from nanochat.train.losses import can_compile

SECTIONS: dict[str, tuple[Callable[[Day], Iterator[Row]], float]] = {  # with the minutes after which it is late
    "ceilings": (gpu_right.ceilings, 0.5), "correct": (gpu_right.correct, 2.5), "memory": (gpu_right.memory, 1.0),
    "attention": (gpu_right.attending, 2.0), "head": (gpu_right.head, 1.5), "steps": (gpu_fast.steps, 9.0),
    "kernels": (gpu_fast.kernels, 1.0), "update": (gpu_fast.update, 1.0), "decoding": (gpu_fast.decoding, 3.0),
    "practice": (gpu_fast.practice, 1.0), "learning": (gpu_fast.learning, 1.0), "peer": (gpu_peer.beside, 14.0)}


def run_section(name: str, day: Day, write: Callable[[Row], None], patience: float = 1.0) -> bool:
    """Whether it ran to its end, in time and without a failed assertion."""
    section, minutes = SECTIONS[name][0], SECTIONS[name][1] * patience
    began = time.monotonic()
    try:
        for row in section(day):
            write({"section": name, **row})
            if time.monotonic() - began > 60 * minutes:
                write({"section": name, "late": f"stopped after {minutes:g} minutes"})
                return False
    except (AssertionError, RuntimeError, UserWarning) as error:
        write({"section": name, "FAILED": " ".join(str(error).split())[:300] or type(error).__name__})
        return False
    return True


def main(argv: list[str] | None = None) -> None:
    args: Namespace = cli.parse(
        argv, __doc__, out=flag("", "folder for gpu_day.jsonl; default: none is written"),
        sections=flag("", f"joined by commas; default all: {', '.join(SECTIONS)}"), depth=flag(20, at_least=1),
        rows=flag(32, "of a micro-batch", at_least=1), steps=flag(12, "of every variant", at_least=3),
        peer=flag("", "a checkout of karpathy/nanochat at 92d63d4"), data=flag("", "a folder with text/*.parquet"),
        toy=flag(False, "toy shapes"), compile=flag(True, "also what torch.compile makes of it"),
        device_type=flag("", "cuda, mps or cpu"), dtype=flag("", "of activations"))
    machine = runtime.start(args.device_type, args.dtype)
    compiles = args.compile and can_compile(machine.device)
    folders = [Path(name).absolute() if name else None for name in (args.peer, args.data)]
    day = Day(machine, compiles, 2, 2, 64, 320, 3, 64, *folders) if args.toy else Day(
        machine, compiles, args.depth, args.rows, 2048, 65_536, args.steps, 8192, *folders)
    path = Path(args.out) / "gpu_day.jsonl" if args.out else None

    def write(row: Row) -> None:
        print("  ".join(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}"
                        for key, value in row.items()), flush=True)
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")

    names = [name for name in args.sections.split(",") if name] or list(SECTIONS)
    if unknown := [name for name in names if name not in SECTIONS]:
        sys.exit(f"--sections={unknown[0]} is unknown; choose among {', '.join(SECTIONS)}")
    write({"section": "machine", "device": hardware.detect().device, "torch": torch.__version__,
           "cuDNN": torch.backends.cudnn.version() if torch.cuda.is_available() else None})
    good = [run_section(name, day, write, patience=60 if args.toy else 1) for name in names]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    cli.run(main)
