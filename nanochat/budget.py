"""The price of training and its expected result: FLOPs → hours and dollars, bits per byte and CORE. No torch.

[Oct] is karpathy/nanochat as released in October 2025, [HEAD] the same in July 2026.
"""
import math
import re
from dataclasses import dataclass
from statistics import linear_regression

from nanochat.system import gpus
from nanochat.system.files import UserError

# What the published runs took on 8×H100, all stages together [Oct]: depth → (hours, dollars).
PUBLISHED = {20: (3.85, 100), 26: (12.0, 300), 32: (41.6, 1000)}
# MFU: the FLOPs of pretraining as a share of the FLOPs that the GPUs could compute in the hours of all stages. The
# published runs reached 0.36 (d20), 0.44 (d26) and 0.38 (d32); this is their mean.
DEFAULT_MFU = 0.39
# FLOPs → validation bpb on FineWeb-Edu, each from a model of suitable size: [HEAD]'s log of January 2026, and the first
# run of its leaderboard (d24). A line through the logarithms is off by at most 0.006.
PUBLISHED_BPB = {1e18: 0.8972, 2e18: 0.8616, 5e18: 0.8293, 1e19: 0.7999, 4.33e19: 0.7483}
BPB_UNCERTAINTY = 0.01
# CORE at about 4e19 FLOPs is .2219 with [Oct]'s recipe (d20) and .2585 with [HEAD]'s (d24). Nobody has measured where
# ours stands between them, so we take the middle. Ten times the FLOPs give at least .0585 more ([Oct]'s d26: > .2565).
CORE_AT, CORE, CORE_PER_DECADE = 4.1e19, 0.240, 0.0585
CORE_UNCERTAINTY = (0.2585 - 0.2219) / 2 + 0.0165 / 2  # half of each range: of the recipes, and of seven equal runs


@dataclass(frozen=True)
class Machine:
    """A machine to train on: `count` devices with a peak of `peak_flops` (dense bf16), of which a run reaches `mfu`."""

    name: str
    count: int
    peak_flops: float
    dollars_per_gpu_hour: float | None  # None: unknown
    mfu: float

    @property
    def flops_per_second(self) -> float:
        return self.count * self.peak_flops * self.mfu

    def hours(self, flops: float) -> float:
        return flops / self.flops_per_second / 3600

    def dollars(self, flops: float) -> float | None:
        price = self.dollars_per_gpu_hour
        return None if price is None else self.hours(flops) * self.count * price

    def cost(self, flops: float, unit: str) -> float:
        """`unit` is "minutes" or "dollars". UserError if the price is unknown."""
        if unit == "minutes":
            return self.hours(flops) * 60
        dollars = self.dollars(flops)
        if dollars is None:
            raise UserError(f"no price known for {self.name}; give --dollars_per_gpu_hour")
        return dollars


def machine(spec: str, mfu: float = DEFAULT_MFU, dollars_per_gpu_hour: float = -1) -> Machine:
    """`machine("8xH100")`, or with PyTorch's name, "8xNVIDIA H100 80GB HBM3". UserError for an unknown device."""
    match = re.fullmatch(r"(?:(\d+)\s*[x×]\s*)?(.+)", spec.strip())
    count, typed_name = match.groups() if match else ("0", "")
    gpu = gpus.find(typed_name)
    if gpu is None or count is not None and int(count) < 1:
        raise UserError(f"--gpu={spec} is unknown; write e.g. 8xH100, with one of: "
                        + ", ".join(known.name for known in gpus.GPUS))
    price = dollars_per_gpu_hour if dollars_per_gpu_hour > 0 else gpu.dollars_per_hour
    return Machine(gpu.name, int(count or 1), gpu.peak_flops, price, mfu)


def expectation(flops: float) -> str:
    """The expected result of a run of this many FLOPs on FineWeb-Edu, from published runs of 1e18 to 4e19 FLOPs."""
    if not min(PUBLISHED_BPB) / 2 < flops < max(PUBLISHED_BPB) * 10:
        return "expected: nothing published is near this size"
    line = linear_regression([math.log(x) for x in PUBLISHED_BPB], [math.log(bpb) for bpb in PUBLISHED_BPB.values()])
    bpb = math.exp(line.intercept + line.slope * math.log(flops))
    core = CORE + CORE_PER_DECADE * math.log10(flops / CORE_AT)
    return f"expected: {bpb:.3f} ± {BPB_UNCERTAINTY} bpb, CORE {core:.2f} ± {CORE_UNCERTAINTY:.2f} (FineWeb-Edu)"
