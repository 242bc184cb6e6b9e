"""Puts the calls of a log together to sessions, and makes an episode of each: the rules of every importer of calls.

An importer reads its format into records (`call_records`) and gives them to a `SessionAssembler`, in any order. A session is
left out only for what makes it wrong: a call that cannot be read, because the cost would lack it; no score; a model that
nobody can price. Everything else is mended and counted: lines that are there twice, calls out of order, prompts that were
sent again, histories that were cut, calls of other agents beside the main one, scores on every line or after the last.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from pydantic import Field

from mtrouter_rl.datasets.importers.agents import link_agents, named_parents
from mtrouter_rl.datasets.importers.base import Amount, ChatOptions, ImportSource, UnusableEpisodeError
from mtrouter_rl.datasets.importers.call_records import (
    BrokenRecord,
    CallRecord,
    Record,
    ScoreRecord,
    SessionFacts,
)
from mtrouter_rl.datasets.importers.chat import (
    BAD_PROPENSITY,
    Ending,
    LoggedCall,
    TurnBuilder,
    last_turn_gains,
    note_left_out,
)
from mtrouter_rl.datasets.importers.messages import ChatMessage
from mtrouter_rl.datasets.importers.query_table import BAD_SCORE, stable_variation
from mtrouter_rl.datasets.importers.score_files import read_score_files
from mtrouter_rl.datasets.importers.threads import (
    PlacedCall,
    Placer,
    Tell,
    Thread,
    by_agent,
    by_conversation,
    in_order,
    without_doubles,
)
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, UNLIMITED_TURNS, Episode, JsonValue, Turn

NO_END = "session without the line that ends it"
CROWDED = "session that was left open while too many others were"
BAD_CANDIDATES = "candidates without the chosen model"
BAD_GAINS = "utility gains that are incomplete or do not add up to the score"
NO_STATUS = "session whose status was not logged: it is taken as completed"
TWO_SCORES = "session whose lines give different scores: the last one counts"
EARLY_FAILURE = "session that a call before its last one calls failed, and nothing later does"
SUB_AGENTS = "call of another agent than the session's main one, left out of its episode"
SEVERAL_AGENTS = "session of several agents"
OWN_TASK = "prompt that began the conversation of a sub-agent, which no turn shows beyond the call that asked for it"
LONELY_SCORE = "score of a session that has no call in the log"
OVER_LIMIT = "cost limit that the last call went over: the budget is what was spent"
OVER_TURNS = "turn limit below the number of calls: the limit is that number"
BAD_LATENCY = "latency that is no duration, taken as unknown"

_GAIN_TOLERANCE = 1e-6
_TRACE_NAMES = ("trace_id", "traceId", "conversation_id", "instance_id")


class SessionOptions(ChatOptions):
    """Options of every importer of calls.

    Attributes:
        propensities: Whether every call must have a propensity.
        earlier_answers: What answers in the first prompt of a session are taken for.
        sub_agents: What happens to the calls of other agents under one session id.
        max_open_sessions: How many sessions may wait for their last line at the same time.
    """

    propensities: Annotated[
        Literal["exact", "unknown"],
        Field(description="exact: a call without propensity is left out with its session; unknown: it may lack one"),
    ] = "unknown"
    earlier_answers: Annotated[
        Literal["reject", "keep"],
        Field(
            description="answers in the first prompt of a session; reject: calls that no line logs, so the session is "
            "left out; keep: examples in the prompt, part of the first observation"
        ),
    ] = "reject"
    sub_agents: Annotated[
        Literal["main", "turns", "reject"],
        Field(
            description="calls of other agents in a session; main: the episode is the main agent's alone, and the others' "
            "calls and money are counted as left out; turns: they are turns too, and turns name those that they come from; "
            "reject: the session is left out"
        ),
    ] = "main"
    max_open_sessions: Annotated[
        int,
        Field(gt=0, description="sessions that may wait for their last line; beyond it the quietest one is left out"),
    ] = 10_000


@dataclass(kw_only=True)
class _Session:
    """What was read of a session so far.

    Attributes:
        calls: Its calls as they came.
        scores: What was said of it without a call.
        problem: First call that could not be read; the session is left out.
        lost: Tokens and money of such calls.
        n_broken: How many there are.
        n_taken: How often records of it came.
        messages: Every message once, because prompts repeat them.
    """

    calls: list[CallRecord] = field(default_factory=list)
    scores: list[ScoreRecord] = field(default_factory=list)
    problem: BrokenRecord | None = None
    lost: Amount = field(default_factory=Amount)
    n_broken: int = 0
    n_taken: int = 0
    messages: dict[tuple[object, ...], ChatMessage] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Take a record."""
        if isinstance(record, CallRecord):
            self.calls.append(replace(record, messages=tuple(map(self._once, record.messages))))
        elif isinstance(record, ScoreRecord):
            self.scores.append(record)
        else:
            self.problem = self.problem or record
            self.lost += record.amount
            self.n_broken += 1

    def _once(self, message: ChatMessage) -> ChatMessage:
        return self.messages.setdefault((message.role, message.action_text, message.left_out), message)


