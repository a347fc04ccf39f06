"""What running a short program costs: `python -m bench.sandbox [--runs 300] [--original PATH] [--leaks]`

Milliseconds of processor time (of all processes involved) and of wall clock per run of a small function with its test:
our fork server, a bare interpreter without any protection, and the original's `execute_code` (PATH: its repository,
checked out by you). The ratios are to ours. Then microseconds for the chat's tool. --leaks: 10,000 runs, what is left.
"""

import argparse
import importlib.util
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nanochat import sandbox
from nanochat.sandbox import python

PROGRAM = """from typing import List

def rolling_max(numbers: List[int]) -> List[int]:
    highest, result = None, []
    for number in numbers:
        highest = number if highest is None else max(highest, number)
        result.append(highest)
    return result

assert rolling_max([1, 2, 3, 2, 3, 4, 2]) == [1, 2, 3, 3, 3, 4, 4]
"""


def cpu_seconds() -> float:
    """Of this process, of the children it has waited for, and of the fork server and its children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    fields = Path(f"/proc/{python._server.process.pid}/stat").read_text().rpartition(")")[2].split()
    ticks = sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return sum(each.ru_utime + each.ru_stime for each in used) + ticks / os.sysconf("SC_CLK_TCK")


def measure(run: Callable[[], bool], runs: int) -> tuple[float, float]:
    """Milliseconds per run: processor time, wall clock."""
    assert run(), "the program must pass"
    cpu, wall = cpu_seconds(), time.perf_counter()
    for _ in range(runs):
        assert run()
    return (cpu_seconds() - cpu) / runs * 1000, (time.perf_counter() - wall) / runs * 1000


def bare() -> bool:
    return subprocess.run([sys.executable, "-I", "-S", "-c", PROGRAM], capture_output=True).returncode == 0


def original(repository: str) -> Callable[[], bool]:
    """The original's runner, from its file, without its package."""
    spec = importlib.util.spec_from_file_location("original_execution", Path(repository) / "nanochat/execution.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return lambda: module.execute_code(PROGRAM).success


def leftovers() -> dict[str, int]:
    """What runs could leave behind."""
    server = python._server.process.pid
    return {"descriptors here": len(os.listdir("/proc/self/fd")),
            "descriptors of the server": len(os.listdir(f"/proc/{server}/fd")),
            "processes": len(Path(f"/proc/{server}/task/{server}/children").read_text().split()),
            "server KiB": int(Path(f"/proc/{server}/statm").read_text().split()[1]) * resource.getpagesize() >> 10}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--original", metavar="PATH")
    parser.add_argument("--leaks", action="store_true")
    args = parser.parse_args()
    print("layers in force:", ", ".join(sandbox.layers()))
    if args.leaks:
        sandbox.run("raise SystemExit")  # returns when its process is gone, and with it those before it
        before = leftovers()
        measure(lambda: sandbox.run(PROGRAM).ok, 10_000)
        sandbox.run("raise SystemExit")
        return print(f"before: {before}\nafter 10,000 runs: {leftovers()}")
    runners = {"fork server (ours)": lambda: sandbox.run(PROGRAM).ok, "bare interpreter": bare}
    if args.original:
        runners["original"] = original(args.original)
    ours = 0.0
    print(f"{'':20} {'CPU ms':>8} {'wall ms':>8} {'CPU / ours':>11}")
    for name, runner in runners.items():
        cpu, wall = measure(runner, args.runs)
        ours = ours or cpu
        print(f"{name:20} {cpu:8.2f} {wall:8.2f} {cpu / ours:10.1f}x")
    for expression in ("123*456", "'banana'.count('a')"):
        cpu, _ = measure(lambda: sandbox.calculate(expression) is not None, 5000)  # noqa: B023
        print(f"calculate({expression!r}): {cpu * 1000:.0f} microseconds")


if __name__ == "__main__":
    main()
