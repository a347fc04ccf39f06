"""Paths. One folder, `out/`, holds everything that a run makes; delete it to start again.

NANOCHAT_BASE_DIR moves that folder. NANOCHAT_DATA names a folder of text and task files elsewhere, which is only read.
These are functions, not constants, because the tests and `--out` change the environment after the import.
"""
import os
import subprocess
from pathlib import Path

from nanochat.system.files import UserError

REPO = Path(__file__).resolve().parents[2]
STAGES = ("base", "mid", "sft", "rl")  # the stages that train a model, in order
SUGGESTIONS = "kindergarten/suggestions.json"  # in a data folder: example questions for the chat page


def base_dir() -> Path:
    """The folder of this run. It may not exist: every function that writes into it makes it first."""
    return Path(os.environ.get("NANOCHAT_BASE_DIR") or REPO / "out").expanduser().absolute()


def data_dir() -> Path:
    """Text shards (`text/`) and task files (`<family>/<name>-<split>.jsonl`)."""
    return Path(os.environ.get("NANOCHAT_DATA") or base_dir() / "data").expanduser().absolute()


def tokenizer_dir() -> Path:
    return base_dir() / "tokenizer"


def checkpoint_dir(stage: str, tag: str = "") -> Path:
    """`out/checkpoints/<stage>[/<tag>]`. The default tag names the depth: d4, d20."""
    if tag != Path(tag).name or tag == "..":
        raise UserError(f"--model_tag={tag} is not a plain name; give a name without slashes, e.g. d4")
    return base_dir() / "checkpoints" / stage / tag


def results_dir(stage: str) -> Path:
    return base_dir() / "results" / stage


def report_dir() -> Path:
    return base_dir() / "report"


def commit() -> str:
    """The commit of the project's folder, with "-dirty" appended if files have changed; "" outside of git."""
    # Without optional locks: on a full disk git leaves an empty index.lock, and no later commit succeeds.
    words = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(words, cwd=REPO, capture_output=True, encoding="utf-8", check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
