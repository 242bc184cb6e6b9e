"""The adapter for Gymnasium environments that are played in text: what goes where, every bad input, whole collections."""

from pathlib import Path

import pytest
import yaml

from mtrouter_rl.cards import EnvCard, load_env_card, load_pool_card
from mtrouter_rl.cli.program import main
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.envs.factory import EnvConfig, resolve_card
from mtrouter_rl.envs.gymnasium_text.task import make_task
from mtrouter_rl.envs.routing import RoutingEnv
from mtrouter_rl.errors import (
    CallOrderError,
    CardError,
    InvalidConfigError,
    MissingDependencyError,
    SimulatorError,
    UnknownNameError,
)
from mtrouter_rl.protocols import ExpertTask, Reply
from mtrouter_rl.records import EpisodeSpec, TokenUsage
from mtrouter_rl.rollout import run_episode
from mtrouter_rl.testing import ScriptedBackend, ScriptedRouter
from mtrouter_rl.testing.contract import CHECKS, check_environment, run_checks
from mtrouter_rl.testing.subject import Subject

CARDS = Path(__file__).parents[3] / "examples" / "cards"
LADDER = {
    "entry_point": "games:Ladder",
    "variation": {"goes_to": "seed"},
    "observation": ["observation.text"],
    "task_text": "observation.mission",
    "score": "info.score",
    "max_score": "info.max_score",
    "success": "info.won",
    "errors": [{"kind": "unknown_action", "source": "info.invalid"}],
    "expert": {"source": "info.policy_commands"},
    "mistakes": {"wander": ["down"], "fatal": "info.fatal"},
}


@pytest.fixture(autouse=True)
def _doubles(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "doubles"))
    monkeypatch.setenv("MTROUTER_RL_ALLOW_CODE", "1")


def ladder_card(train_tasks=None, **settings):
    card = load_env_card("corridor").model_dump(mode="json") | {
        "name": "ladder",
        "family": "gymnasium_text",
        "train_tasks": train_tasks or {"climb": 10},
        "ood_tasks": {},
        "skills": [],
        "topics": {},
        "settings": {key: value for key, value in (LADDER | settings).items() if value is not None},
    }
    return EnvCard.model_validate(card)


def ladder(**settings):
    return make_task(ladder_card(**settings))


# --- what goes where


def test_an_episode_by_hand():
    task = ladder()
    assert isinstance(task, ExpertTask)
    start = task.reset("climb", 1, seed=7)  # the height is 3
    assert (start.task_text, start.observation, start.score) == ("Climb the ladder.", "You stand below a ladder.", 0.0)
    assert task.expert_action() == "up"
    assert task.mistakes() == {"wander": ("down",), "fatal": ("jump",)}
    step = task.step("up")
    assert (step.observation, step.ending, step.error) == ("You are on rung 1.", "", "")
    assert step.score == pytest.approx(100 / 3)
    step = task.step("fly")
    assert (step.error, step.score) == ("unknown_action", pytest.approx(100 / 3))
    task.step("up")
    step = task.step("up")
    assert (step.ending, step.score, step.observation) == ("solved", 100.0, "You are at the top.")
    with pytest.raises(CallOrderError, match=r"call reset\(\) first, and again after a task has ended"):
        task.step("up")
    with pytest.raises(CallOrderError):
        task.expert_action()
    task.reset("climb", 0, seed=7)
    assert task.step("jump").ending == "failed"
    task.close()
    task.close()
    with pytest.raises(CallOrderError):
        task.step("up")


@pytest.mark.parametrize(
    ("variation", "level"),
    [
        ({"goes_to": "seed"}, 3),
        ({"goes_to": "seed", "offset": 100}, 103),
        ({"goes_to": "seed", "values": {"climb": [9, 8, 7, 6]}}, 6),
        ({"goes_to": "option", "key": "level"}, 3),
        ({"goes_to": "option", "key": "level", "offset": 2}, 5),
        ({"goes_to": "kwarg", "key": "level"}, 3),
        ({"goes_to": "kwarg", "key": "level", "values": {"climb": ["10", "11", "12", "13"]}}, "13"),
    ],
)
def test_where_the_variation_goes(variation, level):
    task = ladder(train_tasks={"climb": 4}, variation=variation)
    task.reset("climb", 3, seed=50)
    assert task._env.unwrapped.level == level


