"""Simulated models: the task is real, only the language model is simulated.

A simulated model reads the expert's next action, and does it or fails in its own way. What it is good at is a table in
the pool card. Randomness is drawn from (episode, turn, model) alone, so that two routers meet the same luck wherever they
make the same choice (common random numbers).
"""

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field, ValidationError, field_validator

from mtrouter_rl.cards import EnvCard
from mtrouter_rl.cards.files import check_no_truth_counts
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.errors import BackendError, CallOrderError, CardError, InvalidConfigError, unknown_name
from mtrouter_rl.pools.prompt_cache import PromptCache, billed_usage
from mtrouter_rl.pools.simulated.luck import (
    ERROR_STREAM,
    OUTAGE_STREAM,
    TURN_STREAM,
    EpisodeKey,
    ErrorBursts,
    Outages,
    Spells,
    harder,
    logistic,
)
from mtrouter_rl.pools.simulated.model import SimulatedModel, expected_length, failure_shares
from mtrouter_rl.pools.simulated.stuckness import Stuckness
from mtrouter_rl.protocols import ExpertPlan, ExpertTask, HiddenState, PlanningTask, Reply, TextTask
from mtrouter_rl.records import FloatArray, Frozen, JsonValue, Message

OTHER_SKILL = "other"
UNDONE_KINDS = ("wander", "drop")
"""Failures that the expert has to make up for before it goes on."""

_TOKENS_PER_UNIT = 1000


