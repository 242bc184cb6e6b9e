"""Repricing against what the simulated models really cost under the other card, and against hand-worked episodes."""

import dataclasses
import re

import pytest
import yaml

from mtrouter_rl.cards import find_card, load_pool_card
from mtrouter_rl.cards.pool import PoolCard, PromptCacheCard
from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.datasets.reprice import RepriceRequest, reprice
from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.datasets.store import Dataset, load_hidden
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.errors import DatasetError, InvalidConfigError, PoolMismatchError, UnknownNameError
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, TokenUsage, TracedEpisode
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.workflows import CollectRequest, collect_dataset

CARDS = {
    "cached": {},
    "bare": {"prompt_cache": None},
    "short-lived": {"prompt_cache": {"ttl_s": 1.5, "min_tokens": 40}},
}


@pytest.fixture(scope="module")
def collected(tmp_path_factory):
    """The same routing, collected under three caches and prices: folder and pool by name."""
    root = tmp_path_factory.mktemp("reprice")
    card = yaml.safe_load(find_card("pools", "corridor-three").read_text())
    found = {}
    for index, (name, changes) in enumerate(CARDS.items()):
        models = [
            model | {"prices": {kind: price * (1 + index) for kind, price in model["prices"].items()}}
            for model in card["models"]
        ]
        path = root / f"{name}.yaml"
        path.write_text(yaml.safe_dump(card | {"name": name, "models": models} | changes))
        config = resolve_env("corridor", str(path))
        with RolloutPool(config, n_workers=1) as pool:
            request = CollectRequest(policy="uniform", n_episodes=20, seed=1, out=root / name)
            collect_dataset(pool, request, show_progress=False)
        found[name] = (root / name, config.pool)
    return found


def as_logged(episode):
    return dataclasses.replace(episode, usage_source="logged")


@pytest.mark.parametrize("old", CARDS)
@pytest.mark.parametrize("new", CARDS)
def test_costs_are_those_of_a_collection_under_the_other_card(collected, tmp_path, old, new):
    (folder, _), (other, pool) = collected[old], collected[new]
    report = reprice(RepriceRequest(dataset=folder, pool=pool, out=tmp_path / "new"))
    repriced, expected = Dataset.load(tmp_path / "new"), Dataset.load(other)
    assert tuple(map(as_logged, repriced.episodes)) == expected.episodes
    assert load_hidden(tmp_path / "new") == load_hidden(other)
    repriced.info.check_pool(pool)
    assert sum(bill.new_usd for bill in report.bills.values()) == pytest.approx(
        sum(episode.cost_usd for episode in expected.episodes)
    )
    # Reconstructed are exactly the episodes whose tokens are not those of the log.
    for before, after in zip(Dataset.load(folder).episodes, repriced.episodes, strict=True):
        is_same = [turn.usage for turn in before.turns] == [turn.usage for turn in after.turns]
        assert after.usage_source == ("logged" if is_same else "reconstructed")
        assert is_same or old != new


def test_the_three_collections_differ(collected):
    """Or the test above would show nothing."""
    hits = {
        name: sum(turn.usage.n_cached for episode in Dataset.load(folder).episodes for turn in episode.turns)
        for name, (folder, _) in collected.items()
    }
    assert hits["cached"] > hits["short-lived"] > hits["bare"] == 0


@pytest.fixture
def card(info):
    """Pool card with the models of the toy log; `prices` by model, the rest as given."""

    def make(*, cache=info.prompt_cache, prices=None, models=None, **changes):
        models = [
            model.model_copy(update={"prices": model.prices.model_copy(update=(prices or {}).get(model.name, {}))})
            for model in models or info.models
        ]
        return PoolCard.model_validate(
            {
                "name": "new-prices",
                "description": "made up",
                "models": models,
                "token_counter": {"kind": "characters"},
                "prompt_cache": cache,
                "backend": {"kind": "simulated"},
            }
            | changes
        )

    return make


@pytest.fixture
def write(info, tmp_path):
    def to(*episodes, **says):
        draft = DatasetInfo.model_validate(info.model_dump() | says)
        write_dataset(tmp_path / "log", draft, (TracedEpisode(episode=one) for one in episodes), keeps_info=True)
        return tmp_path / "log"

    return to


@pytest.fixture
def run(tmp_path):
    def go(folder, pool, **options):
        report = reprice(RepriceRequest(dataset=folder, pool=pool, out=tmp_path / "new", **options))
        return report, Dataset.load(tmp_path / "new")

    return go


IMPORTED = {"origin": "imported", "propensities": "unknown"}


