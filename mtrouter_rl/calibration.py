"""Calibration of a simulated pool: a few numbers of its card are fitted so that single models land where a target says.

Free are one ability and one median output length for every model, and, if the target has a row of uniform per-turn random
routing, one probability of being stuck that all models share. Rows of routers are no part of a target: a pool that was fitted
to them would show nothing about routers.

The search is a secant iteration on the logit of the mean utility, on common random numbers: every candidate plays the same
episodes, so that differences are not noise.
Source: Spall, Introduction to Stochastic Search and Optimization (2003), section 14.4 (common random numbers).
"""

import concurrent.futures
import copy
import math
import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Self, cast

import numpy as np
from pydantic import Field, model_validator

from mtrouter_rl.agents.resolve import RouterRef
from mtrouter_rl.cards import EnvCard, parse_card
from mtrouter_rl.datasets.splits import evaluation_specs
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.envs.routing import RoutingEnv
from mtrouter_rl.errors import InvalidConfigError, SimulatorError
from mtrouter_rl.evaluation.statistics import Interval, clustered_mean_interval
from mtrouter_rl.pools.card import Frozen, PoolCard
from mtrouter_rl.protocols import ModelBackend, TextTask
from mtrouter_rl.records import EpisodeSpec, Split
from mtrouter_rl.registry import BACKENDS, TASK_FAMILIES
from mtrouter_rl.rollout import run_episode

RANDOM = "uniform"
_MAX_STEP = 1.5
_N_STEPS = 5
_N_ROUNDS = 4
_UTILITY_TOLERANCE = 0.004
_EPISODES_PER_JOB = 48


class TargetRow(Frozen):
    """What one policy should reach.

    Attributes:
        utility: Mean utility, 1 is full success.
        cost_usd: Total cost in any unit: only its ratio to that of the reference counts.
    """

    utility: Annotated[float, Field(gt=0, lt=1)]
    cost_usd: Annotated[float, Field(gt=0)]


class CalibrationTarget(Frozen):
    """What a pool is fitted to.

    Attributes:
        source: Where the numbers are from.
        reference: Model whose output length stays as it is; costs are compared with its cost.
        models: Row of every model of the pool.
        random: Row of uniform per-turn random routing; None leaves the probability of being stuck as it is.
    """

    source: str
    reference: str
    models: dict[str, TargetRow]
    random: TargetRow | None = None

    @model_validator(mode="after")
    def _has_reference(self) -> "CalibrationTarget":
        if self.reference not in self.models:
            raise ValueError(f"reference '{self.reference}' is none of the models {sorted(self.models)}")
        return self

    def row(self, policy: str) -> TargetRow:
        """Row of "single:MODEL" or of the random policy."""
        if policy == RANDOM and self.random is not None:
            return self.random
        return self.models[policy.removeprefix("single:")]

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


@dataclass(frozen=True, kw_only=True)
class Played:
    """Episodes of one policy, arrays of shape (n,).

    Attributes:
        utilities: Utility of each.
        costs_usd: Cost of each, USD.
        output_costs_usd: Part of it that output tokens cost, USD.
        clusters: (task, variation) of each.
    """

    utilities: np.ndarray
    costs_usd: np.ndarray
    output_costs_usd: np.ndarray
    clusters: tuple[tuple[str, int], ...]

    @property
    def utility(self) -> float:
        """Mean utility."""
        return float(self.utilities.mean())

    @property
    def cost_usd(self) -> float:
        """Mean cost, USD."""
        return float(self.costs_usd.mean())


class _Player:
    """Plays episodes under any pool card; keeps the task, whatever the pool."""

    def __init__(self, config: EnvConfig) -> None:
        self._config = config
        make_task = cast("Callable[[EnvCard], TextTask]", TASK_FAMILIES.load(config.card.family))
        self._task = make_task(config.card)

    def play(self, pool: PoolCard, policy: str, specs: Sequence[EpisodeSpec]) -> list[tuple[float, float, float]]:
        """(utility, cost, cost of output) of every episode."""
        make_backend = cast("Callable[[PoolCard, EnvCard], ModelBackend]", BACKENDS.load(pool.backend.kind))
        env = RoutingEnv(
            task=self._task,
            backend=make_backend(pool, self._config.card),
            pool=pool,
            specs=specs,
            system_prompt=self._config.card.system_prompt,
            limits=self._config.limits,
            reward=self._config.card.reward,
        )
        router = RouterRef.of(policy, None)(replace(self._config, pool=pool))
        rows = []
        for spec in specs:
            episode = run_episode(env, router, spec).episode
            if episode.status != "completed":
                raise SimulatorError(f"calibration, episode {spec.key} of {policy}: {episode.status_detail}")
            output = sum(
                turn.usage.n_output * pool.model(turn.served_model).prices.output / 1_000_000 for turn in episode.turns
            )
            rows.append((episode.utility, episode.cost_usd, output))
        return rows


