"""The report: what a run's stages left in out/results → out/report/report.md with figures.

    python -m nanochat.report generate [--dollars_per_hour=24]
    python -m nanochat.report reset                            removes results and report; checkpoints and data stay

Everything is read from results/ (formats: docs/design.md, "On disk") and from the recipe's stage records; this file
measures nothing. Missing results are listed as missing. To add a number, let the stage write it to its results.
"""
import contextlib
import math
import platform
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from typing import Any

from nanochat import model_card
from nanochat.figures import Metrics, curves, exams_figure, panels
from nanochat.markdown import cut, details, facts_table, fenced, flat, show, table, to_html
from nanochat.run_folder import RunFolder
from nanochat.system import cli, files, hardware, log, paths
from nanochat.system.files import UserError
from nanochat.system.log import clock
from nanochat.train import checkpoint

STAGES = paths.STAGES
HEADS = [stage.upper() for stage in STAGES]  # heads of a table's columns
NUM_SAMPLES, NUM_QUESTIONS = 6, 2  # samples shown per stage, questions shown per exam
Record = dict[str, Any]
ByStage = dict[str, dict[str, Any]]  # exam → stage → its score (a record), or its mean (a text)


def main(argv: list[str] | None = None) -> None:
    words = [word for word in (sys.argv[1:] if argv is None else argv) if word != "--"]
    action = words.pop(0) if words and not words[0].startswith("-") else "generate"
    args = cli.parse(words, __doc__, dollars_per_hour=cli.flag(-1.0, "price of the machine; -1 = none", at_least=0))
    if action not in ("generate", "reset"):
        raise UserError(f"{action!r} is unknown; write: python -m nanochat.report generate, or reset")
    if action == "reset":
        reset()
        log.say(f"removed the results in {paths.base_dir()}; checkpoints and data stay")
        return
    log.say(f"report: {generate(args.dollars_per_hour)}")


def reset() -> None:
    """Removes results, the report and the recipe's stage records (which would skip stages whose results are gone)."""
    for folder in (paths.results_dir(""), paths.report_dir(), paths.base_dir() / "stages"):
        shutil.rmtree(folder, ignore_errors=True)


def generate(dollars_per_hour: float = -1) -> Path:
    """Writes report.md, report.html and the figures; returns report.md's path. UserError if there are no results."""
    if not any(paths.results_dir("").glob("*/[!.]*")):
        raise UserError(f"nothing to report in {paths.results_dir('')}; train something first: bash speedrun.sh")
    missing: list[str] = []
    scores, means = exam_scores(missing)
    records = stage_records()
    seconds = sum(record["seconds"] for record in records.values())
    if scores:
        exams_figure(scores)
    lines = {stage: read_optional(paths.results_dir(stage) / "metrics.jsonl", read=files.read_jsonl) or []
             for stage in STAGES}
    sections = {  # heading → content; empty sections are left out
        "The model": card_table(),
        "What each stage can do": results_table(scores, means) if scores else "",
        "The calculator": tool_table(scores),
        "What strangers ask": kinds_table(scores),
        "What was not asked": exams_left_out(),
        "What was read": files_read(),
        "Do the exams stand in the training text?": contamination(),
        "Where the time went": wall_clock(records, seconds, dollars_per_hour),
        "The same prompts at the end of each stage": words_side_by_side(lines),
        "What it said, checkpoint by checkpoint": words_by_checkpoint(lines),
        "The same questions, stage by stage": same_questions(),
        **{stage.upper(): stage_section(stage, missing) for stage in STAGES}}
    parts = ["# nanochat: report", header(records, seconds, missing)]
    parts += [f"## {heading}\n\n{content}" for heading, content in sections.items() if content]
    parts.append("## Missing\n\n" + ("\n".join(f"- {what}" for what in missing) or "Nothing."))
    target, text = paths.report_dir() / "report.md", "\n\n".join(parts) + "\n"
    files.write_atomic(target, text)
    files.write_atomic(target.with_suffix(".html"), to_html("nanochat: report", text, lambda name: (
        paths.report_dir() / name).read_text(encoding="utf-8")))
    return target


# ---- Reading


