"""Whether a router is better than the best single model: one record of it, and how it is judged and told."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

from mtrouter_rl.cards.policy import single_policy
from mtrouter_rl.files import SavedRecord
from mtrouter_rl.ope.cross_fitting import BEST_SINGLE, Comparison
from mtrouter_rl.ope.estimates import PolicyEstimates
from mtrouter_rl.ope.record import Estimated, OpeReport, PolicyReport
from mtrouter_rl.ope.run_lengths import LONG_RUNS_FIX
from mtrouter_rl.ope.sequential import HEADLINES
from mtrouter_rl.records import Count

VERDICT_FILE = "verdict.json"
TOLD_DIFFERENCE = 0.05
"""A difference of return that people would act on: what "enough episodes" is measured by."""

Word = Literal["better", "not distinguishable", "worse", "cannot tell"]
Design = Literal["folds", "held-out part", "study"]
"""`folds`: trained anew without each part of the log, and judged by that part. `held-out part`: trained on one part, judged by
another. `study`: routers that choose once for each task, by paired differences of a study."""


class Verdict(SavedRecord):
    """What a log says of a router: `verdict.json` in its folder.

    Attributes:
        word: Better, not distinguishable or worse than the best single model, or that the log cannot tell.
        text: The same as a sentence, with numbers.
        policy: The router.
        baseline: The best single model, as a policy; of several folds, what was chosen in most of them. Empty if there is none.
        design: How it was judged.
        difference: Return of the router minus that of the best single model, with its 95% interval; None if nobody can tell.
        estimator: What estimated it; None if nothing did.
        n_episodes: Episodes that judged.
        n_clusters: (task, variation) among them; 0 where nobody counted.
        n_folds: Folds; 0 if there were none.
        chosen: Single model that was chosen on the other folds, for every fold.
        needs: What would settle it, a sentence each.
        router: Fingerprint of the router's files, so that the verdict on another router is never taken for its own.
        learned: The same of the learned router, where the one that is handed out follows it only in part.
        package_version: Of mtrouter_rl; empty if it was not saved.
    """

    SOURCE: ClassVar[str] = "mtrouter-rl train --verdict writes it"
    FIX: ClassVar[str] = "delete it and run mtrouter-rl train --verdict again"

    word: Word
    text: str
    policy: str
    baseline: str = ""
    design: Design
    difference: Estimated | None = None
    estimator: str | None = None
    n_episodes: Count = 0
    n_clusters: Count = 0
    n_folds: Count = 0
    chosen: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    router: str = ""
    learned: "Verdict | None" = None
    package_version: str = ""

    @property
    def lines(self) -> list[str]:
        """The sentence, what the log says of the learned router, and what would settle it."""
        learned = [] if self.learned is None else [f"the learned router alone: {self.learned.text}"]
        return [self.text, *learned, *(f"what would settle it: {need}" for need in self.needs)]


def load_verdict(folder: Path, router: str) -> Verdict | None:
    """The verdict on the router in a folder; None if there is none, or it is on another router.

    Args:
        folder: Of the router.
        router: Fingerprint of the router's files.

    Raises:
        ResultsError: If the file breaks its schema.
    """
    path = folder / VERDICT_FILE
    if not path.is_file():
        return None
    found = Verdict.load(path)
    return found if found.router == router else None


def judge(policy: str, baseline: str, difference: Estimated, *, n_episodes: int, design: Design) -> Verdict:
    """The verdict on a difference of return with its interval."""
    low, high = difference.low, difference.high
    against = f"against {baseline}, the best single model, on {n_episodes} episodes"
    word: Word = "better" if low > 0 else "worse" if high < 0 else "not distinguishable"
    text = f"{policy} is {word}: return {difference.value:+.3f} [{low:+.3f}, {high:+.3f}] {against}"
    if word == "worse":
        text += f"; call {baseline}"
    more = "" if word != "not distinguishable" else enough_episodes((high - low) / 2, n_episodes)
    return Verdict(
        word=word,
        text=f"{text}; {more}" if more else text,
        policy=policy,
        baseline=baseline,
        design=design,
        difference=difference,
        n_episodes=n_episodes,
    )


def enough_episodes(half_width: float, n_episodes: int) -> str:
    """How many episodes would tell a difference of `TOLD_DIFFERENCE`; empty if there are enough.

    The half of an interval falls with the root of the episodes.
    """
    if half_width <= TOLD_DIFFERENCE:
        return ""
    n = math.ceil(n_episodes * (half_width / TOLD_DIFFERENCE) ** 2 / 100) * 100
    return f"about {n} episodes to judge by would tell a difference of {TOLD_DIFFERENCE:g}"


def cannot_tell(why: str, *, policy: str, design: Design, baseline: str = "", needs: Sequence[str] = ()) -> Verdict:
    """No verdict, and why."""
    return Verdict(
        word="cannot tell",
        text=f"this log cannot tell: {why}",
        policy=policy,
        baseline=baseline,
        design=design,
        needs=tuple(needs),
    )


def verdict_of_folds(found: Comparison, *, policy: str, n_episodes: int, n_clusters: int) -> Verdict:
    """A cross-fitted router against the best single model, which was chosen on the other folds.

    Args:
        found: What the folds say.
        policy: Name of the router that is judged.
        n_episodes: Episodes of the log.
        n_clusters: (task, variation) of the log.
    """
    mine, theirs = found.estimates[found.policy], found.estimates[BEST_SINGLE]
    often = max(found.chosen, key=found.chosen.count)
    baseline = single_policy(often)
    told = {"n_episodes": n_episodes, "n_clusters": n_clusters, "n_folds": len(found.chosen), "chosen": found.chosen}
    if found.difference is None:
        whose, reasons = _refusal(policy, mine, baseline, theirs)
        why = f"{whose} cannot be estimated: {reasons[0]}"
        none = cannot_tell(why, policy=policy, design="folds", baseline=baseline, needs=fixes(reasons))
        return none.model_copy(update=told)
    made = judge(policy, baseline, found.difference, n_episodes=n_episodes, design="folds")
    others = sorted({single_policy(name) for name in found.chosen} - {baseline})
    text = made.text + (f" ({', '.join(others)} in some folds)" if others else "")
    return made.model_copy(update={**told, "text": text, "estimator": found.by})


def _refusal(policy: str, mine: PolicyEstimates, baseline: str, theirs: PolicyEstimates) -> tuple[str, tuple[str, ...]]:
    """Who cannot be estimated, and why: the fitted values' reasons first, since they can be had for any log."""
    for name, one in ((policy, mine), (baseline, theirs)):
        if one.headline is None:
            return name, (*one.refusals.get("fitted", ()), *one.refusals.get("weighting", ()))
    return f"{policy} and {baseline} in one way", ("each can be estimated in a way in which the other cannot",)


