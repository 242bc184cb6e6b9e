"""Before and after distillation: the numbers are those of the episodes, paired, and trainings of one agent are averaged."""

import json
import math

import numpy as np
import pytest

from mtrouter_rl.cli.program import run_command
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.errors import ResultsError, UnknownNameError
from mtrouter_rl.studies.distillation.worth import WorthRequest, find_worth, format_worth


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Evaluations with the pool as it is, twice, and with one whose small model solves riddles as the large one does."""
    folder = tmp_path_factory.mktemp("worth")
    card = folder / "taught.yaml"
    card.write_text(
        "name: taught\nextends: corridor-three\ndescription: SIMULATED AND ASSUMED.\n"
        "backend: { settings: { models: { small: { skills: { think: 2.5 } } } } }\n"
    )
    words = ["evaluate", "--env", "corridor", "--split", "validation", "--seeds", "4", "--workers", "1", "--quiet"]
    for name, routers, more in (
        ("before", ["random", "single:small", "single:large"], []),
        ("again", ["random"], []),
        ("after", ["random", "single:small"], ["--pool", str(card)]),
    ):
        run_command([*words, *more, "--router", *routers, "--out", str(folder / name)])
    return folder


def request(runs, **changes):
    given = {"before": (runs / "before",), "after": (runs / "after",), "split": "validation"} | changes
    return WorthRequest(config=resolve_env("corridor"), **given)


def change(found, policy, quantity):
    (row,) = (one for one in found.policies if one.policy == policy)
    return next(one for one in row.changes if one.quantity == quantity)


def test_numbers_are_those_of_the_episodes(runs):
    found = find_worth(request(runs))
    assert (found.pool_before, found.pool_after, found.cheap) == ("corridor-three", "taught", "small")
    assert [one.policy for one in found.policies] == ["random", "single:small"]
    episodes = Dataset.load(next((runs / "before").glob("episodes/validation/random"))).completed
    assert change(found, "random", "cost_usd").before.value == pytest.approx(
        np.mean([one.cost_usd for one in episodes])
    )
    reward = resolve_env("corridor").reward
    returns = [one.utility - reward.cost_weight * one.cost_usd / reward.cost_unit_usd for one in episodes]
    assert change(found, "random", "return").before.value == pytest.approx(np.mean(returns))
    shares = [np.mean([turn.model != "small" for turn in one.turns]) for one in episodes]
    assert change(found, "random", "escalations").before.value == pytest.approx(np.mean(shares))


def test_the_difference_is_after_less_before_and_finds_what_was_put_in(runs):
    found = find_worth(request(runs))
    score = change(found, "single:small", "score")
    assert score.difference.value == pytest.approx(score.after.value - score.before.value)
    assert score.difference.low > 0
    escalations = change(found, "single:small", "escalations")
    assert (escalations.before.value, escalations.after.value) == (0.0, 0.0)


def test_runs_of_one_policy_are_averaged(runs):
    one, two = find_worth(request(runs)), find_worth(request(runs, before=(runs / "before", runs / "again")))
    row = two.policies[0]
    assert (row.policy, row.n_before, row.n_after) == ("random", 2, 1)
    assert row.changes == one.policies[0].changes  # the same episodes twice


def test_the_command_prints_what_it_found(runs, capsys):
    words = ["lab", "distill-worth", "--env", "corridor", "--split", "validation"]
    words += ["--before", str(runs / "before"), "--after", str(runs / "after")]
    capsys.readouterr()
    run_command(words)
    printed = capsys.readouterr().out
    assert printed.strip() == format_worth(find_worth(request(runs))).strip()
    assert "32 episodes a policy; 'small' learned" in printed
    run_command([*words, "--json"])
    assert json.loads(capsys.readouterr().out)["policies"][0]["n_episodes"] == 32


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"split": "test"},
            ResultsError,
            "before: holds no episodes of the test split; name the folder of an evaluation",
        ),
        ({"cheap": "smal"}, UnknownNameError, "did you mean 'small'"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, changes, error, message):
    with pytest.raises(error, match=message):
        find_worth(request(runs, **changes))


def test_runs_of_other_pools_environments_and_policies_are_refused(runs):
    with pytest.raises(ResultsError, match="runs of --after are of pools corridor-three, taught, must be of one"):
        find_worth(request(runs, after=(runs / "after", runs / "again")))
    with pytest.raises(ResultsError, match="episodes are of environment 'corridor', must be of 'hle'; see --env"):
        find_worth(WorthRequest(config=resolve_env("hle"), before=(runs / "before",), after=(), split="validation"))
    assert math.isfinite(find_worth(request(runs, after=(runs / "again",))).policies[0].changes[0].difference.value)
