"""The seccomp filter, run by a small interpreter of its own: what the kernel will answer, on both architectures."""

import re
from pathlib import Path

import pytest

from nanochat.sandbox import confine

HEADERS = {"x86_64": ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"],
           "aarch64": ["/usr/include/asm-generic/unistd.h"]}  # aarch64 uses the generic numbers
O_RDONLY, O_WRONLY, O_CREAT, O_CLOEXEC = 0, 1, 0o100, 0o2000000


def answer(program: list, audit: int, number: int, arguments: tuple = ()) -> int:
    """What the filter returns for a system call: the slow twin of the kernel's interpreter."""
    words = [number, audit, 0, 0]
    for argument in (*arguments, 0, 0, 0, 0, 0, 0)[:6]:
        words += [argument & 0xFFFFFFFF, argument >> 32]
    register, at = 0, 0
    while True:
        code, if_true, if_false, constant = program[at]
        at += 1
        if code == confine.RETURN:
            return constant
        if code == confine.LOAD:
            register = words[constant // 4]
        elif code == confine.AND:
            register &= constant
        else:
            assert code == confine.JUMP_EQUAL
            at += if_true if register == constant else if_false


def allowed(machine: str, number: int, *arguments: int) -> bool:
    program = confine.filter_program(machine)
    return answer(program, confine.ARCHITECTURES[machine][1], number, arguments) == confine.ALLOW


def names_and_numbers(machine: str) -> dict[str, int]:
    column = confine.ARCHITECTURES[machine][0]
    listed = [entry.split() for entry in confine.SYSCALLS.split(",")]
    return {name: int(numbers[column]) for name, *numbers in listed if numbers[column] != "-"}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_numbers_are_those_of_the_kernel_headers(machine):
    header = next((Path(path) for path in HEADERS[machine] if Path(path).exists()), None)
    if header is None:
        pytest.skip(f"the kernel headers for {machine} are not installed")
    known = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text()))
    known["newfstatat"] = known.get("newfstatat", known.get("fstatat"))
    numbers = names_and_numbers(machine) | {name: confine.FILTERED[name][confine.ARCHITECTURES[machine][0]]
                                            for name in confine.FILTERED}
    assert {name: int(known[name]) for name in numbers} == numbers


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_only_the_list_is_allowed(machine):
    column = confine.ARCHITECTURES[machine][0]
    listed = {*names_and_numbers(machine).values(), *(numbers[column] for numbers in confine.FILTERED.values())}
    assert {number for number in range(600) if allowed(machine, number)} == listed
    assert not any(allowed(machine, number | 0x40000000) for number in range(600))  # x32


@pytest.mark.parametrize("machine,openat,fcntl,prlimit", [("x86_64", 257, 72, 302), ("aarch64", 56, 25, 261)])
def test_arguments_are_looked_at(machine, openat, fcntl, prlimit):
    assert allowed(machine, openat, 0, 1 << 40, O_RDONLY | O_CLOEXEC)
    assert not allowed(machine, openat, 0, 1 << 40, O_WRONLY)
    assert not allowed(machine, openat, 0, 1 << 40, O_CREAT)
    assert not allowed(machine, openat, 0, 1 << 40, 0o20200000)  # O_TMPFILE
    assert [command for command in range(2000) if allowed(machine, fcntl, 0, command)] == [0, 1, 2, 3, 1030]
    assert allowed(machine, prlimit, 0, 7, 0, 1 << 40)
    assert not allowed(machine, prlimit, 1234, 7, 0, 1 << 40)
    assert not allowed(machine, prlimit, 0, 7, 1 << 12)
    assert not allowed(machine, prlimit, 0, 7, 1 << 40)  # a pointer whose low half is zero


def test_a_call_of_another_architecture_kills():
    program = confine.filter_program("x86_64")
    assert answer(program, 0x40000003, 4) == confine.KILL  # AUDIT_ARCH_I386
