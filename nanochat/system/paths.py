"""Where things lie. One folder holds everything a run makes (`out/`); delete it to start over.

NANOCHAT_BASE_DIR moves that folder; NANOCHAT_DATA points at text and task files kept elsewhere (read only).
Functions, not constants: the tests and `--out`/`--data` change the environment after import.
"""
import os
from pathlib import Path

from nanochat.system.files import UserError

REPO = Path(__file__).resolve().parents[2]
STAGES = ("base", "mid", "sft", "rl")  # the model-making stages, in order


def base_dir() -> Path:
    """The folder of this run; made by whoever writes into it."""
    return Path(os.environ.get("NANOCHAT_BASE_DIR") or REPO / "out").expanduser().absolute()


def data_dir() -> Path:
    """Text shards (`text/`) and task files (`<family>/<name>-<split>.jsonl`)."""
    return Path(os.environ.get("NANOCHAT_DATA") or base_dir() / "data").expanduser().absolute()


def tokenizer_dir() -> Path:
    return base_dir() / "tokenizer"


def checkpoint_dir(stage: str, tag: str = "") -> Path:
    """`out/checkpoints/<stage>[/<tag>]`; tags are named after the depth: d4, d20."""
    if tag != Path(tag).name or tag == "..":
        raise UserError(f"--model_tag={tag} is no plain name; give one without slashes, e.g. d4")
    return base_dir() / "checkpoints" / stage / tag


def results_dir(stage: str) -> Path:
    return base_dir() / "results" / stage


def report_dir() -> Path:
    return base_dir() / "report"
