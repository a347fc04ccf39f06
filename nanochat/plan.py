"""The dial: a depth (or minutes, or dollars) → everything else about a pretraining run. Arithmetic only, no torch.

    python -m nanochat.plan --depth=20                       the table: value, unit, formula, source
    python -m nanochat.plan --depth=4 --minutes=10 --tokens_per_second=5000
    python -m nanochat.plan --budget=100 --gpu=8xH100        the deepest model that the money trains
    python -m nanochat.plan --minutes=60 --gpu=here          the same for time, from 20 seconds of training here

`make()` is what scripts/base_train.py calls; an explicit flag there beats the plan. The plan describes the plain
architecture (untied embedding and head, no biases, 12·C² parameters a layer); what a `GPTConfig` adds is not counted.
Sources: [Oct] karpathy/nanochat as released in October 2025, [HEAD] the same in July 2026, [K] Kaplan et al. 2020
(arXiv:2001.08361) §2.1, [P] Chowdhery et al. 2022 (arXiv:2204.02311) appendix B.
"""
import math
import re
from dataclasses import dataclass
from statistics import linear_regression

from nanochat.system import cli
from nanochat.system.files import UserError

# What the published runs took on 8×H100, all stages together [Oct]: depth → (hours, dollars).
PUBLISHED = {20: (3.85, 100), 26: (12.0, 300), 32: (41.6, 1000)}
# Pretraining FLOPs over everything those hours could have computed: 0.36 (d20), 0.44 (d26), 0.38 (d32); their mean.
DEFAULT_MFU = 0.39
# $1000 / 41.6 h / 8 GPUs; $300 / 12 h / 8 gives 3.13.
DOLLARS_PER_GPU_HOUR = {"H100": 3.0}
# Peak learning rates at width 768, and how they end: the defaults of scripts/base_train.py.
MUON_LR, EMBEDDING_LR, HEAD_LR = 0.02, 0.3, 0.008
WEIGHT_DECAY, WARMDOWN_FRACTION = 0.0, 0.6
# Validation bpb on FineWeb-Edu after so many FLOPs, well spent: [HEAD]'s log of January 2026, and the first run of its
# leaderboard (d24). A line through the logarithms misses none of them by more than 0.006.
PUBLISHED_BPB = {1e18: 0.8972, 2e18: 0.8616, 5e18: 0.8293, 1e19: 0.7999, 4.33e19: 0.7483}
BPB_UNCERTAINTY = 0.01
# CORE at about 4e19 FLOPs: [Oct] d20 .2219, [HEAD] d24 .2585. Per decade at least .0585 ([Oct] d26: above .2565). Seven
# equal runs spanned .0165; where between the two recipes ours stands has not been measured.
CORE_AT, CORE, CORE_PER_DECADE, CORE_UNCERTAINTY = 4.1e19, 0.240, 0.0585, (0.2585 - 0.2219) / 2 + 0.0165 / 2
# Tokens HEAD gives its d12: 12 × (matrices 84,934,656 + head 25,165,824); the point the batch-size law is anchored to.
D12_TOKENS = 12 * (84_934_656 + 25_165_824)


@dataclass(frozen=True)
class Plan:
    """What one depth implies. Counts are integers; learning rates are those at the peak of the schedule."""

    n_layer: int
    n_embd: int
    n_head: int
    head_dim: int
    vocab_size: int
    sequence_len: int
    num_params: int
    num_scaling_params: int
    total_batch_tokens: int
    steps: int
    tokens: int
    flops_per_token: int
    flops: int
    embedding_lr: float
    head_lr: float
    muon_lr: float
    weight_decay: float
    warmdown_fraction: float


# name in Plan, unit, formula, source
LINES = (
    ("n_layer", "layers", "depth", "the dial"),
    ("n_embd", "channels", "C = depth × aspect ratio, rounded up to whole heads", "[Oct] 64 × depth"),
    ("head_dim", "channels", "D = min(head_dim, C)", "[Oct] 128"),
    ("n_head", "heads", "C / D", "[Oct]"),
    ("vocab_size", "tokens", "V", "[Oct] 2^16"),
    ("sequence_len", "tokens", "T", "[Oct] 2048"),
    ("num_params", "parameters", "2·V·C + L·12·C²", "counted; [K] table 1"),
    ("num_scaling_params", "parameters", "V·C + L·12·C²: all but the embedding", "[HEAD] scales tokens by it"),
    ("total_batch_tokens", "tokens/step", "2^19, or the power law", "[Oct]; [HEAD]"),
    ("steps", "steps", "tokens / batch, rounded down", "[Oct]"),
    ("tokens", "tokens", "steps × batch; asked for: ratio × parameters", "[Oct] 20 × all parameters"),
    ("flops_per_token", "FLOPs", "6·(V·C + L·12·C²) + 12·L·C·T", "[P]; causal half not deducted"),
    ("flops", "FLOPs", "tokens × FLOPs per token", "[P]"),
    ("embedding_lr", "AdamW", "0.3 × (C/768)^-½", "[HEAD]"),
    ("head_lr", "AdamW", "0.008 × (C/768)^-½", "[HEAD]"),
    ("muon_lr", "Muon", "0.02 (× max(1, rows/columns)^½ per matrix)", "[Oct]"),
    ("weight_decay", "Muon", "0; falls linearly where --weight_decay gives one", "[Oct]"),
    ("warmdown_fraction", "of steps", "rates fall linearly to 0 at the end", "docs/LOG.md; [HEAD] .65"),
)


