"""The documentation site builds without a network, holds every page, and every link and anchor in it leads somewhere."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest

ROOT = Path(__file__).parents[1]
# Where a page loads something by itself. Links that a reader follows may lead to other hosts.
LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}
NO_NETWORK = "http://127.0.0.1:9"  # nothing listens there


@dataclass
class Page(HTMLParser):
    """What a built page links to, loads, and can be linked to at."""

    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self):
        super().__init__()

    def handle_starttag(self, tag, attrs):
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        loads = LOADING.get(tag)
        if loads in values and values.get("rel") != "canonical":
            self.loaded.append(values[loads])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    ran = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"http_proxy": NO_NETWORK, "https_proxy": NO_NETWORK},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    found = {}
    for path in sorted(site.rglob("*.html")):
        found[path] = Page()
        found[path].feed(path.read_text(encoding="utf-8"))
    return found


def broken(links, page, pages, site):
    """Those of the links on a page that lead to no file or to no anchor."""
    found = []
    for link in links:
        parts = urlparse(link)
        if parts.scheme or parts.netloc:
            continue
        path = unquote(parts.path)
        # Only the page for addresses that do not exist links from the root, as it may be shown anywhere.
        target = (site / path.lstrip("/") if path.startswith("/") else page.parent / path).resolve() if path else page
        target = target / "index.html" if target.is_dir() else target
        has_anchor = not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].anchors
        if not target.is_file() or not has_anchor:
            found.append(f"{page.relative_to(site)}: {link}")
    return found


def test_every_page_of_docs_is_in_the_site_and_in_its_navigation(site, pages):
    start = pages[site / "index.html"]
    for page in (ROOT / "docs").rglob("*.md"):
        built = page.relative_to(ROOT / "docs").with_suffix(".html")
        assert (site / built).is_file()
        assert built.as_posix() in start.links


@pytest.mark.parametrize(
    ("page", "source"),
    [("index", "README.md"), ("contributing", "CONTRIBUTING.md"), ("changelog", "CHANGELOG.md")],
)
def test_the_texts_at_the_root_are_pages(site, page, source):
    title = (ROOT / source).read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    assert f">{title}<" in (site / f"{page}.html").read_text(encoding="utf-8")


def test_every_documented_folder_of_the_package_has_a_reference_page(site):
    package = ROOT / "mtrouter_rl"
    for start in package.rglob("__init__.py"):
        folder = ".".join(start.parent.relative_to(ROOT).parts)
        is_code = all((parent / "__init__.py").is_file() for parent in start.parents if package in parent.parents)
        is_public = not any(part.startswith("_") for part in folder.split("."))
        if is_code and is_public and '"""' in start.read_text(encoding="utf-8"):
            assert (site / "reference" / f"{folder}.html").is_file()


def test_the_reference_describes_what_docstrings_say(pages, site):
    anchors = pages[site / "reference" / "mtrouter_rl.html"].anchors
    assert {"mtrouter_rl.protocols.Router", "mtrouter_rl.errors.MTRouterError"} <= anchors
    texts = [page.read_text(encoding="utf-8") for page in (site / "reference").glob("*.html")]
    assert any('class="gp">&gt;&gt;&gt; <' in text for text in texts), "examples of docstrings are shown as code"


def test_every_link_and_anchor_resolves(pages, site):
    assert not [text for path, page in pages.items() for text in broken([*page.links, *page.loaded], path, pages, site)]


def test_nothing_is_loaded_from_another_host(pages, site):
    foreign = {load for page in pages.values() for load in page.loaded if urlparse(load).netloc}
    assert not foreign
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert "url(http" not in text
        assert "url(//" not in text
        assert "@import" not in text


def test_the_checker_finds_a_broken_link_and_a_broken_anchor(tmp_path):
    pages = {}
    for name, text in {
        "a.html": '<a href="b.html#one">',
        "b.html": '<p id="one"><a href="c.html"><a href="a.html#x">',
    }.items():
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        pages[path] = Page()
        pages[path].feed(text)
    assert broken(pages[tmp_path / "a.html"].links, tmp_path / "a.html", pages, tmp_path) == []
    assert broken(pages[tmp_path / "b.html"].links, tmp_path / "b.html", pages, tmp_path) == [
        "b.html: c.html",
        "b.html: a.html#x",
    ]
