"""setup.sh and test.sh on machines made of fake programs: no package is installed, nothing comes from the network."""
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("awk", "bash", "cat", "chmod", "cksum", "cut", "df", "dirname", "env", "flock", "grep", "head", "ln", "mkdir",
         "rm", "sed", "sh", "sleep", "tail", "tr", "uname")
pytestmark = pytest.mark.skipif(not shutil.which("bash"), reason="setup.sh is a bash script")

# A Python that says what the file `says` beside it says, copies itself into .venv, and lists what pip is asked for.
PYTHON = f"""#!/bin/sh
case "$*" in
    *sys.implementation*) cat "$(dirname "$0")/says"; exit ;;
    *version_info*) cut -d" " -f2 "$(dirname "$0")/says"; exit ;;
    --version) echo "Python $(cut -d" " -f2 "$(dirname "$0")/says")"; exit ;;
    "-m venv"*) [ -z "$FAIL_VENV" ] || {{ echo "$FAIL_VENV"; exit 1; }}
                mkdir -p .venv/bin; cat "$0" > .venv/bin/python; chmod +x .venv/bin/python
                cat "$(dirname "$0")/says" > .venv/bin/says; exit 0 ;;
    "-m pip"*)  echo "$*" >> "$CALLS"; env | grep -E "^(PIP|PYTHON)" > "$CALLS.env"
                [ -z "$FAIL_PIP" ] || {{ echo "$FAIL_PIP" >&2; exit 1; }}
                case "$*" in *" uv") ln -s "$TOOLBOX/uv" .venv/bin/uv ;; esac; exit 0 ;;
    *importlib.metadata*) echo torch==2.13.0; exit ;;
    *is_available*) exit "${{TORCH_SEES_NO_GPU:-0}}" ;;
    "-c import nanochat"*) exit 0 ;;
esac
PYTHONPATH="$TOOLBOX/modules" exec {sys.executable} -S "$@"
"""
UV = """#!/bin/sh
echo "uv $*" >> "$CALLS"
case "$*" in
    venv*) mkdir -p .venv/bin; cat "$TOOLBOX/../bin/python3" > .venv/bin/python; chmod +x .venv/bin/python ;;
    *--torch-backend*) [ -z "$OFFLINE" ] || { echo "dns error" >&2; exit 2; } ;;
esac
"""
TORCH = """
import os
__version__ = "2.13.0"
class version: cuda = os.environ.get("TORCH_CUDA")
class cuda:
    device_count = lambda: 8
    get_device_name = lambda index: "Somebody H100"
class ones:
    def __init__(self, *size, device):
        if os.environ.get("TORCH_SEES_NO_GPU"): raise RuntimeError("the driver is too old\\nmore lines")
    add = lambda self, number: self
    item = lambda self: 2
"""


