"""Training an agent, and saving its router."""

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from mtrouter_rl import __version__
from mtrouter_rl.agents.base import Algorithm, NullSink, PeriodicEvaluation, TrainingContext, Validate, check_router
from mtrouter_rl.agents.deployment import DEPLOYMENT_FILE, deployment_of
from mtrouter_rl.agents.loading import save_router
from mtrouter_rl.agents.one_thread import one_thread
from mtrouter_rl.agents.parameters import LoopParameters
from mtrouter_rl.agents.q.device import CPU, training_device
from mtrouter_rl.agents.resolve import load_algorithm
from mtrouter_rl.agents.saving import RECORD_FILE
from mtrouter_rl.cards import AgentCard, EnvCard, list_cards, load_agent_card
from mtrouter_rl.cards.policy import single_model
from mtrouter_rl.cards.splits import evaluation_specs
from mtrouter_rl.datasets.folds import LeftOut
from mtrouter_rl.datasets.info import read_info_json
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.embeddings.encoders import make_encoder
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import CardError, InvalidConfigError, RouterError, unknown_name
from mtrouter_rl.evaluation.closed_loop import (
    Contestant,
    EvaluationPlan,
    run_policies,
)
from mtrouter_rl.evaluation.validation_run import ValidationRun
from mtrouter_rl.files import read_json, write_atomically
from mtrouter_rl.ope.verdict import VERDICT_FILE
from mtrouter_rl.protocols import Router
from mtrouter_rl.records import Episode, JsonValue
from mtrouter_rl.registry import DEFAULT_ENCODER
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.transitions.arrays import LogShares
from mtrouter_rl.transitions.hold_out import HoldOut
from mtrouter_rl.workers.peers import ALONE, Peers
from mtrouter_rl.workflows.run_folder import CONFIG_FILE, TENSORBOARD_FOLDER, describe, read_setting, save_config
from mtrouter_rl.workflows.training_logs import LogSource, encode_logs, load_logs, write_features

VALIDATION_FOLDER = "validation"
CHECKPOINT_FOLDER = "checkpoints"
TRAINING_FILE = "training.json"
"""How long a training took and on which device it ended, beside its router."""
EVALUATE_EPISODES = 20
"""Episodes of a closed-loop evaluation during a training."""


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """What `mtrouter-rl train` is asked for.

    Attributes:
        agent: Agent card.
        config: Environment that the router is for: pool and cost weight.
        seed: Seed of the training.
        out: Folder of the router.
        dataset: Folder of the log; None for agents that need none.
        encoder: Registered name of the text encoder.
        cache: Folder of the embedding cache.
        n_validation_seeds: Seeds per variation of closed-loop validation.
        validation_per_task: At most this many validation variations of a task; None takes all.
        validation_folder: Where validation episodes are kept, and taken from if they are there; None is a folder in `out`.
        overwrite: Whether another router in `out` is replaced.
        evaluate_every: Run the router closed-loop on validation after every so many iterations; None never does. It
            costs time and changes no weight, so it is no part of the identity.
        evaluate_episodes: Episodes of such a run.
        more_logs: Further logs of the same models, each with its environment; `dataset` and `config` are then the first.
            Closed-loop validation and evaluation during the training run the environment of the first log.
        log_shares: How mini-batches are drawn where there are several logs.
        held_out: A model that is held out of the training; None learns from the whole log.
        left_out: A fold of the log that the training does not see; None learns from all of it.
        device: Where the networks are while they are trained, see `q.device.training_device`. It is no part of the identity:
            checkpoints and routers of one device are those of another.
    """

    agent: AgentCard
    config: EnvConfig
    seed: int
    out: Path
    dataset: Path | None = None
    encoder: str = DEFAULT_ENCODER
    cache: Path | None = None
    n_validation_seeds: int = 1
    validation_per_task: int | None = None
    validation_folder: Path | None = None
    overwrite: bool = False
    evaluate_every: int | None = None
    evaluate_episodes: int = EVALUATE_EPISODES
    more_logs: tuple[LogSource, ...] = ()
    log_shares: LogShares = "equal"
    held_out: HoldOut | None = None
    left_out: LeftOut | None = None
    device: str = CPU

    @property
    def logs(self) -> tuple[LogSource, ...]:
        """Every log, the first one first; none without a dataset."""
        first = () if self.dataset is None else (LogSource(dataset=self.dataset, config=self.config),)
        return (*first, *self.more_logs)

    def identity(self) -> dict[str, JsonValue]:
        """What decides the router: two requests with one identity train the same."""
        log = None if self.dataset is None else _info_of(self.dataset)
        card = cast(JsonValue, self.agent.model_dump(mode="json"))
        more = [{"dataset": _info_of(one.dataset), "env": describe(one.config)} for one in self.more_logs]
        several: dict[str, JsonValue] = {"more_logs": cast(JsonValue, more), "log_shares": self.log_shares}
        return {
            "agent": card,
            "seed": self.seed,
            "encoder": self.encoder,
            "env": describe(self.config),
            "dataset": log,
            "n_validation_seeds": self.n_validation_seeds,
            "validation_per_task": self.validation_per_task,
            **(several if more else {}),
            **({} if self.held_out is None else {"held_out": self.held_out.model_dump(mode="json")}),
            **({} if self.left_out is None else {"left_out": self.left_out.model_dump(mode="json")}),
        }


