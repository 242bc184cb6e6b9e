"""Rows of a full study from the episodes of all its policies: one evaluation compares only those that it runs."""

from collections.abc import Mapping, Sequence

from mtrouter_rl.evaluation.closed_loop import Contestant
from mtrouter_rl.evaluation.kept_episodes import keep
from mtrouter_rl.evaluation.result_rows import Comparison, records_of, rows_of_records, update_rows
from mtrouter_rl.evaluation.results import PolicyRoles, Results
from mtrouter_rl.records import Episode, Split
from mtrouter_rl.studies.full.claims_of_main import FITTED
from mtrouter_rl.studies.full.frontier_points import POINTS_FILE, FrontierPoints
from mtrouter_rl.studies.full.request import FullStudyRequest
from mtrouter_rl.workflows import RESULTS_FILE, episodes_of_run, roles_of


def compare_all(request: FullStudyRequest, texts: Sequence[str], split: Split) -> None:
    """Work out the rows of a split anew, and write them to the results of the study.

    Args:
        request: The study.
        texts: Every policy that was run on the split.
        split: The split.
    """
    contestants = [Contestant.of(text, request.config, cache=request.cache) for text in texts]
    results = Results.load(request.out / RESULTS_FILE)
    episodes = _with_shared(contestants, episodes_of_run(request.out)[split])
    roles = roles_of(contestants)
    comparison = Comparison(
        split=split,
        reward=request.config.reward,
        model_names=request.config.pool.model_names,
        roles=_compared(roles, key={FITTED, *FrontierPoints.load(request.out / POINTS_FILE).policies}),
        cost_weights={one.name: one.cost_weight for one in contestants if one.cost_weight is not None},
        on_common=True,
    )
    records = records_of(episodes, comparison)
    rows = rows_of_records(records, comparison, seed=request.seed)
    made = _without_far_comparisons(update_rows(results, rows, roles=roles), episodes, split)
    made.save(request.out / RESULTS_FILE)
    keep(
        request.out,
        records,
        split=split,
        model_names=results.model_names,
        rows=[(row.split, row.policy) for row in made.rows],
    )


def _compared(roles: PolicyRoles, *, key: set[str]) -> PolicyRoles:
    """Roles in which only the key routers are compared with everything else.

    All with all would be a thousand differences, and Holm's correction for so many leaves nothing for a bootstrap to show.
    """
    others = dict.fromkeys(name for name in (*roles.baselines, *roles.learned) if name not in key)
    learned = tuple(name for name in roles.learned if name in key)
    return roles.model_copy(update={"learned": learned, "baselines": tuple(others)})


def _without_far_comparisons(results: Results, episodes: Mapping[str, Sequence[Episode]], split: Split) -> Results:
    """Results in which rows of fewer variations than the single models ran have no hull gain and no savings; with a note.

    Both compare means, and means over other variations are no comparison.
    """
    ran = {policy: {(one.task, one.variation) for one in logged} for policy, logged in episodes.items()}
    n_all = max(map(len, ran.values()))
    fewer = {policy: len(found) for policy, found in ran.items() if len(found) < n_all}
    if not fewer:
        return results
    note = (
        f"{split}: {len(fewer)} policies were run on {min(fewer.values())} of {n_all} (task, variation), so their means "
        "are not comparable with the others'; differences are over the episodes that both were run on"
    )
    blank = {"hull_gain": None, "cost_saved_share": None}
    rows = tuple(
        row.model_copy(update=blank) if row.split == split and row.policy in fewer else row for row in results.rows
    )
    return results.model_copy(update={"rows": rows, "notes": tuple(dict.fromkeys((*results.notes, note)))})


def _with_shared(
    contestants: Sequence[Contestant], known: Mapping[str, Sequence[Episode]]
) -> dict[str, Sequence[Episode]]:
    """Episodes of every contestant; of those that call one model throughout, one was run and kept for all that call it."""
    first = {one.name: one.first_model for one in contestants}
    found = {}
    for one in contestants:
        same = (name for name in known if one.first_model is not None and first.get(name) == one.first_model)
        owner = one.name if one.name in known else next(same)
        found[one.name] = known[owner]
    return found
