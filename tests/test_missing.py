"""The locked versions, and what a test run says about the things that this machine lacks."""
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from . import conftest, missing

ROOT = Path(__file__).resolve().parents[1]


def test_every_dependency_is_locked_within_its_range():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+( ; .*)?", line) for line in lines), "no addresses, no hashes"
    locked = [Requirement(line) for line in lines]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.15"
    for minor in (11, 12, 13, 14):
        for system in ("linux", "darwin"):
            machine = dict(python_full_version=f"3.{minor}.0", python_version=f"3.{minor}", sys_platform=system,
                           platform_machine="arm64" if system == "darwin" else "x86_64")
            pins = [pin for pin in locked if not pin.marker or pin.marker.evaluate(machine)]
            versions = {pin.name: str(pin.specifier)[2:] for pin in pins}
            for text in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
                wanted = Requirement(text)
                version = Version(versions[wanted.name.replace("_", "-")])
                assert version in wanted.specifier, f"{text}: locked is {version}"


def test_what_is_missing_is_told_with_its_command(monkeypatch):
    monkeypatch.setattr(missing, "ROOT", Path("/nowhere"))
    assert ".sh" in missing.around_the_server()[0]
    monkeypatch.undo()
    for name in ("find_browser", "has_gpu", "around_the_server"):
        monkeypatch.setattr(missing, name, lambda: [])
    monkeypatch.setattr(missing, "is_installed", lambda package: package not in ("tiktoken", "lm-eval"))
    browser, dev, peers, gpu = missing.report()
    assert "page" in browser and "chromium" in browser
    assert "tiktoken" in dev and "setup.sh --dev" in dev and "lm-eval" in peers and "-m gpu" in gpu
    for name in ("find_browser", "has_gpu", "is_installed"):
        monkeypatch.setattr(missing, name, lambda *_: True)
    assert missing.report() == []


def test_a_browser_is_found_by_any_name_if_it_starts(tmp_path, monkeypatch):
    for name, code in (("chromium-browser", 1), ("google-chrome", 0)):  # the first one only says how to install it
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {code}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert missing.find_browser.__wrapped__() == str(tmp_path / "google-chrome")


@pytest.mark.parametrize("ci, skipped, code", [
    ("true", "tests/serve/page/test_modules.py::test_x", 1), ("true", "tests/train/test_nodes.py::test_x", 0),
    ("true", "tests/serve/test_other_clients.py::test_the_real_clients[with_llm]", 1),
    ("true", "tests/serve/test_other_clients.py::test_the_real_clients[with_openai_node]", 0),
    ("", "tests/serve/page/test_modules.py::test_x", 0)])
def test_in_ci_a_skipped_test_of_the_page_or_of_a_client_is_a_failure(monkeypatch, ci, skipped, code):
    monkeypatch.setenv("CI", ci)
    reporter = SimpleNamespace(stats={"skipped": [SimpleNamespace(nodeid=skipped)]})
    plugins = SimpleNamespace(get_plugin={"terminalreporter": reporter}.get)
    session = SimpleNamespace(config=SimpleNamespace(pluginmanager=plugins), exitstatus=0)
    conftest.pytest_sessionfinish(session)
    assert session.exitstatus == code
