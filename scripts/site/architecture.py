"""Draws the one picture of the architecture from the imports of the package, and says whether the drawn one still holds.

Rooms are the folders and modules at the root of `mtrouter_rl`. The picture is a staircase: a room's line goes to the left and
meets the lines of the rooms that it imports, each of which leads up into its room. So every import is one dot.
"""

import argparse
import ast
import html
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from colorsys import hls_to_rgb
from pathlib import Path
from typing import NamedTuple, TypedDict

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "mtrouter_rl"
PICTURE = ROOT / "docs" / "img" / "architecture.svg"
# Whoever imports stands below. Rooms that are not named here are put below all that they import.
HOUSE = (
    ("errors", "records", "protocols", "files", "metric_names", "registry", "progress"),
    ("cards", "statistics", "pools", "envs", "embeddings"),
    ("datasets", "transitions", "rollout", "agents", "exporters"),
    ("evaluation", "ope", "reporting", "workflows", "serving"),
    ("options", "studies", "testing", "scaffold", "cli"),
)
# Lines of code move with every change, so a picture whose sizes are a little old still holds.
SIZE_TOLERANCE = 0.25
SMALL_ROOM = 200  # lines; below this no size is stale


class Room(TypedDict):
    """One room: its size, and how many of its files import each other room.

    `lazy` counts files that import the other room only inside functions or for the type checker.
    """

    lines: int
    files: int
    purpose: str
    imports: dict[str, int]
    lazy: dict[str, int]


class Import(NamedTuple):
    room: str
    is_lazy: bool


def read_graph(package: Path) -> dict[str, Room]:
    """The rooms of a package by name, in no order that means anything."""
    names = {path.stem for path in package.glob("*.py")} | {path.parent.name for path in package.glob("*/__init__.py")}
    rooms: dict[str, Room] = {}
    for name in sorted(names - {"__init__"}):
        files = sorted((package / name).rglob("*.py")) if (package / name).is_dir() else [package / f"{name}.py"]
        room = Room(lines=0, files=len(files), purpose=_purpose(package, name), imports={}, lazy={})
        for file in files:
            text = file.read_text(encoding="utf-8")
            room["lines"] += len(text.splitlines())
            found = set(_imports(ast.parse(text), file, package))
            eager = {one.room for one in found if not one.is_lazy} & names - {name}
            lazy = {one.room for one in found} & names - {name} - eager
            for targets, counts in ((eager, room["imports"]), (lazy, room["lazy"])):
                counts.update({target: counts.get(target, 0) + 1 for target in sorted(targets)})
        rooms[name] = room
    return rooms


