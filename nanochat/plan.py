"""The dial: a depth (or minutes, or dollars) → everything else about a pretraining run. Arithmetic only, no torch.

    python -m nanochat.plan --depth=20                       the table: value, unit, formula, source
    python -m nanochat.plan --depth=4 --minutes=10 --tokens_per_second=5000
    python -m nanochat.plan --budget=100 --gpu=8xH100        the deepest model that this money trains
    python -m nanochat.plan --scale                          d20 to d40 on 1 to 64 GPUs: memory, milliseconds, speed
    python -m nanochat.plan --minutes=60 --gpu=here          the deepest model for this time; trains here for 20 seconds
    python -m nanochat.plan --minutes=60 --laptop            the model that the laptop's recipe trains in this time

scripts/base_train.py calls `make`; an explicit flag there beats the plan. The plan describes the plain architecture
(untied embedding and head, no biases, 12·C² parameters a layer); what the features of a `GPTConfig` add is not counted.
Sources: [Oct] karpathy/nanochat as released in October 2025, [HEAD] the same in July 2026, [K] Kaplan et al. 2020
(arXiv:2001.08361) §2.1, [P] Chowdhery et al. 2022 (arXiv:2204.02311) appendix B.
"""
import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

from nanochat import budget, scale
from nanochat.budget import Machine
from nanochat.system import cli
from nanochat.system.files import UserError
from nanochat.system.numbers import ceil_div
from nanochat.train.flags import EMBEDDING_LR, HEAD_LR, MUON_LR

WEIGHT_DECAY, WARMDOWN_FRACTION = 0.0, 0.6  # how the rates end: defaults of scripts/base_train.py
BATCH_TOKENS = 2**19  # [Oct]: half a million, as GPT-3's models of like size had (Brown et al. 2020, table 2.1)
# Tokens that HEAD gives its d12, to which the law for batch sizes is anchored: 12 × (matrices + head).
D12_TOKENS = 12 * (84_934_656 + 25_165_824)


@dataclass(frozen=True)
class PlanOptions:
    """What can be chosen beside the depth. The last five say how long to train; −1 = not given."""

    vocab_size: int = 65_536
    aspect_ratio: int = 64  # width / depth; HEAD's log of 2026-01-17: at 1e18 FLOPs 64 beats 128
    head_dim: int = 128  # the same log: 128 beats 64
    sequence_len: int = 2048
    total_batch_tokens: int = BATCH_TOKENS  # of one step; 0 = `batch_power_law`
    num_iterations: int = -1
    target_flops: float = -1
    minutes: float = -1  # needs tokens_per_second
    tokens_per_second: float = -1
    target_param_data_ratio: float = 20  # tokens per parameter, where nothing else is given (Hoffmann et al. 2022)


DEFAULTS = PlanOptions()


def _line(unit: str, formula: str, source: str) -> Any:
    """A field of Plan with what `table` prints beside its value."""
    return field(metadata={"unit": unit, "formula": formula, "source": source})


@dataclass(frozen=True)
class Plan:
    """What one depth implies. Learning rates are those at the peak of the schedule."""

    n_layer: int = _line("layers", "L = depth", "the dial")
    n_embd: int = _line("channels", "C = depth × aspect ratio, rounded up to whole heads", "[Oct] 64 × depth")
    head_dim: int = _line("channels", "D = min(head_dim, C)", "[Oct] 128")
    n_head: int = _line("heads", "C / D", "[Oct]")
    vocab_size: int = _line("tokens", "V", "[Oct] 2^16")
    sequence_len: int = _line("tokens", "T", "[Oct] 2048")
    num_params: int = _line("parameters", "2·V·C + L·12·C²", "counted; [K] table 1")
    num_scaling_params: int = _line("parameters", "V·C + L·12·C²", "all but the embedding: [HEAD] scales tokens by it")
    total_batch_tokens: int = _line("tokens/step", "2^19, or the power law", "[Oct]; [HEAD]")
    steps: int = _line("steps", "tokens / batch, rounded down", "[Oct]")
    tokens: int = _line("tokens", "steps × batch; asked for: ratio × parameters", "[Oct] 20 × all parameters")
    flops_per_token: int = _line("FLOPs", "6·(V·C + L·12·C²) + 12·L·C·T", "[P]; causal half not deducted")
    flops: int = _line("FLOPs", "tokens × FLOPs per token", "[P]")
    embedding_lr: float = _line("AdamW", f"{EMBEDDING_LR} × (C/768)^-½", "[HEAD]")
    head_lr: float = _line("AdamW", f"{HEAD_LR} × (C/768)^-½", "[HEAD]")
    muon_lr: float = _line("Muon", f"{MUON_LR} (× max(1, rows/columns)^½ per matrix)", "[Oct]")
    weight_decay: float = _line("Muon", "0; falls linearly where --weight_decay gives one", "[Oct]")
    warmdown_fraction: float = _line("of steps", "rates fall linearly to 0 at the end", "ours; [HEAD] .65")

    def shape(self) -> dict[str, int]:
        """The fields of a `GPTConfig` that the plan decides."""
        return dict(sequence_len=self.sequence_len, vocab_size=self.vocab_size, n_layer=self.n_layer,
                    n_head=self.n_head, n_kv_head=self.n_head, n_embd=self.n_embd, head_dim=self.head_dim)


