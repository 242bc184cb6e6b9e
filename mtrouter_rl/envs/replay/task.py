"""The suite as a text task, and its runs as the backend that answers: nothing is simulated, everything is read off the log.

The model that is called goes on along its logged run. Another model starts the task afresh, at turn 0 of its own run; what
was spent stays spent, and the turns stay in the history. A model that is called again after another one starts again, too:
its old workspace is gone, and the one run of it that was logged is all that is known of how it goes. The episode ends where
the run of the model that is called ends, with that run's score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from pydantic import model_validator

from mtrouter_rl.cards import EnvCard, LimitsCard, RewardCard, SplitCard, parse_settings
from mtrouter_rl.cards.pool import BackendCard, ModelCard, PoolCard, Prices
from mtrouter_rl.envs.replay.made_up import MadeUpCard, make_up
from mtrouter_rl.envs.replay.suite import Suite, load_suite
from mtrouter_rl.errors import BackendError, CallOrderError, CardError, InvalidConfigError, unknown_name
from mtrouter_rl.protocols import Ending, Reply, TaskStart, TaskStep, TextTask
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, Frozen, Message, TokenUsage

FAMILY = "replay"
NOT_LOGGED = "(not logged)"
"""Stands for every text of a run of which only totals are known."""
_STRANGE = "not_in_the_log"
_NEUTRAL_CONTEXT, _NEUTRAL_OUTPUT = 131_072, 16_384
"""Limits of models of which nobody gave any; the features of a model are 0 there, and no mask reads them."""
_RUNS_PER_EPISODE = 2
"""Turn limit of an episode, in longest runs."""


class ReplaySettings(Frozen):
    """Settings of the family in an environment card. One of `suite` and `made_up` is given.

    Attributes:
        suite: Folder of a suite, which `mtrouter-rl suite` writes; relative to the working directory.
        made_up: A made-up suite instead.
        fingerprint: Of the suite; filled in when the card is resolved, so that a log knows what it was made from.
    """

    suite: Path | None = None
    made_up: MadeUpCard | None = None
    fingerprint: str = ""

    @model_validator(mode="after")
    def _has_one_source(self) -> "ReplaySettings":
        if (self.suite is None) == (self.made_up is None):
            raise ValueError("give either 'suite', a folder, or 'made_up'")
        return self


@dataclass(frozen=True, kw_only=True)
class LoggedCall:
    """What the log says of one call.

    Attributes:
        text: What the model wrote.
        cost_usd: What the call cost.
    """

    text: str
    cost_usd: float


@lru_cache(maxsize=4)
def suite_of(settings: ReplaySettings) -> Suite:
    """The suite of a card; read once a process.

    Raises:
        InvalidConfigError: If it is not the one that the card was made for.
        DatasetError: If it cannot be read.
    """
    suite = make_up(settings.made_up) if settings.made_up is not None else load_suite(settings.suite or Path())
    if settings.fingerprint not in ("", suite.fingerprint):
        raise InvalidConfigError(
            f"suite '{suite.head.name}' has fingerprint {suite.fingerprint}, but its card was made for {settings.fingerprint}: "
            "variations are positions in the suite, so they would be other tasks; restore the folder, or remove the "
            "fingerprint and collect and train anew"
        )
    return suite


def make_task(card: EnvCard) -> "ReplayTask":
    """Text task of an environment card of family "replay".

    Raises:
        CardError: If the card's settings are not those of the family.
        DatasetError: If the suite cannot be read.
    """
    return ReplayTask(suite_of(parse_settings(card, ReplaySettings)))


def make_backend(pool: PoolCard, env: EnvCard) -> "ReplayBackend":
    """Backend of a pool card of kind "replay".

    Raises:
        CardError: If the environment is of another family, or its suite has not the models of the pool.
    """
    if env.family != FAMILY:
        raise CardError(
            f"pool '{pool.name}' answers from a log, so environment '{env.name}' must be of family '{FAMILY}'"
        )
    suite = suite_of(parse_settings(env, ReplaySettings))
    unknown = [name for name in pool.model_names if name not in suite.models]
    if unknown:
        raise CardError(f"pool '{pool.name}': {unknown_name('model of the suite', unknown[0], suite.models)}")
    return ReplayBackend(suite)


def complete_card(card: EnvCard) -> EnvCard:
    """Fill in how many tasks each group has, and the suite's fingerprint.

    Raises:
        CardError: If a group is unknown or has fewer tasks than the card says.
    """
    settings = parse_settings(card, ReplaySettings)
    suite = suite_of(settings)
    counted: dict[str, dict[str, int]] = {}
    for field, tasks in (("train_tasks", card.train_tasks), ("ood_tasks", card.ood_tasks)):
        counted[field] = {}
        for group, wanted in tasks.items():
            if group not in suite.groups:
                raise CardError(f"card '{card.name}', {field}: {unknown_name('group', group, suite.groups)}")
            there = len(suite.groups[group])
            if wanted != "all" and wanted > there:
                raise CardError(f"card '{card.name}', {field}: '{group}' is {wanted}, must be 'all' or at most {there}")
            counted[field][group] = there if wanted == "all" else wanted
    pinned = settings.model_copy(update={"fingerprint": suite.fingerprint}).model_dump(mode="json", exclude_none=True)
    return card.model_copy(update={**counted, "settings": pinned})


class ReplayTask:
    """The task: its text, and the run of the model that is called. Score 0 to 1."""

    max_score = 1.0

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._task = -1
        self._model = -1
        self._turn = -1
        self._is_called = False
        self._is_over = True

    def reset(self, task: str, variation: int, seed: int) -> TaskStart:
        """Start an episode: `task` is a group of the suite, `variation` counts within it; the seed changes nothing."""
        if task not in self._suite.groups:
            raise unknown_name("group of the suite", task, self._suite.groups)
        members = self._suite.groups[task]
        if not 0 <= variation < len(members):
            raise InvalidConfigError(f"variation is {variation}, must be from 0 to {len(members) - 1} for '{task}'")
        self._task, self._model, self._turn = members[variation], -1, -1
        self._is_called, self._is_over = False, False
        chosen = self._suite.tasks[self._task]
        text = chosen.text or f"Task {chosen.id} (its text was not logged)."
        return TaskStart(task_text=text, observation=f"Task {chosen.id} of {chosen.group}; no model has run.")

    def call(self, model: str) -> LoggedCall:
        """Let a model take the next turn: along its run if it was called last, else from the start of its run.

        Raises:
            CallOrderError: If no episode is running, or the call before this one has not been stepped.
            UnknownNameError: If the suite has no such model.
        """
        if self._is_over or self._is_called:
            raise CallOrderError("call() needs a running episode, and one step() for every call; call reset() first")
        if model not in self._suite.models:
            raise unknown_name("model of the suite", model, self._suite.models)
        index = self._suite.models.index(model)
        self._turn = self._turn + 1 if index == self._model else 0
        self._model, self._is_called = index, True
        known = self._suite.turns.get((self._task, index))
        text = known[self._turn].action if known is not None else NOT_LOGGED
        return LoggedCall(text=text, cost_usd=float(self._suite.turn_costs(self._task, index)[self._turn]))

    def step(self, action_text: str) -> TaskStep:
        """What came after the call. A text that was not called for is in no log: it is an error and changes nothing."""
        if self._is_over:
            raise CallOrderError("the replay is not running; call reset() first")
        if not self._is_called:
            return TaskStep(observation="No logged run has this action.", score=0.0, error=_STRANGE)
        self._is_called = False
        cell = self._task, self._model
        known = self._suite.turns.get(cell)
        observation = known[self._turn].observation if known is not None else NOT_LOGGED
        error = known[self._turn].error if known is not None else ""
        if self._turn + 1 < self._suite.n_turns[cell]:
            return TaskStep(observation=observation, score=0.0, error=error)
        self._is_over = True
        score = float(self._suite.scores[cell])
        ending: Ending = "solved" if score >= 1.0 else "failed" if score <= 0.0 else "handed_in"
        return TaskStep(observation=observation, score=score, ending=ending, error=error)

    def close(self) -> None:
        """Nothing to release."""
        self._is_over = True


class ReplayBackend:
    """Answers with what was logged, at what it cost. No tokens are known of it."""

    def __init__(self, suite: Suite) -> None:
        self._suite = suite
        self._task: ReplayTask | None = None

    def start_episode(self, *, task: TextTask, task_name: str, variation: int, seed: int) -> None:
        """Take the task whose runs are replayed.

        Raises:
            InvalidConfigError: If it is none of family "replay".
        """
        if not isinstance(task, ReplayTask):
            raise InvalidConfigError(
                f"task is {type(task).__name__}, must be one of family '{FAMILY}': nothing else has a log"
            )
        self._task = task

    def reply(self, model: str, messages: Sequence[Message], *, turn: int, max_output_tokens: int) -> Reply:
        """The logged call. Raises as `ReplayTask.call`.

        Raises:
            BackendError: If no episode was started.
        """
        if self._task is None:
            raise BackendError(f"model '{model}', turn {turn}: no episode was started; call start_episode() first")
        call = self._task.call(model)
        usage = TokenUsage(n_fresh=0, n_output=0)
        return Reply(text=call.text, usage=usage, latency_s=0.0, served_model=model, cost_usd=call.cost_usd)

    def most_usd(self, model: str) -> float:
        """The dearest turn of the model in the whole suite, USD."""
        if model not in self._suite.models:
            raise unknown_name("model of the suite", model, self._suite.models)
        return float(self._suite.most_usd[self._suite.models.index(model)])


def suite_pool(suite: Suite, name: str) -> PoolCard:
    """Pool of a suite's models.

    A suite knows no price of a token, so prices rank the models alone: each is the mean cost of the model's run in USD. They
    are features of the models, and no cost is worked out from them.
    """
    means = suite.costs_usd.mean(axis=0)
    return PoolCard(
        name=name,
        description=(
            f"Models of suite '{suite.head.name}', which answer from its log. COSTS ARE THE LOG'S. The prices rank the models "
            "alone (mean USD of a run); limits are not known, and no mask reads them."
        ),
        models=tuple(
            ModelCard(
                name=model,
                prices=Prices(input=price, cached_input=price, output=price),
                context_tokens=_NEUTRAL_CONTEXT,
                max_output_tokens=_NEUTRAL_OUTPUT,
            )
            for model, price in zip(suite.models, means.tolist(), strict=True)
        ),
        backend=BackendCard(kind=FAMILY),
    )


def suite_env(suite: Suite, *, name: str, pool: str, settings: ReplaySettings) -> EnvCard:
    """Environment card of a suite, without a budget; groups are its tasks, split 60 : 20 : 20 within each."""
    best = suite.scores.mean(axis=0).argmax()
    return EnvCard(
        name=name,
        description=(
            f"Logged runs of suite '{suite.head.name}': {suite.n_tasks} tasks, {len(suite.models)} models. "
            f"Nothing is simulated."
        ),
        family=FAMILY,
        pool=pool,
        system_prompt="Logged runs are replayed.",
        train_tasks=dict.fromkeys(suite.groups, "all"),
        splits=SplitCard(variations_per_task=max(map(len, suite.groups.values())), train=0.6, validation=0.2, seed=42),
        limits=LimitsCard(
            max_turns=_RUNS_PER_EPISODE * int(suite.n_turns.max()),
            budget_usd=UNLIMITED_BUDGET_USD,
            max_output_tokens=_NEUTRAL_OUTPUT,
        ),
        reward=RewardCard(cost_weight=0.5, cost_unit_usd=max(float(suite.costs_usd[:, best].mean()), 1e-9)),
        settings=settings.model_dump(mode="json", exclude_none=True),
        expert_solves=0.0,
    )
