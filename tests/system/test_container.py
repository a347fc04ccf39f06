"""What a container leaves to a process: folders that imitate /sys/fs/cgroup and /proc/self/cgroup."""
import os

import pytest

from nanochat.system import container
from nanochat.tokenizer import parallel

GB = 10**9
NONE_V1 = "9223372036854771712"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """`machine("0::/a\\n", {"a/cpu.max": "50000 100000"})` → the root of a machine with 64 cores and these groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)

    def make(groups: str, files: dict):
        for name, text in {"proc/self/cgroup": groups, **{f"sys/fs/cgroup/{n}": t for n, t in files.items()}}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(str(text), encoding="utf-8")
        return tmp_path

    return make


V1 = "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"


@pytest.mark.parametrize("groups, files, cores", [
    ("0::/\n", {"cpu.max": "100000 100000"}, 1),
    ("0::/\n", {"cpu.max": "50000 100000"}, 1),
    ("0::/\n", {"cpu.max": "150000 100000"}, 2),
    ("0::/\n", {"cpu.max": "max 100000"}, 64),
    ("0::/\n", {"cpu.max": ""}, 64),
    ("0::/\n", {}, 64),
    ("", {"cpu.max": "300000 100000"}, 3),  # no /proc
    ("0::/../../pod/x\n", {"cpu.max": "300000 100000"}, 3),  # a namespace: the path is not below the mount
    ("0::/pod/x\n", {"pod/cpu.max": "400000 100000", "pod/x/cpu.max": "max 100000"}, 4),  # the outer group's limit
    ("0::/pod/x\n", {"pod/cpu.max": "800000 100000", "pod/x/cpu.max": "200000 50000"}, 4),
    ("0::/pod/x/y\n", {"y/cpu.max": "200000 100000"}, 2),  # the container sees the end of the path
    (V1, {"cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "250000",
          "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000"}, 3),
    (V1, {"cpu/docker/abc/cpu.cfs_quota_us": "-1", "cpu/docker/abc/cpu.cfs_period_us": "100000",
          "cpu/docker/cpu.cfs_quota_us": "500000", "cpu/docker/cpu.cfs_period_us": "100000"}, 5),
    (V1, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
    (V1 + "0::/\n", {"unified/cpu.max": "200000 100000", "cpu/cpu.cfs_quota_us": "-1"}, 2),  # both versions
])
def test_cores_within_quotas(machine, groups, files, cores):
    assert container.usable_cores(machine(groups, files)) == cores


@pytest.mark.parametrize("affinity, slurm, cores", [(64, "8", 8), (4, "8", 4), (4, "", 4), (4, "many", 4), (4, "0", 1)])
def test_affinity_and_slurm(machine, monkeypatch, affinity, slurm, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", slurm)
    assert container.usable_cores(machine("0::/\n", {})) == cores


def test_several_processes_share_them_and_every_pool_asks_the_same_function(monkeypatch):
    monkeypatch.setattr(container, "usable_cores", lambda: 12)
    for processes, share in (("1", 12), ("8", 1), ("16", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert container.share_of_cores() == parallel.num_threads() == share


@pytest.mark.parametrize("groups, files, free", [
    ("0::/\n", {"memory.max": 8 * GB, "memory.current": 7 * GB,
                "memory.stat": f"file {6 * GB}\ninactive_file {6 * GB}\n"}, 7 * GB),
    ("0::/\n", {"memory.max": 8 * GB, "memory.current": 2 * GB}, 6 * GB),
    ("0::/\n", {"memory.max": 8 * GB, "memory.current": 9 * GB}, 0),
    ("0::/\n", {"memory.max": 8 * GB, "memory.high": 5 * GB, "memory.current": 2 * GB}, 3 * GB),
    ("0::/\n", {"memory.max": "max", "memory.high": "max", "memory.current": 2 * GB}, None),
    ("0::/\n", {"memory.max": 2 * GB, "memory.current": GB, "memory.swap.max": 50 * GB}, GB),
    ("0::/\n", {}, None),
    ("0::/a/b\n", {"a/memory.max": 3 * GB, "a/memory.current": GB, "a/b/memory.max": "max"}, 2 * GB),
    ("0::/a/b\n", {"a/memory.max": 3 * GB, "a/memory.current": GB, "a/b/memory.max": 9 * GB,
                   "a/b/memory.current": GB}, 2 * GB),
    (V1, {"memory/docker/abc/memory.limit_in_bytes": 3 * GB, "memory/docker/abc/memory.usage_in_bytes": 2 * GB,
          "memory/docker/abc/memory.stat": f"inactive_file 5\ntotal_inactive_file {GB}\n"}, 2 * GB),
    (V1, {"memory/memory.limit_in_bytes": 3 * GB, "memory/memory.usage_in_bytes": 2 * GB}, GB),  # only the end is seen
    (V1, {"memory/docker/abc/memory.limit_in_bytes": NONE_V1, "memory/docker/memory.limit_in_bytes": 4 * GB}, 4 * GB),
    (V1, {"memory/docker/abc/memory.limit_in_bytes": NONE_V1, "memory/memory.limit_in_bytes": NONE_V1}, None),
    ("0::/\n", {"memory.max": 4 * GB, "memory.current": GB, "memory.stat": "nonsense\ninactive_file\n"}, 3 * GB),
])
def test_memory_within_limits(machine, groups, files, free):
    assert container.free_memory(machine(groups, files)) == free


def test_pytorch_gets_no_more_threads_than_the_container_has_cores(monkeypatch):
    import torch

    from nanochat.system import runtime
    before = torch.get_num_threads()
    for asked, threads in (("", 1), ("3", 3)):
        torch.set_num_threads(3)
        monkeypatch.setattr(container, "usable_cores", lambda: 1)
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
        monkeypatch.setenv("OMP_NUM_THREADS", asked) if asked else monkeypatch.delenv("OMP_NUM_THREADS")
        runtime.start("cpu", "float32")
        assert torch.get_num_threads() == threads
    torch.set_num_threads(before)
