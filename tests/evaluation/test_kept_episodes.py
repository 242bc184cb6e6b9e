"""What is kept of every episode comes back as it was, and a broken file is named with its line."""

import csv
import gzip
import io

import numpy as np
import pytest

from mtrouter_rl.errors import ResultsError
from mtrouter_rl.evaluation import kept_episodes
from mtrouter_rl.evaluation.kept_episodes import EPISODES_FILE, KeptEpisodes, keep
from mtrouter_rl.evaluation.metrics import EpisodeRecord, metrics_of_records, policy_metrics
from tests.cases.evaluation_cases import MODELS, REWARD, make_episode, make_traced, make_turn


def records(traced):
    return tuple(EpisodeRecord.of(one.episode, REWARD) for one in traced)


@pytest.fixture(scope="module")
def kept():
    groups = {
        (split, policy): records(traced)
        for split in ("test", "ood")
        for policy, traced in make_traced(split=split).items()
    }
    failed = make_episode([make_turn("big", cost_usd=0.3)], task='odd, "task"\n', variation=7, seed=-1, status="failed")
    empty = make_episode([], task="melt", variation=9)
    groups["test", "random@0.4, \N{GREEK SMALL LETTER LAMDA}"] = tuple(
        EpisodeRecord.of(one, REWARD) for one in (failed, empty)
    )
    return KeptEpisodes(model_names=MODELS, groups=groups)


def lines(path):
    return list(csv.reader(io.StringIO(gzip.decompress(path.read_bytes()).decode(), newline="")))


def write_lines(path, rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_bytes(gzip.compress(text.getvalue().encode()))


def test_every_number_comes_back_as_it_was(kept, tmp_path):
    kept.save(tmp_path / "e.csv.gz")
    back = KeptEpisodes.load(tmp_path / "e.csv.gz")
    assert back.groups == kept.groups
    assert back.model_names == MODELS
    assert back.n_episodes == kept.n_episodes == 2 * 6 * 18 + 2


def test_equal_episodes_give_equal_bytes_whatever_the_order_of_policies(kept, tmp_path):
    kept.save(tmp_path / "one.gz")
    KeptEpisodes(model_names=MODELS, groups=dict(reversed(kept.groups.items()))).save(tmp_path / "two.gz")
    assert (tmp_path / "one.gz").read_bytes() == (tmp_path / "two.gz").read_bytes()


def test_metrics_of_records_are_those_of_the_episodes(tmp_path):
    traced = make_traced()["fitted-q"]
    episodes = [one.episode for one in traced] + [
        make_episode([make_turn("big", cost_usd=9.0)], variation=5, status="failed")
    ]
    kept = KeptEpisodes(
        model_names=MODELS, groups={("test", "fitted-q"): tuple(EpisodeRecord.of(one, REWARD) for one in episodes)}
    )
    kept.save(tmp_path / "e.gz")
    back = KeptEpisodes.load(tmp_path / "e.gz").of("fitted-q", "test")
    found = metrics_of_records(back, model_names=MODELS, policy="fitted-q")
    assert found == policy_metrics(episodes, REWARD, model_names=MODELS, policy="fitted-q")
    assert (found.n_failed, found.budget_violations) == (1, 1)


def test_episodes_of_one_budget_are_told_apart():
    cheap, dear = (EpisodeRecord.of(make_episode([make_turn()], budget_usd=usd), REWARD) for usd in (0.2, 1.0))
    first = KeptEpisodes(model_names=MODELS, groups={("test", "random"): (cheap,)})
    both = first.joined(KeptEpisodes(model_names=MODELS, groups={("test", "random"): (dear,)}))
    assert both.of("random", "test", budget_usd=0.2) == (cheap,)
    assert both.of("random", "test") == (cheap, dear)
    assert both.joined(first).of("random", "test") == (dear, cheap)
    assert both.of("random", "ood") == ()
    with pytest.raises(ResultsError, match="must be of one pool"):
        both.joined(KeptEpisodes(model_names=("other",), groups={}))


def test_policies_are_added_replaced_and_dropped_with_their_rows(tmp_path):
    one, two = (records(make_traced()[name]) for name in ("random", "big"))
    shared = {"split": "test", "model_names": MODELS}
    keep(tmp_path, {"random": one, "gone": one}, rows=[("test", "random"), ("test", "gone")], **shared)
    keep(tmp_path, {"big": two}, rows=[("test", "random"), ("test", "big")], **shared)
    found = KeptEpisodes.load(tmp_path / EPISODES_FILE)
    assert found.groups == {("test", "random"): one, ("test", "big"): two}
    keep(tmp_path, {"random": two}, rows=[("test", "random")], **shared)
    assert KeptEpisodes.load(tmp_path / EPISODES_FILE).groups == {("test", "random"): two}


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("split", "exam", r"line 2, column 'split': is 'exam', must be one of train, validation, test, ood"),
        ("policy", "", r"column 'policy': is '', must not be empty"),
        ("variation", "-1", r"column 'variation': is '-1', must be a whole number, at least 0"),
        ("seed", "1.5", r"column 'seed': is '1.5', must be a whole number"),
        ("status", "running", r"column 'status': is 'running', must be one of completed, failed"),
        ("utility", "nan", r"column 'utility': is 'nan', must be a number"),
        ("return", "inf", r"column 'return': is 'inf', must be a number"),
        ("cost_usd", "-0.1", r"column 'cost_usd': is '-0.1', must be a number from 0 to inf"),
        ("turns", "999", r"column 'turns': is '999', must be the sum of the models' turns"),
        ("turns:big", "9" * 30, r"column 'turns:big': is '9999.*', must be a whole number, at least 0"),
    ],
)
def test_a_broken_cell_is_named(kept, tmp_path, column, value, message):
    path = tmp_path / "e.gz"
    kept.save(path)
    rows = lines(path)
    rows[1][rows[0].index(column)] = value
    write_lines(path, rows)
    with pytest.raises(ResultsError, match=message):
        KeptEpisodes.load(path)


