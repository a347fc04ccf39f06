"""What each feature of the model is worth: validation bits per byte after the same time, over seeds.

    python -m bench.ablate                                                    4 layers, 128 wide, the kindergarten
    python -m bench.ablate --aspect_ratio=64 --vocab_size=8192 --data DIR     256 wide, real text
    python -m bench.ablate --only="without smear,backout"

Every variant differs from the model as it is in one thing. The same time is made of steps: the speeds of all variants
are measured turn by turn (the median of --rounds), and each gets as many steps as its speed gives in --seconds; what
changes only numbers gets those of the model as it is. So what else the machine does while they train changes no result.
Each trains on one thread, --at_once of them together.
"""
import json
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median, stdev

import torch

from bench import sides
from nanochat import dial
from nanochat.data import loader, shards
from nanochat.eval.bpb import bits_per_byte
from nanochat.model import GPT, PORTABLE, GPTConfig, gpt
from nanochat.optim import Optimizer, Schedule, muon
from nanochat.optim.groups import Group, groups_of
from nanochat.system import cli, files, paths, runtime
from nanochat.system.cli import flag
from nanochat.system.files import UserError
from nanochat.tokenizer import Tokenizer
from nanochat.train import probe
from nanochat.train.loop import optimize
from nanochat.train.losses import can_compile, weighted_nll


@dataclass(frozen=True)
class Size:
    """What all variants have in common."""

    depth: int
    aspect_ratio: int
    head_dim: int
    max_seq_len: int
    batch: int  # tokens a step, all at once
    vocab_size: int
    bos_id: int

    @property
    def rows(self) -> int:
        return self.batch // self.max_seq_len


def sharper(model: GPT) -> None:
    """Queries and keys are both multiplied by 1.2 after their norm (karpathy/nanochat's HEAD)."""
    attend = gpt.attend
    gpt.attend = lambda q, k, v, mask: attend(q * 1.44, k, v, mask)


