"""Draws docs/architecture.svg: the pipeline above, the model below.

    .venv/bin/python docs/draw.py
"""
from pathlib import Path
from xml.sax.saxutils import escape

WIDTH, HEIGHT = 960, 560
INK, SOFT, LINE = "#1c2733", "#5b6b7b", "#8fa1b3"
FILLS = {"data": "#e8eef4", "train": "#dcebe0", "exam": "#fbf0d9", "use": "#e6e0f2", "block": "#f6f8fa"}


def box(x: float, y: float, width: float, height: float, title: str, lines: tuple[str, ...] = (),
        fill: str = "data") -> str:
    """A rounded box with a bold title and small lines below it, all centred."""
    middle = x + width / 2
    top = y + height / 2 - 7 * len(lines) + 5
    parts = [f'<rect x="{x}" y="{y}" width="{width}" height="{height}" rx="7" fill="{FILLS[fill]}" stroke="{LINE}"/>',
             f'<text x="{middle}" y="{top}" font-weight="600">{escape(title)}</text>']
    parts += [f'<text x="{middle}" y="{top + 15 * number}" font-size="11" fill="{SOFT}">{escape(line)}</text>'
              for number, line in enumerate(lines, 1)]
    return "".join(parts)


def arrow(x1: float, y1: float, x2: float, y2: float, dashed: bool = False) -> str:
    style = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{SOFT}" marker-end="url(#head)"{style}/>'


def label(x: float, y: float, text: str, anchor: str = "start", size: int = 12, weight: int = 400) -> str:
    return (f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
            f'fill="{SOFT if weight == 400 else INK}">{escape(text)}</text>')


def pipeline() -> list[str]:
    """Text to chat, left to right, with what each stage teaches; the exams are taken after every training stage."""
    stages = [("text", ("parquet shards",), "data"), ("tokenizer", ("byte pairs",), "data"),
              ("base", ("continues text",), "train"), ("mid", ("chat format,", "the calculator"), "train"),
              ("SFT", ("name, manners,", "when to stop"), "train"),
              ("RL", ("right or wrong", "is the reward"), "train"),
              ("engine", ("many chats", "at once"), "use"), ("chat", ("terminal, page,", "OpenAI's API"), "use")]
    width, gap, y = 98, 20, 44
    parts = [label(16, 28, "The pipeline: bash speedrun.sh", size=14, weight=600)]
    for number, (title, lines, fill) in enumerate(stages):
        x = 16 + number * (width + gap)
        parts.append(box(x, y, width, 66, title, lines, fill))
        if number:
            parts.append(arrow(x - gap + 2, y + 33, x - 3, y + 33))
        if fill == "train":
            parts.append(arrow(x + width / 2, y + 66, x + width / 2, y + 89, dashed=True))
    first = 16 + 2 * (width + gap)
    exams = "exams on items no stage has seen → report.md"
    parts.append(box(first, y + 92, 4 * width + 3 * gap, 34, exams, (), "exam"))
    return parts


def model() -> list[str]:
    """Token ids to logits, left to right; one block opened up below the row."""
    y = 246
    title = "The model: nanochat/model/gpt.py, drawn for the laptop (4 layers, 128 wide, 2 heads of 64)"
    parts = [label(16, 216, title, size=14, weight=600)]
    row = [(16, 100, "token ids", ("2,048 tokens", "of vocabulary"), "data"),
           (146, 150, "embedding", ("norm, then smear:", "a part of the token before"), "data"),
           (326, 200, "4 × block", ("x = a·x + b·embedding,", "a and b learned per layer"), "train"),
           (556, 110, "norm", ("RMS, no weights",), "data"),
           (696, 120, "head", ("a matrix of its own,", "15·tanh(x / 15)"), "data"),
           (846, 98, "logits", ("of the next", "token"), "data")]
    for number, (x, width, title, lines, fill) in enumerate(row):
        parts.append(box(x, y, width, 66, title, lines, fill))
        if number:
            before = row[number - 1]
            parts.append(arrow(before[0] + before[1] + 2, y + 33, x - 3, y + 33))
    parts.append(f'<path d="M 326 312 L 16 350 M 526 312 L 944 350" stroke="{LINE}" stroke-dasharray="4 3"/>')
    parts.append(f'<rect x="16" y="350" width="928" height="194" rx="9" fill="{FILLS["block"]}" stroke="{LINE}"/>')
    parts += attention(378) + mlp(470)
    return parts


def attention(y: float) -> list[str]:
    steps = [(130, 70, "norm", ()), (226, 150, "q, k, v", ("three matrices",)),
             (402, 150, "RoPE, norm", ("of q and k",)), (578, 170, "causal attention", ("softmax(q·k) v",)),
             (774, 90, "matrix", ("starts at 0",))]
    parts = [label(30, y + 30, "attention", weight=600), *row_of(steps, y)]
    parts.append(label(301, y + 64, "in every other layer v += gate · an embedding of the token", size=11))
    return parts


def mlp(y: float) -> list[str]:
    steps = [(130, 70, "norm", ()), (226, 150, "matrix", ("128 → 512",)), (402, 150, "relu²", ("max(0, x) squared",)),
             (578, 170, "matrix", ("512 → 128, starts at 0",))]
    return [label(30, y + 30, "MLP", weight=600), *row_of(steps, y), label(774, y + 30, "x += its output, both times")]


def row_of(steps: list[tuple[float, float, str, tuple[str, ...]]], y: float) -> list[str]:
    parts = []
    for number, (x, width, title, lines) in enumerate(steps):
        parts.append(box(x, y, width, 46, title, lines))
        if number:
            before = steps[number - 1]
            parts.append(arrow(before[0] + before[1] + 2, y + 23, x - 3, y + 23))
    return parts


def main() -> None:
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            f'font-family="system-ui, sans-serif" font-size="13" text-anchor="middle" fill="{INK}" role="img" '
            'aria-label="The pipeline from text to chat, and the layers of the model">'
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto">'
            f'<path d="M 0 0 L 8 4 L 0 8 z" fill="{SOFT}"/></marker></defs>'
            f'<rect width="{WIDTH}" height="{HEIGHT}" rx="10" fill="#ffffff"/>')
    target = Path(__file__).with_name("architecture.svg")
    target.write_text("\n".join([head, *pipeline(), *model(), "</svg>"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