def test_without_variations_the_episode_seed_decides():
    task = ladder(train_tasks={"climb": 1}, variation={"goes_to": "nothing"})
    task.reset("climb", 0, seed=50)
    assert task._env.level == 50


def test_the_environment_is_made_again_only_for_other_arguments():
    task = ladder(
        train_tasks={"a": 2, "b": 2},
        tasks={"b": {"kwargs": {"limit": 9}}},
        variation={"goes_to": "kwarg", "key": "level"},
    )
    made = []
    for name, variation in (("a", 0), ("a", 0), ("a", 1), ("b", 1)):
        task.reset(name, variation, seed=0)
        made.append(task._env)
    assert made[0] is made[1]
    assert len({id(env) for env in made}) == 3
    assert task._made.kwargs == {"level": 1, "limit": 9}


def test_a_registered_id_loses_its_turn_limit():
    task = ladder(entry_point=None, id="games:games/Ladder-v0")  # the module registers it, with a limit of one step
    task.reset("climb", 2, seed=0)
    endings = [task.step("up").ending for _ in range(4)]
    assert endings == ["", "", "", "solved"]


def test_texts_from_several_places():
    task = ladder(observation=["observation.text", "info.goal"], task_text="info.goal")
    start = task.reset("climb", 0, seed=0)
    assert (start.task_text, start.observation) == ("Reach the top.", "You stand below a ladder.\nReach the top.")
    task = ladder(kwargs={"shape": "text"}, observation=["observation"], task_text=None, task_texts={"climb": "Go up."})
    start = task.reset("climb", 0, seed=0)
    assert (start.task_text, start.observation) == ("Go up.", "You stand below a ladder.")


def test_score_from_rewards_and_full_score():
    task = ladder(score="rewards", max_score=2.0, success="full_score", otherwise="handed_in")
    task.reset("climb", 0, seed=0)  # two rungs, rewards of a half each: half of the full score
    assert task.step("up").score == pytest.approx(25.0)
    step = task.step("up")
    assert (step.score, step.ending) == (pytest.approx(50.0), "handed_in")
    task = ladder(score="rewards", max_score=1.0, success="full_score")
    task.reset("climb", 0, seed=0)
    task.step("up")
    assert task.step("up").ending == "solved"


def test_four_values_are_the_older_interface():
    task = ladder(kwargs={"fault": "four"})
    task.reset("climb", 0, seed=0)
    task.step("up")
    assert task.step("up").ending == "solved"


def test_errors_by_pattern():
    rules = [
        {"kind": "unclear", "pattern": "I don't know how to 'huh"},
        {"kind": "unknown_action", "source": "observation.text", "pattern": "^I don't know"},
    ]
    task = ladder(errors=[rules[0] | {"source": "observation.text"}, rules[1]])
    task.reset("climb", 0, seed=0)
    assert [task.step(text).error for text in ("huh?", "fly", "down")] == ["unclear", "unknown_action", ""]


def test_a_walkthrough_is_followed():
    task = ladder(expert={"source": "info.walkthrough", "is_walkthrough": True})
    task.reset("climb", 0, seed=0)
    for text in ("up", "down"):
        assert task.expert_action() == "up"
        task.step(text)
    task.step("up")
    with pytest.raises(SimulatorError, match="knows no further action, and the task has not ended"):
        task.expert_action()


def test_without_an_expert_there_is_none():
    assert not isinstance(ladder(expert=None, mistakes=None), ExpertTask)


# --- limits of the environment itself


def test_a_limit_of_its_own_is_an_error_that_says_where_limits_belong():
    task = ladder(kwargs={"limit": 1})
    task.reset("climb", 0, seed=0)
    assert task.step("down").ending == ""  # if the card's limit is reached as well, all is well
    with pytest.raises(
        InvalidConfigError, match=r"(?s)truncated the episode by a limit of its own.*set limits\.max_turns"
    ):
        task.step("down")


