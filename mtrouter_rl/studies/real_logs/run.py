"""The main job on logs of real models that nobody can run again: train single-turn routers on two thirds, estimate on the rest.

Every episode was played by one model throughout, so a router chooses once per episode, and what another choice would have
earned is estimated by `mtrouter_rl.ope.bandit`. Every episode is estimated by routers that were not trained on
it (cross-fitting over folds), and the results are written as the closed-loop study writes them.
"""

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.one_thread import one_thread
from mtrouter_rl.agents.regression.values import TaskValueRouter
from mtrouter_rl.agents.resolve import load_algorithm
from mtrouter_rl.cards import AgentCard, RewardCard, load_agent_card
from mtrouter_rl.cards.policy import single_policy
from mtrouter_rl.datasets.bandit_view import as_one_decision
from mtrouter_rl.datasets.info import read_info
from mtrouter_rl.datasets.logged import logged_pool
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.embeddings.encoders import make_encoder
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.embeddings.history_sources import observations_of
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.ope.bandit import OUTCOMES, EpisodeLog, confounded_strata, estimate_policies, merge, snips
from mtrouter_rl.protocols import Router
from mtrouter_rl.records import Episode, FloatArray, JsonValue, Observation
from mtrouter_rl.registry import DEFAULT_ENCODER
from mtrouter_rl.reporting.report import write_report
from mtrouter_rl.studies.real_logs.record import BASELINE, LogOutcome, Promise, log_results
from mtrouter_rl.workflows import RESULTS_FILE, save_config

EQUAL_SCORE = "equal-score"
_WEIGHT_GRID = np.concatenate([[0.0], np.geomspace(0.01, 10.0, 61)])
DEFAULT_AGENTS = ("fitted-q-episode", "task-table", "task-ridge", "task-neighbors", "task-clusters")


@dataclass(frozen=True, kw_only=True)
class LogStudyRequest:
    """What `mtrouter-rl study-log` is asked for.

    Attributes:
        dataset: Folder of the log.
        out: Folder of the run.
        cost_weight: Price of one cost unit in utility, for the `return` column and the routers.
        cost_unit_usd: USD of one cost unit; None takes the mean cost of the strongest single model's episodes.
        more_weights: Further cost weights, for the frontier of the routers that serve any weight.
        agents: Agent cards.
        n_folds: Folds of the cross-fitting, at least 3.
        n_repeats: How often the log is divided into folds anew; estimates are averaged, and intervals hold the spread.
        seed: Seed of folds, training and bootstrap.
        encoder: Registered name of the text encoder.
        instance_pattern: Regular expression whose first group in an episode's observations tells which instance was
            played; strata in which models played different instances are flagged. Empty leaves that out.
    """

    dataset: Path
    out: Path
    cost_weight: float
    cost_unit_usd: float | None = None
    more_weights: tuple[float, ...] = (0.0, 0.1, 0.2, 0.8)
    agents: tuple[str, ...] = DEFAULT_AGENTS
    n_folds: int = 3
    n_repeats: int = 3
    seed: int = 0
    encoder: str = DEFAULT_ENCODER
    instance_pattern: str = ""


@dataclass
class _Study:
    """What the steps share."""

    request: LogStudyRequest
    data: Dataset
    log: EpisodeLog
    reward: RewardCard
    features: HistoryFeatures
    folds: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    policies: dict[str, FloatArray] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    chosen: dict[str, list[JsonValue]] = field(default_factory=dict)
    promises: dict[str, list[Promise]] = field(default_factory=dict)
    q_values: FloatArray | None = None

    @property
    def n_models(self) -> int:
        return self.log.n_models

    @cached_property
    def _first(self) -> list[Observation]:
        return [observations_of(episode, self.features.pool)[0] for episode in self.data.episodes]

    def first(self, members: npt.NDArray[np.int64]) -> list[Observation]:
        """What a router sees before the first move of some episodes."""
        return [self._first[i] for i in members]

    def start(self, repeat: int) -> None:
        """Divide the log into folds anew; nothing is chosen yet."""
        request = self.request
        self.folds = _folds(self.data.episodes, self.log, n_folds=request.n_folds, seed=request.seed + repeat)
        self.policies, self.q_values = {}, None

    def put(self, name: str, members: npt.NDArray[np.int64], probabilities: FloatArray) -> None:
        rows = self.policies.setdefault(name, np.zeros((len(self.log.strata), self.n_models)))
        rows[members] = probabilities