def backout(model: GPT) -> None:
    """The last layer's output minus a learned part (.2 at first) of the middle one's (HEAD)."""
    layers, kept = model.model.layers, []
    layers[-1].register_parameter("embedding_scalars", torch.nn.Parameter(torch.tensor([0.2])))  # for its rate
    layers[len(layers) // 2 - 1].register_forward_hook(lambda module, inputs, x: kept.append(x))
    layers[-1].register_forward_hook(lambda module, inputs, x: x - module.embedding_scalars.to(x.dtype) * kept.pop())


def windows(model: GPT) -> None:
    """Three of four layers look back a quarter of the row; the last one never (HEAD: SSSL)."""
    T = model.config.sequence_len
    near = torch.ones(T, T, dtype=torch.bool).triu(1 - T // 4)
    layers = model.model.layers
    for number, layer in enumerate(layers):
        if number % 4 != 3 and number != len(layers) - 1:
            layer.register_forward_pre_hook(lambda module, inputs: (*inputs[:4], inputs[4] & near))


def small_fc1(model: GPT) -> None:
    """The MLP's first matrix starts at .4 of its size (HEAD)."""
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.fc1.weight.mul_(0.4)


def decay_of_head(groups: list[Group], steps: int) -> None:
    """HEAD's weight decay. Its rule, .28·√(B/2^19)·D_ref/D with rates in proportion to √B, keeps rate × decay × steps
    at what its d12 has: .02 · .28 · 2,520."""
    for group in groups:
        group.weight_decay = 14.1 / (group.lr * steps) if group.rule == "muon" else 0.0


def betas_of_head(groups: list[Group], steps: int) -> None:
    """HEAD's β₂: of rare tokens' moments over 200 steps instead of 20, of the head over 25, of Muon's rows over 10."""
    embedding, values, output, *_ = groups
    embedding.betas = values.betas = (0.8, 0.995)
    output.betas = (0.8, 0.96)
    muon.BETA_SQUARE = 0.9


@dataclass(frozen=True)
class Variant:
    changes: dict = field(default_factory=dict)  # of the configuration
    patch: Callable[[GPT], None] | None = None
    tune: Callable[[list[Group], int], None] | None = None  # changes groups of the optimizer for so many steps
    scalar_lr: float = 0.5
    free: bool = False  # computes the same: as many steps as the model as it is


AS_IT_IS = "as it is"
VARIANTS: dict[str, Variant] = {
    AS_IT_IS: Variant(),  # names have no apostrophe: the compiler writes the command line into its code, in quotes
    "without value embeddings": Variant({"value_embeddings": False}),
    "without residual scalars": Variant({"residual_scalars": False}),
    "without smear": Variant({"smear": False}),
    "documents see each other": Variant({"document_bos": None}),
    "portable": Variant(PORTABLE),
    "portable without softcap": Variant({**PORTABLE, "softcap": 0.0}),
    "rates of scalars / 4": Variant(scalar_lr=0.5 / 4, free=True),
    "softcap 30": Variant({"softcap": 30.0}, free=True),
    "RoPE base 100,000": Variant({"rope_base": 100_000.0}, free=True),
    "queries and keys × 1.2": Variant(patch=sharper),
    "backout": Variant(patch=backout),
    "windows SSSL": Variant(patch=windows),
    "fc1 × .4 at the start": Variant(patch=small_fc1, free=True),
    "decay of HEAD": Variant(tune=decay_of_head, free=True),
    "betas of HEAD": Variant(tune=betas_of_head, free=True),
}


def make(size: Size, variant: str, seed: int) -> GPT:
    plan = dial.make(size.depth, dial.PlanOptions(
        vocab_size=size.vocab_size, aspect_ratio=size.aspect_ratio, head_dim=size.head_dim,
        sequence_len=size.max_seq_len, num_iterations=1))
    chosen = VARIANTS[variant]
    model = GPT(GPTConfig(**{**dict(
        sequence_len=size.max_seq_len, vocab_size=size.vocab_size, n_layer=plan.n_layer, n_head=plan.n_head,
        n_kv_head=plan.n_head, n_embd=plan.n_embd, head_dim=plan.head_dim, document_bos=size.bos_id),
        **chosen.changes}), runtime.best_dtype(torch.device("cpu"))).init_weights(seed)
    if chosen.patch:
        chosen.patch(model)
    return model


def start(size: Size, variant: str, seed: int, steps: int = 1):
    """(the place, model, optimizer, loss) of one training on one thread."""
    torch.set_num_threads(1)
    torch.compiler.reset()
    here = runtime.start("cpu")
    model = make(size, variant, seed)
    rates = dict(matrix_lr=dial.MUON_LR, embedding_lr=dial.EMBEDDING_LR, head_lr=dial.HEAD_LR,
                 scalar_lr=VARIANTS[variant].scalar_lr)
    groups = groups_of(model, **rates)
    if tune := VARIANTS[variant].tune:
        tune(groups, steps)
    return (here, model, Optimizer(groups, here.dtype),
            weighted_nll(model, can_compile(here.device)))


def speed(size: Size, variant: str, seconds: float) -> float:
    """Tokens per second of one thread."""
    with as_before():
        here, _, optimizer, loss_of = start(size, variant, 0)
        batch = probe.random_batch(size.rows, size.max_seq_len, size.vocab_size, here.device)
        return probe.tokens_per_second(loss_of, optimizer, batch, size.batch, here, seconds)


def train(size: Size, variant: str, seed: int, steps: int, rows_path: Path) -> float:
    """Bits per byte per document after `steps`."""
    with as_before():
        here, model, optimizer, loss_of = start(size, variant, seed, steps)
        corpus = loader.TextCorpus(shards.train_shards(), Tokenizer.load(paths.tokenizer_dir()))
        batches = loader.batches(corpus, size.rows, size.max_seq_len, size.bos_id, seed=seed)
        for _ in optimize(loss_of, optimizer, batches, Schedule(steps, 0, dial.WARMDOWN_FRACTION), runtime=here,
                          steps=steps):
            pass
        held_out = torch.load(rows_path, weights_only=True)
        return bits_per_byte(model, zip(held_out["ids"].split(16), held_out["targets"].split(16)),
                             held_out["token_bytes"])


class as_before:  # noqa: N801
    """Takes back what variants did to modules."""

    def __enter__(self):
        self.attend, self.beta_square = gpt.attend, muon.BETA_SQUARE

    def __exit__(self, *error):
        gpt.attend, muon.BETA_SQUARE = self.attend, self.beta_square


def main(argv: list[str] | None = None) -> None:
    args = cli.parse(
        argv, __doc__, data=flag("", "a folder with text/*.parquet; default the kindergarten's"),
        depth=flag(4, at_least=1), aspect_ratio=flag(32, at_least=1), head_dim=flag(64, at_least=2),
        max_seq_len=flag(256, at_least=8), vocab_size=flag(2048, at_least=265),
        batch=flag(2048, "tokens a step", at_least=8),
        seconds=flag(60.0, "of one thread per training, for the model as it is", at_least=1),
        rounds=flag(3, "of measuring speeds", at_least=1), measure=flag(3.0, "seconds of each", at_least=0.1),
        equal_steps=flag(False, "all variants train for as many steps as the model as it is, whatever they cost here"),
        seeds=flag(3, at_least=1), only=flag("", "variants, joined by commas; the model as it is always runs"),
        documents=flag(400, "of validation to measure on", at_least=1), at_once=flag(2, "trainings", at_least=1),
        scale=flag(1.0, "of the kindergarten", at_least=0.001), work=flag("", "where to work; default temporary"))
    chosen = [AS_IT_IS, *(name.strip() for name in args.only.split(","))] if args.only else list(VARIANTS)
    if unknown := [name for name in chosen if name not in VARIANTS]:
        raise UserError(f"--only={unknown[0]} is unknown; choose among: {', '.join(VARIANTS)}")
    if args.batch % args.max_seq_len:
        raise UserError(f"--batch={args.batch} is no multiple of --max_seq_len={args.max_seq_len}")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(args.work or temporary).absolute()
        sides.prepare(work, Path(args.data).absolute() if args.data else None, args.vocab_size, args.max_seq_len,
                      args.documents, args.scale)
        tokenizer = Tokenizer.load(paths.tokenizer_dir())
        size = Size(args.depth, args.aspect_ratio, args.head_dim, args.max_seq_len, args.batch, tokenizer.vocab_size,
                    tokenizer.bos_id)
        speeds = {name: [] for name in chosen if name == AS_IT_IS or not (VARIANTS[name].free or args.equal_steps)}
        for _ in range(args.rounds):
            for name, found in speeds.items():
                found.append(speed(size, name, args.measure))
        tokens_per_second = {name: median(speeds.get(name, speeds[AS_IT_IS])) for name in chosen}
        print(f"{make(size, AS_IT_IS, 0).config}\n", flush=True)
        results = run(args, size, tokens_per_second, work)
    print("\n" + table(results, tokens_per_second))


def run(args, size: Size, tokens_per_second: dict[str, float], work: Path) -> dict[str, list[float]]:
    """{variant: bits per byte of every seed}; seed by seed, so that an interrupted run has whole rows."""
    steps = {name: max(1, round(args.seconds * found / args.batch)) for name, found in tokens_per_second.items()}
    results: dict[str, list[float]] = {name: [] for name in steps}
    with ProcessPoolExecutor(args.at_once, multiprocessing.get_context("spawn")) as pool:
        jobs = [(name, pool.submit(train, size, name, seed, steps[name], work / "rows.pt"))
                for seed in range(args.seeds) for name in steps]
        for name, job in jobs:
            results[name].append(job.result())
            print(f"seed {len(results[name]) - 1}, {name}: {results[name][-1]:.4f} bpb, {steps[name]} steps",
                  flush=True)
            files.write_atomic(work / "ablate.json", json.dumps({"steps": steps, "bpb": results}))
    return results


def table(results: dict[str, list[float]], tokens_per_second: dict[str, float]) -> str:
    """Differences to the model as it is are paired by seed."""
    first, lines = results[AS_IT_IS], ["| variant | speed | bpb | more than as it is |", "|---|---|---|---|"]
    for name, found in results.items():
        more = [one - base for one, base in zip(found, first)]
        lines.append(f"| {name} | {tokens_per_second[name] / tokens_per_second[AS_IT_IS]:.3f} | {mean(found):.4f} | "
                     f"{mean(more):+.4f}" + (f" ± {stdev(more) / len(more) ** 0.5:.4f} |" if len(more) > 1 else " |"))
    return "\n".join(lines)


if __name__ == "__main__":
    cli.run(main)