def read_optional(path: Path, missing: list[str] | None = None, read: Callable[[Path], Any] = files.read_json) -> Any:
    """The content of a file; None if it is missing or damaged, and then a line is added to `missing`, if given."""
    try:
        return read(path)
    except UserError as error:
        if missing is not None:
            missing.append(str(error).split(";")[0].replace(f"{paths.base_dir()}/", ""))
        return None


def is_planned(stage: str) -> bool:
    """Whether this stage is expected: a recipe lists its stages; without a recipe every stage is possible."""
    return stage in files.read_object(paths.base_dir() / "run.json").get("stages", [stage])


def exam_scores(missing: list[str]) -> tuple[ByStage, ByStage]:
    """({task: {stage: {"accuracy", "stderr", "num_items", "chance", …}}}, {"ChatCORE" or "CORE…": {stage: its mean}}),
    from chat_eval.json and base_eval.json."""
    scores: ByStage = {}
    means: ByStage = {}
    for stage in STAGES:
        content = read_optional(paths.results_dir(stage) / "chat_eval.json",
                                missing if is_planned(f"chat_eval_{stage}") else None) or {"tasks": {}}
        for task, score in content["tasks"].items():
            scores.setdefault(task, {})[stage] = score
        if content.get("chat_core") is not None:  # None: not all of its five exams were taken
            means.setdefault("ChatCORE", {})[stage] = mean(content["chat_core"], content.get("chat_core_stderr"))
        core = files.read_object(paths.results_dir(stage) / "base_eval.json")  # optional in later stages
        if core.get("label", "").startswith("CORE") and "value" in core:
            means.setdefault(core["label"], {})[stage] = mean(core["value"], core.get("stderr"))
    return scores, means


def stage_records() -> dict[str, Record]:
    """{stage: {"seconds", "attempts", "command", …}} in the order in which the stages ended.

    These are the recipe's records, or without a recipe the run.json of each command. The seconds of a training run that
    was resumed are the sum of all attempts, which its run.json contains.
    """
    records = RunFolder(paths.base_dir()).records()
    is_recipe = bool(records)
    paths_of_runs = [*paths.results_dir("").glob("*/run.json"), *paths.results_dir("").glob("*/*/run.json")]
    runs = [run for path in paths_of_runs if (run := files.read_object(path))]
    for run in sorted(runs, key=lambda run: str(run.get("finished", ""))):
        name = run.get("name", "")
        if name in records or not is_recipe:  # commands started by hand do not count in a recipe's time
            record = records.get(name, {})
            seconds = max(record.get("seconds", 0.0), float(run.get("seconds", 0.0)))
            records[name] = {"command": run.get("command", ""), **record, "seconds": seconds}
    return records


# ---- Text


def in_order(texts: dict[str, str], absent: str = "–") -> list[str]:
    """The text of every stage, in the order of the stages."""
    return [texts.get(stage, absent) for stage in STAGES]


def mean(value: float, stderr: float | None) -> str:
    return f"{value:.3f} ± {math.nan if stderr is None else stderr:.3f}"


def cell(score: Record) -> str:
    """`cell({"accuracy": 0.84, "stderr": 0.023, "num_items": 256})` → "0.840 ± 0.023 (256)"."""
    return f"{mean(score['accuracy'], score.get('stderr'))} ({score.get('num_items', '?')})"


# ---- Sections


def header(records: dict[str, Record], seconds: float, missing: list[str]) -> str:
    import torch

    from nanochat import sandbox
    machine = hardware.detect()
    commits = dict.fromkeys(commit for record in records.values() for commit in record.get("commits", []))
    try:
        layers = ", ".join(sandbox.layers())
    except UserError as error:
        layers = "none: programs that the model writes cannot be isolated here"
        missing.append(f"isolation of programs that the model writes ({error})")
    return table(["", "this run"], [
        ["written", time.strftime("%Y-%m-%d %H:%M")], ["all stages took", clock(seconds)],
        ["machine", f"{machine.count} × {machine.device}, {machine.memory_bytes / 2**30:.0f} GiB"],
        ["software", f"Python {platform.python_version()}, PyTorch {torch.__version__}"],
        ["code", " → ".join(commits) or paths.commit() or "not a git checkout"], ["sandbox", layers]])