_player: _Player | None = None
"""The player of this process; set once by `_start` in a process that does nothing else."""


def _start(config: EnvConfig) -> None:
    global _player
    _player = _Player(config)


def _play_in_worker(pool: PoolCard, policy: str, specs: Sequence[EpisodeSpec]) -> list[tuple[float, float, float]]:
    assert _player is not None
    return _player.play(pool, policy, specs)


class Plays:
    """Worker processes that play episodes under any pool card; with one worker, this process. Use as a context manager."""

    def __init__(self, config: EnvConfig, *, n_workers: int) -> None:
        """Create the workers; they start with the first episodes."""
        self._local = _Player(config) if n_workers == 1 else None
        self._executor = concurrent.futures.ProcessPoolExecutor(
            max_workers=n_workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(config,),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._executor.shutdown(wait=True, cancel_futures=True)

    def play(self, pool: PoolCard, policy: str, specs: Sequence[EpisodeSpec]) -> Played:
        """Play episodes of a policy."""
        rows = np.array(self._rows(pool, policy, specs))
        return Played(
            utilities=rows[:, 0],
            costs_usd=rows[:, 1],
            output_costs_usd=rows[:, 2],
            clusters=tuple((spec.task, spec.variation) for spec in specs),
        )

    def _rows(self, pool: PoolCard, policy: str, specs: Sequence[EpisodeSpec]) -> list[tuple[float, float, float]]:
        if self._local is not None:
            return self._local.play(pool, policy, specs)
        starts = range(0, len(specs), _EPISODES_PER_JOB)
        jobs = [
            self._executor.submit(_play_in_worker, pool, policy, specs[start : start + _EPISODES_PER_JOB])
            for start in starts
        ]
        return [row for job in jobs for row in job.result()]


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


def _logit(share: float, *, n: int) -> float:
    """Logit of a mean of n; a mean of 0 or 1 is taken for half an episode more or less."""
    inside = min(max(share, 0.5 / n), 1 - 0.5 / n)
    return math.log(inside / (1 - inside))


def find_root(measure: Callable[[float], float], *, start: float, target: float, n: int) -> float:
    """Argument at which an increasing, noisy share in (0, 1) comes near a target: secant steps between the logits.

    Args:
        measure: The share; called at most `_N_STEPS` times.
        start: First argument.
        target: Wanted share, in (0, 1).
        n: Number of trials behind a share.

    Returns:
        The argument whose share came nearest.
    """
    tried: list[tuple[float, float, float]] = []
    argument, slope = start, 1.0
    for _ in range(_N_STEPS):
        share = measure(argument)
        tried.append((abs(share - target), argument, _logit(share, n=n)))
        if abs(share - target) <= _UTILITY_TOLERANCE:
            break
        if len(tried) > 1 and abs(tried[-1][1] - tried[-2][1]) > 0.01:
            slope = min(max((tried[-1][2] - tried[-2][2]) / (tried[-1][1] - tried[-2][1]), 0.3), 3.0)
        step = (_logit(target, n=n) - tried[-1][2]) / slope
        argument += min(max(step, -_MAX_STEP), _MAX_STEP)
    return min(tried)[1]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Fits a pool card to a target.

    Attributes:
        config: Environment and pool to start from.
        target: What is fitted to.
        plays: Who plays.
        say: Told what was found.
    """

    config: EnvConfig
    target: CalibrationTarget
    plays: Plays
    say: Callable[[str], None]

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
                return self.plays.play(_with_ability(pool, model, ability), f"single:{model}", specs).utility

            start = cast(float, _entry(pool.backend.settings, model)["ability"])
            pool = _with_ability(pool, model, find_root(measure, start=start, target=wanted, n=len(specs)))
        return pool

    def _fit_stuck(self, pool: PoolCard, specs: Sequence[EpisodeSpec]) -> PoolCard:
        """Abilities, and the shared probability of being stuck: the more models are stuck, the more a change of model helps."""
        if self.target.random is None:
            return self._fit_abilities(pool, specs)
        wanted = self.target.random.utility
        stuck = cast(float, _entry(pool.backend.settings, pool.model_names[0])["stuck"])
        tried: list[tuple[float, float, float, PoolCard]] = []
        for _ in range(_N_ROUNDS):
            pool = self._fit_abilities(_with_stuck(pool, stuck), specs)
            utility = self.plays.play(pool, RANDOM, specs).utility
            self.say(f"stuck {stuck:.3f}: random {100 * utility:.1f}, target {100 * wanted:.1f}")
            tried.append((abs(utility - wanted), stuck, utility, pool))
            if abs(utility - wanted) <= 2 * _UTILITY_TOLERANCE:
                break
            slope = 1.0
            if len(tried) > 1 and tried[-1][1] != tried[-2][1]:
                slope = max((tried[-1][2] - tried[-2][2]) / (tried[-1][1] - tried[-2][1]), 0.3)
            stuck = min(max(stuck + (wanted - utility) / slope, 0.0), 0.5)
        return min(tried, key=lambda one: one[0])[3]

    def _fit_lengths(self, pool: PoolCard, specs: Sequence[EpisodeSpec]) -> PoolCard:
        """Median output lengths: no model acts otherwise because of them, so one play tells the prompt's share of the cost."""
        reference_usd = self.plays.play(pool, f"single:{self.target.reference}", specs).cost_usd
        for model in pool.model_names:
            if model == self.target.reference:
                continue
            for _ in range(2):  # twice, since the output limit cuts long replies
                played = self.plays.play(pool, f"single:{model}", specs)
                output_usd = float(played.output_costs_usd.mean())
                wanted_usd = reference_usd * self.target.relative_cost(model) - (played.cost_usd - output_usd)
                if wanted_usd <= 0:
                    raise InvalidConfigError(
                        f"model '{model}': its prompts alone cost more than the target says; give '{self.target.reference}' a "
                        "longer median output, or the task shorter texts"
                    )
                lengths = cast("dict[str, float]", _entry(pool.backend.settings, model)["output_tokens"])
                pool = _with_median(pool, model, max(lengths["median"] * wanted_usd / output_usd, 1.0))
        return pool


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
    utility: Interval
    target_utility: float
    relative_cost: float
    target_relative_cost: float


def compare(
    pool: PoolCard, target: CalibrationTarget, plays: Plays, *, split: Split, specs: Sequence[EpisodeSpec]
) -> list[CalibrationRow]:
    """Achieved against target, for every model and, if the target has it, the random policy."""
    policies = [f"single:{model}" for model in pool.model_names] + ([RANDOM] if target.random else [])
    played = {policy: plays.play(pool, policy, specs) for policy in policies}
    reference_usd = played[f"single:{target.reference}"].cost_usd
    rng = np.random.default_rng(0)
    return [
        CalibrationRow(
            split=split,
            policy=policy,
            utility=clustered_mean_interval(one.utilities, one.clusters, rng=rng),
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
        score = f"{100 * row.utility.mean:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        lines.append(
            f"{row.split:<11}{row.policy:<30}{score:>22}{100 * row.target_utility:>8.1f}{row.relative_cost:>11.3f}"
            f"{row.target_relative_cost:>8.3f}{row.utility.n_episodes:>10}"
        )
    return "\n".join(lines)


def fitted_numbers(pool: PoolCard) -> str:
    """The fitted numbers, one model a line, to be written into the pool card."""
    lines = []
    for model in pool.model_names:
        entry = _entry(pool.backend.settings, model)
        median = cast("dict[str, float]", entry["output_tokens"])["median"]
        lines.append(f"{model}: {{ ability: {entry['ability']}, stuck: {entry['stuck']}, median: {median:g} }}")
    return "\n".join(lines)


def run_calibration(
    config: EnvConfig,
    target: CalibrationTarget,
    *,
    n_seeds: int,
    n_report_seeds: int,
    n_workers: int,
    say: Callable[[str], None],
) -> tuple[PoolCard, list[CalibrationRow]]:
    """Fit a pool on the train and validation splits, then play it on these and on every other split.

    Args:
        config: Environment, and the pool to start from.
        target: What to fit to.
        n_seeds: Seeds of every variation while fitting.
        n_report_seeds: Seeds of every variation in the report; 0 to `n_seeds` - 1 are those of the fit.
        n_workers: Worker processes.
        say: Told what is going on.

    Returns:
        The fitted pool card, and achieved against target.
    """
    fitted_on: tuple[Split, ...] = ("train", "validation")
    others: tuple[Split, ...] = ("test", "ood") if config.card.ood_tasks else ("test",)
    with Plays(config, n_workers=n_workers) as plays:
        specs = [spec for split in fitted_on for spec in evaluation_specs(config.card, split, n_seeds)]
        say(f"fitting on {len(specs)} episodes of train and validation, of every model at every step")
        pool = Calibration(config=config, target=target, plays=plays, say=say).fit(specs)
        rows: list[CalibrationRow] = []
        for split in (*fitted_on, *others):
            chosen = evaluation_specs(config.card, split, n_report_seeds)
            rows += compare(pool, target, plays, split=split, specs=chosen)
    return pool, rows
