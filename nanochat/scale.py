"""Memory and milliseconds that a training step of a plan needs on one GPU or many, counted. No torch.

    python -m nanochat.plan --scale                            d20 to d40 on 1 to 64 GPUs

A line of `milliseconds` is FLOPs or bytes divided by a speed. FLOPs and bytes are counted from the shapes, or in the
graphs that torch.compile makes of the loss (tests/train/test_memory.py). The speeds were reached by others on H100s;
**no GPU has run this project yet**, so milliseconds are estimates, good to about a tenth.
"""
from collections.abc import Iterable
from itertools import product

from nanochat.dial import Plan
from nanochat.system.gpus import H100, Gpu
from nanochat.system.numbers import ceil_div

MAX_ROWS = 32  # rows of a micro-batch: 65,536 tokens fill a GPU
FEWEST_ROWS = 8  # rows of a micro-batch that still fill a GPU well
# Bytes per token, layer and channel that the compiled forward pass keeps for the backward pass: counted 25 to 27.
KEPT_BYTES = 28
# Bytes per token and channel that the backward pass needs for intermediate results, besides two fp32 tables.
FLEETING_BYTES = 48
# Bytes per token, layer and channel that all operations except matmuls read and write (norms, RoPE, relu², residuals).
POINTWISE_BYTES = 200
LOGIT_BYTES = 10  # per token and vocabulary entry: bf16 logits and their gradient, written once and read again
LOOKUP_BYTES = 36  # per token, channel and table: look-ups, and adding up the tables' gradients in fp32
GPUS_PER_MACHINE = 8
HOST_MS = 6.0  # per step: waiting for the loss, starting the next step
ASSUMPTIONS = """
Counted, not measured: FLOPs and bytes from the shapes over what others reached on an H100 (nanochat/system/gpus.py):
matmuls 640 TFLOP/s, attention 420, memory 3.0 TB/s, NVLink 420 GB/s, between machines 45 GB/s a GPU. Transfers are
not hidden behind the backward pass, so above 8 GPUs larger steps (--total_batch_size) pay. Memory of 80 GB is taken as
78."""


def num_tables(plan: Plan) -> int:
    """Embedding, head, and a value embedding for every other layer: V·C parameters each."""
    return 2 + ceil_div(plan.n_layer, 2)


def num_parameters(plan: Plan) -> int:
    # Including the value embeddings, which the plan leaves out: 1,400 million for the d20.
    return _matrices(plan) + num_tables(plan) * plan.vocab_size * plan.n_embd


def _matrices(plan: Plan) -> int:
    return plan.num_scaling_params - plan.vocab_size * plan.n_embd


def gradient_bytes(plan: Plan) -> int:
    return 4 * num_parameters(plan)


def static_bytes(plan: Plan, ranks: int) -> int:
    """Bytes that are in memory before and after a step: fp32 weights, moments and buffers."""
    weights, matrices = 4 * num_parameters(plan), 4 * _matrices(plan)
    moments = matrices + 2 * (weights - matrices)  # Muon has one for each weight, AdamW two
    # On several ranks also a buffer for this rank's part of all parameters, and one for all matrices (sharding.py).
    return weights + moments // ranks + (matrices + weights // ranks if ranks > 1 else 0)


def peak_bytes(plan: Plan, rows: int, ranks: int) -> int:
    # The peak is at the beginning of the backward pass (activations) or before the update (gradients).
    tokens = rows * plan.sequence_len
    kept = KEPT_BYTES * tokens * plan.n_layer * plan.n_embd
    fleeting = FLEETING_BYTES * tokens * plan.n_embd + 2 * 4 * plan.vocab_size * plan.n_embd
    return static_bytes(plan, ranks) + max(kept + fleeting, gradient_bytes(plan))


def rows_that_fit(plan: Plan, ranks: int, memory_bytes: float) -> int:
    """Rows of a micro-batch: the largest power of two that fits and divides the step; 1 if none does."""
    rows = MAX_ROWS
    while rows > 1 and (peak_bytes(plan, rows, ranks) > memory_bytes
                        or plan.total_batch_tokens % (rows * ranks * plan.sequence_len)):
        rows //= 2
    return rows


def batch_for(tokens: int, sequence_len: int, ranks: int) -> int:
    """About `tokens` for a step, in whole micro-batches of `FEWEST_ROWS` rows on every rank.

    >>> [batch_for(2**19, 2048, ranks) for ranks in (8, 3, 7)]
    [524288, 540672, 573440]
    """
    # The learning rates stay: a batch that differs by a tenth would change them by 5 % (its square root).
    unit = ranks * FEWEST_ROWS * sequence_len
    return max(1, round(tokens / unit)) * unit


def milliseconds(plan: Plan, ranks: int, gpu: Gpu = H100) -> dict[str, float]:
    """The milliseconds of a step, by cause."""
    layers, width = plan.n_layer, plan.n_embd
    tokens = plan.total_batch_tokens / ranks  # tokens of one rank
    parameter_bytes = 4 * num_parameters(plan)
    link = gpu.link if ranks <= GPUS_PER_MACHINE else gpu.network
    causal_flops = 6 * layers * width * plan.sequence_len * tokens  # half of PaLM's count
    seconds = {
        "products": 6 * plan.num_scaling_params * tokens / gpu.products,
        "attention": causal_flops / gpu.attention,
        "norms, RoPE, relu²": POINTWISE_BYTES * layers * width * tokens / gpu.memory_speed,
        "the head's loss": LOGIT_BYTES * plan.vocab_size * tokens / gpu.memory_speed,
        "look-ups": LOOKUP_BYTES * num_tables(plan) * width * tokens / gpu.memory_speed,
        "casts of weights": 12 * plan.num_scaling_params / gpu.memory_speed,
        # every rank sends and receives (N−1)/N of all gradients, then of all parameters
        "transfers": 2 * parameter_bytes * (ranks - 1) / ranks / link,
        # 5 steps of Polar Express: 300·C³ FLOPs a layer; AdamW: 7 passes
        "update": (300 * layers * width**3 / gpu.products + 7 * parameter_bytes / gpu.memory_speed) / ranks,
    }
    return {name: 1000 * value for name, value in seconds.items()} | {"host": HOST_MS}


def step_seconds(plan: Plan, ranks: int, gpu: Gpu = H100) -> float:
    return sum(milliseconds(plan, ranks, gpu).values()) / 1000


def table(plans: Iterable[Plan]) -> str:
    """A line for each plan and number of H100s: rows, memory, milliseconds, tokens per second and MFU."""
    lines = ["depth  GPUs  rows  memory, GB  step, ms  of which transfers  tokens/s    MFU"]
    for plan, ranks in product(plans, (1, 2, 4, 8, 16, 32, 64)):
        rows = rows_that_fit(plan, ranks, H100.memory_bytes)
        memory = peak_bytes(plan, rows, ranks)
        start = f"{plan.n_layer:5}  {ranks:4}"
        if memory > H100.memory_bytes:
            lines.append(f"{start}     –  {memory / 1e9:10.0f}  does not fit")
            continue
        parts = milliseconds(plan, ranks)
        step = sum(parts.values())
        speed = 1000 * plan.total_batch_tokens / step
        mfu = plan.flops_per_token * speed / ranks / H100.peak_flops
        lines.append(f"{start}  {rows:4}  {memory / 1e9:10.0f}  {step:8,.0f}  {parts['transfers']:18.0f}  "
                     f"{speed:8,.0f}  {mfu:5.1%}")
    return "\n".join([*lines, ASSUMPTIONS])
