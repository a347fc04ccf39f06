"""A model's card: its size, its training data and time, its exam scores, and the licence of the data.

Everything is read from the out folder. The chat page shows it under the model's name, the report at its beginning.
"""
import json
from statistics import fmean
from typing import Any

from nanochat.model import accounting
from nanochat.system import files, paths, results
from nanochat.system.files import UserError
from nanochat.train import checkpoint

POINTS = 80  # points of a curve, at most
MAX_FILES = 30  # files that are listed, at most; imported.json has all
CURVES = {"rl": "rl/reward_mean"}  # stage → metric of its curve, if not the loss
Record = dict[str, Any]


def read(stage: str, tag: str) -> Record:
    """The card as a JSON object. UserError if the model has no complete checkpoint."""
    if not (newest := checkpoint.present(paths.checkpoint_dir(stage, tag))):
        raise UserError(f"there is no whole checkpoint in {paths.checkpoint_dir(stage, tag)}")
    path, state = newest
    config = checkpoint.config_of(path)
    trained = [part for other in paths.STAGES[:paths.STAGES.index(stage) + 1] if (part := _trained(other, tag))]
    return {"stage": stage, "tag": tag, "step": state["step"], "parameters": accounting.num_parameters(config),
            "layers": config.n_layer, "width": config.n_embd, "context": config.sequence_len,
            "vocabulary": config.vocab_size, "trained": trained,
            "tokens": sum(part["tokens"] for part in trained), "seconds": sum(part["seconds"] for part in trained),
            "data": data(), "exams": _exams(tag), "contamination": _contamination(), "licence": licence(),
            "has_report": (paths.report_dir() / "report.html").exists()}


def licence() -> str:
    """Origin and licence of the training text, as recorded in the data folder."""
    origin = files.read_object(paths.data_dir() / "text/manifest.json").get("origin", "")
    if origin:
        return json.dumps(origin)[1:-1]
    if (paths.data_dir() / "kindergarten").exists() and not (paths.data_dir() / "imported.json").exists():
        return "the kindergarten, which this project's code makes: MIT"
    return "not known here; ask who trained it"


def data() -> Record:
    """{"read": [[kind, name, bytes, rows or None], …], "num_more": number of read files that are not listed,
    "left_out": [[name, reason], …]}."""
    if imported := files.read_object(paths.data_dir() / "imported.json"):
        rows = [[kind, item["name"], item["num_bytes"], item["rows"]]
                for kind in ("texts", "conversations", "exams") for item in imported[kind]]
        left_out = [[item["name"], item["reason"]] for item in imported["left_out"]]
        left_out += [[item["name"], f"{item['bad_rows']:,} rows, the first is {item['first_bad']}"]
                     for kind in ("texts", "conversations") for item in imported[kind] if item["bad_rows"]]
    else:
        shards = list(paths.data_dir().glob("text/*.parquet"))
        rows = [["texts", f"{len(shards)} shards", sum(path.stat().st_size for path in shards), None]] if shards else []
        rows += [["conversations", path.name.partition(".")[0], path.stat().st_size, None]
                 for path in sorted(paths.data_dir().glob("chat/*.jsonl*"))]
        left_out = []
    return {"read": rows[:MAX_FILES], "num_more": max(0, len(rows) - MAX_FILES), "left_out": left_out}


def curve(metrics: list[Record], key: str) -> list[list[float]]:
    """At most POINTS points [[step, value], …], each the mean of consecutive steps.

    >>> curve([{"step": 1, "a": 2.0}, {"step": 2}, {"step": 3, "a": 4.0}], "a")
    [[1.0, 2.0], [3.0, 4.0]]
    """
    points = [(line["step"], line[key]) for line in metrics if key in line]
    size = max(1, -(-len(points) // POINTS))
    parts = [points[first:first + size] for first in range(0, len(points), size)]
    return [[fmean(step for step, _ in part), fmean(value for _, value in part)] for part in parts]


def _trained(stage: str, tag: str) -> Record | None:
    """Steps, tokens, seconds and curve of a stage; None if the stage has not begun."""
    folder = results.folder_of(stage, tag)
    try:
        metrics = files.read_jsonl(folder / "metrics.jsonl")
    except UserError:
        return None
    run, last = files.read_object(folder / "run.json"), metrics[-1] if metrics else {}
    state = newest[1] if (newest := checkpoint.present(paths.checkpoint_dir(stage, tag))) else {}
    return {"stage": stage, "steps": last.get("step", 0), "of": last.get("train/steps", run.get("steps")),
            "tokens": run.get("tokens", state.get("tokens", 0)), "seconds": last.get("time/seconds", 0.0),
            "what": CURVES.get(stage, "train/loss_nats"), "curve": curve(metrics, CURVES.get(stage, "train/loss_nats"))}


def _exams(tag: str) -> Record:
    """{exam: {stage: {"accuracy", "stderr", "num_items", "chance"}}}."""
    exams: Record = {}
    for stage in paths.STAGES:
        scores = files.read_object(results.folder_of(stage, tag) / "chat_eval.json").get("tasks", {})
        for exam, score in scores.items():
            exams.setdefault(exam, {})[stage] = {key: score.get(key) for key in (
                "accuracy", "stderr", "num_items", "chance")}
    return exams


def _contamination() -> Record:
    """{exam: [items, items long enough for the check, items that share words with the text]}; {} = not measured."""
    measured = files.read_object(paths.results_dir("contamination") / "contamination.json").get("exams", {})
    return {exam: [found["items"], found["checked"], found["overlapping"]] for exam, found in measured.items()}