def calls(make_episode, info, *prompts, **changes):
    """Episode of the model "cheap"; one (prompt tokens, latency) a call, everything fresh, ten output tokens."""
    template = make_episode(1, 1).turns[0]
    turns = []
    for index, (n_prompt, latency_s) in enumerate(prompts):
        usage = TokenUsage(n_fresh=n_prompt, n_output=10)
        turn = dataclasses.replace(
            template, usage=usage, cost_usd=info.models[0].prices.cost_usd(usage), latency_s=latency_s, utility_gain=0.0
        )
        turns.append(dataclasses.replace(turn, warm=(False, False), terminated=index == len(prompts) - 1))
    return make_episode(1, 0, turns=tuple(turns), **changes)


def usages(dataset):
    return [(turn.usage.n_fresh, turn.usage.n_cached, turn.usage.n_written) for turn in dataset.episodes[0].turns]


def test_only_prices_change_under_the_same_cache(folder, card, run, episodes):
    report, dataset = run(folder, card(prices={"strong": {"output": 80.0}}))
    assert report.cache == "as logged"
    for before, after in zip(episodes, dataset.episodes, strict=True):
        for old, new in zip(before.turns, after.turns, strict=True):
            extra = 72.0 * old.usage.n_output / 1e6 if old.served_model == "strong" else 0.0
            assert new.cost_usd == pytest.approx(old.cost_usd + extra)
            # Writing is free in this card, so written tokens are fresh ones; see TokenUsage.
            assert (new.usage.n_fresh, new.usage.n_written) == (old.usage.n_fresh + 3, 0)
            assert dataclasses.replace(new, usage=old.usage, cost_usd=old.cost_usd) == old
        assert (after.usage_source == "reconstructed") == bool(after.turns)


def test_hits_need_no_cache_card_to_be_kept(write, card, run, info, make_episode):
    """A vendor's own cached tokens stay cached where neither log nor card models a cache."""
    log = write(make_episode(1, 3), prompt_cache=None)
    _, dataset = run(log, card(cache=None, prices={"strong": {"cached_input": 1.0}}))
    assert [turn.usage.n_cached for turn in dataset.episodes[0].turns] == [0, 31, 62]


def test_writing_that_becomes_billed(write, card, run, info, make_episode):
    log = write(calls(make_episode, info, (500, 1.0), (2000, 1.0)))
    _, dataset = run(log, card(prices={"cheap": {"cache_write": 0.2}}))
    assert usages(dataset) == [(500, 0, 0), (0, 0, 2000)]  # the card caches from 1024 tokens on
    assert dataset.episodes[0].turns[1].cost_usd == pytest.approx((2000 * 0.2 + 10 * 0.4) / 1e6)


def test_what_was_written_stays_written(write, card, run, info, make_episode):
    """A vendor that bills writing says itself how much of a prompt it wrote."""
    billed = info.models[0].model_copy(update={"prices": info.models[0].prices.model_copy(update={"cache_write": 0.2})})
    episode = calls(make_episode, info, (2000, 1.0))
    usage = TokenUsage(n_fresh=5, n_written=1995, n_output=10)
    turn = dataclasses.replace(episode.turns[0], usage=usage, cost_usd=billed.prices.cost_usd(usage))
    log = write(dataclasses.replace(episode, turns=(turn,)), models=(billed, info.models[1]))
    _, dataset = run(log, card(prices={"cheap": {"cache_write": 0.4}}))
    assert usages(dataset) == [(5, 0, 1995)]
    assert dataset.episodes[0].usage_source == "logged"


def test_a_task_that_ended_by_itself_was_not_stopped(write, card, run, info, make_episode):
    report, _ = run(write(make_episode(1, 2, last={"terminated": True, "truncated": True})), card())
    assert "would have stopped" not in str(report)


def test_a_card_without_a_cache_makes_every_token_fresh(folder, card, run, episodes):
    report, dataset = run(folder, card(cache=None))
    assert report.cache == "none"
    for before, after in zip(episodes, dataset.episodes, strict=True):
        for old, new in zip(before.turns, after.turns, strict=True):
            assert new.usage == TokenUsage(n_fresh=old.usage.n_prompt, n_output=old.usage.n_output)
            assert new.warm == (False, False)
    assert "the card has no prompt cache" in dataset.info.assumptions[-1]


CACHE = PromptCacheCard(ttl_s=10.0, min_tokens=100)


