"""Two nodes, each a network namespace of its own with one address, joined by torchrun; then one of them is lost."""
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nanochat.system import files

STEPS = 1_000_000
PATIENCE_SECONDS = 600
ADDRESSES = ("10.77.0.1", "10.77.0.2")
INTERFACES = ("nano0", "nano1")


def command(line: str) -> None:
    done = subprocess.run(line.split(), capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{line}: {done.stderr.strip()}")


@pytest.fixture
def namespaces():
    """Process ids, each of a process that keeps a network namespace alive."""
    if not all(map(shutil.which, ("unshare", "nsenter", "ip"))):
        pytest.skip("two nodes need unshare, nsenter and ip (Linux, iproute2)")
    holders = [subprocess.Popen(["unshare", "-n", "sleep", "3600"]) for _ in ADDRESSES]
    try:
        time.sleep(0.5)
        first, second = (holder.pid for holder in holders)
        here = os.readlink("/proc/self/ns/net")
        if any(holder.poll() is not None or os.readlink(f"/proc/{holder.pid}/ns/net") == here for holder in holders):
            pytest.skip("two nodes need the right to make network namespaces")
        command(f"nsenter -t {first} -n ip link add {INTERFACES[0]} type veth peer name {INTERFACES[1]}")
        command(f"nsenter -t {first} -n ip link set {INTERFACES[1]} netns {second}")
        for pid, interface, address in zip((first, second), INTERFACES, ADDRESSES):
            for what in ("link set lo up", f"addr add {address}/24 dev {interface}", f"link set {interface} up"):
                command(f"nsenter -t {pid} -n ip {what}")
        yield first, second
    except OSError as error:
        pytest.skip(f"two nodes need the right to join network namespaces by a veth pair ({error})")
    finally:
        for holder in holders:
            holder.kill()


def node(number: int, namespace: int, out: Path) -> subprocess.Popen:
    environment = {**os.environ, "NANOCHAT_BASE_DIR": str(out), "PYTHONPATH": str(Path(__file__).parents[2]),
                   "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": INTERFACES[number]}
    return subprocess.Popen(
        ["nsenter", "-t", str(namespace), "-n", sys.executable, "-m", "torch.distributed.run", "--nnodes=1:2",
         "--nproc_per_node=1", "--max-restarts=3", "--rdzv_backend=c10d", f"--rdzv_endpoint={ADDRESSES[0]}:29400",
         "--rdzv_id=nodes", f"--rdzv_conf=is_host={1 - number},last_call_timeout=10",
         f"--local_addr={ADDRESSES[number]}",
         str(Path(__file__).with_name("killed.py")), str(STEPS), "0.05"],
        env=environment, stdout=open(out / f"node{number}.log", "w"), stderr=subprocess.STDOUT, start_new_session=True)


def inside(namespace: int) -> list[int]:
    """The processes of a node. (torchrun's workers are sessions of their own.)"""
    network, found = os.readlink(f"/proc/{namespace}/ns/net"), []
    for pid in (int(path.name) for path in Path("/proc").glob("[0-9]*")):
        try:
            if pid != namespace and os.readlink(f"/proc/{pid}/ns/net") == network:
                found.append(pid)
        except OSError:  # gone, or not ours
            continue
    return found


def lose(namespace: int) -> None:
    """All of a node at once."""
    for pid in inside(namespace):
        os.kill(pid, signal.SIGKILL)


def logs(out: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(out.glob("node*.log")))


def rows(out: Path, ranks: int) -> int:
    """Steps recorded on so many ranks."""
    path = out / "results/base/metrics.jsonl"
    return path.read_text().count(f'"ranks": {ranks}') if path.exists() else 0


@pytest.mark.slow
def test_a_run_outlives_one_of_its_nodes(namespaces, tmp_path):
    """The run would last for hours: it is stopped when both have done their part."""
    nodes = [node(number, namespace, tmp_path) for number, namespace in enumerate(namespaces)]
    deadline = time.monotonic() + PATIENCE_SECONDS
    try:
        for ranks, end in ((2, lambda: lose(namespaces[1])), (1, nodes[0].terminate)):
            while rows(tmp_path, ranks) < 30:
                assert nodes[0].poll() is None and time.monotonic() < deadline, logs(tmp_path)
                time.sleep(0.05)
            end()
        nodes[0].wait(timeout=60)
    finally:
        for namespace in namespaces:
            lose(namespace)
    said = logs(tmp_path)
    assert re.search(r"goes on after step \d+", said) and "interrupted: run the same command with --resume" in said
    lines = files.read_jsonl(tmp_path / "results/base/metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1)), "no step is lost or there twice"
    assert [line["ranks"] for line in lines] == sorted((line["ranks"] for line in lines), reverse=True)
    assert lines[-1]["train/loss_nats"] < lines[0]["train/loss_nats"]
