"""From a run that stands in one piece in a log to an episode: what the importers of agents' and evaluations' runs share."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mtrouter_rl.cards.policy import single_policy
from mtrouter_rl.datasets.importers.archives import LogFile
from mtrouter_rl.datasets.importers.base import Amount, ChatOptions, ImportSource, UnusableEpisodeError
from mtrouter_rl.datasets.importers.chat import (
    BAD_PROPENSITY,
    ChatMessage,
    Ending,
    LoggedCall,
    TurnBuilder,
    call_usage,
    last_turn_gains,
    note_left_out,
    split_conversation,
)
from mtrouter_rl.datasets.importers.query_table import BAD_COUNT, BAD_SCORE, stable_variation
from mtrouter_rl.datasets.importers.run_scores import RunScores
from mtrouter_rl.pools.usage import UsageReading
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, UNLIMITED_TURNS, Episode, JsonValue, Turn, UsageSource

SILENT = "answer to which nothing came back"
OVER_LIMIT = "cost limit that the last call went over: the budget is what was spent"
BROKE_SCORE = "score of a run that broke, not taken"
OTHER_TOTAL = "total of a run that differs from the sum of its calls"


@dataclass(frozen=True, kw_only=True)
class RunCall:
    """What a log says of the call behind one answer.

    Attributes:
        models: Names of the model that was chosen, best first; the first that the pool knows counts.
        usage: Its tokens as logged, or as they were worked out; None if the log has none.
        served: Name of the model that answered, if the log tells the two apart.
        cost_usd: Cost by the log, USD; None takes what the usage says.
        latency_s: Duration, seconds.
        error: Kind of error that the answer was.
        where: Field that the tokens stand in, for messages.
    """

    models: tuple[str | None, ...]
    usage: object
    served: str | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    error: str = ""
    where: str = "usage"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of an agent, as a log has it.

    Attributes:
        source: Where it is, for messages.
        run_id: Id of the episode.
        task: Name of the kind of task.
        instance: Which instance of the task.
        messages: The whole conversation.
        calls: The call behind every answer, by its place in `messages`.
        score: Score divided by its maximum; None if the log has none.
        ending: How it ended.
        status_detail: Why it failed.
        seed: Which run of the instance.
        max_turns: Turn limit; None if there was none, or the log does not say.
        budget_usd: Cost limit, USD; None as above.
        configured: Name of the only model that the agent could call; empty if there were several.
        usage_source: Whether the tokens of every call were logged.
        score_ids: Names by which a table of scores may know it, best first.
        extra: What else is kept.
    """

    source: str
    run_id: str
    task: str
    instance: str
    messages: Sequence[ChatMessage]
    calls: Mapping[int, RunCall]
    score: float | None
    ending: Ending = "terminated"
    status_detail: str = ""
    seed: int = 0
    max_turns: int | None = None
    budget_usd: float | None = None
    configured: str = ""
    usage_source: UsageSource = "logged"
    score_ids: tuple[str, ...] = ()
    extra: Mapping[str, JsonValue] = field(default_factory=dict)


