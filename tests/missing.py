"""What this machine lacks, which tests cannot run without it, and the command that installs it."""
import functools
import importlib.metadata
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge",
            "/Applications/Chromium.app/Contents/MacOS/Chromium",
            "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")


@functools.cache
def find_browser() -> str | None:
    """A Chromium that starts: the system's, or the one that `playwright install chromium` fetches."""
    for name in BROWSERS:
        if (path := shutil.which(name)) and starts(path):
            return path
    try:
        from playwright.sync_api import sync_playwright
        with sync_playwright() as play:
            path = play.chromium.executable_path
    except Exception:  # no playwright, or one that cannot start: then there is no test that needs the browser
        return None
    return path if Path(path).exists() and starts(path) else None


def starts(browser: str) -> bool:
    """Some systems put a script in the place of the browser that only says how to install it."""
    try:
        return subprocess.run([browser, "--version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def packages(extra: str) -> list[str]:
    """The packages of an extra of pyproject.toml that are not installed."""
    requirements = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][extra]
    names = [re.match(r"[\w-]+", requirement)[0] for requirement in requirements]
    return [name for name in names if not is_installed(name)]


def is_installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


def has_gpu() -> bool:
    """Imports torch only where there is a driver: it takes seconds."""
    if "torch" not in sys.modules and not shutil.which("nvidia-smi"):
        return False
    import torch
    return torch.cuda.is_available()


def around_the_server() -> list[str]:
    """A line for each kind of other people's programs that talk to the chat server."""
    lines = []
    if not (ROOT / ".venv-clients" / "bin" / "python").exists():
        lines.append("not tested: other people's clients of the server. To install them: "
                     "bash tests/serve/clients/install.sh")
    if programs := [name for name in ("nginx", "caddy") if not shutil.which(name)]:
        lines.append(f"not tested: the server behind {' and '.join(programs)}. To install: apt-get install "
                     f"--no-install-recommends {' '.join(programs)}")
    return lines


def report() -> list[str]:
    """One line for each thing that is missing."""
    lines = []
    if not find_browser():
        command = "apt-get install --no-install-recommends chromium" if shutil.which("apt-get") else (
            ".venv/bin/playwright install chromium")
        lines.append(f"not tested: the chat page in a browser; there is no Chromium. To install it: {command}")
    if names := packages("dev"):
        lines.append(f"not tested: what needs {', '.join(names)}. To install them: bash setup.sh --dev")
    if names := packages("peers"):
        lines.append(f"not tested: our exams beside those of others, which need {', '.join(names)}. To install them: "
                     ".venv/bin/python -m pip install --editable '.[peers]'")
    lines += around_the_server()
    if not has_gpu():
        lines.append("not tested: what needs a GPU; torch sees none. On a machine with one: bash test.sh -m gpu")
    return lines
