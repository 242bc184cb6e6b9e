import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import PoolMismatchError, ResultsError, UnknownNameError
from mtrouter_rl.evaluation.metrics import cumulative_by_turn
from mtrouter_rl.evaluation.query_router import STATE_COLUMNS, HistoryStates
from mtrouter_rl.evaluation.value_calibration import ValueMeaning, calibrate
from mtrouter_rl.metric_names import EVALUATION, OFF_POLICY
from mtrouter_rl.reporting.tensorboard.sink import RouterDetails, TensorBoardSink, write_evaluation
from tests.cases.evaluation_cases import (
    MODELS,
    POLICIES,
    make_behavior,
    make_ope_report,
    make_pool,
    make_results,
)

MEANING = ValueMeaning(gamma=0.9, reward=RewardCard(cost_weight=0.5, cost_unit_usd=2.0))
STATES = HistoryStates(
    embeddings=np.arange(10.0).reshape(5, 2),
    metadata=tuple(("big", "tiny", "boil", "1 of 4", str(turn), "none", "none", "test") for turn in range(1, 6)),
)
DETAILS = RouterDetails(
    hyper_parameters={"learning_rate": 0.001},
    model_embeddings=np.arange(12.0).reshape(3, 4),
    history_states=STATES,
    value_meaning=MEANING,
)


def read(folder):
    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0, "scalars": 0, "images": 0})
    return accumulator.Reload()


def hparams_data(run, tag):
    content = run.summary_metadata[tag].plugin_data.content
    return HParamsPluginData.FromString(content)


@pytest.fixture(scope="module")
def behavior(traced):
    return make_behavior(traced)


@pytest.fixture(scope="module")
def report():
    return make_ope_report(["big", "random", "fitted-q"], refused=["tiny"])


