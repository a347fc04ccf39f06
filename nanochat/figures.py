"""The report's figures: the curves of a stage, and the exams by stage."""
import io
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from nanochat.system import files, paths

# title of a panel → {label of a line: metric}; the figure of a stage has the panels whose metrics the stage wrote
PANELS = {
    "loss, nats per token": {"train": "train/loss_nats"},
    "validation, bits per byte": {"validation": "val/bpb"},
    "answers to training questions": {"reward": "rl/reward_mean", "tool used": "rl/tool_use",
                                      "right with the tool": "rl/reward_with_tool"},
    "answers to test questions": {"pass@1": "rl/test_pass_at_1", "pass@k": "rl/test_pass_at_k"},
    "distance from the start, KL in nats per token": {"KL": "rl/kl_nats_per_token"},
}
Metrics = list[dict[str, float]]  # the lines of a stage's metrics.jsonl


def save_figure(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    files.write_atomic(path, buffer.getvalue())


def panels(metrics: Metrics) -> list[tuple[str, dict[str, str]]]:
    """(title, lines) of the PANELS that have numbers in these metrics."""
    written = {key for line in metrics for key in line}
    if any(key.startswith("rl/") for key in written):
        written.discard("train/loss_nats")  # RL's loss does not fall when the model gets better, so it misleads
    chosen = [(title, {label: key for label, key in lines.items() if key in written})
              for title, lines in PANELS.items()]
    return [(title, lines) for title, lines in chosen if lines]


def curves(stage: str, metrics: Metrics) -> bool:
    """Draws <stage>.png with the panels in which a line has two points or more; returns whether there are any."""
    shown = [(title, lines) for title, lines in panels(metrics)
             if sum(key in line for line in metrics for key in lines.values()) > len(lines)]
    if not shown:
        return False
    figure = Figure(figsize=(5.2 * len(shown), 3.2))
    for axes, (title, lines) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown):
        for label, key in lines.items():
            points = [(line["step"], line[key]) for line in metrics if key in line]
            marker = "." if len(points) < 30 else None  # a line of few points: show where they are
            axes.plot(*zip(*points), label=label, linewidth=1.2, marker=marker)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend(fontsize=8)
    save_figure(figure, paths.report_dir() / f"{stage}.png")
    return True


def exams_figure(scores: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Draws exams.png from {exam: {stage: score}}: per exam a bar for each stage with its standard error, and a dashed
    line for chance."""
    figure = Figure(figsize=(max(6.0, 1.3 * len(scores)), 3.4))
    axes = figure.subplots()
    for number, stage in enumerate(paths.STAGES):
        of_stage = [(x, by_stage[stage]) for x, by_stage in enumerate(scores.values()) if stage in by_stage]
        left = [x + (number - 1.5) * 0.2 for x, _ in of_stage]  # four bars of width .2 around x
        axes.bar(left, [score["accuracy"] for _, score in of_stage], width=0.2, label=stage.upper(),
                 yerr=[score.get("stderr", 0.0) for _, score in of_stage], error_kw={"linewidth": 1})
    chance = [next(iter(by_stage.values())).get("chance", 0.0) for by_stage in scores.values()]
    exams = range(len(scores))
    axes.hlines(chance, [x - 0.45 for x in exams], [x + 0.45 for x in exams], "black", "--", linewidth=0.8,
                label="chance")
    axes.set_xticks(exams, list(scores), rotation=20, ha="right")
    axes.set(ylim=(0, 1.05), ylabel="accuracy")
    axes.legend(fontsize=8, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.15))
    save_figure(figure, paths.report_dir() / "exams.png")
