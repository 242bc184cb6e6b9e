"""What the contract kit looks at: an environment, a sample of its episodes, and how they were played."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias, cast

import numpy as np

from mtrouter_rl.cards import EnvCard
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.cards.splits import episode_specs
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.envs.routing import EpisodeLimits, RoutingEnv
from mtrouter_rl.errors import ContractError
from mtrouter_rl.protocols import ExpertTask, ModelBackend, Reply, TaskStart, TaskStep, TextTask
from mtrouter_rl.records import SPLITS, EpisodeSpec, TokenUsage
from mtrouter_rl.registry import BACKENDS, TASK_FAMILIES
from mtrouter_rl.testing.stand_ins import ModelCall, ScriptedBackend

SIMULATED = "simulated"
REPLAYED = "replay"
PLAIN_TEXTS = ("look", "help", "wait", "1", "yes")
"""What is played in a task that has no expert to ask."""

_P_EXPERT = 0.7
_EXPLORE_STREAM = 11


class SkippedCheck(Exception):  # noqa: N818 - no error: a check that has nothing to look at says so with it
    """A check does not apply; the message says why."""


def broken(*, did: str, saw: str, rule: str, fix: str) -> ContractError:
    """Error for a rule that an environment breaks.

    Example:
        >>> str(broken(did="close() twice", saw="OSError", rule="close() may be called twice", fix="remember it"))
        'close() twice: OSError; rule: close() may be called twice; fix: remember it'
    """
    return ContractError(f"{did}: {saw}; rule: {rule}; fix: {fix}")


@dataclass(frozen=True, kw_only=True)
class PlayedEpisode:
    """One episode as it was played, without any model.

    Attributes:
        spec: Which episode.
        start: What reset showed.
        actions: The T actions.
        steps: What the task answered to each.
    """

    spec: EpisodeSpec
    start: TaskStart
    actions: tuple[str, ...]
    steps: tuple[TaskStep, ...]

    @property
    def ending(self) -> str:
        """How the task ended; empty if it was still going on."""
        return self.steps[-1].ending if self.steps else ""

    def is_success(self, max_score: float) -> bool:
        """Whether the task ended solved, or in another way with full score."""
        return self.ending == "solved" or (self.ending != "" and self.steps[-1].score >= max_score * (1 - 1e-9))


Policy: TypeAlias = Callable[[TextTask, int], str]
"""Next action of a task at a turn."""


def reset_task(task: TextTask, spec: EpisodeSpec) -> TaskStart:
    """Reset a task and check what it returns.

    Raises:
        ContractError: If it is no `TaskStart`.
    """
    start = task.reset(spec.task, spec.variation, spec.seed)
    if not isinstance(start, TaskStart):
        raise broken(
            did=show_reset(spec),
            saw=f"it returned a {type(start).__name__}",
            rule="reset() returns a TaskStart",
            fix="return TaskStart(task_text=..., observation=...)",
        )
    return start


def step_task(task: TextTask, spec: EpisodeSpec, action: str) -> TaskStep:
    """Execute an action and check what it returns.

    Raises:
        ContractError: If it is no `TaskStep`.
    """
    step = task.step(action)
    if not isinstance(step, TaskStep):
        raise broken(
            did=f"{show_reset(spec)}, step({show_text(action)})",
            saw=f"it returned a {type(step).__name__}",
            rule="step() returns a TaskStep",
            fix="return TaskStep(observation=..., score=...)",
        )
    return step


def play(task: TextTask, spec: EpisodeSpec, policy: Policy, *, max_turns: int) -> PlayedEpisode:
    """Play one episode until it ends, or `max_turns` are over."""
    start = reset_task(task, spec)
    actions: list[str] = []
    steps: list[TaskStep] = []
    while len(steps) < max_turns and not (steps and steps[-1].ending):
        actions.append(policy(task, len(actions)))
        steps.append(step_task(task, spec, actions[-1]))
    return PlayedEpisode(spec=spec, start=start, actions=tuple(actions), steps=tuple(steps))


def replay_actions(task: TextTask, spec: EpisodeSpec, actions: Sequence[str]) -> PlayedEpisode:
    """Play given actions, asking no expert."""
    return play(task, spec, lambda _task, turn: actions[turn], max_turns=len(actions))


def replay(task: TextTask, episode: PlayedEpisode) -> PlayedEpisode:
    """Play the actions of an episode again, asking no expert."""
    return replay_actions(task, episode.spec, episode.actions)


def expert_policy(task: TextTask, _turn: int) -> str:
    """What the expert of a task would do."""
    return cast(ExpertTask, task).expert_action()


def show_reset(spec: EpisodeSpec) -> str:
    """The call of `reset` for an episode, for messages."""
    return f"reset('{spec.task}', {spec.variation}, seed={spec.seed})"


def show_text(text: str) -> str:
    """A text for messages, cut where it is long."""
    return repr(text) if len(text) <= 60 else f"{text[:40]!r}... ({len(text)} characters)"


class Subject:
    """An environment under test; its task is made once and shared by all checks.

    Attributes:
        config: Resolved cards.
        n_episodes: How many episodes are sampled.
        seed: Seed of the sample, of the exploring actions and of the episodes.
        expert_threshold: Share of sampled episodes that the expert must solve.
        replan_threshold: Share of those that it must solve in spite of injected mistakes.
    """

    def __init__(
        self, config: EnvConfig, *, n_episodes: int, seed: int, expert_threshold: float | None, replan_threshold: float
    ) -> None:
        """Nothing is started before a check asks for the task; a threshold that is None is the card's."""
        self.config = config
        self.n_episodes = n_episodes
        self.seed = seed
        self.expert_threshold = config.card.expert_solves if expert_threshold is None else expert_threshold
        self.replan_threshold = replan_threshold

    @property
    def card(self) -> EnvCard:
        """Environment card."""
        return self.config.card

    @property
    def pool(self) -> PoolCard:
        """Pool card."""
        return self.config.pool

    @property
    def max_turns(self) -> int:
        """Turn limit of an episode."""
        return self.config.limits.max_turns

    @cached_property
    def task(self) -> TextTask:
        """The task of the card's family."""
        return self.new_task()

    def new_task(self) -> TextTask:
        """A further task, to be closed by the caller."""
        make = cast(Callable[[EnvCard], TextTask], TASK_FAMILIES.load(self.card.family))
        return make(self.card)

    def close(self) -> None:
        """Close the shared task, if it was made."""
        if "task" in self.__dict__ and hasattr(self.task, "close"):
            with contextlib.suppress(Exception):  # whether close() works is a check of its own
                self.task.close()

    def generator(self, *stream: int) -> np.random.Generator:
        """Generator of a stream of its own."""
        return np.random.default_rng([self.seed, *stream])

    def expert(self) -> ExpertTask:
        """The shared task as one with an expert.

        Raises:
            SkippedCheck: If it has none.
        """
        if not isinstance(self.task, ExpertTask):
            raise SkippedCheck("the task has no expert_action() and mistakes()")
        return self.task

    @cached_property
    def specs(self) -> tuple[EpisodeSpec, ...]:
        """Sample of episodes over all splits: tasks in turn, each with different variations, at most `n_episodes`."""
        queues: dict[str, list[EpisodeSpec]] = {}
        for split in SPLITS:
            for task, variation in episode_specs(self.card, split):
                spec = EpisodeSpec(task=task, variation=variation, seed=self.seed, split=split)
                queues.setdefault(task, []).append(spec)
        rng = self.generator(0)
        shuffled = [[queue[i] for i in rng.permutation(len(queue))] for queue in queues.values()]
        longest = max(map(len, shuffled))
        in_turn = [queue[place] for place in range(longest) for queue in shuffled if place < len(queue)]
        return tuple(in_turn[: self.n_episodes])

    @cached_property
    def explored(self) -> tuple[PlayedEpisode, ...]:
        """The sampled episodes, played by an expert that makes mistakes of every kind, or with plain texts."""
        return tuple(self._explore(number, spec) for number, spec in enumerate(self.specs))

    def _explore(self, number: int, spec: EpisodeSpec) -> PlayedEpisode:
        rng = self.generator(_EXPLORE_STREAM, number)

        def policy(task: TextTask, _turn: int) -> str:
            options = _options(task, asks_expert=rng.random() < _P_EXPERT) or PLAIN_TEXTS
            return options[int(rng.integers(len(options)))]

        return play(self.task, spec, policy, max_turns=self.max_turns)

    @contextlib.contextmanager
    def routing_env(self, *, budget_usd: float | None = None, max_turns: int | None = None) -> Iterator[RoutingEnv]:
        """The routing environment around the shared task, with other limits if they are given."""
        limits = EpisodeLimits(
            max_turns=max_turns or self.max_turns,
            budget_usd=budget_usd or self.config.limits.budget_usd,
            max_output_tokens=self.config.limits.max_output_tokens,
        )
        yield RoutingEnv(
            task=self.task,
            backend=self.make_backend(),
            pool=self.pool,
            specs=self.specs,
            system_prompt=self.card.system_prompt,
            limits=limits,
            reward=self.config.reward,
        )

    def make_backend(self) -> ModelBackend:
        """The pool's simulated models, or its log; a stand-in where no expert can be imitated, or models would be called."""
        if self.pool.backend.kind == REPLAYED:
            return cast(Callable[[PoolCard, EnvCard], ModelBackend], BACKENDS.load(REPLAYED))(self.pool, self.card)
        if self.pool.backend.kind == SIMULATED and isinstance(self.task, ExpertTask):
            make = cast(Callable[[PoolCard, EnvCard], ModelBackend], BACKENDS.load(SIMULATED))
            return make(self.pool, self.card)
        return ScriptedBackend(pool=self.pool, answer=_plain_answer)


def _options(task: TextTask, *, asks_expert: bool) -> list[str]:
    """What may be played now; nothing if there is no expert, or if it breaks, which is for checks of its own."""
    if not isinstance(task, ExpertTask):
        return []
    try:
        mistakes = [text for texts in task.mistakes().values() for text in texts]
        return [task.expert_action()] if asks_expert or not mistakes else mistakes
    except Exception:
        return []


def _plain_answer(call: ModelCall) -> Reply:
    usage = TokenUsage(n_fresh=call.n_prompt, n_output=1)
    text = PLAIN_TEXTS[call.turn % len(PLAIN_TEXTS)]
    return Reply(text=text, usage=usage, latency_s=1.0, served_model=call.model)
