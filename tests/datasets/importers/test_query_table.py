import math

import pytest

from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.datasets.importers.base import ImportReport, ImportSource, UnusableEpisodeError
from mtrouter_rl.datasets.importers.query_table import (
    COST_NOTE,
    NO_LOGGED_COST,
    Answer,
    OneTurnBuilder,
    Query,
    is_missing,
    read_cost,
    read_count,
    read_score,
    read_text,
    stable_variation,
)
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, TokenUsage

POOL = load_pool_card("corridor-three")
MODEL = POOL.models[0]
QUERY = Query(task="sums", query_id="sums.1", variation=1, text="1 + 1?")


def builder():
    return OneTurnBuilder(ImportSource(paths=(), pool=POOL, report=ImportReport(format="test")))


def answer(**changes):
    fields = {
        "model": MODEL.name,
        "response": "2",
        "score": 0.5,
        "usage": TokenUsage(n_fresh=1000, n_output=10),
        "usage_source": "logged",
        "logged_cost_usd": 0.1,
    }
    return Answer(**(fields | changes))


@pytest.mark.parametrize(
    ("value", "score"),
    [(1, 1.0), (0.25, 0.25), (True, 1.0), (False, 0.0), ("0.75", 0.75), (" true ", 1.0), ("False", 0.0), (-1, -1.0)],
)
def test_scores(value, score):
    assert read_score(value) == score


@pytest.mark.parametrize("value", [None, math.nan, math.inf, "", "nan", "yes", 1.01, "-2", -1.5, [1], 10**400, b"1"])
def test_scores_that_are_refused(value):
    with pytest.raises(UnusableEpisodeError, match=r"score is .*, must be a number in \[-1, 1\]"):
        read_score(value)


@pytest.mark.parametrize(("value", "count"), [(0, 0), (7, 7), (7.0, 7)])
def test_counts(value, count):
    assert read_count(value, "n") == count


@pytest.mark.parametrize("value", [None, -1, 0.5, True, "7", math.nan, math.inf, [7]])
def test_counts_that_are_refused(value):
    with pytest.raises(UnusableEpisodeError, match=r"n is .*, must be a whole number >= 0"):
        read_count(value, "n")


@pytest.mark.parametrize(("value", "cost"), [(0, 0.0), (1e-5, 1e-5), ("1e-5", 1e-5), (None, None), ("", None)])
def test_costs(value, cost):
    assert read_cost(value) == cost


@pytest.mark.parametrize("value", [-1e-9, math.inf, "cheap", True, [0.1]])
def test_costs_that_are_refused(value):
    with pytest.raises(UnusableEpisodeError, match=r"cost is .*, must be a finite number >= 0"):
        read_cost(value)


@pytest.mark.parametrize("value", [None, "", 3, ["a"]])
def test_texts_that_are_refused(value):
    with pytest.raises(UnusableEpisodeError, match=r"prompt is .*, must be a text that is not empty"):
        read_text(value, "prompt")


@pytest.mark.parametrize(
    ("value", "missing"), [(None, True), (" NaN ", True), (math.nan, True), ("0", False), (0, False)]
)
def test_missing(value, missing):
    assert is_missing(value) is missing


def test_a_variation_depends_on_the_name_alone_and_fits_a_float():
    names = [f"sums.dev.{index}" for index in range(2000)]
    variations = [stable_variation(name) for name in names]
    assert len(set(variations)) == len(names)
    assert all(int(float(variation)) == variation for variation in variations)
    assert stable_variation("sums.dev.7") == variations[7]


def test_an_answer_is_an_episode_of_one_turn():
    episode = builder().episode(QUERY, answer(extra={"split": "test"}))
    turn = episode.turns[0]
    assert (episode.task, episode.variation, episode.seed, episode.task_text) == ("sums", 1, 0, "1 + 1?")
    assert episode.episode_id == f"sums/sums.1/{MODEL.name}"
    assert (episode.behavior_policy, turn.propensity) == (f"single:{MODEL.name}", 1.0)
    assert (episode.first_observation, turn.observation_text, turn.action_text) == ("", "", "2")
    assert (turn.utility_gain, turn.terminated, turn.truncated, turn.latency_s) == (0.5, True, False, None)
    assert turn.cost_usd == MODEL.prices.cost_usd(TokenUsage(n_fresh=1000, n_output=10))
    assert (episode.max_turns, episode.budget_usd) == (1, UNLIMITED_BUDGET_USD)
    assert episode.extra == {"query_id": "sums.1", "logged_cost_usd": 0.1, "split": "test"}


def test_one_query_has_one_text():
    made = builder()
    made.check_query(QUERY)
    made.check_query(QUERY)
    other = Query(task="sums", query_id="sums.1", variation=1, text="2 + 2?")
    with pytest.raises(
        UnusableEpisodeError, match=r"another text .* query 'sums.1' of task 'sums' begins with '2 \+ 2"
    ):
        made.check_query(other)
    made.check_query(Query(task="other", query_id="sums.1", variation=1, text="2 + 2?"))


def test_an_unknown_model_is_explained():
    with pytest.raises(UnusableEpisodeError, match=f"unknown model of pool.*did you mean '{MODEL.name}'"):
        builder().model(MODEL.name + "x")


def test_costs_are_compared_per_model():
    made = builder()
    cost_usd = MODEL.prices.cost_usd(answer().usage)
    for variation, logged in enumerate((cost_usd, cost_usd / 3, None)):
        query = Query(task="sums", query_id=str(variation), variation=variation, text="?")
        made.episode(query, answer(logged_cost_usd=logged))
    other = Query(task="other", query_id="1", variation=1, text="?")
    made.episode(other, answer(model=POOL.models[1].name, logged_cost_usd=0.0))
    made.note_costs()
    notes = made.report.to_json()["notes"]
    assert notes[NO_LOGGED_COST]["n"] == 1
    details = {example["source"]: example["detail"] for example in notes[COST_NOTE]["examples"]}
    assert list(details) == [MODEL.name, POOL.models[1].name]
    assert details[MODEL.name].endswith(": +50.0%")  # two calls against 1 + 1/3
    assert details[POOL.models[1].name].endswith(": no percentage of nothing")
