"""Blocks of Markdown for the report, and the whole report as one HTML file with its figures inside."""
import re
from collections.abc import Callable
from typing import Any

from markdown_it import MarkdownIt

SAMPLE_CHARACTERS = 240  # longer texts are cut in the report
STYLE = """
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.55 system-ui, sans-serif; color: #222;
  background: #fff; }
h1, h2, h3 { line-height: 1.25; }
h2 { margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .3rem .8rem; border: 1px solid #ddd; }
pre { padding: .7rem 1rem; background: #f6f5f2; white-space: pre-wrap; overflow-wrap: anywhere; }
code { overflow-wrap: anywhere; }
figure { margin: 1rem 0; overflow-x: auto; }
"""


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; the first column is aligned left, the others right.

    >>> print(table(["exam", "SFT"], [["facts", "0.9"]]))
    | exam | SFT |
    |---|---:|
    | facts | 0.9 |
    """
    lines = ["| " + " | ".join(row) + " |" for row in [header, *rows]]
    return "\n".join([lines[0], "|---" + "|---:" * (len(header) - 1) + "|", *lines[1:]])


def facts_table(facts: dict[str, Any]) -> str:
    return table(["", "value"], [[name, show(value)] for name, value in facts.items()])


def show(value: Any) -> str:
    """`show(1310720)` → "1,310,720", `show(0.123456)` → "0.1235". A pipe is escaped: it would end a table's cell."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return (f"{value:.4g}" if isinstance(value, float) else str(value)).replace("|", "\\|").replace("\n", " ")


def flat(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Numbers and strings of nested dictionaries, by dotted names; lists are left out.

    >>> flat({"bpb": {"train": 1.2}, "samples": []})
    {'bpb.train': 1.2}
    """
    values: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            values |= flat(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float, str)):
            values[prefix + key] = value
    return values


def cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= SAMPLE_CHARACTERS else text[:SAMPLE_CHARACTERS] + "…"


def fenced(text: str) -> str:
    """A fenced block that no content can end: its fence is longer than every run of tildes inside."""
    fence = "~" * max(3, 1 + max((len(run) for run in re.findall("~+", text)), default=0))
    return f"{fence}text\n{text}\n{fence}\n"


def details(summary: str, content: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{content}\n\n</details>"


def to_html(title: str, markdown: str, figure: Callable[[str], str]) -> str:
    """One HTML file. `figure(name)`: the SVG of an image. A model's text never becomes HTML elements."""
    # "html": False, so that a text cannot add elements. The only ones are those of `details`, restored below.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    body = re.sub(r"<p>&lt;details&gt;&lt;summary&gt;([\w ]+)&lt;/summary&gt;</p>",
                  r"<details><summary>\1</summary>", body).replace("<p>&lt;/details&gt;</p>", "</details>")
    body = re.sub(r'<p><img src="([\w.]+)" alt="([^"]*)" /></p>',
                  lambda image: f'<figure role="img" aria-label="{image[2]}">{figure(image[1])}</figure>', body)
    return (f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
            f'content="width=device-width, initial-scale=1"><title>{title}</title><style>{STYLE}</style></head>\n'
            f"<body>\n{body}</body></html>\n")
