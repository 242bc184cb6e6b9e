"""What a policy does about errors: stays, recoveries, and whose turns the first errors and the bad ends were."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from mtrouter_rl.evaluation.behavior_file import BadEnd, ErrorBehavior, FirstError
from mtrouter_rl.evaluation.behavior_spread import linked_turns
from mtrouter_rl.records import Episode
from mtrouter_rl.statistics.wilson import wilson_interval

FULL_UTILITY = 1.0
_TOLERANCE = 1e-9
"""Rounding allowed when a sum of utility gains is compared with full success."""


@dataclass(frozen=True, kw_only=True)
class _Followed:
    """An error turn that another turn follows.

    Attributes:
        is_persistent: Whether the turn before it was an error as well.
        is_stay: Whether the next turn calls the same model.
        is_recovery: Whether the next turn is error-free.
    """

    is_persistent: bool
    is_stay: bool
    is_recovery: bool


def error_behavior(episodes: Sequence[Episode]) -> ErrorBehavior:
    """What happens after errors, over all turns of completed episodes; see `ErrorBehavior` for the definitions."""
    followed = [one for episode in episodes for one in _followed(episode)]
    runs = [run for episode in episodes for run in _error_runs(episode)]
    recovered = [n_turns for n_turns, is_recovered in runs if is_recovered]
    n_errors = sum(n_turns for n_turns, _ in runs)
    transient = [one for one in followed if not one.is_persistent]
    persistent = [one for one in followed if one.is_persistent]
    stays = [one for one in followed if one.is_stay]
    switches = [one for one in followed if not one.is_stay]
    fields = (
        _shares("stay_after_transient", [one.is_stay for one in transient])
        | _shares("recovery_after_transient", [one.is_recovery for one in transient])
        | _shares("stay_after_persistent", [one.is_stay for one in persistent])
        | _shares("recovery_after_persistent", [one.is_recovery for one in persistent])
        | _shares("recovered_share", [is_recovered for _, is_recovered in runs])
        | _shares("recovery_by_staying", [one.is_recovery for one in stays])
        | _shares("recovery_by_switching", [one.is_recovery for one in switches])
    )
    return ErrorBehavior.model_validate(
        fields
        | {
            "n_errors": n_errors,
            "share_of_turns": _ratio(n_errors, sum(len(episode.turns) for episode in episodes)),
            "n_transient": len(transient),
            "n_persistent": len(persistent),
            "n_runs": len(runs),
            "n_recovered": len(recovered),
            "turns_to_recovery_mean": _ratio(sum(recovered), len(recovered)),
            "n_stays": len(stays),
            "n_switches": len(switches),
        }
    )


def first_errors(episodes: Sequence[Episode], model_names: Sequence[str]) -> dict[str, FirstError]:
    """Every model's part in the first errors of completed episodes, in pool order.

    A first error is one to which no other error leads, and the turns at risk are those to which no error leads. In an episode
    that is a chain these are its first error, and the turns up to and including it. `lift` compares a model's share of first
    errors with its share of the turns at risk: (first errors / turns at risk) of the model over the same of all models, a
    ratio of hazards in discrete time.

    Source: Allison, Discrete-Time Methods for the Analysis of Event Histories (1982), for the turns at risk.
    """
    at_risk, firsts, failed = Counter[str](), Counter[str](), Counter[str]()
    for episode in episodes:
        turns = linked_turns(episode)
        at_risk.update(turn.model for turn in turns if not turn.has_failed_ancestor)
        for turn in turns:
            if turn.is_first_error:
                firsts[turn.model] += 1
                failed[turn.model] += episode.utility < FULL_UTILITY - _TOLERANCE
    n_firsts, n_at_risk = firsts.total(), at_risk.total()
    found = {}
    for name in model_names:
        share = _ratio(firsts[name], n_firsts)
        found[name] = FirstError(
            n_first_errors=firsts[name],
            share_of_first_errors=share,
            failed_after_share=_ratio(failed[name], firsts[name]),
            n_turns_at_risk=at_risk[name],
            lift=None if share is None or not at_risk[name] else share / (at_risk[name] / n_at_risk),
        )
    return found


def bad_ends(episodes: Sequence[Episode], model_names: Sequence[str]) -> dict[str, BadEnd]:
    """Every model's part in the last turns that terminated an episode with a negative utility gain, in pool order."""
    lasts = [episode.turns[-1] for episode in episodes if episode.turns]
    counts = Counter(turn.model for turn in lasts if turn.terminated and turn.utility_gain < 0)
    return {name: BadEnd(n=counts[name], share=_ratio(counts[name], counts.total())) for name in model_names}


def _followed(episode: Episode) -> Iterator[_Followed]:
    has_error = False
    for turn, following in pairwise(episode.turns):
        if turn.error:
            is_stay = turn.model == following.model
            yield _Followed(is_persistent=has_error, is_stay=is_stay, is_recovery=not following.error)
        has_error = bool(turn.error)


def _error_runs(episode: Episode) -> Iterator[tuple[int, bool]]:
    """(Length, whether an error-free turn ended it) of every error run."""
    n_seen = 0
    for is_error, turns in groupby(bool(turn.error) for turn in episode.turns):
        n_turns = len(list(turns))
        n_seen += n_turns
        if is_error:
            yield n_turns, n_seen < len(episode.turns)


def _shares(name: str, events: Sequence[bool]) -> dict[str, object]:
    """A share and its interval, under the names of their fields."""
    return {name: _ratio(sum(events), len(events)), f"{name}_ci95": wilson_interval(sum(events), len(events))}


def _ratio(total: float, count: int) -> float | None:
    return total / count if count else None