def make(depth: int, options: PlanOptions = DEFAULTS) -> Plan:
    """The plan of `depth`. UserError for options that contradict each other or leave less than one step.

    >>> plan = make(20)
    >>> plan.num_params, plan.steps, plan.tokens
    (560988160, 21400, 11219763200)
    """
    if options.head_dim % 2:
        raise UserError(f"--head_dim={options.head_dim} is odd; RoPE rotates pairs of channels, so give an even number")
    asked_width = depth * options.aspect_ratio
    head_dim = min(options.head_dim, asked_width + asked_width % 2)
    width = ceil_div(asked_width, head_dim) * head_dim
    matrices, table_size = 12 * depth * width**2, options.vocab_size * width
    num_params = 2 * table_size + matrices
    flops_per_token = 6 * (matrices + table_size) + 12 * depth * width * options.sequence_len
    tokens = _tokens(options, num_params, flops_per_token)
    batch = options.total_batch_tokens or batch_power_law(tokens)
    steps = options.num_iterations if options.num_iterations > 0 else int(tokens // batch)
    if steps < 1:
        raise UserError(f"{tokens:,.0f} tokens are less than one step of {batch:,}; lower --total_batch_size "
                        "or train longer")
    lr_scale = (width / 768) ** -0.5
    return Plan(n_layer=depth, n_embd=width, n_head=width // head_dim, head_dim=head_dim,
                vocab_size=options.vocab_size, sequence_len=options.sequence_len, num_params=num_params,
                num_scaling_params=table_size + matrices, total_batch_tokens=batch, steps=steps, tokens=steps * batch,
                flops_per_token=flops_per_token, flops=steps * batch * flops_per_token,
                embedding_lr=EMBEDDING_LR * lr_scale, head_lr=HEAD_LR * lr_scale, muon_lr=MUON_LR,
                weight_decay=WEIGHT_DECAY, warmdown_fraction=WARMDOWN_FRACTION)


def _tokens(options: PlanOptions, num_params: int, flops_per_token: int) -> float:
    """How many tokens the run may read."""
    given = [name for name in ("num_iterations", "target_flops", "minutes") if getattr(options, name) != -1]
    if len(given) > 1:
        raise UserError(f"--{' and --'.join(given)} each say how long to train; give one of them")
    if options.num_iterations != -1:
        return float(options.num_iterations * (options.total_batch_tokens or BATCH_TOKENS))
    if options.target_flops != -1:
        return options.target_flops / flops_per_token
    if options.minutes == -1:
        return options.target_param_data_ratio * num_params
    if options.tokens_per_second <= 0:
        raise UserError(f"--minutes={options.minutes} needs a speed; give --tokens_per_second, which training prints")
    return options.minutes * 60 * options.tokens_per_second


def batch_power_law(tokens: float) -> int:
    """Tokens per step that suit a run of `tokens`: 2^19·(D/D_d12)^0.383 [HEAD], to the nearest power of two, ≤ 2^21.

    >>> batch_power_law(D12_TOKENS), batch_power_law(11.2e9), batch_power_law(1e15)
    (524288, 1048576, 2097152)
    """
    power = 19 + 0.383 * math.log2(tokens / D12_TOKENS)
    return 1 << min(max(round(power), 0), 21)


def windows(depth: int, sequence_len: int, short: int) -> list[int] | None:
    """How many tokens in front of itself a token sees, for each layer: `short` of them in three of four layers, all in
    every fourth and in the last (SSSL of [HEAD]). None where all layers see all.

    >>> windows(6, 2048, 512), windows(6, 2048, 0)
    ([512, 512, 512, 2048, 512, 2048], None)
    """
    if not 0 < short < sequence_len:
        return None
    return [sequence_len if layer % 4 == 3 or layer == depth - 1 else short for layer in range(depth)]


# The laptop's recipe: its numbers were found at ten minutes, with this model and these rows.
LAPTOP_MINUTES, LAPTOP_DEPTH = 10, 4
LAPTOP = PlanOptions(vocab_size=2048, aspect_ratio=32, head_dim=64, sequence_len=256, total_batch_tokens=4096,
                     num_iterations=1)


def grown(minutes: float, depth: int | None = None) -> tuple[int, int, float]:
    """(depth, tokens in a row, work for a token over that of ten minutes' model) of the laptop's recipe for `minutes`.

    Parameters and tokens both grow with the square root of the work (Hoffmann et al. 2022, §3), and parameters with the
    cube of the depth, because the width grows as well: so the depth grows with the sixth root of the minutes. Rows are
    twice as long for four times the minutes. In less time nothing shrinks: what the lessons need stays.

    >>> grown(10), [grown(minutes)[:2] for minutes in (5, 30, 60, 120)]
    ((4, 256, 1.0), [(4, 256), (5, 256), (5, 512), (6, 512)])
    """
    times = max(1.0, minutes / LAPTOP_MINUTES)
    depth = depth or round(LAPTOP_DEPTH * times ** (1 / 6))
    rows = LAPTOP.sequence_len * 2 ** int(math.log(times, 4))
    work = [make(layers, replace(LAPTOP, sequence_len=length)).flops_per_token
            for layers, length in ((depth, rows), (LAPTOP_DEPTH, LAPTOP.sequence_len))]
    return depth, rows, max(1.0, work[0] / work[1])


def deepest(limit: float, unit: str, on: Machine, options: PlanOptions = DEFAULTS) -> tuple[Plan, Plan]:
    """(the deepest plan that costs at most `limit` dollars or minutes, the next deeper plan). Only even depths: there
    the default aspect ratio gives whole heads without rounding."""
    plan, beyond = make(2, options), make(4, options)
    if (cost := on.cost(plan.flops, unit)) > limit:
        flag = "--budget" if unit == "dollars" else "--minutes"
        raise UserError(f"{flag}={limit:g} does not train even d2 ({cost:.2f} {unit}); give more, a smaller "
                        "--target_param_data_ratio, or a smaller model (--vocab_size, --aspect_ratio)")
    while on.cost(beyond.flops, unit) <= limit:
        plan, beyond = beyond, make(beyond.n_layer + 2, options)
    return plan, beyond


def measured(plan: Plan, dollars_per_hour: float = -1) -> Machine:
    """This machine, by the FLOPs of 20 seconds of training this plan's model (on its first GPU, if any)."""
    from nanochat.model import GPTConfig  # this and the next import torch, which a plan alone does not need
    from nanochat.train import probe
    shape: dict[str, Any] = {**plan.shape()}
    speed = probe.tokens_per_second_here(GPTConfig(**shape), plan.total_batch_tokens)
    flops = speed * plan.flops_per_token
    return Machine("this machine", 1, flops, dollars_per_hour if dollars_per_hour > 0 else None, mfu=1.0)


def table(plan: Plan) -> str:
    """The plan as text, one line per value with its unit, formula and source."""
    rows = [(line.name, _number(getattr(plan, line.name)), *line.metadata.values()) for line in fields(plan)]
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
    time = f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.2g} min"
    price = "price unknown (--dollars_per_gpu_hour)" if dollars is None else f"${dollars:,.{2 * (dollars < 10)}f}"
    text = (f"d{plan.n_layer} on {on.count}×{on.name} at MFU {on.mfu:g}: {time}, {price}"
            f"; {plan.num_params / 1e6:,.1f}M parameters, {plan.tokens / 1e6:,.1f}M tokens")
    if plan.n_layer in budget.PUBLISHED and (on.count, on.name) == (8, "H100") and plan == make(plan.n_layer):
        text += " (published, all stages: {:g} h, ≈ ${})".format(*budget.PUBLISHED[plan.n_layer])
    return text


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__, depth=cli.flag(-1, "layers; -1 = 20, or what --budget or --minutes pays for", at_least=1),
        vocab_size=cli.flag(65_536, "tokens", at_least=1),
        aspect_ratio=cli.flag(64, "width / depth", at_least=1), head_dim=cli.flag(128, "channels per head", at_least=2),
        max_seq_len=cli.flag(2048, "tokens per row", at_least=1),
        total_batch_size=cli.flag(BATCH_TOKENS, "tokens per step; 0 = the power law", at_least=0),
        num_iterations=cli.flag(-1, "train for so many steps", at_least=1),
        target_flops=cli.flag(-1.0, "train for so many FLOPs", at_least=1),
        target_param_data_ratio=cli.flag(20.0, "tokens per parameter", at_least=1e-6),
        minutes=cli.flag(-1.0, "train for so long; without --depth: find the depth that takes it", at_least=1e-3),
        tokens_per_second=cli.flag(-1.0, "measured speed, for --minutes; -1 = from --gpu and --mfu", at_least=1e-3),
        budget=cli.flag(-1.0, "dollars: find the depth they pay for", at_least=1e-3),
        gpu=cli.flag("8xH100", "what trains, for hours and dollars; here = this machine, measured for 20 seconds"),
        mfu=cli.flag(budget.DEFAULT_MFU, "share of the peak, all stages in the hours", at_least=1e-6, at_most=1.0),
        dollars_per_gpu_hour=cli.flag(-1.0, "price; -1 = $3 for an H100, unknown otherwise", at_least=0),
        scale=cli.flag(False, "a table of depths and numbers of H100s instead, counted (nanochat/scale.py)"),
        laptop=cli.flag(False, "with --minutes: the model of the laptop's recipe"))
    if args.scale:
        counted = replace(DEFAULTS, num_iterations=1, vocab_size=args.vocab_size,
                          total_batch_tokens=args.total_batch_size or BATCH_TOKENS)
        print(scale.table(make(depth, counted) for depth in (20, 26, 32, 40)))
        return
    if args.laptop:
        depth, rows, work = grown(args.minutes, args.depth if args.depth > 0 else None)
        print(f"{depth} layers, rows of {rows:,} tokens, {work:.2f} times the work for a token of the model for "
              f"{LAPTOP_MINUTES} minutes, so {max(args.minutes, 0) / LAPTOP_MINUTES / work:.2f} times its steps\n")
        return print(table(make(depth, replace(LAPTOP, sequence_len=rows))))
    finds_depth = args.budget > 0 or (args.minutes > 0 and args.depth < 0)
    if finds_depth and max(args.depth, args.num_iterations, args.target_flops, args.tokens_per_second) > 0:
        raise UserError("--budget, or --minutes without --depth, finds a depth: leave --depth, --num_iterations, "
                        "--target_flops and --tokens_per_second away (how long it trains: --target_param_data_ratio)")
    options = PlanOptions(vocab_size=args.vocab_size, aspect_ratio=args.aspect_ratio, head_dim=args.head_dim,
                          sequence_len=args.max_seq_len, total_batch_tokens=args.total_batch_size,
                          target_param_data_ratio=args.target_param_data_ratio)

    # ---- The machine. The speed of a model does not depend on how long it trains. d4 stands for an unknown depth.
    depth = args.depth if args.depth > 0 else 4 if finds_depth else 20
    one_step = make(depth, replace(options, num_iterations=1))
    if args.gpu == "here":
        on = measured(one_step, args.dollars_per_gpu_hour)
        print(f"this machine, training d{depth}: {on.peak_flops / 1e9:,.1f} GFLOP/s")
    else:
        on = budget.machine(args.gpu, args.mfu, args.dollars_per_gpu_hour)

    # ---- The plan: the deepest for this money or time, or that of the depth.
    if finds_depth:
        limit, unit = (args.budget, "dollars") if args.budget > 0 else (args.minutes, "minutes")
        plan, beyond = deepest(limit, unit, on, options)
        print(f"${limit:,.0f} buys" if unit == "dollars" else f"{limit:g} minutes are enough for")
        print(f"  {cost_line(plan, on)}\n  {budget.expectation(plan.flops)}")
        print(f"the next even depth\n  {cost_line(beyond, on)}\n")
    else:
        speed = args.tokens_per_second if args.tokens_per_second > 0 else on.flops_per_second / one_step.flops_per_token
        plan = make(depth, replace(options, num_iterations=args.num_iterations, target_flops=args.target_flops,
                                   minutes=args.minutes, tokens_per_second=speed))
        print(f"{cost_line(plan, on)}\n{budget.expectation(plan.flops)}\n")
    print(table(plan))


if __name__ == "__main__":
    cli.run(main)
