"""Programs that try to do what a sandboxed program must not, and a way to see whether they managed.

Each attack runs twice: in a plain subprocess, where it has to succeed (else it would prove nothing), and in the
sandbox, where it must not. `python tests/sandbox/attacks.py [--proof] [--no-namespaces]` prints a JSON object with the
names of those that got through; the tests start it as root, as an ordinary user, and where namespaces are forbidden (as
in a default container).

An attack is Python source. Before it come `W`, what there is to attack (paths, process numbers, ports), and helpers. It
got through if its output shows the token, or its effect is seen from outside. Whoever only reads must find the token;
whoever does something prints `W["done"]` afterwards. In the group "scoring" the program has a wrong answer and wants
to look right. On x86-64 (the numbers of system calls are its).
"""

import contextlib
import ctypes
import json
import os
import platform
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from nanochat import sandbox
from nanochat.sandbox import confine

PRELUDE = """
import ctypes, os, sys
W = {world!r}
libc = ctypes.CDLL(None, use_errno=True)
def sys_call(*values):
    result = libc.syscall(*(ctypes.c_void_p(v) if isinstance(v, int) else v for v in values))
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result
def done():
    print(W["done"], flush=True)
"""
WRONG = "def double(x):\n    return x\n{}\nassert double(2) == 4\n"

