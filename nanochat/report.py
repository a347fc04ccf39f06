"""The report: what a run's stages left in out/results → out/report/report.md with figures.

    python -m nanochat.report generate [--dollars_per_hour=24]
    python -m nanochat.report reset                            forgets results and report; checkpoints and data stay

Everything is read from results/ (formats: docs/design.md, "On disk") and from the recipe's stage records; nothing is
measured or repeated here. What is not there is named as missing. A new number in the report is one that a stage writes.
"""
import math
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import fmean, median
from typing import Any

from nanochat.figures import Metrics, curves, exams_figure, panels
from nanochat.run_folder import RunFolder
from nanochat.system import cli, files, hardware, log, paths
from nanochat.system.files import UserError
from nanochat.system.log import clock

STAGES = paths.STAGES
NUM_SAMPLES, NUM_QUESTIONS = 6, 2  # of a stage, of an exam
SAMPLE_CHARACTERS = 240
NUM_FILES = 30  # of the user's own that are listed; imported.json has all


def read_optional(path: Path, missing: list[str], kind=files.read_json) -> Any:
    """The file's content; None when it is not there (noted in `missing`) or damaged (noted as such)."""
    try:
        return kind(path)
    except UserError as error:
        missing.append(str(error).split(";")[0].replace(str(paths.base_dir()) + "/", ""))
        return None


def exam_scores(missing: list[str]) -> tuple[dict[str, dict[str, dict]], dict[str, dict[str, str]]]:
    """({task: {stage: {"accuracy", "stderr", "num_items", "chance", …}}}, {"ChatCORE" or "CORE…": {stage: its mean}}),
    from chat_eval.json and base_eval.json."""
    scores: dict[str, dict[str, dict]] = {}
    means: dict[str, dict[str, str]] = {}
    for stage in STAGES:
        content = read_optional(paths.results_dir(stage) / "chat_eval.json", missing) or {"tasks": {}}
        for task, score in content["tasks"].items():
            scores.setdefault(task, {})[stage] = score
        if content.get("chat_core") is not None:  # None: not all of its five exams were taken
            means.setdefault("ChatCORE", {})[stage] = mean(content["chat_core"], content.get("chat_core_stderr"))
        path = paths.results_dir(stage) / "base_eval.json"  # of later stages a recipe may leave it away
        core = (read_optional(path, missing) or {}) if path.exists() else {}
        if core.get("label", "").startswith("CORE") and "value" in core:
            means.setdefault(core["label"], {})[stage] = mean(core["value"], core.get("stderr"))
    return scores, means