class Machine:
    """A checkout of setup.sh with what it reads, and a PATH with nothing but plain tools and fakes."""

    def __init__(self, folder: Path):
        self.checkout, self.bin, self.toolbox = folder / "a checkout", folder / "bin", folder / "toolbox"
        self.calls_file = folder / "calls"
        modules = self.toolbox / "modules"
        for made in (self.checkout, self.bin, modules / "torch", modules / "torch-2.13.0.dist-info"):
            made.mkdir(parents=True)
        for name in ("setup.sh", "test.sh", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.checkout)
        for tool in TOOLS:
            if path := shutil.which(tool):
                (self.bin / tool).symlink_to(path)
        (modules / "torch/__init__.py").write_text(TORCH)
        (modules / "torch-2.13.0.dist-info/METADATA").write_text("Name: torch\nVersion: 2.13.0\n")
        self.python("python3", "cpython 3.12 64 0")
        self.add("uv", UV, self.toolbox)

    def add(self, name: str, text: str, folder: Path | None = None) -> None:
        path = (folder or self.bin) / name
        path.unlink(missing_ok=True)  # it may be a link to the real program, which must not be written to
        path.write_text(text)
        path.chmod(0o755)

    def python(self, name: str, says: str) -> None:
        """Another Python, in a folder of its own, so that each says its own version."""
        folder = self.toolbox / name
        folder.mkdir(exist_ok=True)
        self.add(name, PYTHON, folder)
        (folder / "says").write_text(says + "\n")
        self.add(name, f'#!/bin/sh\nexec "{folder}/{name}" "$@"\n')

    def nvidia(self, listing: str, version: str = "", code: int = 0, seconds: int = 0) -> None:
        self.add("nvidia-smi", f"""#!/bin/sh
sleep {seconds}
[ "$1" = -L ] && echo "{listing}" || echo "{version}"
exit {code}
""")

    def run(self, *words: str, code: int = 0, shell: str = "bash", **environment: str) -> subprocess.CompletedProcess:
        settings = {"PATH": str(self.bin), "HOME": str(self.toolbox), "CALLS": str(self.calls_file),
                    "TOOLBOX": str(self.toolbox), "LANG": "C.UTF-8", **environment}
        self.calls_file.write_text("")
        done = subprocess.run([shutil.which(shell), *(words or ["setup.sh"])], cwd=self.checkout, env=settings,
                              capture_output=True, text=True, timeout=60)
        assert done.returncode == code, f"exit code {done.returncode}: {done.stdout}{done.stderr}"
        return done

    def refused(self, *words: str, code: int = 1, **environment: str) -> str:
        """The one line of an error."""
        lines = self.run(*words, code=code, **environment).stderr.splitlines()
        assert len(lines) == 1 and lines[0].startswith("setup: "), lines
        return lines[0]

    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines()

    def installed(self) -> str:
        """What the editable install of this project asked for: `.` or `.[dev]`; "" if there was none."""
        lines = [line for line in self.calls() if "--editable" in line]
        return lines[-1].split()[-1] if lines else ""


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


# ---- two environments, one stamp -------------------------------------------------------------------------------------

def test_a_run_installs_less_than_the_tests_and_theirs_serves_a_run(machine):
    assert "setup: ready. Python" in machine.run().stdout and machine.installed() == "."
    assert len(machine.run().stdout.splitlines()) == 1 and machine.calls() == [], "nothing changed"
    machine.run("setup.sh", "--dev")
    assert machine.installed() == ".[dev]"
    machine.run()
    assert machine.calls() == []


def test_the_versions_are_the_locked_ones_or_the_newest(machine):
    machine.run()
    locked = (machine.checkout / ".venv/constraints.txt").read_text()
    assert "torch==2.13.0\n" in locked and re.search(r"^numba==", locked, re.M) and "nvidia-" not in locked
    assert "--upgrade" not in machine.calls_file.read_text()
    for _ in range(2):  # what was the newest yesterday need not be today
        machine.run(NANOCHAT_NEWEST="1")
        assert "--upgrade" in machine.calls_file.read_text() and machine.installed() == "."
        assert (machine.checkout / ".venv/constraints.txt").read_text() == "torch==2.13.0\n"
    machine.run()
    assert machine.installed() == ".", "the locked versions again"


@pytest.mark.parametrize("change", ["constraints.txt", "pyproject.toml", "interrupted"])
def test_a_change_or_an_interruption_leads_to_another_install_of_the_same_kind(machine, change):
    machine.run("setup.sh", "--dev")
    if change == "interrupted":
        machine.run("setup.sh", "--dev", code=1, FAIL_PIP="Killed", NANOCHAT_NEWEST="1")
    else:
        with (machine.checkout / change).open("a") as file:
            file.write("# changed\n")
    assert "something to install" in machine.refused("setup.sh", "--check")
    machine.run()
    assert machine.installed() == ".[dev]"
    machine.run("setup.sh", "--check")