@pytest.mark.parametrize(
    ("prompts", "expected", "warm"),
    [
        (((150, 1.0), (200, 1.0)), [(150, 0, 0), (50, 150, 0)], [False, True]),
        (((150, 10.0), (200, 1.0)), [(150, 0, 0), (50, 150, 0)], [False, True]),
        (((150, 10.1), (200, 1.0)), [(150, 0, 0), (200, 0, 0)], [False, False]),  # too late
        (((99, 1.0), (200, 1.0)), [(99, 0, 0), (200, 0, 0)], [False, False]),  # too short
        (((150, 9.0), (200, 9.0), (300, 0.0)), [(150, 0, 0), (50, 150, 0), (100, 200, 0)], [False, True, True]),
    ],
)
def test_hits_of_a_new_cache_by_hand(write, card, run, info, make_episode, prompts, expected, warm):
    log = write(calls(make_episode, info, *prompts), prompt_cache=None)
    report, dataset = run(log, card(cache=CACHE))
    assert report.cache == "worked out"
    assert usages(dataset) == expected
    assert [turn.warm for turn in dataset.episodes[0].turns] == [(flag, False) for flag in warm]
    cost = sum((fresh * 0.1 + cached * 0.01 + 10 * 0.4) / 1e6 for fresh, cached, _ in expected)
    assert dataset.episodes[0].cost_usd == pytest.approx(cost)


def test_one_call_an_episode_needs_no_latency(write, card, run, info, make_episode):
    log = write(calls(make_episode, info, (500, None)), prompt_cache=None, **IMPORTED)
    _, dataset = run(log, card(cache=CACHE))
    assert usages(dataset) == [(500, 0, 0)]


@pytest.mark.parametrize(
    ("prompts", "lowest", "highest"),
    [
        (((150, None), (200, 1.0), (300, 1.0)), [0, 150, 200], [0, 0, 200]),  # one gap is unknown
        (((150, 1.0), (120, 1.0), (200, 1.0)), [0, 120, 120], [0, 0, 120]),  # the conversation was cut
    ],
)
def test_unknown_hits_are_refused_or_bounded(write, card, run, info, make_episode, prompts, lowest, highest, tmp_path):
    log, pool = write(calls(make_episode, info, *prompts), prompt_cache=None, **IMPORTED), card(cache=CACHE)

    def cost(hits):
        total = sum(n_prompt for n_prompt, _ in prompts)
        return ((total - sum(hits)) * 0.1 + sum(hits) * 0.01 + 3 * 10 * 0.4) / 1e6

    with pytest.raises(
        DatasetError, match=r"cannot be known in 1 of 1 episodes: the log lacks latencies, or"
    ) as caught:
        run(log, pool)
    found = re.search(r"costs (\S+) USD at least and (\S+) USD at most; take a bound with --unknown", str(caught.value))
    assert [float(found[1]), float(found[2])] == pytest.approx([cost(lowest), cost(highest)], rel=1e-5)
    assert not (tmp_path / "new").exists()
    for bound, hits in (("lowest", lowest), ("highest", highest)):
        _, dataset = run(log, pool, unknown_hits=bound, overwrite=True)
        assert [cached for _, cached, _ in usages(dataset)] == hits
        assert dataset.episodes[0].cost_usd == pytest.approx(cost(hits))
        assert f"where they are unknown, at the {bound} cost" in dataset.info.assumptions[-1]


def test_exchange_rate(folder, card, run, episodes):
    _, dataset = run(folder, card(), usd_per_unit=0.25)
    assert dataset.info.models[1].prices.output == 2.0
    assert sum(one.cost_usd for one in dataset.episodes) == pytest.approx(sum(one.cost_usd for one in episodes) / 4)
    assert "0.25 USD a unit" in dataset.info.assumptions[-1]


def test_order_and_names_are_those_of_the_card(folder, card, run, info, episodes):
    renamed = info.models[1].model_copy(update={"name": "strong-2", "aliases": ("strong",)})
    _, dataset = run(folder, card(models=[renamed, info.models[0]]))
    assert dataset.info.model_names == ("strong-2", "cheap")
    for before, after in zip(episodes, dataset.episodes, strict=True):
        assert after.models == tuple("strong-2" if name == "strong" else name for name in before.models)
        for old, new in zip(before.turns, after.turns, strict=True):
            assert (new.action_mask, new.warm) == (old.action_mask[::-1], old.warm[::-1])
            assert new.cost_usd == pytest.approx(old.cost_usd)


def test_an_alias_of_the_log_is_enough(write, card, run, info, make_episode):
    models = [info.models[0], info.models[1].model_copy(update={"aliases": ("strong-may",)})]
    renamed = info.models[1].model_copy(update={"name": "strong-may"})
    _, dataset = run(write(make_episode(1, 3), models=models), card(models=[info.models[0], renamed]))
    assert dataset.info.model_names == ("cheap", "strong-may")


