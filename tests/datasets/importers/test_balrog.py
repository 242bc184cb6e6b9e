import datetime
import itertools
import json
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.datasets.importers.balrog import BILLED_EMPTY, BalrogImporter, BalrogOptions
from mtrouter_rl.datasets.importers.balrog_files import apportion, parse_rows
from mtrouter_rl.datasets.importers.base import ImportReport, ImportSource
from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError, InvalidConfigError, UnknownNameError
from mtrouter_rl.records import UNLIMITED_BUDGET_USD

REAL = Path(__file__).parents[3].parent / "shared" / "data" / "balrog"
OLD_ORDER = "Step,Observation,Action,Reasoning,Reward,Done\r\n"
NEW_ORDER = "Step,Action,Reasoning,Observation,Reward,Done\r\n"

# Hand-made, in the layout of both versions of the benchmark. Lengths of actions: 4, 2, 0; of observations: 8, 4, 6.
BABYAI = "arm-one/babyai/Level-v0/goto/Level-v0/goto_run_03"
BABYAI_CSV = OLD_ORDER + '0,"a ""b""\r\nc","g\r\no",,0,False\r\n1,wall,up,,0.0,False\r\n2,a˘˘door,,,0.9,True\r\n'
BABYAI_JSON = {
    "task": "Level-v0/goto",
    "action_frequency": {"go": 1, "up": 1, "idle": 1},
    "input_tokens": 17,
    "output_tokens": 6,
    "done": True,
    "episode_return": 0.9,
    "num_steps": 3,
    "failed_candidates": ["g\r\no", ""],
    "mission": "go to the door",
    "progression": 0.5,
    "process_num": "P-1",
    "seed": 4294967295,
    "agent": {"type": "naive", "max_history": 2},
    "client": {"model_id": "vendor/one", "generate_kwargs": {"max_tokens": 9}},
}
MINIHACK = "arm-two/minihack/MiniHack-Corridor-R3-v0/MiniHack-Corridor-R3-v0_run_00"
MINIHACK_CSV = NEW_ORDER + '0,kick east,,"map:\0\r\n|.@|",-0.01,False\r\n1,east,,\0,-0.01,False\r\n'
MINIHACK_JSON = {
    "task": "MiniHack-Corridor-R3-v0",
    "action_frequency": {"kick": 1, "east": 1},
    "input_tokens": 900,
    "output_tokens": 5,
    "episode_return": -0.02,
    "num_steps": 2,
    "failed_candidates": ["kick east"],
    "progression": 0.0,
    "end_reason": -1,
    "process_num": "P-2",
    "agent": {"type": "naive", "max_text_history": 16},
    "client": {"model_id": "vendor/two"},
}
THINKER = "arm-three/textworld/cooking/cooking_run_10"
THINKER_CSV = NEW_ORDER + "0,look,<think> hm </think> look,You see.,0,False\r\n1,,I do not know.,,0,True\r\n"
THINKER_JSON = BABYAI_JSON | {
    "task": "cooking",
    "num_steps": 2,
    "failed_candidates": [""],
    "output_tokens": 38,
    "target_plan": "secret",
}
FILES = {
    f"{BABYAI}.csv": BABYAI_CSV.encode(),
    f"{BABYAI}.json": json.dumps(BABYAI_JSON).encode(),
    f"{MINIHACK}.json": json.dumps(MINIHACK_JSON).encode(),
    f"{MINIHACK}.csv": MINIHACK_CSV.encode(),
    f"{THINKER}.csv": THINKER_CSV.encode(),
    f"{THINKER}.json": json.dumps(THINKER_JSON).encode(),
    "arm-one/summary.json": b"not even JSON",
    "arm-one/babyai/babyai_summary.json": b"{}",
    "arm-one/metadata.yaml": b"name: one",
}


def model(name, *aliases):
    return {
        "name": name,
        "aliases": aliases,
        "prices": {"input": 1.0, "cached_input": 1.0, "output": 10.0},
        "context_tokens": 1000,
        "max_output_tokens": 100,
        "knowledge_cutoff": datetime.date(2024, 1, 1),
    }


