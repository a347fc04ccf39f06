"""The report's figures as SVG, which browsers and Markdown viewers draw: the curves of a stage, the exams by stage."""
import math
from html import escape
from typing import Any

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
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728")
HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300, 60, 20, 50, 70  # pixels: height of a figure, margins around a plot
Metrics = list[dict[str, Any]]  # the lines of a stage's metrics.jsonl
Points = list[tuple[float, float]]


class Plot:
    """Collects SVG elements and converts numbers to pixels; the plot begins at `left` pixels."""

    def __init__(self, left: float, width: float, x_range: tuple[float, ...], y_range: tuple[float, ...], title: str):
        self.left, self.width, self.x_range, self.y_range = left + LEFT, width - LEFT - RIGHT, x_range, y_range
        self.elements: list[str] = []
        self.text(self.left + self.width / 2, 18, title)
        for value in ticks(*y_range):
            x, y = self.place(x_range[0], value)
            self.line([(x, y), (x + self.width, y)], "#ddd")
            self.text(x - 6, y + 4, f"{value:g}", "end")

    def place(self, x: float, y: float) -> tuple[float, float]:
        x_share, y_share = ((value - low) / ((high - low) or 1)
                            for value, (low, high) in ((x, self.x_range), (y, self.y_range)))
        return self.left + self.width * x_share, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y_share

    def text(self, x: float, y: float, content: str, anchor: str = "middle", degrees: int = 0) -> None:
        self.elements.append(f'<text transform="translate({x:.1f} {y:.1f}) rotate({degrees})" text-anchor="{anchor}">'
                             f'{escape(content)}</text>')

    def line(self, places: Points, colour: str, dashes: str = "none") -> None:
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        self.elements.append(f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="1.3" '
                             f'stroke-dasharray="{dashes}"/>')

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        self.elements.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
                             f'fill="{colour}"/>')

    def legend(self, labels: list[str]) -> None:
        for number, label in enumerate(labels):
            x = self.left + number * self.width / len(labels)
            self.box(x, 28, 9, 9, COLOURS[number])
            self.text(x + 13, 37, label, "start")


def ticks(low: float, high: float) -> list[float]:
    """The round numbers from `low` to `high`, at most seven.

    >>> ticks(0, 1), ticks(1.97, 7.1)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
    """
    span = (high - low) or 1
    power = 10.0 ** math.floor(math.log10(span / 6))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 6)
    return [round(number * step, 9) for number in range(math.ceil(low / step - 1e-9), int(high / step + 1e-9) + 1)]


def save(name: str, width: float, plots: list[Plot]) -> None:
    elements = "\n".join(element for plot in plots for element in plot.elements)
    files.write_atomic(paths.report_dir() / f"{name}.svg", (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{HEIGHT}" font-family="sans-serif" '
        f'font-size="11">\n<rect width="100%" height="100%" fill="white"/>\n{elements}\n</svg>\n'))


def panels(metrics: Metrics) -> list[tuple[str, dict[str, str]]]:
    """(title, lines) for those PANELS whose numbers are in these metrics."""
    written = {key for line in metrics for key in line}
    if any(key.startswith("rl/") for key in written):
        written.discard("train/loss_nats")  # misleading: RL's loss does not fall when the model gets better
    chosen = [(title, {label: key for label, key in lines.items() if key in written})
              for title, lines in PANELS.items()]
    return [(title, lines) for title, lines in chosen if lines]


def curves(stage: str, metrics: Metrics) -> bool:
    """Draws <stage>.svg with the panels in which a line has two or more points; returns whether there are any."""
    width, plots = 480, list[Plot]()
    for title, keys in panels(metrics):
        lines = [[(line["step"], line[key]) for line in metrics if key in line] for key in keys.values()]
        steps, values = zip(*(point for line in lines for point in line))
        if len(steps) <= len(lines):
            continue
        plot = Plot(width * len(plots), width, (min(steps), max(steps)), (min(values), max(values)), title)
        for colour, line in zip(COLOURS, lines):
            places = [plot.place(*point) for point in line]
            plot.line(places, colour)
            for x, y in places if len(line) < 30 else ():  # few points: show where they are
                plot.box(x - 2, y - 2, 4, 4, colour)
        for step in ticks(*plot.x_range):
            plot.text(plot.place(step, 0)[0], HEIGHT - BOTTOM + 18, f"{step:g}")
        plot.text(plot.left + plot.width / 2, HEIGHT - BOTTOM + 36, "step")
        plot.legend(list(keys) if len(keys) > 1 else [])
        plots.append(plot)
    if plots:
        save(stage, width * len(plots), plots)
    return bool(plots)


def exams_figure(scores: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Draws exams.svg from {exam: {stage: score}}: per exam a bar for each stage with its standard error, and a dashed
    line for chance."""
    width = max(560, 120 * len(scores))
    plot = Plot(0, width, (-0.5, len(scores) - 0.5), (0, 1), "accuracy ± standard error; dashed: chance")
    for exam, (name, by_stage) in enumerate(scores.items()):
        for number, stage in enumerate(paths.STAGES):
            score = by_stage.get(stage, {"accuracy": 0.0})
            x = exam + (number - 2) * 0.2  # four bars of width .2 around the exam
            (left, top), (right, bottom) = plot.place(x, score["accuracy"]), plot.place(x + 0.2, 0)
            plot.box(left, top, right - left, bottom - top, COLOURS[number])
            error = score.get("stderr") or 0.0
            plot.line([plot.place(x + 0.1, score["accuracy"] + way * error) for way in (-1, 1)], "black")
        chance = next(iter(by_stage.values())).get("chance", 0.0)
        plot.line([plot.place(exam - 0.45, chance), plot.place(exam + 0.45, chance)], "black", "5 3")
        plot.text(plot.place(exam, 0)[0], HEIGHT - BOTTOM + 18, name, "end", degrees=-20)
    plot.legend([stage.upper() for stage in paths.STAGES])
    save("exams", width, [plot])
