"""Calibration of a simulated pool: a few numbers of its card are fitted so that single models land where a target says.

Free are one ability and one median output length for every model, and, if the target has a row of uniform per-turn random
routing, one probability of being stuck that all models share. Rows of routers are no part of a target: a pool that was fitted
to them would show nothing about routers.

The search is a secant iteration on the logit of the mean utility (as a share of the way from the worst end to full success), on
common random numbers: every candidate plays the same episodes, so that differences are not noise.
Source: Spall, Introduction to Stochastic Search and Optimization (2003), section 14.4 (common random numbers).
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self, cast

from pydantic import Field, model_validator

from mtrouter_rl.cards import parse_card
from mtrouter_rl.cards.policy import single_model, single_policy
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.cards.splits import evaluation_specs
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.pools.simulated.model import OutputTokens, expected_length
from mtrouter_rl.records import EpisodeSpec, Frozen, Split
from mtrouter_rl.statistics.cluster_bootstrap import mean_estimate
from mtrouter_rl.statistics.estimate import Estimate
from mtrouter_rl.studies.pool_calibration.plays import Plays
from mtrouter_rl.workers.executors import Workers

RANDOM = "uniform"
_MAX_STEP = 1.5
_MAX_STUCK_STEP = 0.05
_N_STEPS = 5
_N_ROUNDS = 4
UTILITY_TOLERANCE = 0.004


class TargetRow(Frozen):
    """What one policy should reach.

    Attributes:
        utility: Mean utility, 1 is full success; below 0 where the environment punishes.
        cost_usd: Total cost in any unit: only its ratio to that of the reference counts.
    """

    utility: Annotated[float, Field(lt=1, allow_inf_nan=False)]
    cost_usd: Annotated[float, Field(gt=0)]


class CalibrationTarget(Frozen):
    """What a pool is fitted to.

    Attributes:
        source: Where the numbers are from.
        reference: Model whose output length stays as it is; costs are compared with its cost.
        models: Row of every model of the pool.
        random: Row of uniform per-turn random routing; None leaves the probability of being stuck as it is.
        lowest_utility: Utility of the worst end of an episode, below every row: 0, or below where the environment punishes.
    """

    source: str
    reference: str
    models: dict[str, TargetRow]
    random: TargetRow | None = None
    lowest_utility: Annotated[float, Field(le=0, allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _rows_are_above_the_lowest(self) -> Self:
        for policy, row in (*self.models.items(), *([(RANDOM, self.random)] if self.random else [])):
            if row.utility <= self.lowest_utility:
                raise ValueError(
                    f"utility of '{policy}' is {row.utility}, must be above lowest_utility, {self.lowest_utility}; where an "
                    "environment punishes, say what its worst end is"
                )
        return self

    @model_validator(mode="after")
    def _has_reference(self) -> "CalibrationTarget":
        if self.reference not in self.models:
            raise ValueError(f"reference '{self.reference}' is none of the models {sorted(self.models)}")
        return self

    def row(self, policy: str) -> TargetRow:
        """Row of "single:MODEL" or of the random policy."""
        if policy == RANDOM and self.random is not None:
            return self.random
        return self.models[single_model(policy) or policy]

    def share(self, utility: float) -> float:
        """Utility as a share of the way from the worst end to full success, in [0, 1]."""
        return (utility - self.lowest_utility) / (1 - self.lowest_utility)

    def relative_cost(self, policy: str) -> float:
        """Cost over that of the reference."""
        return self.row(policy).cost_usd / self.models[self.reference].cost_usd


def load_target(path: Path) -> CalibrationTarget:
    """Target of a YAML file. Raises `CardError` if it breaks its rules, `InvalidConfigError` if it is not there."""
    if not path.is_file():
        raise InvalidConfigError(
            f"calibration target {path}: no such file; give a YAML file with source, reference, models"
        )
    return parse_card(path, CalibrationTarget)


def _with_ability(pool: PoolCard, model: str, ability: float) -> PoolCard:
    settings = copy.deepcopy(pool.backend.settings)
    _entry(settings, model)["ability"] = round(ability, 3)
    return _with_settings(pool, settings)


def _with_median(pool: PoolCard, model: str, median: float) -> PoolCard:
    settings = copy.deepcopy(pool.backend.settings)
    cast("dict[str, float]", _entry(settings, model)["output_tokens"])["median"] = float(round(median))
    return _with_settings(pool, settings)


def _with_stuck(pool: PoolCard, stuck: float) -> PoolCard:
    settings = copy.deepcopy(pool.backend.settings)
    for model in pool.model_names:
        _entry(settings, model)["stuck"] = round(stuck, 4)
    return _with_settings(pool, settings)


def _with_settings(pool: PoolCard, settings: dict[str, object]) -> PoolCard:
    return pool.model_copy(update={"backend": pool.backend.model_copy(update={"settings": settings})})


def _entry(settings: dict[str, object], model: str) -> dict[str, object]:
    return cast("dict[str, dict[str, dict[str, object]]]", settings)["models"][model]


def entry_of(pool: PoolCard, model: str) -> dict[str, object]:
    """A model's entry in the settings of a simulated pool."""
    return _entry(pool.backend.settings, model)


