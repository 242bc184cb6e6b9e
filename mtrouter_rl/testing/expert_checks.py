"""Rules of a task's expert and of the mistakes that it knows; simulated models imitate both."""

from collections import Counter
from typing import get_args

from mtrouter_rl.cards import EXPERT_SOLVES
from mtrouter_rl.pools.simulated.model import FailureKind
from mtrouter_rl.protocols import ExpertTask, TextTask
from mtrouter_rl.records import EpisodeSpec
from mtrouter_rl.testing.subject import (
    SIMULATED,
    PlayedEpisode,
    SkippedCheck,
    Subject,
    broken,
    expert_policy,
    play,
    replay,
    reset_task,
    show_reset,
    show_text,
    step_task,
)
from mtrouter_rl.testing.task_checks import refuse_difference, transcript

FATAL = "fatal"
MALFORMED = "malformed"  # comes from the pool card, not from the task
MISTAKE_KINDS = tuple(kind for kind in get_args(FailureKind) if kind != MALFORMED)
_N_INJECTED = 2
_P_INJECTED = 0.3
_N_REPEATED = 5
_MISTAKE_STREAM, _INJECTION_STREAM = 21, 22
_MAX_NAMED = 5


def check_queries(subject: Subject) -> str:
    """Asking the expert changes nothing: expert_action() and mistakes() only look."""
    task = subject.expert()
    for episode in subject.explored[:_N_REPEATED]:
        refuse_difference(
            episode,
            transcript(episode),
            transcript(replay(task, episode)),
            did="once asking the expert at every turn and once not",
            fix="let expert_action() and mistakes() work on a copy of the state",
        )
        reset_task(task, episode.spec)
        first, second = task.expert_action(), task.expert_action()
        if first != second or not isinstance(first, str):
            raise broken(
                did=f"{show_reset(episode.spec)}, expert_action() twice",
                saw=f"{show_text(str(first))}, then {show_text(str(second))}",
                rule="expert_action() is a text that depends on the state alone",
                fix="do not advance a plan when it is read, but when step() executes it",
            )
    return f"{min(len(subject.explored), _N_REPEATED)} episodes with and without questions"


def check_expert(subject: Subject) -> str:
    """The expert reaches success within the turn limit, in at least `expert_threshold` of the sampled episodes."""
    if not isinstance(subject.task, ExpertTask):
        if subject.pool.backend.kind == SIMULATED:
            raise broken(
                did=f"look for an expert, which the simulated models of pool '{subject.pool.name}' imitate",
                saw=f"{type(subject.task).__name__} has no expert_action() and mistakes()",
                rule="a simulated pool needs an expert",
                fix="give the task both methods, or name a pool whose models can be called",
            )
        raise SkippedCheck("the task has no expert_action() and mistakes(); models that can be called need none")
    n_of, n_solved = Counter[str](), Counter[str]()
    failed: list[str] = []
    for episode in _solo(subject):
        n_of[episode.spec.task] += 1
        if episode.is_success(subject.task.max_score):
            n_solved[episode.spec.task] += 1
        else:
            failed.append(_tell(episode, subject.max_turns))
    share = n_solved.total() / n_of.total()
    never = [task for task in n_of if not n_solved[task]]
    is_to_solve_every_task = subject.expert_threshold >= EXPERT_SOLVES
    if share < subject.expert_threshold or (never and is_to_solve_every_task):
        raise broken(
            did=f"let the expert play {n_of.total()} episodes of {len(n_of)} tasks",
            saw=f"{n_solved.total()} ended in success, not: {_list(failed)}",
            rule=f"the expert solves {subject.expert_threshold:.0%} of the episodes"
            + (", and some of every task" if is_to_solve_every_task else ""),
            fix="mend the expert, raise limits.max_turns, leave out variations that cannot be solved, or say in the card what "
            "the expert solves (expert_solves)",
        )
    return f"{n_solved.total()} of {n_of.total()} episodes solved" + (f", not: {_list(failed)}" if failed else "")


def _solo(subject: Subject) -> list[PlayedEpisode]:
    return [play(subject.task, spec, expert_policy, max_turns=subject.max_turns) for spec in subject.specs]


def _tell(episode: PlayedEpisode, max_turns: int) -> str:
    spec = episode.spec
    how = f"ended '{episode.ending}'" if episode.ending else f"not over after {max_turns} turns"
    return f"{spec.task} {spec.variation} ({how}, score {episode.steps[-1].score:g})"


def _list(items: list[str]) -> str:
    more = f" and {len(items) - _MAX_NAMED} more" if len(items) > _MAX_NAMED else ""
    return ", ".join(items[:_MAX_NAMED]) + more


