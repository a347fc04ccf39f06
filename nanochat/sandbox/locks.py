"""The locks that a process puts on itself before it runs code nobody has read. Linux, x86-64 and aarch64; only ctypes.

Applied in this order, each irrevocable for the process and all it starts:

1. rlimits        memory, CPU seconds, file size, descriptors, no core, no new processes
2. capabilities   what root may do beyond its own files: all of it dropped; setuid programs no longer help
3. Landlock       files: the standard library can be read, nothing else; no TCP, no signals to others, no abstract sockets
4. seccomp        the kernel: an allow-list of some 55 system calls, and the arguments of three of them; all others fail (EPERM)

Each alone is known to be escapable (see docs/security.md for how many attacks); together they hold. A kernel without one of
them raises OSError here. Not covered: kernel bugs, side channels, and `stat`, which tells whether a path exists.

Sources: linux/landlock.h, linux/seccomp.h, linux/filter.h, linux/audit.h, linux/capability.h; the numbers are those headers'.
"""

import ctypes
import os
import platform
import resource
import struct

NAMES = ("rlimits", "capabilities", "landlock", "seccomp") if platform.system() == "Linux" else ("sandbox-exec", "rlimits")

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, PR_CAPBSET_DROP = 1, 22, 38, 24
PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
CAPABILITY_VERSION_3, LAST_CAPABILITY = 0x20080522, 40
LANDLOCK_CREATE, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT = 444, 445, 446  # the same on every architecture

# Landlock rights. Handled rights are denied unless a rule grants them; the first ABI has 13, later ones added three.
WRITE_FILE, READ_FILE, READ_DIR, MAKE_REG, TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 8, 1 << 14
FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}

# What a Python program needs that computes, prints and imports: name: (x86-64, aarch64), None where there is no such call.
SYSCALLS = {
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "fstat": (5, 80), "lseek": (8, 62), "pread64": (17, 67),
    "readv": (19, 65), "writev": (20, 66), "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214),
    "mremap": (25, 216), "madvise": (28, 233), "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139), "sigaltstack": (131, 132), "restart_syscall": (219, 128), "futex": (202, 98),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "rseq": (334, 293), "getrandom": (318, 278),
    "stat": (4, None), "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291), "access": (21, None),
    "faccessat": (269, 48), "faccessat2": (439, 439), "getdents64": (217, 61), "getcwd": (79, 17), "poll": (7, None),
    "ppoll": (271, 73), "select": (23, None), "pselect6": (270, 72), "nanosleep": (35, 101), "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113), "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None),
    "times": (100, 153), "getrusage": (98, 165), "getrlimit": (97, 163), "getpid": (39, 172), "gettid": (186, 178),
    "getuid": (102, 174), "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "exit": (60, 93),
    "exit_group": (231, 94),
}
SYSCALLS_FILES = {"ftruncate": (77, 46), "fsync": (74, 82)}
# Calls whose arguments matter: name: numbers, then (argument, mask, values it may have after masking); both halves of a pointer.
O_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
O_UNNAMED = 0o20000000  # of O_TMPFILE: a file without a name, which Landlock's rules do not count
F_SAFE = (0, 1, 2, 3, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC; F_SETOWN would send signals to others
FILTERED = {
    "openat": (257, 56, [("low", 2, O_WRITES | O_UNNAMED, (0,))]),
    "fcntl": (72, 25, [("low", 1, 0xFFFFFFFF, F_SAFE)]),
    "prlimit64": (302, 261, [("low", 0, 0xFFFFFFFF, (0,)), ("low", 2, 0xFFFFFFFF, (0,)), ("high", 2, 0xFFFFFFFF, (0,))]),
}
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH of linux/audit.h

# Classic BPF: load a word, mask it, jump if equal, return.
LOAD, AND, JUMP_EQUAL, RETURN = 0x20, 0x54, 0x15, 0x06
ALLOW, DENY, KILL = 0x7FFF0000, 0x00050000 | 1, 0x80000000  # DENY: the call returns EPERM

libc = ctypes.CDLL(None, use_errno=True)


def _must(result: int, what: str) -> int:
    """The result of a C call, or OSError with its errno."""
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def _prctl(option: int, *values: int) -> int:
    return libc.prctl(option, *(ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]))


def die_with_parent(parent: int) -> None:
    """SIGKILL for this process when the process `parent` ends (Linux). OSError if it has ended already."""
    if hasattr(libc, "prctl"):
        _must(_prctl(PR_SET_PDEATHSIG, 9), "parent-death signal")
    if os.getppid() != parent:
        raise OSError("the parent is gone")


