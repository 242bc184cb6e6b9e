"""Imports simulation results of tau2-bench: one simulation (a task, a trial) an episode.

Source: github.com/sierra-research/tau2-bench, `src/tau2/data_model/simulation.py` (`Results`, `SimulationRun`,
`TerminationReason`) and `message.py`; arXiv 2506.07982. Results are one JSON file with `info` and `simulations`, or a
folder with `results.json` and one file a simulation below `simulations/`.

The router stands where the agent stands. What it may see is what the agent saw: the customer's words and the results of
the agent's own tools. Tools that the customer calls on their own device, and their results, are left out. The greeting
that the benchmark puts first is no call of a model (it has neither tokens nor cost) and no turn.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mtrouter_rl.cards.policy import single_policy
from mtrouter_rl.datasets.importers.archives import LogFile
from mtrouter_rl.datasets.importers.base import (
    Amount,
    ChatImporter,
    ChatOptions,
    ImportReport,
    ImportSource,
    UnusableEpisodeError,
)
from mtrouter_rl.datasets.importers.chat import (
    BAD_PROPENSITY,
    BAD_SHAPE,
    NO_ANSWER,
    ChatMessage,
    Count,
    Ending,
    LoggedCall,
    LogModel,
    Score,
    Seconds,
    TurnBuilder,
    Usd,
    call_usage,
    last_turn_gains,
    note_left_out,
    parse_object,
    read_log_files,
    split_conversation,
    validated,
)
from mtrouter_rl.datasets.importers.query_table import BAD_COUNT, BAD_SCORE, stable_variation
from mtrouter_rl.datasets.importers.sample import Sample
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, UNLIMITED_TURNS, Episode, Frozen, JsonValue

ENDINGS: dict[str, Ending] = {
    "user_stop": "terminated",
    "agent_stop": "terminated",
    "agent_error": "terminated",
    "max_steps": "truncated",
    "timeout": "truncated",
    "too_many_errors": "truncated",
    "user_error": "failed",
    "infrastructure_error": "failed",
    "context_window_exceeded": "failed",
    "unexpected_error": "failed",
}
"""Termination reason -> how the episode ended. Failed is what the benchmark does not evaluate, or what is none of the agent's
doing; an agent that breaks the rules of the conversation has failed the task."""

NO_INFO = "simulation without the results.json that it belongs to"
NO_SIMULATION = "simulation whose file is not there"
OLD_RESULTS = (
    "is a list of runs with 'traj', as the first version of tau-bench writes it: it has no tokens, so no call can be priced; "
    "run the tasks with tau2-bench, or log the calls as openai-jsonl with model and usage"
)
OTHER_MODEL = "answer of another model than the run's, taken as chosen; its propensity is not known"
USER_COST = "cost of the simulated user, which is none of the router's"
USER_TOOLS = "message of the customer's own tools, which the agent never saw, left out"
AUDIO = "simulation without text messages (voice)"
_RESULTS_FILE = "results.json"
_SIMULATIONS_FOLDER = "simulations"


class _RawData(LogModel):
    model: str | None = None
    usage: dict[str, object] | None = None


class _Message(ChatMessage):
    usage: dict[str, object] | None = None
    cost: Usd | None = None
    raw_data: _RawData | None = None
    generation_time_seconds: Seconds | None = None
    requestor: str | None = None

    @property
    def is_of_the_users_tools(self) -> bool:
        """Whether the agent never saw it."""
        return (self.role == "tool" and self.requestor == "user") or (self.role == "user" and bool(self.tool_calls))


class _RewardInfo(LogModel):
    reward: Score


class _Simulation(LogModel):
    id: str
    task_id: str | int
    termination_reason: str
    messages: list[_Message] | None = None
    reward_info: _RewardInfo | None = None
    agent_cost: Usd | None = None
    user_cost: Usd | None = None
    trial: Count | None = None
    seed: int | None = None
    timestamp: str | None = None


class _AgentInfo(LogModel):
    llm: str | None = None


class _EnvironmentInfo(LogModel):
    domain_name: str | None = None


class _Info(LogModel):
    agent_info: _AgentInfo
    environment_info: _EnvironmentInfo | None = None
    max_steps: Count | None = None


class Tau2Options(ChatOptions):
    """Options of the format.

    Attributes:
        propensities: Whether every answer must be by the run's own model, which was then chosen with probability 1.
    """

    propensities: Annotated[
        Literal["exact", "unknown"],
        Field(description="exact: a run with an answer by another model than its own is left out; unknown: it is kept"),
    ] = "exact"


class Tau2Importer(ChatImporter[Tau2Options]):
    """Reads results files one by one; holds one file at a time."""

    options_model: ClassVar[type[Frozen]] = Tau2Options
    description: ClassVar[str] = "simulation results of tau2-bench (results JSON, or its folder with simulations/)"
    env = "tau2"
    assumptions = (
        "the run's agent model was chosen with probability 1",
        "the whole reward is booked on the last turn",
        "every model of the pool could be chosen; no prompt cache was warm before a turn",
        "prompt tokens are fresh where the log does not say how many were cached",
        "max_turns is the run's max_steps, which counts messages of customer and tools as well; unlimited where it has none",
        "variation is the task's number, or a 48-bit hash of its id where that is no number; seed is the trial",
        "the customer's words are part of the observation; what the simulated customer cost is not part of any cost",
    )

    @classmethod
    def recognizes(cls, sample: Sample) -> str:
        """Why a file looks like this format; empty if it does not."""
        row = sample.first
        if "info" in row and ("simulations" in row or "simulation_index" in row):
            return "'info' and 'simulations'"
        if sample.is_list and {"task_id", "reward", "traj"} <= row.keys():
            return "runs with 'traj' of the first version of tau-bench"
        is_simulation = {"task_id", "termination_reason", "messages"} <= row.keys()
        return "'task_id', 'termination_reason' and 'messages'" if is_simulation else ""

    def episodes(self, source: ImportSource) -> Iterator[Episode]:
        """Episodes file by file, simulation by simulation; see `Importer`.

        Raises:
            DatasetError: If a path does not exist, or no path holds results of tau2-bench.
        """
        convert = _Converter(source, self._options)
        late: list[tuple[Path, PurePosixPath]] = []
        for path in source.paths:
            for file in read_log_files(path, source.report, suffixes=(".json",)):
                if convert.must_wait(file):
                    late.append((path, file.path))
                else:
                    yield from convert.episodes(file)
        scratch = ImportReport(format=source.report.format)
        for path in dict.fromkeys(path for path, _ in late):  # an archive may hold results.json after its simulations
            for file in read_log_files(path, scratch, suffixes=(".json",)):
                if (path, file.path) in late:
                    yield from convert.episodes(file)
        convert.count_lost()
        if not convert.n_results:
            raise DatasetError(
                f"no results of tau2-bench in {', '.join(map(str, source.paths))}; give results files (JSON with 'info' "
                "and 'simulations'), or folders or archives that hold them"
            )


def _is_results(file: LogFile) -> bool:
    return file.path.name == _RESULTS_FILE


def _check_version(file: LogFile) -> None:
    """See that a file is not of the benchmark's first version.

    Raises:
        UnusableEpisodeError: If it is.
    """
    if file.data.lstrip()[:1] != b"[":
        return
    raise UnusableEpisodeError(
        BAD_SHAPE,
        OLD_RESULTS if b'"traj"' in file.data else "is a JSON list; results of tau2-bench are an object with 'info'",
    )


def _indexed(index: object) -> set[str]:
    """Ids of the simulations that results beside their simulations name."""
    rows = index if isinstance(index, list) else []
    return {str(row["id"]) for row in rows if isinstance(row, dict) and "id" in row}


class _Converter:
    """Turns simulations into episodes, or counts why they cannot be."""

    def __init__(self, source: ImportSource, options: Tau2Options) -> None:
        self.n_results = 0
        self._report = source.report
        self._options = options
        self._builder = TurnBuilder(source)
        self._infos: dict[tuple[str, PurePosixPath], _Info] = {}
        self._expected: dict[tuple[str, PurePosixPath], set[str]] = {}

    def must_wait(self, file: LogFile) -> bool:
        """Whether a file is a simulation whose results.json has not come yet."""
        return (
            file.path.parent.name == _SIMULATIONS_FOLDER
            and (file.archive, file.path.parent.parent) not in self._infos
            and not _is_results(file)
        )

    def episodes(self, file: LogFile) -> Iterator[Episode]:
        """Episodes of one file."""
        try:
            _check_version(file)
            row = parse_object(file.data)
            info, simulations = self._parts(row, file)
        except UnusableEpisodeError as error:
            self._report.reject(error.reason, source=file.source, detail=error.detail)
            return
        for index, simulation in enumerate(simulations):
            where = f"{file.source}, simulation {index}"
            episode = self._episode(info, simulation, where)
            if episode is not None:
                yield episode

    def count_lost(self) -> None:
        """Count the simulations that a results.json names and whose file is not there."""
        for (_, folder), names in self._expected.items():
            for name in sorted(names):
                where = str(folder / _SIMULATIONS_FOLDER / f"{name}.json")
                self._report.reject(NO_SIMULATION, source=where, detail=f"'{name}' is in simulation_index")
        self._expected.clear()

    def _parts(self, row: dict[str, JsonValue], file: LogFile) -> tuple[_Info, Sequence[object]]:
        """Info and simulations of a file: of whole results, of results beside their simulations, or of one of these."""
        simulations = row.get("simulations")
        if isinstance(row.get("info"), dict) and (isinstance(simulations, list) or "simulation_index" in row):
            info = validated(_Info, row["info"])
            self.n_results += 1
            place = (file.archive, file.path.parent)
            if file.path.name == _RESULTS_FILE:
                self._infos[place] = info
            if not isinstance(simulations, list):
                self._expected[place] = _indexed(row["simulation_index"])
            return info, simulations if isinstance(simulations, list) else []
        if file.path.parent.name == _SIMULATIONS_FOLDER and "task_id" in row:
            place = (file.archive, file.path.parent.parent)
            known = self._infos.get(place)
            if known is None:
                raise UnusableEpisodeError(NO_INFO, "the agent's model stands there")
            self._expected.get(place, set()).discard(str(row.get("id")))
            return known, [row]
        raise UnusableEpisodeError(BAD_SHAPE, "no 'info' and list of 'simulations'; this is no results file")

    def _episode(self, info: _Info, row: object, where: str) -> Episode | None:
        lost = Amount()
        try:
            run = validated(_Simulation, row)
            answers = [message for message in run.messages or () if message.role == "assistant" and message.usage]
            lost = sum((self._amount(info, message) for message in answers), Amount())
            return self._build(info, run, where)
        except UnusableEpisodeError as error:
            self._report.reject(error.reason, source=where, detail=error.detail, n_turns=lost.n_calls, amount=lost)
            return None

    def _amount(self, info: _Info, message: _Message) -> Amount:
        """Tokens and money of an answer, as far as they are known."""
        raw = message.raw_data or _RawData()
        try:
            tokens = call_usage((raw.usage or {}) | (message.usage or {})).tokens
        except UnusableEpisodeError:
            return Amount.of_call(None, None)
        model = self._builder.find(raw.model) or self._builder.find(info.agent_info.llm)
        return Amount.of_call(tokens, None if model is None else self._builder.price_usd(model, tokens))

    def _build(self, info: _Info, run: _Simulation, where: str) -> Episode:
        if run.termination_reason not in ENDINGS:
            detail = f"termination_reason is '{run.termination_reason}', must be one of {', '.join(ENDINGS)}"
            raise UnusableEpisodeError(BAD_SHAPE, detail)
        ending = ENDINGS[run.termination_reason]
        if ending != "failed" and run.reward_info is None:
            raise UnusableEpisodeError(BAD_SCORE, "reward_info is missing")
        greeting, messages = self._agent_side(run, where)
        talk = split_conversation(messages)
        calls = [self._call(info, messages[answer.index], where) for answer in talk.answers]
        reward = run.reward_info.reward if run.reward_info and ending != "failed" else 0.0
        answers = [(answer.action_text, answer.observation_text) for answer in talk.answers]
        turns = self._builder.turns(answers, calls, last_turn_gains(reward, len(calls)), ending)
        self._builder.note_costs(turns, calls, source=where)
        note_left_out(self._report, talk.left_out, source=where)
        domain = (info.environment_info.domain_name if info.environment_info else None) or "tau2"
        task_id = str(run.task_id)
        models = {turn.model for turn in turns}
        return Episode(
            episode_id=f"{domain}/{task_id}/{run.trial or 0}/{run.id}",
            task=domain,
            variation=int(task_id) if task_id.isdecimal() and len(task_id) <= 18 else stable_variation(task_id),
            seed=run.trial or 0,
            split="train",
            task_text=talk.task_text,
            first_observation=talk.first_observation,
            behavior_policy=single_policy(models.pop()) if len(models) == 1 else "logged",
            budget_usd=UNLIMITED_BUDGET_USD,
            max_turns=max(info.max_steps, len(turns)) if info.max_steps else UNLIMITED_TURNS,
            turns=turns,
            status="failed" if ending == "failed" else "completed",
            status_detail=run.termination_reason if ending == "failed" else "",
            extra={
                "task_id": task_id,
                "trial": run.trial,
                "run_seed": run.seed,
                "termination_reason": run.termination_reason,
                "timestamp": run.timestamp,
                "greeting": greeting,
                "system_prompt": talk.system_text,
                "logged_cost_usd": run.agent_cost,
                "user_cost_usd": run.user_cost,
            },
        )

    def _agent_side(self, run: _Simulation, where: str) -> tuple[str, list[_Message]]:
        """Greeting, and the messages that the agent saw or wrote."""
        if run.messages is None:
            raise UnusableEpisodeError(AUDIO, "messages is missing; only text runs can be imported")
        if run.user_cost:
            self._report.note(USER_COST, source=where, detail=f"{run.user_cost:.6g} USD")
        messages = [message for message in run.messages if not message.is_of_the_users_tools]
        n_hidden = len(run.messages) - len(messages)
        if n_hidden:
            self._report.note(USER_TOOLS, source=where, n=n_hidden)
        first = next((index for index, message in enumerate(messages) if message.role != "system"), 0)
        if messages and messages[first].role == "assistant" and messages[first].usage is None:
            return messages[first].text, [*messages[:first], *messages[first + 1 :]]
        if not messages:
            raise UnusableEpisodeError(NO_ANSWER, "messages is empty")
        return "", messages

    def _call(self, info: _Info, message: _Message, where: str) -> LoggedCall:
        if message.usage is None:
            raise UnusableEpisodeError(BAD_COUNT, "an answer without usage; its tokens are not known")
        raw = message.raw_data or _RawData()
        model = self._builder.model(info.agent_info.llm, raw.model)
        answered = self._builder.find(raw.model)
        propensity: float | None = 1.0
        if answered is not None and answered != model:
            if self._options.propensities == "exact":
                detail = f"'{answered}' answered in a run of '{model}'; import with --option propensities=unknown"
                raise UnusableEpisodeError(BAD_PROPENSITY, detail)
            self._report.note(OTHER_MODEL, source=where, detail=f"'{answered}' in a run of '{model}'")
            model, propensity = answered, None
        return LoggedCall(
            model=model,
            served_model=model,
            # The vendor's own usage says more (cached tokens); the benchmark's own counts go first.
            usage=call_usage((raw.usage or {}) | message.usage, answer_is_empty=not message.action_text),
            propensity=propensity,
            latency_s=message.generation_time_seconds,
            logged_cost_usd=message.cost,
        )