class SessionAssembler:
    """Takes records in any order and gives an episode for every session that can be used."""

    def __init__(
        self, source: ImportSource, options: SessionOptions, *, expected: Mapping[str, int] | None = None
    ) -> None:
        """Start without a session.

        Args:
            source: Pool, and the report in which everything is counted.
            options: Options of the importer.
            expected: How often `take` will be called for each session, so that one is closed with its last record and memory
                holds the open ones only; None holds all until `finish`.
        """
        self._report = source.report
        self._options = options
        self._builder = TurnBuilder(source)
        self._expected = expected or {}
        self._open: OrderedDict[str, _Session] = OrderedDict()
        self._given: dict[str, list[ScoreRecord]] = {}
        for score in read_score_files(source.scores, source.report):
            self.give(score)
        self._used: set[str] = set()
        self._crowded: set[str] = set()

    def give(self, score: ScoreRecord) -> None:
        """Take what is said of a session by its id or its trace_id, before the session is closed."""
        self._given.setdefault(score.session_id, []).append(score)

    def take(self, *records: Record) -> list[Episode]:
        """Take records of one session, such as all that one line says; gives the episodes that are now whole."""
        if not records:
            return []
        session_id = records[0].session_id
        if session_id in self._crowded:
            late = _Session()
            for record in records:
                late.add(record)
            self._report.left_out += self._amount(late.calls) + late.lost
            return []
        session = self._open.setdefault(session_id, _Session())
        self._open.move_to_end(session_id)
        for record in records:
            session.add(record)
        session.n_taken += 1
        if session.n_taken == self._expected.get(session_id):
            del self._open[session_id]
            return self._close(session_id, session)
        if len(self._open) > self._options.max_open_sessions:
            name, quietest = self._open.popitem(last=False)
            self._crowded.add(name)
            detail = f"more than max_open_sessions={self._options.max_open_sessions} waited for their last line"
            self._reject(quietest, quietest.calls, UnusableEpisodeError(CROWDED, f"session '{name}': {detail}"))
        return []

    def close(self, session_id: str) -> list[Episode]:
        """Close a session whose records are all there; gives its episodes, none if it had no record."""
        session = self._open.pop(session_id, None)
        return [] if session is None else self._close(session_id, session)

    def finish(self) -> Iterator[Episode]:
        """Episodes of the sessions that are still open, in the order of their last record."""
        while self._open:
            session_id, session = self._open.popitem(last=False)
            yield from self._close(session_id, session)
        for name in self._given.keys() - self._used:
            self._report.note(LONELY_SCORE, source=self._given[name][0].source, detail=f"session '{name}'")

    def _with_given_scores(self, session_id: str, session: _Session) -> None:
        """Add what files of scores say of a session, by its id or one of those that its lines give as trace_id."""
        names = {session_id}
        for call in session.calls:
            names |= {str(call.facts.extra[name]) for name in _TRACE_NAMES if name in call.facts.extra}
        for name in sorted(names & self._given.keys()):
            self._used.add(name)
            session.scores += self._given[name]

    def _close(self, session_id: str, session: _Session) -> list[Episode]:
        self._with_given_scores(session_id, session)
        if session.problem is not None:
            problem = UnusableEpisodeError(session.problem.reason, session.problem.detail)
            self._reject(session, session.calls, problem, source=session.problem.source)
            return []
        if not session.calls:
            first = session.scores[0]
            self._report.note(LONELY_SCORE, source=first.source, detail=f"session '{session_id}'")
            return []
        calls, doubles = without_doubles(session.calls)
        for double in doubles:
            self._report.pass_over(
                double.kind, source=double.record.source, detail=double.detail, amount=self._amount([double.record])
            )
        mended: list[tuple[str, str, str]] = []
        tell: Tell = lambda kind, source, detail: mended.append((kind, source, detail))  # noqa: E731
        try:
            parts = by_conversation(in_order(calls, tell), tell)
        except UnusableEpisodeError as error:
            self._reject(session, calls, error)
            return []
        episodes = []
        doubled = [double.record.facts for double in doubles] if len(parts) == 1 else []
        for index, part in enumerate(parts):
            scores = session.scores if len(parts) == 1 else []
            name = session_id if index == 0 else f"{session_id}#{index + 1}"
            try:
                episodes.append(_SessionBuilder(self, name, part, scores, doubled, mended).episode())
            except UnusableEpisodeError as error:
                self._reject(session, part, error)
            else:
                for kind, source, detail in mended:
                    self._report.note(kind, source=source, detail=detail)
            mended.clear()
        return episodes

    def _reject(
        self, session: _Session, calls: Sequence[CallRecord], error: UnusableEpisodeError, *, source: str | None = None
    ) -> None:
        where = source or error.source or (calls[0].source if calls else session.scores[0].source)
        self._report.reject(
            error.reason,
            source=where,
            detail=error.detail,
            n_turns=len(calls) + session.n_broken,
            amount=self._amount(calls) + session.lost,
        )

    def _amount(self, calls: Iterable[CallRecord]) -> Amount:
        """Tokens and money of calls; by the log where the pool does not know the model."""
        return sum((Amount.of_call(call.usage.tokens, self._usd(call)) for call in calls), Amount())

    def _usd(self, call: CallRecord) -> float | None:
        served = self._builder.find(call.served_model or call.model)
        if served is not None:
            return self._builder.price_usd(served, call.usage.tokens) + call.router_cost_usd
        logged = call.usage.cost_usd if call.logged_cost_usd is None else call.logged_cost_usd
        return None if logged is None else logged + call.router_cost_usd