def test_a_budget_that_is_exceeded_is_an_error_or_lifted(folder, card, run, tmp_path):
    # The cheap model served 53 tokens of output in episode 2, and no more than 24 in any other: 1.325 and 0.6 USD.
    dear = card(prices={"cheap": {"output": 25_000.0}})
    with pytest.raises(
        DatasetError, match=r"1 of 6 episodes cost more than .*'boil-v0-s2' \(1\.325\d+ of 1\.0+ USD\); .*--lift-budget"
    ):
        run(folder, dear)
    assert not (tmp_path / "new").exists()
    _, dataset = run(folder, dear, lifts_budget=True)
    assert {one.budget_usd for one in dataset.episodes} == {dataset.info.budget_usd} == {UNLIMITED_BUDGET_USD}
    assert "budgets are lifted to unlimited" in dataset.info.assumptions[-1]


def test_what_made_it_is_recorded(folder, card, run, info):
    report, dataset = run(folder, card(), usd_per_unit=2.0)
    assert report.dataset_id == dataset.info.dataset_id == "toy-v2"
    assert dataset.info.pool_name == "new-prices"
    assert dataset.info.created_by == {
        "command": "reprice",
        "dataset": "toy-v1",
        "pool": "new-prices",
        "usd_per_unit": 2.0,
        "cache": "as logged",
        "unknown_hits": "refuse",
        "lifts_budget": False,
        "source": info.created_by,
    }
    _, named = run(folder, card(), dataset_id="cheaper-v7", overwrite=True)
    assert named.info.dataset_id == "cheaper-v7"


def test_the_report_adds_up_and_says_what_stays_unknown(folder, card, run, episodes, info):
    short = [info.models[0].model_copy(update={"max_output_tokens": 11}), info.models[1]]
    report, dataset = run(folder, card(models=short, prices={"cheap": {"output": 4.0}}))
    cheap = [turn for one in episodes for turn in one.turns if turn.served_model == "cheap"]
    bill = report.bills["cheap"]
    assert (bill.n_calls, bill.old_usd) == (len(cheap), pytest.approx(sum(turn.cost_usd for turn in cheap)))
    extra = 3.6 * sum(turn.usage.n_output for turn in cheap) / 1e6
    assert bill.new_usd == pytest.approx(bill.old_usd + extra)
    text = str(report)
    total = sum(one.cost_usd for one in dataset.episodes)
    for part in (
        "toy-v2: 6 episodes repriced; cached tokens: as logged",
        f"{total / 6:.6f} USD now",
        "how often another routing would have hit the prompt cache",
        "what a model would have answered under other prices",
        "where 2 of 6 episodes would have stopped",  # one truncated after a turn, one before its first
        f"how {sum(turn.usage.n_output > 11 for turn in cheap)} calls would have ended",
    ):
        assert part in text


def test_nothing_is_said_to_be_unknown_that_is_known(write, card, run, info, make_episode):
    report, _ = run(write(calls(make_episode, info, (50, 1.0))), card())
    assert len(report.unknown) == 2


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_exchange_rates(folder, card, run, rate):
    with pytest.raises(InvalidConfigError, match=r"exchange rate is .*, must be finite and > 0"):
        run(folder, card(), usd_per_unit=rate)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda cheap, strong: [cheap, strong.model_copy(update={"name": "strongest"})],
            UnknownNameError,
            r"unknown model of pool 'new-prices' 'strong'; did you mean 'strongest'\? Valid: cheap, strongest\. Add the",
        ),
        (
            lambda cheap, strong: [cheap, strong, strong.model_copy(update={"name": "extra"})],
            PoolMismatchError,
            r"model 'extra' of pool 'new-prices' is not in dataset 'toy-v1' \(cheap, strong\): nobody logged",
        ),
        (
            lambda cheap, strong: [cheap.model_copy(update={"aliases": ("strong",)})],
            PoolMismatchError,
            r"model 'cheap' of pool 'new-prices' stands for \['cheap', 'strong'\] of dataset 'toy-v1'",
        ),
    ],
)
def test_models_must_be_the_same(folder, card, run, info, change, error, message):
    with pytest.raises(error, match=message):
        run(folder, card(models=change(*info.models)))


def test_there_and_back(collected, tmp_path):
    folder, pool = collected["cached"]
    reprice(RepriceRequest(dataset=folder, pool=collected["bare"][1], out=tmp_path / "there"))
    reprice(RepriceRequest(dataset=tmp_path / "there", pool=pool, out=tmp_path / "back"))
    assert tuple(map(as_logged, Dataset.load(tmp_path / "back").episodes)) == Dataset.load(folder).episodes


def test_the_card_of_the_collection_changes_nothing(collected, tmp_path):
    folder, pool = collected["cached"]
    assert pool.prompt_cache == load_pool_card("corridor-three").prompt_cache
    reprice(RepriceRequest(dataset=folder, pool=pool, out=tmp_path / "same"))
    assert Dataset.load(tmp_path / "same").episodes == Dataset.load(folder).episodes