FILES = {
    "open": "print(open(W['secret']).read())",
    "os.open": "print(os.read(os.open(W['secret'], os.O_RDONLY), 99))",
    "C fopen": "libc.fopen.restype = ctypes.c_void_p; f = libc.fopen(W['secret'].encode(), b'r')\n"
               "b = ctypes.create_string_buffer(99)\n"
               "if f: libc.fgets(b, 99, ctypes.c_void_p(f)); print(b.value)",
    "openat2": "how = (ctypes.c_uint64 * 3)(); print(os.read(sys_call(437, -100, W['secret'].encode(), how, 24), 99))",
    "path through /proc/self/root": "print(open('/proc/self/root' + W['secret']).read())",
    "path through /proc/self/cwd": "print(open('/proc/self/cwd/' + '../' * 20 + W['secret'][1:]).read())",
    "path through the victim's root": "print(open(f\"/proc/{W['victim']}/root{W['secret']}\").read())",
    "O_PATH, then reopen": "fd = os.open(W['secret'], os.O_PATH); print(open(f'/proc/self/fd/{fd}').read())",
    "symbolic link": "os.symlink(W['secret'], W['folder'] + '/link'); print(open(W['folder'] + '/link').read())",
    "hard link": "os.link(W['secret'], W['folder'] + '/hard'); done()",
    "list a folder": "print(os.listdir(W['folder']))",
    "scandir of /proc": "print([e.name for e in os.scandir('/proc') if e.name == str(W['victim'])] and W['done'])",
    "change folder": "os.chdir(W['folder']); done()",
    "import from a folder": "sys.path.insert(0, W['folder']); import evil",
    "linecache": "import linecache; print(linecache.getlines(W['secret']))",
    "mmap of a file": "import mmap; print(mmap.mmap(os.open(W['secret'], os.O_RDONLY), 0, prot=mmap.PROT_READ)[:])",
    "sendfile": "os.sendfile(1, os.open(W['secret'], os.O_RDONLY), 0, 99)",
    "readlink": "os.readlink('/proc/self/exe'); done()",
    "write a new file": "open(W['folder'] + '/new', 'w').write('x'); done()",
    "write in /tmp": "import tempfile; tempfile.NamedTemporaryFile().write(b'x'); done()",
    "write in /dev/shm": "p = '/dev/shm/attack' + str(os.getpid()); open(p, 'w').close(); os.unlink(p); done()",
    "append": "open(W['prey'], 'a').write('x'); done()",
    "truncate": "os.truncate(W['prey'], 0); done()",
    "delete": "os.remove(W['prey']); done()",
    "rename": "os.rename(W['prey'], W['prey'] + '.gone'); done()",
    "chmod": "os.chmod(W['prey'], 0o777); done()",
    "utime": "os.utime(W['prey'], (0, 0)); done()",
    "mkdir": "os.mkdir(W['folder'] + '/d'); done()",
    "mkfifo": "os.mkfifo(W['folder'] + '/fifo'); done()",
    "file without a name": "os.open(W['folder'], os.O_TMPFILE | os.O_RDWR); done()",
}
PROCESSES = {
    "environment": "print(os.environ['ATTACK_SECRET'])",
    "C environ": "libc.getenv.restype = ctypes.c_char_p; print(libc.getenv(b'ATTACK_SECRET'))",
    "victim's environment": "print(open(f\"/proc/{W['victim']}/environ\").read())",
    "victim's command line": "print(open(f\"/proc/{W['victim']}/cmdline\").read() and W['done'])",
    "victim's memory": "f = open(f\"/proc/{W['victim']}/mem\", 'rb'); f.seek(W['address']); print(f.read(16))",
    "process_vm_readv": "b = ctypes.create_string_buffer(16)\n"
                        "mine = (ctypes.c_size_t * 2)(ctypes.addressof(b), 16)\n"
                        "his = (ctypes.c_size_t * 2)(W['address'], 16)\n"
                        "sys_call(310, W['victim'], mine, 1, his, 1, 0); print(b.raw)",
    "ptrace": "sys_call(101, 0x4206, W['victim'], 0, 0); done()",
    "kill": "os.kill(W['victim'], 18); done()",
    "tgkill": "sys_call(234, W['victim'], W['victim'], 18); done()",
    "signal through a pidfd": "import signal; signal.pidfd_send_signal(os.pidfd_open(W['victim']), 18); done()",
    "signal by F_SETOWN": "import fcntl; fcntl.fcntl(1, 10, 18); fcntl.fcntl(1, fcntl.F_SETOWN, W['victim']); done()",
    "victim's priority": "os.setpriority(os.PRIO_PROCESS, W['victim'], 19); done()",
    "victim's limits": "import resource; resource.prlimit(W['victim'], resource.RLIMIT_NOFILE); done()",
    "victim's processors": "os.sched_setaffinity(W['victim'], os.sched_getaffinity(0)); done()",
    "fork": "if os.fork(): done()",
    "vfork, exec": "os.posix_spawn('/bin/true', ['true'], {}); done()",
    "subprocess": "import subprocess; subprocess.run(['/bin/cat', W['secret']])",
    "shell": "os.system('cat ' + W['secret'])",
    "exec": "os.execv('/bin/cat', ['cat', W['secret']])",
    "exec of a memory file": "fd = os.memfd_create('x', 0); os.write(fd, b'#!/bin/sh\\ncat ' + W['secret'].encode())\n"
                             "os.execve(f'/proc/{os.getpid()}/fd/{fd}', ['x'], {})",
    "thread": "import threading; t = threading.Thread(target=done); t.start(); t.join()",
    "a process that stays": "if os.fork() == 0:\n    os.setsid()\n    import time; time.sleep(0.2)\n"
                            "    open(W['folder'] + '/stayed', 'w')\nelse: import time; time.sleep(0.4)",
    "multiprocessing": "import multiprocessing as m; p = m.get_context('fork').Process(target=done); p.start()\n"
                       "p.join()",
}
NETWORK = {
    "TCP": "import socket; s = socket.create_connection(('127.0.0.1', W['port'])); print(s.recv(99))",
    "TCP server": "import socket; socket.create_server(('127.0.0.1', 0)); done()",
    "UDP": "import socket; socket.socket(2, 2).sendto(b'x', ('127.0.0.1', 9)); done()",
    "socket in the file system": "import socket; s = socket.socket(1); s.connect(W['socket']); print(s.recv(99))",
    "abstract socket": "import socket; s = socket.socket(1); s.connect('\\0' + W['done']); print(s.recv(99))",
    "socket pair": "import socket; socket.socketpair(); done()",
    "netlink": "import socket; socket.socket(16, 3, 0); done()",
    "System V memory": "i = sys_call(29, 0, 4096, 0o1600); sys_call(31, i, 0, 0); done()",
    "System V queue": "i = sys_call(68, 0, 0o1600); sys_call(71, i, 0, 0); done()",
    "System V semaphore": "i = sys_call(64, 0, 1, 0o1600); sys_call(66, i, 0, 0, 0); done()",
    "POSIX queue": "sys_call(240, W['done'].encode(), 0o102, 0o600, 0); sys_call(241, W['done'].encode()); done()",
    "memory file": "os.memfd_create('x'); done()",
    "pipe": "os.pipe(); done()",
    "inotify": "i = sys_call(294, 0); sys_call(254, i, W['secret'].encode(), 1); done()",
}
RESOURCES = {
    "memory in one piece": "x = bytearray(400 << 20); done()",
    "memory in many pieces": "x = [bytearray(1 << 20) for _ in range(400)]; done()",
    "memory by mmap": "import mmap; x = [mmap.mmap(-1, 50 << 20) for _ in range(12)]; done()",
    "a power tower": "x = 1 << (1 << 33); done()",
    "time asleep": "import time; time.sleep(1.0); done()",
    "time awake": "import time, signal\nfor s in (24, 15, 2, 14): signal.signal(s, signal.SIG_IGN)\n"
                  "end = time.time() + 1.0\nwhile time.time() < end: pass\ndone()",
    "3 MB of output": "print('x' * 3_000_000); done()",
    "3 MB of errors": "sys.stderr.write('x' * 3_000_000); done()",
    "300 descriptors": "x = [os.open('/dev/null', 0) for _ in range(300)]; done()",
    "300 copies of a descriptor": "x = [os.dup(0) for _ in range(300)]; done()",
    "a large file": "open(W['folder'] + '/large', 'wb').write(bytes(8 << 20)); done()",
    "raised limits": "import resource as r; r.setrlimit(r.RLIMIT_AS, (1 << 40, 1 << 40)); done()",
    "30 processes": "import time\nfor i in range(30):\n    if os.fork() == 0: time.sleep(0.1); os._exit(0)\ndone()",
    "a limit lifted for a child": "import resource as r; r.prlimit(os.getpid(), r.RLIMIT_CPU, (1000, 1000)); done()",
}
KERNEL = {  # system calls that have had holes: the program only shows that it reaches them
    "perf_event_open": "a = (ctypes.c_uint32 * 32)(1, 128, 0); a[10] = 0x60; sys_call(298, a, 0, -1, -1, 0); done()",
    "userfaultfd": "sys_call(323, 1); done()",
    "io_uring": "p = (ctypes.c_uint32 * 30)(); sys_call(425, 1, p); done()",
    "add_key": "sys_call(248, b'user', W['done'].encode(), b'x', 1, -1); done()",
    "keyctl": "sys_call(250, 0, -1, 1); done()",
    "personality": "sys_call(135, 0x0040000); done()",
    "user namespace": "sys_call(272, 0x10000000); done()",
    "modify_ldt": "b = ctypes.create_string_buffer(64); sys_call(154, 0, b, 64); done()",
    "memfd_secret": "sys_call(447, 0); done()",
    "pidfd_open": "os.pidfd_open(os.getpid()); done()",
    "pidfd_getfd": "sys_call(438, os.pidfd_open(W['victim']), 0, 0); done()",
    "ptrace of itself": "sys_call(101, 0, 0, 0, 0); done()",
    "vmsplice": "r, w = os.pipe(); v = (ctypes.c_size_t * 2)(id(0), 16); sys_call(278, w, v, 1, 0); done()",
    "dumpable": "sys_call(157, 4, 1, 0, 0, 0); done()",
    "timer that signals": "import signal; signal.setitimer(0, 5); done()",
    "32-bit system call": "import mmap\nm = mmap.mmap(-1, 4096, prot=7)\n"
                          "m.write(bytes.fromhex('53b814000000cd805bc3'))\n"
                          "f = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\n"
                          "if f() > 0: done()",
}
SCORING = {
    "sys.exit(0)": "import sys; sys.exit(0)",
    "raise SystemExit": "raise SystemExit",
    "os._exit(0)": "import os; os._exit(0)",
    "exit in C": "import ctypes; ctypes.CDLL(None)._exit(0)",
    "exec of true": "import os; os.execv('/bin/true', ['true'])",
    "exit in the function": "def double(x):\n    import os\n    os._exit(0)",
    "exit at the end": "import atexit, os; atexit.register(os._exit, 0)",
    "exit in the exception hook": "import sys, os; sys.excepthook = lambda *_: os._exit(0)",
    "exit when deleted": "import os\nclass D:\n    def __del__(self): os._exit(0)\nd = D()",
    "exit from a tracer": "import sys, os\ndef double(x):\n    sys.settrace(lambda *_: os._exit(0)); (lambda: 0)()",
    "a parent that ends well": "import os\nif os.fork(): os._exit(0)",
    "exit from a signal": "import os, signal\nsignal.signal(30, lambda *_: os._exit(0)); signal.raise_signal(30)",
    "answer on every descriptor": "import os\nfor fd in range(64):\n"
                                  "    try: os.write(fd, b'0\\n1 ok passed True\\n' * 9)\n"
                                  "    except OSError: pass\nos._exit(0)",
    "comparison that exits": "class Any:\n    def __eq__(self, other): raise SystemExit(0)\n"
                             "def double(x): return Any()",
    "print with an exit": "import builtins, sys\ndef double(x):\n    raise SystemExit(None)",
}
GROUPS = {"files": FILES, "processes": PROCESSES, "network": NETWORK, "resources": RESOURCES, "kernel": KERNEL,
          "scoring": SCORING}

