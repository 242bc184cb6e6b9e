"""What a run found, in words with numbers."""

from collections.abc import Callable, Sequence

from mtrouter_rl.evaluation.results import PairedDifference, ResultRow, Results
from mtrouter_rl.reporting.tables import format_number, format_percent, format_usd, n_differences, verdict_word

ALPHA = 0.05
"""Level of the tests that the words are about."""
_PHRASES = {
    "higher": "higher than that of {names}",
    "not distinguishable": "not distinguishable from that of {names}",
    "lower": "lower than that of {names}",
}


def verdict(results: Results, split: str) -> str:
    """A few sentences on the learned router that the table ranks first on a split, from the numbers alone.

    Choosing the best one by the numbers that are then reported flatters it, so where there are several, it is said.

    Raises:
        ResultsError: If there are no rows of that split.
    """
    row = top_learned(results, split)
    if row is None:
        best = results.split_rows(split)[0]
        return f"On {split}, no learned router was run; `{best.label}` has the best return ({best.return_mean:.3f})."
    parts = [
        f"On {split}, {_against_strongest(row, results)}.",
        _against_baselines(row),
        _after_holm(row, results),
        _chosen_by(row, results),
    ]
    return " ".join(part for part in parts if part)


def short_verdict(results: Results, split: str) -> str:
    """The same in one sentence, for a list of several runs.

    Raises:
        ResultsError: If there are no rows of that split.
    """
    row = top_learned(results, split)
    if row is None:
        return verdict(results, split)
    words = f"On {split}, {_against_strongest(row, results)}"
    groups = _groups(row, _corrected_word if _is_corrected(row) else lambda one: verdict_word(one.return_))
    if groups:
        basis = "after Holm's correction" if _is_corrected(row) else "by paired 95% intervals"
        words += f"; {basis} its return is {groups}"
    return f"{words}."


def top_learned(results: Results, split: str) -> ResultRow | None:
    """Row of the learned router with the highest return on a split, or None.

    Raises:
        ResultsError: If there are no rows of that split.
    """
    rows = [row for row in results.split_rows(split) if row.policy in results.roles.learned]
    return max(rows, key=lambda row: row.return_mean, default=None)


def _chosen_by(row: ResultRow, results: Results) -> str:
    """That the router was chosen by the numbers that are told of it, where there was a choice."""
    learned = {one.policy for one in results.split_rows(row.split) if one.policy in results.roles.learned}
    if len(learned) < 2:
        return ""
    return f"It is the best of {len(learned)} learned routers by these very numbers, which flatters it."


def first_learned(results: Results, split: str) -> ResultRow | None:
    """Row of the learned router that was named first, or None.

    Raises:
        ResultsError: If there are no rows of that split.
    """
    by_name = {row.policy: row for row in reversed(results.split_rows(split))}
    return next((by_name[name] for name in results.roles.learned if name in by_name), None)


def enumerate_words(words: Sequence[str]) -> str:
    """Words as a sentence lists them.

    Example:
        >>> enumerate_words(["a", "b", "c"])
        'a, b and c'
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _against_strongest(row: ResultRow, results: Results) -> str:
    score = format_number(row.score_mean, decimals=1)
    unit = "simulated USD" if results.is_simulated else "USD"
    own = f"`{row.label}` scores **{score}** at {format_usd(row.cost_usd_mean)} {unit} per episode"
    strongest = results.row(results.roles.strongest, row.split) if results.roles.strongest else None
    if strongest is None or row.cost_saved_share is None:
        return f"{own} (the strongest single model was not run)"
    saved = row.cost_saved_share
    words = (
        f"saves **{format_percent(saved)}** of its cost" if saved >= 0 else f"costs **{format_percent(-saved)}** more"
    )
    reference = format_number(strongest.score_mean, decimals=1)
    return f"{own}, against {reference} of the strongest single model (`{strongest.label}`), and {words}"


def _against_baselines(row: ResultRow) -> str:
    """Which baselines it beats in return, which not, and from which it cannot be told apart."""
    groups = _groups(row, lambda one: verdict_word(one.return_))
    return groups and f"By paired 95% intervals, its return (utility minus weighted cost) is {groups}."


def _after_holm(row: ResultRow, results: Results) -> str:
    """What is left of it once all differences of the split are taken together."""
    if not _is_corrected(row):
        return ""
    n = n_differences(results, row.split)
    family = f"After Holm's correction for the {n} differences of return of this split, at {ALPHA:.0%},"
    found = _groups(row, _corrected_word, words=("higher", "lower"))
    return f"{family} it is {found}." if found else f"{family} it is not distinguishable from that of any of them."


def _is_corrected(row: ResultRow) -> bool:
    return any(one.p_value_holm is not None for one in row.paired.values())


def _corrected_word(difference: PairedDifference) -> str:
    if difference.p_value_holm is None or difference.p_value_holm >= ALPHA:
        return "not distinguishable"
    return "higher" if difference.return_.value > 0 else "lower"


def _groups(
    row: ResultRow, word_of: Callable[[PairedDifference], str], *, words: Sequence[str] = tuple(_PHRASES)
) -> str:
    groups: dict[str, list[str]] = {}
    for baseline, difference in row.paired.items():
        groups.setdefault(word_of(difference), []).append(f"`{baseline}`")
    return "; ".join(_PHRASES[word].format(names=enumerate_words(groups[word])) for word in words if word in groups)
