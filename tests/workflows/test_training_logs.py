"""Training from logs of several environments, from folders to the evaluation in an environment that was never trained on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from mtrouter_rl.agents.resolve import RouterRef
from mtrouter_rl.cards import list_cards, load_pool_card
from mtrouter_rl.cli.program import main
from mtrouter_rl.datasets.info import read_info
from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.errors import DatasetError, InvalidConfigError, PoolMismatchError, UnknownNameError
from mtrouter_rl.evaluation.query_router import value_meaning
from mtrouter_rl.evaluation.results import Results
from mtrouter_rl.records import TracedEpisode
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.workflows import EvaluateRequest, TrainRequest, evaluate_routers, load_agent, present, train_router
from mtrouter_rl.workflows.training_logs import EnvChoice, LogSource, find_sources


def rewritten(log, folder, *, episodes=None, **info):
    """A log with another info, or other episodes."""
    dataset = Dataset.load(log)
    write_dataset(
        folder,
        dataset.info.model_copy(update=info),
        (TracedEpisode(episode=episode) for episode in episodes or dataset.episodes),
    )
    return folder


@pytest.fixture
def joint(tmp_path, tiny_agent, corridor_config, corridor_log, hallway_config, hallway_log):
    return TrainRequest(
        agent=tiny_agent("fitted-q"),
        config=corridor_config,
        seed=0,
        out=tmp_path / "joint",
        dataset=corridor_log,
        more_logs=(LogSource(dataset=hallway_log, config=hallway_config),),
        encoder="hashing",
    )


def train(request, **changes):
    return train_router(replace(request, **changes), show_progress=False)


def with_second(request, dataset, config=None):
    return replace(request, more_logs=(LogSource(dataset=dataset, config=config or request.more_logs[0].config),))


def test_a_joint_router_runs_wherever_the_models_are_the_same(tmp_path, joint, corridor_variant):
    """In the environments of its logs, and in one that it has never seen, which results and report then say."""
    train(joint)
    for env in ("corridor", corridor_variant("hallway"), corridor_variant("lane")):
        config = resolve_env(env)
        run = tmp_path / config.card.name
        with RolloutPool(config, n_workers=1) as pool:
            plan = EvaluateRequest(routers=(str(joint.out), "random"), split="test", n_seeds=1, out=run)
            results = evaluate_routers(pool, plan, show_progress=False)
            again = evaluate_routers(pool, plan, show_progress=False)
        assert results.roles.learned == ("fitted-q",)
        assert results.row("fitted-q", "test").n_episodes == 8
        assert results.dataset_id == "corridor-uniform-v1, hallway-uniform-v1"
        expected = "fitted-q: trained on logs of corridor, hallway; environment 'lane' was not among the training logs."
        assert results.notes == again.notes == ((expected,) if config.card.name == "lane" else ())
        assert Results.load(run / "results.json") == again
    page = present(run, config, routers=[str(joint.out)])
    assert expected.replace("'", "&#x27;") in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "change",
    [{"parameters": {"of_another_version": 1}}, {"algorithm": "nobody_has_it"}, {"algorithm": "not_here:Algo"}],
)
def test_a_router_whose_card_cannot_be_read_here_runs_and_its_values_are_not_judged(
    tmp_path, tiny_agent, corridor_config, corridor_log, change
):
    """It is of another version, or of a plug-in that is not there; that must not cost an evaluation that was paid for."""
    saved, run = tmp_path / "saved", tmp_path / "run"
    train_router(
        TrainRequest(
            agent=tiny_agent("fitted-q"),
            config=corridor_config,
            seed=0,
            out=saved,
            dataset=corridor_log,
            encoder="hashing",
        ),
        show_progress=False,
    )
    record = json.loads((saved / "router.json").read_text())
    record["provenance"]["card"] |= change
    (saved / "router.json").write_text(json.dumps(record))
    with RolloutPool(corridor_config, n_workers=1) as pool:
        plan = EvaluateRequest(routers=(str(saved), "random"), split="test", n_seeds=1, out=run)
        results = evaluate_routers(pool, plan, show_progress=False)
    assert results.row("fitted-q", "test").n_episodes == 8
    (note,) = results.notes
    assert note.startswith("fitted-q: its agent card cannot be read here; it is of another version, or of a plug-in")
    page = present(run, corridor_config, routers=[str(saved)])
    assert "its agent card cannot be read here" in page.read_text(encoding="utf-8")
    router = RouterRef.of(str(saved))(corridor_config)
    assert value_meaning(router, env="corridor") is None


def test_every_log_has_the_reward_of_its_environment(joint, corridor_config, hallway_config):
    rewards = [log.reward for log in joint.logs]
    assert [(one.cost_weight, one.cost_unit_usd) for one in rewards] == [(0.5, 0.01), (0.3, 0.02)]
    dearer = LogSource(dataset=Path("log"), config=hallway_config.at_cost_weight(0.9))
    assert dearer.reward.cost_weight == 0.9


def test_the_identity_holds_all_logs_and_one_log_keeps_the_old_one(joint):
    more = joint.identity()["more_logs"]
    assert [one["dataset"]["dataset_id"] for one in more] == ["hallway-uniform-v1"]
    assert more[0]["env"]["cost_unit_usd"] == 0.02
    alone = replace(joint, more_logs=()).identity()
    keys = {"agent", "seed", "encoder", "env", "dataset", "n_validation_seeds", "validation_per_task"}
    assert set(alone) == keys
    assert set(joint.identity()) == {*keys, "more_logs", "log_shares"}
    assert replace(joint, log_shares="by-turns").identity() != joint.identity()


def test_the_order_and_the_shares_make_other_routers(joint):
    def weights(request):
        return (train(request) / "weights.safetensors").read_bytes()

    equal = weights(joint)
    assert weights(replace(joint, out=joint.out.with_name("again"))) == equal
    assert weights(replace(joint, out=joint.out.with_name("turns"), log_shares="by-turns")) != equal


@pytest.mark.parametrize("model", ["small", "large"])
def test_logs_of_other_models_are_refused_by_the_first_difference(tmp_path, joint, hallway_log, model):
    models = [one.model_dump() for one in read_info(hallway_log).models]
    changed = [one | {"context_tokens": 9000} if one["name"] == model else one for one in models]
    pool = load_pool_card("corridor-three")
    config = joint.more_logs[0].config
    other = type(pool).model_validate(pool.model_dump() | {"models": changed})
    log = rewritten(hallway_log, tmp_path / "other", models=other.models)
    with pytest.raises(
        PoolMismatchError,
        match=rf"'corridor-uniform-v1' \(environment 'corridor'\) and 'hallway-uniform-v1' \(environment 'hallway'\) cannot "
        rf"train one router: model '{model}', context_tokens: 8000 in the first log, 9000 in the second; .*reprice",
    ):
        train(with_second(joint, log, replace(config, pool=other)))


def test_every_log_is_checked_against_its_own_pool_and_its_own_splits(tmp_path, joint, corridor_log, hallway_log):
    config = joint.more_logs[0].config
    uncached = config.pool.model_copy(update={"prompt_cache": None})
    with pytest.raises(PoolMismatchError, match=r"'hallway-uniform-v1' was logged with pool [^\n]*:\n  prompt_cache"):
        train(with_second(joint, hallway_log, replace(config, pool=uncached)))
    splits = config.card.splits.model_copy(update={"seed": 43})
    card = config.card.model_copy(update={"splits": splits})
    with pytest.raises(DatasetError, match=r"not in the split that environment 'hallway' puts them in"):
        train(with_second(joint, hallway_log, replace(config, card=card)))


def test_one_log_twice_is_refused_wherever_it_lies(tmp_path, joint, corridor_log, corridor_config):
    copy = rewritten(corridor_log, tmp_path / "copy")
    with pytest.raises(InvalidConfigError, match=r"'corridor-uniform-v1' is given twice \(.*uniform and .*copy\)"):
        train(with_second(joint, copy, corridor_config))


@pytest.mark.parametrize("agent", ["task-table", "random", "single:small"])
def test_agents_of_one_log_refuse_several(joint, agent):
    with pytest.raises(InvalidConfigError, match=rf"agent '{agent}' cannot learn from several logs, and 2 are given"):
        train(joint, agent=load_agent(agent))


def choice(*envs, **changes):
    return EnvChoice(envs=tuple(map(str, envs)), resolve=resolve_env, **changes)


def test_cards_are_matched_to_logs_by_name(corridor_log, hallway_log, corridor_variant, hallway_config):
    folders = [hallway_log, corridor_log]
    found = find_sources(folders, choice(corridor_variant("hallway")))
    assert [source.config.card.name for source in found] == ["hallway", "corridor"]
    assert found[0].config == hallway_config
    assert find_sources([], choice()) == ()


def test_one_log_takes_the_card_that_is_given(corridor_log, corridor_variant):
    (source,) = find_sources([corridor_log], choice(corridor_variant("lane")))
    assert source.config.card.name == "lane"


def test_environments_that_cannot_be_told_are_named(corridor_log, hallway_log, corridor_variant):
    folders = [corridor_log, hallway_log]
    with pytest.raises(
        UnknownNameError,
        match=r"'hallway-uniform-v1' in .*uniform is of environment 'hallway': unknown env card .*; give its card with --env",
    ):
        find_sources(folders, choice())
    with pytest.raises(InvalidConfigError, match=r"--env lane: no log is of it, the logs are of corridor, hallway"):
        find_sources(folders, choice(corridor_variant("hallway"), corridor_variant("lane")))
    with pytest.raises(InvalidConfigError, match=r"--env: more than one card has the name corridor; give each once"):
        find_sources(folders, choice("corridor", "corridor"))
    with pytest.raises(InvalidConfigError, match=r"--cost-unit-usd is for imported logs"):
        find_sources(folders, choice(corridor_variant("hallway"), cost_unit_usd=1.0))


def test_an_imported_log_beside_a_collected_one_needs_what_money_is_worth(tmp_path, corridor_log, hallway_log):
    imported = rewritten(hallway_log, tmp_path / "imported", origin="imported")
    with pytest.raises(
        InvalidConfigError, match=r"'hallway-uniform-v1' was imported, .*--cost-weight and --cost-unit-usd"
    ):
        find_sources([corridor_log, imported], choice())
    found = find_sources([corridor_log, imported], choice(cost_weight=0.4, cost_unit_usd=0.5))
    assert [source.config.reward.cost_unit_usd for source in found] == [0.01, 0.5]


def test_the_command_trains_on_several_folders(tmp_path, corridor_log, hallway_log, corridor_variant, capsys):
    agent = tmp_path / "tiny.yaml"
    parameters = {"n_iterations": 2, "steps_per_iteration": 5, "batch_size": 16}
    card = yaml.safe_load(list_cards("agents")["myopic"].read_text(encoding="utf-8")) | {"name": "tiny"}
    agent.write_text(yaml.safe_dump(card | {"parameters": parameters}))
    words = ["train", "--agent", agent, "--encoder", "hashing", "--out", tmp_path / "router", "--dataset"]
    arguments = [str(word) for word in [*words, corridor_log, hallway_log]]
    assert main(arguments) == 1
    assert "'hallway': unknown env card" in capsys.readouterr().err
    assert main([*arguments, "--env", str(corridor_variant("hallway")), "--workers", "1"]) == 0
    assert (tmp_path / "router" / "router.json").is_file()
    assert main([*arguments, "--env", str(corridor_variant("hallway")), "--log-shares", "by-turns"]) == 1
    assert "differs in: log_shares" in capsys.readouterr().err