@pytest.fixture(scope="module")
def folder(results, traced, behavior, report, tmp_path_factory):
    path = tmp_path_factory.mktemp("tensorboard")
    with TensorBoardSink(path / "fitted-q") as sink:
        sink.scalar("train/td_loss", 0.5, 10)
    settings = {
        "results": results,
        "traced": traced,
        "pool": make_pool(),
        "routers": {"fitted-q": DETAILS},
        "behavior": behavior,
        "ope": report,
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
        row.paired["random"].return_.value, rel=1e-5
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
        f"{name}/{split}"
        for name in ("1_cost_score", "2_paired_difference", "3_model_share", "ope_score", "ope_cost_usd", "ope_return")
        for split in ("test", "ood")
    }
    names = ("model_share_by_task", "model_share_by_turn", "switch_matrix", "calibration")
    assert set(read(folder / "fitted-q").Tags()["images"]) == {
        f"{name}/{split}" for name in names for split in ("test", "ood")
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
    assert "ope/return_value" in metrics
    assert metrics <= set(read(folder / "fitted-q").Tags()["scalars"])


def test_layout_compares_policies(folder):
    run = read(folder / "comparison")
    content = run.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    layout = layout_pb2.Layout.FromString(content)
    titles = [f"{kind} on {split}" for kind in ("policies", "behavior", "Q-values") for split in ("test", "ood")]
    assert sorted(category.title for category in layout.category) == sorted([*titles, "estimated from a log"])
    written = set(read(folder / "fitted-q").Tags()["scalars"])
    for chart in (chart for category in layout.category for chart in category.chart):
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
    assert config.count("tensor_path") == 2


def test_history_embeddings_are_told_apart(folder):
    embeddings = folder / "fitted-q" / "00000" / "history_embeddings"
    rows = [line.split("\t") for line in (embeddings / "metadata.tsv").read_text().splitlines()]
    assert tuple(rows[0]) == STATE_COLUMNS
    assert [tuple(row) for row in rows[1:]] == list(STATES.metadata)
    np.testing.assert_allclose(np.loadtxt(embeddings / "tensors.tsv"), STATES.embeddings)
    assert not (folder / "random" / "projector_config.pbtxt").exists()


def test_estimates_are_beside_the_truth(folder, report):
    run = read(folder / "fitted-q")
    number = report.policies[2].estimates["dm"]["return"]
    for quantity, factor in (("return", 1), ("cost_usd", 1), ("score", 100)):
        for end in ("value", "low", "high"):
            point = run.Scalars(f"ope/{quantity}_{end}")[0]
            assert point.value == pytest.approx(factor * getattr(number, end), rel=1e-5)
    assert run.Scalars("ope/effective_sample_size")[0].value == 1.0
    refused = {tag for tag in read(folder / "tiny").Tags()["scalars"] if tag.startswith("ope/")}
    assert refused == {"ope/effective_sample_size", "ope/unsupported_share"}
    assert not [tag for tag in read(folder / "middle").Tags()["scalars"] if tag.startswith("ope/")]
    text = read(folder / "comparison").Tensors("ope/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "tiny: this log cannot tell: effective sample size 1.0" in text


def test_behavior_is_that_of_the_file(folder, behavior):
    row = behavior.row("fitted-q", "test")
    run = read(folder / "fitted-q")

    def value(field):
        return run.Scalars(f"eval/test/behavior/{field}")[0].value

    assert value("usage_entropy_bits") == pytest.approx(row.usage_entropy_bits, rel=1e-5)
    assert value("error_share") == pytest.approx(row.errors.share_of_turns, rel=1e-5)
    assert value("stay_after_transient") == pytest.approx(row.errors.stay_after_transient, rel=1e-5)
    assert value("stay_after_transient_ci95_high") == pytest.approx(row.errors.stay_after_transient_ci95[1], rel=1e-5)
    assert value("cost_share/big") == pytest.approx(row.cost_share["big"], rel=1e-5)
    information = row.mutual_information.task
    assert value("mutual_information_bits/task") == pytest.approx(information.bits_corrected, rel=1e-4, abs=1e-6)
    assert value("mutual_information_ci95_low/task") == pytest.approx(information.low, rel=1e-4, abs=1e-6)
    points = run.Scalars("eval/test/behavior/budget_used_by_turn")
    assert [point.step for point in points] == list(range(1, len(row.budget_use_by_turn) + 1))
    assert [point.value for point in points] == pytest.approx(row.budget_use_by_turn, rel=1e-5)


def test_calibration_is_of_the_routers_own_discount(folder, results, traced):
    expected = calibrate(traced["test"]["fitted-q"], MEANING, model_names=MODELS, seed=results.seed)
    run = read(folder / "fitted-q")
    assert run.Scalars("eval/test/q/overestimation_mean")[0].value == pytest.approx(expected.overestimation.value)
    assert run.Scalars("eval/test/q/overestimation_ci95_low")[0].value == pytest.approx(expected.overestimation.low)
    assert run.Scalars("eval/test/q/calibration_error")[0].value == pytest.approx(expected.error)
    assert not [tag for tag in read(folder / "random").Tags()["scalars"] if "/q/" in tag]


def test_every_metric_of_the_tables_is_written(folder):
    """Together the runs hold every scalar of the table but those of what this case lacks."""
    written = {tag for name in POLICIES for tag in read(folder / name).Tags()["scalars"]}
    absent = {"ope/largest_weight_share"}
    assert set(OFF_POLICY) - written == absent
    for template in EVALUATION:
        prefix = template.format(split="test", name="")
        assert any(tag.startswith(prefix) for tag in written), template


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"pool": make_pool(("a", "b", "c"))}, PoolMismatchError, r"results are of models \['tiny'"),
        (
            {"routers": {"tiny": RouterDetails(model_embeddings=np.zeros((2, 4)))}},
            PoolMismatchError,
            r"shape \(2, 4\), must be \(3, d\)",
        ),
        ({"routers": {"tny": DETAILS}}, UnknownNameError, "unknown policy 'tny'; did you mean 'tiny'"),
        (
            {"ope": make_ope_report(["tiny"], cost_weight=0.7)},
            ResultsError,
            r"ope.json estimates returns with cost_weight 0.7 and cost_unit_usd 2.0, the results have 0.5 and 2.0",
        ),
        ({"ope": make_ope_report(["tiny"], cost_unit_usd=1.0)}, ResultsError, "cost_unit_usd 1.0"),
        (
            {"behavior": make_behavior({}, models=("a", "b"))},
            PoolMismatchError,
            r"behavior.json is of models \['a', 'b'\]",
        ),
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