def make(depth: int, *, vocab_size: int = 65_536, aspect_ratio: int = 64, head_dim: int = 128,
         sequence_len: int = 2048, total_batch_tokens: int | None = None, num_iterations: int = -1,
         target_flops: float = -1, target_param_data_ratio: float = 20, tokens_per_second: float | None = None,
         minutes: float | None = None) -> Plan:
    """The plan of `depth`. How long it trains: `num_iterations` steps, or `target_flops`, or `minutes` at
    `tokens_per_second`, or else `target_param_data_ratio` tokens per parameter.

    `total_batch_tokens`: None = 2^19, 0 = the power law `batch_power_law`. UserError for what can't be.

    >>> plan = make(20)
    >>> plan.num_params, plan.steps, plan.tokens
    (560988160, 21400, 11219763200)
    """
    _refuse_impossible(depth=depth, vocab_size=vocab_size, aspect_ratio=aspect_ratio, sequence_len=sequence_len)
    if head_dim < 2 or head_dim % 2:
        raise UserError(f"--head_dim={head_dim} must be even and at least 2: RoPE rotates pairs")
    head_dim = min(head_dim, depth * aspect_ratio + depth * aspect_ratio % 2)
    width = -(-depth * aspect_ratio // head_dim) * head_dim
    matrices, table = 12 * depth * width**2, vocab_size * width
    flops_per_token = 6 * (matrices + table) + 12 * depth * width * sequence_len

    tokens = _tokens(2 * table + matrices, flops_per_token, total_batch_tokens or 2**19, num_iterations, target_flops,
                     target_param_data_ratio, tokens_per_second, minutes)
    batch = batch_power_law(tokens) if total_batch_tokens == 0 else total_batch_tokens or 2**19
    _refuse_impossible(total_batch_size=batch)
    steps = num_iterations if num_iterations > 0 else int(tokens // batch)
    if steps < 1:
        raise UserError(f"{tokens:,.0f} tokens are less than one step of {batch:,}; lower --total_batch_size "
                        "or train longer")
    scale = (width / 768) ** -0.5
    return Plan(n_layer=depth, n_embd=width, n_head=width // head_dim, head_dim=head_dim, vocab_size=vocab_size,
                sequence_len=sequence_len, num_params=2 * table + matrices, num_scaling_params=table + matrices,
                total_batch_tokens=batch, steps=steps, tokens=steps * batch, flops_per_token=flops_per_token,
                flops=steps * batch * flops_per_token, embedding_lr=EMBEDDING_LR * scale, head_lr=HEAD_LR * scale,
                muon_lr=MUON_LR, weight_decay=WEIGHT_DECAY, warmdown_fraction=WARMDOWN_FRACTION)


def batch_power_law(tokens: float) -> int:
    """Tokens per step that suit a run of `tokens`: 2^19·(D/D_d12)^0.383, to the nearest power of two [HEAD], ≤ 2^21.

    >>> batch_power_law(D12_TOKENS), batch_power_law(11.2e9), batch_power_law(1e15)
    (524288, 1048576, 2097152)
    """
    power = 19 + 0.383 * math.log2(tokens / D12_TOKENS)
    return 2 ** min(max(round(power), 0), 21)


def _tokens(num_params: int, flops_per_token: int, batch: int, num_iterations: int, target_flops: float, ratio: float,
            tokens_per_second: float | None, minutes: float | None) -> float:
    """How many tokens the run may read; at most one of the limits is given."""
    limits = {"num_iterations": num_iterations, "target_flops": target_flops, "minutes": minutes}
    given = {name: value for name, value in limits.items() if value not in (None, -1)}
    if len(given) > 1:
        raise UserError(f"--{' and --'.join(given)} each say how long to train; give one of them")
    _refuse_impossible(target_param_data_ratio=ratio, **given)
    if "num_iterations" in given:
        return float(num_iterations * batch)
    if "target_flops" in given:
        return target_flops / flops_per_token
    if "minutes" not in given:
        return ratio * num_params
    if not tokens_per_second or tokens_per_second <= 0:
        raise UserError(f"--minutes={minutes} needs a speed; give --tokens_per_second (a training run prints it)")
    return minutes * 60 * tokens_per_second


def _refuse_impossible(**values: float) -> None:
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise UserError(f"--{name}={value} is impossible; give a number above 0")


@dataclass(frozen=True)
class Machine:
    """What trains, for hours and dollars. `peak_flops` is one GPU's, dense bf16."""

    name: str
    count: int
    peak_flops: float
    dollars_per_gpu_hour: float | None
    mfu: float

    def hours(self, flops: float) -> float:
        return flops / (self.count * self.peak_flops * self.mfu) / 3600

    def dollars(self, flops: float) -> float | None:
        price = self.dollars_per_gpu_hour
        return None if price is None else self.hours(flops) * self.count * price


def machine(spec: str, mfu: float = DEFAULT_MFU, dollars_per_gpu_hour: float = -1) -> Machine:
    """`machine("8xH100")`, and `here` after 20 seconds. UserError for a device whose peak nobody wrote down."""
    from nanochat.system.hardware import PEAK_BF16_FLOPS, peak_flops
    count, name = re.fullmatch(r"(?:(\d+)\s*[x×]\s*)?(.+)", spec.strip() or "?").groups()
    peak = peak_flops(name)
    if not peak or count == "0":
        known = ", ".join(one for one, _ in PEAK_BF16_FLOPS)
        raise UserError(f"--gpu={spec} is unknown; write e.g. 8xH100, with one of: {known}")
    price = dollars_per_gpu_hour if dollars_per_gpu_hour > 0 else DOLLARS_PER_GPU_HOUR.get(name)
    return Machine(name, int(count or 1), peak, price, mfu)


def measured(plan: Plan, dollars_per_hour: float = -1) -> Machine:
    """This machine, by what it computes in 20 seconds of training this plan's model (on its first GPU, if any)."""
    from nanochat.train import fit
    flops = fit.tokens_per_second_here(plan) * plan.flops_per_token
    return Machine("this machine", 1, flops, dollars_per_hour if dollars_per_hour > 0 else None, mfu=1.0)


def afford(limit: float, on: Machine, unit: str = "dollars", **options: float) -> list[Plan]:
    """[the deepest plan that costs at most `limit` dollars or minutes, the next one up]; even depths: their width is
    exact."""
    if unit == "dollars" and on.dollars_per_gpu_hour is None:
        raise UserError(f"no price known for {on.name}; give --dollars_per_gpu_hour")
    cost = lambda plan: on.dollars(plan.flops) if unit == "dollars" else on.hours(plan.flops) * 60  # noqa: E731
    plans = [make(2, **options), make(4, **options)]
    if cost(plans[0]) > limit:
        flag = "--budget" if unit == "dollars" else "--minutes"
        raise UserError(f"{flag}={limit:g} does not train even d2 ({cost(plans[0]):.2f} {unit}); give more, a smaller "
                        "--target_param_data_ratio, or a smaller model (--vocab_size, --aspect_ratio)")
    while cost(plans[1]) <= limit:
        plans = [plans[1], make(plans[1].n_layer + 2, **options)]
    return plans


def expectation(plan: Plan) -> str:
    """What the published runs let one hope for, on FineWeb-Edu, whose FLOPs were 1e18 to 4e19."""
    if not min(PUBLISHED_BPB) / 2 < plan.flops < max(PUBLISHED_BPB) * 10:
        return "expected: nothing published is near this size"
    fit = linear_regression([math.log(flops) for flops in PUBLISHED_BPB], [math.log(b) for b in PUBLISHED_BPB.values()])
    bpb = math.exp(fit.intercept + fit.slope * math.log(plan.flops))
    core = CORE + CORE_PER_DECADE * math.log10(plan.flops / CORE_AT)
    return f"expected: {bpb:.3f} ± {BPB_UNCERTAINTY} bpb, CORE {core:.2f} ± {CORE_UNCERTAINTY:.2f} (FineWeb-Edu)"


def table(plan: Plan) -> str:
    """The plan as text, one line per value with its unit, formula and source."""
    rows = [(name, _number(getattr(plan, name)), *rest) for name, *rest in LINES]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    return "\n".join(f"{name:<{widths[0]}}  {value:>{widths[1]}} {unit:<{widths[2]}}  {formula:<{widths[3]}}  {source}"
                     for name, value, unit, formula, source in rows)


def _number(value: float) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if value < 1e15 else f"{value:.3e}"


def cost_line(plan: Plan, on: Machine) -> str:
    """Hours and dollars of one plan on one machine, and what a published run of that very plan took."""
    hours, dollars = on.hours(plan.flops), on.dollars(plan.flops)
    price = "price unknown (--dollars_per_gpu_hour)" if dollars is None else f"${dollars:,.{2 * (dollars < 10)}f}"
    text = (f"d{plan.n_layer} on {on.count}×{on.name} at MFU {on.mfu:g}: "
            + (f"{hours:.1f} h, " if hours >= 1 else f"{hours * 60:.2g} min, ") + price
            + f"; {plan.num_params / 1e6:,.1f}M parameters, {plan.tokens / 1e6:,.1f}M tokens")
    if plan.n_layer in PUBLISHED and (on.count, on.name) == (8, "H100") and plan == make(plan.n_layer):
        hours, price = PUBLISHED[plan.n_layer]
        text += f" (published, all stages: {hours:g} h, ≈ ${price})"
    return text


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__, depth=cli.flag(-1, "layers; -1 = 20, or what --budget or --minutes pays for", at_least=1),
        vocab_size=cli.flag(65_536, "tokens", at_least=1),
        aspect_ratio=cli.flag(64, "width / depth", at_least=1), head_dim=cli.flag(128, "channels per head", at_least=2),
        max_seq_len=cli.flag(2048, "tokens per row", at_least=1),
        total_batch_size=cli.flag(2**19, "tokens per step; 0 = the power law", at_least=0),
        num_iterations=cli.flag(-1, "train for so many steps", at_least=1),
        target_flops=cli.flag(-1.0, "train for so many FLOPs", at_least=1),
        target_param_data_ratio=cli.flag(20.0, "tokens per parameter", at_least=1e-6),
        minutes=cli.flag(-1.0, "train for so long; without --depth: find the depth that takes it", at_least=1e-3),
        tokens_per_second=cli.flag(-1.0, "measured speed, for --minutes; -1 = from --gpu and --mfu", at_least=1e-3),
        budget=cli.flag(-1.0, "dollars: find the depth they pay for", at_least=1e-3),
        gpu=cli.flag("8xH100", "what trains, for hours and dollars; here = this machine, measured for 20 seconds"),
        mfu=cli.flag(DEFAULT_MFU, "share of the peak, all stages in the hours", at_least=1e-6, at_most=1.0),
        dollars_per_gpu_hour=cli.flag(-1.0, "price; -1 = $3 for an H100, unknown otherwise", at_least=0))
    options = dict(vocab_size=args.vocab_size, aspect_ratio=args.aspect_ratio, head_dim=args.head_dim,
                   sequence_len=args.max_seq_len, total_batch_tokens=args.total_batch_size,
                   target_param_data_ratio=args.target_param_data_ratio)
    seeking = args.budget > 0 or (args.minutes > 0 and args.depth < 0)  # the depth is what is asked for
    if seeking and max(args.depth, args.num_iterations, args.target_flops, args.tokens_per_second) > 0:
        raise UserError("--budget, or --minutes without --depth, finds a depth: leave --depth, --num_iterations, "
                        "--target_flops and --tokens_per_second away (how long it trains: --target_param_data_ratio)")
    depth = args.depth if args.depth > 0 else 4 if seeking else 20
    if args.gpu == "here":
        on = measured(make(depth, **options, num_iterations=1), args.dollars_per_gpu_hour)
        print(f"this machine, training d{depth}: {on.peak_flops / 1e9:,.1f} GFLOP/s")
    else:
        on = machine(args.gpu, args.mfu, args.dollars_per_gpu_hour)
    if seeking:
        limit, unit = (args.budget, "dollars") if args.budget > 0 else (args.minutes, "minutes")
        plan, beyond = afford(limit, on, unit, **options)
        print(f"${limit:,.0f} buys" if unit == "dollars" else f"{limit:g} minutes are enough for")
        print(f"  {cost_line(plan, on)}\n  {expectation(plan)}\nthe next even depth\n  {cost_line(beyond, on)}\n")
    else:
        speed = args.tokens_per_second
        if speed < 0:
            flops_per_second = on.count * on.peak_flops * on.mfu
            speed = flops_per_second / make(depth, **options, num_iterations=1).flops_per_token
        plan = make(depth, **options, num_iterations=args.num_iterations, target_flops=args.target_flops,
                    minutes=args.minutes, tokens_per_second=speed)
        print(f"{cost_line(plan, on)}\n{expectation(plan)}\n")
    print(table(plan))


if __name__ == "__main__":
    cli.run(main)
