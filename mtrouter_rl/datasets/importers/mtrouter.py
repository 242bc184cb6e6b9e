"""Imports trajectories of the MTRouter paper's code and of mini-swe-agent, which it grew out of (`*.traj.json`).

Formats: `mini-agentic-router-1` (github.com/ZhangYiqun018/MTRouter, `run/utils/save.py` and `routers/base.py`; arXiv
2604.23530), `mini-swe-agent-1` and `mini-swe-agent-1.1` (github.com/SWE-agent/mini-swe-agent, `agents/default.py` and
`models/litellm_model.py`). One file is one episode: `messages`, of which answers hold the vendor's whole response under
`extra.response`, and `info` with exit status, limits and, in the paper's code, the score. A router adds to an answer
`model_name` (which model answered), `fallback_from` (which one was chosen, if another answered), `selected_model`,
`propensity` and `router_info`.

Known faults of these logs, and what is done about them:

* Step cost: the paper's parser reads `extra.response.usage.cost`, which only some gateways write, and takes 0 where it
  is missing. Here a cost is always tokens times price; missing and differing logged costs are noted.
* Fall-back: the paper's parser gives the fall-back model the propensity of the model that was chosen. Here the chosen
  model keeps it, and the other is the served one. Where the log does not say for which model the propensity is, it is
  dropped, or the episode is left out under `propensities=exact`.
* Missing score: the paper's parser takes 0. Here the episode is left out. SWE-bench scores, which mini-swe-agent never
  logs, come from a table given beside the trajectories.
* Half a success: the paper maps scores of -100..100 to 0..1, so that nothing reached counts 0.5. Here utility is the
  score divided by its maximum. A run that broke has a score of 0 in its log; it is imported as failed, without a score.
* Going on after the end: where the log shows an answer after the end of the task, the score is not that of the turns up
  to there, and the episode is left out. The paper's code does not log when its game ended; what it does not log cannot
  be found.
* Empty answers: the paper's agent logs none, although they are billed; `api_calls` says how many, which is noted.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mtrouter_rl.cards.policy import single_policy
from mtrouter_rl.datasets.importers.archives import LogFile
from mtrouter_rl.datasets.importers.base import ChatImporter, ChatOptions, ImportSource, UnusableEpisodeError
from mtrouter_rl.datasets.importers.chat import (
    BAD_PROPENSITY,
    BAD_SHAPE,
    ChatMessage,
    Conversation,
    Count,
    Ending,
    LoggedCall,
    LogModel,
    Probability,
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
from mtrouter_rl.datasets.importers.formats.mini_answers import FORMAT_ERROR, lost_amount, with_all_answers
from mtrouter_rl.datasets.importers.formats.rows import as_text, first_of
from mtrouter_rl.datasets.importers.query_table import BAD_SCORE, stable_variation
from mtrouter_rl.datasets.importers.run_scores import RunScores
from mtrouter_rl.datasets.importers.sample import Sample
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, UNLIMITED_TURNS, Episode, Frozen, JsonValue, Turn

SUFFIX = ".traj.json"
REFUSED = "format_error"
OLD_LIST = (
    "is a list of messages without 'info' (an old form of mini-swe-agent): it says neither models, tokens nor how the run "
    "ended; write such runs with mini-swe-agent 1.0 or later, or as openai-jsonl with model and usage"
)
OTHER_AGENT = (
    "is a .traj of SWE-agent itself, not of mini-swe-agent: it has tokens of the whole run and none of a call; import it as "
    "format 'sweagent', which reconstructs them"
)
FORMATS = ("mini-agentic-router-1", "mini-swe-agent-1", "mini-swe-agent-1.1")
MODEL_FAILED = ("RepeatedFormatError",)
"""The model itself failed the task: it answered in a wrong form until the agent gave up."""
TERMINATED = ("Submitted", "ForcedAnswer", *MODEL_FAILED)
TRUNCATED = ("LimitsExceeded", "TimeExceeded")
MAX_SCIENCEWORLD_SCORE = 100.0

NOT_ENDED = "run without an exit status"
WENT_ON = "agent that went on after the task had ended"
UNCLEAR_FALLBACK = "fall-back of which the log does not say clearly which model was chosen"
DROPPED = "propensity that is not known to be the chosen model's, dropped"
UNLOGGED_CALLS = "calls that were billed and not logged (empty answers)"
BROKE_SCORE = "score of a run that broke, not taken"
OVER_LIMIT = "cost limit that the last call went over: the budget is what was spent"
SILENT = "answer to which nothing came back"
UNKNOWN_CANDIDATE = "model of the router's pool that the pool card does not have"
OWN_FAILURE = "run that the agent gave up because the model kept answering in a wrong form: its score is 0"
UNKNOWN_FORMAT = "trajectory_format that is not known, read like the known ones"

_DIGEST_BYTES = 6
_RUN = re.compile(r"(?P<instance>.+)_run(?P<run>\d{1,18})")


class _Response(LogModel):
    model: str | None = None
    usage: dict[str, object] | None = None


class _RouterInfo(LogModel):
    propensity: Probability | None = None
    selected_model: str | None = None
    model_pool: list[str] | None = None


class _MessageExtra(LogModel):
    response: _Response | None = None
    cost: Usd | None = None
    propensity: Probability | None = None
    router_info: _RouterInfo | None = None
    done: bool | None = None
    interrupt_type: str | None = None


class _Message(ChatMessage):
    model_name: str | None = None
    fallback_from: str | None = None
    selected_model: str | None = None
    propensity: Probability | None = None
    router_info: _RouterInfo | None = None
    router_type: str | None = None
    done: bool | None = None
    extra: _MessageExtra | None = None
    is_refused: bool = False

    @property
    def router(self) -> _RouterInfo:
        """What the router said, wherever it stands; the message itself comes first, as in the paper's parser."""
        extra = self.extra or _MessageExtra()
        inner = self.router_info or extra.router_info or _RouterInfo()
        return _RouterInfo(
            propensity=self.propensity or inner.propensity or extra.propensity,
            selected_model=self.selected_model or inner.selected_model,
            model_pool=inner.model_pool,
        )


