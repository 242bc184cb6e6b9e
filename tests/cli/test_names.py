"""`list` and `show`: what can be named, and what stands behind a name."""

import json

import pytest

from mtrouter_rl.cli.names import KINDS
from mtrouter_rl.cli.program import main


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("envs", "corridor"),
        ("pools", "corridor-three"),
        ("agents", "fitted-q"),
        ("datasets", None),
        ("importers", "openai-jsonl"),
        ("exporters", "minari"),
        ("encoders", "hashing"),
    ],
)
def test_every_kind_can_be_listed(capsys, kind, name):
    assert main(["list", kind, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == KINDS[kind]()
    assert name is None or found[name]


@pytest.mark.parametrize(
    ("name", "part"),
    [("corridor", "name: corridor"), ("fitted-q", "learner: double_dqn"), ("openai-jsonl", "propensities (default")],
)
def test_a_name_is_shown(capsys, name, part):
    assert main(["show", name]) == 0
    assert part in capsys.readouterr().out


def test_an_unknown_name_is_told_the_nearest(capsys):
    assert main(["show", "corridr"]) == 1
    assert "unknown name 'corridr'; did you mean 'corridor'" in capsys.readouterr().err
