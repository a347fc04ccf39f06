"""Device, dtype and ranks: what this process runs on, found once at start.

torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; without it there is one rank and no process group. Recipes call
`start()` and pass what it returns; nothing below the recipes asks the environment.
"""
import atexit
import ctypes
import os
import sys
from dataclasses import dataclass

import torch
import torch.distributed as dist

from nanochat.system import cli, container
from nanochat.system.files import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Runtime:
    """Where this process computes. `dtype` is that of activations; parameters stay fp32."""

    device: torch.device
    dtype: torch.dtype
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def close(self) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()


def start(device_type: str = "", dtype: str = "") -> Runtime:
    """Joins the process group when torchrun started us, and picks device and dtype ("" = the best there is)."""
    rank, world_size, local_rank = (int(os.environ.get(name, default)) for name, default in
                                    (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    device = _device(device_type or _best_device_type(), local_rank)
    if dtype and dtype not in DTYPES:
        raise UserError(f"--dtype={dtype} is unknown; choose one of {', '.join(DTYPES)}")
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_leave)
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    if device.type == "cpu":  # else compiled code adds up an embedding's gradient in the order its threads arrive
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False
        _keep_freed_memory()
    if "OMP_NUM_THREADS" not in os.environ:  # PyTorch counts the machine's cores, not those a container leaves us
        torch.set_num_threads(min(torch.get_num_threads(), container.share_of_cores()))
    return Runtime(device, DTYPES[dtype] if dtype else best_dtype(device), rank, world_size, local_rank)


def _keep_freed_memory() -> None:
    """Has glibc reuse large blocks. By itself it gives each back to the kernel, which hands out the next one page by
    page, zeroed: 18,000 page faults, a quarter of the time, in a step of the laptop's model (docs/LOG.md)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:  # other C libraries have none
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: the most it takes
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def _leave() -> None:
    """The last word of one of several ranks. Gloo's threads outlive Python, and now and then (one process in a hundred)
    abort while its libraries are taken down; what is to be written has been by now."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(cli.exit_code or int(hasattr(sys, "last_value")))  # last_value: a traceback has been printed


def _best_device_type() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _device(device_type: str, local_rank: int) -> torch.device:
    if device_type not in ("cuda", "mps", "cpu"):
        raise UserError(f"--device_type={device_type} is unknown; choose cuda, mps or cpu")
    if device_type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device_type=cuda, but PyTorch sees no GPU here; use --device_type=cpu")
    if device_type == "cuda" and local_rank >= torch.cuda.device_count():
        raise UserError(f"rank {local_rank} has no GPU: this machine has {torch.cuda.device_count()}; "
                        f"use torchrun --nproc_per_node={torch.cuda.device_count()}")
    return torch.device(device_type, local_rank) if device_type == "cuda" else torch.device(device_type)


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies in it, float32 elsewhere."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)():
        # oneDNN says yes from AVX-512 on; without the dot-product instructions bf16 is slower than fp32
        return torch.bfloat16 if "avx512_bf16" in cpu_flags() or "amx_bf16" in cpu_flags() else torch.float32
    return torch.float32


def cpu_flags() -> set[str]:
    """The processor's feature flags (Linux; empty elsewhere)."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(set(line.split(":")[1].split()) for line in lines if line.startswith("flags"))
    except (OSError, StopIteration):
        return set()


def synchronize(device: torch.device) -> None:
    """Waits until the device has done what it was asked, so that a clock means something."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def all_reduce_sum(values: list[float], device: torch.device) -> list[float]:
    """Element-wise sum over ranks, in fp64 where the backend can (NCCL and gloo both do)."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()
