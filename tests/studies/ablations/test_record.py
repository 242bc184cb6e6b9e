"""Comparison of variants on hand-worked episodes."""

import numpy as np
import pytest

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.evaluation.metrics import EpisodeMetrics, PolicyMetrics
from mtrouter_rl.studies.ablations.record import AblationSetting, VariantRecord, compare_variants
from mtrouter_rl.studies.ablations.report import difference_figure, log_size_figure

KEYS = [("a", 0, 0), ("a", 1, 0), ("b", 0, 0)]
SETTING = AblationSetting(
    env="corridor",
    pool="three",
    split="test",
    is_simulated=True,
    cost_weight=0.5,
    cost_unit_usd=0.01,
    dataset_id="log-v1",
    agent="q",
    compared="mc",
    n_seeds=1,
    n_trainings=2,
    seed=0,
    package_version="0",
    config={},
)


def metrics(returns):
    """Metrics of a policy with these returns at `KEYS`; None stands for a failed episode."""
    episodes = tuple(
        EpisodeMetrics(
            key=key,
            utility=value,
            cost_usd=0.1 * value,
            return_=value,
            n_turns=1,
            n_switches=0,
            n_errors_before_last=0,
            n_stays_after_error=0,
            n_transient_errors=0,
            n_stays_after_transient=0,
            model_turns={},
        )
        for key, value in zip(KEYS, returns, strict=True)
        if value is not None
    )
    return PolicyMetrics(
        episodes=episodes,
        n_failed=len(KEYS) - len(episodes),
        budget_violations=0,
        stay_after_error=None,
        model_share={},
        model_share_by_task={},
        score_by_task={},
    )


def variant(name, group, *, agent="q", percent=100):
    return VariantRecord(
        variant=name,
        group=group,
        agent=agent,
        changes={},
        encoder="hashing",
        log_percent=percent,
        n_logged_episodes=percent,
        policies=(f"{agent}-{name}", f"{agent}-{name}-s1"),
    )


def compare(returns):
    """Compare {(variant, group, agent, percent): returns of both trainings}."""
    variants = [
        variant(name, group, agent=agent, percent=percent) for (name, group, agent, percent), _ in returns.items()
    ]
    by_policy = {
        policy: metrics(values)
        for one, both in zip(variants, returns.values(), strict=True)
        for policy, values in zip(one.policies, both, strict=True)
    }
    return compare_variants(variants, by_policy, SETTING, seed=0)


FULL = ("full", None, "q", 100)


def test_trainings_are_averaged_and_differences_are_over_what_all_completed():
    found = compare(
        {
            FULL: ([0.8, 0.4, 0.6], [0.4, 0.4, 0.2]),
            ("task-only", "context", "q", 100): ([0.2, None, 0.1], [0.0, 0.9, 0.3]),
            ("log-10", "log-size", "q", 10): ([0.5, 0.5, 0.5], [0.3, 0.3, 0.3]),
            ("log-100", "log-size", "mc", 100): ([0.1, 0.1, 0.1], [0.1, 0.1, 0.1]),
        }
    )
    full, task_only, small, rival = found.rows
    assert full.return_.value == pytest.approx((0.6 + 0.4 + 0.4) / 3)
    assert full.return_by_training == pytest.approx((0.6, 1 / 3))
    # Episode (a, 1) failed once, so it counts in neither: (0.1 - 0.6 + 0.2 - 0.4) / 2.
    assert task_only.difference.return_.value == pytest.approx(-0.35)
    assert task_only.difference.score.value == pytest.approx(-35)
    assert task_only.difference.cost_usd.value == pytest.approx(-0.035)
    assert (task_only.difference.return_.n_episodes, task_only.n_failed) == (2, 1)
    assert small.to_compared.return_.value == pytest.approx(0.3)
    assert full.to_compared.return_.value == pytest.approx(14 / 30 - 0.1)
    assert (task_only.to_compared, rival.to_compared) == (None, None)
    # Three clusters can say no more than a sign test of them: 2^(1 - 3), times the five differences of the file.
    assert (small.to_compared.p_value, small.to_compared.p_value_holm) == (0.25, 1.0)


def test_tables_and_figures_show_components_and_log_sizes_apart():
    found = compare(
        {
            FULL: ([0.8, 0.4, 0.6], [0.4, 0.4, 0.2]),
            ("task-only", "context", "q", 100): ([0.2, 0.2, 0.1], [0.0, 0.9, 0.3]),
            ("log-10", "log-size", "q", 10): ([0.5, 0.5, 0.5], [0.3, 0.3, 0.3]),
        }
    )
    components, sizes = found.tables()
    assert [row[0] for row in components.rows] == ["full", "task-only"]
    assert [row[:3] for row in sizes.rows] == [("q", "10%", "10"), ("q", "100%", "100")]
    assert components.rows[1][5] == "0.167, 0.400"
    (axes,) = difference_figure(found).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["context: task-only"]
    (axes,) = log_size_figure(found, "return").axes
    assert axes.lines[0].get_xydata().tolist() == pytest.approx(np.array([[10, 0.4], [100, 14 / 30]]))


def test_variants_without_a_common_episode_are_refused():
    with pytest.raises(ResultsError, match="no episode was completed in every training"):
        compare({FULL: ([0.8, None, None], [None, 0.4, 0.2])})
