"""The processor cores and bytes of memory that a container or batch system leaves to this process. Needs no PyTorch.

Control groups (Linux) limit both. Groups form a tree of folders, and the limit of every folder counts, from the group
of the process up to the root. There are two versions (v1: one tree per controller; v2: one tree for all). In a
container the path in /proc/self/cgroup may be that of the host, and the container sees only the end of that path.
`root` is "/" except in tests.
"""
import math
import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")  # the tests use another root
NO_LIMIT = 1 << 60  # v1 writes 9223372036854771712 for "no limit"


def usable_cores(root: Path = ROOT) -> int:
    """The number of cores that this process can keep busy: the smallest of its affinity, the quotas of its groups
    (rounded up) and Slurm's --cpus-per-task; at least 1."""
    cores = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    for folder in groups("cpu", root):
        quota, period = (_words(folder / "cpu.max") + [""])[:2]
        if not quota:  # there is no cpu.max: version 1
            quota, period = (_words(folder / f"cpu.cfs_{name}_us")[0] for name in ("quota", "period"))
        if quota.isdigit() and period.isdigit() and int(period):  # neither "max" nor "-1"
            cores.append(math.ceil(int(quota) / int(period)))  # rounded up: 1.5 cores keep two threads busy
    slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")  # some clusters do not enforce this number
    return max(1, min(cores + [int(slurm)] if slurm.isdigit() else cores))


def share_of_cores() -> int:
    """The cores for this process if torchrun has started several processes on this machine; at least 1."""
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def free_memory(root: Path = ROOT) -> int | None:
    """Bytes that can still be allocated within the limits of the groups; None if there is no limit."""
    free = []
    for folder in groups("memory", root):
        limits = [int(word) for name in ("memory.max", "memory.high", "memory.limit_in_bytes")
                  if (word := _words(folder / name)[0]).isdigit() and int(word) < NO_LIMIT]
        used = next((int(word) for name in ("memory.current", "memory.usage_in_bytes")
                     if (word := _words(folder / name)[0]).isdigit()), 0)
        # Cached pages of files that are not in use (`inactive_file`) count as free: the kernel drops them
        # before it ends a process. Swap does not count: a model in swap trains too slowly.
        if limits:  # a group without a limit says nothing, but a group around it may
            free.append(max(0, min(limits) - max(0, used - _inactive_file(folder / "memory.stat"))))
    return min(free, default=None)


def groups(controller: str, root: Path = ROOT) -> Iterator[Path]:
    """The folders of the groups that this process is in, innermost first, for a controller ("cpu" or "memory")."""
    mounts = root / "sys/fs/cgroup"
    lines = [line.split(":", 2) for line in _text(root / "proc/self/cgroup").splitlines() if line.count(":") >= 2]
    for _, names, path in lines or [["0", "", "/"], ["1", controller, "/"]]:
        if names and controller not in names.split(","):  # v2 has no names: one group for all controllers
            continue
        mount = next((mounts / name for name in ([controller, names] if names else ["unified"])
                      if (mounts / name).is_dir()), mounts)
        parts = [part for part in Path(path).parts if part not in ("/", "..")]
        # The container may see only the end of the path, or no part of it: then our group is the root of its view.
        inner = next(folder for start in range(len(parts) + 1)
                     if (folder := mount.joinpath(*parts[start:])).is_dir() or start == len(parts))
        yield from (folder for folder in (inner, *inner.parents) if folder == mount or mount in folder.parents)


def _inactive_file(path: Path) -> int:
    """Cached bytes of a group with all groups inside it; v1 calls this sum `total_inactive_file`."""
    numbers = dict(line.split()[:2] for line in _text(path).splitlines() if len(line.split()) > 1)
    word = numbers.get("total_inactive_file", numbers.get("inactive_file", ""))
    return int(word) if word.isdigit() else 0


def _words(path: Path) -> list[str]:
    """The words of a file; [""] if it is missing or empty."""
    return _text(path).split() or [""]


def labelled(path: str, label: str) -> str:
    """The text after `label` in the first line that begins with it; "" if there is no such file or line."""
    lines = _text(Path(path)).splitlines()
    return next((line.removeprefix(label).strip(" \t:") for line in lines if line.startswith(label)), "")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
