import time

import pytest
import yaml

from mtrouter_rl.cards import find_card, load_agent_card, load_env_card, load_pool_card
from mtrouter_rl.cards.reading import parse_yaml
from mtrouter_rl.cli import main
from mtrouter_rl.errors import CardError

LAUGHS = "\n".join(
    ["a0: &a0 [x, x, x, x, x, x, x, x, x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
)
MERGES = "\n".join(
    ["a0: &a0 {k: 1}"] + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 10)]
)
BOMBS = [
    (LAUGHS, "more than 200000 values, counted with those that aliases repeat"),
    (MERGES, "more than 200000 values"),
    ("[" * 20_000, "nested deeper than 50 levels"),
    ("{a: " * 20_000, "nested deeper than 50 levels"),
    ("- " * 20_000, "nested deeper than 50 levels"),
    ("a: &a [*a]", "an anchor stands for itself"),
    ("n: " + "9" * 5000, "limit"),
    ("d: 2024-99-99", "month must be in 1..12"),
    ("n: " + "x" * 2**20, "larger than 1048576 bytes"),
    ("a: 1\na: 2", "line 2: key 'a' stands twice in one mapping"),
    ("a: {b: 1, b: 2}", "line 1: key 'b' stands twice"),
    ("? [a]\n: 1", "cannot be a key"),
    ("!!python/object/apply:os.system [echo owned]", "could not determine a constructor"),
    ("a: *b", "undefined alias"),
]


@pytest.mark.parametrize(("text", "message"), BOMBS, ids=[message[:24] for _, message in BOMBS])
def test_a_bomb_is_told_in_no_time(text, message, tmp_path):
    start = time.process_time()
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)
    path = tmp_path / "card.yaml"
    path.write_text(text)
    for load in (load_env_card, load_pool_card, load_agent_card):
        with pytest.raises(CardError, match=rf"(?s)card.yaml is not valid YAML: .*{message}"):
            load(path)
    assert main(["show", str(path)]) == 1
    assert time.process_time() - start < 5


def test_plain_yaml_is_what_pyyaml_makes_of_it():
    text = "base: &base {a: 1, b: [x, y]}\nmore: {<<: *base, a: 2}\nlist: [*base, *base]\nwhen: 2024-05-06\nno: yes\n"
    assert parse_yaml(text) == yaml.safe_load(text)


def priced(path, scale, **fields):
    card = yaml.safe_load(find_card("pools", "corridor-three").read_text())
    for model in card["models"]:
        model["prices"] = {kind: price * scale for kind, price in model["prices"].items()}
    path.write_text(yaml.safe_dump(card | fields))
    return path


def test_a_price_that_stands_twice_is_an_error(tmp_path):
    text = find_card("pools", "corridor-three").read_text().replace("output: 10.0", "output: 10.0, output: 1.0")
    (tmp_path / "pool.yaml").write_text(text)
    with pytest.raises(CardError, match="key 'output' stands twice in one mapping"):
        load_pool_card(tmp_path / "pool.yaml")


@pytest.mark.parametrize("word", ["yes", "true", "on", "no"])
def test_a_truth_value_is_no_price(tmp_path, word):
    card = yaml.safe_load(find_card("pools", "corridor-three").read_text())
    card["models"][0]["prices"]["input"] = parse_yaml(word)
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump(card))
    with pytest.raises(CardError, match=r"field 'models.'small'.prices.input': is a truth value, must be a number"):
        load_pool_card(tmp_path / "pool.yaml")


def test_a_truth_value_is_no_number_anywhere_in_a_card(tmp_path):
    env = yaml.safe_load(find_card("envs", "corridor").read_text())
    env["limits"]["max_turns"] = True
    (tmp_path / "env.yaml").write_text(yaml.safe_dump(env))
    with pytest.raises(CardError, match=r"field 'limits.max_turns': is a truth value"):
        load_env_card(tmp_path / "env.yaml")


@pytest.mark.parametrize("scale", [1e-6, 1e-3])
def test_prices_of_another_unit_are_refused_unless_they_are_meant(tmp_path, scale):
    path = tmp_path / "pool.yaml"
    with pytest.raises(
        CardError, match=r"prices are in USD per million tokens, and these look like prices of one token"
    ):
        load_pool_card(priced(path, scale))
    assert (
        load_pool_card(priced(path, scale, price_unit="usd_per_million_tokens")).models[0].prices.input == 0.1 * scale
    )
    with pytest.raises(CardError, match="field 'price_unit': is 'per token', must be usd_per_million_tokens"):
        load_pool_card(priced(path, scale, price_unit="per token"))


def test_free_and_plain_prices_are_taken(tmp_path):
    assert load_pool_card(priced(tmp_path / "pool.yaml", 0)).models[0].prices.input == 0
    assert load_pool_card(priced(tmp_path / "pool.yaml", 0.1)).models[0].prices.input == pytest.approx(0.01)
