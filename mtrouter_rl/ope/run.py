"""Off-policy evaluation of routers on a log, from its folder to a report: what `mtrouter-rl ope` does.

The log is prepared by `ope_log`, every router is estimated by `ope_estimates`, and what was found is put together here.
"""

from collections.abc import Callable, Mapping
from itertools import combinations, islice
from pathlib import Path

import numpy as np

from mtrouter_rl import __version__
from mtrouter_rl.agents.one_thread import one_thread
from mtrouter_rl.agents.resolve import is_router_folder, resolve_router, split_cost_weight
from mtrouter_rl.agents.saving import Provenance
from mtrouter_rl.cards import RewardCard
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import InvalidConfigError, unknown_name
from mtrouter_rl.evaluation.query_router import ask
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.evaluation.shown_episodes import N_EPISODES, TRANSCRIPTS_FILE, transcripts_of
from mtrouter_rl.ope.estimates import (
    COLUMNS,
    THRESHOLDS,
    PolicyEstimates,
    common_estimator,
    estimate_policies,
    fit_values,
    play_model,
)
from mtrouter_rl.ope.inputs import OpeLog, OpeRequest, find_behavior, prepare, turn_away_switching
from mtrouter_rl.ope.record import (
    Difference,
    Estimated,
    ModelCheck,
    OpeReport,
    PolicyReport,
    WeightDiagnosis,
    selection_by_quantity,
)
from mtrouter_rl.ope.rollouts import RolloutResult
from mtrouter_rl.ope.sequential import ALL_ESTIMATORS, APPROXIMATE_MODEL, MODEL_BASED, OpeDiagnosis, OpeEstimate
from mtrouter_rl.protocols import Router, ValueRouter
from mtrouter_rl.records import Ends, FloatArray, TracedEpisode
from mtrouter_rl.statistics.estimate import COST_RANGE, RETURN_RANGE, studentized_ends, within
from mtrouter_rl.statistics.rank_agreement import bootstrap_p_value, holm


@one_thread()
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
        if name not in ALL_ESTIMATORS:
            raise unknown_name("estimator", name, ALL_ESTIMATORS)
    truth = None if request.truth is None else _truth(request.truth, request.truth_split, request.reward)
    run = prepare(request, say=say, show_progress=show_progress)
    turn_away_switching(run)
    find_behavior(run, say=say)
    values = None
    if MODEL_BASED & set(request.estimators) and run.names:
        values = fit_values(run, say=say, show_progress=show_progress)
    rolled = _rolled(run, say=say, show_progress=show_progress)
    found, spread = estimate_policies(run, values, rolled)
    return _report(run, found, memory_spread=spread, rolled=rolled, truth=truth)


def _rolled(run: OpeLog, *, say: Callable[[str], None], show_progress: bool) -> RolloutResult | None:
    """Roll-outs, if they were asked for; where a log does not allow them, a note says so, unless nothing else was asked for."""
    estimators = run.request.estimators
    if APPROXIMATE_MODEL not in estimators or not run.names:
        return None
    try:
        return play_model(run, say=say, show_progress=show_progress)
    except InvalidConfigError as error:
        if set(estimators) == {APPROXIMATE_MODEL}:
            raise
        run.notes.append(f"no roll-outs in a model of the log (am): {error}")
        return None


def write_transcripts(request: OpeRequest, folder: Path) -> Path | None:
    """Write `transcripts.json`: a few logged episodes, with what every saved router thinks of each state.

    Returns:
        The file; None if no saved router is among those that were asked for.

    Raises:
        As `run_ope`.
    """
    folders = [text for text in request.routers if is_router_folder(split_cost_weight(text)[0])]
    if not folders:
        return None
    dataset = Dataset.load(request.dataset)
    episodes = list(islice((episode for episode in dataset.completed if episode.turns), N_EPISODES))
    opinions: dict[str, list[TracedEpisode]] = {}
    for text in folders:
        router = resolve_router(text, request.pool, cache=request.cache)
        opinions[router.name] = [ask(router, episode, request.pool) for episode in episodes]
    shown = transcripts_of(
        {dataset.info.split: opinions},
        request.pool.model_names,
        is_simulated=dataset.info.is_simulated,
        is_logged=True,
    )
    return shown.write(folder / TRANSCRIPTS_FILE)