class _AgentConfig(LogModel):
    step_limit: Count | None = None
    cost_limit: Usd | None = None


class _ModelConfig(LogModel):
    model_name: str | None = None


class _Config(LogModel):
    agent: _AgentConfig | None = None
    model: _ModelConfig | None = None


class _ModelStats(LogModel):
    instance_cost: Usd | None = None
    api_calls: Count | None = None


class _JudgeResult(LogModel):
    correct: bool | None = None


class _BenchmarkData(LogModel):
    judge_result: _JudgeResult | None = None
    category: str | None = None
    subject: str | None = None


class _Info(LogModel):
    exit_status: str | None = None
    submission: str | None = None
    model_stats: _ModelStats | None = None
    config: _Config | None = None
    task_id: str | None = None
    task_name: str | None = None
    variation_idx: Count | None = None
    final_score: Annotated[float | None, Field(allow_inf_nan=False)] = None
    benchmark: str | None = None
    benchmark_data: _BenchmarkData | None = None


class _Trajectory(LogModel):
    info: _Info
    messages: list[_Message]
    trajectory_format: str | None = None
    instance_id: str | None = None


class MTRouterOptions(ChatOptions):
    """Options of the format.

    Attributes:
        propensities: Whether every answer must have the chosen model's propensity.
        max_score: Score of full success where a trajectory has a final_score and does not say of which benchmark.
    """

    propensities: Annotated[
        Literal["exact", "unknown"],
        Field(description="exact: a run with a turn that lacks one is left out; unknown: a turn may lack one"),
    ] = "unknown"
    max_score: Annotated[
        float | None,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="score of full success, for runs with a final_score that do not say of which benchmark",
        ),
    ] = None