@pytest.mark.parametrize("ending", ["failed", "handed_in"])
def test_a_limit_that_is_a_rule_of_the_task(ending):
    task = ladder(kwargs={"limit": 1}, truncation=ending)
    task.reset("climb", 0, seed=0)
    assert task.step("down").ending == ending


# --- bad input


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"obsrevation": ["observation"]}, r"(?s)card 'ladder'.*field 'settings\.obsrevation': .*correct its spelling"),
        ({"score": None}, r"field 'settings\.score': Field required; add it"),
        ({"score": "reward"}, r"field 'settings\.score"),
        ({"observation": ["text"]}, r"field 'settings\.observation\.0': got 'text'"),
        ({"observation": []}, r"field 'settings\.observation'"),
        ({"max_score": 0}, r"field 'settings\.max_score"),
        ({"variation": {"goes_to": "option"}}, "variation.key must be given for 'option' and 'kwarg' alone"),
        ({"variation": {"goes_to": "seed", "key": "level"}}, "variation.key must be given for"),
        (
            {"variation": {"goes_to": "seed", "values": {"climb": ["a"] * 10}}},
            "must be numbers where they go to the seed",
        ),
        (
            {"variation": {"goes_to": "seed", "values": {"climb": [1]}}},
            "has 10 variations and .* gives 1; make them equal",
        ),
        (
            {"variation": {"goes_to": "seed", "values": {"clim": [1]}}},
            "variation.values: unknown task 'clim'; did you mean",
        ),
        ({"variation": {"goes_to": "nothing"}}, "it has 10 variations, which go to nothing; give it 1"),
        ({"task_text": None}, "give either task_text, a source, or task_texts"),
        ({"task_texts": {"climb": "Up."}}, "give either task_text, a source, or task_texts"),
        ({"tasks": {"fall": {}}}, r"settings\.tasks: unknown task 'fall'"),
        ({"expert": None}, "mistakes are for simulated models, which need an expert as well"),
        ({"mistakes": {"silly": ["down"]}}, r"field 'settings\.mistakes\.silly"),
        ({"errors": [{"kind": "Not Understood"}]}, r"field 'settings\.errors\.0\.kind'"),
        ({"errors": [{"kind": "unclear", "pattern": "("}]}, "no regular expression"),
        ({"entry_point": None}, r"task 'climb': give either settings\.id or settings\.entry_point"),
        ({"id": "games/Ladder-v0"}, r"task 'climb': give either settings\.id or settings\.entry_point"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(CardError, match=message):
        ladder(**settings)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        (
            {"entry_point": None, "id": "games/Nowhere-v0"},
            MissingDependencyError,
            "'games/Nowhere-v0' cannot be made.*install",
        ),
        (
            {"entry_point": None, "id": "no_such_module:A-v0"},
            MissingDependencyError,
            "No module named 'no_such_module'",
        ),
        (
            {"entry_point": "no_such_module:A"},
            InvalidConfigError,
            "settings.entry_point is 'no_such_module:A', which cannot",
        ),
        ({"entry_point": "games:Laddr"}, InvalidConfigError, "'games' has no 'Laddr'"),
        ({"kwargs": {"hight": 3}}, InvalidConfigError, "does not take settings.kwargs .*hight"),
        ({"kwargs": {"fault": "constructor"}}, SimulatorError, "could not be made: RuntimeError: no display"),
        ({"kwargs": {"fault": "reset"}}, SimulatorError, r"raised in reset\(\): RuntimeError: server is down"),
        ({"kwargs": {"fault": "bytes"}}, InvalidConfigError, "the observation is a bytes without keys"),
        (
            {"kwargs": {"fault": "bytes"}, "observation": ["observation"], "task_text": "info.goal"},
            InvalidConfigError,
            "settings.observation is 'observation', which is of type bytes, must be a str; name the key that holds text",
        ),
        ({"observation": ["observation"]}, InvalidConfigError, "which is of type dict, must be a str"),
        (
            {"observation": ["observation.txt"]},
            InvalidConfigError,
            "unknown key of the observation 'txt'; did you mean 'text'",
        ),
        (
            {"task_text": "info.gaol"},
            InvalidConfigError,
            "settings.task_text is 'info.gaol': unknown key of the info 'gaol'",
        ),
        ({"score": "info.scroe"}, InvalidConfigError, "settings.score is 'info.scroe'.*did you mean 'score'"),
        (
            {"score": "info.nothing"},
            InvalidConfigError,
            "settings.score is 'info.nothing', which is None, must be a number",
        ),
        ({"max_score": "info.nothing"}, InvalidConfigError, "settings.max_score is 'info.nothing', which is None"),
        ({"kwargs": {"fault": "max_score"}}, InvalidConfigError, "settings.max_score is 'info.max_score': unknown key"),
    ],
)
def test_wrong_environments_at_reset(settings, error, message):
    with pytest.raises(error, match=message):
        ladder(**settings).reset("climb", 0, seed=0)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"kwargs": {"fault": "step"}}, SimulatorError, r"raised in step\(\): RuntimeError: the ladder breaks"),
        (
            {"kwargs": {"fault": "three"}},
            InvalidConfigError,
            r"step\(\) gave .*, must be \(observation, reward, terminated",
        ),
        ({"kwargs": {"fault": "won"}}, InvalidConfigError, "settings.success is 'info.won': unknown key"),
        ({"kwargs": {"fault": "invalid"}}, InvalidConfigError, "settings.errors.source is 'info.invalid': unknown key"),
    ],
)
def test_wrong_environments_at_a_step(settings, error, message):
    task = ladder(**settings)
    task.reset("climb", 5, seed=0)
    with pytest.raises(error, match=message):
        _ = [task.step("up") for _ in range(2)]


