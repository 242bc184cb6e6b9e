import gzip

import numpy as np
import pytest

from mtrouter_rl.envs.replay.layout import Layout, fit_rate
from mtrouter_rl.envs.replay.made_up import MadeUpCard, make_up
from mtrouter_rl.envs.replay.suite import RUNS_FILE, SUITE_FILE, TASKS_FILE, TURNS_FILE, load_suite
from mtrouter_rl.errors import DatasetError, InvalidConfigError
from tests.cases.replay_suites import by_hand


@pytest.mark.parametrize("suite", [by_hand(), make_up(MadeUpCard(n_tasks=9, seed=1))], ids=["hand", "made up"])
def test_a_saved_suite_comes_back_equal(suite, tmp_path):
    suite.save(tmp_path)
    loaded = load_suite(tmp_path)
    assert (loaded.head, loaded.tasks, dict(loaded.turns)) == (suite.head, suite.tasks, dict(suite.turns))
    for name in ("scores", "costs_usd", "n_turns"):
        assert np.array_equal(getattr(loaded, name), getattr(suite, name))
    assert loaded.fingerprint == suite.fingerprint
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    loaded.save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def edited(name, change):
    def edit(folder):
        path = folder / name
        packed = path.suffix == ".gz"
        text = (gzip.decompress(path.read_bytes()) if packed else path.read_bytes()).decode()
        changed = change(text).encode()
        path.write_bytes(gzip.compress(changed) if packed else changed)

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda folder: (folder / SUITE_FILE).unlink(), "no such file; give the folder of a suite"),
        (lambda folder: (folder / RUNS_FILE).write_bytes(b"no gzip"), "cannot be read"),
        (edited(SUITE_FILE, lambda text: text.replace('"schema_version": 1', '"schema_version": 9')), "schema_version"),
        (
            edited(RUNS_FILE, lambda text: text.replace("b,strong,1.0", "b,strong,1.5")),
            r"line 5: .*less than or equal to 1",
        ),
        (edited(RUNS_FILE, lambda text: text.replace("a,cheap", "a,other")), "run of task 'a' by 'other'"),
        (edited(RUNS_FILE, lambda text: text.replace("a,cheap,0.0", "a,strong,0.0")), "was run by 'strong' twice"),
        (
            edited(RUNS_FILE, lambda text: "".join(text.splitlines(keepends=True)[:-1])),
            "has no run of 'strong' .first of 1",
        ),
        (edited(TASKS_FILE, lambda text: text.replace('"id":"b"', '"id":"a"')), "'a' appears twice"),
        (
            edited(TURNS_FILE, lambda text: text.replace("1.5", "1.4")),
            "2 turns for 1.900000 USD are known, but the run has 2 turns",
        ),
    ],
)
def test_a_broken_folder_is_named(edit, message, tmp_path):
    by_hand().save(tmp_path)
    edit(tmp_path)
    with pytest.raises(DatasetError, match=message):
        load_suite(tmp_path)


def test_part_keeps_what_belongs_to_its_tasks_and_models():
    part = by_hand().part(tasks=[1], models=[1])
    assert (part.models, [task.id for task in part.tasks], list(part.turns)) == (("strong",), ["b"], [(0, 0)])
    assert part.turn_costs(0, 0).tolist() == [0.5, 1.5]


@pytest.mark.parametrize(("shape", "shares"), [("flat", [1, 1, 1]), ("linear", [1, 2, 3]), ("quadratic", [1, 4, 9])])
def test_shares_of_a_layout(shape, shares):
    assert Layout(shape=shape, rate=1.0).shares(3).tolist() == pytest.approx([share / sum(shares) for share in shares])


def test_turns_of_a_total_add_up_to_it():
    suite = make_up(MadeUpCard(n_tasks=9, seed=1))
    for n in range(9):
        assert suite.turn_costs(n, 2).sum() == pytest.approx(suite.costs_usd[n, 2], abs=1e-12)
        assert len(suite.turn_costs(n, 2)) == suite.n_turns[n, 2]
    other = suite.with_layout(Layout(shape="flat"))
    assert np.ptp(other.turn_costs(0, 0)) == 0
    assert other.head.layout_source == "given"


def test_the_rate_is_found_again():
    layout = Layout(shape="linear", rate=0.2)
    rate, error = fit_rate([5.0 * layout.shares(n) for n in (1, 4, 17)])
    assert rate == pytest.approx(0.2, rel=0.05)
    assert error < 0.002
    with pytest.raises(InvalidConfigError, match="no growth can be fitted"):
        fit_rate([np.array([1.0])])
    with pytest.raises(InvalidConfigError, match="n_turns is 0"):
        layout.shares(0)
