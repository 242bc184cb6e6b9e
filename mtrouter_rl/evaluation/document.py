"""A small document model with two renderings, Markdown and self-contained HTML, so that both say the same."""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrouter_rl.evaluation.tables import Table, to_markdown


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A heading; level 1 is the title."""

    text: str
    level: int = 2


@dataclass(frozen=True, kw_only=True)
class Paragraph:
    """Plain text in which `code` and **bold** are marked as in Markdown; `is_note` sets it off."""

    text: str
    is_note: bool = False


@dataclass(frozen=True, kw_only=True)
class Code:
    """Text to be copied or read as it is."""

    text: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG file.

    Attributes:
        path: The file, inside the folder of the document.
        text: What it shows, for captions and for readers who cannot see it.
    """

    path: Path
    text: str


Block = Heading | Paragraph | Code | Picture | Table

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 68rem; margin: 0 auto;
  padding: 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
.note { border-left: 4px solid #E69F00; background: #fff8e8; padding: .6rem .9rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; }
td:nth-child(2):last-child { white-space: normal; text-align: left; overflow-wrap: anywhere; }
th:nth-child(2):last-child { text-align: left; }
.caption, figcaption { color: #555; font-size: .86rem; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; }
pre { background: #f5f5f5; padding: .7rem; overflow-x: auto; font-size: .8rem; }
code { background: #f2f2f2; padding: 0 .2em; } pre code { padding: 0; }
@media screen and (max-width: 40rem) { th, td { padding: .3rem .4rem; } .picture { overflow-x: auto; }
  th:first-child, td:first-child { white-space: normal; max-width: 7.5rem; overflow-wrap: break-word; }
  .picture img { max-width: none; width: 38rem; } }
@media print { body { max-width: none; padding: 0; font-size: 10pt; } table { font-size: 7.5pt; }
  th, td { white-space: normal; padding: .15rem .3rem; } .scroll, pre { overflow: visible; }
  pre { white-space: pre-wrap; } figure, tr { break-inside: avoid; } h2 { break-after: avoid; } }
"""


def render_markdown(blocks: Sequence[Block], *, folder: Path) -> str:
    """The document as Markdown; pictures are linked relative to `folder`."""
    return "\n\n".join(_markdown(block, folder=folder) for block in blocks) + "\n"


def render_html(blocks: Sequence[Block], *, title: str) -> str:
    """The document as one HTML page that needs nothing else: style inside, pictures as base64, no script."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _markdown(block: Block, *, folder: Path) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {block.text}"
        case Paragraph():
            return f"> {block.text}" if block.is_note else block.text
        case Code():
            return f"```\n{block.text}\n```"
        case Picture():
            return f"![{block.text}]({block.path.relative_to(folder).as_posix()})"
        case Table():
            return to_markdown(block)


def _html(block: Block) -> str:
    match block:
        case Heading():
            return f"<h{block.level}>{html.escape(block.text)}</h{block.level}>"
        case Paragraph():
            return f'<p class="note">{_inline(block.text)}</p>' if block.is_note else f"<p>{_inline(block.text)}</p>"
        case Code():
            return f"<pre><code>{html.escape(block.text)}</code></pre>"
        case Picture():
            return _picture_html(block)
        case Table():
            return _table_html(block)


def _inline(text: str) -> str:
    escaped = html.escape(text)
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", escaped)


def _picture_html(picture: Picture) -> str:
    data = base64.b64encode(picture.path.read_bytes()).decode("ascii")
    text = html.escape(picture.text)
    image = f'<img alt="{text}" src="data:image/png;base64,{data}">'
    return f'<figure><div class="picture">{image}</div><figcaption>{text}</figcaption></figure>'


def _table_html(table: Table) -> str:
    header = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    rows = []
    for index, cells in enumerate(table.rows):
        texts = [
            f"<strong>{html.escape(cell)}</strong>" if (index, number) in table.best else html.escape(cell)
            for number, cell in enumerate(cells)
        ]
        rows.append("<tr>" + "".join(f"<td>{text}</td>" for text in texts) + "</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>\n'
        + "\n".join(rows)
        + f'\n</tbody></table></div>\n<p class="caption">{html.escape(table.caption)}</p>'
    )
