"""No money is spent unasked, and what is spent is told."""

import io
import json
import sys
from pathlib import Path

import pytest
import yaml

from mtrouter_rl.cli import main
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.files import STATE_VARIABLE
from mtrouter_rl.testing.fake_llm import FakeLLM, FakeSettings, remote_twin, write_twin

ENVS = Path(__file__).parents[2] / "envs"


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "state"))
    monkeypatch.setattr(sys, "stdin", io.StringIO())


@pytest.fixture
def fake(corridor_config):
    with FakeLLM(FakeSettings(env=corridor_config, n_copies=1)) as running:
        yield running


@pytest.fixture
def collect(tmp_path, corridor_config, fake):
    card = tmp_path / "pool.yaml"
    twin = remote_twin(corridor_config.pool, fake.base_url, of_pool={"pause_s": 0.001})
    card.write_text(yaml.safe_dump(json.loads(twin.model_dump_json())))

    def run(*words, pool=str(card), out="log"):
        episodes = () if "--episodes" in words else ("--episodes", "4")
        given = ("--env", "corridor", "--pool", pool, "--policy", "uniform", *episodes, *words)
        return main(["collect", *given, "--workers", "1", "--out", str(tmp_path / out)])

    return run


def test_without_a_word_of_the_user_nothing_is_called(collect, fake, capsys):
    assert collect() == 1
    told = capsys.readouterr().err
    assert "costs money: 4 episodes cost at most 2.00 USD (0.5 each, the budget), likely about" in told
    assert "nobody can be asked here, so give --max-usd USD, or --yes" in told
    assert fake.ledger.n_requests == 0


def test_a_dry_run_tells_and_calls_nothing(collect, fake, capsys, corridor_log):
    assert collect("--dry-run", "--json") == 0
    by_cards = json.loads(capsys.readouterr().out)
    assert by_cards["is_paid"]
    assert by_cards["estimate"]["most_usd"] == 2.0
    assert "rough, from the cards alone" in by_cards["estimate"]["source"]
    assert collect("--dry-run", "--json", "--like", str(corridor_log)) == 0
    by_log = json.loads(capsys.readouterr().out)["estimate"]
    episodes = Dataset.load(corridor_log).episodes
    assert by_log["likely_usd"] == pytest.approx(4 * sum(one.cost_usd for one in episodes) / len(episodes))
    assert fake.ledger.n_requests == 0
    assert collect("--dry-run", pool="corridor-three") == 0
    assert "nothing is paid to anybody" in capsys.readouterr().out


def test_a_question_on_a_terminal_is_answered(collect, fake, capsys, monkeypatch):
    answers = iter(["no", "y"])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda _: next(answers))
    assert collect() == 0
    assert fake.ledger.n_requests == 0
    assert collect() == 0
    assert fake.ledger.n_requests > 0
    assert f"spent: {fake.ledger.billed_usd:.6f} USD in {fake.ledger.n_requests} tries" in capsys.readouterr().err


def test_a_limit_stops_a_run_that_goes_on_when_it_is_raised(collect, fake, capsys, tmp_path):
    assert collect("--max-usd", "0.02", "--episodes", "12") == 1
    told = capsys.readouterr().err
    assert "the limit of the run, 0.02 USD, leaves no room for the next call" in told
    assert "raise --max-usd" in told
    assert 0 < fake.ledger.billed_usd <= 0.02
    stopped_usd = fake.ledger.billed_usd
    assert collect("--max-usd", "5", "--episodes", "12") == 0
    told = capsys.readouterr().err
    in_log = sum(one.cost_usd for one in Dataset.load(tmp_path / "log").episodes)
    assert f"spent: {fake.ledger.billed_usd:.6f} USD" in told
    assert f"{fake.ledger.billed_usd - in_log:.6f} USD of it for turns that are not in the dataset" in told
    assert fake.ledger.billed_usd - in_log <= stopped_usd


def test_the_limit_of_a_day_holds_over_runs(collect, fake, capsys):
    assert collect("--yes", "--episodes", "2") == 0
    assert collect("--max-usd-per-day", f"{fake.ledger.billed_usd + 0.0001:.6f}", out="other") == 1
    assert "the limit of the day" in capsys.readouterr().err


def test_simulated_models_never_ask(collect, capsys):
    assert collect("--max-usd", "0", pool="corridor-three") == 0
    assert "spent:" not in capsys.readouterr().err


