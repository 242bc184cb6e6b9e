"""Files that lie beside trajectories in ATIF: results and rewards of trials, continuations, and runs of sub-agents."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

from mtrouter_rl.datasets.importers.archives import LogFile
from mtrouter_rl.datasets.importers.base import ImportReport, UnusableEpisodeError, cut
from mtrouter_rl.datasets.importers.chat import parse_object, read_log_files
from mtrouter_rl.datasets.importers.query_table import BAD_SCORE, read_score
from mtrouter_rl.records import JsonValue

VERSION = "ATIF-v"
RESULT_FILE = "result.json"
REWARD_FILES = ("reward.txt", "reward.json")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What the files beside a trajectory say of it."""

    name: str = ""
    task: str = ""
    dataset: str = ""
    reward: float | None = None
    exception: str = ""
    problem: str = ""


class Beside:
    """Results and rewards by folder, continuations, and sub-agents, of all paths."""

    def __init__(self) -> None:
        self.trials: dict[str, Trial] = {}
        self.rewards: dict[str, Trial] = {}
        self.continued: set[str] = set()
        self.sub_agents: set[str] = set()

    def read(self, path: Path, report: ImportReport) -> None:
        """Read what lies below a path; what cannot be opened is counted in the report."""
        for file in read_log_files(path, report, suffixes=(".json", ".txt")):
            name, folder = file.path.name.lower(), place_of(path, file, file.path.parent)
            if name in REWARD_FILES:
                self.rewards[folder] = _reward(file)
                continue
            try:
                row = parse_object(file.data)
            except UnusableEpisodeError:
                continue
            if name == RESULT_FILE and ("trial_name" in row or "verifier_result" in row):
                self.trials[folder] = _trial(row)
            elif is_trajectory(row):
                self._read_references(row, path, file)

    def _read_references(self, row: Mapping[str, JsonValue], path: Path, file: LogFile) -> None:
        following = row.get("continued_trajectory_ref")
        if isinstance(following, str):
            self.continued.add(place_of(path, file, file.path.parent / PurePosixPath(following).name))
        for reference in _references(row):
            if isinstance(reference.get("trajectory_path"), str):
                name = PurePosixPath(str(reference["trajectory_path"])).name
                self.sub_agents.add(place_of(path, file, file.path.parent / name))
            for key in ("trajectory_id", "session_id"):
                value = reference.get(key)
                if isinstance(value, str) and value and value != row.get("session_id"):
                    self.sub_agents.add(value)

    def trial(self, path: Path, file: LogFile) -> Trial:
        """What is said of a trajectory: by the result beside it or in the folder above, else by the reward there."""
        folders = [place_of(path, file, folder) for folder in (file.path.parent, *list(file.path.parents)[1:3])]
        found = next((self.trials[folder] for folder in folders if folder in self.trials), Trial())
        if found.reward is not None or found.problem:
            return found
        for folder in folders:
            for place in (folder, f"{folder}/verifier"):
                if place in self.rewards:
                    reward = self.rewards[place]
                    return Trial(
                        name=found.name,
                        task=found.task,
                        dataset=found.dataset,
                        reward=reward.reward,
                        exception=found.exception,
                        problem=reward.problem,
                    )
        return found


def place_of(path: Path, file: LogFile, inner: PurePosixPath) -> str:
    """Name of a file or folder that is the same wherever it is referred to from."""
    return f"{path}!{file.archive}!{inner.as_posix().removeprefix('./')}"


def is_trajectory(row: Mapping[str, object]) -> bool:
    """Whether an object says that it is a trajectory in ATIF."""
    version = row.get("schema_version")
    return isinstance(version, str) and version.startswith(VERSION)


def _references(row: Mapping[str, JsonValue]) -> Iterator[Mapping[str, object]]:
    steps = row.get("steps")
    for step in steps if isinstance(steps, list) else []:
        observation = step.get("observation") if isinstance(step, dict) else None
        results = observation.get("results") if isinstance(observation, dict) else None
        for result in results if isinstance(results, list) else []:
            references = result.get("subagent_trajectory_ref") if isinstance(result, dict) else None
            for reference in references if isinstance(references, list) else [references]:
                if isinstance(reference, dict):
                    yield reference


def _reward(file: LogFile) -> Trial:
    text = file.data.decode("utf-8", errors="replace").strip()
    try:
        value: object = parse_object(file.data).get("reward") if file.path.name.lower().endswith(".json") else text
        return Trial(reward=_number(value))
    except UnusableEpisodeError as error:
        return Trial(problem=f"{file.source}: {error.detail}")


def _trial(row: Mapping[str, JsonValue]) -> Trial:
    verifier, info = object_at(row, "verifier_result"), object_at(row, "exception_info")
    rewards = object_at(verifier, "rewards")
    reward, problem = rewards.get("reward", row.get("reward")), ""
    if reward is None and len(rewards) > 1:
        problem = f"result.json has several rewards ({', '.join(rewards)}) and none of name 'reward'"
    elif reward is None and len(rewards) == 1:
        reward = next(iter(rewards.values()))
    try:
        number = None if reward is None else _number(reward)
    except UnusableEpisodeError as error:
        number, problem = None, f"result.json: {error.detail}"
    return Trial(
        name=str(row.get("trial_name") or ""),
        task=str(row.get("task_name") or ""),
        dataset=str(row.get("source") or ""),
        reward=number,
        exception=f"{info.get('exception_type')}: {info.get('exception_message')}" if info else "",
        problem=problem,
    )


def object_at(row: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Object under a name; empty if there is none."""
    value = row.get(name)
    return cast("Mapping[str, object]", value) if isinstance(value, dict) else {}


def _number(value: object) -> float:
    """A reward of any size; `max_reward` brings it into [-1, 1]."""
    if isinstance(value, bool | str):
        return read_score(value) if isinstance(value, bool) else _text_number(value)
    if isinstance(value, int | float) and abs(value) < float("inf"):
        return float(value)
    raise UnusableEpisodeError(BAD_SCORE, f"reward is {cut(repr(value))}, must be a number")


def _text_number(text: str) -> float:
    try:
        number = float(text)
    except ValueError as error:
        raise UnusableEpisodeError(BAD_SCORE, f"reward is {cut(repr(text))}, must be a number") from error
    return _number(number)
