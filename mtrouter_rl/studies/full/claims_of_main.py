"""What a full study shows: its episodes, and which policies play which part in which claim."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mtrouter_rl.cards.policy import name_at, single_policy
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.evaluation.behavior_file import BEHAVIOR_FILE, Behavior
from mtrouter_rl.evaluation.results import HIDDEN_REFERENCE, header
from mtrouter_rl.records import Episode, Split
from mtrouter_rl.reporting.plot_style import DPI
from mtrouter_rl.statistics.mutual_information import MutualInformation
from mtrouter_rl.studies.full.claim_evidence import Evidence
from mtrouter_rl.studies.full.claim_rules import (
    CLAIM_RULES,
    as_good_for_less,
    cheaper_and_better,
    gain_over_hull,
    headroom_closed,
    interval_half_widths,
)
from mtrouter_rl.studies.full.claims import Claim, ClaimRoles, Claims, SplitClaims, TrainingTimes
from mtrouter_rl.studies.full.equal_cost_plot import FrontierPlot, frontiers_figure
from mtrouter_rl.studies.full.frontier_points import POINTS_FILE, FrontierPoints
from mtrouter_rl.studies.full.report import save_claims
from mtrouter_rl.workflows import episodes_of_run, training_seconds
from mtrouter_rl.workflows.quick_study import AGENT_SETS, ROUTERS_FOLDER, STRONGEST

FITTED, FRONTIER, ESTIMATOR = "fitted-q", "fitted-q-frontier", "monte-carlo-q"
WEIGHTS = (0.0, 0.1, 0.4, 1.0, 3.0)
"""Cost weights at which the router that is told one is compared with routers that were trained for one."""
CURVE_WEIGHTS = (*WEIGHTS, 10.0, 40.0)
"""Cost weights that the curve of the router that is told one is drawn through; the last two are its cheap end."""
STICKY = "sticky:0.3"
QUARTER = f"{FITTED}-log-25"
PLOTS_FOLDER = "plots"

_OF_CHOSEN_POINTS = (cheaper_and_better, as_good_for_less, gain_over_hull)
_ON_EVERY_VARIATION = (*_OF_CHOSEN_POINTS, headroom_closed, interval_half_widths)
_CHOSEN = "What is judged was chosen on validation: {}; the cheapest single model may be mixed in."
_FEWER = "On the {} of {} (task, variation) that every policy was run on."

Episodes = Mapping[str, Sequence[Episode]]


def at_weight(agent: str, weight: float) -> str:
    """Name of a router that was trained for a cost weight of its own."""
    return f"{agent}-w{weight:g}"


def judge(
    out: Path,
    config: EnvConfig,
    *,
    agents: Sequence[str],
    quarter: Path,
    seed: int,
    of_test: Sequence[Claim] = (),
) -> Claims:
    """Work out every claim from the episodes of a study, and save claims and figures beside its results.

    Args:
        out: Folder of the study.
        config: Its environment.
        agents: Agents that were trained for the environment's cost weight.
        quarter: Folder of the evaluation of the router that learned from a quarter of the log; may be missing.
        seed: Seed of the bootstrap.
        of_test: Further claims about the test split.
    """
    quarters = episodes_of_run(quarter)
    splits = []
    for split, played in episodes_of_run(out).items():
        of_quarter = {name: kept for name, kept in quarters.get(split, {}).items() if name == QUARTER}
        together = {**played, **of_quarter}
        found = _SplitJudge(out, config, agents=agents, split=split, episodes=together, seed=seed).claims()
        more = tuple(of_test) if split == "test" else ()
        splits.append(found.model_copy(update={"claims": (*found.claims, *more)}))
    made = Claims(
        **header(config),
        is_simulated=config.pool.backend.kind == "simulated",
        cost_weight=config.cost_weight,
        cost_unit_usd=config.reward.cost_unit_usd,
        seed=seed,
        splits=tuple(sorted(splits, key=lambda one: one.split, reverse=True)),
    )
    save_claims(made, out)
    return made


class _SplitJudge:
    """The claims of one split."""

    def __init__(
        self, out: Path, config: EnvConfig, *, agents: Sequence[str], split: Split, episodes: Episodes, seed: int
    ) -> None:
        self._out = out
        self._config = config
        self._agents = agents
        self._split = split
        self._episodes = episodes
        self._seed = seed
        self._points = FrontierPoints.load(out / POINTS_FILE)

    def claims(self) -> SplitClaims:
        """All claims, on every variation where all that they are about was run on each, else on those of all policies."""
        curve = self._evidence(self._roles(), on_common=True)
        chosen = self._evidence(self._key_roles(), on_common=False)
        curve = replace(curve, training=self._training_times(), skill=self._skill())
        self._draw(curve)
        return SplitClaims(
            split=self._split,
            n_clusters=len(chosen.resamples.means.clusters),
            n_left_out=len(chosen.resamples.means.left_out),
            n_resamples=curve.resamples.n_resamples,
            roles=curve.roles,
            targets=curve.targets,
            claims=tuple(self._claim(rule, curve=curve, chosen=chosen) for rule in CLAIM_RULES),
        )

    def _claim(self, rule: Callable[[Evidence], Claim], *, curve: Evidence, chosen: Evidence) -> Claim:
        policies = self._chosen_for(rule)
        if rule in _OF_CHOSEN_POINTS:
            chosen = replace(chosen, roles=chosen.roles.model_copy(update={"frontier": policies}))
        claim = rule(chosen if rule in _ON_EVERY_VARIATION else curve)
        notes = list(claim.notes)
        if rule in _OF_CHOSEN_POINTS:
            notes.append(_CHOSEN.format(", ".join(policies)))
        n_clusters, n_all = (len(one.resamples.means.clusters) for one in (curve, chosen))
        if rule not in _ON_EVERY_VARIATION and n_clusters < n_all:
            notes.append(_FEWER.format(n_clusters, n_all))
        return claim.model_copy(update={"notes": tuple(notes)})

    def _chosen_for(self, rule: Callable[[Evidence], Claim]) -> tuple[str, ...]:
        """The points that were chosen on validation for a claim."""
        if rule is cheaper_and_better:
            return (self._points.policy("beat" if self._split == "test" else "beat-ood"),)
        return (self._points.policy("keep"),) if rule is as_good_for_less else self._points.policies

    def _evidence(self, roles: ClaimRoles, *, on_common: bool) -> Evidence:
        named = {name: self._episodes[name] for name in roles.names}
        if on_common:
            common = set.intersection(*map(self._ran, named))
            named = {
                name: [one for one in logged if (one.task, one.variation) in common] for name, logged in named.items()
            }
        return Evidence.of(named, roles=roles, reward=self._config.reward, seed=self._seed)

    def _key_roles(self) -> ClaimRoles:
        """Roles of what was run on every variation."""
        return ClaimRoles(
            frontier=self._points.policies,
            default=FITTED,
            strongest=STRONGEST,
            single_models=self._singles,
            monte_carlo=(ESTIMATOR,),
            monte_carlo_default=ESTIMATOR,
            references=(HIDDEN_REFERENCE,),
            reference_default=HIDDEN_REFERENCE,
        )

    def _roles(self) -> ClaimRoles:
        """Roles of everything."""
        among = dict.fromkeys(name for name in ("random", STICKY, *self._agents, STRONGEST) if name in self._episodes)
        learned = {FITTED, ESTIMATOR, *AGENT_SETS["learners"]}  # the same method is no baseline of its own
        single_turn = {*AGENT_SETS["single-turn"], STRONGEST}
        return ClaimRoles(
            frontier=tuple(name_at(FRONTIER, weight) for weight in CURVE_WEIGHTS),
            default=FITTED,
            strongest=STRONGEST,
            single_models=self._singles,
            monte_carlo=self._by_weight(ESTIMATOR),
            monte_carlo_default=ESTIMATOR,
            references=(HIDDEN_REFERENCE,),
            reference_default=HIDDEN_REFERENCE,
            baselines=tuple(name for name in among if name not in learned),
            separate=self._by_weight(FITTED),
            quarter=QUARTER if QUARTER in self._episodes else None,
            multi_turn=tuple(name for name in among if name not in {*single_turn, FITTED, *AGENT_SETS["learners"]}),
        )

    @property
    def _singles(self) -> tuple[str, ...]:
        return tuple(single_policy(name) for name in self._config.pool.model_names)

    def _ran(self, policy: str) -> set[tuple[str, int]]:
        """The (task, variation) that a policy was run on."""
        return {(one.task, one.variation) for one in self._episodes[policy]}

    def _by_weight(self, agent: str) -> tuple[str, ...]:
        """Routers of an agent that were trained for one weight each, in the order of `WEIGHTS`."""
        own = self._config.cost_weight
        return tuple(agent if weight == own else at_weight(agent, weight) for weight in WEIGHTS)

    def _training_times(self) -> TrainingTimes | None:
        names = self._by_weight(FITTED)
        seconds = {name: training_seconds(self._out / ROUTERS_FOLDER / name) for name in (FRONTIER, *names)}
        if any(value is None for value in seconds.values()):
            return None
        known = {name: value for name, value in seconds.items() if value is not None}
        return TrainingTimes(one_network_s=known[FRONTIER], separate_s={name: known[name] for name in names})

    def _skill(self) -> MutualInformation | None:
        row = Behavior.load(self._out / BEHAVIOR_FILE).row(FITTED, self._split)
        return None if row is None else row.mutual_information.skill

    def _draw(self, evidence: Evidence) -> None:
        roles = evidence.roles
        plot = FrontierPlot(
            env=self._config.card.name,
            split=self._split,
            is_simulated=self._config.pool.backend.kind == "simulated",
            families=(
                evidence.frontier(FRONTIER, roles.frontier),
                evidence.frontier(ESTIMATOR, roles.monte_carlo),
            ),
            single_models=roles.single_models,
            references=roles.references,
            baselines=roles.baselines,
        )
        folder = self._out / PLOTS_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        frontiers_figure(evidence.resamples, plot).savefig(folder / f"frontiers_{self._split}.png", dpi=DPI)