def _info_of(folder: Path) -> JsonValue:
    return read_info_json(folder)


def train_router(
    request: TrainRequest, *, pool: RolloutPool | None = None, show_progress: bool = True, peers: Peers = ALONE
) -> Path:
    """Train an agent and save its router; resumes from the last checkpoint, and does nothing if it is done.

    Args:
        request: What to train.
        pool: Workers for closed-loop validation; needed by agents with `needs_validation` alone.
        show_progress: Whether to draw progress bars.
        peers: The processes that do this training together; the first writes everything.

    Returns:
        The folder of the router.

    Raises:
        InvalidConfigError: If several processes are to train an agent that has no gradient steps, or that has to be run
            meanwhile; if the agent needs a log and none is given, or is to be evaluated during a training that has no
            iterations or whose environment cannot be run; if several logs are given and it takes one, or one is given twice;
            if a model is held out and the agent cannot learn without it, or the log does not allow it; if the device is not
            here, or nothing would be trained on it.
        PoolMismatchError: If a log is of another pool, or two logs are of different models.
        RouterError: If `out` holds a router of another training.
        DatasetError: If the log breaks its rules.
        LostProcessError: If another process of the training is lost.
    """
    from mtrouter_rl.reporting.tensorboard.sink import TensorBoardSink

    algorithm = load_algorithm(request.agent)
    _check_held_out(request, algorithm)
    _check_device(request, algorithm, peers)
    _check_peers(request, algorithm, peers)
    if algorithm.needs_features:
        make_encoder(request.encoder, request.cache)  # a missing extra is told before minutes of reading
    datasets = load_logs(request.logs, algorithm=algorithm, agent=request.agent.name)
    if is_done(request):
        return request.out
    if request.left_out is not None:
        datasets = tuple(request.left_out.rest(dataset) for dataset in datasets)
    is_resumed, started = (request.out / CHECKPOINT_FOLDER).is_dir(), time.process_time()
    with contextlib.ExitStack() as stack:
        stack.enter_context(one_thread())
        context = TrainingContext(
            pool=request.config.pool,
            reward=request.config.reward,
            seed=request.seed,
            dataset=datasets[0] if datasets else None,
            checkpoint_folder=request.out / CHECKPOINT_FOLDER,
            metrics=stack.enter_context(TensorBoardSink(request.out / TENSORBOARD_FOLDER))
            if peers.is_first
            else NullSink(),
            show_progress=show_progress and peers.is_first,
            validate=None if pool is None else make_validate(pool, request),
            evaluation=_periodic_evaluation(request, algorithm, stack),
            max_output_tokens=request.config.limits.max_output_tokens,
            held_out=request.held_out,
            peers=peers,
            device=request.device,
        )
        if algorithm.needs_features:
            with peers.first_alone():
                context = _with_features(context, request, datasets)
        router = check_router(algorithm.train(context))
    if not peers.is_first:
        return request.out
    # Before the router: once that is there, the training counts as done and is not run again.
    (request.out / RECORD_FILE).unlink(missing_ok=True)
    took: dict[str, object] = {"process_seconds": round(time.process_time() - started, 1), "is_resumed": is_resumed}
    took["device"] = request.device
    write_atomically(request.out / TRAINING_FILE, (json.dumps(took) + "\n").encode())
    save_trained(router, request, datasets[0] if datasets else None)
    return request.out


