"""Finds, loads and validates the YAML cards: environments, pools, agents and datasets.

A card is given by name or by path. Names are looked up in the card folders of the checkout or, after an installation, in
the copy that travels inside the wheel; a third party adds folders through the entry-point group `mtrouter_rl.cards`.
"""

import importlib.util
import logging
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import ValidationError

from mtrouter_rl.cards.agent import AgentCard
from mtrouter_rl.cards.dataset import DatasetCard
from mtrouter_rl.cards.env import EnvCard
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.cards.reading import read_text, read_yaml
from mtrouter_rl.errors import CardError, unknown_name
from mtrouter_rl.records import Frozen
from mtrouter_rl.registry import registered

logger = logging.getLogger(__name__)

CardKind = Literal["envs", "pools", "agents", "datasets"]
_FOLDERS: dict[CardKind, str] = {"envs": "envs", "pools": "envs/pools", "agents": "agents", "datasets": "datasets"}
_PACKAGE_ROOT = Path(__file__).resolve().parents[1]
ENTRY_POINT_GROUP = "mtrouter_rl.cards"
EXTENDS = "extends"
"""Field of a pool or agent card that names the card it changes."""

CardT = TypeVar("CardT", bound=Frozen)


_MODELS: dict[CardKind, type[Frozen]] = {
    "envs": EnvCard,
    "pools": PoolCard,
    "agents": AgentCard,
    "datasets": DatasetCard,
}


def card_root() -> Path:
    """Folder that holds `envs/`, `agents/` and `datasets/`: inside the installed package, or the checkout around it.

    Raises:
        CardError: If neither is there, which means a broken installation.
    """
    for root in (_PACKAGE_ROOT / "_cards", _PACKAGE_ROOT.parent):
        if (root / "envs" / "pools").is_dir():
            return root
    raise CardError(f"no card folders beside or inside {_PACKAGE_ROOT}; reinstall mtrouter_rl")


@cache
def _warn_once(message: str) -> None:
    logger.warning(message)


def _plugin_roots() -> Iterable[Path]:
    for entry in registered(ENTRY_POINT_GROUP):
        try:
            spec = importlib.util.find_spec(entry.value)
        except ImportError:  # a package above it is missing or broken
            spec = None
        if spec is None or not spec.submodule_search_locations:
            _warn_once(
                f"entry point '{entry.name}' of group {ENTRY_POINT_GROUP}: no package '{entry.value}', so its cards are left "
                "out; name the package that holds envs/, agents/ or datasets/, or reinstall the plug-in, or uninstall it"
            )
            continue
        yield from (Path(location) for location in spec.submodule_search_locations)


def card_roots() -> tuple[Path, ...]:
    """Every folder that holds card folders: the project's own, then those of plug-ins."""
    return (card_root(), *_plugin_roots())


