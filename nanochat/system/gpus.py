"""GPUs by name: speed, memory, price, for plans of machines that are not rented yet. Imports no PyTorch."""
import re
from dataclasses import dataclass

# Fractions of a data sheet's FLOP/s and bytes per second that a step reaches: others' measurements on H100s / peak.
PRODUCTS, ATTENTION, MEMORY = 640 / 989, 420 / 989, 3.0 / 3.35
H100_DOLLARS = 3.0  # per hour: karpathy/nanochat's $1000 / 41.6 h / 8 GPUs; its $300 / 12 h / 8 gives 3.13


@dataclass(frozen=True)
class Gpu:
    """One GPU by its data sheet; the speeds that a step reaches are properties."""

    name: str
    peak_flops: float  # FLOP/s in bf16, without sparsity
    memory_bytes: float  # usable: without CUDA, NCCL and their workspaces, and without a tenth for fragmentation
    peak_memory_speed: float  # bytes per second
    link: float  # bytes per second to the other GPUs of a machine, each way: NVLink, or 16 lanes of PCIe 4 (25), 5 (50)
    dollars_per_hour: float | None = None  # None: not known
    network: float = 45e9  # bytes per second to other machines: an adapter of 400 Gbit/s for each GPU

    @property
    def products(self) -> float:
        """FLOP/s of products of matrices 1,280 wide: 640e12 on an H100 (8,192 wide: 769e12 to 798e12)."""
        return self.peak_flops * PRODUCTS

    @property
    def attention(self) -> float:
        """FLOP/s of causal attention forward and backward: 420e12 on an H100 by cuDNN's kernel."""
        return self.peak_flops * ATTENTION

    @property
    def memory_speed(self) -> float:
        return self.peak_memory_speed * MEMORY


H100 = Gpu("H100", 989e12, 78e9, 3.35e12, 420e9, H100_DOLLARS)
# `find` takes the first entry whose words are all in the given name, so longer names come first. If a GPU is present,
# runs/speedrun.py asks it for its memory; these figures are for GPUs that are not rented yet. GPUs without NVLink sum
# their gradients at a twentieth of its speed, which the plans of large models show.
GPUS = (
    Gpu("B200", 2.25e15, 170e9, 8.0e12, 800e9), Gpu("GH200", 989e12, 87e9, 4.0e12, 420e9),
    Gpu("H200", 989e12, 128e9, 4.8e12, 420e9), Gpu("H100 NVL", 835e12, 86e9, 3.9e12, 50e9, H100_DOLLARS),
    Gpu("H100 PCIe", 756e12, 73e9, 2.0e12, 50e9, H100_DOLLARS), H100,
    Gpu("A100 40GB", 312e12, 37e9, 1.56e12, 250e9), Gpu("A100", 312e12, 73e9, 2.0e12, 250e9),
    Gpu("L40S", 362e12, 43e9, 0.86e12, 25e9), Gpu("L40", 181e12, 43e9, 0.86e12, 25e9),
    Gpu("L4", 121e12, 21e9, 0.30e12, 25e9), Gpu("A10G", 70e12, 21e9, 0.60e12, 25e9),
    Gpu("RTX 5090", 209.5e12, 30e9, 1.79e12, 50e9), Gpu("RTX 4090", 165.2e12, 22e9, 1.01e12, 25e9),
    Gpu("RTX 3090", 71e12, 22e9, 0.94e12, 25e9),
)


def find(name: str) -> Gpu | None:
    """The GPU with the name that a user or PyTorch gives; None if it is not in the table.

    >>> [find(name).name for name in ("NVIDIA H100 80GB HBM3", "rtx4090", "NVIDIA A100-SXM4-40GB")]
    ['H100', 'RTX 4090', 'A100 40GB']
    """
    def has(word: str) -> bool:  # no digit may follow: an RTX A1000 is not an A100
        return re.search(word + r"(?!\d)" * word[-1].isdigit(), name.lower()) is not None

    return next((gpu for gpu in GPUS if all(map(has, gpu.name.lower().split()))), None)