def test_a_broken_file_is_refused(kept, tmp_path, monkeypatch):
    path = tmp_path / "e.gz"
    with pytest.raises(ResultsError, match="no such file; a run writes it"):
        KeptEpisodes.load(path)
    kept.save(path)
    whole, rows = path.read_bytes(), lines(path)
    for data, message in (
        (whole[:-20], "ends too early"),
        (whole + b"x", "ends too early or too late"),
        (b"text", "cannot be unpacked"),
        (gzip.compress(b""), r"line 1: columns are \[\]"),
    ):
        path.write_bytes(data)
        with pytest.raises(ResultsError, match=message):
            KeptEpisodes.load(path)
    for broken, message in (
        ([[*rows[0][:-1], "big"], *rows[1:]], r"line 1: columns are .* one 'turns:MODEL' for every model"),
        ([rows[0], rows[1][:-1]], "line 2: has not as many cells as columns"),
        ([rows[0], [*rows[1], "1"]], "line 2: has not as many cells as columns"),
        ([rows[0], rows[1], rows[1]], "line 3, column 'seed': .* stands there twice"),
    ):
        write_lines(path, broken)
        with pytest.raises(ResultsError, match=message):
            KeptEpisodes.load(path)
    path.write_bytes(whole)
    monkeypatch.setattr(kept_episodes, "MAX_BYTES", 1000)
    with pytest.raises(ResultsError, match="larger than 1000 bytes when it is unpacked"):
        KeptEpisodes.load(path)


def test_floats_are_the_shortest_text_that_is_read_back_equal(tmp_path):
    rng = np.random.default_rng(0)
    episodes = [
        make_episode([make_turn(cost_usd=float(rng.lognormal()), gain=float(rng.normal()) / 1e9)], variation=number)
        for number in range(50)
    ]
    kept = KeptEpisodes(
        model_names=MODELS, groups={("test", "a"): tuple(EpisodeRecord.of(e, REWARD) for e in episodes)}
    )
    kept.save(tmp_path / "e.gz")
    assert KeptEpisodes.load(tmp_path / "e.gz").groups == kept.groups
