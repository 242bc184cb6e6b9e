import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from mtrouter_rl.errors import PoolMismatchError, ResultsError, UnknownNameError
from mtrouter_rl.evaluation.metrics import cumulative_by_turn
from mtrouter_rl.evaluation.tensorboard import TensorBoardSink, write_evaluation
from tests.evaluation.evaluation_cases import MODELS, POLICIES, make_pool, make_results


def read(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0, "images": 0})
    return accumulator.Reload()


def hparams_data(run, tag):
    content = run.summary_metadata[tag].plugin_data.content
    return HParamsPluginData.FromString(content)


@pytest.fixture(scope="module")
def folder(results, traced, tmp_path_factory):
    path = tmp_path_factory.mktemp("tensorboard")
    with TensorBoardSink(path / "fitted-q") as sink:
        sink.scalar("train/td_loss", 0.5, 10)
    settings = {
        "results": results,
        "traced": traced,
        "pool": make_pool(),
        "model_embeddings": {"fitted-q": np.arange(12.0).reshape(3, 4)},
        "hyper_parameters": {"fitted-q": {"learning_rate": 0.001}},
    }
    earlier = make_results([results.row("fitted-q", "test")])
    write_evaluation(path, **(settings | {"results": earlier, "traced": {}}))
    write_evaluation(path, **settings)
    return path


def test_sink_writes_points_and_refuses_unknown_names(tmp_path):
    with TensorBoardSink(tmp_path) as sink:
        for step in range(3):
            sink.scalar("train/q_mean", 0.25 * step, step)
        sink.scalar("train/td_loss", float("nan"), 0)
        with pytest.raises(UnknownNameError, match="did you mean 'train/q_mean'"):
            sink.scalar("train/qmean", 1.0, 0)
        sink.close()
    points = read(tmp_path).Scalars("train/q_mean")
    assert [(point.step, point.value) for point in points] == [(0, 0.0), (1, 0.25), (2, 0.5)]
    assert np.isnan(read(tmp_path).Scalars("train/td_loss")[0].value)