def _logit(share: float, *, n: int) -> float:
    """Logit of a mean of n; a mean of 0 or 1 is taken for half an episode more or less."""
    inside = min(max(share, 0.5 / n), 1 - 0.5 / n)
    return math.log(inside / (1 - inside))


def find_root(
    measure: Callable[[float], float], *, start: float, target: float, n: int, tolerance: float = UTILITY_TOLERANCE
) -> float:
    """Argument at which an increasing, noisy share in (0, 1) comes near a target: secant steps between the logits.

    Args:
        measure: The share; called at most `_N_STEPS` times.
        start: First argument.
        target: Wanted share, in (0, 1).
        n: Number of trials behind a share.
        tolerance: How near is near enough.

    Returns:
        The argument whose share came nearest.
    """
    tried: list[tuple[float, float, float]] = []
    argument, slope = start, 1.0
    for _ in range(_N_STEPS):
        share = measure(argument)
        tried.append((abs(share - target), argument, _logit(share, n=n)))
        if abs(share - target) <= tolerance:
            break
        if len(tried) > 1 and abs(tried[-1][1] - tried[-2][1]) > 0.01:
            slope = min(max((tried[-1][2] - tried[-2][2]) / (tried[-1][1] - tried[-2][1]), 0.3), 3.0)
        step = (_logit(target, n=n) - tried[-1][2]) / slope
        argument += min(max(step, -_MAX_STEP), _MAX_STEP)
    return min(tried)[1]


@dataclass(frozen=True, kw_only=True)
class _Round:
    """What came out of one value of `stuck`: the pool, the utility of random routing, and how far all rows are missed."""

    pool: PoolCard
    stuck: float
    random: float
    miss: float