@pytest.mark.parametrize("damage", ["moved", "its python is gone", "another PYTHON"])
def test_an_environment_that_cannot_work_is_made_anew(machine, damage):
    machine.run()
    environment = {}
    (machine.checkout / ".venv/old").touch()
    if damage == "moved":
        machine.checkout = machine.checkout.rename(machine.checkout.with_name("moved ü"))
    elif damage == "another PYTHON":
        machine.python("python3.11", "cpython 3.11 64 0")
        environment["PYTHON"] = "python3.11"
    else:
        (machine.checkout / ".venv/bin/python").unlink()
    assert "making .venv anew" in machine.run(**environment).stdout
    assert machine.installed() == "." and not (machine.checkout / ".venv/old").exists()


def test_an_environment_of_somebody_elses_is_not_removed(machine):
    (machine.checkout / ".venv/bin").mkdir(parents=True)
    (machine.checkout / ".venv/precious").touch()
    assert "did not make it" in machine.refused()
    assert (machine.checkout / ".venv/precious").exists()


# ---- Pythons ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("says", ["cpython 3.15 64 0", "cpython 3.10 64 0", "cpython 2.7 64 0", "pypy 3.12 64 0",
                                  "cpython 3.13 32 0", "cpython 3.14 64 1", "Python 3.12.1", ""])
def test_an_unsuitable_python_is_passed_over_for_one_beside_it(machine, says):
    machine.python("python3", says)
    assert "3.11 to 3.14" in machine.refused()
    assert "3.11 to 3.14" in machine.refused(PYTHON="python3")
    machine.python("python3.13", "cpython 3.13 64 0")
    machine.run()
    assert (machine.checkout / ".venv/bin/says").read_text() == "cpython 3.13 64 0\n"


@pytest.mark.parametrize("name", ["/no/such/python", "python3.9", "/"])
def test_PYTHON_is_checked_even_if_there_is_nothing_to_install(machine, name):
    machine.run()
    assert f"PYTHON={name} is not" in machine.refused(PYTHON=name)


def test_uv_fetches_a_python_where_none_is_suitable(machine):
    machine.python("python3", "cpython 3.10 64 0")
    (machine.bin / "uv").symlink_to(machine.toolbox / "uv")
    machine.run()
    assert "uv venv --quiet --seed --allow-existing --python 3.13 .venv" in machine.calls()


def test_settings_for_other_environments_do_not_reach_pip(machine):
    hostile = dict(PIP_USER="1", PIP_TARGET="/x", PIP_PREFIX="/x", PIP_REQUIRE_HASHES="1", PIP_NO_DEPS="1",
                   PYTHONPATH="/x", PYTHONHOME="/x", PYTHONWARNINGS="error", CDPATH="/tmp")
    machine.run(**hostile, PIP_INDEX_URL="http://mirror")
    seen = dict(line.split("=", 1) for line in Path(f"{machine.calls_file}.env").read_text().splitlines())
    assert seen["PIP_USER"] == "0" and seen["PIP_INDEX_URL"] == "http://mirror"
    assert not {"PIP_TARGET", "PIP_PREFIX", "PIP_REQUIRE_HASHES", "PIP_NO_DEPS", "PYTHONPATH", "PYTHONHOME"} & set(seen)


# ---- failures --------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("failure, cure", [
    ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "disk is full"),
    ("NewConnectionError: Failed to establish a new connection\nERROR: No matching distribution", "network"),
    ("ProxyError('Cannot connect to proxy.')", "https_proxy"),
    ("ssl.SSLCertVerificationError: [SSL: CERTIFICATE_VERIFY_FAILED]", "PIP_CERT"),
    ("error: could not create 'x': Read-only file system", "cannot be written")])
def test_a_failed_install_is_explained_in_one_line_and_gone_on_with(machine, failure, cure):
    assert cure in machine.refused(FAIL_PIP=failure)
    machine.run()
    assert machine.installed() == "."


