"""At least 60 attacks, each proven to work without the sandbox; none does in it: root, ordinary user, no namespaces."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOBODY = 65534
pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() != "x86_64", reason="the attacks are written for Linux on x86-64")


def start(*arguments: str, root: Path = ROOT, python: str = sys.executable, **options) -> subprocess.Popen:
    command = [python, str(root / "tests/sandbox/attacks.py"), *arguments]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.Popen(command, env=environment, cwd="/", stdout=subprocess.PIPE, text=True, **options)


def report(process: subprocess.Popen) -> dict:
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0
    return json.loads(output)


@pytest.fixture(scope="module")
def public_copy():
    """What the attacks need of the repository, where an ordinary user can read it; and a Python that he can run."""
    folder = Path(tempfile.mkdtemp())
    for room in ("nanochat/sandbox", "nanochat/system"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("nanochat/__init__.py", "tests/sandbox/attacks.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    subprocess.run(["chmod", "-R", "a+rX", folder], check=True)
    yield folder
    shutil.rmtree(folder)


def python_for(user: int) -> str:
    for python in (os.path.realpath(sys.executable), *(f"/usr/bin/python3.{minor}" for minor in range(14, 10, -1))):
        test = subprocess.run(["/usr/bin/env", python, "-c", ""], user=user, capture_output=True)
        if test.returncode == 0:
            return python
    return ""


AS_NOBODY = {"user": NOBODY, "group": NOBODY, "extra_groups": []}


@pytest.fixture(scope="module")
def reports(public_copy) -> dict[str, dict]:
    """What got through: as we are with the proof, where namespaces are forbidden, and as an ordinary user; at once."""
    processes = {"ours": start("--proof"), "no namespaces": start("--no-namespaces")}
    if os.getuid() == 0 and (python := python_for(NOBODY)):
        processes["nobody"] = start(root=public_copy, python=python, **AS_NOBODY)
    return {name: report(process) for name, process in processes.items()}


def test_no_attack_gets_through_and_each_would_without_the_sandbox(reports):
    assert reports["ours"]["protected"] == []
    assert len(reports["ours"]["unprotected"]) >= 60, "too few attacks are proven to work without the sandbox"


def test_no_attack_gets_through_where_namespaces_are_forbidden(reports):
    assert reports["no namespaces"]["protected"] == []


def test_no_attack_gets_through_as_an_ordinary_user(reports):
    if os.getuid() != 0:
        pytest.skip("the first test ran as an ordinary user; only root can become another")
    if "nobody" not in reports:
        pytest.skip("no Python >= 3.11 on this machine that an ordinary user may execute")
    assert (reports["nobody"]["protected"], reports["nobody"]["uid"]) == ([], NOBODY)


@pytest.mark.slow
def test_the_attacks_work_for_an_ordinary_user_too(public_copy):
    if os.getuid() != 0 or not python_for(NOBODY):
        pytest.skip("needs root, to become another user, and a Python >= 3.11 that he may execute")
    found = report(start("--proof", root=public_copy, python=python_for(NOBODY), **AS_NOBODY))
    assert found["protected"] == []
    assert len(found["unprotected"]) >= 60, "too few attacks are proven to work without the sandbox"
