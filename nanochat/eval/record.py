"""What every evaluation writes down: whose weights it measured, and the record of the command."""
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from nanochat.system import files, log, results


def identity(state: dict[str, Any]) -> dict[str, Any]:
    """Which weights were measured, for `state` as `checkpoint.load_model` gives it. Scores of others are kept apart."""
    return {"step": state["step"], "tag": state["tag"], "model": state["sha256"]["model.safetensors"][:12]}


def write_run(name: str, folder: Path, args: Namespace, started: float) -> None:
    """`folder/run.json`, for the report; the record of a command with other flags is kept in `earlier/`."""
    path = folder / "run.json"
    if log.is_main() and path.exists() and files.read_json(path).get("flags") != vars(args):
        results.keep_earlier(path)
    log.write_run(name, folder=folder, seconds=time.monotonic() - started, flags=vars(args))