def test_wrong_experts():
    task = ladder(kwargs={"fault": "policy_commands"})
    task.reset("climb", 0, seed=0)
    with pytest.raises(InvalidConfigError, match=r"settings\.expert\.source is 'info.policy_commands': unknown key"):
        task.expert_action()
    task = ladder(expert={"source": "info.score"})
    task.reset("climb", 0, seed=0)
    with pytest.raises(InvalidConfigError, match="which is 0, must be a text or a list of them"):
        task.expert_action()


def test_wrong_episodes():
    with pytest.raises(UnknownNameError, match="unknown task 'clim'; did you mean 'climb'"):
        ladder().reset("clim", 0, seed=0)
    with pytest.raises(InvalidConfigError, match="task 'climb' has no variation 10; it has 0 to 9"):
        ladder().reset("climb", 10, seed=0)


# --- the whole way


def test_the_ladder_keeps_the_contract():
    report = check_environment(ladder_card(), n_episodes=6)
    assert {result.status for result in report.results} == {"passed"}, str(report)


def test_an_episode_that_breaks_is_kept_as_failed_and_the_others_go_on(tmp_path, capsys):
    """Two worker processes; every episode of two levels raises in its second step."""
    card = tmp_path / "ladder.yaml"
    data = ladder_card(kwargs={"crashing_levels": [3, 4]}).model_dump(mode="json")
    card.write_text(
        yaml.safe_dump(data | {"splits": data["splits"] | {"train": 0.8, "validation": 0.1}}), encoding="utf-8"
    )
    out = tmp_path / "log"
    arguments = ("collect", "--env", card, "--policy", "uniform", "--episodes", 24, "--workers", 2, "--out", out)
    assert main([str(argument) for argument in arguments]) == 0, capsys.readouterr().err
    log = Dataset.load(out)
    assert len(log.episodes) == 24
    failed = [episode for episode in log.episodes if episode.status == "failed"]
    assert {episode.variation for episode in failed} & {3, 4}
    assert all(episode.variation in (3, 4) for episode in failed)
    assert all(
        "SimulatorError: the environment raised in step(): RuntimeError: the ladder" in one.status_detail
        for one in failed
    )
    assert all(len(episode.turns) == 1 for episode in failed)
    assert len(log.completed) == 24 - len(failed) > 10


# --- other benchmarks, by their interface alone


def example_card(name, **replaced):
    text = (CARDS / f"{name}.yaml").read_text(encoding="utf-8")
    for old, new in replaced.values():
        assert old in text
        text = text.replace(old, new)
    return EnvCard.model_validate(yaml.safe_load(text))


