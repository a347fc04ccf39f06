"""Whose results lie where, so that no model's results are lost to another's.

    out/results/<stage>/…                 of one model, whose tag `model.json` names; the report reads these
    out/results/<stage>/models/<tag>/…    of every other model of the stage
    …/earlier/<number>/…                  in both: what later training, or another measurement, would have replaced

The stage's folder belongs to the newest model that was trained without --model_tag (as the recipes train), or to the
only one. A trial with a --model_tag of its own therefore leaves the results of the finished model where they are.
"""
import json
import os
import shutil
from pathlib import Path
from typing import Any

from nanochat.system import files, log, paths
from nanochat.system.files import UserError

MODELS, EARLIER = "models", "earlier"


def owner(stage: str) -> str:
    """The tag of the model whose results lie in `results/<stage>/`; "" = nobody's, "?" = not known."""
    folder = paths.results_dir(stage)
    for name in ("model.json", "chat_eval.json", "base_loss.json", "base_eval.json"):  # older code has no first
        try:
            return files.read_json(folder / name)["tag"]
        except (UserError, KeyError, TypeError):
            continue
    return "?" if _entries(folder) else ""


def folder_of(stage: str, tag: str) -> Path:
    """Where the results of this model are, or go when there are none yet."""
    main, now = paths.results_dir(stage), owner(stage)
    own = main / MODELS / tag
    return main if now == tag or now in ("", "?") and not own.exists() else own


def folder_for_training(stage: str, tag: str, named: bool) -> Path:
    """Where a model that is trained from the beginning leaves its results; `named` = the user gave --model_tag."""
    main = paths.results_dir(stage)
    return main / MODELS / tag if named and owner(stage) not in ("", tag) else main


def begin(stage: str, tag: str, folder: Path) -> None:
    """Makes `folder` the place of a model that is trained from the beginning. What lies there is moved, not lost."""
    if not log.is_main():
        return
    before = owner(stage) if folder == paths.results_dir(stage) else tag
    is_of_another = before not in ("", "?", tag)
    is_more_than_a_start = {path.name for path in _entries(folder)} - {"model.json", "metrics.jsonl"}
    with files.replacing(folder / "model.json") as temporary:
        temporary.write_bytes(json.dumps({"tag": tag}).encode())  # before anything is moved: the disk may be full
        if is_of_another or is_more_than_a_start:
            target = folder / MODELS / before if is_of_another else _next(folder)
            if _entries(target):  # an even earlier model of that name
                _move(_entries(target), _next(target))
            _move(_entries(folder), target)
            log.say(f"the results of the {stage} model {before if is_of_another else 'before'} are now in {target}")


def keep_earlier(*results: Path, copy: bool = False) -> None:
    """Moves results (files or folders of one folder) to `earlier/<number>/` beside them; `copy` leaves the files there,
    too."""
    there = [path for path in results if path.exists()]
    if there and log.is_main():
        target = _next(there[0].parent)
        _move(there, target, copy)
        log.say(f"what was measured before ({', '.join(path.name for path in there)}) is now in {target}")


def write(path: Path, content: dict[str, Any], identity: tuple[str, ...]) -> None:
    """Writes a result. One that differs in one of the fields `identity` (the model, the number of items) is kept."""
    if not log.is_main():
        return
    if path.exists():
        try:
            before = files.read_json(path)
        except UserError:  # damaged: there is nothing to keep
            before = content
        if any(before.get(name) != content.get(name) for name in identity):
            keep_earlier(path)
    files.write_json(path, content)


def _entries(folder: Path) -> list[Path]:
    """The results in a folder, without those of other models and of earlier times."""
    return [path for path in sorted(folder.glob("[!.]*")) if path.name not in (MODELS, EARLIER)]


def _next(folder: Path) -> Path:
    numbers = [int(path.name) for path in (folder / EARLIER).glob("*") if path.name.isdecimal()]
    return folder / EARLIER / str(max(numbers, default=0) + 1)


def _move(entries: list[Path], target: Path, copy: bool = False) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
        for path in entries:
            (shutil.copy2 if copy else os.rename)(path, target / path.name)
    except OSError as error:
        raise UserError(f"cannot move earlier results to {target}: {error.strerror}; "
                        "free space, or make the folder writable") from error