def list_cards(kind: CardKind) -> dict[str, Path]:
    """Every card of a kind that can be named, with its file; the project's own cards first."""
    found: dict[str, Path] = {}
    for root in card_roots():
        for path in sorted((root / _FOLDERS[kind]).glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find_card(kind: CardKind, name_or_path: str | Path) -> Path:
    """File of a card.

    Args:
        kind: Which kind of card.
        name_or_path: A name as `list_cards` gives it, or a path to a YAML file.

    Raises:
        UnknownNameError: If it is neither; lists the names and suggests the nearest.
    """
    text = str(name_or_path)
    known = list_cards(kind)
    if text in known:
        return known[text]
    path = Path(text)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if path.is_file():
            return path
        raise CardError(f"{kind} card '{path}': no such file; give a path to a YAML file or one of: {', '.join(known)}")
    raise unknown_name(f"{kind.removesuffix('s')} card", text, known, fix="A path to a YAML file is taken as well")


def check_card_name(kind: CardKind, name: str, *, where: str) -> None:
    """Refuse anything but the name of an installed card, where a file says which card is meant.

    A path there would make this package read, and perhaps run, what whoever wrote the file put beside it.

    Args:
        kind: Which kind of card.
        name: What the file says.
        where: File and field, for the error message.

    Raises:
        UnknownNameError: If no installed card has the name; lists the names.
    """
    known = list_cards(kind)
    if name not in known:
        one = f"{kind.removesuffix('s')} card in {where}"
        raise unknown_name(one, name, known, fix="A file names a card, it never gives a path: give the path yourself")


@cache
def _code_of_installed_cards() -> frozenset[str]:
    """Every "module:attribute" in the settings of an environment card that an installed package ships."""
    found: set[str] = set()
    for path in list_cards("envs").values():
        if ":" in (text := read_text(path)) and "gymnasium_text" in text:
            waiting: list[object] = [read_mapping(path).get("settings")]
            while waiting:
                value = waiting.pop()
                if isinstance(value, dict):
                    found |= {one for key in ("id", "entry_point") if isinstance(one := value.get(key), str)}
                    waiting += value.values()
    return frozenset(found)


def is_named_by_installed_card(target: str) -> bool:
    """Whether an environment card of this package, or of a plug-in, names this Gymnasium id or entry point."""
    return target in _code_of_installed_cards()


def _place(data: object, parts: Iterable[int | str]) -> str:
    """Where a field is; an entry of a list by its name, if it has one.

    Example:
        >>> _place({"models": [{"name": "small"}]}, ["models", 0, "prices"])
        "models.'small'.prices"
    """
    told: list[str] = []
    for part in parts:
        if isinstance(data, dict):
            data = data.get(part)
        elif isinstance(data, list | tuple) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            data = None
        name = data.get("name") if isinstance(part, int) and isinstance(data, dict) else None
        told.append(f"'{name}'" if isinstance(name, str) and name else str(part))
    return ".".join(told)


def _explain(card: str, error: ValidationError, *, data: object = None, inside: tuple[str, ...] = ()) -> CardError:
    lines = []
    for issue in error.errors():
        where = ".".join((*inside, *filter(None, [_place(data, issue["loc"])]))) or "(card)"
        value = "" if issue["type"] == "missing" else f": got {issue['input']!r}"[:120]
        fix = {
            "missing": "add it; there is no default",
            "extra_forbidden": "remove it or correct its spelling",
        }.get(issue["type"], issue["msg"])
        lines.append(f"  field '{where}'{value}: {issue['msg'].rstrip('.')}; {fix}")
    return CardError(f"card {card} breaks its rules:\n" + "\n".join(lines))


def parse_settings(card: EnvCard, model: type[CardT]) -> CardT:
    """Settings of an environment card, as its family wants them.

    Raises:
        CardError: If a setting is missing, unknown or out of range; names every one.
    """
    return validated(card.settings, model, card=f"'{card.name}'", inside=("settings",))


def parse_section(card: EnvCard, study: str, model: type[CardT]) -> CardT:
    """Section of an environment card that a study reads, as the study wants it; empty where the card has none.

    Raises:
        CardError: If a field is missing, unknown or out of range; names every one.
    """
    return validated(card.studies.get(study, {}), model, card=f"'{card.name}'", inside=("studies", study))


def parse_card(path: Path, model: type[CardT]) -> CardT:
    """Read one YAML file into its model.

    Raises:
        CardError: If the file is no YAML mapping, or a field is missing, unknown or out of range; names every one.
    """
    return validated(read_mapping(path), model, card=str(path))


def read_mapping(path: Path) -> dict[str, object]:
    """Fields of a card's file, none of them checked.

    Raises:
        CardError: If it cannot be read, or is no YAML mapping.
    """
    try:
        data = read_yaml(path)
    except OSError as error:
        raise CardError(f"card {path} cannot be read: {error}; correct path and permissions") from error
    except ValueError as error:
        raise CardError(f"card {path} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise CardError(f"card {path} holds {type(data).__name__}, must be a mapping of fields to values")
    return data


def validated(data: Mapping[str, object], model: type[CardT], *, card: str, inside: tuple[str, ...] = ()) -> CardT:
    """Fields of a card, or of a part of one, as their model; `yes` and `no` are never taken for numbers.

    Args:
        data: The fields.
        model: What they must be.
        card: The card, for error messages.
        inside: Where in the card they stand.

    Raises:
        CardError: If a field is missing, unknown or out of range; names every one.
    """
    try:
        made = model.model_validate(data)
    except ValidationError as error:
        raise _explain(card, error, data=data, inside=inside) from error
    check_no_truth_counts(data, made, card=card, inside=inside)
    return made


def check_no_truth_counts(data: object, made: object, *, card: str, inside: tuple[str, ...] = ()) -> None:
    """Refuse `yes`, `no`, `true` and `false` where a number was wanted: pydantic would count them as 1 and 0.

    Args:
        data: The fields as they were written.
        made: What became of them.
        card: The card, for error messages.
        inside: Where in the card they stand.

    Raises:
        CardError: Names every such field.
    """
    wrong = [".".join((*inside, _place(data, parts))) for parts in _counted_booleans(data, made)]
    if wrong:
        raise CardError(
            f"card {card} breaks its rules:\n"
            + "\n".join(f"  field '{where}': is a truth value, must be a number; write the number" for where in wrong)
        )


def _counted_booleans(data: object, made: object) -> Iterator[tuple[int | str, ...]]:
    """Places where a truth value was taken for a number."""
    if isinstance(data, bool):
        if isinstance(made, int | float) and not isinstance(made, bool):
            yield ()
        return
    if isinstance(data, Mapping):
        for key, value in data.items():
            inner = made.get(key) if isinstance(made, Mapping) else getattr(made, str(key), None)
            yield from ((str(key), *rest) for rest in _counted_booleans(value, inner))
    elif isinstance(data, list | tuple) and isinstance(made, list | tuple) and len(data) == len(made):
        for index, (value, inner) in enumerate(zip(data, made, strict=True)):
            yield from ((index, *rest) for rest in _counted_booleans(value, inner))


PRICE_UNIT = "price_unit"
"""Field of a pool card that says that low prices are meant."""
USD_PER_MILLION = "usd_per_million_tokens"
_LEAST_PRICE_USD, _LEAST_DEAREST_USD = 0.005, 0.1


def looks_like_another_unit(prices: Iterable[float]) -> bool:
    """Whether prices, of input and output tokens, are more likely of one token or of a thousand than of a million."""
    above = [price for price in prices if price > 0]
    return bool(above) and (min(above) < _LEAST_PRICE_USD or max(above) < _LEAST_DEAREST_USD)


def _check_price_unit(card: PoolCard, path: Path, unit: object) -> None:
    """Refuse prices that are more likely of a token, or of a thousand of them, than of a million: no model is that cheap."""
    if unit not in (None, USD_PER_MILLION):
        raise CardError(f"card {path}, field '{PRICE_UNIT}': is {unit!r}, must be {USD_PER_MILLION}, or left out")
    if unit is not None:
        return
    prices = {
        f"models.'{model.name}'.prices.{kind}": price
        for model in card.models
        for kind, price in (("input", model.prices.input), ("output", model.prices.output))
        if price > 0
    }
    if looks_like_another_unit(prices.values()):
        low = {where: price for where, price in prices.items() if price < _LEAST_PRICE_USD} or prices
        told = "; ".join(f"{where} is {price:g}" for where, price in list(low.items())[:6])
        raise CardError(
            f"card {path}: {told}: prices are in USD per million tokens, and these look like prices of one token or of "
            f"a thousand; multiply them by 1,000,000 or 1,000, or, if they are meant, add {PRICE_UNIT}: {USD_PER_MILLION}"
        )


def _card_data(
    kind: CardKind, path: Path, *, changes: Mapping[str, Mapping[str, object]], extended_by: tuple[Path, ...] = ()
) -> dict[str, object]:
    """Fields of a card; one that `extends` another states only what differs, see `load_pool_card`.

    `changes` are made to the cards that are extended, by their names.
    """
    data = read_mapping(path)
    if EXTENDS not in data:
        return data
    base = data.pop(EXTENDS)
    one = {"agents": "an agent"}.get(kind, f"a {kind.removesuffix('s')}")
    if not isinstance(base, str):
        raise CardError(f"card {path}, field '{EXTENDS}': is {base!r}, must be the name or path of {one} card")
    if path.resolve() in extended_by:
        raise CardError(
            f"card {path}, field '{EXTENDS}': it extends itself, by way of '{base}'; let one card stand alone"
        )
    for field in ("name", "description"):
        if field not in data:
            raise CardError(
                f"card {path} extends '{base}' and has no '{field}'; a card that differs says so itself: add it"
            )
    beside = path.parent / base
    base_path = beside if beside.is_file() else find_card(kind, base)
    extended = _card_data(kind, base_path, changes=changes, extended_by=(*extended_by, path.resolve()))
    return _merged(_merged(extended, changes.get(base, {}), card=base_path), data, card=path)


def _merged(base: Mapping[str, object], changes: Mapping[str, object], *, card: Path) -> dict[str, object]:
    """Fields of a card with changes: mappings go key by key, the list of models model by model, anything else is replaced."""
    result = dict(base)
    for key, change in changes.items():
        there = result.get(key)
        if isinstance(there, dict) and isinstance(change, dict):
            result[key] = _merged(there, change, card=card)
        elif key == "models" and isinstance(there, list) and isinstance(change, list):
            result[key] = _merged_models(there, change, card=card)
        else:
            result[key] = change
    return result


def _merged_models(base: list[object], changes: list[object], *, card: Path) -> list[object]:
    by_name = {str(model["name"]): model for model in base if isinstance(model, dict) and "name" in model}
    for change in changes:
        name = change.get("name") if isinstance(change, dict) else None
        if not isinstance(change, dict) or name not in by_name:
            unknown = unknown_name("model of the card that is extended", str(name), by_name)
            raise CardError(f"card {card}, field 'models': {unknown}; changes are told by the model's name")
        by_name[str(name)] = _merged(by_name[str(name)], change, card=card)
    return list(by_name.values())


def load_env_card(name_or_path: str | Path) -> EnvCard:
    """Environment card by name or path. Raises `CardError` or `UnknownNameError`."""
    return parse_card(find_card("envs", name_or_path), EnvCard)


def load_pool_card(name_or_path: str | Path) -> PoolCard:
    """Pool card by name or path.

    A card may extend another one (`extends: NAME`, or a file beside it) and then states its own name and description, and what
    differs: mappings are merged key by key, `models` by the models' names, anything else is replaced. The result is checked as
    a whole, so a misspelt field is an error there as well.

    Raises:
        CardError: If a card breaks its rules, extends itself, or has prices that are not of a million tokens.
        UnknownNameError: If there is no card of that name.
    """
    path = find_card("pools", name_or_path)
    data = _card_data("pools", path, changes={})
    unit = data.pop(PRICE_UNIT, None)
    card = validated(data, PoolCard, card=str(path))
    _check_price_unit(card, path, unit)
    return card


def load_agent_card(
    name_or_path: str | Path, *, changed: Mapping[str, Mapping[str, object]] | None = None
) -> AgentCard:
    """Agent card by name or path; a card may extend another one, as a pool card may.

    Args:
        name_or_path: The card.
        changed: Parameters that differ, by the name of an agent; they hold for the cards that extend it as well, as far as
            these say nothing else.

    Raises:
        CardError: If a card breaks its rules, or extends itself.
        UnknownNameError: If there is no card of that name.
    """
    path = find_card("agents", name_or_path)
    changes = {name: {"parameters": dict(parameters)} for name, parameters in (changed or {}).items()}
    data = _card_data("agents", path, changes=changes)
    return validated(_merged(data, changes.get(str(name_or_path), {}), card=path), AgentCard, card=str(path))


def load_dataset_card(name_or_path: str | Path) -> DatasetCard:
    """Dataset card by name or path. Raises `CardError` or `UnknownNameError`."""
    return parse_card(find_card("datasets", name_or_path), DatasetCard)
