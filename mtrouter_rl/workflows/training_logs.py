"""Logs that one router learns from: which environment each is of, and what they must agree in."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrouter_rl.agents.base import Algorithm
from mtrouter_rl.cards import RewardCard, check_card_name
from mtrouter_rl.cards.splits import check_no_leak
from mtrouter_rl.datasets.info import INFO_FILE, DatasetInfo, read_info
from mtrouter_rl.datasets.leaks import check_sibling_splits
from mtrouter_rl.datasets.logged import logged_env
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.datasets.streamed import StreamedEpisodes
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError, UnknownNameError
from mtrouter_rl.protocols import TextEncoder
from mtrouter_rl.transitions.arrays import TrainingLog
from mtrouter_rl.transitions.mapped import features_on_disk

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LogSource:
    """A log to learn from.

    Attributes:
        dataset: Its folder.
        config: Environment that it is of: pool, cost weight and cost unit.
    """

    dataset: Path
    config: EnvConfig

    @property
    def reward(self) -> RewardCard:
        """Reward of the environment, with its cost weight."""
        return self.config.reward


@dataclass(frozen=True, kw_only=True)
class EnvChoice:
    """What a user says about the environments of logs.

    Attributes:
        envs: Environment cards, names or paths; the others are looked up by the names that the logs give.
        resolve: Makes an environment of a card.
        cost_weight: Cost weight of every log; None takes that of its card.
        cost_unit_usd: Cost unit of imported logs, which have no card, USD.
    """

    envs: tuple[str, ...]
    resolve: Callable[[str], EnvConfig]
    cost_weight: float | None = None
    cost_unit_usd: float | None = None


def find_sources(folders: Sequence[Path], choice: EnvChoice) -> tuple[LogSource, ...]:
    """The environment of every log: the given card of its name, else the card that can be found by it.

    A single log may be given a card of another name, such as a changed copy of its own.

    Raises:
        DatasetError: If a folder is no dataset.
        UnknownNameError: If no card has the name of a log's environment.
        InvalidConfigError: If no log is of a card that was given, or what an imported log needs is missing.
    """
    infos = [read_info(folder) for folder in folders]
    configs = [choice.resolve(env) for env in choice.envs]
    names = [config.card.name for config in configs]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise InvalidConfigError(f"--env: more than one card has the name {', '.join(repeated)}; give each once")
    is_certain = len(infos) == len(configs) == 1
    given = {infos[0].env if is_certain else config.card.name: config for config in configs}
    logged = sorted({info.env for info in infos})
    unused = sorted(set(given) - set(logged))
    if unused and (infos or len(given) > 1):
        raise InvalidConfigError(
            f"--env {', '.join(unused)}: no log is of it, the logs are of {', '.join(logged) or '(none)'}; leave it out"
        )
    is_without_card = [info.origin == "imported" and info.env not in given for info in infos]
    if choice.cost_unit_usd is not None and not any(is_without_card):
        raise InvalidConfigError("--cost-unit-usd is for imported logs; the environments' cards have their own")
    return tuple(
        LogSource(
            dataset=folder,
            config=given.get(info.env)
            or (_of_import(info, choice) if without else _of_name(info, folder, choice.resolve)),
        )
        for folder, info, without in zip(folders, infos, is_without_card, strict=True)
    )


def load_logs(sources: Sequence[LogSource], *, algorithm: Algorithm, agent: str) -> tuple[Dataset, ...]:
    """Load and check the logs that an agent learns from; none if it learns from none.

    Args:
        sources: The logs that were given.
        algorithm: What learns from them.
        agent: Name of its card.

    Raises:
        DatasetError: If a log breaks its rules, or holds episodes of another split than its card says.
        PoolMismatchError: If a log is of another pool than its environment's, or two logs are of different models.
        InvalidConfigError: If the agent needs a log and none is given, several are given and it takes one, or one is given
            twice.
    """
    if len(sources) > 1 and not getattr(algorithm, "takes_several_logs", False):
        raise InvalidConfigError(
            f"agent '{agent}' cannot learn from several logs, and {len(sources)} are given; give one, or an agent that can, "
            "such as fitted-q"
        )
    if not algorithm.needs_dataset:
        return ()
    if not sources:
        raise InvalidConfigError(f"agent '{agent}' learns from a log; give it with --dataset DIR")
    infos = [read_info(source.dataset) for source in sources]
    for number, (source, info) in enumerate(zip(sources, infos, strict=True)):
        twin = next((n for n in range(number) if infos[n].fingerprint == info.fingerprint), None)
        if twin is not None:
            raise InvalidConfigError(
                f"dataset '{info.dataset_id}' is given twice ({sources[twin].dataset} and {source.dataset}); its episodes "
                "would count double: give every log once"
            )
        infos[0].check_models(info)
    return tuple(_load(source) for source in sources)


def encode_logs(
    sources: Sequence[LogSource], datasets: Sequence[Dataset], encoder: TextEncoder, *, show_progress: bool
) -> tuple[TrainingLog, ...]:
    """Logs as algorithms take them: each with the reward and the pool of its environment, every text encoded once.

    The texts of a log that is too large for memory are encoded when its features are written beside it.
    """
    logs = tuple(
        TrainingLog(
            dataset=dataset,
            reward=source.reward,
            features=HistoryFeatures(encoder=encoder, pool=source.config.pool),
        )
        for source, dataset in zip(sources, datasets, strict=True)
    )
    for log in logs:
        if isinstance(log.dataset.episodes, StreamedEpisodes):
            continue
        log.features.encode_log(log.dataset.completed, show_progress=show_progress)
    return logs


def write_features(logs: Sequence[TrainingLog]) -> None:
    """Write the history features of logs that are too large for memory beside them, where they are not there yet."""
    for log in logs:
        if isinstance(log.dataset.episodes, StreamedEpisodes):
            features_on_disk(log.dataset, log.features)


def _load(source: LogSource) -> Dataset:
    dataset = Dataset.load(source.dataset)
    dataset.info.check_pool(source.config.pool)
    if dataset.info.env == source.config.card.name and dataset.info.origin == "collected":
        check_no_leak(dataset.episodes, source.config.card)
    for leak in check_sibling_splits(source.dataset, dataset):
        logger.warning("%s: weak evidence of a leak into a split beside it: %s", source.dataset, leak)
    return dataset


def _of_import(info: DatasetInfo, choice: EnvChoice) -> EnvConfig:
    if choice.cost_weight is None or choice.cost_unit_usd is None:
        raise InvalidConfigError(
            f"log '{info.dataset_id}' was imported, so no card says what money is worth: give --cost-weight and "
            "--cost-unit-usd (such as 0.4 and what the strongest model spends on an episode)"
        )
    return logged_env(info, cost_weight=choice.cost_weight, cost_unit_usd=choice.cost_unit_usd)


def _of_name(info: DatasetInfo, folder: Path, resolve: Callable[[str], EnvConfig]) -> EnvConfig:
    try:
        check_card_name("envs", info.env, where=str(folder / INFO_FILE))
        return resolve(info.env)
    except UnknownNameError as error:
        raise UnknownNameError(
            f"dataset '{info.dataset_id}' in {folder} is of environment '{info.env}': {error}; give its card with "
            f"--env {info.env}.yaml"
        ) from error