def tales_card():
    return example_card("tales", ids=("tales:tales/", "tales_double:tales_double/"))


def tau2_card():
    return example_card("tau2-retail", entry=("tau2.gym.gym_agent:AgentGymEnv", "tau2_double:AgentGymEnv"))


def test_every_example_card_is_tested():
    elsewhere = {"corridor-talk", "llm-router"}  # over the protocol, and as a router
    assert {path.stem for path in CARDS.glob("*.yaml")} - elsewhere == {"tales", "tau2-retail"}


def test_tales_through_simulated_models():
    config = resolve_card(tales_card())
    env = routing_env(config)
    spec = EpisodeSpec(task="level-2", variation=4, seed=1, split="train")
    best = ScriptedRouter(name="best", model_names=config.pool.model_names, decide=lambda _: [0.0, 0.0, 1.0])
    episode = run_episode(env, best, spec).episode
    assert (episode.status, episode.utility) == ("completed", pytest.approx(1.0))
    assert episode.task_text == "Follow the recipe and prepare the meal."
    assert episode.turns[-1].terminated
    assert {turn.error for turn in episode.turns} <= {"", "unknown_action"}


def test_tales_keeps_the_contract():
    report = check_environment(tales_card(), n_episodes=6)
    assert report.is_passed, str(report)
    assert report.status("expert") == "passed"


def routing_env(config, answers=None):
    from mtrouter_rl.envs.factory import build_env

    if answers is None:
        return build_env(config)
    return RoutingEnv(
        task=make_task(config.card),
        backend=ScriptedBackend(pool=config.pool, answer=lambda call: reply_of(call, answers[call.turn])),
        pool=config.pool,
        specs=[EpisodeSpec(task="retail", variation=0, seed=0, split="train")],
        system_prompt=config.card.system_prompt,
        limits=config.limits,
        reward=config.reward,
    )


def reply_of(call, text):
    usage = TokenUsage(n_fresh=call.n_prompt, n_output=5)
    return Reply(text=text, usage=usage, latency_s=1.0, served_model=call.model)


@pytest.mark.parametrize(
    ("answers", "utility", "errors"),
    [
        (["cancel_order(order_id='C3')", "Done. Is there anything else?"], 1.0, ["", ""]),
        (["{broken", "cancel_order(order_id='A1')", "Is there anything else?"], 0.0, ["unknown_action", "", ""]),
    ],
)
def test_tau2_with_scripted_replies(answers, utility, errors):
    config = resolve_card(tau2_card())
    router = ScriptedRouter(name="first", model_names=config.pool.model_names, decide=lambda _: [1.0, 0.0, 0.0])
    spec = EpisodeSpec(task="retail", variation=2, seed=0, split="train")
    episode = run_episode(routing_env(config, answers), router, spec).episode
    assert episode.task_text == "You serve customers of the retail domain."
    assert episode.first_observation == "user: Please cancel order C3."
    assert (episode.utility, [turn.error for turn in episode.turns]) == (utility, errors)
    assert episode.turns[-1].terminated


def test_tau2_keeps_the_contract_where_models_can_be_called():
    pool = load_pool_card("corridor-three")
    endpoint = pool.model_copy(update={"backend": pool.backend.model_copy(update={"kind": "an_endpoint"})})
    config = resolve_card(tau2_card())
    report = check_environment(
        EnvConfig(card=config.card, pool=endpoint, limits=config.limits, reward=config.reward), n_episodes=4
    )
    assert report.is_passed, str(report)
    assert {one.name for one in report.results if one.status == "skipped"} == {
        "queries",
        "expert",
        "mistakes",
        "replanning",
    }


def test_tau2_has_no_expert_for_a_simulated_pool():
    subject = Subject(resolve_card(tau2_card()), n_episodes=3, seed=0, expert_threshold=0.95, replan_threshold=0.8)
    try:
        checks = [check for check in CHECKS if check.name in ("splits", "members", "variations", "protocol", "expert")]
        results = run_checks(subject, checks)
    finally:
        subject.close()
    assert [one.name for one in results if one.status == "failed"] == ["expert"]
    assert "name a pool whose models can be called" in results[-1].detail
