"""The runtime: device, dtype and ranks of this process, found once at the start.

torchrun sets RANK, WORLD_SIZE and LOCAL_RANK; without torchrun there is one rank and no process group. A command calls
`start()` and passes the result on. RANK is also read in log.py, so that only the main rank prints and writes.

Another kind of accelerator needs changes here (device, dtype, process group, `synchronize`), in hardware.py (memory,
peak), in gpus.py (speeds, prices), in model/attention.py, in setup.sh (PyTorch's build) and runs/__main__.py (which
recipe), and in all places that `grep -rnE "[.]type [!=]= |torch[.]cuda" nanochat scripts` finds.
"""
import atexit
import ctypes
import os
import sys
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from nanochat.system import cli, container
from nanochat.system.files import UserError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}  # values of --dtype

# Longer than every wait of the other ranks for one of them: compiling, an exam's longest answer, a checkpoint written
# to a slow disk. The default of NCCL is 10 minutes.
COLLECTIVE_TIMEOUT = timedelta(minutes=60)


@dataclass(frozen=True)
class Runtime:
    """The device and rank of this process. `dtype` is the dtype of activations; parameters stay fp32."""

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
            dist.barrier()  # the main rank may still be writing; with NCCL all ranks must leave at the same time
            dist.destroy_process_group()


def start(device_type: str = "", dtype: str = "") -> Runtime:
    """Joins the process group if torchrun has started us, and chooses device and dtype ("" = the best available)."""
    rank, world_size, local_rank = (int(os.environ.get(name, default)) for name, default in
                                    (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0)))
    device = _device(device_type or _best_device_type(), local_rank)
    if dtype and dtype not in DTYPES:  # before the process group, which waits for all ranks
        raise UserError(f"--dtype={dtype} is unknown; choose one of {', '.join(DTYPES)}")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.set_float32_matmul_precision("high")
    if world_size > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo",  # NCCL works on GPUs only
                                timeout=COLLECTIVE_TIMEOUT, device_id=device if device.type == "cuda" else None)
        atexit.register(_leave)
    if device.type == "cpu":
        # Without this, torch.compile sums gradients of embeddings in the order of its threads, and two runs differ.
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        _keep_freed_memory()
    if "OMP_NUM_THREADS" not in os.environ:  # PyTorch counts the cores of the machine, not those of the container
        torch.set_num_threads(min(torch.get_num_threads(), container.share_of_cores()))
    return Runtime(device, DTYPES[dtype] if dtype else best_dtype(device), rank, world_size, local_rank)


def _keep_freed_memory() -> None:
    """Makes glibc reuse large blocks. By default it returns them to the kernel, which fills a new block page by page
    with zeros: 18,000 page faults and a quarter of the time in a step of the laptop's model (docs/LOG.md)."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:  # other C libraries do not have it
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: the highest value that glibc accepts
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def return_freed_memory() -> None:
    """Gives freed memory, which `_keep_freed_memory` keeps, back to the kernel: 100 to 300 MB while a model of 1.9
    billion weights is loaded and packed."""
    if sys.platform == "linux" and (malloc_trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        malloc_trim(0)


def _leave() -> None:
    """Ends one of several ranks by `os._exit`. The threads of Gloo outlive Python, and sometimes (in one process of a
    hundred) crash while the interpreter shuts down. All files have been written by then."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(cli.exit_code or int(hasattr(sys, "last_value")))  # last_value: Python has printed a traceback


def _best_device_type() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _device(device_type: str, local_rank: int) -> torch.device:
    if device_type not in ("cuda", "mps", "cpu"):
        raise UserError(f"--device_type={device_type} is unknown; choose cuda, mps or cpu")
    if device_type == "cuda" and not torch.cuda.is_available():
        raise UserError("--device_type=cuda, but PyTorch sees no GPU here; use --device_type=cpu")
    # Only after is_available: a driver that is too old still counts GPUs that PyTorch cannot use.
    if device_type == "cuda" and local_rank >= torch.cuda.device_count():
        raise UserError(f"rank {local_rank} has no GPU: this machine has {torch.cuda.device_count()}; "
                        f"use torchrun --nproc_per_node={torch.cuda.device_count()}")
    return torch.device(device_type, local_rank) if device_type == "cuda" else torch.device(device_type)


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 if the hardware has instructions for bf16 products, otherwise float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    if device.type == "cpu" and getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)():
        # oneDNN says yes from AVX-512 on; without instructions for bf16 products bf16 is slower than fp32
        features = container.labelled("/proc/cpuinfo", "flags").split()
        return torch.bfloat16 if "avx512_bf16" in features or "amx_bf16" in features else torch.float32
    return torch.float32


def synchronize(device: torch.device) -> None:
    """Waits until the device has finished its work, so that a clock includes it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def all_reduce_sum(values: list[float], device: torch.device) -> list[float]:
    """Element-wise sum over ranks, in fp64, which NCCL and gloo support."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return values  # one rank: nothing to add
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    sums: list[float] = tensor.tolist()
    return sums
