import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest

from mtrouter_rl.agents.resolve import resolve_router
from mtrouter_rl.cards import list_cards, load_env_card
from mtrouter_rl.cli.program import build_parser
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import CardError
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.workflows import RESULTS_FILE, train_router
from mtrouter_rl.workflows.quick_study import (
    AGENT_SETS,
    QUICK,
    StudyRequest,
    _train_all,
    _training,
    expand_agents,
    quick_size,
    run_study,
)

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
    changed = card.model_copy(update={"studies": {"quick": {"n_episodes": 7, "ood_per_task": 3}}})
    assert quick_size(changed) == replace(QUICK, n_episodes=7, ood_per_task=3)
    with pytest.raises(
        CardError, match=r"(?s)card 'corridor' .*field 'studies\.quick\.n_episode': .*correct its spelling"
    ):
        quick_size(card.model_copy(update={"studies": {"quick": {"n_episode": 7}}}))


def test_sets_of_agents_are_cards_and_stand_in_the_help(capsys):
    assert {agent for agents in AGENT_SETS.values() for agent in agents} <= set(list_cards("agents"))
    assert len(set(AGENT_SETS["all"])) == len(AGENT_SETS["all"])
    others = {agent for name, agents in AGENT_SETS.items() for agent in agents if name != "learners"}
    assert set(AGENT_SETS["all"]) >= others  # learners are variants of one router, for a study of their own
    with pytest.raises(SystemExit):
        build_parser().parse_args(["study", "--help"])
    assert f"sets of them: {', '.join(AGENT_SETS)}" in " ".join(capsys.readouterr().out.split())


def test_sets_and_cards_can_be_mixed_and_each_agent_comes_once():
    assert expand_agents(["interleave", "rules", "my.yaml"]) == (
        "interleave",
        "escalate-on-error",
        "strong-first",
        "cheap-first",
        "my.yaml",
    )


def test_rules_take_the_validation_that_found_the_strongest_model(request_of_study, corridor_log):
    request = replace(request_of_study, agents=("interleave", "cascade"))
    copytree(corridor_log, request.out / "dataset")
    with RolloutPool(request.config, n_workers=1) as pool:
        train_router(_training(request, "strongest"), pool=pool, show_progress=False)
        _train_all(request, pool, show_progress=False)
    folders = sorted(path.parent.name for path in (request.out / "routers").glob("*/validation"))
    assert folders == ["strongest"]
    strongest = resolve_router(str(request.router("strongest")), request.config.pool)
    for agent in request.agents:
        router = resolve_router(str(request.router(agent)), request.config.pool)
        assert router.settings.roles.rungs == ("small", strongest.settings.order[0])
        assert router.settings.roles.validation_utilities == strongest.settings.validation_utilities


def test_workers_of_a_killed_training_end(tmp_path, corridor_log):
    """They would train on for nobody, and write beside those of the next run."""
    code = f"""
from pathlib import Path
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.workflows import TrainRequest, load_agent
from mtrouter_rl.workflows.quick_study import train_side_by_side

card = load_agent("fitted-q")
card = card.model_copy(update={{"parameters": card.parameters | {{"n_iterations": 10000, "steps_per_iteration": 5}}}})
log, out = Path({str(corridor_log)!r}), Path({str(tmp_path)!r})
trainings = [
    TrainRequest(agent=card, config=resolve_env("corridor"), seed=seed, out=out / str(seed), dataset=log) for seed in (0, 1)
]
if __name__ == "__main__":
    train_side_by_side(trainings, n_workers=2, show_progress=False)
"""
    script = tmp_path / "train.py"
    script.write_text(code)
    parent = subprocess.Popen([sys.executable, str(script)])

    def workers():
        return set(Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split())

    wait_for(lambda: len(list(tmp_path.glob("*/checkpoints/iteration-*"))) >= 2)
    started = workers()
    parent.kill()
    parent.wait()
    assert len(started) >= 2
    wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in started))


def wait_for(is_true, *, seconds=120):
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.2)
