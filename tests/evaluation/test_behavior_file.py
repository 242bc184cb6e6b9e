import json

import pytest

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.evaluation.behavior import BehaviorSetting, behavior_row
from mtrouter_rl.evaluation.behavior_file import Behavior
from mtrouter_rl.reporting.behavior_report import format_behavior
from tests.cases.behavior_cases import flawless_episode, hand_episodes
from tests.cases.evaluation_cases import MODELS


def behavior_of(episodes, policy="hand", **changes):
    setting = BehaviorSetting(split="test", model_names=MODELS, n_resamples=200)
    row = behavior_row(policy, episodes, setting)
    return Behavior(**({"env": "kitchen", "pool": "tiny-pool", "model_names": MODELS, "rows": (row,)} | changes))


@pytest.fixture(scope="module")
def behavior():
    return behavior_of(hand_episodes())


def test_a_file_comes_back_as_it_was(tmp_path, behavior):
    path = tmp_path / "new" / "behavior.json"
    behavior.write(path)
    assert Behavior.load(path) == behavior
    assert [entry.name for entry in path.parent.iterdir()] == ["behavior.json"]


def test_merging_replaces_and_adds_rows(behavior):
    replaced = behavior.merge(behavior_of([flawless_episode()]))
    assert [row.n_episodes for row in replaced.rows] == [1]
    added = behavior.merge(behavior_of([flawless_episode()], "other"))
    assert [row.policy for row in added.rows] == ["hand", "other"]
    assert added.row("hand", "test") == behavior.rows[0]
    assert added.row("hand", "ood") is None
    with pytest.raises(ResultsError, match="field 'pool': is 'tiny-pool' in one and 'paper' in the other"):
        behavior.merge(behavior_of(hand_episodes(), pool="paper"))


BROKEN = [
    (lambda data: data | {"colour": 1}, "colour"),
    (lambda data: data["rows"][0].update(colour=1), r"rows\.0\.colour"),
    (lambda data: data["rows"][0]["errors"].update(n_slips=1), r"rows\.0\.errors\.n_slips"),
    (lambda data: data["rows"][0].pop("n_failed"), r"rows\.0\.n_failed"),
    (lambda data: data["rows"][0].update(n_turns="11"), r"rows\.0\.n_turns"),
    (lambda data: data["rows"][0].update(run_length_mean=float("nan")), r"run_length_mean"),
    (lambda data: data["rows"][0]["switch_matrix"].pop(), "all must be 2"),
    (lambda data: data.update(rows=data["rows"] * 2), "appear more than once"),
    (
        lambda data: data.update(model_names=["tiny", "middle", "huge"]),
        r"names models \['big'\] that model_names lacks",
    ),
    (lambda data: data.update(schema_version=3), "schema_version"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_a_broken_file_is_refused(change, message, tmp_path, behavior):
    data = json.loads(behavior.model_dump_json())
    changed = change(data)
    path = tmp_path / "behavior.json"
    path.write_text(json.dumps(changed if isinstance(changed, dict) and "rows" in changed else data))
    with pytest.raises(ResultsError, match=message):
        Behavior.load(path)


def test_a_missing_file_is_explained(tmp_path):
    with pytest.raises(ResultsError, match=r"behavior\.json: no such file; `mtrouter-rl evaluate` writes it"):
        Behavior.load(tmp_path / "behavior.json")


def test_text_shows_numbers_cases_and_what_is_missing(behavior):
    text = format_behavior(behavior)
    assert "kitchen, test split, pool tiny-pool" in text
    assert "75% [30, 95] n=4" in text  # stay after transient errors
    assert "hand: big" in text
    assert "100.0% n=1" in text  # bad ends of big
    lines = text.splitlines()
    assert next(line for line in lines if line.startswith("hand ") and line.endswith("-")).count("p=") == 1
