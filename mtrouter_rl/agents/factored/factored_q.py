"""Training of the factored router: networks that tell what is due, and the factors on top of what they say."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mtrouter_rl.agents.base import NullSink, TrainingContext
from mtrouter_rl.agents.factored.due import ROWS_PER_PASS, DueNetworks, FactoredSettings, hidden_from_due
from mtrouter_rl.agents.factored.factors import PARTS, Factors, LoggedTurns, Part, fit_factors
from mtrouter_rl.agents.factored.kinds import RARE_KIND, ActionKinds
from mtrouter_rl.agents.factored.log_columns import LogColumns
from mtrouter_rl.agents.factored.prices import CallTokens
from mtrouter_rl.agents.factored.router import FactoredRouter, as_weights
from mtrouter_rl.agents.one_thread import one_thread
from mtrouter_rl.agents.parameters import CardAlgorithm, HistoryInputs, LoopParameters, NetworkParameters, NonNegative
from mtrouter_rl.agents.q.behavior_cloning import stack_imitators
from mtrouter_rl.agents.q.learners import imitation_learner
from mtrouter_rl.agents.q.networks import HistoryLayout, StateDict, stack_weights
from mtrouter_rl.agents.q.quiet import silence_gym_notice
from mtrouter_rl.agents.q.trainer import train
from mtrouter_rl.agents.training import lay_out_logs, provenance, require_data, training_identity
from mtrouter_rl.cards import RewardCard
from mtrouter_rl.embeddings.history import SCALAR_NAMES
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import FloatArray, Frozen, Positive
from mtrouter_rl.transitions.arrays import NOT_IMITATED, Transitions

_UNSEEN = ("budget_left_share", "log_budget_left_usd", "last_model_is_warm")
"""Scalars that tell nothing of what is due, and that an earlier state of a live conversation no longer shows."""
_NO_FOLD = -1


class FactoredQParameters(NetworkParameters, LoopParameters, HistoryInputs):
    """Parameters of `FactoredQ`; those of the loop are of the networks that tell what is due.

    Attributes:
        n_folds: Folds of the (task, variation): the turns of each are judged by a network that is trained without it.
        max_passes: Turns that a network draws in all, at most, as a multiple of the turns of the whole log; one step an
            iteration is always made. A small log is given fewer gradient steps, or else the networks learn it by heart.
            `FqeParameters.max_passes` bounds every single regression instead.
        imitate_errors: Whether errors of a known kind of action are imitated as well, since they show what was tried. Else no
            error shows anything of what was due.
        memory_size: Size of a memory that the networks carry from turn to turn (see `networks.ConversationEncoder`). They are
            then trained on whole episodes, of about `batch_size` turns together (see `Transitions.episodes_of`), padded to the
            longest of them. 0 for networks that see every turn by itself.
        logit_penalty: Weight of the mean squared logit in their loss; of whole episodes the mean is over padding as well.
        parts: What is learned, of `factors.PARTS`; to leave something out shows what it is worth (`lab ablate`).
    """

    n_folds: Annotated[int, Field(ge=2)] = 3
    max_passes: Positive = 15.0
    imitate_errors: bool = False
    memory_size: Annotated[int, Field(ge=0)] = 0
    logit_penalty: NonNegative = 0.001
    parts: tuple[Part, ...] = PARTS

    def bounded(self, transitions: Transitions) -> Self:
        """The same with no more gradient steps than a log is worth."""
        n_turns, drawn = len(transitions), float(self.batch_size)
        if self.memory_size:
            drawn = transitions.episodes_of(self.batch_size) * n_turns / transitions.n_episodes
        steps = math.ceil(self.max_passes * n_turns / drawn / self.n_iterations)
        return self.model_copy(update={"steps_per_iteration": min(self.steps_per_iteration, steps)})


class FactoredQ(CardAlgorithm[FactoredQParameters]):
    """Learns Q(h, m) as a sum of factors, each from what the log tells it best, with d3rlpy's imitation underneath.

    1. What is due: a classifier of the kind of action that models take in such a history. It is imitation of all models
       together, and needs no reward.
    2. Who does it: a shrunken table of (kind, model), from how far turns agreed with what was due, and a belief of who is
       stuck.
    3. What it is worth: one number for a useful turn, and a shrunken table of the losses and gains beside it, from differences
       of values, which are far less noisy than returns.
    4. What it costs: the pool's prices times learned token counts.

    It is one step of policy improvement on the policy that logged the data. See `factors.fit_factors` for the sources.
    """

    parameters_model: ClassVar[type[Frozen]] = FactoredQParameters
    needs_dataset: ClassVar[bool] = True
    needs_features: ClassVar[bool] = True

    @property
    def gamma(self) -> float:
        """See `CardAlgorithm.gamma`."""
        return 1.0

    def train(self, context: TrainingContext) -> FactoredRouter:
        """Train on the context's log.

        Raises:
            InvalidConfigError: If dataset or features are missing or hold nothing to learn from, the log has no tokens, or an
                evaluation during the training is asked for.
            PoolMismatchError: If the dataset was logged with another pool.
            RouterError: If the checkpoint folder belongs to another training.
        """
        if context.evaluation is not None:
            raise InvalidConfigError(
                f"agent '{self.card.name}': there is no router before the last network is trained, so it cannot be evaluated "
                "during the training; leave out --evaluate-every"
            )
        judged = self.judged(context)
        network = self._train_network(context, judged)
        settings = judged.settings(self.parameters, reward=context.reward, n_members=len(network))
        with one_thread():
            factors = _fitted(context, judged, parts=self.parameters.parts)
        return FactoredRouter.of(
            FactoredRouter(
                name=self.card.name,
                model_names=context.pool.model_names,
                features=require_data(context, self.card)[1],
                settings=settings.model_copy(update=_learned(factors)),
                weights=as_weights(stack_weights(network), factors, judged.tokens),
                provenance=provenance(context, self.card, self.parameters),
            ),
            context.pool,
        )

    def judged(
        self,
        context: TrainingContext,
        transitions: Transitions | None = None,
        *,
        say: Callable[[str], None] = lambda _: None,
    ) -> "JudgedLog":
        """What was due before every turn of the context's log, by networks that have not seen the turn's (task, variation).

        Args:
            context: The training.
            transitions: The log, where it is laid out already (undiscounted).
            say: Told, in a sentence, what will be trained, once the log is found fit for it.

        Raises:
            InvalidConfigError, PoolMismatchError, RouterError: As `train`.
        """
        silence_gym_notice()
        dataset, features = require_data(context, self.card)
        if transitions is None:
            transitions = lay_out_logs(context, self.card, gamma=1.0)
        log = LogColumns.of_episodes(dataset.completed)
        with one_thread():
            tokens = CallTokens.of_log(log, transitions.actions, n_models=transitions.n_models)
        words = (word for word, is_error in zip(log.words, log.is_error, strict=True) if not is_error)
        kinds = ActionKinds.of_words(words if "due" in self.parameters.parts else ())
        n_models = transitions.n_models
        layout = HistoryLayout.of_features(features, n_extra=n_models, shown=self.parameters.history_inputs)
        hidden = (*layout.hidden, *hidden_from_due(features, SCALAR_NAMES, _UNSEEN, n_models=n_models))
        judged = JudgedLog(
            transitions=transitions,
            log=log,
            tokens=tokens,
            kinds=kinds,
            layout=layout.model_copy(update={"hidden": hidden}),
            folds=_folds(log, self.parameters.n_folds, seed=context.seed)[transitions.episodes],
            due=np.zeros((len(transitions), len(kinds))),
        )
        bounded = self.parameters.bounded(transitions)
        n_steps = bounded.n_iterations * bounded.steps_per_iteration
        n_networks = self.parameters.n_folds
        say(f"learn what was due at {len(transitions)} turns: {n_networks} networks, {n_steps:,} gradient steps each")
        for fold in np.unique(judged.folds).tolist():
            network = self._train_network(context, judged, fold=fold)
            settings = judged.settings(self.parameters, reward=context.reward, n_members=len(network))
            with one_thread():
                _judge(network, settings, judged, fold)
        return judged

    def _train_network(self, context: TrainingContext, judged: "JudgedLog", *, fold: int = _NO_FOLD) -> list[StateDict]:
        """Kept iterates of a network that has not seen a fold; without one, of the one that acts, which has seen all."""
        from mtrouter_rl.agents.q.joint_q import HistoryEncoderFactory

        kinds = judged.kinds.of_log(judged.log.words)
        is_told = ~judged.log.is_error | (self.parameters.imitate_errors & (kinds != RARE_KIND))
        is_told |= not is_told.any()
        imitated = dataclasses.replace(judged.transitions, actions=kinds, n_models=len(judged.kinds))
        keep = is_told & (judged.folds != fold)
        keep = keep if keep.any() else is_told
        if self.parameters.memory_size:  # whole episodes that tell anything
            imitated = dataclasses.replace(imitated, actions=np.where(keep, kinds, NOT_IMITATED))
            keep = np.isin(imitated.episodes, imitated.episodes[keep])
        factory = HistoryEncoderFactory.of(judged.layout, self.parameters, memory_size=self.parameters.memory_size)
        iterates = train(
            imitation_learner(factory, logit_penalty=self.parameters.logit_penalty),
            imitated.where(keep),
            loop=self.parameters.bounded(judged.transitions),
            context=dataclasses.replace(
                context,
                evaluation=None,
                metrics=context.metrics if fold == _NO_FOLD else NullSink(),
                checkpoint_folder=_of_fold(context.checkpoint_folder, fold),
            ),
            identity=training_identity(context, self.card, self.parameters) | {"fold": fold},
            make_router=_no_router,
        )
        stacked = stack_imitators(iterates)
        return [{name: one[member] for name, one in stacked.items()} for member in range(len(iterates))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class JudgedLog:
    """A log of N turns, and what was due before each.

    Attributes:
        transitions: The log as transitions.
        log: The rest of what is read of it.
        tokens: What a call takes.
        kinds: Kinds of action, K in all.
        layout: What the networks see.
        folds: Fold of every turn, shape (N,).
        due: Probability of every kind, by networks that have not seen the turn's fold, shape (N, K).
    """

    transitions: Transitions
    log: LogColumns
    tokens: CallTokens
    kinds: ActionKinds
    layout: HistoryLayout
    folds: npt.NDArray[np.int64]
    due: FloatArray

    def settings(self, parameters: FactoredQParameters, *, reward: RewardCard, n_members: int) -> FactoredSettings:
        """Settings of a router with networks of these sizes, before its factors are fitted."""
        sizes = NetworkParameters(**{name: getattr(parameters, name) for name in NetworkParameters.model_fields})
        return FactoredSettings(
            layout=self.layout,
            sizes=sizes,
            memory_size=parameters.memory_size,
            kinds=self.kinds,
            n_members=n_members,
            reward=reward,
            prior=0.5,
            use_value=0.0,
        )


def _learned(factors: Factors) -> dict[str, float]:
    """The settings that are single numbers, as they were learned."""
    stuckness = factors.stuckness
    return {
        "prior": float(stuckness.prior),
        "together": float(stuckness.together),
        "use_value": factors.use_value,
    }


def _no_router(_: Sequence[StateDict]) -> "FactoredRouter":
    raise NotImplementedError("a training without evaluation asks for no router")


def _of_fold(folder: Path | None, fold: int) -> Path | None:
    return None if folder is None else folder / ("whole" if fold == _NO_FOLD else f"fold-{fold}")


def _folds(log: LogColumns, n_folds: int, *, seed: int) -> npt.NDArray[np.int64]:
    """Fold of every episode; the episodes of a (task, variation) are of one fold, and every fold has some."""
    names = list(zip(log.tasks, log.variations, strict=True))
    groups = {group: number for number, group in enumerate(sorted(set(names)))}
    shuffled = np.random.default_rng(seed).permutation(len(groups)) % min(n_folds, len(groups))
    return np.array([shuffled[groups[name]] for name in names], dtype=np.int64)


def _judge(members: Sequence[StateDict], settings: FactoredSettings, judged: JudgedLog, fold: int) -> None:
    """Write what is due before the turns of a fold, by networks that have not seen it."""
    transitions = judged.transitions
    networks = DueNetworks(settings, stack_weights(members))
    rows = np.flatnonzero(judged.folds == fold)
    # In pieces, so that a log that lies on disk is never read as a whole: of whole episodes, if their order counts.
    starts = (
        np.flatnonzero(np.diff(transitions.episodes[rows], prepend=-1))
        if settings.memory_size
        else np.arange(len(rows))
    )
    firsts = np.unique(starts[np.searchsorted(starts, np.arange(0, len(rows), ROWS_PER_PASS), side="right") - 1])
    for first, last in zip(firsts, [*firsts[1:], len(rows)], strict=True):
        some = rows[first:last]
        observations = transitions.observations[transitions.rows[some]]
        inside = starts[(starts > first) & (starts < last)] - first if settings.memory_size else []
        judged.due[some] = np.concatenate([due for due, _ in networks.follow(np.split(observations, inside))])


def _fitted(context: TrainingContext, judged: JudgedLog, *, parts: Sequence[Part]) -> Factors:
    """The factors of a log."""
    columns, transitions = judged.log, judged.transitions
    log = LoggedTurns(
        due=judged.due,
        kinds=judged.kinds.of_log(columns.words),
        is_error=columns.is_error,
        actions=transitions.actions,
        masks=columns.masks,
        gains=transitions.utility_gains.astype(np.float64),
        costs=context.reward.weighted(transitions.costs_usd.astype(np.float64)),
        episodes=transitions.episodes,
        folds=judged.folds,
        tasks=columns.task_numbers[transitions.episodes],
    )
    costs = context.reward.weighted(
        judged.tokens.costs_usd(columns.sizes, columns.warm.astype(np.float64), context.pool)
    )
    return fit_factors(log, costs, seed=context.seed, parts=parts)
