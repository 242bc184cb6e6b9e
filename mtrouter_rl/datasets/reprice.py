"""Recomputes every cost of a log under other prices, another prompt cache or another currency, and says what stays unknown.

What was asked, answered and scored stays as it was logged. Only the bill changes: tokens are sorted anew into fresh, cached
and written where the cache policy is another one, and multiplied by the new prices.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mtrouter_rl import __version__
from mtrouter_rl.cards.pool import ModelCard, PoolCard, Prices, PromptCacheCard
from mtrouter_rl.datasets.info import DatasetInfo, read_info
from mtrouter_rl.datasets.rewrite import traced_episodes, write_dataset
from mtrouter_rl.datasets.validation import BUDGET_TOLERANCE_USD
from mtrouter_rl.errors import DatasetError, InvalidConfigError, PoolMismatchError, unknown_name
from mtrouter_rl.pools.prompt_cache import PromptCache, billed_usage
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, Episode, TokenUsage, TracedEpisode, Turn

CachePolicy = Literal["as logged", "none", "worked out"]
"""What becomes of cached tokens. `as logged`: log and card have the same cache, so the tokens stay what they are. `none`:
the card has no cache, so every prompt token is fresh. `worked out`: the card has another cache, whose hits follow from the
logged routing and latencies."""
UnknownHits = Literal["refuse", "lowest", "highest"]
"""What is done where hits cannot be worked out: an error, or the lowest or highest cost that they allow."""

_MAX_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class RepriceRequest:
    """What `mtrouter-rl reprice` is asked for.

    Attributes:
        dataset: Folder of the log.
        pool: The same models, by name or alias, at the new prices.
        out: Folder of the new dataset.
        usd_per_unit: USD that one unit of the card's currency is worth, > 0.
        dataset_id: `name-vN`; None takes the next version of the log's.
        unknown_hits: See `UnknownHits`.
        lifts_budget: Whether every episode's budget becomes unlimited; otherwise an episode that the new prices make
            dearer than its budget is an error.
        overwrite: Whether another dataset in `out` is replaced.
    """

    dataset: Path
    pool: PoolCard
    out: Path
    usd_per_unit: float = 1.0
    dataset_id: str | None = None
    unknown_hits: UnknownHits = "refuse"
    lifts_budget: bool = False
    overwrite: bool = False


@dataclass(kw_only=True)
class ModelBill:
    """Calls that one model served, and what they cost.

    Attributes:
        n_calls: How many.
        old_usd: Under the log's prices, USD.
        new_usd: Under the card's prices, USD.
    """

    n_calls: int = 0
    old_usd: float = 0.0
    new_usd: float = 0.0

    def add(self, *, old_usd: float, new_usd: float) -> None:
        """Count one call."""
        self.n_calls += 1
        self.old_usd += old_usd
        self.new_usd += new_usd


@dataclass(frozen=True, kw_only=True)
class RepriceReport:
    """What the new prices change, and what nobody can know.

    Attributes:
        dataset_id: Id of the new dataset.
        n_episodes: Episodes of the log.
        bills: By the card's name of the model that served.
        cache: What became of cached tokens.
        unknown: What the log cannot tell about the new prices, a sentence each.
    """

    dataset_id: str
    n_episodes: int
    bills: Mapping[str, ModelBill]
    cache: CachePolicy
    unknown: tuple[str, ...]

    def __str__(self) -> str:
        """Readable text for a terminal: a line a model, the sums, and what cannot be known."""
        total = ModelBill(
            n_calls=sum(bill.n_calls for bill in self.bills.values()),
            old_usd=sum(bill.old_usd for bill in self.bills.values()),
            new_usd=sum(bill.new_usd for bill in self.bills.values()),
        )
        rows: list[tuple[str, ...]] = [("model", "calls", "old USD", "new USD", "old USD/call", "new USD/call")]
        rows += [_row(name, bill) for name, bill in (*self.bills.items(), ("all", total))]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{self.dataset_id}: {self.n_episodes} episodes repriced; cached tokens: {self.cache}"]
        lines += [
            "  ".join(
                [
                    f"{row[0]:<{widths[0]}}",
                    *(f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)),
                ]
            )
            for row in rows
        ]
        lines.append(
            f"mean per episode: {total.old_usd / self.n_episodes:.6f} USD before, "
            f"{total.new_usd / self.n_episodes:.6f} USD now"
        )
        return "\n".join([*lines, *(f"cannot be known: {text}" for text in self.unknown)])


def _row(name: str, bill: ModelBill) -> tuple[str, ...]:
    means = [f"{total / bill.n_calls:.6f}" if bill.n_calls else "-" for total in (bill.old_usd, bill.new_usd)]
    return (name, str(bill.n_calls), f"{bill.old_usd:.4f}", f"{bill.new_usd:.4f}", *means)


@dataclass(frozen=True, kw_only=True)
class _Bound:
    """One way in which the new cache can have been hit: tokens and warm models before every turn, both of length T."""

    usages: tuple[TokenUsage, ...]
    warm: tuple[tuple[bool, ...], ...]


@dataclass(frozen=True, kw_only=True)
class _Repriced:
    """An episode at the lowest and at the highest cost that its cache hits allow; equal where the hits are known."""

    lowest: Episode
    highest: Episode

    @property
    def is_known(self) -> bool:
        return self.lowest == self.highest


def _check_tokens(episodes: Sequence[Episode]) -> None:
    """Refuse a log of costs alone: without tokens nobody knows what other prices would have made of it."""
    without = [episode.episode_id for episode in episodes if episode.usage_source == "cost_only"]
    if without:
        raise DatasetError(
            f"episode '{without[0]}' (and {len(without) - 1} more): usage_source is 'cost_only', must have tokens to be "
            "repriced; leave such episodes out, or keep the costs of their log"
        )


def reprice(request: RepriceRequest) -> RepriceReport:
    """Write a log anew under other prices.

    The new dataset has the models of the card, in the card's order; masks and warm flags are put into that order. Prices
    in its `info.json` are USD, already multiplied by the exchange rate. Episodes whose tokens were sorted anew are marked
    as reconstructed.

    Raises:
        InvalidConfigError: If the exchange rate is not finite and above 0.
        UnknownNameError: If the card lacks a model of the log.
        PoolMismatchError: If the card has a model that the log lacks, or one model of the card stands for two of the log.
        DatasetError: If the log breaks a rule, cache hits cannot be worked out and were not to be bounded, an episode
            becomes dearer than its budget and the budget was not to be lifted, or `out` is taken.
    """
    if not (math.isfinite(request.usd_per_unit) and request.usd_per_unit > 0):
        raise InvalidConfigError(f"exchange rate is {request.usd_per_unit}, must be finite and > 0 (USD per unit)")
    old = read_info(request.dataset)
    repricer = _Repricer(old, request.pool, usd_per_unit=request.usd_per_unit)
    traced = tuple(traced_episodes(request.dataset))
    _check_tokens([trace.episode for trace in traced])
    chosen = _choose([repricer.episode(trace.episode) for trace in traced], request.unknown_hits)
    if request.lifts_budget:
        chosen = [replace(episode, budget_usd=UNLIMITED_BUDGET_USD) for episode in chosen]
    _check_budgets(chosen)
    draft = _new_info(old, request, repricer)
    renewed = (replace(trace, episode=episode) for trace, episode in zip(traced, chosen, strict=True))
    info = write_dataset(request.out, draft, renewed, overwrite=request.overwrite)
    return RepriceReport(
        dataset_id=info.dataset_id,
        n_episodes=len(chosen),
        bills=_bills(info, traced, chosen),
        cache=repricer.policy,
        unknown=_unknown(chosen, info, repricer.policy),
    )


class _Repricer:
    """Turns the episodes of one log into those under another card."""

    def __init__(self, old: DatasetInfo, pool: PoolCard, *, usd_per_unit: float) -> None:
        self.models = tuple(_converted(model, usd_per_unit) for model in pool.models)
        self.names = _match_models(old, pool)
        self.policy: CachePolicy = (
            "as logged"
            if pool.prompt_cache == old.prompt_cache
            else "none"
            if pool.prompt_cache is None
            else "worked out"
        )
        self._cache = pool.prompt_cache
        self._new = {model.name: model.prices for model in self.models}
        self._old = {self.names[model.name]: model.prices for model in old.models}
        places = [self.names[name] for name in old.model_names]
        self._order = [places.index(model.name) for model in self.models]

    def episode(self, episode: Episode) -> _Repriced:
        """The episode under the new prices, at the lowest and the highest cost that its cache hits allow."""
        served = [self.names[turn.served_model] for turn in episode.turns]
        often, seldom = self._bounds(episode, served)
        lowest, highest = [], []
        for turn, model, *options in zip(episode.turns, served, often.usages, seldom.usages, strict=True):
            cost_usd = self._new[model].cost_usd
            lowest.append((turn, model, min(options, key=cost_usd)))
            highest.append((turn, model, max(reversed(options), key=cost_usd)))
        return _Repriced(
            lowest=self._renewed(episode, lowest, often.warm), highest=self._renewed(episode, highest, seldom.warm)
        )

    def _renewed(
        self,
        episode: Episode,
        calls: Sequence[tuple[Turn, str, TokenUsage]],
        warm: Sequence[tuple[bool, ...]],
    ) -> Episode:
        turns = tuple(
            replace(
                turn,
                model=self.names[turn.model],
                served_model=model,
                usage=usage,
                cost_usd=self._new[model].cost_usd(usage) + turn.router_cost_usd,
                action_mask=tuple(turn.action_mask[index] for index in self._order),
                warm=flags,
            )
            for (turn, model, usage), flags in zip(calls, warm, strict=True)
        )
        is_changed = any(usage != turn.usage for turn, _, usage in calls)
        source = "reconstructed" if is_changed else episode.usage_source
        return replace(episode, turns=turns, usage_source=source)

    def _bounds(self, episode: Episode, served: Sequence[str]) -> tuple[_Bound, _Bound]:
        if self.policy == "worked out" and self._cache is not None:
            return (
                self._worked_out(episode, served, self._cache, unknown_s=0.0),
                self._worked_out(episode, served, self._cache, unknown_s=2 * self._cache.ttl_s),
            )
        if self.policy == "none":
            cold = tuple(False for _ in self.models)
            usages = [TokenUsage(n_fresh=turn.usage.n_prompt, n_output=turn.usage.n_output) for turn in episode.turns]
            bound = _Bound(usages=tuple(usages), warm=tuple(cold for _ in usages))
        else:
            bound = _Bound(
                usages=tuple(self._kept(turn.usage, model) for turn, model in zip(episode.turns, served, strict=True)),
                warm=tuple(tuple(turn.warm[index] for index in self._order) for turn in episode.turns),
            )
        return bound, bound

    def _kept(self, usage: TokenUsage, model: str) -> TokenUsage:
        """Tokens under the same cache; what is written counts as such only where writing is billed."""
        if self._new[model].cache_write is None:
            return replace(usage, n_fresh=usage.n_fresh + usage.n_written, n_written=0)
        if self._old[model].cache_write is None and self._cache is not None:
            return _with_cached(usage, usage.n_cached, self._new[model], self._cache)
        return usage

    def _worked_out(
        self, episode: Episode, served: Sequence[str], card: PromptCacheCard, *, unknown_s: float
    ) -> _Bound:
        """Hits of the routing as it was; a latency that was not logged counts as `unknown_s`, seconds.

        Deviates from `SimulatedBackend` where a prompt is shorter than the same model's last one: the conversation was
        cut, so that nobody knows what of it was still cached; with `unknown_s` above 0, nothing is.
        """
        bases = {model.name: model.base for model in self.models}
        cache, now_s = PromptCache(card, bases), 0.0
        last: dict[str, int] = {}
        usages, warm = [], []
        for turn, model in zip(episode.turns, served, strict=True):
            n_prompt = turn.usage.n_prompt
            warm.append(tuple(cache.is_warm(known.name, now_s=now_s) for known in self.models))
            is_cut = n_prompt < last.get(bases[model], 0)
            n_cached = 0 if is_cut and unknown_s > 0 else cache.n_cached(model, n_prompt=n_prompt, now_s=now_s)
            usages.append(_with_cached(turn.usage, n_cached, self._new[model], card))
            cache.record(model, n_prompt=n_prompt, now_s=now_s)
            last[bases[model]] = n_prompt
            now_s += unknown_s if turn.latency_s is None else turn.latency_s
        return _Bound(usages=tuple(usages), warm=tuple(warm))


def _with_cached(usage: TokenUsage, n_cached: int, prices: Prices, card: PromptCacheCard) -> TokenUsage:
    return billed_usage(card, prices, n_prompt=usage.n_prompt, n_cached=n_cached, n_output=usage.n_output)


def _converted(model: ModelCard, usd_per_unit: float) -> ModelCard:
    prices = {
        kind: price if price is None else price * usd_per_unit for kind, price in model.prices.model_dump().items()
    }
    return model.model_copy(update={"prices": Prices.model_validate(prices)})


def _match_models(old: DatasetInfo, pool: PoolCard) -> dict[str, str]:
    """Name in the card of every model of the log."""
    known = {alias: model.name for model in pool.models for alias in (model.name, *model.aliases)}
    found: dict[str, str] = {}
    for model in old.models:
        candidates = [known[name] for name in (model.name, *model.aliases) if name in known]
        if not candidates:
            fix = "Add the model to the card with its prices, or as an alias of one"
            raise unknown_name(f"model of pool '{pool.name}'", model.name, known, fix=fix)
        found[model.name] = candidates[0]
    for name in pool.model_names:
        logged = [ours for ours, theirs in found.items() if theirs == name]
        if len(logged) > 1:
            raise PoolMismatchError(
                f"model '{name}' of pool '{pool.name}' stands for {logged} of dataset '{old.dataset_id}'; the log has one "
                "mask entry a model, so give each its own entry in the card"
            )
        if not logged:
            raise PoolMismatchError(
                f"model '{name}' of pool '{pool.name}' is not in dataset '{old.dataset_id}' ({', '.join(old.model_names)}): "
                "nobody logged whether it could have been chosen; take it out of the card"
            )
    return found


def _choose(repriced: Sequence[_Repriced], unknown_hits: UnknownHits) -> list[Episode]:
    if unknown_hits == "lowest":
        return [one.lowest for one in repriced]
    n_unknown = sum(not one.is_known for one in repriced)
    if unknown_hits == "refuse" and n_unknown:
        lowest = sum(one.lowest.cost_usd for one in repriced)
        highest = sum(one.highest.cost_usd for one in repriced)
        raise DatasetError(
            f"hits of the card's prompt cache cannot be known in {n_unknown} of {len(repriced)} episodes: the log lacks "
            f"latencies, or prompts were cut; the whole log costs {lowest:.6g} USD at least and {highest:.6g} USD at most; "
            "take a bound with --unknown-hits lowest or --unknown-hits highest, or a card without a prompt cache"
        )
    return [one.highest for one in repriced]


def _check_budgets(episodes: Sequence[Episode]) -> None:
    over = [one for one in episodes if one.cost_usd > one.budget_usd + BUDGET_TOLERANCE_USD]
    if over:
        named = ", ".join(
            f"'{one.episode_id}' ({one.cost_usd:.6f} of {one.budget_usd:.6f} USD)" for one in over[:_MAX_NAMED]
        )
        raise DatasetError(
            f"{len(over)} of {len(episodes)} episodes cost more than their budget_usd under the new prices: {named}"
            f"{', ...' if len(over) > _MAX_NAMED else ''}; they would have been stopped earlier, and how they would have "
            "ended then is not in the log; --lift-budget makes every budget unlimited and records that"
        )


def _next_id(dataset_id: str) -> str:
    """Id of the next version.

    Example:
        >>> _next_id("corridor-uniform-v9")
        'corridor-uniform-v10'
    """
    return re.sub(r"[0-9]+$", lambda version: str(int(version[0]) + 1), dataset_id)


def _new_info(old: DatasetInfo, request: RepriceRequest, repricer: _Repricer) -> DatasetInfo:
    created_by = {
        "command": "reprice",
        "dataset": old.dataset_id,
        "pool": request.pool.name,
        "usd_per_unit": request.usd_per_unit,
        "cache": repricer.policy,
        "unknown_hits": request.unknown_hits,
        "lifts_budget": request.lifts_budget,
        "source": old.created_by,
    }
    changes = {
        "dataset_id": request.dataset_id or _next_id(old.dataset_id),
        "pool_name": request.pool.name,
        "models": repricer.models,
        "prompt_cache": request.pool.prompt_cache,
        "package_version": __version__,
        "created_by": created_by,
        "assumptions": (*old.assumptions, *_assumptions(old, request, repricer.policy)),
    }
    return DatasetInfo.model_validate({**dict(old), **changes})


def _assumptions(old: DatasetInfo, request: RepriceRequest, policy: CachePolicy) -> Iterable[str]:
    cache = {
        "as logged": "cached tokens are those of the log",
        "none": "cached and written tokens count as fresh, because the card has no prompt cache",
        "worked out": "cache hits are worked out for the logged routing, from model latencies alone and as if every prompt "
        "began with the whole one before",
    }
    bound = "" if request.unknown_hits == "refuse" else f"; where they are unknown, at the {request.unknown_hits} cost"
    rate = "" if request.usd_per_unit == 1 else f", at {request.usd_per_unit!r} USD a unit of its currency"
    yield (
        f"costs are recomputed from those of pool '{old.pool_name}' at the prices of pool '{request.pool.name}'{rate}; "
        f"{cache[policy]}{bound if policy == 'worked out' else ''}"
    )
    if request.lifts_budget:
        yield "budgets are lifted to unlimited; the episodes were run under budgets that the new prices may exceed"


def _bills(info: DatasetInfo, before: Sequence[TracedEpisode], after: Sequence[Episode]) -> dict[str, ModelBill]:
    bills = {name: ModelBill() for name in info.model_names}
    for trace, episode in zip(before, after, strict=True):
        for old, new in zip(trace.episode.turns, episode.turns, strict=True):
            bills[new.served_model].add(old_usd=old.cost_usd, new_usd=new.cost_usd)
    return bills


def _unknown(episodes: Sequence[Episode], info: DatasetInfo, policy: CachePolicy) -> tuple[str, ...]:
    """What the log cannot tell about the new prices."""
    sentences = [
        "what a model would have answered under other prices or limits; answers, scores and tokens are those logged",
        "which models the budget would have ruled out at the new prices; action masks are those logged",
    ]
    if policy == "worked out" or any(turn.usage.n_cached for episode in episodes for turn in episode.turns):
        sentences.append(
            "how often another routing would have hit the prompt cache; hits are those of the logged routing"
        )
    if policy == "worked out":
        sentences.append(
            "how long the environment took between calls; only model latencies count, so that real caches may be colder"
        )
    n_stopped = sum(_is_stopped_early(episode) for episode in episodes)
    if n_stopped:
        sentences.append(
            f"where {n_stopped} of {len(episodes)} episodes would have stopped: a budget or a context window truncated them "
            "before their turn limit, under the old prices"
        )
    n_long = _n_too_long(episodes, info)
    if n_long:
        sentences.append(
            f"how {n_long} calls would have ended: they are longer than the card's context or output limit"
        )
    return tuple(sentences)


def _is_stopped_early(episode: Episode) -> bool:
    if not episode.turns:
        return episode.status == "completed"
    last = episode.turns[-1]
    return last.truncated and not last.terminated and len(episode.turns) < episode.max_turns


def _n_too_long(episodes: Sequence[Episode], info: DatasetInfo) -> int:
    cards = {model.name: model for model in info.models}
    return sum(
        turn.usage.n_output > cards[turn.served_model].max_output_tokens
        or turn.usage.n_prompt + turn.usage.n_output > cards[turn.served_model].context_tokens
        for episode in episodes
        for turn in episode.turns
    )