def _next_stuck(tried: Sequence[_Round], wanted: float) -> float:
    """Secant step in the utility of random routing, of `_MAX_STUCK_STEP` at most: far off, single models are out of reach."""
    last, slope = tried[-1], 1.0
    if len(tried) > 1 and last.stuck != tried[-2].stuck:
        slope = max((last.random - tried[-2].random) / (last.stuck - tried[-2].stuck), 0.3)
    step = min(max((wanted - last.random) / slope, -_MAX_STUCK_STEP), _MAX_STUCK_STEP)
    return round(min(max(last.stuck + step, 0.0), 0.5), 4)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Fits a pool card to a target.

    Attributes:
        config: Environment and pool to start from.
        target: What is fitted to.
        plays: Who plays.
        say: Told what was found.
        tolerance: How near a utility has to come to its row, as a share of the way from the worst end to full success.
        stuck: Probability of being stuck that all models are given; None fits it to random routing.
    """

    config: EnvConfig
    target: CalibrationTarget
    plays: Plays
    say: Callable[[str], None]
    tolerance: float = UTILITY_TOLERANCE
    stuck: float | None = None

    def fit(self, specs: Sequence[EpisodeSpec]) -> PoolCard:
        """Fitted pool card."""
        pool = self.config.pool
        if set(self.target.models) != set(pool.model_names):
            raise InvalidConfigError(
                f"calibration target has the models {sorted(self.target.models)}, pool '{pool.name}' has "
                f"{sorted(pool.model_names)}; they must be the same"
            )
        pool = self._fit_stuck(pool, specs)
        return self._fit_lengths(pool, specs)

    def _fit_abilities(self, pool: PoolCard, specs: Sequence[EpisodeSpec]) -> PoolCard:
        for model in pool.model_names:
            wanted = self.target.models[model].utility

            def measure(ability: float, model: str = model, pool: PoolCard = pool) -> float:
                return self.target.share(
                    self._utility(_with_ability(pool, model, ability), single_policy(model), specs)
                )

            start = cast(float, entry_of(pool, model)["ability"])
            root = find_root(
                measure, start=start, target=self.target.share(wanted), n=len(specs), tolerance=self.tolerance
            )
            pool = _with_ability(pool, model, root)
            utility = self._utility(pool, single_policy(model), specs)
            self.say(f"{model}: ability {root:.3f}, score {100 * utility:.1f}, target {100 * wanted:.1f}")
        return pool

    def _utility(self, pool: PoolCard, policy: str, specs: Sequence[EpisodeSpec]) -> float:
        return self.plays.play(pool, policy, specs).utility

    def _fit_stuck(self, pool: PoolCard, specs: Sequence[EpisodeSpec]) -> PoolCard:
        """Abilities, and the shared probability of being stuck: the more models are stuck, the more a change of model helps."""
        if self.stuck is not None:
            return self._fit_abilities(_with_stuck(pool, self.stuck), specs)
        if self.target.random is None:
            return self._fit_abilities(pool, specs)
        wanted = self.target.random.utility
        stuck = cast(float, entry_of(pool, pool.model_names[0])["stuck"])
        tried: list[_Round] = []
        for _ in range(_N_ROUNDS):
            pool = self._fit_abilities(_with_stuck(pool, stuck), specs)
            utility = self._utility(pool, RANDOM, specs)
            self.say(f"stuck {stuck:.4f}: random {100 * utility:.1f}, target {100 * wanted:.1f}")
            tried.append(_Round(pool=pool, stuck=stuck, random=utility, miss=self._miss(pool, specs)))
            if abs(self.target.share(utility) - self.target.share(wanted)) <= self.tolerance:
                break
            stuck = _next_stuck(tried, wanted)
        return min(tried, key=lambda one: one.miss).pool

    def _miss(self, pool: PoolCard, specs: Sequence[EpisodeSpec]) -> float:
        """Sum of squared differences to the rows: a pool in which random routing lands by missing single models is no fit."""
        policies = [RANDOM, *(single_policy(model) for model in pool.model_names)]
        return sum((self._utility(pool, policy, specs) - self.target.row(policy).utility) ** 2 for policy in policies)

    def _fit_lengths(self, pool: PoolCard, specs: Sequence[EpisodeSpec]) -> PoolCard:
        """Median output lengths: no model acts otherwise because of them, so one play tells the prompt's share of the cost."""
        reference_usd = self.plays.play(pool, single_policy(self.target.reference), specs).cost_usd
        for model in pool.model_names:
            if model == self.target.reference:
                continue
            played = self.plays.play(pool, single_policy(model), specs)
            output_usd = float(played.output_costs_usd.mean())
            wanted_usd = reference_usd * self.target.relative_cost(model) - (played.cost_usd - output_usd)
            if wanted_usd <= 0:
                raise InvalidConfigError(
                    f"model '{model}': its prompts alone cost more than the target says; give '{self.target.reference}' a "
                    "longer median output, or the task shorter texts"
                )
            pool = self._with_length(pool, model, factor=wanted_usd / output_usd)
        return pool

    def _with_length(self, pool: PoolCard, model: str, *, factor: float) -> PoolCard:
        """Pool in which a model's replies are, on average and cut at its limit, so many times as long."""
        tokens = OutputTokens.model_validate(entry_of(pool, model)["output_tokens"])
        limit = min(pool.model(model).max_output_tokens, self.config.limits.max_output_tokens)
        wanted = factor * expected_length(tokens, limit=limit)
        if wanted >= limit:
            raise InvalidConfigError(
                f"model '{model}': to cost what the target says its replies would have to be {wanted:.0f} tokens long on "
                f"average, and {limit} is the limit; give '{self.target.reference}' a shorter median output, or raise the limit"
            )
        low, high = 0.0, math.log(wanted)  # a median above what is wanted would have to be cut on average
        while expected_length(tokens.model_copy(update={"median": math.exp(high)}), limit=limit) < wanted:
            low, high = high, high + 1
        for _ in range(50):
            middle = (low + high) / 2
            is_short = expected_length(tokens.model_copy(update={"median": math.exp(middle)}), limit=limit) < wanted
            low, high = (middle, high) if is_short else (low, middle)
        return _with_median(pool, model, max(math.exp(high), 1.0))


@dataclass(frozen=True, kw_only=True)
class CalibrationRow:
    """Achieved against target, of one policy on one split.

    Attributes:
        split: Which split.
        policy: "single:MODEL" or the random policy.
        utility: Mean utility with its interval.
        target_utility: Wanted.
        relative_cost: Cost over that of the reference on the same episodes.
        target_relative_cost: Wanted.
    """

    split: Split
    policy: str
    utility: Estimate
    target_utility: float
    relative_cost: float
    target_relative_cost: float


def compare(
    pool: PoolCard, target: CalibrationTarget, plays: Plays, *, split: Split, specs: Sequence[EpisodeSpec]
) -> list[CalibrationRow]:
    """Achieved against target, for every model and, if the target has it, the random policy."""
    policies = [single_policy(model) for model in pool.model_names] + ([RANDOM] if target.random else [])
    played = {policy: plays.play(pool, policy, specs) for policy in policies}
    reference_usd = played[single_policy(target.reference)].cost_usd
    return [
        CalibrationRow(
            split=split,
            policy=policy,
            utility=mean_estimate(one.utilities, one.clusters, seed=0),
            target_utility=target.row(policy).utility,
            relative_cost=one.cost_usd / reference_usd,
            target_relative_cost=target.relative_cost(policy),
        )
        for policy, one in played.items()
    ]