def _purpose(package: Path, name: str) -> str:
    """First sentence of the room's docstring."""
    file = package / name / "__init__.py" if (package / name).is_dir() else package / f"{name}.py"
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=[.:;])\s|\n\n", text.replace("\n", " "), maxsplit=1)[0].rstrip(".:;").replace("`", "")


def _imports(tree: ast.Module, file: Path, package: Path) -> Iterator[Import]:
    """The rooms that a file imports; names of the package's own root are left out."""
    lazy = {id(inner) for node in ast.walk(tree) if _is_lazy(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        for target in _targets(node, file, package):
            parts = target.split(".")
            if parts[0] == package.name and len(parts) > 1:
                yield Import(parts[1], id(node) in lazy)


def _is_lazy(node: ast.AST) -> bool:
    is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    return is_for_types or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _targets(node: ast.AST, file: Path, package: Path) -> list[str]:
    """Dotted names that an import statement may load."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    above = file.relative_to(package.parent).parts[: -node.level] if node.level else ()
    start = ".".join([*above, *([node.module] if node.module else [])])
    return [f"{start}.{alias.name}" for alias in node.names]


def _imported(room: Room) -> set[str]:
    return {*room["imports"], *room["lazy"]}


def house_order(rooms: Mapping[str, Room]) -> list[str]:
    """Names of the rooms from the one that imports nothing to the one that nothing imports."""
    known = [name for row in HOUSE for name in row]
    order = [name for name in known if name in rooms]
    waiting = sorted(set(rooms) - set(known))
    while waiting:
        # A room goes in when all that it imports is in; in a circle, the one that misses least.
        missing = {name: len(_imported(rooms[name]) & set(waiting)) for name in waiting}
        name = min(waiting, key=lambda name: (missing[name], name))
        below = [order.index(target) for target in _imported(rooms[name]) if target in order]
        order.insert(max(below, default=-1) + 1, name)
        waiting.remove(name)
    return order


def against_the_order(rooms: Mapping[str, Room], order: Sequence[str]) -> dict[str, list[str]]:
    """The rooms below it that a room imports, for each room that has any."""
    place = {name: index for index, name in enumerate(order)}
    found = {
        name: sorted(target for target in _imported(room) if place[target] > place[name])
        for name, room in rooms.items()
    }
    return {name: targets for name, targets in found.items() if targets}


def stale(drawn: Mapping[str, Room], rooms: Mapping[str, Room]) -> list[str]:
    """What differs between a drawn graph and the code, one sentence each."""
    reasons = [f"room {name} is new" for name in rooms if name not in drawn]
    reasons += [f"room {name} is gone" for name in drawn if name not in rooms]
    for name in sorted(set(rooms) & set(drawn)):
        for kind, what in (("imports", "imports"), ("lazy", "imports inside functions")):
            now, then = set(rooms[name][kind]), set(drawn[name][kind])
            reasons += [f"{name} now {what} {target}" for target in sorted(now - then)]
            reasons += [f"{name} no longer {what} {target}" for target in sorted(then - now)]
        lines, drawn_lines = rooms[name]["lines"], drawn[name]["lines"]
        if abs(lines - drawn_lines) > max(SMALL_ROOM, SIZE_TOLERANCE * drawn_lines):
            reasons.append(f"{name} has {lines} lines, drawn with {drawn_lines}")
    return reasons


def drawn_graph(picture: Path) -> dict[str, Room]:
    """The graph that a picture was drawn from.

    Raises:
        ValueError: If the file holds none.
    """
    found = re.search(r"<dc:description>(.*?)</dc:description>", picture.read_text(encoding="utf-8"), re.DOTALL)
    if found is None:
        raise ValueError(f"{picture} holds no graph; draw it with ./scripts/draw-architecture")
    graph: dict[str, Room] = json.loads(html.unescape(found[1]))
    return graph


STEP = 0.40  # inches: height of a row, and how far each box lies to the right of the one above
BOX_WIDTH, BOX_HEIGHT = 1.42, 0.28
BAR_WIDTH = 1.0  # of the largest room
LEFT = -1.9
TEXT_WIDTH = 4.2
INK, SOFT, FAINT, WRONG = "#1f2933", "#7b8794", "#f4f6f8", "#c81e1e"


def draw(rooms: Mapping[str, Room], picture: Path) -> None:
    """Write the picture as SVG, with the graph in it, and as PNG beside it."""
    import matplotlib as mpl

    mpl.use("Agg")
    with mpl.rc_context({"svg.hashsalt": "architecture", "font.family": "DejaVu Sans"}):
        figure = _Staircase(rooms).figure
        picture.parent.mkdir(parents=True, exist_ok=True)
        graph = json.dumps(rooms, sort_keys=True)
        title = "The rooms of mtrouter_rl and their imports"
        figure.savefig(picture, metadata={"Title": title, "Description": graph, "Date": None, "Creator": None})
        figure.savefig(picture.with_suffix(".png"), dpi=110, metadata={"Software": None})


def _thousands(lines: int) -> str:
    return f"{lines / 1000:.1f}k" if lines >= 1000 else str(lines)


def _fitted(text: str, inches: float) -> str:
    """The text, cut at a word if it is longer than there is room for."""
    n_letters = int(inches / 0.077)
    if len(text) <= n_letters:
        return text
    return text[: n_letters - 2].rsplit(" ", 1)[0].rstrip(",;:") + " …"


def _rail(column: int) -> float:
    """Where the line that leads up into a room runs."""
    return column * STEP + 0.2


class _Staircase:
    """The drawing; one unit of its axes is an inch, and the first room lies at (0, 0)."""

    def __init__(self, rooms: Mapping[str, Room]) -> None:
        from matplotlib.figure import Figure

        self.rooms = rooms
        self.order = house_order(rooms)
        self.place = {name: index for index, name in enumerate(self.order)}
        self.wrong = against_the_order(rooms, self.order)
        self.right = len(self.order) * STEP + BOX_WIDTH + TEXT_WIDTH
        top, bottom = 1.35, -len(self.order) * STEP - 0.65
        self.figure = Figure(figsize=(self.right - LEFT, top - bottom), facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(LEFT, self.right), ylim=(bottom, top))
        self.axes.axis("off")
        self._title()
        for name in self.order:
            self._room(name)
            self._imports(name)
            self._importers(name)
        self._legend()

    def _color(self, name: str) -> tuple[float, float, float]:
        """A calm colour; from the first room to the last they walk from blue over green and ochre to violet."""
        share = self.place[name] / max(1, len(self.order) - 1)
        return hls_to_rgb((0.58 - 0.78 * share) % 1, 0.42, 0.42)

    def _write(self, x: float, y: float, text: str, *, size: float = 9, color: str = SOFT, **style: object) -> None:
        self.axes.text(x, y, text, fontsize=size, color=color, **({"va": "center", "zorder": 5} | style))

    def _box(self, x: float, y: float, width: float, height: float, *, rounding: float = 0.0, **style: object) -> None:
        from matplotlib.patches import FancyBboxPatch

        shape = f"round,pad=0,rounding_size={rounding}" if rounding else "square,pad=0"
        self.axes.add_patch(FancyBboxPatch((x, y - height / 2), width, height, boxstyle=shape, **style))

    def _title(self) -> None:
        sizes = [(room["files"], room["lines"]) for room in self.rooms.values()]
        n_files, n_lines = (sum(column) for column in zip(*sizes, strict=True))
        text = f"{len(self.rooms)} rooms, {n_files} files, {_thousands(n_lines)} lines; drawn from the code"
        self._write(
            LEFT + 0.2, 1.05, "The rooms of mtrouter_rl, and what imports what", size=17, color=INK, weight="bold"
        )
        self._write(LEFT + 0.2, 0.72, text, size=10)
        self._write(-0.28, 0.34, "lines", ha="right")

    def _room(self, name: str) -> None:
        """A room's stripe, bar of lines, box with its name, and sentence."""
        room, color = self.rooms[name], self._color(name)
        x, y = self.place[name] * STEP, -self.place[name] * STEP
        if self.place[name] % 2 == 0:
            self._box(LEFT + 0.1, y, self.right - LEFT - 0.2, STEP, color=FAINT, lw=0, zorder=0)
        bar = BAR_WIDTH * room["lines"] / max(other["lines"] for other in self.rooms.values())
        self._box(-0.28 - bar, y, bar, 0.14, color=color, alpha=0.55, lw=0)
        self._write(-0.34 - bar, y, _thousands(room["lines"]), size=8, ha="right")
        self._box(x, y, BOX_WIDTH, BOX_HEIGHT, rounding=0.07, facecolor=color, edgecolor="white", lw=1.2, zorder=4)
        size = min(10.0, 140 / len(name))
        self._write(x + BOX_WIDTH / 2, y - 0.005, name, size=size, color="white", weight="bold", ha="center")
        is_wrong = name in self.wrong
        text = f"against the order: imports {', '.join(self.wrong[name])}" if is_wrong else room["purpose"]
        start = x + BOX_WIDTH + 0.14
        self._write(start, y, _fitted(text, self.right - start - 0.1), color=WRONG if is_wrong else INK)

    def _imports(self, name: str) -> None:
        """The line from a room to the left, with a dot for each room above that it imports."""
        room, row = self.rooms[name], self.place[name]
        color = self._color(name)
        above = [target for target in _imported(room) if self.place[target] < row]
        if above:
            start = min(_rail(self.place[target]) for target in above)
            self.axes.plot([start, row * STEP], [-row * STEP] * 2, color=color, lw=0.9, alpha=0.55, zorder=2)
        for target in above:
            n_files = room["imports"].get(target, 0) or room["lazy"][target]
            fill = color if target in room["imports"] else "white"
            size = 14 + 6 * min(n_files, 12)
            self.axes.scatter(_rail(self.place[target]), -row * STEP, s=size, fc=fill, ec=color, lw=1.1, zorder=6)

    def _importers(self, name: str) -> None:
        """The line that leads up into a room from the lowest room that imports it."""
        column, color = self.place[name], self._color(name)
        lowest = max(
            (self.place[other] for other, room in self.rooms.items() if name in _imported(room)), default=column
        )
        if lowest > column:
            x, top = _rail(column), -column * STEP - BOX_HEIGHT / 2
            self.axes.plot([x, x], [-lowest * STEP, top - 0.08], color=color, lw=0.9, alpha=0.55, zorder=1)
            self.axes.scatter(x, top - 0.055, marker="^", s=26, color=color, lw=0, zorder=3)

    def _legend(self) -> None:
        """What the two kinds of dots mean, and what is not shown."""
        dots = (
            (
                SOFT,
                "this row's room imports the room at the top of this column; the more of its files do, the larger the dot",
            ),
            (
                "white",
                "only inside functions, when it is needed. What the registry loads by name is no import and is not shown.",
            ),
        )
        for line, (fill, text) in enumerate(dots):
            y = -len(self.order) * STEP - 0.05 - 0.26 * line
            self.axes.scatter(LEFT + 0.3, y, s=46, fc=fill, ec=SOFT, lw=1.1)
            self._write(LEFT + 0.45, y, text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the picture, or check it; the exit status is 1 if it does not hold any more."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--check", action="store_true", help="draw nothing; exit with 1 if the picture differs from the code"
    )
    parser.add_argument("--package", type=Path, default=PACKAGE, help="folder of the package")
    parser.add_argument("--out", type=Path, default=PICTURE, help="the SVG; a PNG is written beside it")
    args = parser.parse_args(arguments)
    rooms = read_graph(args.package)
    if not args.check:
        draw(rooms, args.out)
        print(f"{args.out} and {args.out.with_suffix('.png').name}: {len(rooms)} rooms")
        return 0
    if not args.out.is_file():
        print(f"there is no {args.out}; draw it with ./scripts/draw-architecture", file=sys.stderr)
        return 1
    reasons = stale(drawn_graph(args.out), rooms)
    for reason in reasons:
        print(reason, file=sys.stderr)
    if reasons:
        print(f"{args.out} is not up to date; draw it with ./scripts/draw-architecture", file=sys.stderr)
    return 1 if reasons else 0


if __name__ == "__main__":
    raise SystemExit(main())