def test_a_backend_that_books_nothing_cannot_be_limited(collect, tmp_path, corridor_config, capsys):
    card = json.loads(corridor_config.pool.model_dump_json()) | {"backend": {"kind": "my_own"}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(card))
    assert collect("--max-usd", "1", pool=str(tmp_path / "own.yaml")) == 1
    assert "books nothing in the ledger of spending" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["evaluate", "--env", "corridor", "--router", "random", "cheapest", "--split", "test", "--per-task", "2"],
        ["study", "--env", "corridor"],
        ["train", "--env", "corridor", "--agent", "strongest"],
    ],
    ids=lambda words: words[0],
)
def test_other_commands_that_run_episodes_ask_as_well(words, fake, tmp_path, corridor_config, capsys):
    card = tmp_path / "pool.yaml"
    write_twin(card, corridor_config.pool, fake.base_url)
    given = [*words, "--pool", str(card), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(given) == 1
    assert "nobody can be asked here, so give --max-usd USD, or --yes" in capsys.readouterr().err
    assert main([*given, "--dry-run"]) == 0
    assert "at most" in capsys.readouterr().out
    assert fake.ledger.n_requests == 0
    assert main([*given, "--max-usd", "0.012"]) == 1
    told = capsys.readouterr().err
    assert "the limit of the run, 0.012 USD" in told
    assert "spent:" in told


@pytest.mark.parametrize(
    "words",
    [
        ["lab", "ablate", "--env", "corridor", "--dataset", "LOG"],
        ["lab", "frontier", "routers/one", "--env", "corridor", "--against", "routers/other"],
        ["lab", "leave-one-out", "--env", "corridor", "--dataset", "LOG"],
        ["lab", "study-cross"],
        ["sweep", "--env", "corridor", "--dataset", "LOG", "--agent", "myopic"],
    ],
    ids=" ".join,
)
def test_studies_that_do_not_ask_refuse_models_that_are_paid(
    words, fake, tmp_path, corridor_config, corridor_log, capsys
):
    card = tmp_path / "pool.yaml"
    write_twin(card, corridor_config.pool, fake.base_url)
    paid = ["--pool", str(card)]
    if words[-1] == "study-cross":
        env = tmp_path / "paid.yaml"
        env.write_text((ENVS / "corridor.yaml").read_text().replace("pool: corridor-three", f"pool: {card}"))
        paid = ["--envs", str(env), "corridor"]
    given = [str(corridor_log) if word == "LOG" else word for word in words]
    assert main([*given, *paid, "--out", str(tmp_path / "out")]) == 1
    assert "calls models that cost money, and this command plays many episodes" in capsys.readouterr().err
    assert fake.ledger.n_requests == 0


def test_training_on_a_log_of_paid_models_calls_nobody_and_asks_nobody(corridor_log, tmp_path, corridor_config, fake):
    card = tmp_path / "pool.yaml"
    write_twin(card, corridor_config.pool, fake.base_url)
    words = ["train", "--agent", "task-table", "--dataset", str(corridor_log), "--pool", str(card)]
    assert main([*words, "--out", str(tmp_path / "router")]) == 0
    assert fake.ledger.n_requests == 0


def test_a_router_that_asks_a_model_is_paid_though_the_models_are_simulated(corridor_config, monkeypatch):
    from mtrouter_rl.protocols import PaidRouter
    from mtrouter_rl.workflows import cost_estimate

    class Asking:
        name, model_names = "asking", corridor_config.pool.model_names
        most_usd = decide = action_probabilities = print

    assert isinstance(Asking(), PaidRouter)
    assert not cost_estimate.costs_anything(corridor_config, ["uniform", "reference:hidden"])
    monkeypatch.setattr(cost_estimate.RouterRef, "of", lambda *_: lambda _: Asking())
    assert cost_estimate.costs_anything(corridor_config, ["folder"])


def test_a_stopped_collection_goes_on_at_another_rate(collect, fake, tmp_path, capsys):
    assert collect("--max-usd", "0.02", "--episodes", "12") == 1
    card = yaml.safe_load((tmp_path / "pool.yaml").read_text())
    card["backend"]["settings"]["deadline_s"] = 7.0
    card["backend"]["settings"]["models"]["small"]["max_concurrent"] = 1
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump(card))
    assert collect("--yes", "--episodes", "12") == 0
    card["backend"]["settings"]["models"]["small"]["temperature"] = 0.1
    (tmp_path / "pool.yaml").write_text(yaml.safe_dump(card))
    capsys.readouterr()
    assert collect("--yes", "--episodes", "12") == 1
    assert "holds another dataset" in capsys.readouterr().err