def mean(value: float, stderr: float | None) -> str:
    return f"{value:.3f} ± {math.nan if stderr is None else stderr:.3f}"


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; numbers right, the first column left.

    >>> print(table(["exam", "SFT"], [["facts", "0.9"]]))
    | exam | SFT |
    |---|---:|
    | facts | 0.9 |
    """
    lines = ["| " + " | ".join(row) + " |" for row in [header, *rows]]
    return "\n".join([lines[0], "|---" + "|---:" * (len(header) - 1) + "|", *lines[1:]])


def cell(score: dict | None) -> str:
    """`cell({"accuracy": 0.84, "stderr": 0.023, "num_items": 256})` → "0.840 ± 0.023 (256)"; "–" for none."""
    if not score:
        return "–"
    return f"{score['accuracy']:.3f} ± {score.get('stderr', math.nan):.3f} ({score.get('num_items', '?')})"


def results_table(scores: dict[str, dict[str, dict]], means: dict[str, dict[str, str]]) -> str:
    """Accuracy ± standard error (items) of every exam by stage, the mean of what is above chance, and `means`."""
    chance = {task: next(iter(by_stage.values())).get("chance", 0.0) for task, by_stage in scores.items()}
    rows = [[task, f"{chance[task]:.2f}", *[cell(by_stage.get(stage)) for stage in STAGES]]
            for task, by_stage in scores.items()]
    own = []
    in_all = [task for task, by_stage in scores.items()  # what is held back is asked of the finished model only
              if not any(score.get("held_back") for score in by_stage.values())]
    for stage in STAGES:
        centred = [(scores[task][stage]["accuracy"] - chance[task]) / (1 - chance[task])
                   for task in in_all if stage in scores[task]]
        own.append(f"{sum(centred) / len(centred):.3f}" if centred and len(centred) == len(in_all) else "–")
    rows.append(["**mean above chance**", "0", *own])
    rows += [[f"**{name}**", "0", *[by_stage.get(stage, "–") for stage in STAGES]] for name, by_stage in means.items()]
    return table(["exam", "chance", *map(str.upper, STAGES)], rows)


def tool_table(scores: dict[str, dict[str, dict]]) -> str:
    """For tasks with a calculator: how often it was used, and how often an answer with it was right."""
    rows = []
    for task, by_stage in scores.items():
        if not any("tool_use" in score for score in by_stage.values()):
            continue
        for label, key in (("tool used", "tool_use"), ("right with the tool", "accuracy_with_tool")):
            values = [by_stage.get(stage, {}).get(key) for stage in STAGES]
            rows.append([f"{task}: {label}", *["–" if value is None else f"{value:.3f}" for value in values]])
    return table(["", *map(str.upper, STAGES)], rows) if rows else ""


def kinds_table(scores: dict[str, dict[str, dict]]) -> str:
    """For exams that count refusals: accuracy by kind of question, and the share of known things that were refused."""
    rows = []
    for task, by_stage in scores.items():
        if not any("refused" in score for score in by_stage.values()):
            continue
        for kind in sorted({kind for score in by_stage.values() for kind in score.get("groups", {})}):
            groups = [by_stage.get(stage, {}).get("groups", {}).get(kind) for stage in STAGES]
            rows.append([f"{task}: {kind}", *["–" if group is None else f"{group[0]:.2f} ({group[1]})"
                                              for group in groups]])
        refused = [by_stage.get(stage, {}).get("refused") for stage in STAGES]
        rows.append([f"**{task}: known things refused**", *["–" if share is None else f"{share:.2f}"
                                                            for share in refused]])
    return table(["", *map(str.upper, STAGES)], rows) if rows else ""


def stage_records() -> dict[str, dict[str, Any]]:
    """{stage: {"seconds", "attempts", "command", …}} in the order in which the stages ended: the recipe's records, else
    the run.json of each command. A resumed training run counts all its attempts (run.json), others the last."""
    records = RunFolder(paths.base_dir()).records()
    recorded = bool(records)
    runs = [(path.parent.name, read_optional(path, [])) for path in paths.results_dir("").glob("*/run.json")]
    for name, run in sorted(((name, run) for name, run in runs if run), key=lambda pair: pair[1].get("finished", "")):
        if name in records or not recorded:
            before = records.get(name, {})
            records[name] = {"command": run.get("command", ""), **before,
                             "seconds": max(before.get("seconds", 0.0), float(run.get("seconds", 0.0)))}
    return records


def wall_clock(records: dict[str, dict[str, Any]], total: float, dollars_per_hour: float) -> str:
    rows = []
    for name, record in records.items():
        attempts = f" ({record['attempts']} attempts)" if record.get("attempts", 1) != 1 else ""
        rows.append([name + attempts, clock(record["seconds"]), f"{record['seconds'] / max(total, 1e-9):.0%}"])
    cost = (f"${total / 3600 * dollars_per_hour:,.2f} at ${dollars_per_hour:g} an hour" if dollars_per_hour > 0
            else "none, your own machine (rented? give --dollars_per_hour)")
    return table(["stage", "time", "share"], [*rows, ["**total**", f"**{clock(total)}**", ""]]) + f"\n\nCost: {cost}."


def stage_section(stage: str, missing: list[str]) -> str:
    """Key numbers, flags, curves and evaluations of one model-making stage; "" when it left nothing."""
    folder = paths.results_dir(stage)
    if not folder.exists():
        missing.append(f"results/{stage}")
        return ""
    run = read_optional(folder / "run.json", missing) or {}
    metrics = read_optional(folder / "metrics.jsonl", missing, files.read_jsonl) or []
    facts = {name: value for name, value in run.items() if name not in ("name", "command", "flags")}
    lines = [f"## {stage.upper()}", ""]
    if run.get("command"):
        lines += [f"`{run['command']}`", ""]
    lines += [facts_table({**flat(facts), **key_numbers(metrics)}), ""]
    if curves(stage, metrics):
        lines += [f"![curves of {stage}]({stage}.png)", ""]
    for name, shown in (("base_loss", lambda content: facts_table(flat(content))), ("base_eval", core_table)):
        if (folder / f"{name}.json").exists() and (content := read_optional(folder / f"{name}.json", missing)):
            lines += [f"### {name}", "", shown(content), ""]
    if run.get("flags"):
        flags = " ".join(f"--{name}={value}" for name, value in run["flags"].items() if value != "")
        lines += ["<details><summary>all flags</summary>", "", f"`{flags}`", "", "</details>", ""]
    return "\n".join([*lines, samples(folder)])


def core_table(content: dict[str, Any]) -> str:
    """CORE, or what stands for it, task by task."""
    rows = [[task, cell(score), show(score.get("baseline", "–")), show(score.get("centred", "–"))]
            for task, score in content.get("tasks", {}).items()]
    value = show(content.get("value", "–")) + (f" ± {show(content['stderr'])}" if "stderr" in content else "")
    rows.append([f"**{content.get('label', 'not finished')}**", "", "", value])
    missing = f"\n\nWithout {', '.join(content['missing'])}: no files." if content.get("missing") else ""
    return table(["task", "accuracy ± standard error (items)", "baseline", "above chance"], rows) + missing


def what_was_read() -> str:
    """The files of the user's own folder, and what was left out of it; "" where the data are not the user's own."""
    path = paths.data_dir() / "imported.json"
    if not path.exists() or not (content := read_optional(path, [])):
        return ""
    rows = [[kind, item["name"], show(item["num_bytes"]), show(item["rows"] or "–")]
            for kind in ("texts", "conversations", "exams") for item in content[kind]]
    more = [["…", f"and {len(rows) - NUM_FILES:,} more, all in {path.name}", "", ""]] if len(rows) > NUM_FILES else []
    parts = [f"From `{content['folder']}`:", table(["kind", "file", "bytes", "rows"], rows[:NUM_FILES] + more)]
    reasons = [f"- {item['name']}: {item['reason']}" for item in content["left_out"]]
    reasons += [f"- {item['name']}: {item['bad_rows']:,} rows, the first is {item['first_bad']}"
                for kind in ("texts", "conversations") for item in content[kind] if item["bad_rows"]]
    return "\n\n".join([*parts, "Left out:" if reasons else "Nothing was left out.", "\n".join(reasons)])


def exams_left_out() -> str:
    """The exams that were not taken, with the reason; "" where there are none."""
    reasons: dict[str, str] = {}
    for stage in STAGES:
        path = paths.results_dir(stage) / "chat_eval.json"
        content = (read_optional(path, []) or {}) if path.exists() else {}
        reasons |= content.get("left_out", {})
        reasons |= {task: score["left_out"] for task, score in content.get("tasks", {}).items() if "left_out" in score}
    return "\n".join(f"Not taken: {task} ({reason})." for task, reason in reasons.items())


def contamination() -> str:
    """How many items of each exam share a run of words with the training text; "" where nobody looked."""
    path = paths.results_dir("contamination") / "contamination.json"
    if not path.exists() or not (content := read_optional(path, [])):
        return ""
    rows = [[exam, show(one["items"]), show(one["checked"]), show(one["overlapping"])]
            for exam, one in content["exams"].items()]
    return (f"Items that share {content['ngram']} words in a row with `{content['corpus']}` ({content['documents']:,} "
            "documents).\n\n" + table(["exam", "items", "long enough to tell", "overlapping"], rows))


def facts_table(facts: dict[str, Any]) -> str:
    return table(["", "value"], [[name, show(value)] for name, value in facts.items()])


def key_numbers(metrics: Metrics) -> dict[str, Any]:
    """Every curve that is drawn as the means of its first and its last tenth, and the median speed."""
    numbers: dict[str, Any] = {}
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


def show(value: Any) -> str:
    """`show(1310720)` → "1,310,720", `show(0.123456)` → "0.1235"; pipes would end a table's cell."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return (f"{value:.4g}" if isinstance(value, float) else str(value)).replace("|", "\\|").replace("\n", " ")