def training_seconds(folder: Path) -> float | None:
    """Processor time of the training of a saved router, s: reading the log is in it, as are all threads.

    None if it was resumed after a stop, since only its last part was measured, or not measured at all.
    """
    path = folder / TRAINING_FILE
    if not path.is_file():
        return None
    try:
        took = cast("dict[str, Any]", read_json(path))
        return None if took["is_resumed"] else float(took["process_seconds"])
    except (ValueError, LookupError, TypeError) as error:
        raise RouterError(f"{path} cannot be read ({error!r}); train the router again") from error


def _check_held_out(request: TrainRequest, algorithm: Algorithm) -> None:
    if request.held_out is not None and not getattr(algorithm, "takes_held_out_model", False):
        raise InvalidConfigError(
            f"agent '{request.agent.name}': algorithm '{request.agent.algorithm}' cannot learn without model "
            f"'{request.held_out.model}'; hold models out of fitted_q or myopic, whose targets need not follow the logged calls"
        )


def _check_device(request: TrainRequest, algorithm: Algorithm, peers: Peers) -> None:
    """Refuse a device that is not here, or that nothing would be trained on, before minutes of reading."""
    if training_device(request.device).type == CPU:
        return
    if not isinstance(getattr(algorithm, "parameters", None), LoopParameters):
        raise InvalidConfigError(
            f"agent '{request.agent.name}' is not trained in gradient steps, so --device {request.device} would do nothing; "
            "leave it out"
        )
    if peers.n > 1:
        raise InvalidConfigError(
            f"--device is {request.device} and torchrun started {peers.n} processes, which exchange what lies in the "
            "processor's memory; leave out one of the two"
        )


def _check_peers(request: TrainRequest, algorithm: Algorithm, peers: Peers) -> None:
    """Refuse several processes where they could not share the work, or where each would play episodes of its own."""
    if peers.n == 1:
        return
    if not isinstance(getattr(algorithm, "parameters", None), LoopParameters):
        raise InvalidConfigError(
            f"agent '{request.agent.name}' is not trained in gradient steps, so {peers.n} processes cannot share them; run the "
            "same command without torchrun"
        )
    if request.evaluate_every is not None:
        raise InvalidConfigError(
            f"--evaluate-every is {request.evaluate_every} under torchrun with {peers.n} processes, which would wait for the "
            "episodes; leave it out and evaluate the finished router"
        )


def _periodic_evaluation(
    request: TrainRequest, algorithm: Algorithm, stack: contextlib.ExitStack
) -> PeriodicEvaluation | None:
    """The evaluation during a training that a request asks for; its simulator is closed with the stack."""
    if request.evaluate_every is None:
        return None
    if request.evaluate_every < 1:
        raise InvalidConfigError(f"--evaluate-every is {request.evaluate_every}, must be at least 1 iteration")
    if not isinstance(getattr(algorithm, "parameters", None), LoopParameters):
        raise InvalidConfigError(
            f"agent '{request.agent.name}' is not trained in iterations, so it cannot be evaluated every "
            f"{request.evaluate_every} of them; leave out --evaluate-every"
        )
    run = stack.enter_context(ValidationRun(request.config, n_episodes=request.evaluate_episodes))
    return PeriodicEvaluation(every=request.evaluate_every, run=run)


def encode_log(request: TrainRequest, *, show_progress: bool = True) -> None:
    """Encode every text of a log into the embedding cache, so that trainings that follow only read it."""
    if not is_done(request):
        datasets = load_logs(request.logs, algorithm=load_algorithm(request.agent), agent=request.agent.name)
        encode_logs(request.logs, datasets, make_encoder(request.encoder, request.cache), show_progress=show_progress)


