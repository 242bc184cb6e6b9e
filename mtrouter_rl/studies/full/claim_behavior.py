"""The claims about how the learned router behaves: switches, errors, and which model for which skill."""

from collections.abc import Callable, Sequence

import numpy as np

from mtrouter_rl.evaluation.metrics import EpisodeMetrics
from mtrouter_rl.records import FloatArray
from mtrouter_rl.reporting.verdict import ALPHA
from mtrouter_rl.statistics.estimate import Estimate
from mtrouter_rl.studies.full.claim_evidence import ABOVE_ZERO, Evidence
from mtrouter_rl.studies.full.claims import Claim, claim_of, joint_claim, not_measured

_OTHERS = "other policies that choose at every turn without an LLM"


def fewer_switches(evidence: Evidence) -> Claim:
    """Fewer changes of model in an episode than other policies that choose at every turn."""
    roles = evidence.roles
    key, text = (
        "fewer-switches",
        f"The learned router changes the model less often than {_OTHERS}. Measured: their switches an episode minus its own",
    )
    if not roles.multi_turn:
        return not_measured(key, text, "switches", goal=ABOVE_ZERO, why=_OTHERS)

    def switches(policy: str) -> FloatArray:
        def mean(episodes: Sequence[EpisodeMetrics]) -> float:
            return float(np.mean([one.n_switches for one in episodes]))

        return _by_cluster(evidence, policy, mean)

    own, resamples = switches(roles.default), evidence.resamples
    parts = {}
    for name in roles.multi_turn:
        other = switches(name)
        difference = float(resamples.mean(other)[0] - resamples.mean(own)[0])
        parts[name] = resamples.mean_estimate(other - own, (name, roles.default), value=difference)
    return joint_claim(key, text, "switches", goal=ABOVE_ZERO, parts=parts)


def stays_after_transient_errors(evidence: Evidence) -> Claim:
    """After an error that follows no error, the same model is called more often than by other policies.

    Shares are of the errors of all clusters together, as in `behavior.json`, and resampled with their clusters.
    """
    roles = evidence.roles
    key, text = (
        "stays-after-transient-errors",
        f"After a transient error, the learned router stays with the model more often than {_OTHERS}. Measured: its share "
        "minus theirs",
    )
    if not roles.multi_turn:
        return not_measured(key, text, "share", goal=ABOVE_ZERO, why=_OTHERS)

    def shares(policy: str) -> FloatArray:
        stays = evidence.resamples.mean(_by_cluster(evidence, policy, _sum_of("n_stays_after_transient")))
        errors = evidence.resamples.mean(_by_cluster(evidence, policy, _sum_of("n_transient_errors")))
        return np.asarray(np.divide(stays, errors, out=np.full_like(errors, np.nan), where=errors > 0))

    own = shares(roles.default)
    parts = {name: evidence.estimate(own - shares(name), (name, roles.default)) for name in roles.multi_turn}
    return joint_claim(key, text, "share", goal=ABOVE_ZERO, parts=parts)


def models_by_skill(evidence: Evidence) -> Claim:
    """The called model depends on the skill due: by the interval of the mutual information and by its p-value."""
    key, text = (
        "models-by-skill",
        f"The learned router calls different models for different skills due: mutual information above 0, and p "
        f"below {ALPHA:g}",
    )
    found = evidence.skill
    if found is None:
        why = "the skill due at every turn, which simulated runs alone know"
        return not_measured(key, text, "bits", goal=ABOVE_ZERO, why=why)
    means = evidence.resamples.means
    estimate = Estimate(
        value=found.bits_corrected,
        low=found.low,
        high=found.high,
        n_episodes=means.n_episodes[evidence.roles.default],
        n_clusters=len(means.clusters),
    )
    p_value = "not computed" if found.p_value is None else f"{found.p_value:.3f}"
    notes = (
        f"p = {p_value}, of no dependence, by shuffling the runs of every episode; {found.n_turns} turns, {found.n_labels} "
        "skills. It is an association: a router that watches the time alone shows one where skills come in a fixed order.",
    )
    claim = claim_of(key, text, "bits", goal=ABOVE_ZERO, estimate=estimate, notes=notes)
    is_shown = found.p_value is not None and found.p_value < ALPHA
    if claim.verdict == "holds" and not is_shown:
        return claim.model_copy(update={"verdict": "not distinguishable"})
    return claim


def _sum_of(name: str) -> Callable[[Sequence[EpisodeMetrics]], float]:
    return lambda episodes: float(sum(getattr(one, name) for one in episodes))


def _by_cluster(evidence: Evidence, policy: str, measure: Callable[[Sequence[EpisodeMetrics]], float]) -> FloatArray:
    """A number of the completed episodes of every cluster, shape (C,)."""
    clusters = evidence.resamples.means.clusters
    found: dict[tuple[str, int], list[EpisodeMetrics]] = {cluster: [] for cluster in clusters}
    for one in evidence.episodes[policy]:
        cluster = (one.task, one.variation)
        if one.metrics is not None and cluster in found:
            found[cluster].append(one.metrics)
    return np.array([measure(found[cluster]) for cluster in clusters])
