"""Places, devices, hardware: what the machine gives us."""
import contextlib
import ctypes
import os
import resource
import subprocess
import sys

import pytest
import torch

from nanochat.system import cli, gpus, hardware, paths, runtime
from nanochat.system.files import UserError


def test_places_follow_the_environment(base_dir, monkeypatch, tmp_path):
    assert paths.base_dir() == base_dir and paths.data_dir() == base_dir / "data"
    assert paths.checkpoint_dir("base", "d4") == base_dir / "checkpoints" / "base" / "d4"
    monkeypatch.setenv("NANOCHAT_DATA", str(tmp_path / "elsewhere"))
    assert paths.data_dir() == tmp_path / "elsewhere" and paths.tokenizer_dir() == base_dir / "tokenizer"
    monkeypatch.delenv("NANOCHAT_BASE_DIR")
    assert paths.base_dir() == paths.REPO / "out"
    monkeypatch.setenv("NANOCHAT_BASE_DIR", "~/run")
    assert paths.base_dir().is_absolute() and "~" not in str(paths.base_dir())


@pytest.mark.parametrize("tag", ["a/b", "../d4", "..", "/d4", "d4/"])
def test_a_tag_that_leads_elsewhere_is_refused(base_dir, tag):
    with pytest.raises(UserError, match="is not a plain name"):
        paths.checkpoint_dir("base", tag)


def test_one_rank_without_torchrun(base_dir):
    started = runtime.start("cpu", "float32")
    assert (started.rank, started.world_size, started.is_main) == (0, 1, True)
    assert started.device == torch.device("cpu") and started.dtype is torch.float32
    assert runtime.start("cpu", "bfloat16").dtype is torch.bfloat16
    assert runtime.all_reduce_sum([1.5, 2.0], started.device) == [1.5, 2.0]
    started.close()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_freed_memory_is_used_again():
    """Twenty tensors of 16 MB, one after another: 4,096 pages each, not handed out anew every time."""
    program = """
import resource, torch
from nanochat.system import runtime
runtime.start("cpu")
torch.ones(4 << 20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    first, second = torch.ones(4 << 20), torch.ones(8 << 10)  # the second keeps the first from the end of the heap
    del first
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = int(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout)
    assert faults < 10 * 4096  # pieces of it may be taken by then, a few times


def test_impossible_devices_say_what_to_do_instead(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device_type, dtype, said in [("tpu", "", "--device_type=tpu is unknown; choose cuda, mps or cpu"),
                                     ("cuda", "", "use --device_type=cpu"),
                                     ("cpu", "float8", "--dtype=float8 is unknown; choose one of float32")]:
        with pytest.raises(UserError, match=said):
            runtime.start(device_type, dtype)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert runtime._device("cuda", 1) == torch.device("cuda", 1)
    with pytest.raises(UserError, match="rank 2 has no GPU: this machine has 2; use torchrun --nproc_per_node=2"):
        runtime._device("cuda", 2)


@pytest.mark.parametrize("name, flops", [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12),
                                         ("NVIDIA GH200 480GB", 989e12), ("NVIDIA A100-SXM4-40GB", 312e12),
                                         ("NVIDIA L4", 121e12), ("NVIDIA L40S", 362e12),
                                         ("NVIDIA L40", 181e12), ("GeForce GTX 1080", None),
                                         ("rtx4090", 165.2e12), ("NVIDIA RTX A1000", None)])
def test_peak_by_name(name, flops):
    assert hardware.peak_flops(name) == flops


def test_every_known_gpu_is_found_by_its_own_name():
    assert [gpus.find(gpu.name) for gpu in gpus.GPUS] == list(gpus.GPUS)
    assert gpus.find("NVIDIA A100-PCIE-40GB").memory_bytes < 40e9 < gpus.find("NVIDIA A100-SXM4-80GB").memory_bytes


def test_this_machine_is_something():
    found = hardware.detect()
    assert found.device and found.count >= 1 and found.memory_bytes > 1 << 28
    assert 1 <= hardware.usable_cores()


@pytest.mark.parametrize("container_bytes, address_space, free", [
    (None, resource.RLIM_INFINITY, None), (10**9, resource.RLIM_INFINITY, 10**9),
    (10**15, resource.RLIM_INFINITY, None), (0, resource.RLIM_INFINITY, 0), (None, 1 << 20, 0)])
def test_free_memory_is_the_least_of_machine_container_and_ulimit(monkeypatch, container_bytes, address_space, free):
    monkeypatch.setattr(hardware.container, "free_memory", lambda: container_bytes)
    monkeypatch.setattr(hardware.resource, "getrlimit", lambda _: (address_space, address_space))
    found = hardware.free_memory(torch.device("cpu"))
    assert found == free if free is not None else found > 1 << 26


@pytest.mark.parametrize("known, traceback_printed, code", [(0, False, 0), (3, False, 3), (0, True, 1),
                                                            (130, True, 130)])
def test_the_last_word_of_a_rank_is_how_it_ended(monkeypatch, known, traceback_printed, code):
    """It leaves by os._exit, so nothing else would say so."""
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(cli, "exit_code", known)
    monkeypatch.setattr(sys, "last_value", ValueError(), raising=False)
    if not traceback_printed:
        monkeypatch.delattr(sys, "last_value")
    runtime._leave()
    assert codes == [code]


@pytest.mark.parametrize("error, code", [(UserError("x"), 1), (KeyboardInterrupt(), 130), (ValueError(), 1),
                                         (SystemExit(2), 2), (None, 0)])
def test_a_program_knows_what_it_ends_with(monkeypatch, error, code):
    def main():
        if error is not None:
            raise error

    monkeypatch.setattr(cli, "exit_code", 0)
    with contextlib.suppress(SystemExit, ValueError):
        cli.run(main)
    assert cli.exit_code == code