class _SessionBuilder:
    """Makes the episode of one session."""

    def __init__(
        self,
        assembler: SessionAssembler,
        session_id: str,
        records: Sequence[CallRecord],
        scores: Sequence[ScoreRecord],
        doubled: Sequence[SessionFacts],
        mended: list[tuple[str, str, str]],
    ) -> None:
        self._assembler = assembler
        self._report = assembler._report
        self._options = assembler._options
        self._builder = assembler._builder
        self._session_id = session_id
        self._records = records
        self._scores = scores
        self._doubled = doubled
        self._mended = mended

    def _tell(self, kind: str, source: str, detail: str) -> None:
        self._mended.append((kind, source, detail))

    def episode(self) -> Episode:
        """The episode.

        Raises:
            UnusableEpisodeError: If the session cannot be used.
        """
        main, *others = by_agent(self._records)
        side = [record for thread in others for record in thread]
        if side and self._options.sub_agents == "reject":
            detail = (
                f"{len(side)} calls of other agents; --option sub_agents=main takes the main one's alone, =turns all"
            )
            raise UnusableEpisodeError(SEVERAL_AGENTS, detail, source=side[0].source)
        facts = self._facts()
        if side and self._options.sub_agents == "turns":
            return self._of_all_agents((main, *others), facts)
        thread = self._placed(main)
        calls = [self._logged(placed.record) for placed in thread.calls]
        episode = self._build(thread, calls, facts, side)
        for one in side:
            self._report.pass_over(
                SUB_AGENTS,
                source=one.source,
                detail=f"session '{self._session_id}'",
                amount=self._assembler._amount([one]),
            )
        return episode

    def _placed(self, records: Sequence[CallRecord]) -> Thread:
        return Placer(records, self._tell, keeps_examples=self._options.earlier_answers == "keep").thread

    def _of_all_agents(self, agents: Sequence[Sequence[CallRecord]], facts: SessionFacts) -> Episode:
        """An episode whose turns are the calls of all agents, in the order in which they began."""
        threads = [self._placed(records) for records in agents]
        linked = link_agents(threads, self._records)
        whole = Thread(
            opening=threads[0].opening,
            calls=list(linked.calls),
            left_out=[note for thread in threads for note in thread.left_out],
        )
        for thread in threads[1:]:
            self._tell(OWN_TASK, thread.calls[0].record.source, f"session '{self._session_id}'")
        episode = self._build(whole, [self._logged(placed.record) for placed in whole.calls], facts, ())
        turns = tuple(
            turn if turn.parents is not None else replace(turn, parents=own)
            for turn, own in zip(episode.turns, linked.parents, strict=True)
        )
        return replace(episode, turns=turns, extra={**episode.extra, "turn_agents": list(linked.agents)})

    def _facts(self) -> SessionFacts:
        """What all lines say of the session; of those that say something, the last one counts.

        Raises:
            UnusableEpisodeError: If none says how it ended, or two rows of files of scores differ.
        """
        late = sorted(self._scores, key=lambda score: score.is_from_scores)
        said = [*self._doubled, *(record.facts for record in self._records), *(score.facts for score in late)]
        fixed = [score for score in late if score.is_from_scores and score.facts.score is not None]
        if len({score.facts.score for score in fixed}) > 1:
            shown = " and ".join(f"{score.facts.score:g} in {score.source}" for score in fixed[:2])
            raise UnusableEpisodeError(BAD_SCORE, f"two files of scores disagree on '{self._session_id}': {shown}")
        facts = _merged(said)
        last = self._records[-1]
        if facts.score is None and facts.status is None and any(one.utility_gain is None for one in self._records):
            detail = f"session '{self._session_id}': no line gives its score or status; add one, or give --scores FILE"
            raise UnusableEpisodeError(NO_END, detail)
        scores = [one.score for one in said if one.score is not None]
        if len(set(scores)) > 1:
            self._tell(TWO_SCORES, last.source, f"{', '.join(f'{score:g}' for score in scores[:5])}")
        if facts.status is None:
            self._tell(NO_STATUS, last.source, "")
        elif facts.status == "failed" and said[-1].status is None and last.facts.status is None:
            self._tell(EARLY_FAILURE, last.source, f"session '{self._session_id}'")
        return facts

    def _logged(self, record: CallRecord) -> LoggedCall:
        """A call with names of the pool.

        Raises:
            UnusableEpisodeError: If a model is unknown, or the propensity is missing; names the line.
        """
        try:
            if record.propensity is None and self._options.propensities == "exact":
                detail = "propensity is missing; log it, or import with --option propensities=unknown"
                raise UnusableEpisodeError(BAD_PROPENSITY, detail)
            model = self._builder.model(record.model)
            candidates = tuple(self._builder.model(name) for name in record.candidates or ())
            if record.candidates is not None and model not in candidates:
                raise UnusableEpisodeError(BAD_CANDIDATES, f"'{model}' is not among {list(candidates)}")
            served = self._builder.model(record.served_model or record.model)
        except UnusableEpisodeError as error:
            raise UnusableEpisodeError(error.reason, error.detail, source=record.source) from error
        latency_s = record.latency_s
        if latency_s is not None and not 0 <= latency_s < float("inf"):
            self._tell(BAD_LATENCY, record.source, f"latency_s is {latency_s}")
            latency_s = None
        return LoggedCall(
            model=model,
            served_model=served,
            usage=record.usage,
            propensity=record.propensity,
            error=record.error,
            latency_s=latency_s,
            candidates=candidates,
            logged_cost_usd=record.usage.cost_usd if record.logged_cost_usd is None else record.logged_cost_usd,
            router_cost_usd=record.router_cost_usd,
        )

    def _build(
        self, thread: Thread, calls: Sequence[LoggedCall], facts: SessionFacts, side: Sequence[CallRecord]
    ) -> Episode:
        where = self._records[-1].source
        ending: Ending = "terminated" if facts.status in (None, "completed") else facts.status  # type: ignore[assignment]
        gains = _gains(facts, [placed.record.utility_gain for placed in thread.calls], ending)
        answers = [(placed.record.action_text, placed.observation) for placed in thread.calls]
        named = named_parents(thread.calls, self._records, self._tell)
        turns = tuple(
            replace(turn, parents=own)
            for turn, own in zip(self._builder.turns(answers, calls, gains, ending), named, strict=True)
        )
        if any(call.logged_cost_usd is not None for call in calls):
            self._builder.note_costs(turns, calls, source=where)
        else:
            self._builder.note_usage(turns, calls, source=where)
        note_left_out(self._report, thread.left_out, source=where)
        system_text, task_text, first_observation = thread.opening
        return Episode(
            episode_id=self._session_id,
            task=facts.task or "unnamed",
            variation=stable_variation(facts.instance or self._session_id),
            seed=facts.seed or 0,
            split="train",
            task_text=task_text,
            first_observation=first_observation,
            behavior_policy=facts.behavior_policy or "logged",
            budget_usd=self._budget(facts, turns, where),
            max_turns=self._max_turns(facts, turns, where),
            turns=turns,
            status="failed" if ending == "failed" else "completed",
            status_detail=(facts.status_detail or "the log says so") if ending == "failed" else "",
            extra=self._extra(thread.calls, facts, system_text, side),
        )

    def _budget(self, facts: SessionFacts, turns: Sequence[Turn], where: str) -> float:
        if facts.budget_usd is None:
            return UNLIMITED_BUDGET_USD
        spent = sum(turn.cost_usd for turn in turns)
        if spent > facts.budget_usd:
            self._tell(OVER_LIMIT, where, f"limit {facts.budget_usd:g} USD, spent {spent:.6g} USD")
        return max(facts.budget_usd, spent)

    def _max_turns(self, facts: SessionFacts, turns: Sequence[Turn], where: str) -> int:
        if facts.max_turns is not None and facts.max_turns < len(turns):
            self._tell(OVER_TURNS, where, f"max_turns is {facts.max_turns}, {len(turns)} calls")
        return UNLIMITED_TURNS if facts.max_turns is None else max(facts.max_turns, len(turns))

    def _extra(
        self, calls: Sequence[PlacedCall], facts: SessionFacts, system_text: str, side: Sequence[CallRecord]
    ) -> dict[str, JsonValue]:
        times = [one.record.timestamp for one in calls if one.record.timestamp is not None]
        own: dict[str, JsonValue] = {
            "system_prompt": system_text,
            "timestamp": times[-1] if times else None,
            "instance": facts.instance,
        }
        extra = {name: value for name, value in own.items() if value} | dict(facts.extra)
        if side:
            amount = self._assembler._amount(side)
            extra |= {"sub_agent_calls": amount.n_calls, "sub_agent_cost_usd": amount.usd}
        return extra