@pytest.fixture
def pool():
    return PoolCard.model_validate(
        {
            "name": "toy",
            "description": "made up",
            "models": [model("one", "arm-one"), model("two", "vendor/two"), model("three", "arm-three")],
            "token_counter": {"kind": "characters", "characters_per_token": 4.0},
            "backend": {"kind": "log_only"},
        }
    )


def write(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def read(pool, *paths, **options):
    """Episodes by id, and the report."""
    report = ImportReport(format="balrog")
    source = ImportSource(paths=paths, pool=pool, report=report)
    episodes = list(BalrogImporter(BalrogOptions(**options)).episodes(source))
    assert len({episode.episode_id for episode in episodes}) == len(episodes)
    return {episode.episode_id: episode for episode in episodes}, report


def reasons(report):
    return {reason: finding["n"] for reason, finding in report.to_json()["rejected"].items()}


def notes(report):
    return {note: finding["n"] for note, finding in report.to_json()["notes"].items()}


@pytest.fixture
def logs(tmp_path):
    return write(tmp_path / "logs", FILES)


def test_an_episode_checked_by_hand(logs, pool):
    episodes, report = read(pool, logs)
    episode = episodes["arm-one/babyai/Level-v0/goto/03"]
    assert reasons(report) == {}
    assert (episode.task, episode.seed, episode.split) == ("babyai/Level-v0/goto", 4294967295, "train")
    assert episode.task_text == "Environment: babyai\nTask: Level-v0/goto\nMission: go to the door"
    assert episode.first_observation == ""
    assert (episode.behavior_policy, episode.budget_usd) == ("single:one", UNLIMITED_BUDGET_USD)
    assert (episode.max_turns, episode.usage_source) == (128, "reconstructed")
    assert [turn.action_text for turn in episode.turns] == ["g\r\no", "up", ""]
    assert [turn.observation_text for turn in episode.turns] == ['a "b"\r\nc', "wall", "a˘door"]
    assert [turn.error for turn in episode.turns] == ["invalid_action", "", "empty"]
    assert [turn.utility_gain for turn in episode.turns] == [0.0, 0.0, 0.5]
    assert [(turn.terminated, turn.truncated) for turn in episode.turns] == [(False, False)] * 2 + [(True, False)]
    for turn in episode.turns:
        assert (turn.model, turn.served_model, turn.propensity, turn.latency_s) == ("one", "one", 1.0, None)
        assert (turn.action_mask, turn.warm) == ((True,) * 3, (False,) * 3)


def test_tokens_checked_by_hand(logs, pool):
    # Windows of two pairs, with 8 characters for the observation at reset: 8, then 8 + 8 + 4. The empty call has no share.
    # 17 tokens are 68 characters, which leaves 40 for two instructions: prompts of 28 and 40 characters.
    turns = read(pool, logs)[0]["arm-one/babyai/Level-v0/goto/03"].turns
    assert [turn.usage.n_fresh for turn in turns] == [7, 10, 0]
    assert [turn.usage.n_output for turn in turns] == [4, 2, 0]
    assert [turn.cost_usd for turn in turns] == pytest.approx([47e-6, 30e-6, 0.0], rel=1e-12)


def test_assumed_thinking_tokens_are_added_to_the_models_that_are_named(logs, pool):
    options = {
        "hidden_tokens_per_answer": 100,
        "hidden_tokens_per_empty_call": 500,
        "hidden_reasoning_models": ("arm-one",),
    }
    episodes, _ = read(pool, logs, **options)
    thinking, other = (
        episodes["arm-one/babyai/Level-v0/goto/03"],
        episodes["arm-two/minihack/MiniHack-Corridor-R3-v0/00"],
    )
    assert [turn.usage.n_output for turn in thinking.turns] == [104, 102, 500]
    assert thinking.turns[2].cost_usd == pytest.approx(5e-3)
    assert (thinking.extra["logged_output_tokens"], thinking.extra["assumed_hidden_tokens"]) == (6, 700)
    assert sum(turn.usage.n_output for turn in other.turns) == 5
    texts = BalrogImporter(BalrogOptions(**options)).assumptions
    assert "100 thinking tokens are added to every answered call of arm-one" in texts
    assert "500 thinking tokens are added to every empty call of arm-one" in texts
    assert not any("thinking" in text for text in BalrogImporter(BalrogOptions()).assumptions)


def test_a_minihack_episode_that_the_step_limit_ended(logs, pool):
    episodes, report = read(pool, logs)
    episode = episodes["arm-two/minihack/MiniHack-Corridor-R3-v0/00"]
    assert episode.turns[0].observation_text == "map:\r\n|.@|"
    assert episode.turns[1].observation_text == ""
    assert [(turn.terminated, turn.truncated) for turn in episode.turns] == [(False, False), (False, True)]
    assert episode.max_turns == 2
    assert episode.turns[0].error == "invalid_action"
    assert episode.seed == 0
    assert episode.task_text == "Environment: minihack\nTask: MiniHack-Corridor-R3-v0"
    assert (episode.extra["end_reason"], episode.extra["environment"], episode.extra["seed"]) == (-1, "minihack", None)
    assert notes(report) == {
        "NUL bytes that were removed": 2,
        "seed that was not logged, 0 stands for it": 1,
        "file of another kind, not read": 1,
    }


def test_an_agent_that_reasons_is_billed_for_its_reasoning_and_the_plan_stays_hidden(logs, pool):
    episode = read(pool, logs)[0]["arm-three/textworld/cooking/10"]
    assert [turn.usage.n_output for turn in episode.turns] == [24, 14]  # completions of 24 and 14 characters
    assert [turn.error for turn in episode.turns] == ["", "invalid_action"]  # it did answer
    assert episode.extra["target_plan"] == "secret"
    assert "secret" not in episode.task_text


def test_totals_that_are_smaller_than_the_texts_and_episodes_without_any_answer(tmp_path, pool):
    small = BABYAI_JSON | {"input_tokens": 3, "output_tokens": 0}
    silent = OLD_ORDER + "0,a,,,0,False\r\n1,,,,0,True\r\n"
    files = {
        "arm-one/babyai/x/x_run_00.csv": BABYAI_CSV.encode(),
        "arm-one/babyai/x/x_run_00.json": json.dumps(small | {"task": "x"}).encode(),
        "arm-one/babyai/x/x_run_01.csv": silent.encode(),
        "arm-one/babyai/x/x_run_01.json": json.dumps(
            small | {"task": "x", "num_steps": 2, "output_tokens": 1}
        ).encode(),
    }
    episodes, _ = read(pool, write(tmp_path, files))
    assert [turn.usage.n_fresh for turn in episodes["arm-one/babyai/x/00"].turns] == [0, 3, 0]
    assert [(turn.usage.n_fresh, turn.usage.n_output) for turn in episodes["arm-one/babyai/x/01"].turns] == [
        (1, 0),
        (2, 1),
    ]


def billed(folder, *, n_turns, n_answered, n_input, n_output, characters=2000):
    """An arm of which few calls returned text."""
    name = f"sub/babyai/goto/goto_run_{n_turns:02}"
    content = BABYAI_JSON | {"task": "goto", "num_steps": n_turns, "input_tokens": n_input, "output_tokens": n_output}
    content |= {
        "done": False,
        "episode_return": 0.0,
        "failed_candidates": [],
        "agent": {"type": "naive", "max_history": 16},
        "progression": 0.0,
    }
    actions = ["" if index % (n_turns // n_answered) else "left" for index in range(n_turns)]
    rows = [f"{index},{action},,{'x' * characters},0,False\r\n" for index, action in enumerate(actions)]
    return write(
        folder, {f"{name}.json": json.dumps(content).encode(), f"{name}.csv": (NEW_ORDER + "".join(rows)).encode()}
    )


@pytest.mark.parametrize(
    ("n_input", "n_answered", "is_spread"),
    [
        (100_000, 1, True),  # one prompt of 16 x 2,000 characters is about 8,000 tokens
        (500_000, 2, True),
        (60_000, 10, False),  # 6,000 tokens each: what they can have had
        (9_000, 1, False),
    ],
)
def test_tokens_lie_on_the_calls_that_can_have_had_them(tmp_path, pool, n_input, n_answered, is_spread):
    card = pool.models[0].model_copy(update={"name": "sub", "aliases": (), "context_tokens": 200_000})
    pool = pool.model_copy(update={"models": (card, *pool.models[1:])})
    logs = billed(tmp_path / "logs", n_turns=20, n_answered=n_answered, n_input=n_input, n_output=40)
    episodes, report = read(pool, logs)
    (episode,) = episodes.values()
    prompts = [turn.usage.n_prompt for turn in episode.turns]
    assert sum(prompts) == n_input
    assert sum(turn.usage.n_output for turn in episode.turns) == 40
    assert (min(prompts) > 0) == is_spread
    assert notes(report).get(BILLED_EMPTY, 0) == (20 - n_answered if is_spread else 0)


def test_a_turn_above_its_window_is_noted(tmp_path, pool):
    card = pool.models[0].model_copy(update={"name": "sub", "aliases": (), "context_tokens": 4_000})
    pool = pool.model_copy(update={"models": (card, *pool.models[1:])})
    report = read(pool, billed(tmp_path / "logs", n_turns=20, n_answered=20, n_input=100_000, n_output=40))[1]
    assert notes(report)["call with more tokens than the context window of its model"] > 0


def test_a_written_dataset_holds_the_same_and_the_report(logs, pool, tmp_path):
    out = tmp_path / "out"
    report = import_log(ImportRequest(format="balrog", paths=(logs,), pool=pool, out=out), show_progress=False)
    dataset = Dataset.load(out)
    assert dataset.episodes == tuple(read(pool, logs)[0].values())
    assert (report.n_episodes, report.n_turns, report.n_rejected) == (3, 7, 0)
    assert json.loads((out / "import-report.json").read_text()) == report.to_json()
    assert (dataset.info.env, dataset.info.propensities, dataset.info.origin) == ("balrog", "exact", "imported")
    assert dataset.info.assumptions == BalrogImporter(BalrogOptions()).assumptions


def tar(path, files, logs):
    with tarfile.open(path, "w:gz") as archive:
        for name in files:
            archive.add(logs / name, name, recursive=False)
    return path


def test_archives_folders_and_parts_of_them_give_the_same_episodes(logs, pool, tmp_path):
    expected = read(pool, logs)[0]
    ids = [key for key in expected if key.startswith("arm-one")]
    archive = tar(tmp_path / "all.tar.gz", FILES, logs)
    assert read(pool, archive)[0] == expected
    outer = tmp_path / "outer"
    outer.mkdir()
    tar(tmp_path / "outer" / "all.tar.gz", FILES, logs)
    assert read(pool, outer)[0] == expected
    assert list(read(pool, logs / "arm-one")[0]) == ids
    assert list(read(pool, logs / "arm-one" / "babyai")[0]) == ids
    assert read(pool, logs / "arm-one", logs / "arm-two", logs / "arm-three")[0].keys() == expected.keys()
    inner = tmp_path / "arm-one.tar.gz"
    with tarfile.open(inner, "w:gz") as packed:
        packed.add(logs / "arm-one", "")
    assert list(read(pool, inner)[0]) == ids


def test_no_two_arms_or_runs_share_a_variation(tmp_path, pool):
    files = {}
    for arm, run in itertools.product(("arm-one", "arm-three"), range(30)):
        files[f"{arm}/babyai/x/x_run_{run:02d}.csv"] = BABYAI_CSV.encode()
        files[f"{arm}/babyai/x/x_run_{run:02d}.json"] = json.dumps(BABYAI_JSON | {"task": "x"}).encode()
    episodes = read(pool, write(tmp_path, files))[0].values()
    assert len({episode.variation for episode in episodes}) == len(episodes) == 60


def changed(**changes):
    return json.dumps({k: v for k, v in (BABYAI_JSON | changes).items() if v is not ...}).encode()


@pytest.mark.parametrize(
    ("kind", "data", "reason", "detail"),
    [
        ("json", None, "CSV without its JSON", ""),
        ("csv", None, "JSON without its CSV", ""),
        ("json", json.dumps(BABYAI_JSON).encode()[:200], "JSON that is cut off or no JSON", "line 1 column"),
        ("json", bytes(range(256)), "JSON that is cut off or no JSON", ""),
        ("json", b"[" * 100_000, "JSON that is cut off or no JSON", "recursion"),
        ("json", b"[1, 2]", "JSON with a missing or wrong field", "'content' is [1, 2]"),
        ("json", changed(progression=...), "JSON with a missing or wrong field", "'progression' is missing"),
        ("json", changed(progression=1.5), "JSON with a missing or wrong field", "'progression' is 1.5"),
        ("json", changed(progression=float("nan")), "JSON with a missing or wrong field", "'progression' is None"),
        ("json", changed(input_tokens=...), "JSON with a missing or wrong field", "'input_tokens' is missing"),
        ("json", changed(output_tokens=-1), "JSON with a missing or wrong field", "'output_tokens' is -1"),
        ("json", changed(output_tokens=2**70), "JSON with a missing or wrong field", "'output_tokens' is 118059"),
        ("json", changed(seed="7"), "JSON with a missing or wrong field", "'seed' is '7'"),
        ("json", changed(seed=-7), "JSON with a missing or wrong field", "'seed' is -7"),
        ("json", changed(num_steps=0), "JSON with a missing or wrong field", "'num_steps' is 0"),
        ("json", changed(num_steps=4), "CSV with another number of turns than its JSON", "3 rows, num_steps 4"),
        ("json", changed(done=...), "CSV with another end than its JSON", "Done True in the last row, done False"),
        (
            "json",
            changed(task="goto"),
            "JSON of another task than its path",
            "'goto' in 'arm-one/babyai/Level-v0/goto/03'",
        ),
        ("csv", (OLD_ORDER + '0,"a wall').encode(), "CSV that is cut off or broken", "unexpected end of data"),
        ("csv", BABYAI_CSV[:-12].encode(), "CSV row of another length", "row 2 has"),
        ("csv", "\r\n".join(BABYAI_CSV.split("\r\n")[:-2]).encode(), "CSV with another number of turns", "2 rows"),
        ("csv", b"", "CSV without column Step, Observation, Action, Reward, Done", ""),
        ("csv", b"Step,Action\r\n", "CSV without column Observation, Reward, Done", "has Step, Action"),
        ("csv", OLD_ORDER.encode(), "CSV without turns", ""),
        ("csv", b"\xff\xfe" + BABYAI_CSV.encode("utf-16-le"), "CSV that is not UTF-8", "codec can't decode"),
        (
            "csv",
            BABYAI_CSV.replace("\r\n2,", "\r\n1,").encode(),
            "CSV step that is missing or repeated",
            "row 2 is step '1'",
        ),
        (
            "csv",
            BABYAI_CSV.replace("0.0,False", "0.0,True").encode(),
            "CSV column Done that is not False",
            "row 1 of 3",
        ),
        ("csv", BABYAI_CSV.replace("0.9,True", "0.9,maybe").encode(), "CSV column Done that is not False", "'maybe'"),
    ],
)
def test_a_bad_episode_is_counted_and_the_rest_is_imported(kind, data, reason, detail, logs, pool):
    path = logs / f"{BABYAI}.{kind}"
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    episodes, report = read(pool, logs)
    assert sorted(key.split("/")[0] for key in episodes) == ["arm-three", "arm-two"]
    ((found, finding),) = report.to_json()["rejected"].items()
    assert found.startswith(reason)
    assert finding["n"] == 1
    assert detail in finding["examples"][0]["detail"]
    assert BABYAI in finding["examples"][0]["source"]


def test_the_turns_of_a_rejected_episode_are_counted(logs, pool):
    (logs / f"{BABYAI}.csv").unlink()
    (logs / f"{THINKER}.json").unlink()
    assert read(pool, logs)[1].n_rejected_turns == 3 + 2


def test_a_model_without_a_price_is_rejected_with_the_nearest_name(logs, pool):
    (logs / "arm-one").rename(logs / "arm-onne")
    episodes, report = read(pool, logs)
    assert len(episodes) == 2
    assert "unknown model of pool 'toy' 'arm-onne'; did you mean 'arm-one'?" in str(report)
    assert reasons(report) == {"model that is not in the pool": 1}


def test_the_same_archive_twice_and_a_file_twice(logs, pool, tmp_path):
    archive = tar(tmp_path / "a.tar.gz", [*FILES, f"{BABYAI}.csv"], logs)
    request = ImportRequest(format="balrog", paths=(archive, archive), pool=pool, out=tmp_path / "out")
    report = import_log(request, show_progress=False)
    assert (report.n_episodes, report.n_turns) == (3, 7)
    # The third copy of the CSV has no JSON of its own.
    assert reasons(report) == {"episode that is there twice": 3, "CSV without its JSON": 2}
    twice = tar(tmp_path / "b.tar.gz", [f"{BABYAI}.csv", *FILES], logs)
    assert reasons(read(pool, twice)[1]) == {"file that is there twice": 1}


def test_an_archive_that_is_cut_off_gives_the_episodes_before_the_cut(pool, tmp_path):
    rows = "".join(f"{i},{i * 7919 % 100_003} step,up,,0,{i == 999}\r\n" for i in range(1000))
    files = {}
    for run in range(20):
        files[f"arm-one/babyai/x/x_run_{run:02d}.csv"] = (OLD_ORDER + rows.replace("step", f"{run}-step")).encode()
        totals = BABYAI_JSON | {"task": "x", "num_steps": 1000}
        files[f"arm-one/babyai/x/x_run_{run:02d}.json"] = json.dumps(totals).encode()
    archive = tar(tmp_path / "a.tar.gz", files, write(tmp_path / "logs", files))
    archive.write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    episodes, report = read(pool, archive)
    assert list(episodes) == [f"arm-one/babyai/x/{run:02d}" for run in range(len(episodes))]
    assert 5 < len(episodes) < 15
    assert reasons(report)["archive that is cut off or broken"] == 1
    assert set(reasons(report)) <= {"archive that is cut off or broken", "CSV without its JSON"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("goto_run_03.json", "path that is not <submission>/<env>/<task>/<task>_run_NN"),
        ("arm-one/babyai/other/goto_run_03.json", "path that is not <submission>/<env>/<task>/<task>_run_NN"),
    ],
)
def test_a_file_elsewhere(name, reason, logs, pool, tmp_path):
    write(logs, {name: changed()})
    episodes, report = read(pool, logs)
    assert len(episodes) == 3
    assert reasons(report) == {reason: 1}


def test_files_that_are_none_of_an_episode_are_noted(logs, pool):
    write(
        logs, {"arm-one/notes.csv": b"a,b", "arm-one/babyai/Level-v0/goto/Level-v0/._goto_run_03.json": b"\0\5\x16\7"}
    )
    found = notes(read(pool, logs)[1])
    assert found["file that is no part of an episode"] == 1
    assert found["file of another kind, not read"] == 2


@pytest.mark.parametrize("files", [{}, {"summary.json": b"{}"}, {"x.txt": b"1"}, {"a/b.csv": b"1"}])
def test_a_wrong_folder(files, pool, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"no BALROG episode in .*empty; give a submission's folder or archive"):
        read(pool, write(tmp_path / "empty", files))


def test_nothing_but_garbage(pool, tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(bytes(range(256)))
    request = ImportRequest(format="balrog", paths=(tmp_path / "a.tar.gz",), pool=pool, out=tmp_path / "out")
    with pytest.raises(DatasetError, match=r"nothing could be imported: no BALROG episode(.|\n)*cut off or broken"):
        import_log(request, show_progress=False)
    assert not (tmp_path / "out").exists()


def test_one_of_several_paths_without_an_episode(logs, pool, tmp_path):
    (tmp_path / "empty").mkdir()
    episodes, report = read(pool, tmp_path / "empty", logs)
    assert len(episodes) == 3
    assert notes(report)["path without any BALROG episode"] == 1


def test_whole_numbers_may_be_written_as_floats_and_scores_as_integers(logs, pool):
    expected = read(pool, logs)[0]
    changes = {"input_tokens": 17.0, "output_tokens": 6.0, "num_steps": 3.0, "seed": 4294967295.0}
    (logs / f"{BABYAI}.json").write_bytes(changed(**changes))
    assert read(pool, logs)[0] == expected
    (logs / f"{BABYAI}.json").write_bytes(changed(progression=1))
    assert read(pool, logs)[0]["arm-one/babyai/Level-v0/goto/03"].utility == 1.0
    (logs / f"{BABYAI}.json").write_bytes(changed(input_tokens=17.5))
    assert reasons(read(pool, logs)[1]) == {"JSON with a missing or wrong field": 1}


def test_half_a_surrogate_pair_in_the_json_is_mended(logs, pool):
    (logs / f"{BABYAI}.json").write_bytes(changed(mission="x").replace(b'"x"', b'"go \\ud83d"'))
    episode = read(pool, logs)[0]["arm-one/babyai/Level-v0/goto/03"]
    assert episode.task_text.endswith("Mission: go ?")


def test_invalid_completions_that_the_log_does_not_show_are_noted(logs, pool):
    (logs / f"{BABYAI}.json").write_bytes(changed(failed_candidates=["fly", "fly", None, 3, ""]))
    episodes, report = read(pool, logs)
    assert [turn.error for turn in episodes["arm-one/babyai/Level-v0/goto/03"].turns] == ["", "", "empty"]
    assert next(n for note, n in notes(report).items() if note.startswith("invalid completion")) == 2
    (logs / f"{BABYAI}.json").write_bytes(changed(failed_candidates=...))
    assert notes(read(pool, logs)[1])["invalid actions that were not logged"] == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"hidden_tokens": 3}, UnknownNameError, "did you mean 'hidden_tokens_per_answer'"),
        ({"hidden_tokens_per_answer": -1}, InvalidConfigError, "'hidden_tokens_per_answer'"),
        ({"hidden_tokens_per_answer": 9}, InvalidConfigError, "hidden_reasoning_models is empty; name the models"),
        ({"step_limits": {"babyai": 0}}, InvalidConfigError, "'step_limits.babyai'"),
        ({"hidden_reasoning_models": ["onee"]}, InvalidConfigError, "did you mean 'one'"),
    ],
)
def test_bad_options(options, error, message, logs, pool, tmp_path):
    with pytest.raises(error, match=message):
        import_log(ImportRequest(format="balrog", paths=(logs,), pool=pool, out=tmp_path / "out", options=options))