@one_thread()
def study_log(request: LogStudyRequest, *, say: Callable[[str], None], show_progress: bool = True) -> Results:
    """Run the study on a log.

    Args:
        request: What to run.
        say: Told, in a sentence, what happens.
        show_progress: Whether to draw progress bars.

    Returns:
        The results, also in `out/results.json`; the report lies beside it.

    Raises:
        DatasetError: If the log breaks its rules.
        InvalidConfigError: If the log holds episodes that change the model and no others, a model has too few episodes for
            the folds, or a number is out of range.
    """
    _check(request)
    make_encoder(request.encoder, request.out / "embeddings")  # a missing extra is told before minutes of reading
    original = Dataset.load(request.dataset)
    study = _prepare(request, original, say=say, show_progress=show_progress)
    confounded = _flagged(study, original)
    repeats = []
    for repeat in range(request.n_repeats):
        study.start(repeat)
        for fold in range(request.n_folds):
            say(f"division {repeat + 1}/{request.n_repeats}, fold {fold + 1}/{request.n_folds}: train on the others")
            _run_fold(study, fold)
        _add_fixed(study)
        repeats.append(
            estimate_policies(study.log, study.policies, q_values=study.q_values, seed=request.seed + repeat)
        )
    estimates = {name: merge([one[name] for one in repeats]) for name in repeats[0]}
    if all(one.diagnosis.refusals for one in estimates.values()):
        reasons = "; ".join(dict.fromkeys(why for one in estimates.values() for why in one.diagnosis.refusals))
        raise InvalidConfigError(
            f"dataset '{original.info.dataset_id}' cannot tell about any policy, from {len(study.log.strata)} episodes of one "
            f"model each: {reasons}; log more episodes"
        )
    outcome = LogOutcome(
        info=original.info,
        episodes=tuple(_originals(study, original)),
        log=study.log,
        reward=study.reward,
        estimates=estimates,
        weights=study.weights,
        promises=study.promises,
        confounded=confounded,
    )
    results = log_results(
        outcome,
        seed=request.seed,
        config={
            "command": "study-log",
            "agents": list(request.agents),
            "folds": request.n_folds,
            "repeats": request.n_repeats,
            "encoder": request.encoder,
            "chosen_by_fold": {name: list(values) for name, values in study.chosen.items()},
        },
    )
    save_config(request.out, results.config)
    results.save(request.out / RESULTS_FILE)
    write_report(request.out)
    return results


def _check(request: LogStudyRequest) -> None:
    """Refuse what would fail late."""
    if request.n_folds < 3:
        raise InvalidConfigError(
            f"folds is {request.n_folds}, must be at least 3: the training folds are divided again to choose a cost weight"
        )
    if request.n_repeats < 1:
        raise InvalidConfigError(f"repeats is {request.n_repeats}, must be at least 1")
    if not 0 <= request.cost_weight < float("inf"):
        raise InvalidConfigError(f"cost_weight is {request.cost_weight}, must be a finite number of at least 0")
    if request.cost_unit_usd is not None and not 0 < request.cost_unit_usd < float("inf"):
        raise InvalidConfigError(f"cost_unit_usd is {request.cost_unit_usd}, must be a finite number above 0")
    try:
        re.compile(request.instance_pattern)
    except re.error as error:
        raise InvalidConfigError(
            f"instance_pattern '{request.instance_pattern}' is no regular expression: {error}"
        ) from error
    for name in request.agents:
        load_algorithm(load_agent_card(name))
    path = request.out / RESULTS_FILE
    if path.is_file() and Results.load(path).dataset_id != read_info(request.dataset).dataset_id:
        raise InvalidConfigError(
            f"{path} holds results of another log, '{Results.load(path).dataset_id}'; choose another --out"
        )
    try:
        request.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidConfigError(f"{request.out} cannot be made: {error}; choose another --out") from error


def _prepare(request: LogStudyRequest, original: Dataset, *, say: Callable[[str], None], show_progress: bool) -> _Study:
    data, left_out = as_one_decision(original)
    say(str(left_out))
    if not data.episodes:
        raise InvalidConfigError(
            f"dataset '{original.info.dataset_id}' has no episode that one model played throughout; a router that "
            "switches within an episode can be trained on it with 'mtrouter-rl train'"
        )
    pool = logged_pool(data.info)
    actions = np.array([pool.index(episode.turns[0].model) for episode in data.episodes], dtype=np.int64)
    strata = tuple(episode.task for episode in data.episodes)
    utilities = np.array([episode.utility for episode in data.episodes])
    costs = np.array([episode.cost_usd for episode in data.episodes])
    log = EpisodeLog(
        strata=strata,
        actions=actions,
        outcomes=np.stack([utilities, costs, utilities], axis=1),  # the return follows once the cost unit is known
        n_models=len(pool.models),
        units=_units(data.episodes),
    )
    unit = _strongest_cost(log) if request.cost_unit_usd is None else request.cost_unit_usd
    reward = RewardCard(cost_weight=request.cost_weight, cost_unit_usd=unit)
    log = replace(log, outcomes=np.stack([utilities, costs, reward.reward(utilities, costs)], axis=1))
    say(f"cost unit: {unit:.6g} USD; cost weight {request.cost_weight:g}")
    features = HistoryFeatures(encoder=make_encoder(request.encoder, request.out / "embeddings"), pool=pool)
    features.encode_log(data.episodes, show_progress=show_progress)
    return _Study(request=request, data=data, log=log, reward=reward, features=features)