def results_table(scores: ByStage, means: ByStage) -> str:
    """Every exam by stage, the mean of the accuracies above chance (centred), and `means`."""
    chance = {task: next(iter(by_stage.values())).get("chance", 0.0) for task, by_stage in scores.items()}
    rows = [[task, f"{chance[task]:.2f}", *in_order({stage: cell(score) for stage, score in by_stage.items()})]
            for task, by_stage in scores.items()]
    above_chance = []
    in_all = [task for task, by_stage in scores.items()  # without the held-out exam, which only the final model takes
              if not any(score.get("held_back") for score in by_stage.values())]
    for stage in STAGES:
        centred = [(scores[task][stage]["accuracy"] - chance[task]) / (1 - chance[task])
                   for task in in_all if stage in scores[task]]
        # Only if all exams were taken: a mean over fewer exams would look like progress.
        above_chance.append(f"{fmean(centred):.3f}" if centred and len(centred) == len(in_all) else "–")
    rows.append(["**mean above chance**", "0", *above_chance])
    rows += [[f"**{name}**", "0", *in_order(by_stage)] for name, by_stage in means.items()]
    return ("Accuracy ± standard error (number of held-out items).\n\n" + table(["exam", "chance", *HEADS], rows)
            + "\n\n![exams by stage](exams.svg)")


def tool_table(scores: ByStage) -> str:
    """For tasks with a calculator: the fraction of answers that called it, and the accuracy of these answers."""
    rows = []
    for task, by_stage in scores.items():
        with_tool = {stage: score for stage, score in by_stage.items() if "tool_use" in score}
        labels = {"tool used": "tool_use", "right with the tool": "accuracy_with_tool"} if with_tool else {}
        for label, key in labels.items():
            shares = {stage: score.get(key) for stage, score in with_tool.items()}
            rows.append([f"{task}: {label}", *in_order({
                stage: f"{share:.3f}" for stage, share in shares.items() if share is not None})])
    return table(["", *HEADS], rows) if rows else ""


def kinds_table(scores: ByStage) -> str:
    """For exams that count refusals: accuracy by kind of question, and how often a taught answer was refused."""
    rows = []
    for task, by_stage in scores.items():
        refused = {stage: f"{score['refused']:.2f}" for stage, score in by_stage.items() if "refused" in score}
        kinds: dict[str, dict[str, str]] = {}  # kind of question → stage → its accuracy and number
        for stage, score in by_stage.items() if refused else ():
            for kind, (accuracy, number) in score.get("groups", {}).items():
                kinds.setdefault(kind, {})[stage] = f"{accuracy:.2f} ({number})"
        rows += [[f"{task}: {kind}", *in_order(texts)] for kind, texts in sorted(kinds.items())]
        rows += [[f"**{task}: known things refused**", *in_order(refused)]] if refused else []
    return table(["", *HEADS], rows) if rows else ""


def exams_left_out() -> str:
    reasons: dict[str, str] = {}
    for stage in STAGES:
        content = files.read_object(paths.results_dir(stage) / "chat_eval.json")
        reasons |= content.get("left_out", {})
        reasons |= {task: score["left_out"] for task, score in content.get("tasks", {}).items() if "left_out" in score}
    return "\n".join(f"Not taken: {task} ({reason})." for task, reason in reasons.items())


def files_read() -> str:
    """The files that were read from the user's own folder, and the files that were not, with reasons."""
    if not (content := files.read_object(paths.data_dir() / "imported.json")):
        return ""
    data = model_card.data()
    rows = [[kind, name, show(num_bytes), show(num_rows or "–")] for kind, name, num_bytes, num_rows in data["read"]]
    more = [["…", f"and {data['num_more']:,} more, all in imported.json", "", ""]] * (data["num_more"] > 0)
    reasons = "\n".join(f"- {name}: {reason}" for name, reason in data["left_out"])
    return "\n\n".join([f"From `{content['folder']}`:", table(["kind", "file", "bytes", "rows"], rows + more),
                        "Left out:" if reasons else "Nothing was left out.", reasons])