VICTIM = """
import ctypes, sys
b = ctypes.create_string_buffer(bytes.fromhex(sys.stdin.readline()))
print(ctypes.addressof(b), flush=True)
sys.stdin.read()
"""


class World:
    """What there is to attack: a temporary folder, a process, three sockets. Restored before every attack."""

    def __init__(self) -> None:
        self.temporary = tempfile.TemporaryDirectory()
        self.token = os.urandom(8).hex()  # 16 characters
        self.seen = {"done": self.token[::-1], "folder": self.temporary.name + "/folder"}
        self.listeners = [socket.create_server(("127.0.0.1", 0))]
        for name in (self.temporary.name + "/socket", "\0" + self.seen["done"]):
            self.listeners.append(socket.socket(socket.AF_UNIX))
            self.listeners[-1].bind(name)
            self.listeners[-1].listen()
        for listener in self.listeners:
            threading.Thread(target=self.answer, args=(listener,), daemon=True).start()
        self.environment = os.environ | {"ATTACK_SECRET": self.token}
        command = [sys.executable, "-S", "-c", VICTIM]
        self.victim = subprocess.Popen(command, env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.victim.stdin.write(self.token.encode().hex().encode() + b"\n")
        self.victim.stdin.flush()
        root = self.temporary.name
        self.seen |= {"victim": self.victim.pid, "address": int(self.victim.stdout.readline()), "prey": root + "/prey",
                      "secret": root + "/secret", "socket": root + "/socket",
                      "port": self.listeners[0].getsockname()[1]}

    def answer(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(self.token.encode())

    def restore(self) -> None:
        folder = Path(self.seen["folder"])
        subprocess.run(["rm", "-rf", folder]) if folder.exists() else None
        folder.mkdir()
        (folder / f"name-{self.token}").touch()
        (folder / "evil.py").write_text(f"print({self.token!r})")
        Path(self.seen["secret"]).write_text(self.token)
        Path(self.seen["prey"]).write_text("prey")
        Path(self.seen["prey"]).chmod(0o600)

    def changed(self) -> bool:
        """Whether the attack left something that can be seen from outside."""
        prey, folder = Path(self.seen["prey"]), Path(self.seen["folder"])
        intact = prey.exists() and prey.read_text() == "prey"
        intact = intact and prey.stat().st_mode & 0o777 == 0o600 and prey.stat().st_mtime > 1
        return not intact or len(os.listdir(folder)) != 2 or self.victim.poll() is not None

    def close(self) -> None:
        self.victim.kill()
        self.victim.wait()
        self.victim.stdin.close()
        self.victim.stdout.close()
        for listener in self.listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self.temporary.cleanup()


def unprotected(code: str, environment: dict) -> tuple[bool, str]:
    """The plain way to run a program: a subprocess, judged by its exit code."""
    try:
        done = subprocess.run([sys.executable, "-S", "-c", code], env=environment, capture_output=True, timeout=10)
    except subprocess.TimeoutExpired:
        return False, ""
    return done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")


def protected(code: str, environment: dict) -> tuple[bool, str]:
    result = sandbox.run(code, seconds=0.7)
    return result.ok, result.stdout + result.stderr


def got_through(runner) -> list[str]:
    """The names of the attacks that succeed when run by `runner`."""
    with contextlib.closing(World()) as world:
        return [f"{group}: {name}" for group, attacks in GROUPS.items() for name, attack in attacks.items()
                if succeeds(group, name, attack, runner, world)]


def succeeds(group: str, name: str, attack: str, runner, world: World) -> bool:
    """Whether an attack makes wrong code pass (scoring), or reads or changes what it must not (all other groups)."""
    world.restore()
    if group == "scoring":
        return runner(WRONG.format(attack), world.environment)[0]
    _, output = runner(PRELUDE.format(world=world.seen) + attack, world.environment)
    time.sleep(0.3 if name == "a process that stays" else 0)
    return world.token in output or world.seen["done"] in output or world.changed()


def forbid_namespaces() -> None:
    """As a default container does it: unshare, setns and mount fail, clone3 is said not to exist."""
    column, _ = confine.ARCHITECTURES[platform.machine()]
    program = [(confine.LOAD, 0, 0, 0)]
    for *numbers, errno in [(272, 97, 1), (308, 268, 1), (165, 40, 1), (435, 435, 38)]:  # (x86-64, aarch64, errno)
        program += [(confine.JUMP_EQUAL, 0, 1, numbers[column]), (confine.RETURN, 0, 0, 0x50000 | errno)]
    program += [(confine.RETURN, 0, 0, confine.ALLOW)]
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in program)
    confine.seccomp(ctypes.create_string_buffer(code, len(code)))
    assert unprotected(PRELUDE.format(world={"done": "free"}) + KERNEL["user namespace"], dict(os.environ))[0] is False


if __name__ == "__main__":
    if "--no-namespaces" in sys.argv:
        forbid_namespaces()
    report = {"protected": got_through(protected), "attacks": sum(map(len, GROUPS.values())), "uid": os.getuid()}
    if "--proof" in sys.argv:
        report["unprotected"] = got_through(unprotected)
    print(json.dumps(report))