def limit_resources(memory_bytes: int, cpu_seconds: int, file_bytes: int) -> None:
    """Hard limits of this process. `memory_bytes` is all address space, the interpreter's included."""
    limits = {"AS": memory_bytes, "CPU": cpu_seconds, "FSIZE": file_bytes, "NOFILE": 64, "CORE": 0, "NPROC": 0, "MEMLOCK": 0}
    for name, value in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def drop_capabilities() -> None:
    """Root becomes an ordinary owner of its files, for good; `no_new_privs` is also what Landlock and seccomp ask for."""
    for capability in range(LAST_CAPABILITY + 1):
        _prctl(PR_CAPBSET_DROP, capability)  # refused to an ordinary user, who has none to drop
    _prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL)
    header, nothing = struct.pack("Ii", CAPABILITY_VERSION_3, 0), bytes(24)  # effective, permitted, inheritable, twice 32 bits
    _must(libc.capset(header, nothing), "capset")
    _must(_prctl(PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")


def landlock(readable: list[str], writable: str = "") -> None:
    """Leaves the folders in `readable` to be read, and files in `writable` to be made and written (no folders, no removal)."""
    abi = _must(libc.syscall(LANDLOCK_CREATE, None, 0, 1), "Landlock (Linux 5.13 or later, enabled at boot)")
    handled = FILE_RIGHTS[max(version for version in FILE_RIGHTS if version <= abi)]
    attributes = struct.pack("QQQ", handled, 3, 3)  # files; TCP bind and connect (ABI 4); abstract sockets and signals (6)
    size = 8 if abi < 4 else 16 if abi < 6 else 24
    ruleset = _must(libc.syscall(LANDLOCK_CREATE, attributes, size, 0), "Landlock ruleset")
    read = READ_FILE | READ_DIR
    grants = [(folder, read) for folder in readable if os.path.isdir(folder)]
    grants += [(writable, (read | WRITE_FILE | MAKE_REG | TRUNCATE) & handled)] if writable else []
    for folder, rights in grants:
        fd = os.open(folder, os.O_PATH | os.O_CLOEXEC)
        rule = struct.pack("=Qi", rights, fd)
        _must(libc.syscall(LANDLOCK_ADD_RULE, ruleset, 1, rule, 0), f"Landlock rule for {folder}")
        os.close(fd)
    _must(_prctl(PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")
    _must(libc.syscall(LANDLOCK_RESTRICT, ruleset, 0), "Landlock")
    os.close(ruleset)


def filter_program(machine: str, files: bool = False) -> list[tuple[int, int, int, int]]:
    """The allow-list as BPF instructions (code, jump if true, jump if false, constant) for a `platform.machine()`."""
    column, audit = ARCHITECTURES[machine]
    program = [(LOAD, 0, 0, 4), (JUMP_EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL), (LOAD, 0, 0, 0)]  # data: nr, arch, ip, args
    for numbers in (SYSCALLS | SYSCALLS_FILES if files else SYSCALLS).values():
        if numbers[column] is not None:
            program += [(JUMP_EQUAL, 0, 1, numbers[column]), (RETURN, 0, 0, ALLOW)]
    for name, (*numbers, checks) in FILTERED.items():
        if files and name == "openat":
            checks = [("low", 2, O_UNNAMED, (0,))]  # where it may write is Landlock's to say
        body = [instruction for check in checks for instruction in _check(*check)]
        program += [(JUMP_EQUAL, 0, len(body) + 1, numbers[column]), *body, (RETURN, 0, 0, ALLOW)]
    return [*program, (RETURN, 0, 0, DENY)]


def _check(half: str, argument: int, mask: int, values: tuple[int, ...]) -> list[tuple[int, int, int, int]]:
    """Goes on behind itself if a 32-bit half of an argument, masked, is one of `values`; else denies."""
    jumps = [(JUMP_EQUAL, len(values) - i, 0, value) for i, value in enumerate(values)]
    return [(LOAD, 0, 0, 16 + 8 * argument + 4 * (half == "high")), (AND, 0, 0, mask), *jumps, (RETURN, 0, 0, DENY)]


def seccomp(files: bool = False) -> None:
    """From here on every system call that is not on the list fails with EPERM; one of another architecture kills."""
    machine = platform.machine()
    if machine not in ARCHITECTURES:
        raise OSError(f"no list of system calls for {machine}; there are {', '.join(ARCHITECTURES)}")
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in filter_program(machine, files))
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    _must(_prctl(PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")
    _must(libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(2), header), "seccomp filter")