def test_a_sink_without_points_leaves_no_run(tmp_path):
    with TensorBoardSink(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()


def test_one_run_per_policy_and_no_other(folder):
    assert {path.name for path in folder.iterdir()} == {*POLICIES, "comparison"}
    assert not [
        path for path in folder.rglob("*") if path.is_dir() and "000" not in str(path) and path.parent != folder
    ]


def test_scalars_are_those_of_the_rows_written_once(folder, results):
    for row in results.rows:
        run = read(folder / row.policy)
        for field in ("score_mean", "cost_usd_mean", "return_mean", "hull_gain", "cost_saved_share", "switches_mean"):
            points = run.Scalars(f"eval/{row.split}/{field}")
            assert [point.value for point in points] == pytest.approx([getattr(row, field)], rel=1e-5, abs=1e-6)
    row = results.row("fitted-q", "test")
    run = read(folder / "fitted-q")
    assert run.Scalars("eval/test/return_difference/random")[0].value == pytest.approx(
        row.paired["random"].return_.mean, rel=1e-5
    )
    assert run.Scalars("eval/test/model_share/big")[0].value == pytest.approx(row.model_share["big"], rel=1e-5)
    assert run.Scalars("eval/test/score_ci95_low")[0].value == pytest.approx(row.score_ci95[0], rel=1e-5)


def test_a_second_evaluation_keeps_training_curves(folder):
    run = read(folder / "fitted-q")
    assert run.Scalars("train/td_loss")[0].value == 0.5
    assert len(list((folder / "fitted-q").glob("*.evaluation"))) == 1


def test_curves_over_turns(folder, traced):
    scores, _ = cumulative_by_turn([one.episode for one in traced["test"]["random"]])
    points = read(folder / "random").Scalars("eval/test/by_turn/score_mean")
    assert [point.step for point in points] == list(range(1, len(scores) + 1))
    assert [point.value for point in points] == pytest.approx(scores, rel=1e-5, abs=1e-5)


def test_figures(folder):
    assert set(read(folder / "comparison").Tags()["images"]) == {
        f"{name}/{split}" for name in ("cost_score", "model_share", "paired_difference") for split in ("test", "ood")
    }
    assert set(read(folder / "fitted-q").Tags()["images"]) == {
        f"model_share_by_{what}/{split}" for what in ("task", "turn") for split in ("test", "ood")
    }
    assert not read(folder / "tiny").Tags()["images"], "a single model's share is no picture"


def test_transcripts_are_of_the_same_episodes(folder):
    tags = {
        name: {tag for tag in read(folder / name).Tags()["tensors"] if tag.startswith("episodes")} for name in POLICIES
    }
    assert len(tags["fitted-q"]) == 6
    assert all(found == tags["fitted-q"] for found in tags.values())
    run = read(folder / "fitted-q")
    text = run.Tensors(min(tags["fitted-q"]))[0].tensor_proto.string_val[0].decode()
    assert "Q-value (probability) per model" in text
    assert "**tiny" in text or "**middle" in text or "**big" in text


def test_results_table_is_text(folder):
    run = read(folder / "comparison")
    text = run.Tensors("results/test/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "fitted-q - random" in text


def test_hparams_stay_in_the_policys_run(folder):
    start = hparams_data(read(folder / "fitted-q"), hparams_metadata.SESSION_START_INFO_TAG).session_start_info
    values = {name: value.string_value or value.number_value for name, value in start.hparams.items()}
    assert values == {"policy": "fitted-q", "role": "learned router", "cost_weight": 0.5, "learning_rate": 0.001}
    experiment = hparams_data(read(folder / "comparison"), hparams_metadata.EXPERIMENT_TAG).experiment
    assert {info.name for info in experiment.hparam_infos} == {"policy", "role", "cost_weight", "learning_rate"}
    assert {info.name for info in experiment.hparam_infos if info.differs} == {"policy", "role"}
    metrics = {info.name.tag for info in experiment.metric_infos}
    assert {"eval/test/return_mean", "eval/ood/cost_usd_mean"} <= metrics
    assert metrics <= set(read(folder / "fitted-q").Tags()["scalars"])


def test_layout_compares_policies(folder):
    run = read(folder / "comparison")
    content = run.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(content)
    assert [category.title for category in layout.category] == ["policies on test", "policies on ood"]
    written = set(read(folder / "random").Tags()["scalars"])
    for chart in layout.category[0].chart:
        tags = list(chart.multiline.tag) + [
            tag for one in chart.margin.series for tag in (one.value, one.lower, one.upper)
        ]
        assert tags
        assert set(tags) <= written


def test_model_embeddings_are_named(folder):
    embeddings = folder / "fitted-q" / "00000" / "model_embeddings"
    rows = [line.split("\t") for line in (embeddings / "metadata.tsv").read_text().splitlines()]
    assert rows[0] == ["model", "input_usd_per_million", "output_usd_per_million"]
    assert [row[0] for row in rows[1:]] == list(MODELS)
    np.testing.assert_allclose(np.loadtxt(embeddings / "tensors.tsv"), np.arange(12.0).reshape(3, 4))
    config = (folder / "fitted-q" / "projector_config.pbtxt").read_text()
    assert config.count("tensor_path") == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"pool": make_pool(("a", "b", "c"))}, PoolMismatchError, r"results are of models \['tiny'"),
        ({"model_embeddings": {"tiny": np.zeros((2, 4))}}, PoolMismatchError, r"shape \(2, 4\), must be \(3, d\)"),
        (
            {"model_embeddings": {"tny": np.zeros((3, 4))}},
            UnknownNameError,
            "unknown policy 'tny'; did you mean 'tiny'",
        ),
        ({"hyper_parameters": {"other": {}}}, UnknownNameError, "unknown policy 'other'"),
        ({"traced": {"test": {"other": ()}}}, UnknownNameError, "unknown policy 'other'"),
    ],
)
def test_bad_input(results, tmp_path, changes, error, message):
    settings = {"results": make_results([results.row("tiny", "test")]), "traced": {}, "pool": make_pool()}
    with pytest.raises(error, match=message):
        write_evaluation(tmp_path, **(settings | changes))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("names", [("a b", "a_b"), ("comparison",)])
def test_runs_may_not_collide(results, tmp_path, names):
    rows = [results.row("tiny", "test").model_copy(update={"policy": name}) for name in names]
    with pytest.raises(ResultsError, match="would both write run"):
        write_evaluation(tmp_path, results=make_results(rows), traced={}, pool=make_pool())