def _units(episodes: Sequence[Episode]) -> npt.NDArray[np.int64]:
    """Number of every episode's instance: episodes of one (task, variation), whoever played it, are one unit."""
    pairs = [(episode.task, episode.variation) for episode in episodes]
    numbers = {pair: number for number, pair in enumerate(dict.fromkeys(pairs))}
    return np.array([numbers[pair] for pair in pairs], dtype=np.int64)


def _strongest_cost(log: EpisodeLog) -> float:
    """Mean cost of the model with the best utility, USD, every kind of task weighing by its episodes."""
    values = _single_values(log)
    cost = float(values[np.nanargmax(values[:, 0]), 1])
    if cost <= 0:
        raise InvalidConfigError(
            "the strongest model of the log costs nothing, so it is no cost unit; give --cost-unit-usd"
        )
    return cost


def _folds(episodes: Sequence[Episode], log: EpisodeLog, *, n_folds: int, seed: int) -> npt.NDArray[np.int64]:
    """Fold of every episode: instances are dealt out in turn within their cells, in an order that depends on the seed.

    All episodes of an instance are in one fold: what another model scored on it tells what it is worth.
    """
    folds = np.zeros(len(episodes), dtype=np.int64)
    for number, units in enumerate(log.cells()):
        ids = [min(episodes[i].episode_id for i in members) for members in units]
        order = sorted(range(len(units)), key=lambda i: zlib.crc32(f"{seed}/{ids[i]}".encode()))
        for rank, unit in enumerate(order):
            folds[units[unit]] = (rank + number) % n_folds
    return folds


def _run_fold(study: _Study, fold: int) -> None:
    inside = np.flatnonzero(study.folds == fold)
    outside = np.flatnonzero(study.folds != fold)
    training = _subset(study, outside)
    observations = study.first(inside)
    for name in study.request.agents:
        card = load_agent_card(name)
        router = _train(study, card, training)
        if isinstance(router, TaskValueRouter):
            equal_score = _equal_score_weight(study, card, outside)
            for label, one, weight in _reweighted(study, router, equal_score):
                study.put(label, inside, one.action_probabilities(observations))
                study.chosen.setdefault(label, []).append(weight)
            if card.name == BASELINE:
                _keep_q_values(study, inside, router.outcomes(observations))
        else:
            study.put(card.name, inside, router.action_probabilities(observations))
    _put_single_choices(study, inside, outside)


def _train(study: _Study, card: AgentCard, training: Dataset) -> Router:
    context = TrainingContext(
        pool=study.features.pool,
        reward=study.reward,
        seed=study.request.seed,
        dataset=training,
        features=study.features,
    )
    return load_algorithm(card).train(context)


def _reweighted(study: _Study, router: TaskValueRouter, equal_score: float) -> list[tuple[str, TaskValueRouter, float]]:
    """The router at its own cost weight, at the further ones, and at the one that keeps the best model's score."""
    variants = [(router.name, router, study.request.cost_weight)]
    for weight in study.request.more_weights:
        if weight != study.request.cost_weight:
            label = f"{router.name}@{weight:g}"
            study.weights[label] = weight
            variants.append((label, router.with_cost_weight(weight, name=label), weight))
    label = f"{router.name}@{EQUAL_SCORE}"
    return [*variants, (label, router.with_cost_weight(equal_score, name=label), equal_score)]


