"""The dial: a depth → everything else about a pretraining run. Arithmetic only, no torch.

    plan = make(20)            plan.n_embd, plan.steps, plan.flops, …
    make(4, PlanOptions(aspect_ratio=32, num_iterations=1000))

scripts/base_train.py calls `make`; an explicit flag there beats the plan, and nanochat/plan.py prints it. The plan
describes the plain architecture (untied embedding and head, no biases, 12·C² parameters a layer); the parameters that
the features of a `GPTConfig` add are not counted.

[Oct] is karpathy/nanochat as released in October 2025, [HEAD] the same in July 2026; nanochat/plan.py has all sources.
"""
import math
from dataclasses import dataclass, field, replace
from typing import Any

from nanochat.system.files import UserError
from nanochat.system.numbers import ceil_div
from nanochat.train.flags import EMBEDDING_LR, HEAD_LR, MUON_LR, WARMDOWN_FRACTION, WEIGHT_DECAY

BATCH_TOKENS = 2**19  # [Oct]: half a million, as GPT-3's models of like size had (Brown et al. 2020, table 2.1)
# The tokens on which [HEAD] trains its d12: 12 × (matrices + head). `batch_power_law` starts from this point.
D12_TOKENS = 12 * (84_934_656 + 25_165_824)


@dataclass(frozen=True)
class PlanOptions:
    """The choices besides the depth. The last five decide how long to train; −1 = not given."""

    vocab_size: int = 65_536
    aspect_ratio: int = 64  # width / depth; HEAD's log of 2026-01-17: at 1e18 FLOPs 64 beats 128
    head_dim: int = 128  # the same log: 128 beats 64
    sequence_len: int = 2048
    total_batch_tokens: int = BATCH_TOKENS  # tokens of one step; 0 = `batch_power_law`
    num_iterations: int = -1
    target_flops: float = -1
    minutes: float = -1  # needs tokens_per_second
    tokens_per_second: float = -1
    target_param_data_ratio: float = 20  # tokens per parameter, if nothing else is given (Hoffmann et al. 2022)


DEFAULTS = PlanOptions()


def _line(unit: str, formula: str, source: str) -> Any:
    """A field of Plan with the columns that `table` prints beside its value."""
    return field(metadata={"unit": unit, "formula": formula, "source": source})


@dataclass(frozen=True)
class Plan:
    """Everything that one depth implies. Learning rates are those at the peak of the schedule."""

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
    """The number of tokens that the run may read. UserError if several options say it."""
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
    """The attention window of each layer, in preceding tokens: `short` in three of four layers, the whole row in every
    fourth layer and in the last (SSSL of [HEAD]). None if all layers see the whole row.

    >>> windows(6, 2048, 512), windows(6, 2048, 0)
    ([512, 512, 512, 2048, 512, 2048], None)
    """
    if not 0 < short < sequence_len:
        return None
    return [sequence_len if layer % 4 == 3 or layer == depth - 1 else short for layer in range(depth)]


# The laptop's recipe: its numbers were tuned at ten minutes, with this model and these rows.
LAPTOP_MINUTES, LAPTOP_DEPTH = 10, 4
LAPTOP = PlanOptions(vocab_size=2048, aspect_ratio=32, head_dim=64, sequence_len=256, total_batch_tokens=4096,
                     num_iterations=1)


def grown(minutes: float, depth: int | None = None) -> tuple[int, int, float]:
    """The laptop's recipe for `minutes`: (depth, tokens in a row, FLOPs for a token relative to the ten-minute model).

    >>> grown(10), [grown(minutes)[:2] for minutes in (5, 30, 60, 120)]
    ((4, 256, 1.0), [(4, 256), (5, 256), (5, 512), (6, 512)])
    """
    # Parameters and tokens both grow with the square root of the work (Hoffmann et al. 2022, §3), and parameters with
    # the cube of the depth, because the width grows as well: so the depth grows with the sixth root of the minutes.
    # Rows are twice as long for four times the minutes. Below ten minutes nothing shrinks: the lessons need this model.
    times = max(1.0, minutes / LAPTOP_MINUTES)
    depth = depth or round(LAPTOP_DEPTH * times ** (1 / 6))
    rows = LAPTOP.sequence_len * 2 ** int(math.log(times, 4))
    work = [make(layers, replace(LAPTOP, sequence_len=length)).flops_per_token
            for layers, length in ((depth, rows), (LAPTOP_DEPTH, LAPTOP.sequence_len))]
    return depth, rows, max(1.0, work[0] / work[1])
