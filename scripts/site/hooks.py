"""What the documentation site has beside the pages of docs/: README, CONTRIBUTING, a Python reference, files of the repository.

MkDocs calls the functions whose names begin with `on_`. Every page that they add is virtual; nothing is written into docs/.
A page of docs/ is read on a code host as well, so it links to files outside docs/ by their real place. Here such a link leads
to the page that the file became, or to a copy of the file under `files/`.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from posixpath import normpath, relpath
from urllib.parse import urlparse

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs_autorefs import AutorefsExtension
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mtrouter_rl"
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LICENSE = "LICENSE"
_LINK = re.compile(r"(\]\()([^)\s]+)(\))")
_FENCE = re.compile(r"^ *(```|~~~)")


def modules() -> dict[str, list[str]]:
    """Dotted names of the package's public modules by the folder that they lie in, both sorted; a module has a docstring."""
    found: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        folder = ".".join(parts[:-1])
        name = folder if parts[-1] == "__init__" else ".".join(parts)
        inside_package = all((parent / "__init__.py").is_file() for parent in _folders(path))
        is_public = not any(part.startswith("_") for part in name.split("."))
        if inside_package and is_public and ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))):
            found.setdefault(folder, []).append(name)
    return {folder: sorted(names) for folder, names in sorted(found.items())}


def _folders(path: Path) -> Iterator[Path]:
    """The folders from a module's own up to the package's root."""
    return (parent for parent in path.parents if parent == PACKAGE or PACKAGE in parent.parents)


def _reference_page(folder: str) -> str:
    return f"reference/{folder}.md"


def _reference_text(folder: str, names: list[str]) -> str:
    sections = [f"# {folder}"]
    for name in names:
        is_folder = name == folder  # its docstring opens the page; what it re-exports is described where it is defined
        options = "\n    options:\n      members: false\n      show_root_heading: false" if is_folder else ""
        sections.append(f"::: {name}{options}")
    return "\n\n".join(sections) + "\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the reference to the navigation, one page a folder of the package.

    Takes out what reads `[a][b]` in prose as a reference to an object: here it is an index, and objects are named in backticks.
    """
    used = config.markdown_extensions
    used[:] = [
        kept for kept in used if not isinstance(kept, AutorefsExtension)
    ]  # in place: mkdocstrings has the list already
    pages = [{folder.removeprefix("mtrouter_rl.") or folder: _reference_page(folder)} for folder in modules()]
    config.nav = [*(config.nav or []), {"Python reference": pages}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the virtual pages, the licence and the colours of code."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for folder, names in modules().items():
        files.append(File.generated(config, _reference_page(folder), content=_reference_text(folder, names)))
    colors = HtmlFormatter(style="default").get_style_defs(".highlight")
    files.append(File.generated(config, "css/code.css", content=colors))
    files.append(File.generated(config, "css/site.css", abs_src_path=str(Path(__file__).parent / "site.css")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads links to files of the repository to where they are in the site; code blocks are left alone."""
    is_code = False
    lines = []
    for line in markdown.split("\n"):
        if _FENCE.match(line):
            is_code = not is_code
        lines.append(line if is_code else _LINK.sub(lambda link: _led(link, page.file, config, files), line))
    return "\n".join(lines)


def _led(link: re.Match[str], file: File, config: MkDocsConfig, files: Files) -> str:
    """The link, relative to its page in the site."""
    path, hash_sign, anchor = link[2].partition("#")
    if not path or urlparse(link[2]).scheme:
        return link[0]
    target = _target(normpath(f"{_source_folder(file)}/{path}"), config, files)
    if target is None:
        return link[0]  # left as it is: the strict build names it
    return link[1] + relpath(target, str(Path(file.src_uri).parent)) + hash_sign + anchor + link[3]


def _source_folder(file: File) -> str:
    """The folder in the repository that a page's links start from."""
    at_root = file.src_uri in PAGES.values()
    return "." if at_root else normpath(f"docs/{Path(file.src_uri).parent.as_posix()}")


def _target(source: str, config: MkDocsConfig, files: Files) -> str | None:
    """Where a file of the repository is in the site; it is copied there if it was not yet. None if there is no such file."""
    if source in PAGES:
        return PAGES[source]
    if source.startswith("docs/"):
        return source.removeprefix("docs/")
    if not (ROOT / source).is_file():
        return None
    copy = f"files/{source}.txt" if source.endswith((".py", ".md", LICENSE)) else f"files/{source}"
    if files.get_file_from_path(copy) is None:
        files.append(File.generated(config, copy, abs_src_path=str(ROOT / source)))
    return copy
