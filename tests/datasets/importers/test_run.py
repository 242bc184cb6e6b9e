import dataclasses

import pytest

from mtrouter_rl.datasets.importers.base import ImportReport
from mtrouter_rl.datasets.importers.run import _sound
from mtrouter_rl.datasets.validation import Context


def sound(info, *episodes):
    """Ids of the episodes that are let through, and the report."""
    report = ImportReport(format="test")
    kept = [episode.episode_id for episode in _sound(iter(episodes), Context.of(info), report)]
    assert report.n_episodes == len(kept)
    return kept, report


def with_turn(episode, **changes):
    return dataclasses.replace(episode, turns=(dataclasses.replace(episode.turns[0], **changes), *episode.turns[1:]))


@pytest.mark.parametrize(
    ("change", "source"),
    [
        (lambda episode: dataclasses.replace(episode, episode_id="bad \ud83d"), "bad \\ud83d"),
        (lambda episode: dataclasses.replace(episode, task_text="half \ud83d"), "boil-v0-s2"),
        (lambda episode: dataclasses.replace(episode, extra={"note": ["half \ude00"]}), "boil-v0-s2"),
        (lambda episode: dataclasses.replace(episode, seed=2**63), "boil-v0-s2"),
        (lambda episode: with_turn(episode, action_text="half \ud83d"), "boil-v0-s2, turn 0"),
        (lambda episode: with_turn(episode, observation_text="half \ud83d"), "boil-v0-s2, turn 0"),
    ],
)
def test_what_no_file_takes_is_counted_and_the_rest_is_let_through(change, source, info, make_episode):
    good, bad, last = (make_episode(seed, 3) for seed in (1, 2, 3))
    kept, report = sound(info, good, change(bad), last)
    assert kept == ["boil-v0-s1", "boil-v0-s3"]
    finding = report.to_json()["rejected"]["text or number that no file takes"]
    assert (finding["n"], finding["examples"][0]["source"]) == (1, source)
    assert (report.n_turns, report.n_rejected_turns) == (6, 3)


def test_an_episode_that_breaks_a_rule_and_one_that_is_there_twice(info, make_episode):
    kept, report = sound(info, make_episode(1, 3), make_episode(1, 3), make_episode(2, 2, max_turns=1))
    assert kept == ["boil-v0-s1"]
    assert set(report.to_json()["rejected"]) == {"episode that is there twice", "number of turns that breaks its rule"}
