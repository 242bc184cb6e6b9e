"""What a full study shows: its episodes, and which policies play which part in which claim."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from mtrouter_rl.cards.policy import name_at, single_policy
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.evaluation.behavior_file import BEHAVIOR_FILE, Behavior
from mtrouter_rl.evaluation.metrics import EpisodeRecord
from mtrouter_rl.evaluation.results import HIDDEN_REFERENCE, header
from mtrouter_rl.records import Episode, Split
from mtrouter_rl.reporting.plot_style import DPI
from mtrouter_rl.statistics.mutual_information import MutualInformation
from mtrouter_rl.studies.full.claim_evidence import Evidence
from mtrouter_rl.studies.full.claims import Claim, ClaimRoles, Claims, TrainingTimes
from mtrouter_rl.studies.full.equal_cost_plot import FrontierPlot, frontiers_figure
from mtrouter_rl.studies.full.frontier_points import POINTS_FILE, FrontierPoints
from mtrouter_rl.studies.full.report import save_claims
from mtrouter_rl.studies.full.split_judge import SplitJudge
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
        part = _Part(out, config, agents=agents, split=split, episodes=together, seed=seed)
        judging = part.judge()
        found = judging.claims()
        part.draw(judging.curve)
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


class _Part:
    """One split of a study: who plays which part, and what is known beside the episodes."""

    def __init__(
        self, out: Path, config: EnvConfig, *, agents: Sequence[str], split: Split, episodes: Episodes, seed: int
    ) -> None:
        self._out = out
        self._config = config
        self._agents = agents
        self._split = split
        self._episodes = episodes
        self._seed = seed

    def judge(self) -> SplitJudge:
        """Who judges it."""
        records = {
            name: tuple(EpisodeRecord.of(one, self._config.reward) for one in logged)
            for name, logged in self._episodes.items()
        }
        return SplitJudge(
            split=self._split,
            records=records,
            points=FrontierPoints.load(self._out / POINTS_FILE),
            roles=self._roles(),
            reward=self._config.reward,
            seed=self._seed,
            training=self._training_times(),
            skill=self._skill(),
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

    def draw(self, evidence: Evidence) -> None:
        """Draw the frontiers of score against cost."""
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
