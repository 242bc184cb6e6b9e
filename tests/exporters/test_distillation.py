"""The distillation set: what is an escalation failure, what is written, and what is refused."""

import json
from dataclasses import replace

import pytest

from mtrouter_rl.cli.program import run_command
from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.errors import DatasetError, InvalidConfigError, UnknownNameError
from mtrouter_rl.exporters.base import export_dataset
from mtrouter_rl.exporters.distillation import DistillationTable
from mtrouter_rl.exporters.escalations import escalations
from mtrouter_rl.exporters.secrets import scrub_secrets
from mtrouter_rl.records import TokenUsage, TracedEpisode

CHEAP, STRONG = "cheap", "strong"
PRICES = {CHEAP: 1.0, STRONG: 2.0}


@pytest.fixture
def make(make_episode, info):
    """Makes an episode of (model, gain, error) turns."""
    prices = {model.name: model.prices for model in info.models}

    def build(seed, *turns, **changes):
        usage = TokenUsage(n_fresh=1000, n_output=100)
        like = make_episode(1, 1).turns[0]
        made = [
            replace(
                like,
                model=model,
                served_model=model,
                usage=usage,
                cost_usd=prices[model].cost_usd(usage),
                utility_gain=gain,
                error=error,
                action_text=f"open door {number}",
                observation_text=f"room {number}",
                propensity=0.5,
                action_mask=(True, True),
                terminated=number == len(turns) - 1,
            )
            for number, (model, gain, error) in enumerate(turns)
        ]
        return replace(make_episode(seed, 1), turns=tuple(made), **changes)

    return build


@pytest.fixture
def log(make, info, tmp_path):
    """Writes a log of episodes, into a folder of its own."""

    def write(*episodes, **changes):
        about = info.model_copy(update={"n_episodes_planned": len(episodes), **changes})
        write_dataset(tmp_path / "log", about, [TracedEpisode(episode=one) for one in episodes])
        return tmp_path / "log"

    return write


