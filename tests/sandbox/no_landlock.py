"""Runs a command as on a machine without Landlock: `python tests/sandbox/no_landlock.py COMMAND…`

A seccomp filter, which all its children inherit, answers "function not implemented" (ENOSYS) to the system calls 444 to
446, as kernels before 5.13, gVisor and some WSL do. Needs Linux and nothing of this project.
"""
import ctypes
import errno
import os
import struct
import sys

LANDLOCK_CALLS = (444, 445, 446)  # the same numbers on every architecture
LOAD, JUMP_EQUAL, RETURN = 0x20, 0x15, 0x06  # classic BPF
ALLOW, FAIL = 0x7FFF0000, 0x00050000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2


def forbid(calls: tuple[int, ...] = LANDLOCK_CALLS, error: int = errno.ENOSYS) -> None:
    """From now on these system calls fail with `error` in this process and all that it starts."""
    program = [(LOAD, 0, 0, 0)]  # the number of the call
    for number in calls:
        program += [(JUMP_EQUAL, 0, 1, number), (RETURN, 0, 0, FAIL | error)]
    code = b"".join(struct.pack("HBBI", *line) for line in [*program, (RETURN, 0, 0, ALLOW)])
    memory = ctypes.create_string_buffer(code, len(code))
    header = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(memory))  # struct sock_fprog
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value, pointer in ((PR_SET_NO_NEW_PRIVS, 1, None), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, header)):
        if libc.prctl(option, ctypes.c_ulong(value), pointer, ctypes.c_ulong(0), ctypes.c_ulong(0)):
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    forbid()
    os.execvp(sys.argv[1], sys.argv[1:])
