"""Imports trajectories in ATIF, the Agent Trajectory Interchange Format of Harbor and Terminal-Bench.

Source: the RFC of the format (github.com/laude-institute/harbor, `docs/rfcs/0001-trajectory-format.md`, versions 1.0 to 1.7)
and the folders that Harbor writes: `JOB/TRIAL/agent/trajectory.json`, `JOB/TRIAL/result.json` with the verifier's reward,
and `JOB/TRIAL/verifier/reward.txt` or `reward.json`.

A step of the agent is a turn; its observation is that of the step and whatever follows up to the next one. `prompt_tokens`
includes what was cached. Steps that were copied from an earlier part of the same trajectory (`is_copied_context`) were
billed there. What a sub-agent did is no turn of the agent that called it; its tokens and money are counted as passed over.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal, cast

from pydantic import Field

from mtrouter_rl.datasets.importers.archives import LogFile
from mtrouter_rl.datasets.importers.base import (
    Amount,
    ChatImporter,
    ChatOptions,
    ImportReport,
    ImportSource,
    UnusableEpisodeError,
    cut,
)
from mtrouter_rl.datasets.importers.chat import (
    ChatMessage,
    Ending,
    LogModel,
    Usd,
    parse_object,
    read_log_files,
    read_message,
    validated,
)
from mtrouter_rl.datasets.importers.formats.atif_files import (
    RESULT_FILE,
    REWARD_FILES,
    VERSION,
    Beside,
    Trial,
    is_trajectory,
    object_at,
    place_of,
)
from mtrouter_rl.datasets.importers.formats.whole_runs import OTHER_TOTAL, Run, RunCall, RunConverter
from mtrouter_rl.datasets.importers.query_table import BAD_SCORE
from mtrouter_rl.datasets.importers.run_scores import RunScores
from mtrouter_rl.datasets.importers.sample import Sample
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import Episode, Frozen, JsonValue

KNOWN_VERSIONS = tuple(f"{VERSION}1.{minor}" for minor in range(8))
TRUNCATED = ("AgentTimeoutError",)
"""Exceptions of a trial that a limit raised; the verifier scores what is there."""
OTHER_FILE = "JSON file that is neither a trajectory, a result nor a table of scores, not read"
LOST_PART = "continued trajectory whose earlier part is not there"
SUB_AGENT = "run of a sub-agent, whose calls are no turns of the agent that called it"
SEVERAL_CALLS = "step for which the agent made several calls, whose tokens are one sum"
NO_CALL = "step of the agent without a call of a model, part of what came before it"
UNKNOWN_VERSION = "schema_version that is not known, read like the known ones"
WRONG_TRIAL = "trial that raised an exception and was scored all the same"


class _ToolCall(LogModel):
    function_name: str
    arguments: dict[str, object] | str | None = None
    tool_call_id: str | None = None


class _Result(LogModel):
    content: str | list[dict[str, object]] | None = None
    subagent_trajectory_ref: list[dict[str, object]] | None = None


class _Observation(LogModel):
    results: list[_Result]


class _Step(LogModel):
    source: Literal["system", "user", "agent"]
    message: str | list[dict[str, object]] | None = None
    model_name: str | None = None
    timestamp: str | None = None
    tool_calls: list[_ToolCall] | None = None
    observation: _Observation | None = None
    metrics: dict[str, object] | None = None
    is_copied_context: bool | None = None
    llm_call_count: int | None = None

    @property
    def is_call(self) -> bool:
        """Whether a model was called."""
        return self.source == "agent" and self.llm_call_count != 0 and not self.is_copied_context


class _Agent(LogModel):
    name: str
    model_name: str | None = None


class _Totals(LogModel):
    total_prompt_tokens: float | None = None
    total_completion_tokens: float | None = None
    total_cost_usd: Usd | None = None


class _Trajectory(LogModel):
    schema_version: str
    agent: _Agent
    steps: list[_Step]
    session_id: str | None = None
    trajectory_id: str | None = None
    final_metrics: _Totals | None = None
    continued_trajectory_ref: str | None = None
    subagent_trajectories: list[dict[str, object]] | None = None


class ATIFOptions(ChatOptions):
    """Options of the format.

    Attributes:
        propensities: Whether every answer must be of the agent's only model.
        max_reward: Reward of full success.
    """

    propensities: Annotated[
        Literal["exact", "unknown"],
        Field(
            description="exact: a run whose models are not those of its agent's card alone is left out; unknown: kept"
        ),
    ] = "unknown"
    max_reward: Annotated[float, Field(gt=0, allow_inf_nan=False, description="reward of full success")] = 1.0


class ATIFImporter(ChatImporter[ATIFOptions]):
    """Reads what Harbor writes: a pass over results and references, then one trajectory after the other."""

    options_model: ClassVar[type[Frozen]] = ATIFOptions
    takes_scores: ClassVar[bool] = True
    description: ClassVar[str] = (
        "trajectories in ATIF (Harbor, Terminal-Bench) with the rewards that lie beside them; folder of a job, or files"
    )
    env = "atif"
    assumptions = (
        "a step of the agent is one call, and the whole reward is booked on the last turn",
        "an agent that names one model for the whole trajectory chose it with probability 1",
        "every model of the pool could be chosen; no prompt cache was warm before a turn",
        "variation is a 48-bit hash of the task's name",
    )

    @classmethod
    def recognizes(cls, sample: Sample) -> str:
        """Why a file looks like this format; empty if it does not."""
        version = sample.first.get("schema_version")
        return f"schema_version is {version}" if isinstance(version, str) and version.startswith(VERSION) else ""

    def episodes(self, source: ImportSource) -> Iterator[Episode]:
        """Episodes trajectory by trajectory; see `Importer`.

        Raises:
            DatasetError: If a path does not exist, or no path holds a trajectory.
        """
        scores = RunScores(
            source, is_run=lambda path: path.name.lower() == RESULT_FILE or "trajectory" in path.name.lower()
        )
        beside = Beside()
        for path in source.paths:
            if path not in scores.paths:
                beside.read(path, ImportReport(format=source.report.format))
        convert = _Converter(source, self._options, scores, beside)
        for path in source.paths:
            if path not in scores.paths:
                for file in read_log_files(path, source.report, suffixes=(".json",)):
                    episode = convert.episode(file, path)
                    if episode is not None:
                        yield episode
        if not convert.n_trajectories:
            raise DatasetError(
                f"no ATIF trajectory in {', '.join(map(str, source.paths))}; give the folder of a job of Harbor, or JSON "
                f"files whose schema_version begins with {VERSION}"
            )


class _Converter:
    """Turns a trajectory into an episode, or counts why it cannot."""

    def __init__(self, source: ImportSource, options: ATIFOptions, scores: RunScores, beside: Beside) -> None:
        self.n_trajectories = 0
        self._options = options
        self._beside = beside
        self._report = source.report
        self._runs = RunConverter(source, options, scores)
        self._waiting: dict[str, tuple[LogFile, _Trajectory]] = {}
        self._parts: dict[str, _Trajectory] = {}

    def episode(self, file: LogFile, path: Path) -> Episode | None:
        """The episode of a file, or of the file that waited for it; None if there is none."""
        try:
            row = parse_object(file.data)
            if not is_trajectory(row):
                self._pass_over(file, row)
                return None
            self.n_trajectories += 1
            run = validated(_Trajectory, row)
        except UnusableEpisodeError as error:
            self._report.reject(error.reason, source=file.source, detail=error.detail)
            return None
        if run.schema_version not in KNOWN_VERSIONS:
            self._report.note(UNKNOWN_VERSION, source=file.source, detail=cut(run.schema_version))
        place = place_of(path, file, file.path)
        if self._is_sub_agent(run, place):
            self._report.pass_over(SUB_AGENT, source=file.source, amount=self._amount(run))
            return None
        return self._in_order(run, file, path, place)

    def _in_order(self, run: _Trajectory, file: LogFile, path: Path, place: str) -> Episode | None:
        """Puts a trajectory and its continuation together, whichever comes first."""
        if place in self._beside.continued:
            if place not in self._waiting:
                self._parts[place] = run
                return None
            file, first = self._waiting.pop(place)
            return self._in_order(_joined(first, run), file, path, place_of(path, file, file.path))
        if run.continued_trajectory_ref:
            following = place_of(path, file, file.path.parent / PurePosixPath(run.continued_trajectory_ref).name)
            if following not in self._parts:
                self._waiting[following] = file, run
                return None
            return self._in_order(_joined(run, self._parts.pop(following)), file, path, place)
        return self._build(run, file, path)

    def _pass_over(self, file: LogFile, row: Mapping[str, JsonValue]) -> None:
        if file.path.name.lower() not in (RESULT_FILE, *REWARD_FILES):
            self._report.note(OTHER_FILE, source=file.source, detail=f"has {', '.join(list(row)[:6])}")

    def _is_sub_agent(self, run: _Trajectory, place: str) -> bool:
        ids = {place, run.trajectory_id, run.session_id if run.trajectory_id is None else None}
        return bool(ids & self._beside.sub_agents)

    def _amount(self, run: _Trajectory) -> Amount:
        return sum((self._runs.amount(_call(run, index, step)) for index, step in _calls(run)), Amount())

    def _build(self, run: _Trajectory, file: LogFile, path: Path) -> Episode | None:
        trial = self._beside.trial(path, file)
        where = file.source
        calls = [_call(run, index, step) for index, step in _calls(run)]
        try:
            messages, places = self._messages(run, where)
            ending, detail = self._ending(trial, where)
            if trial.problem and ending != "failed":
                raise UnusableEpisodeError(BAD_SCORE, trial.problem)
        except UnusableEpisodeError as error:
            self._runs.reject(error, source=where, calls=calls)
            return None
        for raw in run.subagent_trajectories or ():
            self._pass_sub_agent(raw, where)
        self._compare_totals(run, calls, where)
        reward = None if trial.reward is None else trial.reward / self._options.max_reward
        models = {call.models[0] for call in calls}
        name = run.trajectory_id or run.session_id or trial.name or file.path.as_posix()
        return self._runs.episode(
            Run(
                source=where,
                run_id=f"{trial.name}/{name}" if trial.name and trial.name != name else name,
                task=trial.dataset or run.agent.name,
                instance=trial.task or trial.name or name,
                messages=messages,
                calls=dict(zip(places, calls, strict=True)),
                score=reward,
                ending=ending,
                status_detail=detail,
                configured=run.agent.model_name or "" if models <= {run.agent.model_name} else "",
                score_ids=tuple(one for one in (name, run.session_id, trial.name, trial.task) if one),
                extra={"agent": run.agent.name, "schema_version": run.schema_version, "timestamp": _first_time(run)},
            ),
            path=path,
            file=file,
        )

    def _pass_sub_agent(self, raw: Mapping[str, object], where: str) -> None:
        try:
            inner = validated(_Trajectory, {"schema_version": VERSION, **raw})
        except UnusableEpisodeError as error:
            self._report.pass_over(SUB_AGENT, source=where, detail=error.detail, amount=Amount.of_call(None, None))
            return
        self._report.pass_over(SUB_AGENT, source=where, amount=self._amount(inner))

    def _messages(self, run: _Trajectory, where: str) -> tuple[list[ChatMessage], list[int]]:
        """Messages of a trajectory, and the places of the answers that were billed."""
        messages: list[ChatMessage] = []
        places: list[int] = []
        n_copied = sum(bool(step.is_copied_context) for step in run.steps)
        if any(step.is_copied_context and step.source == "agent" for step in run.steps):
            raise UnusableEpisodeError(LOST_PART, f"{n_copied} steps were copied from it, and were billed there")
        for index, step in enumerate(run.steps):
            role = {"system": "system", "user": "user"}.get(step.source, "assistant" if step.is_call else "user")
            if step.source == "agent" and step.llm_call_count == 0:
                self._report.note(NO_CALL, source=where)
            if step.llm_call_count and step.llm_call_count > 1:
                self._report.note(SEVERAL_CALLS, source=where, detail=f"step {index}: {step.llm_call_count}")
            calls = [{"name": call.function_name, "arguments": call.arguments} for call in step.tool_calls or ()]
            message: dict[str, object] = {"role": role, "content": step.message}
            if calls and role == "assistant":
                message["tool_calls"] = calls
            if role == "assistant":
                places.append(len(messages))
            messages.append(read_message(message))
            results = step.observation.results if step.observation else []
            messages += [read_message({"role": "tool", "content": result.content}) for result in results]
        return messages, places

    def _ending(self, trial: Trial, where: str) -> tuple[Ending, str]:
        if not trial.exception:
            return "terminated", ""
        if trial.exception.partition(":")[0] in TRUNCATED:
            return "truncated", ""
        if trial.reward is None:
            return "failed", trial.exception
        self._report.note(WRONG_TRIAL, source=where, detail=cut(trial.exception))
        return "terminated", ""

    def _compare_totals(self, run: _Trajectory, calls: Sequence[RunCall], where: str) -> None:
        totals = run.final_metrics
        if totals is None or run.subagent_trajectories:
            return
        amount = sum((self._runs.amount(call) for call in calls), Amount())
        pairs = (
            ("prompt tokens", totals.total_prompt_tokens, amount.n_prompt),
            ("output tokens", totals.total_completion_tokens, amount.n_output),
        )
        for what, total, found in pairs:
            if total is not None and total != found and not any(call.usage is None for call in calls):
                self._report.note(
                    OTHER_TOTAL, source=where, detail=f"{what}: final_metrics says {total:g}, steps {found}"
                )


def _joined(first: _Trajectory, second: _Trajectory) -> _Trajectory:
    """A trajectory and its continuation, of which copied steps do not come again."""
    new = [step for step in second.steps if not step.is_copied_context]
    return first.model_copy(
        update={
            "steps": [*first.steps, *new],
            "continued_trajectory_ref": second.continued_trajectory_ref,
            "final_metrics": None,
        }
    )


def _calls(run: _Trajectory) -> Iterator[tuple[int, _Step]]:
    return ((index, step) for index, step in enumerate(run.steps) if step.is_call)


def _call(run: _Trajectory, index: int, step: _Step) -> RunCall:
    metrics = step.metrics
    cost = metrics.get("cost_usd") if metrics else None
    is_cost = isinstance(cost, int | float) and not isinstance(cost, bool) and cost >= 0
    return RunCall(
        models=(step.model_name, run.agent.model_name) if step.model_name else (run.agent.model_name,),
        usage=None if metrics is None else _usage(metrics),
        cost_usd=float(cast("float", cost)) if is_cost else None,
        where=f"steps.{index}.metrics",
    )


def _usage(metrics: Mapping[str, object]) -> dict[str, object]:
    """Usage in OpenAI's form; what stands under `extra` may say how many tokens were written to the cache."""
    further = {
        name: value for name, value in object_at(metrics, "extra").items() if not isinstance(value, str | list | dict)
    }
    usage: dict[str, object] = {
        name: metrics.get(name) for name in ("prompt_tokens", "completion_tokens") if metrics.get(name) is not None
    }
    usage["prompt_tokens_details"] = {"cached_tokens": metrics.get("cached_tokens")}
    return further | usage


def _first_time(run: _Trajectory) -> str | None:
    return next((step.timestamp for step in run.steps if step.timestamp), None)