def format_rows(rows: Sequence[CalibrationRow]) -> str:
    """Table of achieved against target."""
    lines = [
        f"{'split':<11}{'policy':<30}{'score [95% CI]':>22}{'target':>8}{'cost/ref.':>11}{'target':>8}{'episodes':>10}"
    ]
    for row in rows:
        low, high = row.utility.ends or (math.nan, math.nan)
        score = f"{100 * row.utility.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        lines.append(
            f"{row.split:<11}{row.policy:<30}{score:>22}{100 * row.target_utility:>8.1f}{row.relative_cost:>11.3f}"
            f"{row.target_relative_cost:>8.3f}{row.utility.n_episodes:>10}"
        )
    return "\n".join(lines)


def fitted_numbers(pool: PoolCard) -> str:
    """The fitted numbers, one model a line, to be written into the pool card."""
    lines = []
    for model in pool.model_names:
        entry = entry_of(pool, model)
        median = cast("dict[str, float]", entry["output_tokens"])["median"]
        lines.append(f"{model}: {{ ability: {entry['ability']}, stuck: {entry['stuck']}, median: {median:g} }}")
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class CalibrationRequest:
    """What `mtrouter-rl lab calibrate` is asked for.

    Attributes:
        config: Environment, and the pool to start from.
        target: What to fit to.
        n_seeds: Seeds of every variation while fitting.
        fit_on: Splits whose episodes are fitted to.
        n_report_seeds: Seeds of every variation in the report; 0 to `n_seeds` - 1 are those of the fit.
        report_on: Splits in the report; None takes every one.
        per_task: At most this many variations of a task and split, while fitting and in the report; None takes all.
        tolerance: See `Calibration`.
        stuck: See `Calibration`.
        n_workers: Worker processes.
        folder: Where episodes are kept, so that a killed fit goes on; None keeps none.
        show_progress: Whether to draw progress bars.
    """

    config: EnvConfig
    target: CalibrationTarget
    n_seeds: int
    n_report_seeds: int
    fit_on: tuple[Split, ...] = ("train", "validation")
    report_on: tuple[Split, ...] | None = None
    per_task: int | None = None
    tolerance: float = UTILITY_TOLERANCE
    stuck: float | None = None
    n_workers: Workers = 1
    folder: Path | None = None
    show_progress: bool = False

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 < self.tolerance < 1:
            raise InvalidConfigError(f"tolerance is {self.tolerance}, must be in (0, 1), such as {UTILITY_TOLERANCE}")
        if self.stuck is not None and not 0 <= self.stuck < 1:
            raise InvalidConfigError(f"stuck is {self.stuck}, must be in [0, 1), such as 0.05")


def run_calibration(
    request: CalibrationRequest, *, say: Callable[[str], None]
) -> tuple[PoolCard, list[CalibrationRow]]:
    """Fit a pool on the splits that the request names, then play it on every split of the report.

    Args:
        request: What to fit, to what.
        say: Told what is going on.

    Returns:
        The fitted pool card, and achieved against target.
    """
    config, target = request.config, request.target
    splits: tuple[Split, ...] = ("train", "validation", "test", *(("ood",) if config.card.ood_tasks else ()))
    with Plays(
        config, n_workers=request.n_workers, folder=request.folder, show_progress=request.show_progress
    ) as plays:
        specs = _specs(request, request.fit_on, request.n_seeds)
        say(f"fitting on {len(specs)} episodes of {' and '.join(request.fit_on)}, of every model at every step")
        n_plays = len(config.pool.models) * _N_STEPS + 1
        say(
            f"at most {n_plays * (_N_ROUNDS if target.random else 1)} times as many episodes, usually less than half of that"
        )
        calibration = Calibration(
            config=config, target=target, plays=plays, say=say, tolerance=request.tolerance, stuck=request.stuck
        )
        pool = calibration.fit(specs)
        rows: list[CalibrationRow] = []
        for split in request.report_on or splits:
            chosen = _specs(request, (split,), request.n_report_seeds)
            rows += compare(pool, target, plays, split=split, specs=chosen)
    return pool, rows


def _specs(request: CalibrationRequest, splits: Sequence[Split], n_seeds: int) -> list[EpisodeSpec]:
    card = request.config.card
    return [spec for split in splits for spec in evaluation_specs(card, split, n_seeds, per_task=request.per_task)]