def test_a_failure_that_nobody_knows_is_shown(machine):
    done = machine.run(code=1, FAIL_PIP="a new kind of failure")
    assert "a new kind of failure" in done.stderr and done.stderr.splitlines()[-1].startswith("setup: ")


def test_a_python_without_venv_is_explained_and_leaves_nothing_behind(machine):
    assert "python3-venv" in machine.refused(FAIL_VENV="The virtual environment was not created: no ensurepip")
    assert not (machine.checkout / ".venv").exists()


def test_a_small_disk_and_a_read_only_clone_are_refused_at_once(machine):
    machine.add("df", "#!/bin/sh\necho Filesystem; echo disk 9 9 1048576 9% /\n")
    assert "1 GB" in machine.refused() and machine.calls() == []
    if os.geteuid():
        machine.checkout.chmod(0o555)
        assert "read-only" in machine.refused()


# ---- torch and GPUs --------------------------------------------------------------------------------------------------

linux = pytest.mark.skipif(sys.platform != "linux", reason="PyTorch's indexes are asked on Linux only")
H100 = "GPU 0: Somebody H100 (UUID: GPU-1)"
BANNER = "| NVIDIA-SMI 570.1   Driver Version: 570.1   CUDA Version: {}     |"


def backends(machine) -> set[str]:
    return {match[1] for line in machine.calls() if (match := re.search(r"--torch-backend (\S+)", line))}


@linux
@pytest.mark.parametrize("listing, version, backend", [
    (None, "", "cpu"), ("No devices were found", "", "cpu"), (H100, "12.4", "auto"), (H100, "12.8", "auto"),
    (H100, "13.0", "auto"), (f"{H100}\nGPU 1: Somebody H100", "13.2", "auto"), (H100, "", "auto")])
def test_the_build_of_torch_follows_the_driver(machine, listing, version, backend):
    if listing:
        machine.nvidia(listing, BANNER.format(version) if version else "")
    printed = machine.run().stdout
    assert backends(machine) == {backend} and any("torch==2.13.0" in line for line in machine.calls())
    assert ("8 x Somebody H100" in printed) == (backend == "auto")


@linux
def test_without_pytorchs_index_the_default_index_serves_and_the_line_says_so(machine):
    printed = machine.run(OFFLINE="1").stdout
    assert "default index serves" in printed
    assert "-m pip install --quiet --no-input torch==2.13.0" in machine.calls()


@linux
def test_without_pytorchs_index_a_driver_for_cuda_12_gets_the_last_default_build_for_it(machine):
    machine.nvidia(H100, BANNER.format("12.4"))
    machine.run(OFFLINE="1")
    assert "-m pip install --quiet --no-input torch>=2.9,<2.11" in machine.calls()


@linux
def test_a_wheel_at_hand_or_an_index_that_the_user_names_comes_first(machine):
    (machine.toolbox / "torch-2.13.0+cpu-cp312-cp312-linux_x86_64.whl").touch()
    machine.run(PIP_FIND_LINKS=f"/no/such {machine.toolbox}")
    assert backends(machine) == set()
    machine.run(NANOCHAT_TORCH_INDEX="http://index/cpu")
    assert any("--index-url http://index/cpu torch==2.13.0" in line for line in machine.calls())
    machine.run()
    assert machine.calls() == [], "the index is remembered"


@pytest.mark.parametrize("fake, problem", [
    (dict(listing=H100, version=BANNER.format("11.4")), "CUDA 11.4"),
    (dict(listing="NVIDIA-SMI has failed because it couldn't communicate with the driver", code=9), "nvidia-smi fails"),
    (dict(listing="%$§!"), "nvidia-smi fails"),
    pytest.param(dict(listing=H100, seconds=30), "nvidia-smi fails", marks=linux)])
