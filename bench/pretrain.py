"""Ours against karpathy/nanochat (92d63d4) at pretraining: same shards, tokenizer, rows and time, on this machine.

    git clone https://github.com/karpathy/nanochat /tmp/peer && git -C /tmp/peer checkout 92d63d4
    python -m bench.pretrain --peer /tmp/peer              five minutes a run, three seeds: an hour and a half

Prints a table: validation bits per byte per document (bench/sides.py), training tokens per second at the same shape,
and their ratios. The peer runs as it comes (fp32 on a CPU; its own rates), and tuned: bf16, no weight decay, and the
factor √(batch / 2^19), by which it lowers all rates for small batches, undone; --tuned_rates and --tuned_batch go on
from there (docs/LOG.md has what was tried). Ours runs for the whole time and for parts of it (--fractions), which says
in what part of the time it gets where the peer gets in all of it; and a sixth of it in steps as large as the tuned
peer's, for the speeds.
"""
import tempfile
from pathlib import Path
from statistics import mean, stdev

from bench import sides
from nanochat.system import cli, files
from nanochat.system.cli import flag
from nanochat.system.files import UserError


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__, peer=flag("", "a checkout of karpathy/nanochat at 92d63d4"),
        data=flag("", "a folder with text/*.parquet; default the kindergarten's"),
        minutes=flag(5.0, "of training steps per run", at_least=0.01),
        seeds=flag(3, at_least=1), first_seed=flag(0, at_least=0),
        fractions=flag("1,0.6667,0.3333", "of the minutes, for runs of ours"),
        depth=flag(4, at_least=1), aspect_ratio=flag(32, at_least=1), head_dim=flag(64, at_least=2),
        max_seq_len=flag(256, at_least=8), vocab_size=flag(2048, at_least=265),
        batch=flag(2048, "tokens a step", at_least=8), rows=flag(16, "at a time, at most", at_least=1),
        tuned_rates=flag(2.0, "the tuned peer's rates: its defaults × this", at_least=0),
        tuned_batch=flag(4096, "tokens a step of the tuned peer", at_least=8),
        documents=flag(400, "of validation to measure on", at_least=1),
        scale=flag(1.0, "of the kindergarten", at_least=0.001), compile=flag(True, "torch.compile ours"),
        work=flag("", "where to work; default a temporary folder"))
    checkout = Path(args.peer).absolute()
    if not args.peer or not (checkout / "scripts/base_train.py").exists():
        raise UserError(f"--peer={args.peer} is no checkout of karpathy/nanochat; see --help for how to make one")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(args.work or temporary).absolute()
        sides.prepare(work, Path(args.data).absolute() if args.data else None, args.vocab_size, args.max_seq_len,
                      args.documents, args.scale)
        results = {}
        for seed in range(args.first_seed, args.first_seed + args.seeds):
            for name, result in one_seed(args, work, checkout, seed):
                print(f"seed {seed}, {name}: {result.bpb:.4f} bpb, {result.tokens_per_second:,.0f} tokens/s, "
                      f"{result.steps:,} steps in {result.seconds:.0f} s", flush=True)
                results.setdefault(name, []).append(result)
                files.write_json(work / "results.json", {key: [vars(one) for one in value]
                                                         for key, value in results.items()})
    print("\n" + table(results))


def one_seed(args, work: Path, checkout: Path, seed: int):
    """(name, result) of every run, turn by turn, so that what else the machine does hits all of them alike."""
    shape = [f"--depth={args.depth}", f"--aspect-ratio={args.aspect_ratio}", f"--head-dim={args.head_dim}",
             f"--max-seq-len={args.max_seq_len}"]
    step, tuned_step = ([f"--total-batch-size={batch}",
                         f"--device-batch-size={min(args.rows, batch // args.max_seq_len)}"]
                        for batch in (args.batch, args.tuned_batch))
    runs = {f"ours, {float(part):.0%} of the time": (step, float(part)) for part in args.fractions.split(",")}
    runs["ours, a sixth of the time, steps as the tuned peer takes"] = (tuned_step, 1 / 6)
    for name, (its_step, part) in runs.items():
        yield name, sides.ours(work, seed, [*shape, *its_step, f"--minutes={args.minutes * part}", "--document_mask",
                                            *([] if args.compile else ["--no_compile"])])
    shape.append("--window-pattern=L")  # what it recommends itself without FlashAttention 3
    yield "peer as it comes", sides.peer(work, checkout, seed, [*shape, *step], minutes=args.minutes)
    undone = args.tuned_rates * (2**19 / args.tuned_batch) ** 0.5
    rates = {"matrix-lr": 0.02, "embedding-lr": 0.3, "unembedding-lr": 0.008, "scalar-lr": 0.5}
    yield "peer tuned", sides.peer(work, checkout, seed, [
        *shape, *tuned_step, "--weight-decay=0", "--warmup-steps=10",
        *(f"--{name}={rate * undone:.6g}" for name, rate in rates.items())], "bfloat16", args.minutes)


def table(results: dict[str, list[sides.Result]]) -> str:
    """Means over seeds ± their standard deviation; ratios to the first line, which is ours."""
    first = next(iter(results.values()))
    lines = ["| run | bpb per document | ours / this | tokens/s | ours / this | seconds | steps |",
             "|---|---|---|---|---|---|---|"]
    for name, found in results.items():
        bpb, speed = ([getattr(one, what) for one in found] for what in ("bpb", "tokens_per_second"))
        spread = f" ± {stdev(bpb):.4f}" if len(bpb) > 1 else ""
        lines.append(f"| {name} | {mean(bpb):.4f}{spread} | {mean(one.bpb for one in first) / mean(bpb):.3f} | "
                     f"{mean(speed):,.0f} | {mean(one.tokens_per_second for one in first) / mean(speed):.2f} | "
                     f"{mean(one.seconds for one in found):.0f} | {mean(one.steps for one in found):,.0f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