def contamination() -> str:
    """For each exam the number of items that share a run of words with the training text."""
    if not (content := files.read_object(paths.results_dir("contamination") / "contamination.json")):
        return ""
    rows = [[name, show(exam["items"]), show(exam["checked"]), show(exam["overlapping"])]
            for name, exam in content["exams"].items()]
    return (f"Items that share {content['ngram']} words in a row with `{content['corpus']}` ({content['documents']:,} "
            "documents).\n\n" + table(["exam", "items", "long enough to tell", "overlapping"], rows))


def wall_clock(records: dict[str, Record], total: float, dollars_per_hour: float) -> str:
    rows = []
    for name, record in records.items():
        attempts = f" ({record['attempts']} attempts)" if record.get("attempts", 1) != 1 else ""
        rows.append([name + attempts, clock(record["seconds"]), f"{record['seconds'] / max(total, 1e-9):.0%}"])
    cost = (f"${total / 3600 * dollars_per_hour:,.2f} at ${dollars_per_hour:g} an hour" if dollars_per_hour > 0
            else "none, your own machine (rented? give --dollars_per_hour)")
    return table(["stage", "time", "share"], [*rows, ["**total**", f"**{clock(total)}**", ""]]) + f"\n\nCost: {cost}."


def card_table() -> str:
    """The card of the model that was trained last; "" if there is no checkpoint."""
    for stage in reversed(STAGES):
        with contextlib.suppress(UserError):
            card = model_card.read(stage, checkpoint.default_tag(stage))
            trained = "; ".join(f"{part['stage']} {part['tokens']:,} in {clock(part['seconds'])}"
                                for part in card["trained"])
            return facts_table({
                "name": f"nanochat-{stage}-{card['tag']}, step {card['step']:,}",
                "size": f"{card['parameters']:,} parameters, {card['layers']} layers of width {card['width']}",
                "context": f"{card['context']:,} tokens", "vocabulary": f"{card['vocabulary']:,} tokens",
                "tokens read": f"{card['tokens']:,} ({trained})", "training": clock(card["seconds"]),
                "data and its licence": card["licence"]})
    return ""


def words_side_by_side(lines: dict[str, Metrics]) -> str:
    answers: dict[str, list[str]] = {}  # prompt → a line of each stage
    for stage in STAGES:
        last: list[list[str]] = next((line["words"] for line in reversed(lines[stage]) if "words" in line), [])
        for prompt, answer in last:
            answers.setdefault(prompt, []).append(f"{stage.upper():4} → {' '.join(cut(answer).split())}")
    return "\n".join(fenced("\n".join([prompt, *by_stage])) for prompt, by_stage in answers.items())


def words_by_checkpoint(lines: dict[str, Metrics]) -> str:
    """The greedy answers to the fixed prompts during training; an unchanged answer is shown only one time."""
    shown: dict[str, list[str]] = {}  # prompt → lines
    before: dict[str, str] = {}
    spoken = [(stage, line) for stage in STAGES for line in lines[stage] if "words" in line]
    for stage, line in spoken:
        for prompt, answer in line["words"]:
            if before.get(prompt) != answer:
                percent = 100 * line["step"] / line["train/steps"]
                shown.setdefault(prompt, []).append(f"{stage:4} {percent:3.0f} % → {' '.join(cut(answer).split())}")
            before[prompt] = answer
    return "\n".join(fenced("\n".join([prompt, *answers])) for prompt, answers in shown.items())


def same_questions() -> str:
    """The first questions of every exam, with the answers of each stage."""
    exams: dict[str, dict[str, list[str]]] = {}  # exam → question → each stage's answer
    for stage in STAGES:
        for path in sorted(paths.results_dir(stage).glob("generations/*.jsonl")):
            answers = read_optional(path, read=files.read_jsonl) or []
            for row in [row for row in answers if "prompt" in row][:NUM_QUESTIONS]:  # held-out: without prompt
                answer = f"{stage.upper():4} → {answer_text(row)}".replace("\n", "\n       ")
                exams.setdefault(path.stem, {}).setdefault(cut(row.get("prompt", "")).strip(), []).append(answer)
    blocks = []
    for name, answers_to in sorted(exams.items()):
        blocks += [f"**{name}**\n", *(fenced("\n".join([question, *answers_to[question]])) for question in answers_to)]
    return "\n".join(blocks)


