"""Off-policy evaluation of routers on a log, from its folder to a report: what `mtrouter-rl ope` does.

For every router: estimates by every estimator, intervals, and for each family of estimators (those that weigh episodes,
those that rest on fitted values) whether the log can tell at all. The headline is WDR where the weights leave enough
episodes, else DM (fitted Q evaluation) where the fitted values pass their checks, else nothing: "this log cannot tell",
with the reasons.

The intervals are bootstrapped over (task, variation). Those of DM also hold the spread of the training: the networks of the two
halves of the log differ, by chance of the data and of the training, and half that difference, once for every repeat, is added
to the draws with a common normal factor (so that differences of policies stay paired), widened as Student's t with as many
degrees of freedom as there are repeats. What no interval holds: what the network cannot represent or the history does not
show, estimated propensities that are wrong, and a router that was trained on the very log that it is estimated from.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mtrouter_rl import __version__
from mtrouter_rl.agents.resolve import make_encoder, resolve_router
from mtrouter_rl.agents.saving import Provenance
from mtrouter_rl.agents.transitions import Transitions, make_transitions
from mtrouter_rl.cards import RewardCard
from mtrouter_rl.datasets.info import read_info
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.envs.logged import logged_env
from mtrouter_rl.errors import InvalidConfigError, PoolMismatchError, unknown_name
from mtrouter_rl.evaluation.behavior_model import BehaviorModel, estimate_propensities
from mtrouter_rl.evaluation.episode_ope import MIN_EFFECTIVE_SAMPLE_SIZE, percentile_interval
from mtrouter_rl.evaluation.fqe import (
    QUANTITIES,
    BellmanCheck,
    FqeData,
    FqeParameters,
    FqeResult,
    bellman_check,
    fitted_q_evaluation,
)
from mtrouter_rl.evaluation.ope import (
    ESTIMATORS,
    MODEL_BASED,
    Estimator,
    OpeDiagnosis,
    OpeEstimate,
    TurnLog,
    Values,
    check_probabilities,
    diagnose,
    estimate,
)
from mtrouter_rl.evaluation.ope_report import (
    Difference,
    Estimated,
    OpeReport,
    PolicyReport,
    Propensities,
    selection_by_quantity,
)
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.evaluation.selection import bootstrap_p_value, holm
from mtrouter_rl.evaluation.statistics import N_RESAMPLES
from mtrouter_rl.pools.card import PoolCard
from mtrouter_rl.protocols import Router, ValueRouter
from mtrouter_rl.records import Episode, FloatArray, Observation
from mtrouter_rl.registry import DEFAULT_ENCODER

if TYPE_CHECKING:
    from mtrouter_rl.embeddings.history import HistoryFeatures

COLUMNS = (*QUANTITIES, "return")
MIN_SUPPORT = 0.02
"""A model that the behaviour policy calls with a smaller probability in a state counts as unsupported there."""
MAX_UNSUPPORTED_SHARE = 0.05
"""Above this share of choices in unsupported states, fitted values are guesses, and DM is refused."""
MAX_BIAS = 0.5
"""Largest Bellman bias for DM, beyond two standard errors, in standard deviations of the logged episodes."""
_BATCH = 512
_TINY = 1e-9


@dataclass(frozen=True, kw_only=True)
class OpeRequest:
    """What `mtrouter-rl ope` is asked for.

    Attributes:
        routers: Policies, as `mtrouter_rl.agents.resolve.resolve_router` takes them.
        dataset: Folder of the log.
        pool: Pool of the log.
        reward: Cost weight and unit of the return.
        seed: Seed of halves, training and bootstrap.
        encoder: Registered name of the text encoder of the fitted values.
        estimators: Which.
        cache: Folder of the embedding cache.
        fqe: Network and training of the fitted values.
        truth: A results.json with closed-loop rows of the same policies; None if there is none.
        truth_split: Which split of it.
        n_resamples: Bootstrap resamples.
    """

    routers: tuple[str, ...]
    dataset: Path
    pool: PoolCard
    reward: RewardCard
    seed: int = 0
    encoder: str = DEFAULT_ENCODER
    estimators: tuple[Estimator, ...] = ESTIMATORS
    cache: Path | None = None
    fqe: FqeParameters = field(default_factory=FqeParameters)
    truth: Path | None = None
    truth_split: str = "test"
    n_resamples: int = N_RESAMPLES


@dataclass(kw_only=True)
class _Run:
    """What the steps share. Arrays are over the N logged turns, in order."""

    request: OpeRequest
    dataset: Dataset
    episodes: tuple[Episode, ...]
    transitions: Transitions
    features: "HistoryFeatures"
    routers: dict[str, Router]
    texts: dict[str, str]
    observations: list[Observation]
    probabilities: dict[str, FloatArray]
    clusters: npt.NDArray[np.int64]
    strata: npt.NDArray[np.int64]
    turned_away: dict[str, str] = field(default_factory=dict)
    log: TurnLog | None = None
    kind: Propensities = "unknown"
    behavior: FloatArray | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def names(self) -> tuple[str, ...]:
        """Policies that are estimated."""
        return tuple(name for name in self.probabilities if name not in self.turned_away)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """Of one policy, before it becomes a report."""

    estimates: dict[Estimator, OpeEstimate]
    diagnosis: OpeDiagnosis | None
    unsupported_share: float | None
    checks: dict[str, BellmanCheck]
    refusals: dict[str, tuple[str, ...]]
    headline: Estimator | None


def log_setting(
    dataset: Path,
    *,
    env: str | None = None,
    pool: str | None = None,
    cost_weight: float | None = None,
    cost_unit_usd: float | None = None,
) -> tuple[PoolCard, RewardCard]:
    """Pool and reward of a log: of its environment card; of an imported log, which has none, what the log itself says.

    Args:
        dataset: Folder of the log.
        env: Environment card; None takes that of the log.
        pool: Pool card; None takes the one that the environment names.
        cost_weight: Overrides the card's; needed for an imported log.
        cost_unit_usd: For imported logs, which have no card that says it.

    Raises:
        DatasetError: If the folder is no dataset.
        CardError, UnknownNameError: If a card cannot be read.
        InvalidConfigError: If a number is missing, out of range, or given where a card says it.
    """
    info = read_info(dataset)
    if info.origin == "imported" and env is None:
        if cost_weight is None or cost_unit_usd is None:
            raise InvalidConfigError(
                f"log '{info.dataset_id}' was imported, so no card says what money is worth: give --cost-weight and "
                "--cost-unit-usd (such as 0.4 and what the strongest model spends on an episode)"
            )
        logged = logged_env(info, cost_weight=cost_weight, cost_unit_usd=cost_unit_usd)
        return logged.pool, logged.card.reward
    if cost_unit_usd is not None:
        raise InvalidConfigError("--cost-unit-usd is for imported logs; this environment's card has its own")
    config = resolve_env(env or info.env, pool, cost_weight=cost_weight)
    return config.pool, config.card.reward.model_copy(update={"cost_weight": config.cost_weight})


def run_ope(request: OpeRequest, *, say: Callable[[str], None], show_progress: bool = True) -> OpeReport:
    """Estimate routers from a log.

    Args:
        request: What to estimate.
        say: Told, in a sentence, what happens.
        show_progress: Whether to draw progress bars.

    Raises:
        DatasetError: If the log breaks its rules.
        InvalidConfigError: If the log has no completed episode or one behaviour model only, an estimator is unknown, two
            routers have one name, a router gives no distribution, or propensities are needed and cannot be estimated.
        UnknownNameError, RouterError, PoolMismatchError: If a router cannot be resolved, or is for another pool.
        ResultsError: If the closed-loop results cannot be read.
    """
    for name in request.estimators:
        if name not in ESTIMATORS:
            raise unknown_name("estimator", name, ESTIMATORS)
    truth = None if request.truth is None else _truth(request.truth, request.truth_split, request.reward)
    run = _prepare(request, say=say, show_progress=show_progress)
    _turn_away_switching(run)
    _find_behavior(run, say=say)
    values = None
    if MODEL_BASED & set(request.estimators) and run.names:
        say(f"fit values of {len(run.names)} policies to {len(run.transitions)} turns")
        values = _fit(run, show_progress=show_progress)
    found = {name: _estimate(run, name, values) for name in run.names}
    return _report(run, found, has_values=values is not None, truth=truth)


def _prepare(request: OpeRequest, *, say: Callable[[str], None], show_progress: bool) -> _Run:
    from mtrouter_rl.embeddings.history import HistoryFeatures, observations_of

    dataset = Dataset.load(request.dataset)
    dataset.info.check_pool(request.pool)
    episodes = tuple(episode for episode in dataset.completed if episode.turns)
    _check_log(dataset, episodes)
    routers, texts = _routers(request)
    features = HistoryFeatures(encoder=make_encoder(request.encoder, request.cache), pool=request.pool)
    say(f"encode {len(episodes)} episodes")
    transitions = make_transitions(dataset, features, reward=request.reward, gamma=1.0, show_progress=show_progress)
    observations = [one for episode in episodes for one in observations_of(episode, request.pool)]
    pairs = [(episode.task, episode.variation) for episode in episodes]
    run = _Run(
        request=request,
        dataset=dataset,
        episodes=episodes,
        transitions=transitions,
        features=features,
        routers=routers,
        texts=texts,
        observations=observations,
        probabilities={},
        clusters=_numbers(pairs),
        strata=_numbers([task for task, _ in pairs]),
    )
    for name, router in routers.items():
        say(f"ask {name} what it would do at {len(observations)} turns")
        run.probabilities[name] = _ask(router, observations)
    return run


def _check_log(dataset: Dataset, episodes: Sequence[Episode]) -> None:
    name = dataset.info.dataset_id
    if not episodes:
        raise InvalidConfigError(
            f"dataset '{name}' has no completed episode with a turn; there is nothing to estimate from"
        )
    models = {turn.model for episode in episodes for turn in episode.turns}
    if len(models) < 2:
        raise InvalidConfigError(
            f"dataset '{name}' was played by one model only ({', '.join(models)}), so it cannot tell what any other choice "
            "would have earned; log with several models, such as with 'mtrouter-rl collect --policy uniform'"
        )


def _routers(request: OpeRequest) -> tuple[dict[str, Router], dict[str, str]]:
    if not request.routers:
        raise InvalidConfigError("there is no router to estimate; give at least one")
    routers: dict[str, Router] = {}
    texts: dict[str, str] = {}
    for text in request.routers:
        router = resolve_router(text, request.pool, cache=request.cache)
        if router.model_names != request.pool.model_names:
            raise PoolMismatchError(
                f"router '{router.name}' is for the models {', '.join(router.model_names)}, but the log has "
                f"{', '.join(request.pool.model_names)}; estimate it on a log of its own pool"
            )
        if router.name in routers:
            raise InvalidConfigError(
                f"routers '{texts[router.name]}' and '{text}' are both called '{router.name}'; train one again under an "
                "agent card of another name"
            )
        routers[router.name], texts[router.name] = router, text
    return routers, texts


def _ask(router: Router, observations: Sequence[Observation]) -> FloatArray:
    """Probabilities at every logged state, shape (N, M)."""
    parts = [router.propensities(observations[i : i + _BATCH]) for i in range(0, len(observations), _BATCH)]
    probabilities = np.concatenate(parts)
    masks = np.array([one["action_mask"] for one in observations], dtype=bool)
    try:
        check_probabilities(probabilities, masks)
    except InvalidConfigError as error:
        raise InvalidConfigError(f"router '{router.name}': {error}") from error
    return probabilities


def _numbers(labels: Sequence[object]) -> npt.NDArray[np.int64]:
    index = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return np.array([index[label] for label in labels], dtype=np.int64)


def _turn_away_switching(run: _Run) -> None:
    """Refuse routers that would change the model within an episode, if the log never does."""
    if any(len(set(episode.models)) > 1 for episode in run.episodes):
        return
    for name, probabilities in run.probabilities.items():
        share = switch_share(probabilities, run.transitions.actions, run.transitions.turns)
        if share > _TINY:
            run.turned_away[name] = (
                "no episode of the log ever changes the model, and this router does (after its own choices, with "
                f"probability {share:.3f} a turn); such a log holds nothing about what happens then"
            )


def switch_share(probabilities: FloatArray, actions: npt.NDArray[np.int64], turns: npt.NDArray[np.int64]) -> float:
    """Mean probability that a policy changes the model, over turns that its own choices could have led to.

    Args:
        probabilities: Shape (N, M).
        actions: Logged models, shape (N,).
        turns: Turn index, shape (N,).

    Example:
        >>> stays = np.array([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
        >>> switch_share(stays, np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
        0.0
        >>> switch_share(stays[[0, 3]], np.array([0, 0]), np.array([0, 1]))
        1.0
    """
    taken = probabilities[np.arange(len(actions)), actions] > 0
    total, n, is_own = 0.0, 0, True
    for i, turn in enumerate(turns):
        if turn > 0 and is_own:
            total, n = total + 1 - float(probabilities[i, actions[i - 1]]), n + 1
        is_own = bool(taken[i]) and (turn == 0 or is_own)
    return total / n if n else 0.0


def _find_behavior(run: _Run, *, say: Callable[[str], None]) -> None:
    """Propensities of the logged models, and the whole behaviour distribution if it can be had."""
    logged = [turn.propensity for episode in run.episodes for turn in episode.turns]
    is_known = all(one is not None for one in logged)
    known = np.array(logged, dtype=np.float64) if is_known else None
    run.kind = "unknown" if known is None else ("exact" if run.dataset.info.propensities == "exact" else "estimated")
    run.behavior = None if known is None else _recreated(run, known)
    needs = set(run.request.estimators) != {"dm"}
    if known is None and needs:
        say("the log has no propensities: estimate them")
        model = _estimated_behavior(run)
        known, run.kind, run.behavior = model.propensities, "estimated", model.probabilities
        run.notes.append(_describe(model))
    elif run.behavior is None:
        run.behavior = _estimated_behavior(run).probabilities
        run.notes.append("support: which models the behaviour policy would call where is estimated by a classifier")
    if run.kind == "estimated":
        run.notes.append(
            "propensities are ESTIMATED: every weighting estimate rests on a model of the behaviour policy"
        )
    reward = run.request.reward
    utilities, costs = (np.asarray(one, dtype=np.float64) for one in _rewards(run))
    run.log = TurnLog(
        lengths=np.array([len(episode.turns) for episode in run.episodes], dtype=np.int64),
        actions=run.transitions.actions,
        propensities=known,
        rewards=np.stack([utilities, costs, reward.reward(utilities, costs)], axis=1),
        clusters=run.clusters,
        n_models=run.transitions.n_models,
    )


def _rewards(run: _Run) -> tuple[list[float], list[float]]:
    turns = [turn for episode in run.episodes for turn in episode.turns]
    return [turn.utility_gain for turn in turns], [turn.cost_usd for turn in turns]


def _recreated(run: _Run, known: FloatArray) -> FloatArray | None:
    """Distribution of a behaviour policy that can be made from its name, if it agrees with what was logged."""
    name = run.dataset.info.behavior_policy
    if name.partition(":")[0] not in ("uniform", "sticky", "random"):
        return None
    probabilities = _ask(resolve_router(name, run.request.pool), run.observations)
    again = probabilities[np.arange(len(known)), run.transitions.actions]
    return probabilities if np.allclose(again, known, atol=1e-6) else None


def _estimated_behavior(run: _Run) -> BehaviorModel:
    masks = np.array([one["action_mask"] for one in run.observations], dtype=bool)
    features = run.transitions.observations[run.transitions.rows, : run.features.dim]
    cluster_of_turn = run.clusters[run.transitions.episodes]
    return estimate_propensities(features, run.transitions.actions, masks, cluster_of_turn, seed=run.request.seed)


def _describe(model: BehaviorModel) -> str:
    return (
        f"estimated propensities: log-loss {model.log_loss:.3f} nats out of sample (shares of the models alone: "
        f"{model.log_loss_of_shares:.3f}), calibration error {model.calibration_error:.3f}, {model.n_raised} turns raised to "
        "the floor"
    )


def _fit(run: _Run, *, show_progress: bool) -> FqeResult:
    from mtrouter_rl.agents.networks import HistoryLayout

    data = FqeData(
        transitions=run.transitions,
        layout=HistoryLayout.of_features(run.features),
        model_features=run.features.model_features.tolist(),
        policies={name: run.probabilities[name] for name in run.names},
        clusters=run.clusters,
        strata=run.strata,
    )
    return fitted_q_evaluation(data, run.request.fqe, seed=run.request.seed, show_progress=show_progress)


def _with_return(values: FloatArray, reward: RewardCard) -> npt.NDArray[np.float64]:
    """Append the return to arrays whose last axis is (utility, cost)."""
    returns = np.asarray(reward.reward(values[..., 0], values[..., 1]))
    return np.concatenate([values, returns[..., None]], axis=-1, dtype=np.float64)


def _estimate(run: _Run, name: str, fitted: FqeResult | None) -> _Found:
    assert run.log is not None
    probabilities = run.probabilities[name]
    values, checks = None, dict[str, BellmanCheck]()
    reward = run.request.reward
    if fitted is not None:
        number = fitted.names.index(name)
        values = Values(
            logged=_with_return(fitted.values.logged[:, number], reward),
            states=_with_return(fitted.values.states[:, number], reward),
        )
        checks = _checks(run, probabilities, values, _with_return(fitted.residuals[:, number], reward))
    estimates = estimate(
        run.log,
        probabilities,
        values=values,
        seed=run.request.seed,
        estimators=run.request.estimators,
        n_resamples=run.request.n_resamples,
    )
    if "dm" in estimates and fitted is not None:
        gaps = _with_return(fitted.gaps[:, fitted.names.index(name)], reward)
        noise = training_noise(gaps, n_resamples=run.request.n_resamples, seed=run.request.seed)
        estimates["dm"] = replace(estimates["dm"], draws=estimates["dm"].draws + noise)
    has_weights = run.log.propensities is not None
    diagnosis = diagnose(run.log, probabilities) if has_weights else None
    unsupported = (
        None if run.behavior is None else float((probabilities * (run.behavior < MIN_SUPPORT)).sum(axis=1).mean())
    )
    refusals = _refusals(run.log, diagnosis, unsupported, checks)
    return _Found(
        estimates=estimates,
        diagnosis=diagnosis,
        unsupported_share=unsupported,
        checks=checks,
        refusals=refusals,
        headline=_headline(estimates, refusals),
    )


def training_noise(gaps: FloatArray, *, n_resamples: int, seed: int) -> FloatArray:
    """Draws of what the training leaves to chance, to be added to bootstrap draws of DM.

    If each half of the log gives a mean value, their mean has variance E[gap^2] / 4. A gap is multiplied with a normal
    number, the same for all policies and quantities, and all is widened to Student's t.

    Args:
        gaps: Half minus half, for R repeats and K quantities, shape (R, K).
        n_resamples: How many draws.
        seed: Equal seeds give equal normal numbers.

    Returns:
        Shape (n_resamples, K).

    Source: the multiplier bootstrap, van der Vaart and Wellner, Weak Convergence and Empirical Processes (1996), 2.9.
    """
    n_repeats = len(gaps)
    rng = np.random.default_rng([seed, n_repeats])
    factors = rng.normal(size=(n_resamples, n_repeats)) / (2 * np.sqrt(n_repeats))
    widening = np.sqrt(n_repeats / rng.chisquare(n_repeats, size=(n_resamples, 1)))
    noise: FloatArray = (factors * widening) @ gaps
    return noise


def _checks(run: _Run, probabilities: FloatArray, values: Values, residuals: FloatArray) -> dict[str, BellmanCheck]:
    assert run.log is not None
    weights = probabilities[np.arange(len(run.log.actions)), run.log.actions]
    if run.log.propensities is not None:
        weights = weights / run.log.propensities
    if not weights.sum() > 0:
        return {}
    return {
        column: bellman_check(
            residuals[:, number],
            values.logged[:, number],
            weights,
            run.clusters[run.transitions.episodes],
            n_episodes=len(run.episodes),
        )
        for number, column in enumerate(COLUMNS)
    }


def _refusals(
    log: TurnLog, diagnosis: OpeDiagnosis | None, unsupported: float | None, checks: Mapping[str, BellmanCheck]
) -> dict[str, tuple[str, ...]]:
    """Why the log cannot tell, by family of estimators."""
    weighting, fitted = [], []
    if diagnosis is None:
        weighting.append("the log has no propensities")
    elif diagnosis.effective_sample_size < MIN_EFFECTIVE_SAMPLE_SIZE:
        weighting.append(
            f"the effective sample size is {diagnosis.effective_sample_size:.1f} episodes, must be at least "
            f"{MIN_EFFECTIVE_SAMPLE_SIZE:.0f}"
        )
    if unsupported is not None and unsupported > MAX_UNSUPPORTED_SHARE:
        text = (
            f"{unsupported:.1%} of its choices are models that were called with a probability below {MIN_SUPPORT:g} there, "
            f"must be at most {MAX_UNSUPPORTED_SHARE:.0%}"
        )
        weighting.append(text)
        fitted.append(text)
    if not checks:
        fitted.append("no fitted values, or no logged turn to check them at")
    deviations = _spread(log)
    for column, check in checks.items():
        beyond_chance = abs(check.bias) - 2 * check.bias_error
        if beyond_chance > MAX_BIAS * deviations[column]:
            fitted.append(
                f"fitted values contradict held-out turns: {column} is off by {check.bias:+.3g} an episode (standard error "
                f"{check.bias_error:.2g}), beyond chance by more than {MAX_BIAS:g} standard deviations of logged episodes "
                f"({deviations[column]:.3g})"
            )
    found = {"weighting": tuple(weighting), "fitted": tuple(fitted)}
    return {family: reasons for family, reasons in found.items() if reasons}


def _spread(log: TurnLog) -> dict[str, float]:
    """Standard deviation of the logged episodes, by quantity."""
    totals = np.add.reduceat(log.rewards, log.starts, axis=0)
    return dict(zip(COLUMNS, totals.std(axis=0).tolist(), strict=True))


def _headline(estimates: Mapping[Estimator, OpeEstimate], refusals: Mapping[str, tuple[str, ...]]) -> Estimator | None:
    """WDR, else the other weighting estimators from the steadiest on, if weights may be believed; else DM."""
    order: tuple[Estimator, ...] = ("wdr", "dr", "wpdis", "pdis", "wis", "is")
    if "weighting" not in refusals:
        for name in order:
            if name in estimates and (name not in MODEL_BASED or "fitted" not in refusals):
                return name
    return "dm" if "dm" in estimates and "fitted" not in refusals else None


def _report(
    run: _Run, found: Mapping[str, _Found], *, has_values: bool, truth: dict[str, dict[str, float]] | None
) -> OpeReport:
    assert run.log is not None
    request, info = run.request, run.dataset.info
    policies = tuple(_policy_report(run, name, found.get(name)) for name in run.probabilities)
    trained = [one.policy for one in policies if one.is_trained_on_log]
    if trained:
        run.notes.append(
            f"trained on this very log, so that their estimates lean to the good side: {', '.join(trained)}; split the log, "
            "train on one part and estimate on the other"
        )
    means = run.log.rewards.sum(axis=0) / len(run.episodes)
    return OpeReport(
        dataset_id=info.dataset_id,
        env=info.env,
        pool=request.pool.name,
        model_names=request.pool.model_names,
        split=info.split,
        n_episodes=len(run.episodes),
        n_left_out=len(run.dataset.episodes) - len(run.episodes),
        n_turns=len(run.transitions),
        n_clusters=int(run.clusters.max()) + 1,
        behavior_policy=info.behavior_policy,
        propensities=run.kind,
        logged=dict(zip(COLUMNS, means.tolist(), strict=True)),
        cost_weight=request.reward.cost_weight,
        cost_unit_usd=request.reward.cost_unit_usd,
        seed=request.seed,
        encoder=request.encoder if has_values else None,
        fqe=request.fqe if has_values else None,
        thresholds={
            "min_effective_sample_size": MIN_EFFECTIVE_SAMPLE_SIZE,
            "min_support": MIN_SUPPORT,
            "max_unsupported_share": MAX_UNSUPPORTED_SHARE,
            "max_bias": MAX_BIAS,
        },
        policies=policies,
        differences=_differences(found),
        selection=None if truth is None else selection_by_quantity(policies, truth),
        notes=tuple(run.notes),
        package_version=__version__,
    )


def _policy_report(run: _Run, name: str, found: _Found | None) -> PolicyReport:
    router = run.routers[name]
    provenance = getattr(router, "provenance", None)
    is_trained = provenance.dataset_id == run.dataset.info.dataset_id if isinstance(provenance, Provenance) else None
    if found is None:
        reason = (run.turned_away[name],)
        return PolicyReport(
            policy=name,
            router=run.texts[name],
            headline=None,
            refusals={"weighting": reason, "fitted": reason},
            estimates={},
            is_trained_on_log=is_trained,
        )
    diagnosis = found.diagnosis
    return PolicyReport(
        policy=name,
        router=run.texts[name],
        headline=found.headline,
        refusals=found.refusals,
        estimates={key: _numbers_of(one) for key, one in found.estimates.items()},
        effective_sample_size=None if diagnosis is None else diagnosis.effective_sample_size,
        largest_weight_share=None if diagnosis is None else diagnosis.largest_weight_share,
        unsupported_share=found.unsupported_share,
        bellman={column: vars(check) for column, check in found.checks.items()},
        own_value=_own_value(run, router, name),
        is_trained_on_log=is_trained,
    )


def _numbers_of(one: OpeEstimate) -> dict[str, Estimated]:
    ends = [one.interval(number) for number in range(len(COLUMNS))]
    return {
        column: Estimated(value=float(value), low=low, high=high)
        for column, value, (low, high) in zip(COLUMNS, one.value, ends, strict=True)
    }


def _own_value(run: _Run, router: Router, name: str) -> float | None:
    """Direct method from the router's own Q-function: mean over first states of sum_m pi(m) Q(m)."""
    if not isinstance(router, ValueRouter):
        return None
    first = np.flatnonzero(run.transitions.turns == 0)
    values = router.q_values([run.observations[i] for i in first])
    return float((run.probabilities[name][first] * values).sum(axis=1).mean())


def _differences(found: Mapping[str, _Found]) -> tuple[Difference, ...]:
    """Between every two policies with a headline by the same estimator."""
    column = COLUMNS.index("return")
    rows = []
    for one, other in combinations(found, 2):
        headline = found[one].headline
        if headline is None or headline != found[other].headline:
            continue
        mine, theirs = found[one].estimates[headline], found[other].estimates[headline]
        draws = mine.draws[:, column] - theirs.draws[:, column]
        low, high = percentile_interval(draws)
        value = Estimated(value=float(mine.value[column] - theirs.value[column]), low=low, high=high)
        rows.append((one, other, headline, value, bootstrap_p_value(draws)))
    adjusted = holm([row[4] for row in rows])
    return tuple(
        Difference(policy=a, other=b, estimator=name, difference=value, p_value=p, p_value_holm=q)
        for (a, b, name, value, p), q in zip(rows, adjusted, strict=True)
    )


def _truth(path: Path, split: str, reward: RewardCard) -> dict[str, dict[str, float]]:
    """Closed-loop means by policy and quantity, the return at the reward of the request."""
    results = Results.load(path)
    rows = [row for row in results.rows if row.split == split and row.cost_weight is None and row.budget_usd is None]
    if not rows:
        raise InvalidConfigError(f"{path} has no row of split '{split}'; it has {', '.join(results.splits)}")
    return {
        row.policy: {
            "utility": row.utility_mean,
            "cost_usd": row.cost_usd_mean,
            "return": float(reward.reward(row.utility_mean, row.cost_usd_mean)),
        }
        for row in rows
    }
