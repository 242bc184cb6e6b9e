"""Closed-loop evaluation: every policy runs the same episodes; what they did is kept as datasets, so that it resumes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mtrouter_rl.agents.resolve import RouterRef, known_algorithm, split_cost_weight
from mtrouter_rl.agents.rules.heuristics import FixedOrderRouter
from mtrouter_rl.agents.saving import Provenance
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.evaluation.hidden_reference import ReferenceRef, is_reference
from mtrouter_rl.files import slug
from mtrouter_rl.pools.spend import costs_money
from mtrouter_rl.protocols import Router
from mtrouter_rl.records import Episode, EpisodeSpec, Split
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.rollout.collection import CollectionPlan, collect, dataset_info


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A policy in an evaluation.

    Attributes:
        name: Name in tables.
        ref: Where its router comes from.
        router: The router itself, if it calls a fixed order of models; None for all others.
        provenance: How it was made, if it was trained or saved.
        cost_weight: The cost weight that its text asks for, `FOLDER@WEIGHT`; None if it asks for none.
    """

    name: str
    ref: RouterRef | ReferenceRef
    router: FixedOrderRouter | None = None
    provenance: Provenance | None = None
    cost_weight: float | None = None

    @classmethod
    def of(cls, text: str, config: EnvConfig, *, cache: Path | None) -> "Contestant":
        """Contestant from what a user wrote; reads the router once, so that a wrong one is refused before anything runs.

        Raises:
            UnknownNameError, RouterError, PoolMismatchError: As `mtrouter_rl.agents.resolve.resolve_router`.
            InvalidConfigError: If a reference policy is asked for and nothing hidden can be seen.
        """
        if is_reference(text):
            reference = ReferenceRef.of(text, config)
            return cls(name=reference.policy, ref=reference)
        ref = RouterRef.of(text, cache)
        router: Router = ref(config)
        fixed = router if isinstance(router, FixedOrderRouter) else None
        provenance = getattr(router, "provenance", None)
        _, cost_weight = split_cost_weight(text)
        return cls(name=router.name, ref=ref, router=fixed, provenance=provenance, cost_weight=cost_weight)

    @property
    def dataset_ids(self) -> tuple[str, ...]:
        """The logs that it learned from; none if it learned from none."""
        return () if self.provenance is None else self.provenance.dataset_ids

    @property
    def first_model(self) -> str | None:
        """The model that it calls while it is allowed; None if it is no such policy."""
        return None if self.router is None else self.router.settings.order[0]


@dataclass(frozen=True, kw_only=True)
class EvaluationPlan:
    """Which episodes are run, and where they are kept.

    Attributes:
        split: Their split.
        specs: The episodes, the same for every policy.
        seed: Recorded in the datasets.
        folder: Holds one dataset per policy in a folder of the split's name.
        overwrite: Whether episodes of another router or card that lie there are replaced.
    """

    split: Split
    specs: tuple[EpisodeSpec, ...]
    seed: int
    folder: Path
    overwrite: bool = False


def unseen_env_notes(contestants: Sequence[Contestant], env: str) -> tuple[str, ...]:
    """A sentence for every set of environments that routers were trained on and that lacks the one they are run in.

    Routers whose environments are not known, since they were saved before these were written down, are left out.
    """
    names: dict[tuple[str, ...], list[str]] = {}
    for one in contestants:
        envs = () if one.provenance is None else one.provenance.envs
        if envs and env not in envs:
            names.setdefault(envs, []).append(one.name)
    return tuple(
        f"{', '.join(routers)}: trained on logs of {', '.join(envs)}; environment '{env}' was not among the training logs."
        for envs, routers in names.items()
    )


def extrapolation_notes(contestants: Sequence[Contestant]) -> tuple[str, ...]:
    """A sentence for every model of a router that no logged turn stands behind."""
    return tuple(
        f"{one.name}: {extrapolation.sentence}"
        for one in contestants
        if one.provenance is not None
        for extrapolation in one.provenance.extrapolated
    )