def is_done(request: TrainRequest, *, more: Mapping[str, object] | None = None) -> bool:
    """Whether `out` holds the finished router of this very request; `more` is what its identity has besides.

    Raises:
        RouterError: If it holds that of another one, which is not to be replaced.
    """
    marker = request.out / CONFIG_FILE
    if request.overwrite or not (request.out / RECORD_FILE).is_file():
        return False
    there = read_setting(marker) if marker.is_file() else {}
    wanted = json.loads(json.dumps({**request.identity(), **(more or {}), "package_version": __version__}))
    differing = sorted(key for key in {*there, *wanted} if there.get(key) != wanted.get(key))
    if differing:
        raise RouterError(
            f"{request.out} holds a router of another training (differs in: {', '.join(differing)}); "
            "choose another --out, or give --overwrite"
        )
    return True


def _with_features(context: TrainingContext, request: TrainRequest, datasets: Sequence[Dataset]) -> TrainingContext:
    encoder = make_encoder(request.encoder, request.cache)
    if not datasets:
        return replace(context, features=HistoryFeatures(encoder=encoder, pool=request.config.pool))
    first, *more = encode_logs(request.logs, datasets, encoder, show_progress=context.show_progress)
    if context.peers.n > 1:
        write_features((first, *more))  # before the others look for them
    return replace(context, features=first.features, more_logs=tuple(more), log_shares=request.log_shares)


def save_trained(
    router: Router, request: TrainRequest, log: Dataset | None, *, more: Mapping[str, JsonValue] | None = None
) -> None:
    """Write a router into its folder, with what it was trained for; `more` is what its identity has besides."""
    (request.out / VERDICT_FILE).unlink(missing_ok=True)  # it was on another router
    save_config(request.out, {**request.identity(), **(more or {})})
    episodes = () if log is None else log.completed
    deployment = deployment_of(request.config, episodes, is_simulated=None if log is None else log.info.is_simulated)
    deployment.write(request.out / DEPLOYMENT_FILE)
    save_router(router, request.out)


def make_validate(pool: RolloutPool, request: TrainRequest) -> Validate:
    """Closed-loop validation for a training: mean utility of each router on the validation split."""

    def validate(routers: Sequence[Router]) -> list[float]:
        contestants = [Contestant.of(router.name, pool.config, cache=request.cache) for router in routers]
        plan = EvaluationPlan(
            split="validation",
            specs=evaluation_specs(
                pool.config.card, "validation", request.n_validation_seeds, per_task=request.validation_per_task
            ),
            seed=request.seed,
            folder=request.validation_folder or request.out / VALIDATION_FOLDER,
        )
        episodes = run_policies(pool, contestants, plan)
        return [_mean_utility(episodes[one.name], one.name) for one in contestants]

    return validate


def _mean_utility(episodes: Sequence[Episode], name: str) -> float:
    scored = [episode.utility for episode in episodes if episode.status == "completed"]
    if not scored:
        raise InvalidConfigError(f"policy '{name}' completed no episode on validation; see the reasons with 'inspect'")
    return float(np.mean(scored))


def load_agent(name_or_path: str, env: EnvCard | None = None) -> AgentCard:
    """Agent card from what a user wrote; `single:MODEL` fills the model into the card `single`.

    Args:
        name_or_path: Name or path of a card.
        env: Environment that it is to be trained for; an agent that is given by name takes the parameters that the
            environment's card has for it, or for the agent that its card extends.

    Raises:
        CardError: If there is no such card, it breaks its rules, or the environment names an agent that there is not.
    """
    model = single_model(name_or_path)
    if model is not None:
        card = load_agent_card("single")
        return card.model_copy(update={"name": name_or_path, "parameters": {"model": model}})
    return load_agent_card(name_or_path, changed=None if env is None else _changed(env))


def _changed(env: EnvCard) -> dict[str, dict[str, object]]:
    """Parameters that the card of an environment has for agents."""
    known = list_cards("agents")
    for name in env.agents:
        if name not in known:
            raise CardError(f"card '{env.name}', agents: {unknown_name('agent', name, known)}")
    return env.agents