def fixes(reasons: Sequence[str]) -> tuple[str, ...]:
    """What to collect so that refusals go away, each once."""
    known: Mapping[str, str] = {
        "more calls of one model in a row": LONG_RUNS_FIX,
        "were called with a probability below": "a log in which every model is drawn with some probability everywhere",
        "contradict": "a larger log",
        "wider than": "a larger log",
        "effective sample size": "a larger log, or one that was drawn more like the router",
        "no propensities": "the probability of every choice, logged as 'propensity'",
    }
    return tuple(dict.fromkeys(fix for reason in reasons for sign, fix in known.items() if sign in reason))


def verdict_of_estimates(report: OpeReport, policy: str) -> Verdict:
    """A router against the best single model, from off-policy estimates of both on a part that it was not trained on.

    All are compared by the first estimator that may be believed for every one of them. If there is none, by that of the router;
    a single model that looks best by it and cannot be estimated so leaves the verdict open: it may well be better than those
    that can.
    """
    rows = {one.policy: one for one in report.policies}
    mine = rows[policy]
    names = [name for name in map(single_policy, report.model_names or ()) if name in rows and rows[name].estimates]
    if mine.headline is None or not names:
        reasons = [reason for many in mine.refusals.values() for reason in many] or ["no single model can be estimated"]
        return cannot_tell(reasons[0], policy=policy, design="held-out part", needs=fixes(reasons))
    everybody = [mine, *(rows[name] for name in names)]
    by = next((one for one in HEADLINES if all(row.believes(one) for row in everybody)), mine.headline)
    best = max(names, key=lambda name: _return_by(rows[name], by))
    found = next((d for d in report.differences if {d.policy, d.other} == {policy, best}), None)
    if found is None:
        reasons = [reason for many in rows[best].refusals.values() for reason in many]
        why = f"{best}, which looks like the best single model, cannot be estimated in the same way"
        told = f"{why}: {reasons[0]}" if reasons else why
        return cannot_tell(told, policy=policy, design="held-out part", baseline=best, needs=fixes(reasons))
    sign = 1.0 if found.policy == policy else -1.0
    low, high = sorted((sign * found.difference.low, sign * found.difference.high))
    difference = Estimated(value=sign * found.difference.value, low=low, high=high)
    made = judge(policy, best, difference, n_episodes=report.n_episodes, design="held-out part")
    return made.model_copy(update={"n_clusters": report.n_clusters, "estimator": found.estimator})


def _return_by(one: PolicyReport, by: str) -> float:
    """Return by an estimator, else by the headline, else by the first that there is."""
    name = next((name for name in (by, one.headline) if name in one.estimates), None) or next(iter(one.estimates))
    return one.estimates[name]["return"].value
