import datetime

import numpy as np
import pytest
import yaml

from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.cards.pool import ModelCard, PoolCard, Prices, TokenCounter
from mtrouter_rl.errors import CardError, UnknownNameError
from mtrouter_rl.records import TokenUsage

ANTHROPIC_LIKE = Prices(input=3.0, cached_input=0.3, cache_write=3.75, output=15.0)
PLAIN = Prices(input=1.25, cached_input=0.125, output=10.0)


@pytest.mark.parametrize(
    ("prices", "usage", "expected"),
    [
        (PLAIN, TokenUsage(n_fresh=1_000_000, n_output=0), 1.25),
        (PLAIN, TokenUsage(n_fresh=0, n_cached=1_000_000, n_output=0), 0.125),
        (PLAIN, TokenUsage(n_fresh=0, n_output=1_000_000), 10.0),
        (PLAIN, TokenUsage(n_fresh=0, n_written=1_000_000, n_output=0), 1.25),  # no price for writing: as input
        (ANTHROPIC_LIKE, TokenUsage(n_fresh=0, n_written=1_000_000, n_output=0), 3.75),
        # 200 x 3 + 3000 x 0.3 + 400 x 3.75 + 50 x 15 = 600 + 900 + 1500 + 750 = 3750 millionths
        (ANTHROPIC_LIKE, TokenUsage(n_fresh=200, n_cached=3000, n_written=400, n_output=50), 0.003750),
        (ANTHROPIC_LIKE, TokenUsage(n_fresh=0, n_output=0), 0.0),
    ],
)
def test_cost_by_hand(prices, usage, expected):
    assert prices.cost_usd(usage) == pytest.approx(expected, rel=1e-12, abs=0)


def test_free_cache_write_is_free():
    prices = Prices(input=3.0, cached_input=0.3, cache_write=0.0, output=15.0)
    assert prices.cost_usd(TokenUsage(n_fresh=0, n_written=10**6, n_output=0)) == 0.0


def test_prompt_tokens_add_up():
    assert TokenUsage(n_fresh=1, n_cached=20, n_written=300, n_output=4000).n_prompt == 321


@pytest.mark.parametrize("dearest", ["input", "cached_input", "cache_write"])
def test_worst_case_is_never_below_the_cost_of_an_allowed_usage(dearest):
    rng = np.random.default_rng(["input", "cached_input", "cache_write"].index(dearest))
    n_tight = 0
    for _ in range(3000):
        values = dict(zip(("input", "cached_input", "cache_write", "output"), rng.uniform(0, 5, size=4), strict=True))
        values[dearest] = 6.0
        if dearest != "cache_write" and rng.random() < 0.5:
            del values["cache_write"]
        prices = Prices(**values)
        n_prompt, n_output = int(rng.integers(0, 10**6)), int(rng.integers(0, 10**5))
        shares = rng.dirichlet((0.2, 0.2, 0.2)) * n_prompt
        n_cached, n_written = int(shares[0]), int(shares[1])
        usage = TokenUsage(
            n_fresh=n_prompt - n_cached - n_written,
            n_cached=n_cached,
            n_written=n_written,
            n_output=int(rng.integers(0, n_output + 1)),
        )
        bound = prices.worst_case_usd(n_prompt=n_prompt, n_output=n_output)
        assert prices.cost_usd(usage) <= bound * (1 + 1e-12), (prices, usage)
        n_tight += prices.cost_usd(usage) > 0.9 * bound
    assert n_tight > 10  # the bound is not only kept because it is far away


def test_worst_case_is_reached():
    usage = TokenUsage(n_fresh=0, n_written=1000, n_output=10)
    worst = ANTHROPIC_LIKE.worst_case_usd(n_prompt=1000, n_output=10)
    assert worst == pytest.approx(ANTHROPIC_LIKE.cost_usd(usage), rel=1e-12)
    assert worst == pytest.approx((1000 * 3.75 + 10 * 15) / 1e6)


@pytest.mark.parametrize(
    ("counter", "text", "expected"),
    [
        (TokenCounter(kind="characters", characters_per_token=4.0, tokens_per_message=4), "", 4),
        (TokenCounter(kind="characters", characters_per_token=4.0, tokens_per_message=4), "abcd", 5),
        (TokenCounter(kind="characters", characters_per_token=4.0, tokens_per_message=4), "abcde", 6),
        (TokenCounter(kind="characters", characters_per_token=2.5, tokens_per_message=0), "a" * 10, 4),
        (TokenCounter(kind="characters", characters_per_token=4.0, tokens_per_message=0), "漢字漢字", 1),
        (TokenCounter(kind="utf8_bytes", tokens_per_message=3), "abc", 6),
        (TokenCounter(kind="utf8_bytes", tokens_per_message=3), "é漢🙂", 3 + 2 + 3 + 4),
    ],
)
def test_token_counter(counter, text, expected):
    assert counter.count(text) == expected


def test_index_and_model(pool_data):
    pool = PoolCard.model_validate(pool_data)
    assert pool.model_names == ("small", "middle", "large")
    assert [pool.index(name) for name in pool.model_names] == [0, 1, 2]
    assert pool.model("large").prices.output == 10.0
    with pytest.raises(UnknownNameError, match=r"model of pool 'corridor-three' 'larg'; did you mean 'large'\?.*small"):
        pool.model("larg")


def test_a_card_cannot_be_edited(pool_data):
    pool = PoolCard.model_validate(pool_data)
    with pytest.raises(ValueError, match="frozen"):
        pool.models[0].prices.input = 0.0


