"""The report's figures: a stage's curves, and the exams by stage."""
import io
from pathlib import Path

from matplotlib.figure import Figure

from nanochat.system import files, paths

PANELS = (  # a figure of a stage has those whose numbers it wrote: title, {label: metric}
    ("loss, nats per token", {"train": "train/loss_nats"}),
    ("validation, bits per byte", {"validation": "val/bpb"}),
    ("answers to training questions", {"reward": "rl/reward_mean", "tool used": "rl/tool_use",
                                       "right with the tool": "rl/reward_with_tool"}),
    ("answers to test questions", {"pass@1": "rl/test_pass_at_1", "pass@k": "rl/test_pass_at_k"}),
    ("distance from the start, KL in nats per token", {"KL": "rl/kl_nats_per_token"}),
)
Metrics = list[dict[str, float]]  # the lines of a stage's metrics.jsonl


def save_figure(figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, bbox_inches="tight")
    files.write_atomic(path, buffer.getvalue())


def panels(metrics: Metrics) -> list[tuple[str, dict[str, str]]]:
    """The entries of PANELS that these metrics have numbers for. RL's loss is no measure of anything: left out."""
    there = {key for line in metrics for key in line}
    if any(key.startswith("rl/") for key in there):
        there.discard("train/loss_nats")
    chosen = [(title, {label: key for label, key in lines.items() if key in there}) for title, lines in PANELS]
    return [(title, lines) for title, lines in chosen if lines]


def curves(stage: str, metrics: Metrics) -> bool:
    """Draws <stage>.png, one panel per kind of number that the stage wrote twice or more; whether there was any."""
    shown = [(title, lines) for title, lines in panels(metrics)
             if sum(key in line for line in metrics for key in lines.values()) > len(lines)]
    if not shown:
        return False
    figure = Figure(figsize=(5.2 * len(shown), 3.2))
    for axes, (title, lines) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown):
        for label, key in lines.items():
            points = [(line["step"], line[key]) for line in metrics if key in line]
            axes.plot(*zip(*points), label=label, linewidth=1.2, marker="." if len(points) < 30 else None)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend(fontsize=8)
    save_figure(figure, paths.report_dir() / f"{stage}.png")
    return True


def exams_figure(scores: dict[str, dict[str, dict]]) -> None:
    """exams.png: a group of bars per exam, one bar per stage with its standard error, chance as a dash."""
    figure = Figure(figsize=(max(6.0, 1.3 * len(scores)), 3.4))
    axes = figure.subplots()
    for offset, stage in enumerate(paths.STAGES):
        have = [(x, by_stage[stage]) for x, by_stage in enumerate(scores.values()) if stage in by_stage]
        axes.bar([x + (offset - 1.5) * 0.2 for x, _ in have], [score["accuracy"] for _, score in have], width=0.2,
                 label=stage.upper(), yerr=[score.get("stderr", 0.0) for _, score in have], error_kw={"linewidth": 1})
    chance = [next(iter(by_stage.values())).get("chance", 0.0) for by_stage in scores.values()]
    axes.hlines(chance, [x - 0.45 for x in range(len(scores))], [x + 0.45 for x in range(len(scores))], "black", "--",
                linewidth=0.8, label="chance")
    axes.set_xticks(range(len(scores)), list(scores), rotation=20, ha="right")
    axes.set(ylim=(0, 1.05), ylabel="accuracy")
    axes.legend(fontsize=8, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.15))
    save_figure(figure, paths.report_dir() / "exams.png")
