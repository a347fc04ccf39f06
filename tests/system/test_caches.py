"""Machines on which nothing can be written, caches that are damaged, temporary folders that others prepared."""
import errno
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba import config
from numba.core.caching import IndexDataCacheFile

from nanochat.system import caches, jit

ROOT = Path(__file__).parents[2]
@pytest.fixture
def place(tmp_path, monkeypatch):
    """A temporary folder of one's own, no home folder, no variables of the machine."""
    for name in ("TORCHINDUCTOR_CACHE_DIR", "XDG_CACHE_HOME", *caches.MOVED):
        monkeypatch.setenv(name, "")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/proc/no-such-home")
    monkeypatch.setattr(caches.tempfile, "tempdir", str(tmp_path))
    caches.private_folder.cache_clear()
    yield tmp_path
    caches.private_folder.cache_clear()


def test_without_a_home_all_caches_go_to_one_private_folder(place, monkeypatch):
    monkeypatch.setenv("TRITON_HOME", "/chosen/by/the/user")
    caches.prepare()
    folder = place / f"nanochat-{os.geteuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert os.environ["XDG_CACHE_HOME"] == str(folder) and os.environ["NUMBA_CACHE_DIR"] == str(folder / "numba")
    assert os.environ["TRITON_HOME"] == "/chosen/by/the/user"


def test_with_a_home_nothing_is_changed(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    before = dict(os.environ)
    caches.prepare()
    changed = {name: value for name, value in os.environ.items() if before.get(name) != value}
    assert changed == {"TORCHINDUCTOR_CACHE_DIR": f"{place}/nanochat-{os.geteuid()}/inductor"}


@pytest.mark.parametrize("home", ["/proc/no-such-home", "/no-such-home", "/dev/null", "~"])
def test_homes_that_are_none(place, monkeypatch, home):
    monkeypatch.setenv("HOME", home)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))  # a uid without a name
    caches.prepare()
    assert os.environ["XDG_CACHE_HOME"].startswith(str(place)) and not Path("/no-such-home").exists()


@pytest.mark.parametrize("trap", ["open to others", "a link", "a file", "of another user", "others may rename it"])
def test_a_folder_that_somebody_else_may_have_prepared_is_not_used(place, trap, monkeypatch):
    folder = place / f"nanochat-{os.geteuid()}"
    if trap == "open to others":
        folder.mkdir()
        folder.chmod(0o770)
    elif trap == "a link":
        (place / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(place / "elsewhere")
    elif trap == "a file":
        folder.touch()
    elif trap == "of another user":
        folder = place / "nanochat-12345"
        folder.mkdir(mode=0o700)
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
    else:
        place.chmod(0o777)
    assert caches.private_folder() is None
    caches.prepare()
    assert "NUMBA_CACHE_DIR" not in os.environ


def test_no_temporary_folder_at_all(place, monkeypatch):
    monkeypatch.setattr(caches.tempfile, "tempdir", "/proc/no-such-folder")
    assert caches.private_folder() is None
    caches.prepare()


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """`calls()` imports a module with a compiled function anew, as another process would, and calls it: how many times
    its code came from the cache."""
    (tmp_path / "twice.py").write_text(
        "from nanochat.system.jit import njit\n@njit(nogil=True)\ndef twice(x):\n    return 2 * x\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path / "cache"))
    module = importlib.import_module("twice")

    def call() -> int:
        importlib.reload(module)
        assert module.twice(3) == 6
        return sum(module.twice.stats.cache_hits.values())

    yield call
    del sys.modules["twice"]


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"", lambda data: bytes(len(data)),
                                    lambda data: b"\x80\x04c__main__\nNoSuchName\n."])
@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_a_damaged_cache_is_compiled_again_and_mended(tmp_path, calls, kind, damage):
    assert (calls(), calls()) == (0, 1)
    damaged = list((tmp_path / "cache").rglob(f"*.{kind}"))
    for path in damaged:
        path.write_bytes(damage(path.read_bytes()))
    assert damaged and (calls(), calls()) == (0, 1)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, calls, place, monkeypatch):
    monkeypatch.setattr(config, "CACHE_DIR", "/proc/no-such-cache")
    assert sys.dont_write_bytecode or shutil.rmtree(tmp_path / "__pycache__") is None
    (tmp_path / "__pycache__").touch()
    assert (calls(), calls()) == (0, 0)


def test_a_full_disk_is_done_without(calls, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(IndexDataCacheFile, "_save_index", full)
    assert (calls(), calls()) == (0, 0)


def test_another_file_with_compiled_functions_has_changed(calls, monkeypatch):
    """Its functions may be inlined into those that are cached; Numba itself would not notice."""
    assert (calls(), calls()) == (0, 1)
    monkeypatch.setattr(jit, "_digest_of_sources", lambda: "another")
    assert (calls(), calls()) == (0, 1)


def test_without_compiling_the_function_is_python(monkeypatch):
    monkeypatch.setattr(config, "DISABLE_JIT", True)
    assert (lambda f: jit.njit(nogil=True)(f) is f)(lambda: 0)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="needs root and setpriv")
def test_nobody_without_a_home_on_code_that_is_read_only(tmp_path):
    """`chat_cli --help` imports everything that compiles. Nobody may read all files here, and write none."""
    tmp_path.chmod(0o1777)
    kept = {name: value for name, value in os.environ.items() if name not in ("XDG_CACHE_HOME", *caches.MOVED)}
    done = subprocess.run(
        ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=+dac_read_search",
         "--ambient-caps=+dac_read_search", sys.executable, "-m", "scripts.chat_cli", "--help"], cwd=ROOT,
        capture_output=True, encoding="utf-8", env={**kept, "HOME": "/no-such-home", "TMPDIR": str(tmp_path)})
    assert done.returncode == 0 and "--prompt" in done.stdout and not done.stderr, done.stderr


@pytest.mark.parametrize("package", ["nanochat", "scripts", "course"])
@pytest.mark.parametrize("given, expected", [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"),
                                             ({"OMP_WAIT_POLICY": "active"}, None)])
def test_openmp_is_told_not_to_wait_busily_before_pytorch_loads_it(package, given, expected):
    env = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    code = f"import {package}, os, sys; assert 'torch' not in sys.modules; print(os.environ.get('GOMP_SPINCOUNT'))"
    shown = subprocess.run([sys.executable, "-c", code], env=env | given, capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == str(expected)


def test_stored_machine_code_is_stale_after_a_change_of_any_file_that_it_is_made_of(tmp_path, monkeypatch):
    """Also of files that only generate LLVM IR: after a change of packed_dot.py the old loop went on running."""
    shutil.copytree(Path(jit.__file__).parents[1], tmp_path / "nanochat", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(jit, "__file__", str(tmp_path / "nanochat/system/jit.py"))
    digest = jit._digest_of_sources.__wrapped__
    for name, matters in (("infer/packed_dot.py", True), ("infer/products.py", True), ("tokenizer/intrinsics.py", True),
                          ("tokenizer/count.py", True), ("model/gpt.py", False)):
        before = digest()
        with open(tmp_path / "nanochat" / name, "a", encoding="utf-8") as file:
            file.write("# changed\n")
        assert (digest() != before) == matters, name
