"""The comparison as Markdown and as one HTML page."""

import base64
import dataclasses
import html

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;"
    "color:#222}"
    "table{border-collapse:collapse}"
    "th,td{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}"
    "th:nth-child(-n+2),td:nth-child(-n+2){text-align:left}.failed{color:#a00}"
    "pre{background:#f5f5f5;padding:.75rem;white-space:pre-wrap}img{max-width:100%;margin:1rem 0}")


@dataclasses.dataclass(frozen=True)
class Content:
    """The content of both files.

    Attributes:
      heading: str.
      explanation: str, a paragraph below the heading.
      columns: tuple of str. The first two are aligned left, the others right.
      lines: list of tuple of str, the cells under `columns`.
      marked: set of int, the indices of lines with failed runs.
      failures: list of str, one for each run without results.
      command: str, the command line that repeats the comparison.
    """

    heading: str
    explanation: str
    columns: tuple
    lines: list
    marked: set
    failures: list
    command: str


def to_markdown(content):
    """Returns the text of table.md."""
    alignment = ("---", "---", *["---:"] * (len(content.columns) - 2))
    lines = [f"# {content.heading}", "", content.explanation, ""]
    for cells in (content.columns, alignment, *content.lines):
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    if content.failures:
        lines += ["", "Not finished:", ""]
        lines += [f"- {failure}" for failure in content.failures]
    return "\n".join([*lines, "", "```bash", content.command, "```", ""])


def to_html(content, *, figures, notes):
    """Returns the text of index.html, which contains its images.

    Args:
      content: `Content`.
      figures: list of (pathlib.Path of a PNG file, caption).
      notes: list of str, paragraphs below the command line.
    """
    body = [f"<h1>{html.escape(content.heading)}</h1>", _paragraph(content.explanation),
            "<table>", _row("th", content.columns)]
    body += [_row("td", cells, failed=index in content.marked)
             for index, cells in enumerate(content.lines)]
    body.append("</table>")
    if content.failures:
        body += ["<h2>Not finished</h2>", "<ul>"]
        body += [f'<li class="failed">{html.escape(text)}</li>' for text in content.failures]
        body.append("</ul>")
    body += [_figure(path, caption) for path, caption in figures]
    body += ["<h2>How to repeat it</h2>", f"<pre>{html.escape(content.command)}</pre>"]
    body += [_paragraph(note) for note in notes]
    head = ('<head><meta charset="utf-8"><title>Methods compared</title>'
            f"<style>{STYLE}</style></head>")
    return "\n".join(["<!DOCTYPE html>", f'<html lang="en">{head}<body>', *body, "</body></html>",
                      ""])


def _paragraph(text):
    return f"<p>{html.escape(text)}</p>"


def _row(tag, cells, *, failed=False):
    """Returns a table row with cells of the tag "th" or "td"."""
    attribute = ' class="failed"' if failed else ""
    content = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
    return f"<tr{attribute}>{content}</tr>"


def _figure(path, caption):
    """Returns an image with its caption. The image's bytes are part of the text."""
    pixels = base64.b64encode(path.read_bytes()).decode()
    caption = html.escape(caption)
    return (f'<figure><img alt="{caption}" src="data:image/png;base64,{pixels}">'
            f"<figcaption>{caption}</figcaption></figure>")