def test_step_limits_can_be_given_and_never_fall_below_what_was_played(logs, pool):
    limits = {"babyai": 2, "textworld": 7}
    episodes, _ = read(pool, logs, step_limits=limits)
    assert {key.split("/")[1]: episode.max_turns for key, episode in episodes.items()} == {
        "babyai": 3,
        "minihack": 2,
        "textworld": 7,
    }


@pytest.mark.parametrize(
    ("total", "weights"), [(0, [3, 1]), (7, [0, 0, 0]), (1, [1] * 9), (10**12 + 7, [5, 0, 3, 10**6, 1]), (100, [1])]
)
def test_shares_add_up_and_are_less_than_one_off(total, weights):
    shares = apportion(total, weights)
    assert sum(shares) == total
    equal = weights if sum(weights) else [1] * len(weights)
    for share, weight in zip(shares, equal, strict=True):
        assert abs(share - total * weight / sum(equal)) < 1
        assert share >= 0


def test_a_field_larger_than_the_csv_module_allows_by_default():
    text = "x" * 200_000
    assert parse_rows(f"{NEW_ORDER}0,{text},,,0,True\r\n".encode()).actions == (text,)


real_logs = pytest.mark.skipif(not REAL.is_dir(), reason="needs the BALROG logs beside the repository")


