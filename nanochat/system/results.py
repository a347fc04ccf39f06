"""The folder of each model's results, so that no model replaces the results of another.

    out/results/<stage>/…                 results of one model, whose tag is in `model.json`; the report reads these
    out/results/<stage>/models/<tag>/…    results of every other model of the stage
    …/earlier/<number>/…                  in both: results that later training or another measurement would replace

The folder of a stage belongs to the newest model that was trained without --model_tag, as the recipes train, or to the
only model. So a trial with its own --model_tag leaves the results of the finished model where they are.
"""
import json
import os
import shutil
from pathlib import Path
from typing import Any

from nanochat.system import files, log, paths
from nanochat.system.files import UserError

MODELS, EARLIER = "models", "earlier"  # names of subfolders


def owner(stage: str) -> str:
    """The tag of the model whose results are in `results/<stage>/`; "" = there are none, "?" = not known."""
    folder = paths.results_dir(stage)
    # Older versions wrote no model.json, but their other results have the tag.
    for name in ("model.json", "chat_eval.json", "base_loss.json", "base_eval.json"):
        if "tag" in (result := files.read_object(folder / name)):
            return str(result["tag"])
    return "?" if _entries(folder) else ""


def folder_of(stage: str, tag: str) -> Path:
    """The folder for this model's results, which may not exist yet."""
    main, owner_tag = paths.results_dir(stage), owner(stage)
    separate = main / MODELS / tag
    return main if owner_tag == tag or owner_tag in ("", "?") and not separate.exists() else separate


def folder_for_training(stage: str, tag: str, named: bool) -> Path:
    """The folder of results for a model that is trained from the beginning; `named` = the user gave --model_tag."""
    main = paths.results_dir(stage)
    return main / MODELS / tag if named and owner(stage) not in ("", tag) else main


def begin(stage: str, tag: str, folder: Path) -> None:
    """Gives `folder` to a model that is trained from the beginning. Results in it are moved, not lost."""
    if not log.is_main():
        return  # files are moved by one rank only
    before = owner(stage) if folder == paths.results_dir(stage) else tag
    is_of_another = before not in ("", "?", tag)
    # A run that stopped before its end has only these two files, and its own restart does not keep them.
    is_more_than_a_start = {path.name for path in _entries(folder)} - {"model.json", "metrics.jsonl"}
    with files.replacing(folder / "model.json") as temporary:
        # Written before anything is moved: the disk may be full.
        temporary.write_bytes(json.dumps({"tag": tag}).encode())
        if is_of_another or is_more_than_a_start:
            target = folder / MODELS / before if is_of_another else _next(folder)
            if _entries(target):  # results of an even earlier model with this tag
                _move(_entries(target), _next(target))
            _move(_entries(folder), target)
            log.say(f"the results of the {stage} model {before if is_of_another else 'before'} are now in {target}")


def keep_earlier(*results: Path, copy: bool = False) -> None:
    """Moves or copies results (files or folders of one folder) to `earlier/<number>/` in the same folder."""
    existing = [path for path in results if path.exists()]
    if existing and log.is_main():
        target = _next(existing[0].parent)
        _move(existing, target, copy)
        log.say(f"the earlier results {', '.join(path.name for path in existing)} are now in {target}")


def write(path: Path, content: dict[str, Any], identity: tuple[str, ...]) -> None:
    """Writes a result. An old result that differs in a field of `identity` (the model, the number of items) is kept."""
    if not log.is_main():
        return
    before = files.read_object(path) or content  # if there is none, or a damaged one, nothing is kept
    if any(before.get(name) != content.get(name) for name in identity):
        keep_earlier(path)
    files.write_json(path, content)


def _entries(folder: Path) -> list[Path]:
    """The results in a folder, without those of other models and without earlier results."""
    return [path for path in sorted(folder.glob("[!.]*")) if path.name not in (MODELS, EARLIER)]


def _next(folder: Path) -> Path:
    # The highest number plus one: a folder that the user has removed in the middle leaves a gap.
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
