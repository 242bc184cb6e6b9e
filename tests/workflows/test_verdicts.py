"""Training with a verdict: the word on a router, and the safe router, from logs whose answer is known."""

import dataclasses
import json

import numpy as np
import pytest
import yaml

from mtrouter_rl.agents.resolve import resolve_router
from mtrouter_rl.agents.safe import SafeRouter
from mtrouter_rl.cards import card_root
from mtrouter_rl.datasets.rewrite import traced_episodes, write_dataset
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.embeddings.history_sources import observations_of
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.errors import InvalidConfigError, RouterError
from mtrouter_rl.ope.fqe import FqeParameters
from mtrouter_rl.ope.record import Estimated
from mtrouter_rl.ope.verdict import VERDICT_FILE, Verdict, load_verdict
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.workflows import CollectRequest, TrainRequest, collect_dataset, load_agent, train_router, verdicts
from mtrouter_rl.workflows.verdicts import VerdictRequest, train_with_verdict

FQE = FqeParameters(
    n_iterations=5,
    steps_per_iteration=10,
    batch_size=64,
    keep_last=2,
    n_repeats=1,
    learning_rate=3e-3,
    text_projection=4,
    history_hidden=(16,),
    joint_hidden=(16,),
)


def ask(train, **settings):
    return VerdictRequest(train=train, **({"fqe": FQE, "n_resamples": 100} | settings))


def run(request):
    return train_with_verdict(request, say=lambda _: None, show_progress=False)


def collected(config, folder):
    """A log in which a share of the episodes keeps one model, so that it tells of single models as well."""
    with RolloutPool(config, n_workers=1) as pool:
        request = CollectRequest(policy="mixed:0.4", n_episodes=150, seed=0, out=folder)
        collect_dataset(pool, request, show_progress=False)
    return folder


@pytest.fixture(scope="module")
def corridor_log(tmp_path_factory, corridor_config):
    return collected(corridor_config, tmp_path_factory.mktemp("log") / "mixed")


@pytest.fixture
def training(tmp_path, corridor_config, corridor_log):
    """A training of ridge regressions on the corridor, where switching pays."""
    return TrainRequest(
        agent=load_agent("turn-ridge"), config=corridor_config, seed=0, out=tmp_path / "router", dataset=corridor_log
    )


@pytest.fixture(scope="module")
def plain_config(corridor_variant):
    """A corridor in which the middle model is good at everything, and the others at nothing."""
    pool = yaml.safe_load((card_root() / "envs/pools/corridor-three.yaml").read_text(encoding="utf-8"))
    models = pool["backend"]["settings"]["models"]
    for name, ability in (("small", -2.0), ("middle", 5.0), ("large", -2.0)):
        models[name] |= {"ability": ability, "skills": {}}
    return resolve_env(corridor_variant("plain", pool=pool))


@pytest.fixture(scope="module")
def plain_log(tmp_path_factory, plain_config):
    return collected(plain_config, tmp_path_factory.mktemp("plain") / "mixed")


def states_of(config, log):
    return [one for episode in Dataset.load(log).completed for one in observations_of(episode, config.pool)]


def called(folder, config, log):
    """Models that a saved router calls in the states of a log."""
    router = resolve_router(str(folder), config.pool)
    assert isinstance(router, SafeRouter)
    states = states_of(config, log)
    found = router.action_probabilities(states).argmax(axis=1)
    assert (router.follows(states) == (found != config.pool.index(router.settings.baseline))).all()
    return {config.pool.model_names[index] for index in np.unique(found)}, router


def test_where_one_model_is_best_everywhere_the_safe_router_is_that_model(tmp_path, plain_config, plain_log):
    train = TrainRequest(
        agent=load_agent("turn-clusters"), config=plain_config, seed=0, out=tmp_path / "safe", dataset=plain_log
    )
    verdict = run(ask(train, is_safe=True))
    models, router = called(train.out, plain_config, plain_log)
    assert models == {"middle"}
    assert (verdict.policy, verdict.baseline) == ("turn-clusters-safe", "single:middle")
    assert verdict.word in ("not distinguishable", "cannot tell")
    assert verdict.learned.policy == "turn-clusters"
    assert router.settings.typical_error >= 0
    assert load_verdict(train.out, verdict.router) == verdict