class SimulationCard(Frozen):
    """Settings of the backend "simulated" in a pool card.

    Attributes:
        complementarity: How far the models' strengths differ by skill and topic: 0 makes them differ in ability alone.
        difficulty: Logit taken off the ability, by skill.
        malformed: Texts that no environment understands; `{action}` stands for what the expert would have done.
        models: One entry for every model of the pool.
        task_spread: Some variations are harder than others for all models alike: standard deviation (logit) of a draw for each
            (task, variation), which is taken off every model's ability and adds to how often it is stuck.
        together: Probability that all models share one draw of who is stuck at a sub-goal; how often each is stuck stays.
        silent: Whether a malformed reply is one of the task's idle actions where it offers any: no error tells of it then.
        tired_by_tokens: Logit that a model loses for every 1,000 tokens of the conversation.
        tired_by_others: Logit that a model loses for every failed turn of another model in the episode.
        outages: Spells in which a model cannot be called, which the action mask shows; None for none.
        error_bursts: Spells in which a model fails more often, which nothing shows but its errors; None for none.
    """

    complementarity: Annotated[float, Field(ge=0)]
    difficulty: dict[str, float] = Field(default_factory=dict)
    malformed: Annotated[tuple[str, ...], Field(min_length=1)]
    models: dict[str, SimulatedModel]
    task_spread: Annotated[float, Field(ge=0)] = 0.0
    together: Annotated[float, Field(ge=0, le=1)] = 0.0
    silent: bool = False
    tired_by_tokens: Annotated[float, Field(ge=0)] = 0.0
    tired_by_others: Annotated[float, Field(ge=0)] = 0.0
    outages: Outages | None = None
    error_bursts: ErrorBursts | None = None

    @property
    def is_steady(self) -> bool:
        """Whether a model succeeds at an action with the same probability all through an episode."""
        return self.tired_by_tokens == self.tired_by_others == 0 and self.error_bursts is None

    def stuck_probability(self, model: str, *, task_name: str, variation: int, seed: int) -> float:
        """Probability that a model is stuck at a sub-goal of an episode."""
        hardness = EpisodeKey(task_name=task_name, variation=variation, seed=seed).hardness(self.task_spread)
        return harder(self.models[model].stuck, hardness)

    @field_validator("malformed")
    @classmethod
    def _templates_can_be_filled(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            try:
                template.format(action="")
            except (LookupError, ValueError) as error:
                raise ValueError(f"'{template}': the only placeholder is {{action}}; double any other brace") from error
        return templates


def make_backend(pool: PoolCard, env: EnvCard) -> "SimulatedBackend":
    """Simulated backend of a pool in an environment.

    Raises:
        CardError: If the pool card's `backend.settings` break their rules, or a model has no entry.
    """
    try:
        card = SimulationCard.model_validate(pool.backend.settings)
    except ValidationError as error:
        lines = [f"  backend.settings.{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise CardError(f"pool card '{pool.name}' breaks its rules:\n" + "\n".join(lines)) from error
    check_no_truth_counts(pool.backend.settings, card, card=f"'{pool.name}'", inside=("backend", "settings"))
    _check_models(card, pool)
    _check_skills(card, env)
    _check_topics(card, env)
    return SimulatedBackend(card=card, pool=pool, env=env)


def _check_models(card: SimulationCard, pool: PoolCard) -> None:
    where = f"backend.settings.models of pool card '{pool.name}'"
    missing = sorted(set(pool.model_names) - set(card.models))
    if missing:
        raise CardError(f"{where} has no entry for {missing}; add one for each model of the pool")
    for name in card.models:
        if name not in pool.model_names:
            raise CardError(f"{where}: {unknown_name('model', name, pool.model_names)}")


def _check_skills(card: SimulationCard, env: EnvCard) -> None:
    """A misspelt skill would silently count for nothing."""
    if not env.skills:
        return
    known = {pattern.skill for pattern in env.skills} | {OTHER_SKILL}
    named = {skill for model in card.models.values() for skill in (*model.skills, *model.fatal_skills)}
    for skill in sorted(named | set(card.difficulty)):
        if skill not in known:
            raise CardError(
                f"skills of the simulated models, environment '{env.name}': {unknown_name('skill', skill, known)}"
            )


def _check_topics(card: SimulationCard, env: EnvCard) -> None:
    """A misspelt topic would silently count for nothing."""
    if not env.topics:
        return
    known = set(env.topics.values())
    for topic in sorted({topic for model in card.models.values() for topic in model.topics}):
        if topic not in known:
            raise CardError(
                f"topics of the simulated models, environment '{env.name}': {unknown_name('topic', topic, known)}"
            )


@dataclass(frozen=True, kw_only=True)
class PastCall:
    """A call that was made earlier in an episode.

    Attributes:
        model: Model that answered.
        n_prompt: Tokens of its prompt.
        latency_s: How long it took, seconds.
        is_failure: Whether it did not do what was due.
    """

    model: str
    n_prompt: int
    latency_s: float
    is_failure: bool = False


class SimulatedBackend:
    """A `ModelBackend` whose models imitate an expert with flaws. Works with any task that has an expert."""

    def __init__(self, *, card: SimulationCard, pool: PoolCard, env: EnvCard) -> None:
        """Create the backend; use `make_backend`, which checks the cards against each other."""
        self._card = card
        self._pool = pool
        self._topics = env.topics
        self._patterns = [(pattern.skill, re.compile(pattern.pattern)) for pattern in env.skills]
        self._key: EpisodeKey | None = None
        self._hardness = 0.0

    def start_episode(self, *, task: TextTask, task_name: str, variation: int, seed: int) -> None:
        """Bind to the task and seed the episode.

        Raises:
            InvalidConfigError: If the task has no expert to imitate.
        """
        if not isinstance(task, ExpertTask):
            raise InvalidConfigError(
                f"{type(task).__name__} has no expert_action() and mistakes(), which simulated models imitate; "
                "use an endpoint as backend, or give the task an expert"
            )
        self._task: ExpertTask = task
        self._key = EpisodeKey(task_name=task_name, variation=variation, seed=seed)
        self._hardness = self._key.hardness(self._card.task_spread)
        self._p_stuck = {name: harder(model.stuck, self._hardness) for name, model in self._card.models.items()}
        self._stuckness = Stuckness(
            key=self._key,
            probabilities=self._p_stuck,
            together=self._card.together,
            is_steady=self._card.is_steady,
        )
        self._outages = self._spells(self._card.outages, OUTAGE_STREAM)
        self._bursts = self._spells(self._card.error_bursts, ERROR_STREAM)
        self._n_bad = dict.fromkeys(self._pool.model_names, 0)
        self._turn = 0
        self._topic = self._topics.get(task_name, "")
        self._prompt_cache = PromptCache(self._pool.prompt_cache, self._pool.bases)
        self._clock_s = 0.0
        self._last_counted: tuple[int, Message] | None = None
        self._n_prompt = 0

    def take_up(self, calls: Sequence[PastCall]) -> None:
        """Go on in the middle of an episode: prompt cache and clock are as after these calls.

        What was learned of stuck models is not taken up: replies do not depend on it, `hidden_state` does. Nor is the turn,
        which `reply` is told.

        Args:
            calls: Those of the episode so far, oldest first; the task is already where they led.
        """
        if self._key is None:
            raise CallOrderError("take_up() was called before start_episode(); start the episode first")
        for call in calls:
            self._prompt_cache.record(call.model, n_prompt=call.n_prompt, now_s=self._clock_s)
            self._clock_s += call.latency_s
            self._n_bad[call.model] += call.is_failure

    def not_callable(self, messages: Sequence[Message]) -> Mapping[str, str]:
        """Models that are out of order before the next turn; see `SelectiveBackend.not_callable`. Messages do not matter."""
        return dict.fromkeys(self.out_of_order(self._turn), "it is out of order (a simulated outage)")

    def out_of_order(self, turn: int) -> tuple[str, ...]:
        """Models that cannot be called at a turn of this episode; never all of them."""
        return () if self._outages is None else self._outages.out_of(self._pool.model_names, turn)

    def reply(self, model: str, messages: Sequence[Message], *, turn: int, max_output_tokens: int) -> Reply:
        """Do what the expert would do, or fail; see `ModelBackend.reply`.

        Raises:
            BackendError: If the model is out of order at this turn.
        """
        if self._key is None:
            raise CallOrderError("reply() was called before start_episode(); reset the environment first")
        simulated = self._card.models[self._pool.model(model).name]
        if model in self.out_of_order(turn):
            raise BackendError(
                f"model '{model}' is out of order at turn {turn} (a simulated outage); call one that not_callable() leaves out"
            )
        self._turn = turn
        n_prompt = self._count_prompt(messages)
        rng = self._key.generator(TURN_STREAM, turn, zlib.crc32(model.encode()))
        text, hidden = self._act(model, simulated, n_prompt=n_prompt, rng=rng)
        drawn = simulated.output_tokens.median * math.exp(simulated.output_tokens.sigma * rng.standard_normal())
        n_output = int(min(max(round(drawn), 1), max_output_tokens))
        latency_s = n_output / simulated.output_tokens.per_second
        n_cached = self._prompt_cache.n_cached(model, n_prompt=n_prompt, now_s=self._clock_s)
        self._prompt_cache.record(model, n_prompt=n_prompt, now_s=self._clock_s)
        self._clock_s += latency_s
        self._turn = turn + 1
        usage = billed_usage(
            self._pool.prompt_cache,
            self._pool.model(model).prices,
            n_prompt=n_prompt,
            n_cached=n_cached,
            n_output=n_output,
        )
        return Reply(text=text, usage=usage, latency_s=latency_s, served_model=model, hidden=hidden)

    def hidden_state(self, *, utility: float, n_prompt_tokens: int, output_limits: Sequence[int]) -> HiddenState:
        """What the simulation knows before the next call; see `HiddenStateBackend.hidden_state`."""
        if self._key is None:
            raise CallOrderError("hidden_state() was called before start_episode(); reset the environment first")
        plan, is_whole = self._plan()
        names = self._pool.model_names
        skills = tuple(self.skill_of(action) for action in plan.actions)
        by_skill = {skill: self._successes(skill, n_prompt=n_prompt_tokens) for skill in dict.fromkeys(skills)}
        success = np.array([by_skill[skill] for skill in skills])
        success[0] = self._successes(skills[0], n_prompt=n_prompt_tokens, turn=self._turn)
        mistakes = self._task.mistakes()
        cards = [self._card.models[name] for name in names]
        lengths = [
            expected_length(card.output_tokens, limit=limit) for card, limit in zip(cards, output_limits, strict=True)
        ]
        cached = [self._prompt_cache.n_cached(name, n_prompt=n_prompt_tokens, now_s=self._clock_s) for name in names]
        return HiddenState(
            actions=plan.actions,
            skills=skills,
            topic=self._topic,
            is_whole_plan=is_whole,
            gains=None if plan.gains is None else np.array(plan.gains) / self._task.max_score,
            utility=utility,
            fatal_utility=None if plan.fatal_score is None else plan.fatal_score / self._task.max_score,
            success=success,
            stuck=self._stuckness.all_of(plan.actions, names),
            often_stuck=self._stuckness.often(names),
            believed_stuck=self._stuckness.believed(plan.actions, success, names),
            failures=failure_shares(cards, skills, offered=mistakes, is_silent=self._card.silent),
            repairs={kind: self._repair(mistakes.get(kind, ()), n_prompt=n_prompt_tokens) for kind in UNDONE_KINDS},
            n_output_tokens=np.array(lengths),
            n_prompt_tokens=n_prompt_tokens,
            n_cached_tokens=np.array(cached, dtype=np.float64),
        )

    def _plan(self) -> tuple[ExpertPlan, bool]:
        """The expert's plan, and whether it reaches the end: of most experts only the next action is known."""
        if isinstance(self._task, PlanningTask):
            return self._task.expert_plan(), True
        return ExpertPlan(actions=(self._task.expert_action(),)), False

    def _spells(self, card: Outages | None, stream: int) -> Spells | None:
        return None if card is None or self._key is None else Spells(card, key=self._key, stream=stream)

    def _successes(self, skill: str, *, n_prompt: int, turn: int | None = None) -> FloatArray:
        """Probabilities of success at a skill, shape (M,); in the bursts of a turn if one is told."""
        return np.array(
            [
                self.success_probability(
                    name, skill=skill, topic=self._topic, burden=self._burden(name, n_prompt=n_prompt, turn=turn)
                )
                for name in self._pool.model_names
            ]
        )

    def _burden(self, model: str, *, n_prompt: int, turn: int | None) -> float:
        """Logit that the episode so far takes off a model's ability."""
        burden = self._card.tired_by_tokens * n_prompt / _TOKENS_PER_UNIT
        burden += self._card.tired_by_others * (sum(self._n_bad.values()) - self._n_bad[model])
        if self._bursts is not None and turn is not None and self._bursts.holds(model, turn):
            burden += self._card.error_bursts.logit if self._card.error_bursts else 0.0
        return burden

    def _repair(self, mistakes: Sequence[str], *, n_prompt: int) -> FloatArray:
        """Success at making up for a mistake, which is taken to need the mistake's skill; being stuck is not drawn yet."""
        skill = self.skill_of(mistakes[0]) if mistakes else OTHER_SKILL
        free = np.array([1 - self._p_stuck[name] for name in self._pool.model_names])
        successes: FloatArray = self._successes(skill, n_prompt=n_prompt) * free
        return successes

    def success_probability(self, model: str, *, skill: str, topic: str, burden: float = 0.0) -> float:
        """Probability that a model that is not stuck does the right thing; a logistic model of ability and difficulty.

        Args:
            model: The model.
            skill: Skill of what is due.
            topic: Topic of the task.
            burden: Logit that the episode so far takes off.
        """
        simulated = self._card.models[model]
        strength = simulated.skills.get(skill, 0.0) + simulated.topics.get(topic, 0.0)
        logit = simulated.ability - self._card.difficulty.get(skill, 0.0) + self._card.complementarity * strength
        return logistic(logit - self._hardness - burden)

    def is_stuck(self, model: str, expert_action: str) -> bool:
        """Whether a model is stuck at the sub-goal that the expert's action stands for, in this episode."""
        if self._key is None:
            raise CallOrderError("no episode has been started; call start_episode() first")
        return self._stuckness.holds(model, expert_action)

    def skill_of(self, action_text: str) -> str:
        """Skill of an action by the environment card's patterns; "other" if none matches."""
        return next((skill for skill, pattern in self._patterns if pattern.match(action_text)), OTHER_SKILL)

    def _act(
        self, model: str, simulated: SimulatedModel, *, n_prompt: int, rng: np.random.Generator
    ) -> tuple[str, dict[str, JsonValue]]:
        expert_action = self._task.expert_action()
        skill = self.skill_of(expert_action)
        burden = self._burden(model, n_prompt=n_prompt, turn=self._turn)
        probability = self.success_probability(model, skill=skill, topic=self._topic, burden=burden)
        stuck = self.is_stuck(model, expert_action)
        is_success = bool(rng.random() < probability) and not stuck
        self._stuckness.learn(model, expert_action, probability=probability, is_success=is_success)
        text, failure = expert_action, ""
        if not is_success:
            self._n_bad[model] += 1
            text, failure = self._fail(simulated, skill=skill, expert_action=expert_action, rng=rng)
        hidden: dict[str, JsonValue] = {
            "skill": skill,
            "topic": self._topic,
            "expert_action": expert_action,
            "success_probability": probability,
            "stuck": stuck,
            "failure": failure,
        }
        return text, hidden

    def _fail(
        self, simulated: SimulatedModel, *, skill: str, expert_action: str, rng: np.random.Generator
    ) -> tuple[str, str]:
        weights = simulated.failure_weights(skill)
        kinds = sorted(weights)
        shares = np.array([weights[kind] for kind in kinds])
        kind: str = kinds[int(rng.choice(len(kinds), p=shares / shares.sum()))]
        mistakes = self._task.mistakes()
        if self._card.silent and kind not in mistakes:
            kind = "idle"
        options = [text for text in mistakes.get(kind, ()) if text != expert_action]
        if kind == "malformed" or not options:
            kind = "malformed"
            options = [template.format(action=expert_action) for template in self._card.malformed]
        return options[int(rng.integers(len(options)))], kind

    def _count_prompt(self, messages: Sequence[Message]) -> int:
        """Tokens of a conversation: counts what is new, or all of it if it was shortened."""
        n_known, last = self._last_counted or (0, None)
        if n_known > len(messages) or (n_known and messages[n_known - 1] is not last):
            n_known, self._n_prompt = 0, 0
        for message in messages[n_known:]:
            self._n_prompt += self._pool.token_counter.count(message.content)
        self._last_counted = (len(messages), messages[-1])
        return self._n_prompt
