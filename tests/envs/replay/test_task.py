import gymnasium
import pytest

from mtrouter_rl.cards import load_env_card
from mtrouter_rl.cards.pool import BackendCard
from mtrouter_rl.datasets.importers.suites.folder import save_playable
from mtrouter_rl.envs.factory import build_env, resolve_card, resolve_env
from mtrouter_rl.envs.replay.task import NOT_LOGGED, ReplayBackend, ReplayTask, suite_of
from mtrouter_rl.errors import CallOrderError, CardError, InvalidConfigError, MTRouterError, UnknownNameError
from mtrouter_rl.protocols import BilledBackend, TextTask
from mtrouter_rl.records import EpisodeSpec
from mtrouter_rl.testing.contract import check_environment
from tests.cases.replay_suites import CHEAP, STRONG, by_hand


@pytest.fixture
def folder(tmp_path):
    save_playable(by_hand(), tmp_path / "hand")
    return tmp_path / "hand"


@pytest.fixture
def env(folder):
    card = load_env_card(folder / "env.yaml")
    splits = card.splits.model_copy(update={"train": 0.98, "validation": 0.01})
    return build_env(resolve_card(card.model_copy(update={"splits": splits}), folder / "pool.yaml"))


def play(env, variation, actions):
    env.reset(options={"spec": EpisodeSpec(task="g", variation=variation, seed=0, split="train")})
    return [env.step(action) for action in actions]


def test_contract():
    report = check_environment("replay", n_episodes=6)
    report.raise_if_failed()
    assert report.status("gymnasium") == report.status("budget") == "passed"


def test_registered_with_gymnasium():
    env = gymnasium.make("mtrouter_rl/Replay-v0")
    observation, _ = env.reset(seed=3)
    assert observation["action_mask"].tolist() == [1] * 5
    assert gymnasium.make("mtrouter_rl/ReplayVector-v0").reset(seed=3)[0].ndim == 1


def test_same_model_goes_on_and_another_one_starts_afresh(env):
    steps = play(env, 0, [CHEAP, CHEAP, STRONG, STRONG])
    costs = [info["cost_usd"] for *_, info in steps]
    assert costs == pytest.approx([0.1, 0.1, 1.0, 1.0])
    observation, reward, terminated, truncated, info = steps[-1]
    assert (terminated, truncated, info["ending"], info["utility"]) == (True, False, "solved", 1.0)
    assert observation["turn"] == 4
    assert [turn["model"] for turn in observation["history"]] == [0, 0, 1, 1]
    assert reward == pytest.approx(1.0 - 1.0 * env.reward_card.cost_weight / env.reward_card.cost_unit_usd)
    assert {info["action_text"], info["observation_text"]} == {NOT_LOGGED}
    assert (info["usage"].n_prompt, info["usage"].n_output) == (0, 0)


def test_a_model_that_is_called_again_starts_again(env):
    """cheap would have ended at its third turn; after strong it needs three more."""
    steps = play(env, 0, [CHEAP, CHEAP, STRONG, CHEAP, CHEAP])
    assert not any(terminated for _, _, terminated, _, _ in steps)
    _, _, terminated, _, info = env.step(CHEAP)
    assert (terminated, info["ending"], info["utility"]) == (True, "failed", 0.0)


def test_runs_turn_by_turn_have_their_texts_costs_and_errors(env):
    steps = play(env, 1, [STRONG, STRONG])
    assert [info["cost_usd"] for *_, info in steps] == [0.5, 1.5]
    first = steps[0][4]
    assert (first["action_text"], first["observation_text"], first["error"]) == ("look", "a file", "command_failed")
    assert play(env, 1, [CHEAP])[0][4]["ending"] == "handed_in"  # half a score


def test_the_mask_knows_the_dearest_turn_of_a_model_and_no_more(folder):
    card = load_env_card(folder / "env.yaml")
    splits = card.splits.model_copy(update={"train": 0.98, "validation": 0.01})
    env = build_env(
        resolve_card(card.model_copy(update={"splits": splits}), folder / "pool.yaml", budget_usd=1.55, max_turns=2)
    )
    observation, _ = env.reset(options={"spec": EpisodeSpec(task="g", variation=0, seed=0, split="train")})
    assert observation["action_mask"].tolist() == [1, 1]  # strong costs up to 1.5 a turn, though 1 here
    observation, *_ = env.step(CHEAP)
    assert observation["action_mask"].tolist() == [1, 0]
    _, _, terminated, truncated, _ = env.step(CHEAP)
    assert (terminated, truncated) == (False, True)


def test_task_and_backend_keep_their_protocols():
    task, backend = ReplayTask(by_hand()), ReplayBackend(by_hand())
    assert isinstance(task, TextTask)
    assert isinstance(backend, BilledBackend)
    assert backend.most_usd("strong") == 1.5


@pytest.mark.parametrize(
    ("broken", "error", "message"),
    [
        (lambda: ReplayTask(by_hand()).reset("h", 0, 0), UnknownNameError, "group of the suite 'h'"),
        (lambda: ReplayTask(by_hand()).reset("g", 2, 0), InvalidConfigError, "variation is 2, must be from 0 to 1"),
        (lambda: ReplayTask(by_hand()).step("x"), CallOrderError, "call reset"),
        (lambda: ReplayTask(by_hand()).call("cheap"), CallOrderError, "needs a running episode"),
        (lambda: ReplayBackend(by_hand()).most_usd("chaep"), UnknownNameError, "chaep"),
        (
            lambda: ReplayBackend(by_hand()).start_episode(task=object(), task_name="g", variation=0, seed=0),
            InvalidConfigError,
            "nothing else has a log",
        ),
        (lambda: ReplayBackend(by_hand()).reply("cheap", [], turn=0, max_output_tokens=1), MTRouterError, "no episode"),
    ],
)
def test_wrong_use_is_named(broken, error, message):
    with pytest.raises(error, match=message):
        broken()


def test_a_text_that_was_not_called_for_is_an_error_and_changes_nothing():
    task = ReplayTask(by_hand())
    task.reset("g", 0, 0)
    step = task.step("rm -rf")
    assert (step.error, step.ending, step.score) == ("not_in_the_log", "", 0.0)


def test_cards_that_do_not_fit_are_refused(folder):
    card = load_env_card("replay")
    with pytest.raises(CardError, match=r"group 'parsers'.*did you mean 'parser'|'parsers'"):
        resolve_card(card.model_copy(update={"train_tasks": {"parsers": "all"}}))
    with pytest.raises(CardError, match="'parser' is 21, must be 'all' or at most 20"):
        resolve_card(card.model_copy(update={"train_tasks": {"parser": 21}}))
    with pytest.raises(CardError, match="give either 'suite', a folder, or 'made_up'"):
        resolve_card(card.model_copy(update={"settings": {}}))
    config = resolve_env("replay", folder / "pool.yaml")
    with pytest.raises(CardError, match="model of the suite 'cheap'"):
        build_env(config)
    with pytest.raises(CardError, match="must be of family 'replay'"):
        build_env(resolve_env("corridor", "replay-made-up"))


def test_a_suite_that_has_changed_is_refused(folder):
    config = resolve_env(folder / "env.yaml")
    other = by_hand()
    other.scores[0, 0] = 1.0
    other.save(folder)
    suite_of.cache_clear()  # as in another process
    with pytest.raises(InvalidConfigError, match=r"has fingerprint .* but its card was made for"):
        build_env(config)


def test_a_pool_of_another_backend_cannot_answer_for_it(env):
    assert env.is_billed
    assert env.pool.backend == BackendCard(kind="replay")