def test_where_switching_pays_it_switches_and_caution_decides_how_readily(training, corridor_config, corridor_log):
    run(ask(training, is_safe=True, caution=0.5))
    models, router = called(training.out, corridor_config, corridor_log)
    assert len(models) > 1
    assert router.settings.typical_error > 0
    states = states_of(corridor_config, corridor_log)
    shares = []
    for caution in (0.0, 0.5, 2.0, 1e6):
        router.settings = router.settings.model_copy(update={"caution": caution})
        shares.append(router.follows(states).mean())
    assert shares[0] > shares[1] > shares[2] > shares[3] == 0.0
    router.settings = router.settings.model_copy(update={"caution": 0.0})
    learned = router.policy.action_probabilities(states)
    np.testing.assert_array_equal(router.action_probabilities(states), learned)


def test_where_no_advantage_is_beyond_its_error_it_is_the_best_single_model(training, corridor_config, corridor_log):
    verdict = run(ask(training, is_safe=True, caution=1e6))
    models, router = called(training.out, corridor_config, corridor_log)
    assert models == {router.settings.baseline}
    assert (verdict.word, verdict.difference.low, verdict.difference.high) == ("not distinguishable", 0.0, 0.0)
    assert f"calls {verdict.baseline}, the best single model, at every turn of the log" in verdict.text


def test_a_router_that_the_log_shows_to_be_worse_is_held(training, corridor_config, corridor_log, monkeypatch):
    plain = verdicts.verdict_of_folds

    def worse(found, *, policy, **counts):
        made = plain(found, policy=policy, **counts)
        return made.model_copy(update={"word": "worse", "text": f"{policy} is worse"})

    monkeypatch.setattr(verdicts, "verdict_of_folds", worse)
    verdict = run(ask(training, is_safe=True, caution=0.0))
    models, router = called(training.out, corridor_config, corridor_log)
    assert router.settings.is_held
    assert models == {router.settings.baseline}
    assert verdict.text.endswith(f"so it calls single:{router.settings.baseline} throughout")


@pytest.mark.parametrize(("low", "is_followed"), [(0.1, True), (-0.005, True), (-0.02, False)])
def test_a_router_that_as_a_whole_does_no_worse_is_followed_throughout(
    training, corridor_config, corridor_log, monkeypatch, low, is_followed
):
    plain = verdicts.verdict_of_folds

    def told(found, *, policy, **counts):
        made = plain(found, policy=policy, **counts)
        return made.model_copy(
            update={"text": f"{policy} is judged", "difference": Estimated(value=0.2, low=low, high=0.4)}
        )

    monkeypatch.setattr(verdicts, "verdict_of_folds", told)
    verdict = run(ask(training, is_safe=True, caution=1e6))
    router = resolve_router(str(training.out), corridor_config.pool)
    assert router.settings.is_whole == is_followed
    if not is_followed:
        return
    states = states_of(corridor_config, corridor_log)
    np.testing.assert_array_equal(router.action_probabilities(states), router.policy.action_probabilities(states))
    assert verdict.policy == router.name
    assert verdict.text.startswith(f"{router.name} is judged; the learned policy as a whole loses no more than 0.01")
    assert load_verdict(training.out, verdict.router) == verdict


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name in ("router.json", "weights.safetensors", "deployment.json", VERDICT_FILE)
    }


def test_a_killed_run_goes_on_and_ends_with_the_same_files(training, monkeypatch):
    whole = dataclasses.replace(training, out=training.out / "whole")
    verdict = run(ask(whole, is_safe=True, caution=0.5))
    killed = dataclasses.replace(training, out=training.out / "killed")
    trained = []

    def dies(request, **more):
        trained.append(request.out)
        if len(trained) == 3:
            raise KeyboardInterrupt
        return train_router(request, **more)

    with monkeypatch.context() as patched:
        patched.setattr(verdicts, "train_router", dies)
        with pytest.raises(KeyboardInterrupt):
            run(ask(killed, is_safe=True, caution=0.5))
    assert not (killed.out / "router.json").exists(), "no half of a router is there to be served"
    assert run(ask(killed, is_safe=True, caution=0.5)) == verdict
    assert files(killed.out) == files(whole.out)
    monkeypatch.setattr(verdicts, "train_router", dies)
    assert run(ask(killed, is_safe=True, caution=0.5)) == verdict, "what is done is not done again"
    assert len(trained) == 3