def _merged(said: Iterable[SessionFacts]) -> SessionFacts:
    """Of each field, what was said last."""
    values: dict[str, object] = {}
    extra: dict[str, JsonValue] = {}
    for facts in said:
        values |= {name: value for name, value in vars(facts).items() if value is not None and name != "extra"}
        extra |= facts.extra
    return SessionFacts(**values, extra=extra)  # type: ignore[arg-type]


def _gains(facts: SessionFacts, gains: Sequence[float | None], ending: Ending) -> list[float]:
    """Utility gain of every turn.

    Raises:
        UnusableEpisodeError: If there is no score, or the gains at the calls do not fit it.
    """
    given = [gain for gain in gains if gain is not None]
    if ending == "failed" and len(given) < len(gains):
        return [0.0] * len(gains)
    if facts.score is None and len(given) < len(gains):
        raise UnusableEpisodeError(BAD_SCORE, "score is missing; only a session of status 'failed' may lack one")
    if not given:
        assert facts.score is not None
        return last_turn_gains(facts.score, len(gains))
    if len(given) < len(gains):
        detail = f"{len(given)} of {len(gains)} calls have a utility_gain; give all or none"
        raise UnusableEpisodeError(BAD_GAINS, detail)
    if facts.score is not None and abs(sum(given) - facts.score) > _GAIN_TOLERANCE:
        raise UnusableEpisodeError(BAD_GAINS, f"they add up to {sum(given):.6g}, score is {facts.score:.6g}")
    return given


def assemble(records: Iterable[Record], source: ImportSource, options: SessionOptions) -> Iterator[Episode]:
    """Episodes of all records of a log, for an importer that holds them all."""
    assembler = SessionAssembler(source, options)
    for record in records:
        yield from assembler.take(record)
    yield from assembler.finish()