def read(folder):
    return [json.loads(line) for line in (folder / "examples.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("turns", "expected"),
    [
        ([(CHEAP, 0.0, "unknown_action"), (STRONG, 0.5, "")], [1]),
        ([(CHEAP, 0.0, "unknown_action"), (STRONG, 0.5, "idle")], []),  # the dearer one erred too
        ([(CHEAP, 0.5, ""), (STRONG, 0.5, "")], []),  # the cheap one did not fail
        ([(STRONG, 0.0, "unknown_action"), (CHEAP, 0.5, "")], []),  # nobody dearer was called
        ([(CHEAP, 0.0, "idle"), (CHEAP, 0.0, "idle"), (STRONG, 0.5, "")], [2]),
        ([(CHEAP, 0.0, "idle"), (STRONG, -0.5, "")], []),  # a loss is no progress
        ([(CHEAP, 0.0, "idle")], []),
    ],
)
def test_what_an_escalation_failure_is(make, turns, expected):
    found = escalations([make(1, *turns)], cheap=CHEAP, prices=PRICES)
    assert [one.turn for one in found] == expected


def test_who_answered_counts_and_failed_episodes_do_not(make):
    episode = make(1, (CHEAP, 0.0, "idle"), (STRONG, 0.5, ""))
    fallen_back = replace(episode, turns=(episode.turns[0], replace(episode.turns[1], served_model=CHEAP)))
    failed = replace(episode, status="failed", status_detail="died")
    assert escalations([fallen_back, failed], cheap=CHEAP, prices=PRICES) == []


def test_an_example_is_the_history_and_the_dearer_action(make, log, tmp_path):
    folder = log(make(1, (CHEAP, 0.0, "idle"), (STRONG, 0.5, ""), (CHEAP, 0.1, "")))
    export_dataset("distillation", folder, tmp_path / "set")
    (row,) = read(tmp_path / "set")
    assert [(m["role"], m["content"], m.get("weight")) for m in row["messages"]] == [
        ("user", "Boil water – in °C.\n\nA kitchen.", None),
        ("assistant", "open door 0", 0),
        ("user", "room 0", None),
        ("assistant", "open door 1", 1),
    ]
    assert (row["task"], row["variation"], row["turn"], row["cluster"]) == ("boil", 0, 1, 0)
    assert (row["cheap_model"], row["dearer_model"]) == (CHEAP, STRONG)
    assert (row["cheap_usd"], row["dearer_usd"]) == (pytest.approx(0.00014), pytest.approx(0.0028))
    table = DistillationTable.load(tmp_path / "set" / "clusters.json")
    (cluster,) = table.clusters
    assert (table.cheap, table.n_turns, table.n_cheap_turns, cluster.n, cluster.words) == (CHEAP, 3, 2, 1, ("open",))
    assert (cluster.dearer_usd, cluster.saved_usd) == (pytest.approx(0.0028), pytest.approx(0.0028 - 0.00014))


@pytest.mark.parametrize("by", ["history", "action"])
def test_clusters_hold_every_example_once_and_the_dearest_is_the_first(make, log, tmp_path, by):
    many = [make(seed, (CHEAP, 0.0, "idle"), (STRONG, 0.5, "")) for seed in range(4)]
    other = make(9, (CHEAP, 0.0, "idle"), (STRONG, 0.5, ""), task="melt", task_text="Sing a song.")
    sung = replace(other, turns=(other.turns[0], replace(other.turns[1], action_text="sing")))
    export_dataset("distillation", log(sung, *many), tmp_path / "set", {"by": by, "clusters": 2})
    rows = read(tmp_path / "set")
    assert [row["cluster"] for row in rows] == [1, 0, 0, 0, 0]
    table = DistillationTable.load(tmp_path / "set" / "clusters.json")
    assert [(one.n, one.words) for one in table.clusters] == [(4, ("open",)), (1, ("sing",))]
    assert sum(one.dearer_usd for one in table.clusters) == pytest.approx(sum(row["dearer_usd"] for row in rows))


def test_secrets_are_scrubbed_and_counted(make, log, tmp_path):
    key = "sk-" + "a1" * 12
    episode = make(1, (CHEAP, 0.0, "idle"), (STRONG, 0.5, ""), task_text=f"Call it with {key}.")
    export_dataset("distillation", log(episode), tmp_path / "set")
    text = (tmp_path / "set" / "examples.jsonl").read_text(encoding="utf-8")
    assert key not in text
    assert "Call it with [scrubbed]." in text
    assert DistillationTable.load(tmp_path / "set" / "clusters.json").n_scrubbed == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("use ghp_" + "x" * 30 + " now", "use [scrubbed] now"),
        ("Authorization: Bearer " + "t" * 20, "Authorization: Bearer [scrubbed]"),
        ("https://me:hunter22@127.0.0.1/x", "https://[scrubbed]@127.0.0.1/x"),
        ('{"api_key": "longenough1"}', '{"api_key": "[scrubbed]"}'),
        ("-----BEGIN RSA PRIVATE KEY-----\nabc\n-----END RSA PRIVATE KEY-----\nend", "[scrubbed]\nend"),
        ("take the key from the table", "take the key from the table"),
    ],
)
def test_shapes_of_secrets(text, expected):
    assert scrub_secrets(text)[0] == expected
    assert scrub_secrets(expected) == (expected, 0)


@pytest.mark.parametrize("split", ["validation", "test", "ood"])
def test_held_out_episodes_are_never_exported(make, log, tmp_path, split):
    folder = log(make(1, (CHEAP, 0.0, "idle"), (STRONG, 0.5, ""), split=split), split=split)
    with pytest.raises(DatasetError, match=rf"field 'split': is '{split}', must be 'train'"):
        export_dataset("distillation", folder, tmp_path / "set")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, DatasetError, r"nowhere did 'cheap' fail and a dearer model make progress in the next turn"),
        ({"cheap": "chep"}, UnknownNameError, r"did you mean 'cheap'"),
        ({"cheap": "strong"}, DatasetError, r"no model is dearer than 'strong'"),
        ({"by": "task"}, InvalidConfigError, r"field 'by' is 'task'"),
        ({"clusters": 0}, InvalidConfigError, r"field 'clusters' is 0"),
    ],
)
def test_nothing_to_learn_is_an_error(make, log, tmp_path, options, error, message):
    folder = log(make(1, (CHEAP, 0.5, ""), (STRONG, 0.5, "")))
    with pytest.raises(error, match=message):
        export_dataset("distillation", folder, tmp_path / "set", options)


def test_the_command_shows_the_table(make, log, tmp_path, capsys):
    folder = log(make(1, (CHEAP, 0.0, "idle"), (STRONG, 0.5, "")))
    run_command(["export", "distillation", str(folder), "--out", str(tmp_path / "set")])
    out = capsys.readouterr().out
    assert (
        "1 turns at which 'cheap' failed and a dearer model made progress next, of 1 turns of 'cheap' and 2 in all"
        in out
    )
    assert "      0         1    0.002800       0.002660  open" in out