def answer_text(row: Record) -> str:
    """A model's answer, its tool calls in brackets, and the verdict if there is one; "" if there is no answer."""
    text = row.get("completion", row.get("text", row.get("answer")))
    if not isinstance(text, str):
        return ""
    calls = "".join(f"[{call} = {result}] " for call, result in row.get("tool_calls", []))
    verdict = row.get("correct", row.get("reward"))
    return cut(calls + text) + ("" if verdict is None else "  ← right" if verdict else "  ← wrong")


def stage_section(stage: str, missing: list[str]) -> str:
    """Key numbers, flags, curves, evaluations and samples of one training stage; "" if it has no results."""
    folder = paths.results_dir(stage)
    if not folder.exists():
        missing += [f"results/{stage}"] * is_planned(stage)
        return ""
    run = read_optional(folder / "run.json", missing) or {}
    metrics = read_optional(folder / "metrics.jsonl", missing, files.read_jsonl) or []
    facts = {name: value for name, value in run.items() if name not in ("name", "command", "flags")}
    parts = [f"`{run['command']}`"] if run.get("command") else []
    parts.append(facts_table({**flat(facts), **key_numbers(metrics)}))
    if curves(stage, metrics):
        parts.append(f"![curves of {stage}]({stage}.svg)")
    for name, text_of in (("base_loss", lambda content: facts_table(flat(content))), ("base_eval", core_table)):
        if (folder / f"{name}.json").exists() and (content := read_optional(folder / f"{name}.json", missing)):
            parts.append(f"### {name}\n\n{text_of(content)}")
    if run.get("flags"):
        flags = " ".join(f"--{name}={value}" for name, value in run["flags"].items() if value != "")
        parts.append(details("all flags", f"`{flags}`"))
    return "\n\n".join([*parts, samples(folder)])


def key_numbers(metrics: Metrics) -> Record:
    """Every curve that is drawn, at its beginning and its end, and the median speed."""
    # Means over a tenth of the steps, because a single step is noisy; the first and the last show the progress.
    numbers: Record = {}
    for key in (key for _, lines in panels(metrics) for key in lines.values()):
        values = [line[key] for line in metrics if key in line]
        tenth = math.ceil(len(values) / 10)
        if len(values) == 1:
            numbers[key] = values[0]
        else:
            numbers[f"{key} (first → last tenth)"] = f"{show(fmean(values[:tenth]))} → {show(fmean(values[-tenth:]))}"
    if speeds := [line["speed/tokens_per_second"] for line in metrics if "speed/tokens_per_second" in line]:
        numbers["tokens per second (median)"] = round(median(speeds))
    return numbers


def core_table(content: Record) -> str:
    """CORE, or the kindergarten's facts in its place, task by task."""
    rows = [[task, cell(score), show(score.get("baseline", "–")), show(score.get("centred", "–"))]
            for task, score in content.get("tasks", {}).items()]
    value = show(content.get("value", "–")) + (f" ± {show(content['stderr'])}" if "stderr" in content else "")
    rows.append([f"**{content.get('label', 'not finished')}**", "", "", value])
    missing = f"\n\nWithout {', '.join(content['missing'])}: no files." if content.get("missing") else ""
    return table(["task", "accuracy ± standard error (items)", "baseline", "above chance"], rows) + missing


def samples(folder: Path) -> str:
    """Texts that do not belong to exams: the base model's continuations, answers to RL's training questions."""
    rows: list[Record] = []
    for name in ("samples.json", "base_loss.json"):
        content = read_optional(folder / name) or []
        rows += (content if isinstance(content, list) else content.get("samples", []))[:NUM_SAMPLES]
    blocks = [fenced(f"{cut(row.get('prompt', row.get('question', '')))}\n→ {answer}")
              for row in rows if isinstance(row, dict) and (answer := answer_text(row))]
    return "\n".join(["### Samples", "", *blocks]) if blocks else ""


if __name__ == "__main__":
    cli.run(main)