def unread_card_notes(contestants: Sequence[Contestant]) -> tuple[str, ...]:
    """A sentence for every router whose agent card cannot be read here; see `known_algorithm`."""
    return tuple(
        f"{one.name}: its agent card cannot be read here; it is of another version, or of a plug-in that is not installed or "
        "not allowed. The router is run as it was saved. What its action values predict is not known, so they are not judged."
        for one in contestants
        if one.provenance is not None and known_algorithm(one.provenance.card) is None
    )


def paid_decision_notes(episodes: Mapping[str, Sequence[Episode]]) -> tuple[str, ...]:
    """A sentence for every router whose decisions cost money."""
    notes = []
    for name, played in episodes.items():
        paid = sum(turn.router_cost_usd for episode in played for turn in episode.turns)
        if paid:
            share = paid / sum(episode.cost_usd for episode in played)
            notes.append(
                f"{name}: its decisions called a model themselves and cost {paid / len(played):.3g} USD an episode, "
                f"{share:.1%} of its cost, which every number here includes."
            )
    return tuple(notes)


def run_policies(
    pool: RolloutPool, contestants: Sequence[Contestant], plan: EvaluationPlan, *, show_progress: bool = True
) -> dict[str, tuple[Episode, ...]]:
    """Run every policy on the same episodes.

    Policies that call the same single model ("cheapest", "strongest", "single:MODEL") are run once, as long as that model
    was allowed at every turn: then none of them can differ.

    Returns:
        Policy -> its episodes, completed and failed.

    Raises:
        InvalidConfigError: If two policies have one name.
        DatasetError: If the folder holds episodes of another router under the same name.
    """
    names = [one.name for one in contestants]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InvalidConfigError(f"policies {repeated} are given more than once; every policy needs its own name")
    leaders: dict[str, Contestant] = {}
    for one in contestants:
        leaders.setdefault(one.first_model or f"router {one.name}", one)
    episodes = _run(pool, list(leaders.values()), plan, show_progress=show_progress)
    rest = []
    for one in contestants:
        leader = leaders[one.first_model or f"router {one.name}"]
        if one is leader:
            continue
        if _is_first_always_allowed(episodes[leader.name], one, pool.config):
            episodes[one.name] = tuple(replace(e, behavior_policy=one.name) for e in episodes[leader.name])
        else:
            rest.append(one)
    episodes |= _run(pool, rest, plan, show_progress=show_progress) if rest else {}
    return {name: episodes[name] for name in names}


def _is_first_always_allowed(episodes: Sequence[Episode], one: Contestant, config: EnvConfig) -> bool:
    index = config.pool.index(one.first_model or "")
    return all(turn.action_mask[index] for episode in episodes for turn in episode.turns)


def _run(
    pool: RolloutPool, contestants: Sequence[Contestant], plan: EvaluationPlan, *, show_progress: bool
) -> dict[str, tuple[Episode, ...]]:
    plans = [_collection(pool.config, one, plan) for one in contestants]
    datasets = collect(pool, plans, title=f"evaluate {plan.split}", show_progress=show_progress)
    return {one.name: tuple(dataset.episodes) for one, dataset in zip(contestants, datasets, strict=True)}


def _collection(config: EnvConfig, one: Contestant, plan: EvaluationPlan) -> CollectionPlan:
    info = dataset_info(
        config,
        dataset_id=f"{slug(one.name)}-{plan.split}-v1",
        policy=one.name,
        split=plan.split,
        seed=plan.seed,
        n_episodes=len(plan.specs),
        created_by={"command": "evaluate", "router": one.ref.key.rpartition("#")[2] or one.name},
    )
    folder = plan.folder / plan.split / slug(one.name)
    return CollectionPlan(
        folder=folder,
        info=info,
        factory=one.ref,
        specs=plan.specs,
        overwrite=plan.overwrite,
        is_paid=costs_money(config.pool),
    )
