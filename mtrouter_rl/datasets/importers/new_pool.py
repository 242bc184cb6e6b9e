"""A pool card for a log: the models that it names, what they are called there, and prices that were looked up for them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from mtrouter_rl.cards.files import PRICE_UNIT, USD_PER_MILLION, looks_like_another_unit
from mtrouter_rl.datasets.importers.base import ImportReport, ImportSource, OpenPool
from mtrouter_rl.datasets.importers.run import make_importer
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.files import write_atomically
from mtrouter_rl.pools.price_list import ListedModel, PriceList, bare_name
from mtrouter_rl.progress import track

FILL_IN = "FILL_IN"
"""Stands where a number must be written by hand; a card that holds it is refused."""


@dataclass(kw_only=True)
class SeenModel:
    """A model as a log shows it.

    Attributes:
        names: What it is called there -> calls under that name.
        n_prompt: Prompt tokens of all calls.
        n_cached: Of those, tokens read from a warm cache.
        n_written: Of those, tokens written to the cache.
        n_output: Generated tokens of all calls.
        longest_prompt: Prompt tokens of the longest prompt.
        longest_output: Generated tokens of the longest answer.
    """

    names: dict[str, int] = field(default_factory=dict)
    n_prompt: int = 0
    n_cached: int = 0
    n_written: int = 0
    n_output: int = 0
    longest_prompt: int = 0
    longest_output: int = 0

    @property
    def n_calls(self) -> int:
        """Calls under any of its names."""
        return sum(self.names.values())

    @property
    def name(self) -> str:
        """What it is called in the card: without vendor and date, if that is what sets its names apart."""
        return bare_name(next(iter(self.names))) if len(self.names) > 1 else next(iter(self.names))


@dataclass(frozen=True, kw_only=True)
class NewPool:
    """What was found for a pool card.

    Attributes:
        models: The models, most calls first.
        listed: Row of the price list of each; None where there is none.
        source: Which price list it was.
        skipped: What the importer could not read, in its words.
    """

    models: tuple[SeenModel, ...]
    listed: tuple[ListedModel | None, ...]
    source: str
    skipped: str

    @property
    def without_price(self) -> tuple[str, ...]:
        """Models whose prices must be written by hand."""
        return tuple(model.name for model, row in zip(self.models, self.listed, strict=True) if row is None)


def scan_models(
    log_format: str,
    paths: Sequence[Path],
    options: Mapping[str, object],
    *,
    scores: Sequence[Path] = (),
    show_progress: bool = True,
) -> tuple[tuple[SeenModel, ...], ImportReport]:
    """The models of a log; names that differ in vendor or date alone are one model.

    Raises:
        UnknownNameError, InvalidConfigError: If the format or an option is unknown or out of range.
        DatasetError: If the paths hold nothing of the format, or no episode with a model.
    """
    importer = make_importer(log_format, options)
    report = ImportReport(format=log_format)
    pool = OpenPool.empty()
    source = ImportSource(paths=tuple(paths), pool=pool, report=report, scores=tuple(scores))
    found: dict[str, SeenModel] = {}
    for episode in track(importer.episodes(source), "look for models", unit="ep", is_shown=show_progress):
        for turn in episode.turns:
            for name in dict.fromkeys((turn.model, turn.served_model)):
                seen = found.setdefault(bare_name(name), SeenModel())
                seen.names[name] = seen.names.get(name, 0) + (name == turn.served_model)
            seen = found[bare_name(turn.served_model)]
            usage = turn.usage
            seen.n_prompt += usage.n_prompt
            seen.n_cached += usage.n_cached
            seen.n_written += usage.n_written
            seen.n_output += usage.n_output
            seen.longest_prompt = max(seen.longest_prompt, usage.n_prompt)
            seen.longest_output = max(seen.longest_output, usage.n_output)
    for (
        name
    ) in pool.model_names:  # also of sessions that are left out, such as for a score that comes in a file of its own
        found.setdefault(bare_name(name), SeenModel()).names.setdefault(name, 0)
    if not found:
        raise DatasetError(f"no model was found in {', '.join(map(str, paths))}:\n{report}")
    return tuple(sorted(found.values(), key=lambda model: -model.n_calls)), report


def propose_pool(
    models: Sequence[SeenModel], report: ImportReport, prices: PriceList | None, *, why_none: str = ""
) -> NewPool:
    """Look every model up; without a list nothing is known of any."""
    rows = [_look_up(model, prices) for model in models]
    return NewPool(
        models=tuple(models),
        listed=tuple(rows),
        source=prices.source if prices is not None else why_none,
        skipped=str(report) if report.n_rejected else "",
    )


def _look_up(model: SeenModel, prices: PriceList | None) -> ListedModel | None:
    if prices is None:
        return None
    rows = [row for row in map(prices.find, model.names) if row is not None]
    return rows[0] if rows and len({row.terms for row in rows}) == 1 else None


def pool_text(new: NewPool, name: str) -> str:
    """The card as YAML, with a comment wherever a number was looked up or is missing."""
    lines = [
        f"name: {_plain(name)}",
        "description: >-",
        f"  Models of a log. Prices marked 'looked up' are from {new.source};",
        "  nobody has confirmed that they are what was billed.",
        "models:",
    ]
    for model, row in zip(new.models, new.listed, strict=True):
        lines += _model_lines(model, row)
    prices = [price for row in new.listed if row for price in (row.input, row.output)]
    if looks_like_another_unit(prices):
        lines.append(f"{PRICE_UNIT}: {USD_PER_MILLION} # the low prices are meant")
    lines += ["token_counter: { kind: utf8_bytes }", "backend: { kind: none } # nobody answers calls here"]
    return "\n".join(lines) + "\n"


def _model_lines(model: SeenModel, row: ListedModel | None) -> list[str]:
    told = f"{model.n_calls} calls, {model.n_prompt} prompt and {model.n_output} output tokens in the log"
    if not model.n_calls:
        told = "no call could be counted"
    aliases = [name for name in model.names if name != model.name]
    lines = [f"  - name: {_plain(model.name)} # {told}"]
    if aliases:
        lines.append(f"    aliases: [{', '.join(map(_plain, aliases))}]")
    if row is None:
        return [
            *lines,
            f"    prices: {{ input: {FILL_IN}, cached_input: {FILL_IN}, output: {FILL_IN} }} # USD per million tokens",
            f"    context_tokens: {FILL_IN} # the longest prompt in the log has {model.longest_prompt} tokens",
            f"    max_output_tokens: {FILL_IN} # the longest answer in the log has {model.longest_output} tokens",
        ]
    cached = row.cached_input if row.cached_input is not None else (FILL_IN if model.n_cached else row.input)
    write = row.cache_write if row.cache_write is not None else (FILL_IN if model.n_written else None)
    prices = f"input: {row.input}, cached_input: {cached}, "
    prices += "" if write is None else f"cache_write: {write}, "
    context = row.context_tokens or FILL_IN
    if isinstance(context, int):
        context = max(context, model.longest_prompt)
    return [
        *lines,
        f"    prices: {{ {prices}output: {row.output} }} # looked up under '{row.key}'; confirm",
        f"    context_tokens: {context}",
        f"    max_output_tokens: {row.max_output_tokens or FILL_IN}",
    ]


def _plain(text: str) -> str:
    """A text as a YAML scalar of one line."""
    return yaml.safe_dump(text, default_style=None, width=10**6, allow_unicode=True).removesuffix("\n...\n").strip()


def write_pool(new: NewPool, path: Path, *, overwrite: bool = False) -> Path:
    """Write the card.

    Raises:
        DatasetError: If something lies there and may not be replaced.
    """
    if path.exists() and not overwrite:
        raise DatasetError(f"{path} is there already; choose another --out, or give --overwrite")
    write_atomically(path, pool_text(new, path.stem).encode())
    return path
