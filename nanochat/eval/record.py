"""The records of every evaluation: which weights it measured, and the command itself."""
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from nanochat.system import files, log, results


def identity(state: dict[str, Any]) -> dict[str, Any]:
    """Identifies the measured weights; `state` is from `checkpoint.load_model`. Scores of other weights are kept
    separately."""
    return {"step": state["step"], "tag": state["tag"], "model": state["sha256"]["model.safetensors"][:12]}


def write_run(name: str, folder: Path, args: Namespace, started: float) -> None:
    """`folder/run.json`, for the report; the record of a command with other flags is kept in `earlier/`."""
    path = folder / "run.json"
    if log.is_main() and path.exists() and files.read_json(path).get("flags") != vars(args):
        results.keep_earlier(path)
    log.write_run(name, folder=folder, seconds=time.monotonic() - started, flags=vars(args))