def test_a_driver_in_trouble_ends_set_up_before_anything_is_installed(machine, fake, problem):
    if real := shutil.which("timeout"):
        machine.add("timeout", f'#!/bin/sh\nshift\nexec {real} 0.5 "$@"\n')
    machine.nvidia(**fake)
    line = machine.refused(code=3)
    assert problem in line and "NANOCHAT_ALLOW_CPU=1" in line and machine.calls() == []
    assert "going on without the GPU" in machine.run(NANOCHAT_ALLOW_CPU="1").stdout


def test_a_gpu_that_torch_cannot_use_ends_every_set_up_with_a_code_of_its_own(machine):
    machine.nvidia(H100)
    for _ in range(2):
        line = machine.refused(code=3, TORCH_SEES_NO_GPU="1", TORCH_CUDA="13.0")
        assert "CUDA 13.0" in line and "driver" in line and "NANOCHAT_ALLOW_CPU=1" in line
    assert machine.calls() == [], "but installs only once"
    done = machine.run(TORCH_SEES_NO_GPU="1", NANOCHAT_ALLOW_CPU="1")
    assert "going on without the GPU" in done.stdout and "no GPU" in done.stdout.splitlines()[-1]
    assert "no GPU" in machine.run(TORCH_SEES_NO_GPU="1", CUDA_VISIBLE_DEVICES="").stdout, "the user hides the GPUs"


@linux
def test_a_new_gpu_gets_another_build_and_a_missing_gpu_changes_nothing(machine):
    machine.run()
    machine.nvidia(H100, BANNER.format("12.8"))
    machine.run(TORCH_SEES_NO_GPU="1", code=3)
    assert any("--torch-backend auto --force-reinstall torch==2.13.0" in line for line in machine.calls())
    (machine.bin / "nvidia-smi").unlink()
    machine.run()
    assert machine.calls() == []


# ---- the commands ----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("script", ["setup.sh", "test.sh"])
@pytest.mark.skipif(not shutil.which("dash"), reason="needs a shell that is not bash")
def test_another_shell_is_told_to_use_bash(machine, script):
    done = machine.run(script, code=2, shell="dash")
    assert done.stderr.splitlines() == [f"{script} is a bash script; run: bash {script}"] and not done.stdout


def test_unknown_flags_and_help(machine):
    assert "--dev" in machine.run("setup.sh", "--help").stdout
    assert "unknown flag --devel" in machine.refused("setup.sh", "--devel", code=2)


def test_test_sh_checks_the_style_and_hands_its_arguments_to_pytest(machine):
    machine.run("setup.sh", "--dev")
    for checker in ("ruff", "mypy"):
        machine.add(checker, f'#!/bin/sh\necho "{checker} $*" >> "$CALLS"\n', machine.checkout / ".venv/bin")
    python = machine.checkout / ".venv/bin/python"
    pytest_case = 'case\n    "-m pytest"*) echo "$*" >> "$CALLS"; exit 0 ;;'
    python.write_text(python.read_text().replace('case "$*" in', f'case "$*" in{pytest_case[4:]}', 1))
    machine.nvidia(H100)  # the tests need no GPU, so a GPU that does not work does not stop them
    machine.run("test.sh", TORCH_SEES_NO_GPU="1")
    style, types, tests = machine.calls()[-3:]
    assert style.startswith("ruff check") and types.startswith("mypy")
    assert "pytest --quiet" in tests and "--numprocesses" in tests
    machine.run("test.sh", "tests/x y", "-k", "a or b", TORCH_SEES_NO_GPU="1")
    assert machine.calls()[-1].endswith("tests/x y -k a or b") and not any("ruff" in line for line in machine.calls())


def test_shell_scripts_parse_and_the_gate_is_the_documented_command():
    for path in [*ROOT.glob("*.sh"), *(ROOT / "runs").glob("*.sh"), *(ROOT / ".ci").iterdir()]:
        subprocess.run(["bash", "-n", path], check=True)
    assert (ROOT / ".ci/run").read_text().strip().splitlines()[-1] == "bash test.sh"
