"""Confinement: a process gives up its own rights before it runs a program that nobody has read.

There are four layers, applied in this order. None can be undone, neither by the process nor by its children. If the
kernel lacks a layer, an OSError is raised. Linux on x86-64 and aarch64; only ctypes is needed.

1. rlimits        memory, CPU seconds, size of output, 64 descriptors, no core dump, no new processes
2. capabilities   all rights of root are dropped, and no setuid program brings them back
3. Landlock       only the standard library may be read; no TCP, no signals to others, no abstract sockets
4. seccomp        58 system calls are allowed (52 on aarch64), three of them with checks of their arguments; the others
                  fail with EPERM

Not covered: holes in the kernel, side channels, and `stat`, which shows whether a path exists. The numbers come from
linux/{landlock,seccomp,filter,audit,capability,prctl}.h and asm/unistd.h.
"""
import ctypes
import functools
import os
import platform
import resource
import struct

LINUX = platform.system() == "Linux"
NAMES = ("rlimits", "capabilities", "landlock", "seccomp") if LINUX else ("sandbox-exec", "rlimits")
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 1, 22, 24, 38, 47
CAPABILITY_VERSION_3, LAST_CAPABILITY = 0x20080522, 40

LANDLOCK_CREATE, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT = 444, 445, 446  # the same on every architecture
READ_FILE, READ_DIR = 1 << 2, 1 << 3  # LANDLOCK_ACCESS_FS_…
FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # ABI version: all its rights

# The calls that a Python program needs to compute, print and import: name, number on x86-64, number on aarch64 ("-":
# the architecture does not have the call).
SYSCALLS = """
    read 0 63, write 1 64, close 3 57, fstat 5 80, lseek 8 62, pread64 17 67, readv 19 65, writev 20 66, mmap 9 222,
    mprotect 10 226, munmap 11 215, brk 12 214, mremap 25 216, madvise 28 233, rt_sigaction 13 134, futex 202 98,
    rt_sigprocmask 14 135, rt_sigreturn 15 139, sigaltstack 131 132, restart_syscall 219 128, sched_yield 24 124,
    sched_getaffinity 204 123, rseq 334 293, getrandom 318 278, stat 4 -, lstat 6 -, newfstatat 262 79, statx 332 291,
    access 21 -, faccessat 269 48, faccessat2 439 439, getdents64 217 61, getcwd 79 17, poll 7 -, ppoll 271 73,
    select 23 -, pselect6 270 72, nanosleep 35 101, time 201 -, clock_nanosleep 230 115, clock_gettime 228 113,
    clock_getres 229 114, gettimeofday 96 169, times 100 153, getrusage 98 165, getrlimit 97 163, getpid 39 172,
    gettid 186 178, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177, exit 60 93, exit_group 231 94,
    close_range 436 436"""
O_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND | 0o20000000  # the last bit: O_TMPFILE
F_SAFE = (0, 1, 2, 3, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC; F_SETOWN sends signals to others
# Calls whose arguments are checked: the two numbers, then for each check (32-bit half of an argument, counted from the
# first argument's low half; mask; allowed values of the masked half).
FILTERED: dict[str, tuple[int, int, list[tuple[int, int, tuple[int, ...]]]]] = {
    "openat": (257, 56, [(4, O_WRITES, (0,))]),
    "fcntl": (72, 25, [(2, 0xFFFFFFFF, F_SAFE)]),
    "prlimit64": (302, 261, [(half, 0xFFFFFFFF, (0,)) for half in (0, 4, 5)]),  # pid 0 (itself), new limits NULL
}
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column of numbers above, AUDIT_ARCH
LOAD, AND, JUMP_EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06  # classic BPF, 32-bit words
ALLOW, DENY, KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # DENY: the call returns EPERM

libc = ctypes.CDLL(None, use_errno=True)


def must(result: int, name: str) -> int:
    """The result of a C call. Raises OSError with its errno if the call failed."""
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
    return result


def prctl(option: int, *values: int) -> int:
    return int(libc.prctl(option, *map(ctypes.c_ulong, (*values, 0, 0, 0, 0)[:4])))


def limit_resources(memory_bytes: int, cpu_seconds: int, output_bytes: int) -> None:
    """Sets hard limits. `memory_bytes` is the limit of the whole address space, including the interpreter's."""
    limits = {"AS": memory_bytes, "CPU": cpu_seconds, "FSIZE": output_bytes, "NOFILE": 64, "CORE": 0, "NPROC": 0}
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)  # a limit can only be lowered
        resource.setrlimit(kind, (value, value))


