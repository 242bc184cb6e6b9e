"""Can one router serve several environments? Routers of one log, of all logs, and of all others, in every environment.

The history and model features name no environment, so a router can be trained on the logs of several and run in any whose
pool has the same models. This study trains each agent on every environment alone, on all together and, for every
environment, on all the others, and runs all of them in all environments.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

from mtrouter_rl import __version__
from mtrouter_rl.agents.resolve import load_algorithm
from mtrouter_rl.datasets.info import model_differences
from mtrouter_rl.envs.factory import EnvConfig, build_env
from mtrouter_rl.errors import InvalidConfigError, MissingDependencyError, PoolMismatchError
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.records import JsonValue, Split
from mtrouter_rl.registry import DEFAULT_ENCODER
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.studies.cross_environment.report import PARTS, CrossReport, CrossRouter, compare_in_env
from mtrouter_rl.transitions.arrays import LogShares
from mtrouter_rl.workers.executors import Workers
from mtrouter_rl.workflows import (
    RESULTS_FILE,
    EvaluateRequest,
    TrainRequest,
    describe,
    encode_log,
    evaluate_routers,
    load_agent,
    present,
    save_config,
    train_router,
)
from mtrouter_rl.workflows.quick_study import (
    CACHE_FOLDER,
    DATASET_FOLDER,
    ROUTERS_FOLDER,
    STRONGEST,
    Clock,
    StudyRequest,
    StudySize,
    collect_log,
    train_side_by_side,
)
from mtrouter_rl.workflows.training_logs import LogSource

SPLIT: Split = "test"
BASELINES = ("random", "cheapest")


@dataclass(frozen=True, kw_only=True)
class CrossStudyRequest:
    """What `mtrouter-rl lab study-cross` is asked for.

    Attributes:
        studies: Two or more environments with their sizes, each as a study of its own in a folder of the run; of their
            agents nothing is read.
        out: Folder of the run.
        agents: Agent cards that are trained.
        leaves_out: Whether, of three environments or more, routers are trained on all but one as well. Of two, the router of
            the other one is that.
        log_shares: How mini-batches are drawn where there are several logs.
        draws: Whether plots, TensorBoard and the report of every environment are drawn.
        seed: Seed of collection, training and bootstrap.
        n_workers: Worker processes, each with a simulator of its own.
        encoder: Registered name of the text encoder.
    """

    studies: tuple[StudyRequest, ...]
    out: Path
    agents: tuple[str, ...] = ("fitted-q",)
    leaves_out: bool = True
    log_shares: LogShares = "equal"
    draws: bool = True
    seed: int = 0
    n_workers: Workers = 2
    encoder: str = DEFAULT_ENCODER

    @classmethod
    def of(
        cls, configs: Sequence[EnvConfig], sizes: Sequence[StudySize], *, out: Path, collects: bool = False
    ) -> "CrossStudyRequest":
        """Request with the defaults of everything else; `collects` as in `StudyRequest`."""
        studies = tuple(
            StudyRequest(config=config, out=out / config.card.name, size=size, seed=0, n_workers=1, collects=collects)
            for config, size in zip(configs, sizes, strict=True)
        )
        return cls(studies=studies, out=out)

    @property
    def env_names(self) -> tuple[str, ...]:
        """Names of the environments, in order."""
        return tuple(study.config.card.name for study in self.studies)

    @property
    def cache(self) -> Path:
        """Folder of the embedding cache, shared by all environments."""
        return self.out / CACHE_FOLDER

    @property
    def routers(self) -> tuple[CrossRouter, ...]:
        """Every router that is trained."""
        names = self.env_names
        groups = [(f"@{name}", (name,)) for name in names] + [("@all", names)]
        if self.leaves_out and len(names) > 2:
            groups += [(f"@all-but-{name}", tuple(n for n in names if n != name)) for name in names]
        cards = [load_agent(agent).name for agent in self.agents]
        return tuple(
            CrossRouter(name=f"{agent}{ending}", agent=agent, envs=envs) for agent in cards for ending, envs in groups
        )

    def describe(self) -> dict[str, JsonValue]:
        """JSON of what decides the results, for provenance."""
        studies = {
            study.config.card.name: {**describe(study.config), "size": asdict(study.size)} for study in self.studies
        }
        return {
            "command": "study-cross",
            "studies": cast(JsonValue, studies),
            "agents": list(self.agents),
            "leaves_out": self.leaves_out,
            "log_shares": self.log_shares,
            "seed": self.seed,
            "encoder": self.encoder,
        }

    def folder_of(self, router: CrossRouter) -> Path:
        """Folder of a trained router."""
        return self.out / ROUTERS_FOLDER / router.name


def run_cross_study(
    request: CrossStudyRequest, *, say: Callable[[str], None], show_progress: bool = True
) -> CrossReport:
    """Run the study; steps that are done are skipped, a step that was killed goes on where it stopped.

    Args:
        request: What to run.
        say: Told, in a sentence, what begins and how long it took.
        show_progress: Whether to draw progress bars.

    Returns:
        The comparison, also in `out/cross.json`, `cross.md` and `cross.txt`. Every environment has a folder of its own, with
        log, results, report and TensorBoard.

    Raises:
        InvalidConfigError: If there are fewer than two environments, two have one name, or an agent takes one log alone.
        PoolMismatchError: If two environments have different models.
        MissingDependencyError: If the package of an environment is not installed.
    """
    _check(request)
    clock = Clock(say)
    save_config(request.out, request.describe())
    studies = [replace(study, seed=request.seed, n_workers=request.n_workers) for study in request.studies]
    for study in studies:
        name = study.config.card.name
        clock.step(f"1/4 {name}: a log of uniform per-turn random routing, and the strongest single model")
        with RolloutPool(study.config, n_workers=request.n_workers) as pool:
            collect_log(pool, study, say=say, show_progress=show_progress)
            train_router(_strongest(request, study), pool=pool, show_progress=show_progress)
    clock.step(f"2/4 train {len(request.routers)} routers: {', '.join(router.name for router in request.routers)}")
    _train(request, show_progress=show_progress)
    for study in studies:
        clock.step(f"3/4 {study.config.card.name}: every router on the same episodes of the {SPLIT} split")
        with RolloutPool(study.config, n_workers=request.n_workers) as pool:
            _evaluate(pool, request, study, show_progress=show_progress)
    report = _report(request)
    if request.draws:
        clock.step("4/4 draw plots, TensorBoard and reports")
        folders = [str(request.folder_of(router)) for router in request.routers]
        for study in studies:
            present(study.out, study.config, routers=folders, cache=request.cache)
    clock.done()
    return report


def _check(request: CrossStudyRequest) -> None:
    """Refuse what would fail late."""
    names = request.env_names
    if len(names) < 2:
        raise InvalidConfigError(f"environments are {list(names)}, must be at least 2 to be compared across")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InvalidConfigError(f"environments {repeated} are given more than once; give each once")
    for agent in request.agents:
        if not getattr(load_algorithm(load_agent(agent)), "takes_several_logs", False):
            raise InvalidConfigError(f"agent '{agent}' cannot learn from several logs; leave it out of --agents")
    first, *others = (study.config for study in request.studies)
    for other in others:
        sides = (f"pool '{first.pool.name}'", f"pool '{other.pool.name}'")
        difference = next(model_differences(first.pool.models, other.pool.models, names=sides), None)
        if difference is not None:
            raise PoolMismatchError(
                f"environments '{first.card.name}' and '{other.card.name}' cannot share a router: {difference}; one router "
                "needs the same models in the same order, at the same prices, limits and dates"
            )
    for study in request.studies:
        _start_once(study.config, others=[name for name in names if name != study.config.card.name])


def _start_once(config: EnvConfig, *, others: Sequence[str]) -> None:
    """Start an environment, so that a package that is missing is named before the others have run for minutes."""
    try:
        with contextlib.closing(build_env(config)) as env:
            env.reset(seed=0)
    except MissingDependencyError as error:
        raise MissingDependencyError(
            f"environment '{config.card.name}': {error}; or leave it out: --envs {' '.join(others)}"
        ) from error


def _strongest(request: CrossStudyRequest, study: StudyRequest) -> TrainRequest:
    return TrainRequest(
        agent=load_agent(STRONGEST),
        config=study.config,
        seed=request.seed,
        out=study.router(STRONGEST),
        cache=request.cache,
        n_validation_seeds=study.size.n_validation_seeds,
        validation_per_task=study.size.validation_per_task,
    )


def _training(request: CrossStudyRequest, router: CrossRouter, agent: str) -> TrainRequest:
    by_name = {study.config.card.name: study for study in request.studies}
    sources = [LogSource(dataset=by_name[env].out / DATASET_FOLDER, config=by_name[env].config) for env in router.envs]
    return TrainRequest(
        agent=load_agent(agent).model_copy(update={"name": router.name}),
        config=sources[0].config,
        seed=request.seed,
        out=request.folder_of(router),
        dataset=sources[0].dataset,
        encoder=request.encoder,
        cache=request.cache,
        more_logs=tuple(sources[1:]),
        log_shares=request.log_shares,
    )


def _train(request: CrossStudyRequest, *, show_progress: bool) -> None:
    """Train all routers, after every log was encoded once for all of them."""
    cards = {load_agent(agent).name: agent for agent in request.agents}
    trainings = [_training(request, router, cards[router.agent]) for router in request.routers]
    for training in trainings:
        if not training.more_logs:
            encode_log(training, show_progress=show_progress)
    train_side_by_side(trainings, n_workers=request.n_workers, show_progress=show_progress)


def _evaluate(pool: RolloutPool, request: CrossStudyRequest, study: StudyRequest, *, show_progress: bool) -> None:
    name = study.config.card.name
    # The report speaks of the router that is named first: here of the environment's own.
    routers = sorted(request.routers, key=lambda router: PARTS.index(router.part_in(name, request.env_names)))
    folders = [str(request.folder_of(router)) for router in routers]
    plan = EvaluateRequest(
        routers=(*folders, *BASELINES, str(study.router(STRONGEST))),
        split=SPLIT,
        n_seeds=study.size.n_test_seeds,
        out=study.out,
        seed=request.seed,
        cache=request.cache,
    )
    evaluate_routers(pool, plan, show_progress=show_progress)


def _report(request: CrossStudyRequest) -> CrossReport:
    envs = tuple(
        compare_in_env(Results.load(study.out / RESULTS_FILE), SPLIT, request.routers) for study in request.studies
    )
    report = CrossReport(split=SPLIT, package_version=__version__, config=request.describe(), envs=envs)
    report.save(request.out)
    return report
