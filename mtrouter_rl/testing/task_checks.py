"""Rules of a text task and of its card that need no expert: types, texts, scores, endings, repeatability, closing."""

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, get_args

from mtrouter_rl.cards.splits import episode_specs
from mtrouter_rl.errors import CallOrderError, InvalidConfigError, SimulatorError
from mtrouter_rl.protocols import Ending, ExpertTask, TaskStart, TaskStep, TextTask
from mtrouter_rl.records import SPLITS, EpisodeSpec, Split
from mtrouter_rl.testing.subject import (
    PlayedEpisode,
    SkippedCheck,
    Subject,
    broken,
    replay,
    reset_task,
    show_reset,
    show_text,
    step_task,
)

STRANGE_TEXTS: tuple[str, ...] = (
    "",
    " ",
    "xyzzy plugh",
    "open door\nand then\nwait\n",
    "öffne die Tür 打开门 🚪",
    "open\x00door",
    "\x1b[31m\ttab\r",
    "{action} %s \\n ${HOME} <b>'\"",
    '{"action": "open door"}',
    "go " * 5_000,
    "9" * 5_000,
)
"""What language models really write now and then: nothing, several lines, other scripts, control characters, too much."""

_ERROR_KIND = re.compile(r"[a-z][a-z0-9_]*")
_SCORE_TOLERANCE = 1e-9
_N_REPEATED = 5
_FRESH_TIMEOUT_S = 300
_N_BEFORE_DIFFERENCE = 15


def check_splits(subject: Subject) -> str:
    """Train, validation, test and OOD share no (task, variation), and none that the card asks for is empty."""
    pairs = {split: set(episode_specs(subject.card, split)) for split in SPLITS}
    wanted: dict[Split, bool] = {
        "train": True,
        "validation": subject.card.splits.validation > 0,
        "test": True,
        "ood": bool(subject.card.ood_tasks),
    }
    empty = [split for split in SPLITS if wanted[split] and not pairs[split]]
    if empty:
        raise broken(
            did=f"split {subject.card.train_tasks} by {subject.card.splits.model_dump()}",
            saw=f"no (task, variation) is left for {', '.join(empty)}",
            rule="every split that the card asks for has variations",
            fix="give the tasks more variations, or change splits.train and splits.validation",
        )
    owners = [(pair, split) for split in SPLITS for pair in pairs[split]]
    if len({pair for pair, _ in owners}) != len(owners):
        raise broken(
            did="split the variations",
            saw="a (task, variation) lies in two splits",
            rule="splits are disjoint",
            fix="name every task once in the card",
        )
    return ", ".join(f"{split} {len(pairs[split])}" for split in SPLITS)


def check_members(subject: Subject) -> str:
    """The task has the members of `TextTask`, and a scale for its scores."""
    task = subject.task
    if not isinstance(task, TextTask):
        missing = [name for name in ("max_score", "reset", "step", "close") if not hasattr(task, name)]
        raise broken(
            did=f"make_task(card) of family '{subject.card.family}'",
            saw=f"{type(task).__name__} has no {', '.join(missing)}",
            rule="a text task has max_score, reset(), step() and close()",
            fix="add what is missing; see mtrouter_rl/protocols.py",
        )
    if not (_is_number(task.max_score) and math.isfinite(task.max_score) and task.max_score > 0):
        raise broken(
            did="read max_score",
            saw=repr(task.max_score),
            rule="max_score is a finite number above 0",
            fix="set it to the score of full success",
        )
    return f"{type(task).__name__}, max_score {task.max_score:g}"


def check_protocol(subject: Subject) -> str:
    """The sampled episodes are played with answers of the right types."""
    for episode in subject.explored:
        _check_start(episode.start, episode.spec)
        for action, step in zip(episode.actions, episode.steps, strict=True):
            check_step(step, f"{show_reset(episode.spec)}, ..., step({show_text(action)})")
    n_turns = sum(len(episode.steps) for episode in subject.explored)
    return f"{len(subject.explored)} episodes, {n_turns} turns"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_start(start: TaskStart, spec: EpisodeSpec) -> None:
    for name in ("task_text", "observation"):
        _check_text(getattr(start, name), f"{show_reset(spec)}", f"TaskStart.{name}")
    if not _is_number(start.score):
        raise broken(
            did=show_reset(spec),
            saw=f"TaskStart.score is {start.score!r}",
            rule="a score is a number",
            fix="give the score before the first action, or leave it out if that is 0",
        )