def _report(
    run: OpeLog,
    found: Mapping[str, PolicyEstimates],
    *,
    memory_spread: dict[str, float] | None,
    rolled: RolloutResult | None,
    truth: dict[str, dict[str, float]] | None,
) -> OpeReport:
    assert run.log is not None
    request, info = run.request, run.dataset.info
    has_values = bool(MODEL_BASED & set(request.estimators)) and bool(run.names)
    policies = tuple(_policy_report(run, name, found.get(name)) for name in run.probabilities)
    trained = [one.policy for one in policies if one.is_trained_on_log]
    if trained:
        run.notes.append(
            f"trained on this very log, so that their estimates lean to the good side: {', '.join(trained)}; split the log, "
            "train on one part and estimate on the other"
        )
    if info.is_simulated:
        run.notes.append("the models of the log were simulated: no LLM was called, and no money was spent")
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
        memory_spread=memory_spread,
        approximate_model=None if rolled is None else _approximate_model(rolled),
        thresholds=THRESHOLDS,
        policies=policies,
        differences=_differences(found),
        selection=None if truth is None else selection_by_quantity(policies, truth),
        notes=tuple(run.notes),
        package_version=__version__,
    )


def _approximate_model(rolled: RolloutResult) -> dict[str, ModelCheck]:
    numbers = zip(COLUMNS, rolled.gap.tolist(), rolled.gap_error.tolist(), rolled.task_spread.tolist(), strict=True)
    return {name: ModelCheck(gap=gap, gap_error=error, task_spread=spread) for name, gap, error, spread in numbers}


def _policy_report(run: OpeLog, name: str, found: PolicyEstimates | None) -> PolicyReport:
    router = run.routers[name]
    provenance = getattr(router, "provenance", None)
    is_trained = provenance.is_of(run.dataset.info) if isinstance(provenance, Provenance) else None
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
        runs=vars(found.runs),
        weights=None if diagnosis is None else _weights(diagnosis),
        bellman={column: vars(check) for column, check in found.checks.items()},
        own_value=_own_value(run, router, name),
        is_trained_on_log=is_trained,
    )


def _weights(diagnosis: OpeDiagnosis) -> WeightDiagnosis:
    def by_turn(numbers: FloatArray | None) -> tuple[float, ...] | None:
        return None if numbers is None else tuple(numbers.tolist())

    return WeightDiagnosis(
        episodes_by_turn=tuple(diagnosis.episodes_by_turn.tolist()),
        effective_by_turn=tuple(diagnosis.effective_by_turn.tolist()),
        support_by_turn=by_turn(diagnosis.support_by_turn),
        overlap_by_turn=by_turn(diagnosis.overlap_by_turn),
        never_logged_share=diagnosis.never_logged_share,
        quantiles=by_turn(diagnosis.weight_quantiles),
        pareto_k=diagnosis.pareto_k,
    )


def _numbers_of(one: OpeEstimate) -> dict[str, Estimated]:
    ends = [one.interval(number) for number in range(len(COLUMNS))]
    return {
        column: _estimated(float(value), ends_of, _POSSIBLE[column])
        for column, value, ends_of in zip(COLUMNS, one.value, ends, strict=True)
    }


_POSSIBLE: dict[str, Ends] = {"utility": (-1.0, 1.0), "cost_usd": COST_RANGE, "return": RETURN_RANGE}


def _estimated(value: float, ends: Ends, possible: Ends) -> Estimated:
    """An estimate with its interval; an estimate that is itself impossible keeps all of it, so that it is seen."""
    low, high = possible
    shown = within(ends, possible) if low <= value <= high else ends
    assert shown is not None
    return Estimated(value=value, low=shown[0], high=shown[1])


def _own_value(run: OpeLog, router: Router, name: str) -> float | None:
    """Direct method from the router's own Q-function: mean over first states of sum_m pi(m) Q(m)."""
    if not isinstance(router, ValueRouter):
        return None
    first = np.flatnonzero(run.transitions.turns == 0)
    values = router.q_values(run.first_observations)
    return float((run.probabilities[name][first] * values).sum(axis=1).mean())


def _differences(found: Mapping[str, PolicyEstimates]) -> tuple[Difference, ...]:
    """Between every two policies that have a headline, by the first estimator that may be believed for both."""
    column = COLUMNS.index("return")
    rows = []
    for one, other in combinations(found, 2):
        by = common_estimator(found[one], found[other])
        if by is None:
            continue
        mine, theirs = found[one].estimates[by], found[other].estimates[by]
        draws = mine.draws[:, column] - theirs.draws[:, column]
        low, high = studentized_ends(draws)
        value = Estimated(value=float(mine.value[column] - theirs.value[column]), low=low, high=high)
        rows.append((one, other, by, value, bootstrap_p_value(draws)))
    adjusted = holm([row[4] for row in rows])
    return tuple(
        Difference(policy=a, other=b, estimator=name, difference=value, p_value=p, p_value_holm=q)
        for (a, b, name, value, p), q in zip(rows, adjusted, strict=True)
    )


def _truth(path: Path, split: str, reward: RewardCard) -> dict[str, dict[str, float]]:
    """Closed-loop means by policy and quantity, the return at the reward of the request."""
    results = Results.load(path)
    rows = [row for row in results.rows if row.split == split and row.label == row.policy]
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