@pytest.fixture(scope="module")
def real():
    pool = load_pool_card("balrog-assumed")
    report = ImportReport(format="balrog")
    source = ImportSource(paths=(REAL,), pool=pool, report=report)
    options = BalrogOptions(
        hidden_reasoning_models=("gemini-2.5-flash",), hidden_tokens_per_answer=1000, hidden_tokens_per_empty_call=4096
    )
    episodes = {episode.episode_id: episode for episode in BalrogImporter(options).episodes(source)}
    return episodes, report


def logged_totals():
    """Straight from the JSON files: episodes, turns, score and tokens by submission."""
    totals = defaultdict(Counter)
    for path in sorted(REAL.glob("*.tar.gz")):
        with tarfile.open(path) as archive:
            for member in archive:
                if "_run_" in member.name and member.name.endswith(".json"):
                    content = json.load(archive.extractfile(member))
                    totals[member.name.split("/")[0]].update(
                        episodes=1,
                        turns=content["num_steps"],
                        score=content["progression"],
                        input=content["input_tokens"],
                        output=content["output_tokens"],
                        ended=content.get("done", False),
                    )
    return totals


@real_logs
def test_all_published_episodes_are_there_with_the_totals_of_their_json(real):
    episodes, report = real
    assert (len(episodes), report.n_rejected) == (1630, 0)
    assert sum(len(episode.turns) for episode in episodes.values()) == 116_910
    totals = defaultdict(Counter)
    for episode in episodes.values():
        turns = episode.turns
        totals[episode.extra["submission"]].update(
            episodes=1,
            turns=len(turns),
            score=episode.utility,
            input=sum(turn.usage.n_fresh for turn in turns),
            output=sum(turn.usage.n_output for turn in turns) - episode.extra["assumed_hidden_tokens"],
            ended=turns[-1].terminated,
        )
    expected = logged_totals()
    assert len(expected) == 8
    for arm, found in totals.items():
        assert found.pop("score") == pytest.approx(expected[arm].pop("score"), abs=1e-9)
    assert totals == expected


@real_logs
def test_published_observations_are_what_came_after_the_action(real):
    episodes, _ = real
    answers = [
        turn.observation_text.startswith("You are carrying")
        for episode in episodes.values()
        if episode.task.startswith("textworld/")
        for turn in episode.turns
        if turn.action_text == "inventory"
    ]
    assert len(answers) > 300
    assert sum(answers) > 0.95 * len(answers)  # the game itself fails to answer a few
    turns = episodes["20241103_Claude-3.5-Sonnet/textworld/treasure_hunter/09"].turns  # read by hand
    assert [turn.action_text.split()[0] for turn in turns[18:21]] == ["open", "unlock", "open"]
    for turn, word in zip(turns[18:21], ("have to unlock", "You unlock", "You open"), strict=True):
        assert word in turn.observation_text


@real_logs
def test_published_thinking_tokens_are_added_once_a_call(real):
    for episode in real[0].values():
        n_empty = sum(turn.action_text == "" for turn in episode.turns)
        expected = 1000 * (len(episode.turns) - n_empty) + 4096 * n_empty
        is_hidden = episode.behavior_policy == "single:gemini-2.5-flash"
        assert episode.extra["assumed_hidden_tokens"] == (expected if is_hidden else 0)