def flat(content: dict, prefix: str = "") -> dict[str, Any]:
    """`flat({"bpb": {"train": 1.2}, "samples": […]})` → {"bpb.train": 1.2}: numbers and words only, no lists."""
    found: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float, str)):
            found[prefix + key] = value
    return found


def samples(folder: Path) -> str:
    """What the stage's model said beside the exams: the base model's continuations, RL's answers in practice."""
    rows = []
    for path in (folder / "samples.json", folder / "base_loss.json"):
        if path.exists() and (content := read_optional(path, [])):
            rows += (content if isinstance(content, list) else content.get("samples", []))[:NUM_SAMPLES]
    blocks = [fenced(f"{cut(row.get('prompt', row.get('question', '')))}\n→ {said}")
              for row in rows if isinstance(row, dict) and (said := spoken(row))]
    return "\n".join(["### Samples", "", *blocks]) if blocks else ""


def same_questions() -> str:
    """The first questions of every exam with each stage's answers."""
    exams: dict[str, dict[str, list[str]]] = {}  # exam → question → what each stage says to it
    for stage in STAGES:
        for path in sorted(paths.results_dir(stage).glob("generations/*.jsonl")):
            rows = read_optional(path, [], files.read_jsonl) or []
            for row in [row for row in rows if "prompt" in row][:NUM_QUESTIONS]:  # of questions held back: none
                said = f"{stage.upper():4} → {spoken(row)}".replace("\n", "\n       ")
                exams.setdefault(path.stem, {}).setdefault(cut(row.get("prompt", "")).strip(), []).append(said)
    blocks = []
    for name, asked in sorted(exams.items()):
        blocks += [f"**{name}**\n", *(fenced("\n".join([question, *said])) for question, said in asked.items())]
    return "\n".join(blocks)


