"""Running policies closed-loop, and adding what they did to the results of a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrouter_rl.cards.policy import single_model
from mtrouter_rl.cards.splits import evaluation_specs
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.evaluation.behavior import BehaviorSetting
from mtrouter_rl.evaluation.behavior_run import update_behavior
from mtrouter_rl.evaluation.closed_loop import (
    Contestant,
    EvaluationPlan,
    extrapolation_notes,
    paid_decision_notes,
    run_policies,
    unread_card_notes,
    unseen_env_notes,
)
from mtrouter_rl.evaluation.hidden_reference import ReferenceRef
from mtrouter_rl.evaluation.kept_episodes import keep
from mtrouter_rl.evaluation.result_rows import Comparison, records_of, rows_of_records, update_rows
from mtrouter_rl.evaluation.results import PolicyRoles, Results, header
from mtrouter_rl.records import Split
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.workflows.run_folder import EPISODES_FOLDER, RESULTS_FILE, describe


@dataclass(frozen=True, kw_only=True)
class EvaluateRequest:
    """What `mtrouter-rl evaluate` is asked for.

    Attributes:
        routers: Policies, as `mtrouter_rl.agents.resolve.resolve_router` takes them.
        split: "test" or "ood" (or another split).
        n_seeds: Seeds per variation.
        out: Folder of the results; rows for further splits and policies are added to what is there.
        per_task: At most this many variations of a task; None takes all.
        seed: Seed of the bootstrap.
        cache: Folder of the embedding cache.
        overwrite: Whether episodes of other routers under the same names are replaced.
    """

    routers: tuple[str, ...]
    split: Split
    n_seeds: int
    out: Path
    per_task: int | None = None
    seed: int = 0
    cache: Path | None = None
    overwrite: bool = False


def roles_of(contestants: Sequence[Contestant]) -> PolicyRoles:
    """Roles in a comparison: what was trained from a log is learned, everything else is a baseline."""
    singles = tuple(one.name for one in contestants if single_model(one.name) is not None)
    learned = tuple(one.name for one in contestants if one.dataset_ids)
    strongest = next((one.name for one in contestants if one.name == "strongest"), None)
    return PolicyRoles(
        single_models=singles,
        strongest=strongest,
        learned=learned,
        # A router at several cost weights is one router: none of them is what another has to beat.
        baselines=tuple(
            one.name
            for one in contestants
            if one.name not in singles and one.cost_weight is None and not isinstance(one.ref, ReferenceRef)
        ),
    )


def evaluate_routers(pool: RolloutPool, request: EvaluateRequest, *, show_progress: bool = True) -> Results:
    """Run policies closed-loop on a split and add their rows to `out/results.json` and `out/behavior.json`.

    Raises:
        UnknownNameError, RouterError, PoolMismatchError: If a policy cannot be resolved.
        InvalidConfigError: If two policies have one name, or a number is out of range.
        DatasetError: If `out` holds episodes of another router under the same name.
    """
    config = pool.config
    if request.n_seeds < 1:
        raise InvalidConfigError(f"seeds is {request.n_seeds}, must be at least 1")
    contestants = [Contestant.of(text, config, cache=request.cache) for text in request.routers]
    plan = EvaluationPlan(
        split=request.split,
        specs=evaluation_specs(config.card, request.split, request.n_seeds, per_task=request.per_task),
        seed=request.seed,
        folder=request.out / EPISODES_FOLDER,
        overwrite=request.overwrite,
    )
    episodes = run_policies(pool, contestants, plan, show_progress=show_progress)
    roles = roles_of(contestants)
    comparison = Comparison(
        split=request.split,
        reward=config.reward,
        model_names=config.pool.model_names,
        roles=roles,
        cost_weights={one.name: one.cost_weight for one in contestants if one.cost_weight is not None},
    )
    records = records_of(episodes, comparison)
    rows = rows_of_records(records, comparison, seed=request.seed)
    logs = sorted({dataset_id for one in contestants for dataset_id in one.dataset_ids})
    so_far = _results_so_far(config, request, dataset_id=", ".join(logs) or None)
    notes = dict.fromkeys(
        (
            *so_far.notes,
            *unseen_env_notes(contestants, config.card.name),
            *extrapolation_notes(contestants),
            *unread_card_notes(contestants),
            *paid_decision_notes(episodes),
        )
    )
    so_far = so_far.model_copy(update={"notes": tuple(notes)})
    results = update_rows(so_far, rows, roles=roles)
    results.save(request.out / RESULTS_FILE)
    keep(
        request.out,
        records,
        split=request.split,
        model_names=config.pool.model_names,
        rows=[(row.split, row.policy) for row in results.rows],
    )
    update_behavior(
        request.out,
        episodes,
        setting=BehaviorSetting(split=request.split, model_names=config.pool.model_names, seed=request.seed),
        results=results,
        datasets=plan.folder / request.split,
        overwrite=request.overwrite,
    )
    return results


def _results_so_far(config: EnvConfig, request: EvaluateRequest, *, dataset_id: str | None) -> Results:
    path = request.out / RESULTS_FILE
    fresh = Results(
        **header(config),
        model_names=config.pool.model_names,
        is_simulated=config.pool.backend.kind == "simulated",
        cost_weight=config.cost_weight,
        cost_unit_usd=config.reward.cost_unit_usd,
        dataset_id=dataset_id,
        seed=request.seed,
        n_seeds=request.n_seeds,
        config=describe(config),
        roles=PolicyRoles(),
        rows=(),
    )
    if request.overwrite or not path.is_file():
        return fresh
    there = Results.load(path)
    differing = [
        name
        for name in ("env", "pool", "model_names", "cost_weight", "cost_unit_usd", "config")
        if getattr(there, name) != getattr(fresh, name)
    ]
    if differing:
        raise InvalidConfigError(
            f"{path} holds results of another setting (differs in: {', '.join(differing)}); "
            "choose another --out, or give --overwrite"
        )
    return there