def check_mistakes(subject: Subject) -> str:
    """mistakes() names known kinds with texts, and all but "fatal" leave the task running and the expert alive."""
    task = subject.expert()
    seen = Counter[str]()
    for number, spec in enumerate(subject.specs):
        n_before = int(subject.generator(_MISTAKE_STREAM, number).integers(4))
        reset_task(task, spec)
        if not _advance(task, spec, n_before):
            continue
        kinds = task.mistakes()
        for kind, texts in kinds.items():
            _check_kind(kind, texts, spec)
            seen[kind] += 1
            if kind != FATAL:
                _try_mistake(task, spec, n_before, kind=kind, text=texts[number % len(texts)])
    if not seen:
        return "no kind of mistake in any sampled state; simulated models then fail by malformed texts alone"
    return ", ".join(f"{kind} {seen[kind]}" for kind in sorted(seen))


def _advance(task: ExpertTask, spec: EpisodeSpec, n_turns: int) -> bool:
    """Let the expert play some turns; whether the task still runs."""
    return all(step_task(task, spec, task.expert_action()).ending == "" for _ in range(n_turns))


def _check_kind(kind: str, texts: object, spec: EpisodeSpec) -> None:
    is_list = isinstance(texts, list | tuple) and texts and all(isinstance(text, str) and text for text in texts)
    if kind in MISTAKE_KINDS and is_list:
        return
    raise broken(
        did=f"{show_reset(spec)}, ..., mistakes()",
        saw=f"{kind!r}: {show_text(repr(texts))}",
        rule=f"mistakes() maps kinds ({', '.join(MISTAKE_KINDS)}) to lists of texts, and leaves out a kind without any",
        fix="rename the kind, or leave it out",
    )


def _try_mistake(task: ExpertTask, spec: EpisodeSpec, n_before: int, *, kind: str, text: str) -> None:
    reset_task(task, spec)
    _advance(task, spec, n_before)
    did = f"{show_reset(spec)}, {n_before} expert action(s), step({show_text(text)}), a mistake of kind '{kind}'"
    rule = "a mistake that is not fatal leaves the task running and the expert able to go on"
    step = step_task(task, spec, text)
    if step.ending in ("solved", "handed_in"):
        return  # a wrong turn that ends well by luck needs no expert any more
    if step.ending:
        raise broken(did=did, saw=f"the task ended '{step.ending}'", rule=rule, fix="list it under 'fatal'")
    try:
        task.expert_action()
    except Exception as error:
        raise broken(
            did=f"{did}, expert_action()",
            saw=f"{type(error).__name__}: {error}",
            rule=rule,
            fix="let the expert plan from the present state",
        ) from error


def check_replanning(subject: Subject) -> str:
    """An expert that is thrown off by injected mistakes still finishes within the turn limit."""
    task = subject.expert()
    solved = [episode for episode in _solo(subject) if episode.is_success(task.max_score)]
    n_kept = n_disturbed = 0
    failed: list[str] = []
    for number, episode in enumerate(solved):
        disturber = _Disturber(subject, number, n_turns=len(episode.actions))
        disturbed = play(task, episode.spec, disturber, max_turns=subject.max_turns)
        if not disturber.n_injected:
            continue
        n_disturbed += 1
        if disturbed.is_success(task.max_score):
            n_kept += 1
        else:
            failed.append(_tell(disturbed, subject.max_turns))
    if not n_disturbed:
        raise SkippedCheck("no sampled state offers a mistake that is not fatal")
    if n_kept / n_disturbed < subject.replan_threshold:
        raise broken(
            did=f"inject up to {_N_INJECTED} mistakes into each of {n_disturbed} episodes that the expert solves",
            saw=f"{n_kept} still ended in success, not: {_list(failed)}",
            rule=f"the expert re-plans: it solves {subject.replan_threshold:.0%} of them within the turn limit",
            fix="plan from the present state instead of following a fixed list, or raise limits.max_turns",
        )
    return f"{n_kept} of {n_disturbed} episodes solved after up to {_N_INJECTED} mistakes"


class _Disturber:
    """The expert, but for a few turns in which it makes a mistake that is not fatal."""

    def __init__(self, subject: Subject, number: int, *, n_turns: int) -> None:
        self._rng = subject.generator(_INJECTION_STREAM, number)
        self._surely_by = max(n_turns // 2, 0)
        self.n_injected = 0

    def __call__(self, task: TextTask, turn: int) -> str:
        assert isinstance(task, ExpertTask)
        due = task.expert_action()
        is_time = turn >= self._surely_by and not self.n_injected
        if self.n_injected >= _N_INJECTED or not (is_time or self._rng.random() < _P_INJECTED):
            return due
        kinds = task.mistakes()
        texts = [text for kind in sorted(kinds) if kind != FATAL for text in kinds[kind] if text != due]
        if not texts:
            return due
        self.n_injected += 1
        return texts[int(self._rng.integers(len(texts)))]