class MTRouterImporter(ChatImporter[MTRouterOptions]):
    """Reads trajectory files one by one; besides, it holds the table of scores if one is given."""

    options_model: ClassVar[type[Frozen]] = MTRouterOptions
    takes_scores: ClassVar[bool] = True
    description: ClassVar[str] = (
        "trajectories (*.traj.json) of the MTRouter paper's code and of mini-swe-agent; scores of SWE-bench come from "
        "its evaluation report or a JSON of id: score, given as a further PATH"
    )
    env = "mtrouter"
    assumptions = (
        "utility is the score divided by its maximum (ScienceWorld: 100), all of it on the last turn",
        "a run of one configured model chose it with probability 1",
        "the models of the router's pool could be chosen where the log names them, otherwise every model of the pool card",
        "no prompt cache was warm before a turn, as far as a router could know; cached tokens are billed as logged",
        "max_turns is the step limit, and unlimited where there was none; the budget is the cost limit, if any",
        "variation is variation_idx, or a 48-bit hash of the instance's id where there is none; seed is the run's number in "
        "the task id (..._run3), or 0",
    )

    @classmethod
    def recognizes(cls, sample: Sample) -> str:
        """Why a file looks like this format; empty if it does not."""
        info = sample.first.get("info")
        if isinstance(info, dict) and isinstance(sample.first.get("messages"), list):
            return "'info' and 'messages'"
        is_old = sample.name.endswith(SUFFIX) and sample.is_list
        return "its name, and a list of messages without 'info'" if is_old else ""

    def episodes(self, source: ImportSource) -> Iterator[Episode]:
        """Episodes file by file; see `Importer`.

        Raises:
            DatasetError: If a path does not exist, or no path holds a trajectory.
        """
        scores = RunScores(source, is_run=lambda path: path.name.lower().endswith(SUFFIX))
        convert = _Converter(source, self._options, scores)
        for path in source.paths:
            if path in scores.paths:
                continue
            for file in read_log_files(path, source.report, suffixes=(SUFFIX,)):
                episode = convert.episode(file, path)
                if episode is not None:
                    yield episode
        if not convert.n_trajectories:
            raise DatasetError(
                f"no trajectory in {', '.join(map(str, source.paths))}; give folders or archives with files that end in "
                f"{SUFFIX}, or such files, which hold 'info' and 'messages' (formats {', '.join(FORMATS)})"
            )


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a run was found, and the models that were chosen in it."""

    path: Path
    file: LogFile
    models: set[str]


class _Converter:
    """Turns one trajectory into an episode, or counts why it cannot."""

    def __init__(self, source: ImportSource, options: MTRouterOptions, scores: RunScores) -> None:
        self.n_trajectories = 0
        self._report = source.report
        self._options = options
        self._scores = scores
        self._builder = TurnBuilder(source)

    def episode(self, file: LogFile, path: Path) -> Episode | None:
        """The episode of a file that was found in a path, or None if it is left out and counted."""
        found: list[JsonValue] = []
        configured = ""
        try:
            if file.data.lstrip()[:1] == b"[":
                raise UnusableEpisodeError(BAD_SHAPE, OLD_LIST)
            row = parse_object(file.data)
            messages = row.get("messages")
            if "trajectory" in row and "messages" not in row:
                raise UnusableEpisodeError(BAD_SHAPE, OTHER_AGENT)
            if not isinstance(messages, list) or not isinstance(row.get("info"), dict):
                raise UnusableEpisodeError(BAD_SHAPE, "no 'messages' or no 'info'; this is no trajectory")
            self.n_trajectories += 1
            found = list(with_all_answers(messages, self._report, where=file.source))
            configured = as_text(first_of(row, "info.config.model.model_name"))
            row["messages"] = found
            return self._build(validated(_Trajectory, row), file, path)
        except UnusableEpisodeError as error:
            lost = lost_amount(found, self._builder, configured)
            self._report.reject(
                error.reason, source=file.source, detail=error.detail, n_turns=lost.n_calls, amount=lost
            )
            return None

    def _build(self, run: _Trajectory, file: LogFile, path: Path) -> Episode:
        where = file.source
        ending = _ending(run.info)
        _check_end(run)
        messages = [message for message in run.messages if message.role != "exit"]
        talk = split_conversation(messages, may_be_silent=True)
        calls = [self._call(run, messages[answer.index], where) for answer in talk.answers]
        instance, seed = _instance(run, file)
        score = (
            0.0
            if ending == "failed"
            else self._score(run, instance, _Place(path=path, file=file, models={call.model for call in calls}))
        )
        answers = [(answer.action_text, answer.observation_text) for answer in talk.answers]
        turns = self._builder.turns(answers, calls, last_turn_gains(score, len(calls)), ending)
        self._note(run, talk, turns, calls, where)
        variation = run.info.variation_idx
        return Episode(
            episode_id=f"{run.info.task_id or instance}/{_digest(file.data)}",
            task=_task(run),
            variation=stable_variation(instance) if variation is None else variation,
            seed=seed,
            split="train",
            task_text=talk.task_text,
            first_observation=talk.first_observation,
            behavior_policy=_policy(messages, turns),
            budget_usd=self._budget(run, turns, where),
            max_turns=_turn_limit(_agent(run).step_limit, len(turns)),
            turns=turns,
            status="failed" if ending == "failed" else "completed",
            status_detail=f"{run.info.exit_status}: {run.info.submission or ''}"[:500] if ending == "failed" else "",
            extra=_extra(run, talk, instance),
        )

    def _call(self, run: _Trajectory, message: _Message, where: str) -> LoggedCall:
        response = (message.extra.response if message.extra else None) or _Response()
        usage = call_usage(response.usage, answer_is_empty=not message.action_text, where="extra.response.usage")
        router = message.router
        chosen, served, is_own, is_alone = self._models(run, message, router, response)
        candidates = self._candidates(router, where)
        propensity = 1.0 if is_alone and router.propensity is None else router.propensity
        if propensity is not None and (not is_own or (candidates and chosen not in candidates)):
            self._report.note(DROPPED, source=where, detail=f"chosen '{chosen}', served '{served}'")
            propensity = None
        if propensity is None and self._options.propensities == "exact":
            detail = f"turn of '{chosen}' has none that is its own; import with --option propensities=unknown"
            raise UnusableEpisodeError(BAD_PROPENSITY, detail)
        return LoggedCall(
            model=chosen,
            served_model=served,
            usage=usage,
            propensity=propensity,
            error=REFUSED if message.is_refused else "",
            candidates=candidates if chosen in candidates else (),
            logged_cost_usd=usage.cost_usd if usage.cost_usd is not None else _step_cost(message),
        )

    def _models(
        self, run: _Trajectory, message: _Message, router: _RouterInfo, response: _Response
    ) -> tuple[str, str, bool, bool]:
        """Chosen and served model, whether a logged propensity is the chosen model's, and whether no other could be.

        Raises:
            UnusableEpisodeError: If a model is missing or unknown, or the log names two different ones as chosen.
        """
        answered = self._builder.find(response.model)
        named = [self._builder.model(name) for name in (message.fallback_from, router.selected_model) if name]
        if len(set(named)) > 1:
            raise UnusableEpisodeError(UNCLEAR_FALLBACK, f"fallback_from is '{named[0]}', selected_model '{named[1]}'")
        is_routed = bool(named or message.router_type or message.model_name)
        configured = None if is_routed else _configured(run)
        requested = self._builder.find(message.model_name) or self._builder.find(configured)
        served = answered or requested or self._builder.model(message.model_name, configured, response.model)
        if named:
            return named[0], served, bool(router.selected_model), False
        # Without a word of the router, an answer by another model of the pool leaves open whose propensity it is.
        is_alone = requested is not None and not is_routed
        return requested or served, served, is_alone or requested in (None, served), is_alone

    def _candidates(self, router: _RouterInfo, where: str) -> tuple[str, ...]:
        found = []
        for name in router.model_pool or ():
            model = self._builder.find(name)
            if model is None:
                self._report.note(UNKNOWN_CANDIDATE, source=where, detail=f"'{name}'")
            else:
                found.append(model)
        return tuple(found)

    def _score(self, run: _Trajectory, instance: str, place: "_Place") -> float:
        """Utility of a run, in [-1, 1].

        Raises:
            UnusableEpisodeError: If there is no score, it cannot be normalized, it is out of range, or reports disagree.
        """
        info = run.info
        ids = tuple(name for name in (info.task_id, run.instance_id, instance) if name)
        model = place.models.pop() if len(place.models) == 1 else ""
        found = self._scores.find(ids, model=model, path=place.path, file=place.file)
        if found is not None:
            return found
        if info.exit_status in MODEL_FAILED:
            self._report.note(OWN_FAILURE, source=place.file.source, detail=str(info.exit_status))
            return 0.0
        judged = info.benchmark_data.judge_result if info.benchmark_data else None
        if judged is not None and judged.correct is not None:
            return float(judged.correct)
        if info.final_score is None:
            raise UnusableEpisodeError(
                BAD_SCORE,
                f"no final_score, no judge_result; give a table of scores that has '{instance}' as a PATH"
                f"{self._scores.explain(ids)}",
            )
        maximum = _max_score(info) or self._options.max_score
        if maximum is None:
            raise UnusableEpisodeError(
                BAD_SCORE, f"final_score is {info.final_score}, of an unknown benchmark; give --option max_score=..."
            )
        if abs(info.final_score) > maximum:
            raise UnusableEpisodeError(
                BAD_SCORE, f"final_score is {info.final_score}, must be in [{-maximum:g}, {maximum:g}]"
            )
        return info.final_score / maximum

    def _budget(self, run: _Trajectory, turns: Sequence[Turn], where: str) -> float:
        limit = _agent(run).cost_limit
        if not limit:  # 0 stands for none in these programs
            return UNLIMITED_BUDGET_USD
        spent = sum(turn.cost_usd for turn in turns)
        if spent > limit:
            self._report.note(OVER_LIMIT, source=where, detail=f"limit {limit:g} USD, spent {spent:.6g} USD")
        return max(limit, spent)

    def _note(
        self,
        run: _Trajectory,
        talk: Conversation,
        turns: Sequence[Turn],
        calls: Sequence[LoggedCall],
        where: str,
    ) -> None:
        self._builder.note_costs(turns, calls, source=where)
        stats = run.info.model_stats or _ModelStats()
        n_refused = sum((message.extra or _MessageExtra()).interrupt_type == FORMAT_ERROR for message in run.messages)
        n_kept = sum(message.is_refused for message in run.messages)
        n_missing = (stats.api_calls or 0) - len(turns) - (n_refused - n_kept)
        if n_missing > 0:
            detail = f"api_calls is {stats.api_calls}, {len(turns)} answers are there"
            self._report.note(UNLOGGED_CALLS, source=where, detail=detail, n=n_missing)
        n_silent = sum(not turn.observation_text for turn in turns[:-1])
        if n_silent:
            self._report.note(SILENT, source=where, n=n_silent)
        note_left_out(self._report, talk.left_out, source=where)
        if _ending(run.info) == "failed" and run.info.final_score is not None:
            self._report.note(BROKE_SCORE, source=where, detail=f"final_score {run.info.final_score:g}")
        if run.trajectory_format not in FORMATS:
            self._report.note(UNKNOWN_FORMAT, source=where, detail=repr(run.trajectory_format))


def _ending(info: _Info) -> Ending:
    """How a run ended: by itself, by a limit, or by an exception, whose name is then the exit status.

    Raises:
        UnusableEpisodeError: If the log does not say.
    """
    if not info.exit_status:
        raise UnusableEpisodeError(NOT_ENDED, "info.exit_status is missing; the run was stopped or still goes on")
    if info.exit_status in TERMINATED:
        return "terminated"
    return "truncated" if info.exit_status in TRUNCATED else "failed"


def _check_end(run: _Trajectory) -> None:
    """See that no answer comes after a sign that the task had ended.

    Raises:
        UnusableEpisodeError: If one does.
    """
    ended = None
    for index, message in enumerate(run.messages):
        if message.role == "assistant" and ended is not None:
            raise UnusableEpisodeError(WENT_ON, f"message {ended} ends the task, message {index} is an answer")
        is_submission = (
            message.role == "user"
            and bool(run.info.submission)
            and run.info.exit_status in TERMINATED
            and message.text == run.info.submission
            and index > 1
        )
        if message.role == "exit" or message.done or (message.extra and message.extra.done) or is_submission:
            ended = index


def _step_cost(message: _Message) -> float | None:
    return message.extra.cost if message.extra else None


def _configured(run: _Trajectory) -> str | None:
    """Name of the run's only model; a router's configuration has a name that no pool has."""
    return run.info.config.model.model_name if run.info.config and run.info.config.model else None


def _agent(run: _Trajectory) -> _AgentConfig:
    return (run.info.config.agent if run.info.config else None) or _AgentConfig()


def _turn_limit(step_limit: int | None, n_turns: int) -> int:
    return max(step_limit, n_turns) if step_limit else UNLIMITED_TURNS


def _max_score(info: _Info) -> float | None:
    """Maximal score of the benchmark, as far as the log says which it is."""
    if info.benchmark == "hle":
        return 1.0
    is_scienceworld = info.benchmark is None and bool(info.task_name) and info.variation_idx is not None
    return MAX_SCIENCEWORLD_SCORE if is_scienceworld or info.benchmark == "scienceworld" else None


def _instance(run: _Trajectory, file: LogFile) -> tuple[str, int]:
    """Name of what was played, and which run of it."""
    name = run.info.task_id or run.instance_id or file.path.name.removesuffix(SUFFIX)
    match = _RUN.fullmatch(name)
    return (match["instance"], int(match["run"])) if match else (name, 0)


def _task(run: _Trajectory) -> str:
    data = run.info.benchmark_data or _BenchmarkData()
    return run.info.task_name or data.category or data.subject or run.info.benchmark or "mini-swe-agent"


def _policy(messages: Sequence[_Message], turns: Sequence[Turn]) -> str:
    routers = sorted({message.router_type for message in messages if message.router_type})
    if routers:
        return "+".join(routers)
    models = {turn.model for turn in turns}
    return (
        single_policy(models.pop()) if len(models) == 1 and all(turn.propensity == 1.0 for turn in turns) else "logged"
    )


def _digest(data: bytes) -> str:
    # Of the contents, so that a file that is given twice is found out wherever it lies.
    return hashlib.blake2b(data, digest_size=_DIGEST_BYTES).hexdigest()


def _extra(run: _Trajectory, talk: Conversation, instance: str) -> dict[str, JsonValue]:
    stats = run.info.model_stats or _ModelStats()
    return {
        "instance": instance,
        "trajectory_format": run.trajectory_format,
        "exit_status": run.info.exit_status,
        "logged_cost_usd": stats.instance_cost,
        "api_calls": stats.api_calls,
        "final_score": run.info.final_score,
        "system_prompt": talk.system_text,
    }