def _check_text(value: object, did: str, name: str) -> None:
    if not isinstance(value, str):
        raise broken(
            did=did,
            saw=f"{name} is of type {type(value).__name__}",
            rule=f"{name} is a str",
            fix="turn what the simulator gives into text",
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise broken(
            did=did,
            saw=f"{name} cannot be written as UTF-8: {error.reason}",
            rule="texts can be stored",
            fix="replace lone surrogates, such as with text.encode(errors='replace').decode()",
        ) from error


def check_step(step: TaskStep, did: str) -> None:
    """Types of one answer.

    Raises:
        ContractError: If one is wrong.
    """
    _check_text(step.observation, did, "TaskStep.observation")
    if not _is_number(step.score):
        raise broken(
            did=did,
            saw=f"TaskStep.score is {step.score!r}",
            rule="a score is a number",
            fix="give the score so far; where the task gives none before its end, give 0",
        )
    if not isinstance(step.error, str) or (step.error and not _ERROR_KIND.fullmatch(step.error)):
        raise broken(
            did=did,
            saw=f"TaskStep.error is {show_text(str(step.error))}",
            rule="an error is a kind in lower_case such as 'unknown_action', or empty",
            fix="put the words into the observation and a short kind into the error",
        )


def check_variations(subject: Subject) -> str:
    """Every task of the card has the number of variations that the card says: the first and the last can be reset."""
    tasks = subject.card.counted_tasks()
    for name, n_variations in tasks.items():
        for variation in sorted({0, n_variations - 1}):
            spec = EpisodeSpec(task=name, variation=variation, seed=subject.seed, split="train")
            try:
                reset_task(subject.task, spec)
            except InvalidConfigError as error:
                raise broken(
                    did=show_reset(spec),
                    saw=f"{type(error).__name__}: {error}",
                    rule=f"the card says that '{name}' has variations 0 to {n_variations - 1}",
                    fix="correct the number in train_tasks or ood_tasks, or the task",
                ) from error
    return f"{len(tasks)} tasks, first and last variation"


def check_texts(subject: Subject) -> str:
    """Any text may be executed: what is not understood is an error kind or an answer, never an exception."""
    task, spec = subject.task, subject.specs[0]
    n_errors = 0
    for text in STRANGE_TEXTS:
        reset_task(task, spec)
        did = f"{show_reset(spec)}, step({show_text(text)})"
        try:
            step = step_task(task, spec, text)
        except Exception as error:
            raise broken(
                did=did,
                saw=f"{type(error).__name__}: {error}",
                rule="step() takes any text; what is not understood is an error kind, never an exception",
                fix="return TaskStep(..., error='unknown_action') for it",
            ) from error
        check_step(step, did)
        n_errors += step.error != ""
    return f"{len(STRANGE_TEXTS)} strange texts, {n_errors} of them answered with an error kind"


def check_scores(subject: Subject) -> str:
    """Every score is finite and at most max_score, so utility is at most 1."""
    task = subject.task
    lowest = highest = subject.explored[0].start.score
    for episode in subject.explored:
        for turn, score in enumerate([episode.start.score, *(step.score for step in episode.steps)]):
            if not math.isfinite(score) or score > task.max_score * (1 + _SCORE_TOLERANCE):
                raise broken(
                    did=f"{show_reset(episode.spec)} and {turn} step(s)",
                    saw=f"the score is {score}, max_score is {task.max_score}",
                    rule="the score so far is finite and never above max_score",
                    fix="give the score so far (not NaN for 'none yet'), or correct max_score",
                )
            lowest, highest = min(lowest, score), max(highest, score)
    return f"{lowest:g} to {highest:g} of {task.max_score:g}"


def check_endings(subject: Subject) -> str:
    """Endings are of the known kinds; before reset and after the end, step() is an error of its own."""
    valid = get_args(Ending)
    for episode in subject.explored:
        for action, step in zip(episode.actions, episode.steps, strict=True):
            if step.ending not in valid:
                raise broken(
                    did=f"{show_reset(episode.spec)}, ..., step({show_text(action)})",
                    saw=f"the ending is {step.ending!r}",
                    rule=f"an ending is one of {', '.join(map(repr, valid))}",
                    fix="map the simulator's end to one of them; a turn limit is none",
                )
    task = subject.new_task()
    try:
        _expect_order_error(task, "step", "step() before reset()")
    finally:
        task.close()
    ended = [episode for episode in subject.explored if episode.ending]
    if not ended:
        return f"none of {len(subject.explored)} episodes ended, so step() after the end was not tried"
    replay(subject.task, ended[0])
    did = f"{show_reset(ended[0].spec)} and {len(ended[0].actions)} step(s) to the ending '{ended[0].ending}', then "
    _expect_order_error(subject.task, "step", f"{did}step()")
    if isinstance(subject.task, ExpertTask):
        _expect_order_error(subject.task, "expert_action", f"{did}expert_action()")
    kinds = sorted({episode.ending for episode in ended})
    return f"{len(ended)} of {len(subject.explored)} episodes ended: {', '.join(kinds)}"


def _expect_order_error(task: Any, method: str, did: str) -> None:  # noqa: ANN401 - a method by name
    try:
        getattr(task, method)(*(("look",) if method == "step" else ()))
    except CallOrderError:
        return
    except Exception as error:
        saw = f"{type(error).__name__}: {error}"
    else:
        saw = "it was executed"
    raise broken(
        did=did,
        saw=saw,
        rule="while no episode runs, this is a CallOrderError",
        fix="keep a flag that reset() sets and the ending clears, and raise CallOrderError without it",
    )


def transcript(episode: PlayedEpisode) -> list[str]:
    """Everything that was seen in an episode, at reset and after each step, as JSON: equal texts, equal episodes."""
    return [json.dumps(asdict(episode.start)), *(json.dumps(asdict(step)) for step in episode.steps)]


def check_seeding(subject: Subject) -> str:
    """The same (task, variation, seed) and actions give the same episode, whatever was played in between."""
    episodes = subject.explored[:_N_REPEATED]
    first = [transcript(replay(subject.task, episode)) for episode in episodes]
    second = [transcript(replay(subject.task, episode)) for episode in reversed(episodes)][::-1]
    for episode, one, other in zip(episodes, first, second, strict=True):
        refuse_difference(
            episode,
            one,
            other,
            did="twice in one process",
            fix="draw all randomness in reset() from a generator seeded with (task, variation, seed), and reset all state",
        )
    return f"{len(episodes)} episodes played twice"


def refuse_difference(episode: PlayedEpisode, one: list[str], other: list[str], *, did: str, fix: str) -> None:
    """Compare two transcripts of the same actions.

    Raises:
        ContractError: Names the first turn that differs.
    """
    if one == other:
        return
    turn = _first_difference(one, other)
    texts = [each[turn] if turn < len(each) else "" for each in (one, other)]
    place = max(_first_difference(*texts) - _N_BEFORE_DIFFERENCE, 0)
    seen = [show_text(text[place:]) for text in texts]
    raise broken(
        did=f"{show_reset(episode.spec)} and the same actions, {did}",
        saw=f"after {turn} step(s) {seen[0]} and {seen[1]}",
        rule="the same arguments and actions give the same episode",
        fix=fix,
    )


def _first_difference(one: Sequence[str], other: Sequence[str]) -> int:
    n_both = min(len(one), len(other))
    return next((i for i in range(n_both) if one[i] != other[i]), n_both)


def check_fresh_process(subject: Subject) -> str:
    """Another process, with another hash seed, plays the same episodes."""
    episodes = subject.explored[:_N_REPEATED]
    request = {
        "card": subject.card.model_dump(mode="json"),
        "episodes": [{"spec": asdict(episode.spec), "actions": episode.actions} for episode in episodes],
    }
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "4242"}
    done = subprocess.run(
        [sys.executable, "-m", "mtrouter_rl.testing.fresh"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment,
        timeout=_FRESH_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise broken(
            did="play the episodes in a fresh process",
            saw=f"it failed: {done.stderr.strip()[-500:]}",
            rule="worker processes make the task from its card alone",
            fix="import what the task needs in its module, and keep no state outside of it",
        )
    for episode, other in zip(episodes, json.loads(done.stdout), strict=True):
        refuse_difference(
            episode,
            transcript(episode),
            other,
            did="in this process and in a fresh one",
            fix="use no hash() of texts, no order of sets, no process id, time or global random state",
        )
    return f"{len(episodes)} episodes in another process"


def check_close(subject: Subject) -> str:
    """close() may be called twice, and before any reset; a later reset starts anew."""
    spec = subject.specs[0]
    calls = ("close() before reset()", f"{show_reset(spec)}, close()", "close() twice", "reset() after close()")
    task = subject.new_task()
    did = calls[0]
    try:
        task.close()
        did = calls[1]
        reset_task(task, spec)
        task.close()
        did = calls[2]
        task.close()
        did = calls[3]
        reset_task(task, spec)
        task.close()
    except SimulatorError as error:
        raise SkippedCheck(f"the simulator broke: {error}") from error
    except Exception as error:
        raise broken(
            did=did,
            saw=f"{type(error).__name__}: {error}",
            rule="close() may be called at any time, twice as well, and reset() starts anew after it",
            fix="remember what was started, release it once, and start it again in reset()",
        ) from error
    return "closed before reset, twice, and reset after it"