class RunConverter:
    """Makes episodes of runs, or counts why it cannot, with the tokens and the money that are lost."""

    def __init__(self, source: ImportSource, options: ChatOptions, scores: RunScores | None = None) -> None:
        self.report = source.report
        self.builder = TurnBuilder(source)
        self._options = options
        self._scores = scores

    def episode(self, run: Run, *, path: Path, file: LogFile) -> Episode | None:
        """The episode of a run that was found in a file below a path; None if it is left out and counted."""
        try:
            return self._build(run, path, file)
        except UnusableEpisodeError as error:
            self.reject(error, source=run.source, calls=run.calls.values())
            return None

    def reject(self, error: UnusableEpisodeError, *, source: str, calls: Iterable[RunCall] = ()) -> None:
        """Count a run that is left out."""
        lost = list(calls)
        amount = sum((self.amount(call) for call in lost), Amount())
        self.report.reject(error.reason, source=source, detail=error.detail, n_turns=len(lost), amount=amount)

    def amount(self, call: RunCall) -> Amount:
        """Tokens and money of a call, as far as they are known."""
        try:
            usage = _reading(call)
        except UnusableEpisodeError:
            return Amount.of_call(None, None)
        served = next((name for one in (call.served, *call.models) if (name := self.builder.find(one))), None)
        if served is None:
            return Amount.of_call(usage.tokens, None)
        logged = LoggedCall(model=served, served_model=served, usage=usage, propensity=None)
        return Amount.of_call(usage.tokens, self.builder.cost_usd(logged))

    def _build(self, run: Run, path: Path, file: LogFile) -> Episode:
        talk = split_conversation(run.messages, may_be_silent=True)
        calls = [self._call(run, answer.index) for answer in talk.answers]
        model = {call.model for call in calls}
        score = self._score(run, model.pop() if len(model) == 1 else "", path, file)
        answers = [(answer.action_text, answer.observation_text) for answer in talk.answers]
        turns = self.builder.turns(answers, calls, last_turn_gains(score, len(calls)), run.ending)
        self._note(run, turns, calls)
        note_left_out(self.report, talk.left_out, source=run.source)
        return Episode(
            episode_id=run.run_id,
            task=run.task,
            variation=stable_variation(run.instance),
            seed=run.seed,
            split="train",
            task_text=talk.task_text,
            first_observation=talk.first_observation,
            behavior_policy=_policy(turns),
            budget_usd=self._budget(run, turns),
            max_turns=max(run.max_turns, len(turns)) if run.max_turns else UNLIMITED_TURNS,
            turns=turns,
            status="failed" if run.ending == "failed" else "completed",
            status_detail=run.status_detail[:500] if run.ending == "failed" else "",
            usage_source=run.usage_source,
            extra=_plain({**run.extra, "instance": run.instance, "system_prompt": talk.system_text}),
        )

    def _call(self, run: Run, index: int) -> LoggedCall:
        call = run.calls.get(index)
        if call is None:
            raise UnusableEpisodeError(BAD_COUNT, f"message {index} is an answer without model and usage")
        usage = _reading(call)
        model = self.builder.model(*call.models)
        served = self.builder.model(call.served) if call.served else model
        propensity = 1.0 if run.configured and self.builder.find(run.configured) == model else None
        if propensity is None and self._options.propensities == "exact":
            raise UnusableEpisodeError(
                BAD_PROPENSITY,
                f"that of '{model}' is not known: more models than one could be called; import with --option "
                "propensities=unknown",
            )
        return LoggedCall(
            model=model,
            served_model=served,
            usage=usage,
            propensity=propensity,
            error=call.error,
            latency_s=call.latency_s,
            logged_cost_usd=call.cost_usd if call.cost_usd is not None else usage.cost_usd,
        )

    def _score(self, run: Run, model: str, path: Path, file: LogFile) -> float:
        if run.ending == "failed":
            if run.score is not None:
                self.report.note(BROKE_SCORE, source=run.source, detail=f"{run.score:g}")
            return 0.0
        ids = run.score_ids or (run.run_id, run.instance)
        found = self._scores.find(ids, model=model, path=path, file=file) if self._scores else None
        score = run.score if found is None else found
        if score is None:
            hint = self._scores.explain(ids) if self._scores else ""
            raise UnusableEpisodeError(
                BAD_SCORE, f"the log has none; give a table of scores that has '{ids[0]}' as a further PATH{hint}"
            )
        if not -1 <= score <= 1:
            raise UnusableEpisodeError(BAD_SCORE, f"is {score:g}, must be in [-1, 1]; divide it by its maximum")
        return score

    def _budget(self, run: Run, turns: Sequence[Turn]) -> float:
        if not run.budget_usd:  # 0 stands for none in these programs
            return UNLIMITED_BUDGET_USD
        spent = sum(turn.cost_usd for turn in turns)
        if spent > run.budget_usd:
            detail = f"limit {run.budget_usd:g} USD, spent {spent:.6g} USD"
            self.report.note(OVER_LIMIT, source=run.source, detail=detail)
        return max(run.budget_usd, spent)

    def _note(self, run: Run, turns: Sequence[Turn], calls: Sequence[LoggedCall]) -> None:
        if run.usage_source == "logged":
            self.builder.note_costs(turns, calls, source=run.source)
        n_silent = sum(not turn.observation_text for turn in turns[:-1])
        if n_silent:
            self.report.note(SILENT, source=run.source, n=n_silent)


def _reading(call: RunCall) -> UsageReading:
    return call.usage if isinstance(call.usage, UsageReading) else call_usage(call.usage, where=call.where)


def _policy(turns: Sequence[Turn]) -> str:
    models = {turn.model for turn in turns}
    is_single = len(models) == 1 and all(turn.propensity == 1.0 for turn in turns)
    return single_policy(models.pop()) if is_single else "logged"


def _plain(extra: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    return {name: value for name, value in extra.items() if value is not None}