def spoken(row: dict) -> str:
    """What a model said, its calls of the tool in brackets, and the verdict where there is one; "" for no answer."""
    text = row.get("completion", row.get("text", row.get("answer")))
    if not isinstance(text, str):
        return ""
    calls = "".join(f"[{call} = {result}] " for call, result in row.get("tool_calls", []))
    verdict = "" if "correct" not in row and "reward" not in row else (
        "  ← right" if row.get("correct", row.get("reward")) else "  ← wrong")
    return cut(calls + text) + verdict


def cut(text: Any) -> str:
    """`cut("a" * 300)` → 240 of them and "…"."""
    text = str(text)
    return text if len(text) <= SAMPLE_CHARACTERS else text[:SAMPLE_CHARACTERS] + "…"


def fenced(text: str) -> str:
    """A block that no content can break out of: its fence is longer than any run of tildes inside."""
    fence = "~" * max(3, 1 + max((len(run) for run in re.findall("~+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}\n"


def git(*words: str) -> str:
    """The output of a git command in the project's folder; "" where there is no git or no repository."""
    try:
        # Without optional locks: on a full disk `git status` leaves an empty index.lock, and no later commit succeeds.
        done = subprocess.run(["git", "--no-optional-locks", *words], cwd=paths.REPO, capture_output=True,
                              encoding="utf-8", check=True)
        return done.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def header(seconds: float, missing: list[str]) -> str:
    import torch
    machine = hardware.detect()
    commit = git("rev-parse", "--short", "HEAD")
    changed = " with uncommitted changes" if git("status", "--porcelain") else ""
    rows = [["written", time.strftime("%Y-%m-%d %H:%M")], ["all stages took", clock(seconds)],
            ["machine", f"{machine.count} × {machine.device}, {machine.memory_bytes / 2**30:.0f} GiB"],
            ["software", f"Python {platform.python_version()}, PyTorch {torch.__version__}"],
            ["commit", commit + changed if commit else "not a git checkout"], ["sandbox", sandbox_layers(missing)]]
    return table(["", "this run"], rows)


def sandbox_layers(missing: list[str]) -> str:
    """What stands between model-written code and this machine; a machine without the means says so."""
    from nanochat import sandbox
    try:
        return ", ".join(sandbox.layers())
    except Exception as error:  # the report must not fail where the sandbox can't start
        missing.append(f"isolation of programs that the model writes ({error})")
        return "none: programs that the model writes cannot be isolated here"


def generate(dollars_per_hour: float = -1) -> Path:
    """Writes report.md and its figures; its path. UserError when no stage has left any result."""
    if not any(paths.results_dir("").glob("*/*")):
        raise UserError(f"nothing to report in {paths.results_dir('')}; train something first: bash speedrun.sh")
    missing: list[str] = []
    scores, means = exam_scores(missing)
    records = stage_records()
    seconds = sum(record["seconds"] for record in records.values())
    parts = ["# nanochat: report", header(seconds, missing), "## What each stage can do"]
    if scores:
        exams_figure(scores)
        parts += ["Accuracy ± standard error (number of held-out items).", results_table(scores, means),
                  "![exams by stage](exams.png)"]
        if tools := tool_table(scores):
            parts += ["## The calculator", tools]
    if kinds := kinds_table(scores):
        parts += ["## What visitors ask", kinds]
    if reasons := exams_left_out():
        parts.append(reasons)
    if listed := what_was_read():
        parts += ["## What was read", listed]
    if overlap := contamination():
        parts += ["## Do the exams stand in the training text?", overlap]
    parts += ["## Where the time went", wall_clock(records, seconds, dollars_per_hour)]
    if questions := same_questions():
        parts += ["## The same questions, stage by stage", questions]
    parts += [section for stage in STAGES if (section := stage_section(stage, missing))]
    parts += ["## Missing", "\n".join(f"- {one}" for one in missing) or "Nothing."]
    target = paths.report_dir() / "report.md"
    files.write_atomic(target, "\n\n".join(parts) + "\n")
    return target


def reset() -> None:
    """Removes results, the report and the recipe's stage records (which would skip stages whose results are gone)."""
    for folder in (paths.results_dir(""), paths.report_dir(), paths.base_dir() / "stages"):
        shutil.rmtree(folder, ignore_errors=True)


def main(argv: list[str] | None = None) -> None:
    words = [word for word in (sys.argv[1:] if argv is None else argv) if word != "--"]
    action = words.pop(0) if words and not words[0].startswith("-") else "generate"
    args = cli.parse(words, __doc__, dollars_per_hour=cli.flag(-1.0, "of this machine; -1 = your own", at_least=0))
    if action not in ("generate", "reset"):
        raise UserError(f"{action!r} is unknown; write: python -m nanochat.report generate, or reset")
    if action == "reset":
        reset()
        log.say(f"forgot the results in {paths.base_dir()}; checkpoints and data stay")
        return
    log.say(f"report: {generate(args.dollars_per_hour)}")


if __name__ == "__main__":
    cli.run(main)