def _equal_score_weight(study: _Study, card: AgentCard, outside: npt.NDArray[np.int64]) -> float:
    """Largest cost weight at which a router still scores as the best single model, on training episodes alone.

    The scores are estimated out of sample within the training folds: what a router predicts of the episodes that it was
    trained on is too good. What they promise of the third fold is kept.
    """
    inner = study.folds[outside]
    log = study.log.part(outside)
    choices = np.zeros((len(_WEIGHT_GRID), len(outside)), dtype=np.int64)
    for fold in np.unique(inner):
        held_out, rest = outside[inner == fold], outside[inner != fold]
        router = _train(study, card, _subset(study, rest))
        if not isinstance(router, TaskValueRouter):
            raise TypeError(f"{card.name} does not serve several cost weights")
        outcomes = router.outcomes(study.first(held_out))
        for index, weight in enumerate(_WEIGHT_GRID):
            reward = study.reward.model_copy(update={"cost_weight": float(weight)})
            choices[index, inner == fold] = reward.reward(outcomes[..., 0], outcomes[..., 1]).argmax(axis=1)
    values = np.array([snips(log, np.eye(study.n_models)[row]) for row in choices])
    singles = _single_values(log)
    strongest = singles[np.nanargmax(singles[:, 0])]
    good = np.flatnonzero(values[:, 0] >= strongest[0])
    # If no weight keeps the score, the weight that scores best is the nearest to it.
    index = int(good.max() if good.size else np.nan_to_num(values[:, 0], nan=-np.inf).argmax())
    promise = Promise(
        n_episodes=len(study.log.strata) - len(outside),
        score_difference=100 * float(values[index, 0] - strongest[0]),
        cost_saved=1 - float(values[index, 1] / strongest[1]),
        is_reached=bool(good.size),
    )
    study.promises.setdefault(f"{card.name}@{EQUAL_SCORE}", []).append(promise)
    return float(_WEIGHT_GRID[index])


def _one_model(log: EpisodeLog, model: int) -> FloatArray:
    """Probabilities of calling one model always, shape (N, M)."""
    return np.tile(np.eye(log.n_models)[model], (len(log.strata), 1))


def _single_values(log: EpisodeLog) -> FloatArray:
    """Outcomes of every model alone, NaN for one that did not play every kind of task, shape (M, 3)."""
    values: FloatArray = np.array([snips(log, _one_model(log, model)) for model in range(log.n_models)])
    if np.isnan(values[:, 0]).all():
        raise InvalidConfigError(
            "no model played every kind of task in every division of the log, so there is no strongest one; leave out the "
            "tasks that few models played, or log more"
        )
    return values


def _subset(study: _Study, members: npt.NDArray[np.int64]) -> Dataset:
    return Dataset(info=study.data.info, episodes=tuple(study.data.episodes[i] for i in members))


def _keep_q_values(study: _Study, inside: npt.NDArray[np.int64], outcomes: FloatArray) -> None:
    if study.q_values is None:
        study.q_values = np.zeros((len(study.log.strata), study.n_models, len(OUTCOMES)))
    returns = study.reward.reward(outcomes[..., 0], outcomes[..., 1])
    study.q_values[inside] = np.concatenate([outcomes, returns[..., None]], axis=-1)


def _put_single_choices(study: _Study, inside: npt.NDArray[np.int64], outside: npt.NDArray[np.int64]) -> None:
    """The best and the cheapest single model by the training folds."""
    values = _single_values(study.log.part(outside))
    strongest, cheapest = int(np.nanargmax(values[:, 0])), int(np.nanargmin(values[:, 1]))
    names = study.features.pool.model_names
    for label, model in (("strongest", strongest), ("cheapest", cheapest)):
        study.put(label, inside, _one_model(study.log.part(inside), model))
        study.chosen.setdefault(label, []).append(names[model])


def _add_fixed(study: _Study) -> None:
    n = len(study.log.strata)
    study.policies["random"] = np.full((n, study.n_models), 1 / study.n_models)
    for index, name in enumerate(study.features.pool.model_names):
        study.policies[single_policy(name)] = _one_model(study.log, index)


def _flagged(study: _Study, original: Dataset) -> dict[str, float]:
    """Strata in which the models played different instances, by overlap."""
    if not study.request.instance_pattern:
        return {}
    pattern = re.compile(study.request.instance_pattern)
    instances = [_instance(episode, pattern) for episode in _originals(study, original)]
    if not any(instances):
        raise InvalidConfigError(
            f"instance_pattern '{study.request.instance_pattern}' matches no observation of the log; correct it, or leave it "
            "out"
        )
    return confounded_strata(study.log, instances)


def _originals(study: _Study, original: Dataset) -> list[Episode]:
    """The episodes as they were logged, turn by turn, in the order of the study."""
    by_id = {episode.episode_id: episode for episode in original.episodes}
    return [by_id[episode.episode_id] for episode in study.data.episodes]


def _instance(episode: Episode, pattern: re.Pattern[str]) -> str:
    for turn in episode.turns:
        found = pattern.search(turn.observation_text)
        if found:
            return found.group(1) if pattern.groups else found.group(0)
    return ""
