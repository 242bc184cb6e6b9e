"""A small document model with two renderings, Markdown and self-contained HTML, so that both say the same."""

import base64
import html
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrouter_rl.files import visible
from mtrouter_rl.reporting.tables import Table, to_markdown


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
class Bullets:
    """A list of texts, marked as those of a paragraph."""

    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Links to the headings of levels 2 and 3 that come after it."""


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


@dataclass(frozen=True, kw_only=True)
class Interactive:
    """Something that moves in a page, and is left out of Markdown.

    Attributes:
        markup: HTML of it, with its own script; every text in it is escaped.
        text: What it shows.
        needs_plotly: Whether the page has to hold Plotly's script for it.
    """

    markup: str
    text: str
    needs_plotly: bool = False


Block = Heading | Paragraph | Bullets | Contents | Code | Picture | Table | Interactive

_STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --paper: #fff; --faint: #f5f5f5; --line: #ddd; --soft: #555;
  --link: #00558a; --note: #fff8e8; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #15171a; --faint: #22262b; --line: #3a4048;
  --soft: #a8b0b8; --link: #7cc4f2; --note: #33290f; } img { background: #fff; border-radius: 4px; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 74rem; margin: 0 auto;
  padding: 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.2; } h2 { margin-top: 2.4rem; border-bottom: 1px solid var(--line); }
h2, h3 { line-height: 1.25; scroll-margin-top: .5rem; } h3 { margin: 1.8rem 0 .4rem; font-size: 1.05rem; }
a { color: var(--link); }
.note { border-left: 4px solid #E69F00; background: var(--note); padding: .6rem .9rem; }
nav { background: var(--faint); padding: .6rem .9rem; font-size: .92rem; } nav ul { margin: .2rem 0; padding-left: 1.2rem; }
li { margin: .25rem 0; } .level-3 { margin-left: 1.2rem; list-style: circle; }
.scroll { overflow-x: auto; margin-top: 1rem; }
.scroll:focus-visible { outline: 2px solid #0072B2; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap;
  vertical-align: top; }
thead th { border-bottom: 2px solid #888; vertical-align: bottom; white-space: normal; line-height: 1.25; }
tr.group > * { border-top: 2px solid #bbb; }
th:first-child { text-align: left; font-weight: normal; position: sticky; left: 0; background: var(--paper); }
thead th:first-child { font-weight: bold; }
.prose td, .prose thead th { text-align: left; white-space: normal; min-width: 6rem; overflow-wrap: anywhere; }
.caption, figcaption { color: var(--soft); font-size: .86rem; margin-top: .4rem; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; }
pre { background: var(--faint); padding: .7rem; overflow-x: auto; font-size: .8rem; }
code { background: var(--faint); padding: 0 .2em; } pre code { padding: 0; }
.moving { max-width: 100%; overflow: hidden; }
.filter input, .viewer select { font: inherit; max-width: 100%; color: inherit;
  background: var(--paper); border: 1px solid var(--soft); border-radius: 4px; padding: .2rem .4rem; }
.filter { font-size: .9rem; }
.viewer-choice { display: flex; flex-wrap: wrap; gap: .6rem; font-size: .9rem; }
.viewer ol { padding-left: 1.6rem; } .viewer li { border-bottom: 1px solid var(--line); padding: .4rem 0; }
.viewer p { margin: .2rem 0; } .viewer .why { color: var(--soft); font-size: .86rem; } .viewer .error { color: #D55E00; }
.bar { display: grid; grid-template-columns: minmax(5rem, 12rem) 1fr 4rem; gap: .5rem; align-items: center; font-size: .82rem; }
.bar .track { background: var(--faint); height: .6rem; } .bar .fill { display: block; height: 100%; }
.bar .number { text-align: right; font-variant-numeric: tabular-nums; } .bar .called { font-weight: bold; }
.bar .who { overflow-wrap: anywhere; } .message summary { font-size: .86rem; cursor: pointer; overflow-wrap: anywhere; }
.message pre { white-space: pre-wrap; overflow-wrap: anywhere; max-height: 20rem; overflow-y: auto; }
@media screen and (max-width: 40rem) { thead { display: none; }
  table, tbody, tr, th, td { display: block; } tr { border-bottom: 2px solid var(--line); padding: .3rem 0; }
  th:first-child { position: static; font-weight: bold; border: 0; padding: .3rem 0; white-space: normal; }
  td, .prose td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem 0; white-space: normal;
    text-align: right; min-width: 0; }
  td::before { content: attr(data-label); color: var(--soft); text-align: left; flex: none; max-width: 45%; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  .bar { grid-template-columns: minmax(4rem, 8rem) 1fr 3.5rem; } }
@media print { .moving { display: none; } @page { margin: 14mm 12mm; }
  body { max-width: none; padding: 0; font-size: 10pt; } a { color: inherit; text-decoration: none; }
  table { font-size: 7.5pt; width: 100%; } th, td { white-space: normal; padding: .15rem .3rem; }
  th:first-child { position: static; } .scroll, .picture, pre { overflow: visible; } pre { white-space: pre-wrap; }
  figure, tr, .note, li { break-inside: avoid; } thead { display: table-header-group; }
  h1, h2, h3 { break-after: avoid; } .caption { break-before: avoid; }
  img { max-height: 220mm; object-fit: contain; object-position: left; } }
"""


