"""Imports trajectories of SWE-agent (`*.traj`): one run an episode, tokens reconstructed from the run's totals.

Source: github.com/SWE-agent/SWE-agent, `sweagent/types.py` (`TrajectoryStep`, `AgentInfo`), `sweagent/agent/agents.py` and
`models.py` (`InstanceStats`). A file has `trajectory` (steps with `response`, `action`, `observation`), `history` and `info`
with `exit_status` and `model_stats`: `tokens_sent` and `tokens_received` of the whole run, and none of a call. They are
shared out as in the importer of BALROG: prompts by the characters that were there before each call, outputs by the length
of the answer. The model stands in `replay_config`, if the version writes that, or is an option.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mtrouter_rl.datasets.importers.archives import LogFile
from mtrouter_rl.datasets.importers.balrog_files import apportion
from mtrouter_rl.datasets.importers.base import Amount, ChatImporter, ChatOptions, ImportSource, UnusableEpisodeError
from mtrouter_rl.datasets.importers.chat import (
    BAD_MODEL,
    BAD_SHAPE,
    ChatMessage,
    Count,
    Ending,
    LogModel,
    Usd,
    differs,
    parse_object,
    read_log_files,
    read_message,
    validated,
)
from mtrouter_rl.datasets.importers.formats.rows import as_number, as_object, as_text, first_of
from mtrouter_rl.datasets.importers.formats.whole_runs import OTHER_TOTAL, Run, RunCall, RunConverter
from mtrouter_rl.datasets.importers.query_table import BAD_COUNT
from mtrouter_rl.datasets.importers.run_scores import RunScores
from mtrouter_rl.datasets.importers.sample import Sample
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.pools.usage import known_tokens
from mtrouter_rl.records import Episode, Frozen, JsonValue, TokenUsage

SUFFIX = ".traj"
TRUNCATED = ("exit_cost", "exit_context", "exit_total_execution_time", "exit_command_timeout")
MODEL_FAILED = ("exit_format", "exit_forfeit")
"""The model itself gave up, or answered in a wrong form until the agent did."""
NOT_ENDED = "run without an exit status"
ATTEMPTS = "run of several attempts, whose tokens are one sum"
REQUERIES = "call that was made again within a step; its tokens are part of the run's totals"
OWN_FAILURE = "run that the model itself gave up, without a submission: its score is 0"


class _Step(LogModel):
    action: str | None = None
    observation: str | None = None
    response: str | None = None
    query: list[dict[str, object]] | None = None

    @property
    def text(self) -> str:
        """What the model wrote: its answer, with the command where that came as a tool call."""
        answer, action = self.response or "", (self.action or "").strip()
        return answer if not action or action in answer else f"{answer}\n{action}" if answer else action


class _Stats(LogModel):
    instance_cost: Usd | None = None
    tokens_sent: Count | None = None
    tokens_received: Count | None = None
    api_calls: Count | None = None


class _Info(LogModel):
    exit_status: str | None = None
    submission: str | None = None
    model_stats: _Stats | None = None


class _Trajectory(LogModel):
    trajectory: list[_Step]
    info: _Info
    history: list[dict[str, object]] = Field(default_factory=list)
    environment: str | None = None
    replay_config: str | dict[str, object] | None = None
    attempts: list[object] | None = None


class SWEAgentOptions(ChatOptions):
    """Options of the format.

    Attributes:
        propensities: Whether the propensity of every turn must be known.
        model: Model of the runs whose file does not say.
    """

    propensities: Annotated[
        Literal["exact", "unknown"],
        Field(description="one model played each run, so it was chosen with probability 1 either way"),
    ] = "exact"
    model: Annotated[
        str | None, Field(description="model of the runs whose file does not name it (versions without replay_config)")
    ] = None


class SWEAgentImporter(ChatImporter[SWEAgentOptions]):
    """Reads trajectory files one by one."""

    options_model: ClassVar[type[Frozen]] = SWEAgentOptions
    takes_scores: ClassVar[bool] = True
    description: ClassVar[str] = (
        "trajectories (*.traj) of SWE-agent, tokens reconstructed from totals; scores come from SWE-bench's report or a table"
    )
    env = "sweagent"
    assumptions = (
        "one model played a run from start to end, so it was chosen with probability 1",
        "tokens a turn are reconstructed from the run's totals, to which they add up: prompts by the characters that were "
        "there before each call, outputs by the length of the answer",
        "the whole score is booked on the last turn; every model of the pool could be chosen; no prompt cache was warm",
        "prompt tokens are fresh, because the log does not say how many were cached",
        "variation is a 48-bit hash of the instance's id",
    )

    @classmethod
    def recognizes(cls, sample: Sample) -> str:
        """Why a file looks like this format; empty if it does not."""
        return "'trajectory' and 'history'" if {"trajectory", "history", "info"} <= sample.first.keys() else ""

    def episodes(self, source: ImportSource) -> Iterator[Episode]:
        """Episodes file by file; see `Importer`.

        Raises:
            DatasetError: If a path does not exist, or no path holds a trajectory.
        """
        scores = RunScores(source, is_run=lambda path: path.name.lower().endswith(SUFFIX))
        convert = _Converter(source, self._options, scores)
        for path in source.paths:
            if path not in scores.paths:
                for file in read_log_files(path, source.report, suffixes=(SUFFIX,)):
                    episode = convert.episode(file, path)
                    if episode is not None:
                        yield episode
        if not convert.n_trajectories:
            raise DatasetError(
                f"no trajectory of SWE-agent in {', '.join(map(str, source.paths))}; give folders or archives with files "
                f"that end in {SUFFIX}, or such files, which hold 'trajectory', 'history' and 'info'"
            )


class _Converter:
    def __init__(self, source: ImportSource, options: SWEAgentOptions, scores: RunScores) -> None:
        self.n_trajectories = 0
        self._report = source.report
        self._options = options
        self._runs = RunConverter(source, options, scores)

    def episode(self, file: LogFile, path: Path) -> Episode | None:
        """The episode of a file, or None if it is left out and counted."""
        try:
            row = parse_object(file.data)
            if "trajectory" not in row or not isinstance(row.get("info"), dict):
                raise UnusableEpisodeError(
                    BAD_SHAPE, "no 'trajectory' or no 'info'; this is no trajectory of SWE-agent"
                )
            self.n_trajectories += 1
            run = validated(_Trajectory, row)
        except UnusableEpisodeError as error:
            self._report.reject(error.reason, source=file.source, detail=error.detail)
            return None
        stats = run.info.model_stats or _Stats()
        try:
            return self._build(run, stats, file, path)
        except UnusableEpisodeError as error:
            lost = Amount(
                n_calls=len(run.trajectory),
                n_unknown=len(run.trajectory),
                n_prompt=stats.tokens_sent or 0,
                n_output=stats.tokens_received or 0,
            )
            self._report.reject(
                error.reason, source=file.source, detail=error.detail, n_turns=len(run.trajectory), amount=lost
            )
            return None

    def _build(self, run: _Trajectory, stats: _Stats, file: LogFile, path: Path) -> Episode | None:
        where = file.source
        if run.attempts:
            raise UnusableEpisodeError(
                ATTEMPTS, f"{len(run.attempts)} attempts; import the files of the single attempts"
            )
        ending = _ending(run.info)
        config = as_object(run.replay_config if isinstance(run.replay_config, str) else dict(_plain(run.replay_config)))
        model = as_text(first_of(config, "agent.model.name", "agent.model.model_name")) or self._options.model or ""
        if not model:
            raise UnusableEpisodeError(BAD_MODEL, "the file has no replay_config; give --option model=NAME")
        steps = [step for step in run.trajectory if step.text]
        messages, places = _messages(run, steps)
        usages = _usages(run, steps, stats)
        self._note(stats, len(steps), where)
        calls = {
            place: RunCall(models=(model, self._options.model), usage=known_tokens(usage))
            for place, usage in zip(places, usages, strict=True)
        }
        instance = run.environment if run.environment not in (None, "swe_main") else ""
        stem = file.path.name.removesuffix(SUFFIX)
        score = None
        is_own = run.info.exit_status in MODEL_FAILED and not run.info.submission
        if is_own:
            self._report.note(OWN_FAILURE, source=where, detail=str(run.info.exit_status))
            score = 0.0
        self._compare(stats, calls.values(), where)
        return self._runs.episode(
            Run(
                source=where,
                run_id=f"{stem}/{model}" if not file.path.parent.name else f"{stem}/{file.path.parent.as_posix()}",
                task="swe-agent",
                instance=stem,
                messages=messages,
                calls=calls,
                score=score,
                ending=ending,
                status_detail=str(run.info.exit_status),
                budget_usd=as_number(first_of(config, "agent.model.per_instance_cost_limit")),
                configured=model,
                usage_source="reconstructed",
                score_ids=tuple(one for one in (stem, instance) if one),
                extra={
                    "exit_status": run.info.exit_status,
                    "logged_cost_usd": stats.instance_cost,
                    "api_calls": stats.api_calls,
                    "logged_input_tokens": stats.tokens_sent,
                    "logged_output_tokens": stats.tokens_received,
                },
            ),
            path=path,
            file=file,
        )

    def _note(self, stats: _Stats, n_steps: int, where: str) -> None:
        n_more = (stats.api_calls or 0) - n_steps
        if n_more > 0:
            self._report.note(REQUERIES, source=where, detail=f"api_calls {stats.api_calls}, {n_steps} steps", n=n_more)

    def _compare(self, stats: _Stats, calls: Iterable[RunCall], where: str) -> None:
        amount = sum((self._runs.amount(call) for call in calls), Amount())
        if stats.instance_cost is not None and not amount.n_unknown and differs(stats.instance_cost, amount.usd):
            detail = f"logged {stats.instance_cost:.6g} USD, computed {amount.usd:.6g} USD"
            self._report.note(OTHER_TOTAL, source=where, detail=detail)


def _plain(config: dict[str, object] | None) -> dict[str, JsonValue]:
    return {name: value for name, value in (config or {}).items() if isinstance(value, dict | str | int | float | list)}


def _ending(info: _Info) -> Ending:
    """How a run ended.

    Raises:
        UnusableEpisodeError: If the log does not say.
    """
    status = info.exit_status
    if not status:
        raise UnusableEpisodeError(NOT_ENDED, "info.exit_status is missing; the run was stopped or still goes on")
    if status == "submitted" or status in MODEL_FAILED:
        return "terminated"
    inner = status.removeprefix("submitted (").removesuffix(")")
    return "truncated" if inner in TRUNCATED or inner in MODEL_FAILED else "failed"


def _messages(run: _Trajectory, steps: Sequence[_Step]) -> tuple[list[ChatMessage], list[int]]:
    """Messages of a run, and the places of its answers: what was there before the first answer, then step by step."""
    messages = []
    for raw in run.history:
        if raw.get("role") == "assistant" and not raw.get("is_demo"):
            break
        if not raw.get("is_demo"):
            messages.append(read_message({"role": raw.get("role"), "content": raw.get("content")}))
    places = []
    for step in steps:
        places.append(len(messages))
        messages.append(ChatMessage(role="assistant", content=step.text))
        if step.observation:
            messages.append(ChatMessage(role="user", content=step.observation))
    return messages, places


def _usages(run: _Trajectory, steps: Sequence[_Step], stats: _Stats) -> list[TokenUsage]:
    """Tokens of every step, which add up to the totals.

    Raises:
        UnusableEpisodeError: If there are no totals, or no step.
    """
    if not stats.tokens_sent or stats.tokens_received is None:
        raise UnusableEpisodeError(
            BAD_COUNT,
            f"info.model_stats has tokens_sent {stats.tokens_sent}, tokens_received {stats.tokens_received}; SWE-agent logs "
            "no tokens of a call, and without these totals they cannot be reconstructed",
        )
    if not steps:
        raise UnusableEpisodeError(BAD_SHAPE, "trajectory has no step in which the model answered")
    opening = sum(len(str(raw.get("content") or "")) for raw in run.history[: _n_before(run.history)])
    weights, seen = [], opening
    for step in steps:
        query = step.query or ()
        weights.append(sum(len(str(raw.get("content") or "")) for raw in query) or seen)
        seen += len(step.text) + len(step.observation or "")
    prompts = apportion(stats.tokens_sent, weights)
    outputs = apportion(stats.tokens_received, [len(step.text) for step in steps])
    return [TokenUsage(n_fresh=n_in, n_output=n_out) for n_in, n_out in zip(prompts, outputs, strict=True)]


def _n_before(history: Sequence[dict[str, object]]) -> int:
    """How many messages were there before the first answer; demonstrations are among them."""
    own = (index for index, raw in enumerate(history) if raw.get("role") == "assistant" and not raw.get("is_demo"))
    return next(own, len(history))
