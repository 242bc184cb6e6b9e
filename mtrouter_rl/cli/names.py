"""`mtrouter-rl list` and `show`: what can be named, and what stands behind a name."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import cast

from mtrouter_rl.cards.files import read_mapping
from mtrouter_rl.cards.reading import read_text
from mtrouter_rl.errors import unknown_name
from mtrouter_rl.options import Command, Group, Option, Output

RECORD_FILE = "router.json"
CARDS = ("envs", "pools", "agents", "datasets")


def _cards(kind: str) -> dict[str, str]:
    """Cards of a kind: name -> what it says of itself, in one line."""
    from mtrouter_rl.cards.files import CardKind, list_cards

    return {name: _first_line(path) for name, path in list_cards(cast(CardKind, kind)).items()}


def _first_line(path: Path) -> str:
    told = read_mapping(path).get("description", "")
    return " ".join(str(told).split())


def _importers() -> dict[str, str]:
    from mtrouter_rl.registry import IMPORTERS

    return {name: str(getattr(kind, "description", "")) for name, kind in IMPORTERS.load_all().items()}


def _exporters() -> dict[str, str]:
    from mtrouter_rl.registry import EXPORTERS

    return {name: _summary(one) for name, one in EXPORTERS.load_all().items()}


def _encoders() -> dict[str, str]:
    from mtrouter_rl.registry import ENCODERS

    return {name: _summary(one) for name, one in ENCODERS.load_all().items()}


def _summary(implementation: object) -> str:
    return (implementation.__doc__ or "").strip().split("\n")[0]


KINDS: dict[str, Callable[[], dict[str, str]]] = {
    **{kind: lambda kind=kind: _cards(kind) for kind in CARDS},  # type: ignore[misc]
    "importers": _importers,
    "exporters": _exporters,
    "encoders": _encoders,
}
"""What can be listed."""


def _list(args: argparse.Namespace, output: Output) -> None:
    found = KINDS[args.kind]()
    width = max(map(len, found), default=0)
    output.show("\n".join(f"{name.ljust(width)}  {told}".rstrip()[:160] for name, told in found.items()), found)


def _show(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.cards.files import CardKind, find_card, list_cards

    name = args.name
    if (Path(name) / RECORD_FILE).is_file():
        _show_router(Path(name), output)
        return
    cards = [kind for kind in CARDS if name in list_cards(cast(CardKind, kind))]
    if not cards and Path(name).suffix in (".yaml", ".yml"):
        cards = ["envs"]
    for kind in cards[:1]:
        path = find_card(cast(CardKind, kind), name)
        card = read_mapping(path)
        text = read_text(path)
        output.show(
            f"# {kind.removesuffix('s')} card, {path}\n{text}",
            {"kind": kind, "path": path, "card": card},
        )
        return
    for kind in ("importers", "exporters", "encoders"):
        found = KINDS[kind]()
        if name in found:
            output.show(
                f"{kind.removesuffix('s')} {name}: {found[name]}", {"kind": kind, "name": name, "about": found[name]}
            )
            if kind == "importers":
                output.tell(_options_of(name))
            return
    known = {one for kind in KINDS for one in KINDS[kind]()}
    raise unknown_name("name", name, known, fix="mtrouter-rl list KIND shows the names of a kind")


def _show_router(folder: Path, output: Output) -> None:
    """What a saved router is, and what its log says of it."""
    from mtrouter_rl.agents.saving import digest, read_record
    from mtrouter_rl.ope.verdict import load_verdict

    record, verdict = read_record(folder), load_verdict(folder, digest(folder))
    made = record.provenance
    of = "" if made is None else f", agent card {made.card.name}, seed {made.seed}"
    logs = "" if made is None or not made.dataset_ids else f", learned from {', '.join(made.dataset_ids)}"
    told = ["it has not been compared with the best single model of its log; mtrouter-rl train --verdict does that"]
    lines = told if verdict is None else ["verdict: " + verdict.text, *verdict.lines[1:]]
    output.show(
        "\n".join(
            [f"router {record.name}: kind {record.kind}{of}{logs}", f"models: {', '.join(record.model_names)}", *lines]
        ),
        {"kind": "routers", "path": folder, "router": record, "verdict": verdict},
    )


def _options_of(name: str) -> str:
    from mtrouter_rl.cli.formats import describe_format, format_list
    from mtrouter_rl.datasets.importers.base import Importer
    from mtrouter_rl.registry import IMPORTERS

    kind = cast(type[Importer], IMPORTERS.load(name))
    return format_list([describe_format(name, kind.description, kind.options_model)])


LIST = Command(
    name="list",
    group=Group.REPORT,
    summary="names of environments, pools, agents, datasets, importers, exporters, encoders",
    description="Lists what a kind of thing can be called, with what each says of itself.",
    examples=("agents", "importers"),
    options=(Option("kind", "what to list", metavar="KIND", choices=tuple(KINDS)),),
    run=_list,
)
"""The command."""

COMMAND = Command(
    name="show",
    group=Group.REPORT,
    summary="what stands behind a name: a card, a format, a trained router with its verdict",
    description=(
        "Shows the card of an environment, pool, agent or dataset, the options of a log format, or what a trained router is "
        "and whether its log shows it to be better than the best single model."
    ),
    examples=("fitted-q", "openai-jsonl"),
    options=(
        Option("name", "name of a card or of a format, the path of a card, or the folder of a router", metavar="NAME"),
    ),
    run=_show,
)
"""The command."""