def render_markdown(blocks: Sequence[Block], *, folder: Path) -> str:
    """The document as Markdown; pictures are linked relative to `folder`."""
    contents = _contents(blocks)
    parts = [
        "\n".join(f"{'  ' * (heading.level - 2)}- [{heading.text}](#{anchor})" for heading, anchor in contents)
        if isinstance(block, Contents)
        else _markdown(block, folder=folder)
        for block in blocks
        if not isinstance(block, Interactive)
    ]
    return visible("\n\n".join(parts)) + "\n"


def render_html(blocks: Sequence[Block], *, title: str) -> str:
    """The document as one HTML page that needs nothing else: style, pictures and, if anything moves, scripts inside."""
    anchors = iter(_anchors(blocks))
    contents = _contents_html(_contents(blocks))
    parts = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f'<h{block.level} id="{next(anchors)}">{html.escape(block.text)}</h{block.level}>')
        else:
            parts.append(contents if isinstance(block, Contents) else _html(block))
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n{_scripts(blocks)}</head>\n<body>\n<main>\n{body}\n"
        "</main>\n"
        "</body>\n</html>\n"
    )


def _scripts(blocks: Sequence[Block]) -> str:
    if not any(isinstance(block, Interactive) and block.needs_plotly for block in blocks):
        return ""
    from mtrouter_rl.reporting.interactive import plotly_script

    return f"{plotly_script()}\n"


def _anchors(blocks: Sequence[Block]) -> Iterator[str]:
    """An id for every heading, made as Git hosts make them, so that the same links work in both renderings."""
    seen: Counter[str] = Counter()
    for block in blocks:
        if isinstance(block, Heading):
            slug = re.sub(r"[^\w\- ]", "", block.text.lower()).replace(" ", "-")
            yield f"{slug}-{seen[slug]}" if seen[slug] else slug
            seen[slug] += 1


def _contents(blocks: Sequence[Block]) -> list[tuple[Heading, str]]:
    """Headings of levels 2 and 3 after the table of contents, with their ids."""
    headings = [block for block in blocks if isinstance(block, Heading)]
    start = next((number for number, block in enumerate(blocks) if isinstance(block, Contents)), len(blocks))
    later = {id(block) for block in blocks[start:]}
    pairs = zip(headings, _anchors(blocks), strict=True)
    return [(one, anchor) for one, anchor in pairs if id(one) in later and one.level in (2, 3)]


def _contents_html(contents: Sequence[tuple[Heading, str]]) -> str:
    items = "\n".join(
        f'<li class="level-{heading.level}"><a href="#{anchor}">{html.escape(heading.text)}</a></li>'
        for heading, anchor in contents
    )
    return f'<nav aria-label="Contents"><strong>Contents</strong>\n<ul>\n{items}\n</ul></nav>'


def _markdown(block: Block, *, folder: Path) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {block.text}"
        case Paragraph():
            return f"> {block.text}" if block.is_note else block.text
        case Bullets():
            return "\n".join(f"- {item}" for item in block.items)
        case Code():
            return f"```\n{block.text}\n```"
        case Picture():
            return f"![{block.text}]({block.path.relative_to(folder).as_posix()})"
        case Table():
            return to_markdown(block)
        case Contents() | Interactive():
            raise AssertionError("contents are rendered where all headings are known, and nothing moves in Markdown")


def _html(block: Block) -> str:
    match block:
        case Paragraph():
            return f'<p class="note">{_inline(block.text)}</p>' if block.is_note else f"<p>{_inline(block.text)}</p>"
        case Bullets():
            return "<ul>\n" + "\n".join(f"<li>{_inline(item)}</li>" for item in block.items) + "\n</ul>"
        case Code():
            return f"<pre><code>{html.escape(block.text)}</code></pre>"
        case Picture():
            return _picture_html(block)
        case Table():
            return _table_html(block)
        case Interactive():
            return f'<figure class="moving">{block.markup}<figcaption>{html.escape(block.text)}</figcaption></figure>'
        case Heading() | Contents():
            raise AssertionError("headings and contents are rendered where all anchors are known")


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
    header = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in table.header)
    label = html.escape(table.caption)
    kind = ' class="prose"' if table.is_prose else ""
    named = " data-policies" if table.header[:1] == ("policy",) else ""
    rows = "\n".join(_row_html(table, index) for index in range(len(table.rows)))
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{label}">'
        f"<table{kind}{named}><thead><tr>{header}</tr></thead><tbody>\n{rows}\n</tbody></table></div>\n"
        f'<p class="caption">{label}</p>'
    )


def _row_html(table: Table, index: int) -> str:
    first, *others = [
        f"<strong>{html.escape(cell)}</strong>" if (index, number) in table.best else html.escape(cell)
        for number, cell in enumerate(table.rows[index])
    ]
    kind = ' class="group"' if index in table.groups else ""
    labels = (html.escape(name, quote=True) for name in table.header[1:])
    cells = "".join(f'<td data-label="{label}">{text}</td>' for label, text in zip(labels, others, strict=True))
    return f'<tr{kind}><th scope="row">{first}</th>{cells}</tr>'
