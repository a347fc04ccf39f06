"""karpathy/nanochat (92d63d4) beside ours, turn by turn, on the same text, tokens and shapes. A section of
bench/gpu_day.py, which needs --peer=CHECKOUT, and with it tiktoken and jinja2.

Both attend to the whole row by PyTorch's kernels (the peer's --window-pattern=L): without a network it cannot fetch
FlashAttention 3, and its windows would go through a mask, which its own log calls terrible: the ratio would flatter us.
Where FlashAttention 3 is installed the peer takes it; a row says what each side used.
"""
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from unittest.mock import patch

from bench import sides
from bench.gpu_right import Day, Row
from nanochat import dial
from nanochat.system import hardware, paths
from nanochat.tokenizer import Tokenizer


@dataclass(frozen=True)
class Match:
    """What both sides train, and how often in turn."""

    depth: int
    steps: int
    batch: int  # tokens of a step
    turns: int
    measured: bool = False  # bits per byte afterwards


def matches(day: Day) -> list[Match]:
    if day.depth <= 2:
        return [Match(day.depth, 3, day.rows * day.positions, 1, measured=True)]
    step = day.rows * day.positions
    return [Match(day.depth, day.steps, step, 2), Match(day.depth + 4, day.steps, step, 1),
            Match(12, 250, 2 * step, 1, measured=True)]


def beside(day: Day) -> Iterator[Row]:
    """Tokens per second, MFU, peak memory, attention of both sides, and of a short training its bits per byte."""
    if day.peer is None:
        yield {"skipped": "--peer=DIR names a checkout of karpathy/nanochat at 92d63d4"}
        return
    with patch.dict(os.environ), tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        sides.prepare(work, day.data, day.vocab_size, day.positions, 64, 1.0 if day.depth > 2 else 0.01)
        vocab_size = Tokenizer.load(paths.tokenizer_dir()).vocab_size
        for match in matches(day):
            yield from turns(day, match, work, vocab_size)


def turns(day: Day, match: Match, work: Path, vocab_size: int) -> Iterator[Row]:
    small = dict(aspect_ratio=16, head_dim=16) if match.depth <= 2 else {}
    made = dial.make(match.depth, dial.PlanOptions(vocab_size=vocab_size, sequence_len=day.positions, num_iterations=1,
                                                   **small))
    shape = [f"--{name.replace('_', '-')}={value}" for name, value in dict(
        depth=match.depth, **small, max_seq_len=day.positions, total_batch_size=match.batch,
        num_iterations=match.steps).items()]
    top, speeds = hardware.peak_flops(hardware.detect().device), {"ours": [], "peer": []}
    for turn in range(match.turns):
        for side in ("ours", "peer") if turn % 2 == 0 else ("peer", "ours"):
            if side == "ours":
                result = sides.ours(work, turn, [*shape, f"--device-batch-size={day.rows}", *day.flags], match.measured)
            else:
                result = sides.peer_that_fits(work, day.peer, turn, [*shape, "--window-pattern=L"], day.rows,
                                              match.measured)
            assert result.steps == match.steps, f"{side}: {result.steps} steps, not {match.steps}"
            if match.measured:
                assert 0 < result.bpb < 20, f"{side}: {result.bpb} bits per byte"
            speeds[side].append(result.tokens_per_second)
            yield {"depth": match.depth, "vocabulary": vocab_size, "side": side, "turn": turn,
                   "tokens/s": result.tokens_per_second,
                   "MFU": top and made.flops_per_token * result.tokens_per_second / top,
                   "GB": result.peak_bytes and result.peak_bytes / 1e9, "attention": result.attention,
                   "bpb": result.bpb, "steps": result.steps}
    yield {"depth": match.depth, "ours / peer": median(speeds["ours"]) / median(speeds["peer"])}