def test_the_verdict_on_a_learned_router_leaves_it_as_it_was(training):
    train_router(training, show_progress=False)
    before = (training.out / "router.json").read_bytes()
    verdict = run(ask(training))
    assert (training.out / "router.json").read_bytes() == before
    assert (verdict.policy, verdict.design, verdict.n_folds) == ("turn-ridge", "folds", 3)
    assert verdict.n_episodes == 150
    assert json.loads((training.out / VERDICT_FILE).read_text())["text"] == verdict.text
    with pytest.raises(RouterError, match=r"another training \(differs in: safe\)"):
        run(ask(training, is_safe=True))
    train_router(dataclasses.replace(training, overwrite=True), show_progress=False)
    assert not (training.out / VERDICT_FILE).exists(), "a verdict never outlives its router"


def test_without_a_log_to_learn_from_there_is_no_verdict_and_it_says_why(training):
    rule = dataclasses.replace(training, agent=load_agent("cheapest"))
    verdict = run(ask(rule))
    assert verdict.word == "cannot tell"
    assert "agent 'cheapest' learns nothing from a log" in verdict.text
    assert Verdict.load(rule.out / VERDICT_FILE) == verdict
    with pytest.raises(InvalidConfigError, match="--safe: agent 'cheapest' has no action values"):
        run(ask(dataclasses.replace(rule, out=rule.out / "x"), is_safe=True))


def test_an_agent_that_runs_models_to_train_is_not_trained_again_and_again(training, corridor_config):
    """Each training would run them once more, and real models cost money."""
    cascade = load_agent("cascade")
    few = cascade.model_copy(update={"parameters": cascade.parameters | {"alpha": 0.5}})
    with RolloutPool(corridor_config, n_workers=1) as pool:
        request = ask(dataclasses.replace(training, agent=few))
        verdict = train_with_verdict(request, say=lambda _: None, pool=pool, show_progress=False)
    assert "agent 'cascade' is trained with runs of every model" in verdict.text
    assert not (training.out / "folds").exists()


@pytest.fixture
def part(tmp_path, corridor_log):
    """Writes some episodes of the log as a log of its own."""

    def make(keep):
        info = Dataset.load(corridor_log).info
        write_dataset(tmp_path / "part", info, [one for one in traced_episodes(corridor_log) if keep(one.episode)])
        return tmp_path / "part"

    return make


def test_a_log_of_one_model_cannot_tell(training, part, tiny_agent):
    log = part(lambda one: set(one.models) == {"middle"})
    verdict = run(ask(dataclasses.replace(training, agent=tiny_agent("fitted-q"), dataset=log)))
    assert verdict.text == (
        "this log cannot tell: one model played all of it (middle), so nothing says what another would have earned"
    )


def test_too_few_instances_for_the_folds_cannot_tell(training, part):
    log = part(lambda one: one.variation < 3)
    request = dataclasses.replace(training, dataset=log)
    n = len({(one.task, one.variation) for one in Dataset.load(log).completed})
    verdict = run(ask(request, n_folds=n))
    assert f"it has {n} (task, variation), must have {2 * n} for {n} folds" in verdict.text
    with pytest.raises(InvalidConfigError, match="--safe: it has"):
        run(ask(dataclasses.replace(request, out=request.out / "safe"), n_folds=n, is_safe=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"n_folds": 1}, "folds is 1, must be at least 2"), ({"caution": -1.0}, "caution is -1.0, must be a number of 0")],
)
def test_wrong_numbers_are_refused(training, settings, message):
    with pytest.raises(InvalidConfigError, match=message):
        run(ask(training, **settings))
