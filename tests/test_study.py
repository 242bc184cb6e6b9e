from dataclasses import replace

import pytest

from mtrouter_rl.cards import load_env_card
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import CardError
from mtrouter_rl.study import QUICK, StudyRequest, quick_size, run_study
from mtrouter_rl.workflows import RESULTS_FILE

SIZE = replace(QUICK, n_episodes=150, ood_per_task=4)


CARD = """
name: tiny
description: a training of a second
algorithm: myopic
parameters: { n_iterations: 2, steps_per_iteration: 10, batch_size: 32 }
"""


@pytest.fixture
def request_of_study(tmp_path, corridor_config):
    card = tmp_path / "tiny.yaml"
    card.write_text(CARD)
    return StudyRequest(
        config=corridor_config, out=tmp_path / "run", size=SIZE, seed=0, n_workers=1, agents=(str(card),)
    )


def test_the_study_runs_and_its_second_run_does_nothing(request_of_study):
    said = []
    results = run_study(request_of_study, say=said.append, show_progress=False)
    out = request_of_study.out
    assert {row.split for row in results.rows} == {"test", "ood"}
    policies = {row.policy for row in results.split_rows("test")}
    assert policies == {"single:small", "single:middle", "single:large", "random", "cheapest", "strongest", "tiny"}
    assert results.row("tiny", "test").n_episodes == 16
    assert results.row("strongest", "test").cost_saved_share == 0
    assert "random" in results.row("tiny", "test").paired
    for name in ("report.html", "report.md", "config.json", "plots", "tensorboard"):
        assert (out / name).exists()
    assert len(Dataset.load(out / "dataset").episodes) == 150

    shards = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    weights = (out / "routers" / "tiny" / "router.json").stat().st_mtime_ns
    first = (out / RESULTS_FILE).read_bytes()
    run_study(request_of_study, say=said.append, show_progress=False)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == shards
    assert (out / "routers" / "tiny" / "router.json").stat().st_mtime_ns == weights
    assert (out / RESULTS_FILE).read_bytes() == first
    assert said[-1].startswith("done in")


def test_a_card_may_name_other_sizes():
    card = load_env_card("corridor")
    assert quick_size(card) == QUICK
    changed = card.model_copy(update={"study": {"n_episodes": 7, "ood_per_task": 3}})
    assert quick_size(changed) == replace(QUICK, n_episodes=7, ood_per_task=3)
    with pytest.raises(
        CardError, match=r"card 'corridor', study: unknown size 'n_episode'; did you mean 'n_episodes'\?"
    ):
        quick_size(card.model_copy(update={"study": {"n_episode": 7}}))