def _drop_price(data):
    del data["models"][1]["prices"]["cached_input"]


def _negative_price(data):
    data["models"][0]["prices"]["output"] = -0.4


def _infinite_price(data):
    data["models"][0]["prices"]["input"] = float("inf")


def _nan_price(data):
    data["models"][0]["prices"]["cache_write"] = float("nan")


def _empty_price(data):
    data["models"][2]["prices"]["input"] = None


def _unknown_price(data):
    data["models"][0]["prices"]["reasoning"] = 1.0


def _unknown_key(data):
    data["modles"] = []


def _duplicate(data):
    data["models"].append(data["models"][0])


def _no_models(data):
    data["models"] = []


def _no_cutoff(data):
    del data["models"][2]["knowledge_cutoff"]


def _no_context(data):
    data["models"][0]["context_tokens"] = 0


def _no_name(data):
    data["models"][0]["name"] = ""


def _bad_cache(data):
    data["prompt_cache"]["ttl_s"] = 0


def _bad_counter(data):
    data["token_counter"]["kind"] = "words"


@pytest.mark.parametrize(
    ("mutate", "message"),
    [
        (_drop_price, r"field 'models\.'middle'\.prices\.cached_input'.*add it; there is no default"),
        (_negative_price, r"field 'models\.'small'\.prices\.output': got -0\.4.*greater than or equal to 0"),
        (_infinite_price, r"field 'models\.'small'\.prices\.input': got inf.*finite"),
        (_nan_price, r"field 'models\.'small'\.prices\.cache_write': got nan"),
        (_empty_price, r"field 'models\.'large'\.prices\.input': got None.*valid number"),
        (_unknown_price, r"field 'models\.'small'\.prices\.reasoning'.*remove it or correct its spelling"),
        (_unknown_key, r"field 'modles'.*remove it or correct its spelling"),
        (_duplicate, r"name\(s\) \['small'\] appear more than once; every model needs its own name"),
        (_no_models, r"field 'models'.*at least 1"),
        (_no_cutoff, r"models: large have no knowledge_cutoff and the others do"),
        (_no_context, r"field 'models\.'small'\.context_tokens': got 0.*greater than 0"),
        (_no_name, r"field 'models\.0\.name': got ''.*at least 1 character"),
        (_bad_cache, r"field 'prompt_cache\.ttl_s': got 0.*greater than 0"),
        (_bad_counter, r"field 'token_counter\.kind': got 'words'.*'characters' or 'utf8_bytes'"),
    ],
)
def test_broken_pool_card(tmp_path, pool_data, mutate, message):
    mutate(pool_data)
    path = tmp_path / "pool.yaml"
    path.write_text(yaml.safe_dump(pool_data), encoding="utf-8")
    with pytest.raises(CardError, match=message) as caught:
        load_pool_card(path)
    assert str(path) in str(caught.value)


def test_the_unbroken_card_loads(tmp_path, pool_data):
    path = tmp_path / "pool.yaml"
    path.write_text(yaml.safe_dump(pool_data), encoding="utf-8")
    assert load_pool_card(path) == load_pool_card("corridor-three")


def test_every_wrong_field_is_named_at_once(tmp_path, pool_data):
    _drop_price(pool_data)
    _negative_price(pool_data)
    path = tmp_path / "pool.yaml"
    path.write_text(yaml.safe_dump(pool_data), encoding="utf-8")
    with pytest.raises(CardError, match=r"(?s)prices\.output.*prices\.cached_input"):
        load_pool_card(path)


def test_a_model_has_a_date():
    model = ModelCard.model_validate(
        {
            "name": "m",
            "prices": {"input": 1, "cached_input": 1, "output": 1},
            "context_tokens": 10,
            "max_output_tokens": 5,
            "knowledge_cutoff": "2025-01-31",
        }
    )
    assert model.knowledge_cutoff == datetime.date(2025, 1, 31)


def variants(**second):
    one = {"name": "m", "prices": PLAIN, "context_tokens": 1000, "max_output_tokens": 100}
    return [one, {**one, "name": "m-high", "variant_of": "m", "max_output_tokens": 400, **second}]


def test_a_variant_shares_the_cache_of_its_base():
    pool = PoolCard.model_validate({"name": "p", "models": variants()})
    assert pool.bases == {"m": "m", "m-high": "m"}


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"variant_of": "n"}, r"m-high\.variant_of is 'n', must be a model of the pool that is no variant itself: m"),
        ({"variant_of": "m-high"}, r"m-high\.variant_of is 'm-high', must be a model"),
        ({"max_output_tokens": 100}, r"m-high and m have the same prices, limits and cut-off"),
    ],
)
def test_variants_that_are_none(second, message):
    with pytest.raises(ValueError, match=message):
        PoolCard.model_validate({"name": "p", "models": variants(**second)})


def test_two_variants_need_no_difference_from_other_models():
    models = [*variants(), {**variants()[0], "name": "other"}]
    assert PoolCard.model_validate({"name": "p", "models": models}).model_names == ("m", "m-high", "other")


def test_a_copy_with_other_models_has_their_names():
    models = [ModelCard(name=name, prices=PLAIN, context_tokens=9, max_output_tokens=9) for name in ("a", "b", "c")]
    card = PoolCard(name="three", models=models)
    assert card.model_names == ("a", "b", "c")
    copy = card.model_copy(update={"models": card.models[1:]})
    assert (copy.model_names, card.model_names) == (("b", "c"), ("a", "b", "c"))
    assert card == PoolCard(name="three", models=models)
    assert PoolCard.model_validate(card.model_dump()) == card
