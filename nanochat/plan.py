"""What a depth costs, or how deep a model money or time pays for. The formulas are in nanochat/dial.py. No torch.

    python -m nanochat.plan --depth=20                       the table: value, unit, formula, source
    python -m nanochat.plan --depth=4 --minutes=10 --tokens_per_second=5000
    python -m nanochat.plan --budget=100 --gpu=8xH100        the deepest model that this money trains
    python -m nanochat.plan --scale                          d20 to d40 on 1 to 64 GPUs: memory, milliseconds, speed
    python -m nanochat.plan --minutes=60 --gpu=here          the deepest model for this time; trains here for 20 seconds
    python -m nanochat.plan --minutes=60 --laptop            the model that the laptop's recipe trains in this time

Sources: [Oct] karpathy/nanochat as released in October 2025, [HEAD] the same in July 2026, [K] Kaplan et al. 2020
(arXiv:2001.08361) §2.1, [P] Chowdhery et al. 2022 (arXiv:2204.02311) appendix B.
"""
from dataclasses import fields, replace
from typing import Any

from nanochat import budget, scale
from nanochat.budget import Machine
from nanochat.dial import BATCH_TOKENS, DEFAULTS, LAPTOP, LAPTOP_MINUTES, Plan, PlanOptions, grown, make
from nanochat.system import cli
from nanochat.system.files import UserError


def deepest(limit: float, unit: str, on: Machine, options: PlanOptions = DEFAULTS) -> tuple[Plan, Plan]:
    """(the deepest plan that costs at most `limit` dollars or minutes, the next deeper plan). Only even depths: there
    the default aspect ratio gives whole heads without rounding. UserError if even d2 costs more."""
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
        num_iterations=cli.flag(-1, "train for this many steps", at_least=1),
        target_flops=cli.flag(-1.0, "train for this many FLOPs", at_least=1),
        target_param_data_ratio=cli.flag(20.0, "tokens per parameter", at_least=1e-6),
        minutes=cli.flag(-1.0, "train for this long; without --depth: find the deepest model for it", at_least=1e-3),
        tokens_per_second=cli.flag(-1.0, "measured speed, for --minutes; -1 = from --gpu and --mfu", at_least=1e-3),
        budget=cli.flag(-1.0, "dollars: find the deepest model that they pay for", at_least=1e-3),
        gpu=cli.flag("8xH100", "the machine, for hours and dollars; here = this machine, measured for 20 seconds"),
        mfu=cli.flag(budget.DEFAULT_MFU, "fraction of the peak FLOP/s, over all stages", at_least=1e-6, at_most=1.0),
        dollars_per_gpu_hour=cli.flag(-1.0, "price; -1 = $3 for an H100, unknown otherwise", at_least=0),
        scale=cli.flag(False, "print a table of depths and numbers of H100s, counted (nanochat/scale.py)"),
        laptop=cli.flag(False, "with --minutes: print the model of the laptop's recipe"))
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

    # ---- The machine. Its speed is measured with one step, because it does not depend on how long a model trains. d4
    # stands for an unknown depth.
    depth = args.depth if args.depth > 0 else 4 if finds_depth else 20
    one_step = make(depth, replace(options, num_iterations=1))
    if args.gpu == "here":
        on = measured(one_step, args.dollars_per_gpu_hour)
        print(f"this machine, training d{depth}: {on.peak_flops / 1e9:,.1f} GFLOP/s")
    else:
        on = budget.machine(args.gpu, args.mfu, args.dollars_per_gpu_hour)

    # ---- The plan: the deepest model for this money or time, or the plan of --depth.
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