def drop_capabilities() -> None:
    """After this, root has only the rights of an ordinary user who owns root's files."""
    for capability in range(LAST_CAPABILITY + 1):
        prctl(PR_CAPBSET_DROP, capability)  # the kernel refuses this to ordinary users, who have no capabilities
    prctl(PR_CAP_AMBIENT, 4)  # PR_CAP_AMBIENT_CLEAR_ALL
    must(libc.capset(struct.pack("Ii", CAPABILITY_VERSION_3, 0), bytes(24)), "capset")  # all three sets become empty
    forbid_new_privileges()


def forbid_new_privileges() -> None:
    """No program that is started later gets more rights, not even a setuid program. Landlock and seccomp require it."""
    must(prctl(PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")


@functools.cache
def landlock_rules(readable: tuple[str, ...]) -> int:
    """The descriptor of a ruleset that allows opening files in these folders only, and only for reading."""
    abi = must(libc.syscall(LANDLOCK_CREATE, None, 0, 1), "Landlock (Linux 5.13 or later, enabled at boot)")
    handled = FILE_RIGHTS[max(version for version in FILE_RIGHTS if version <= abi)]
    # Files; TCP bind and connect (from ABI 4 on); abstract sockets and signals (from ABI 6 on).
    attributes = struct.pack("QQQ", handled, 3, 3)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    rules = must(libc.syscall(LANDLOCK_CREATE, attributes, size, 0), "Landlock rules")
    for folder in filter(os.path.isdir, readable):
        descriptor = os.open(folder, os.O_PATH)
        rule = struct.pack("=Qi", READ_FILE | READ_DIR, descriptor)
        must(libc.syscall(LANDLOCK_ADD_RULE, rules, 1, rule, 0), f"Landlock on {folder}")
        os.close(descriptor)
    return rules


def landlock(rules: int) -> None:
    """From now on this process can open only the files that the ruleset allows."""
    forbid_new_privileges()
    must(libc.syscall(LANDLOCK_RESTRICT, rules, 0), "Landlock")


def filter_program(machine: str) -> list[tuple[int, int, int, int]]:
    """The allow-list as BPF instructions (code, jump if true, jump if false, constant) for a `platform.machine()`."""
    column, audit = ARCHITECTURES[machine]
    # In struct seccomp_data the call's number is at byte 0, the architecture at 4, the arguments from 16 on. A call of
    # another architecture ends the process, because there the numbers have other meanings.
    program = [(LOAD, 0, 0, 4), (JUMP_EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]
    for _, *numbers in map(str.split, SYSCALLS.split(",")):
        if numbers[column] != "-":
            program += [(JUMP_EQUAL, 0, 1, int(numbers[column])), (RETURN, 0, 0, ALLOW)]
    for *call_numbers, checks in FILTERED.values():
        body = []
        for half, mask, allowed in checks:
            jumps = [(JUMP_EQUAL, len(allowed) - i, 0, value) for i, value in enumerate(allowed)]
            body += [(LOAD, 0, 0, 16 + 4 * half), (AND, 0, 0, mask), *jumps, (RETURN, 0, 0, DENY)]
        program += [(JUMP_EQUAL, 0, len(body) + 1, call_numbers[column]), *body, (RETURN, 0, 0, ALLOW)]
    return [*program, (RETURN, 0, 0, DENY)]


@functools.cache
def seccomp_filter() -> ctypes.Array[ctypes.c_char]:
    """The filter in the binary form that the kernel reads."""
    if platform.machine() not in ARCHITECTURES:
        raise OSError(f"no list of system calls for {platform.machine()}, only for {', '.join(ARCHITECTURES)}")
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in filter_program(platform.machine()))
    return ctypes.create_string_buffer(program, len(program))


def seccomp(program: ctypes.Array[ctypes.c_char]) -> None:
    """From now on a system call that is not on the list fails with EPERM."""
    forbid_new_privileges()
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(program))  # struct sock_fprog
    must(libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(2), header), "seccomp filter")
