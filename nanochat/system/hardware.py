"""The machine: names, memory and peak speed, for the plan, the report and MFU (model FLOPs utilisation)."""
import os
import platform
import re
import resource
from dataclasses import dataclass

import torch

from nanochat.system import container, gpus
from nanochat.system.container import labelled, usable_cores


@dataclass(frozen=True)
class Hardware:
    """One machine: the name of its devices, their number, memory per device, bf16 peak in FLOP/s (None = unknown)."""

    device: str
    count: int
    memory_bytes: int
    peak_flops: float | None


def peak_flops(device_name: str) -> float | None:
    """`peak_flops("NVIDIA H100 80GB HBM3")` → 989e12; None for a device that is not in the table of gpus.py."""
    known = gpus.find(device_name)
    return known.peak_flops if known else None


def detect() -> Hardware:
    """This machine's GPUs, or its processor if it has none."""
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        return Hardware(gpu.name, torch.cuda.device_count(), gpu.total_memory, peak_flops(gpu.name))
    name = labelled("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
    return Hardware(name, usable_cores(), os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on `device`; on a GPU including memory that PyTorch keeps for reuse."""
    if device.type == "cuda":
        pool = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + pool
    # The minimum of three: the free memory of the machine (on Linux including caches that the kernel would drop;
    # elsewhere half of all memory), the container's limit, and `ulimit -v`.
    free = [_kilobytes("/proc/meminfo", "MemAvailable:") or detect().memory_bytes // 2]
    if (left := container.free_memory()) is not None:
        free.append(left)
    limit, used = resource.getrlimit(resource.RLIMIT_AS)[0], _kilobytes("/proc/self/status", "VmSize:")
    if limit != resource.RLIM_INFINITY and used:  # the limit counts addresses, not pages in use
        free.append(max(0, limit - used))
    return min(free)


# Messages of plain RuntimeErrors by which libraries report out of memory: cuBLAS, cuDNN, NCCL, and on a processor
# PyTorch's own allocator.
OUT_OF_MEMORY = re.compile(r"out of memory|STATUS_ALLOC_FAILED|not enough memory|can't allocate memory", re.IGNORECASE)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, so that the same work in smaller pieces may succeed."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and bool(OUT_OF_MEMORY.search(str(error))))


def peak_memory(device: torch.device) -> int:
    """The highest number of bytes that this process has used on `device`; on a CPU its whole memory counts."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return _kilobytes("/proc/self/status", "VmHWM:")  # the "high water mark"


def _kilobytes(path: str, label: str) -> int:
    """A size in /proc, in bytes; 0 if the kernel does not report it."""
    number, _, unit = labelled(path, label).partition(" ")
    return int(number) << 10 if unit == "kB" else 0
