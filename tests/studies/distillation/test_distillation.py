"""The card after distillation: what is gained where, what it says of itself, and what is refused."""

import json
import math

import pytest

from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.cli.program import run_command
from mtrouter_rl.envs.factory import build_env, resolve_env
from mtrouter_rl.errors import CardError, DatasetError, InvalidConfigError, ResultsError
from mtrouter_rl.exporters.distillation import CLUSTERS_FILE, EXAMPLES_FILE, DistillationCluster, DistillationTable
from mtrouter_rl.studies.distillation.card import DistillationRequest, distill, format_distilled

TABLE = DistillationTable(
    dataset_id="corridor-uniform-v1",
    env="corridor",
    pool="corridor-three",
    cheap="small",
    n_turns=100,
    n_cheap_turns=40,
    total_usd=1.0,
    n_failed_episodes=0,
    n_scrubbed=0,
    clusters=(),
)


@pytest.fixture
def export(tmp_path):
    """Writes a distillation set of (action, dearer model) examples."""

    def write(*examples, **changes):
        folder = tmp_path / "export"
        folder.mkdir()
        lines = [
            json.dumps({"messages": [{"role": "assistant", "content": action}], "dearer_model": model})
            for action, model in examples
        ]
        (folder / EXAMPLES_FILE).write_text("".join(f"{line}\n" for line in lines))
        cluster = DistillationCluster(cluster=0, words=("solve",), n=len(examples), dearer_usd=0.1, saved_usd=0.1)
        TABLE.model_copy(update={"clusters": (cluster,), **changes}).write(folder / CLUSTERS_FILE)
        return folder

    return write


def request(folder, **changes):
    given = {"pool": None, "learnt": 0.5, "price_factor": 2.0} | changes
    config = resolve_env("corridor", given["pool"])
    return DistillationRequest(folder=folder, config=config, **given)


def logit(share):
    return math.log(share / (1 - share))


RIDDLES = [("solve it", "large")] * 6
"""At a riddle `small` has the logit 2 - 2 - 3 = -3, `large` 4.5 - 2 = 2.5: half the edge is 2.75."""


def test_the_cheap_model_gains_its_share_where_there_are_examples(export, tmp_path):
    found = distill(request(export(*RIDDLES, *[("walk on", "large")] * 4)), tmp_path / "taught.yaml")
    think, walk = found.skills
    assert (think.skill, think.n_examples, think.n_better) == ("think", 6, 6)
    assert [logit(share) for share in (think.before, think.better, think.after)] == pytest.approx([-3, 2.5, -0.25])
    assert think.strength == pytest.approx(-0.25)
    assert (walk.skill, walk.n_examples) == ("walk", 4)
    assert walk.after == walk.before  # fewer than five examples
    card = load_pool_card(tmp_path / "taught.yaml")
    models = card.backend.settings["models"]
    assert models["small"]["skills"] == {"think": pytest.approx(-0.25)}
    assert models["small"] | {"skills": {}} == load_pool_card("corridor-three").backend.settings["models"]["small"] | {
        "skills": {}
    }


def test_nothing_is_learned_from_models_that_are_worse_at_it(export, tmp_path):
    """At `operate` small has the logit 2, middle 1.5 and large 4.5."""
    examples = [("open door", "middle")] * 9 + [("open door", "large")] * 5
    (operate,) = distill(request(export(*examples), learnt=1.0), tmp_path / "taught.yaml").skills
    assert (operate.n_examples, operate.n_better) == (14, 5)
    assert logit(operate.after) == pytest.approx(4.5)


def test_prices_are_those_that_were_given_and_only_of_the_cheap_model(export, tmp_path):
    distill(request(export(*RIDDLES)), tmp_path / "taught.yaml")
    before, after = load_pool_card("corridor-three"), load_pool_card(tmp_path / "taught.yaml")
    assert after.model("small").prices.model_dump() == {
        "input": 0.2,
        "cached_input": 0.1,
        "cache_write": None,
        "output": 0.8,
    }
    assert [after.model(name) for name in ("middle", "large")] == [before.model(name) for name in ("middle", "large")]


def test_the_card_says_what_was_assumed(export, tmp_path):
    found = distill(request(export(*RIDDLES)), tmp_path / "taught.yaml")
    card = load_pool_card(tmp_path / "taught.yaml")
    assert card.name == "taught"
    assert card.description.startswith("SIMULATED AND ASSUMED: 'corridor-three' with 'small' after distillation.")
    for part in (
        "0.5 of the dearer models' edge",
        "log 'corridor-uniform-v1'",
        "think (6), of 6 escalation",
        "2 times",
    ):
        assert part in card.description
    text = (tmp_path / "taught.yaml").read_text()
    assert all(f"# {line}\n" in text for line in format_distilled(found).splitlines())


def test_a_pool_that_is_a_file_may_lie_elsewhere(export, tmp_path):
    own = tmp_path / "pools" / "own.yaml"
    own.parent.mkdir()
    own.write_text("name: own\nextends: corridor-three\ndescription: SIMULATED, mine.\n")
    out = tmp_path / "cards" / "taught.yaml"
    distill(request(export(*RIDDLES, pool="own"), pool=str(own)), out)
    assert "extends: ../pools/own.yaml" in out.read_text()
    build_env(resolve_env("corridor", str(out)))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"learnt": 0.0}, InvalidConfigError, r"--learnt is 0, must be in \(0, 1\]"),
        ({"learnt": 1.5}, InvalidConfigError, r"--learnt is 1\.5, must be in"),
        ({"price_factor": 0.0}, InvalidConfigError, r"--price-factor is 0, must be above 0"),
        ({"price_factor": math.nan}, InvalidConfigError, r"--price-factor is nan, must be above 0"),
        ({"least_examples": 0}, InvalidConfigError, r"--least-examples is 0, must be at least 1"),
        ({"least_examples": 7}, CardError, r"nothing is learned: of no kind of action there are 7 examples"),
    ],
)
def test_assumptions_that_make_no_sense_are_refused(export, tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        distill(request(export(*RIDDLES), **changes), tmp_path / "taught.yaml")
    assert not (tmp_path / "taught.yaml").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "hle"}, r"clusters\.json, field 'env': is 'hle', must be 'corridor'.*give --env hle"),
        ({"pool": "other"}, r"clusters\.json, field 'pool': is 'other', must be 'corridor-three'"),
        ({"cheap": "smal"}, r"clusters\.json, field 'cheap': unknown model 'smal'; did you mean 'small'"),
        ({"clusters": ()}, r"examples\.jsonl has 6 lines, must have 0, as clusters\.json says; export the log anew"),
    ],
)
def test_a_set_of_something_else_is_refused(export, tmp_path, changes, message):
    with pytest.raises(DatasetError, match=message):
        distill(request(export(*RIDDLES, **changes)), tmp_path / "taught.yaml")


def test_a_broken_example_is_named(export, tmp_path):
    folder = export(*RIDDLES)
    lines = (folder / EXAMPLES_FILE).read_text().splitlines()
    (folder / EXAMPLES_FILE).write_text("\n".join([*lines[:2], "{}", *lines[3:]]))
    with pytest.raises(DatasetError, match=r"examples\.jsonl, line 3 holds no example"):
        distill(request(folder), tmp_path / "taught.yaml")


def test_an_unknown_dearer_model_is_named(export, tmp_path):
    folder = export(*RIDDLES[:-1], ("solve it", "larg"))
    with pytest.raises(DatasetError, match=r"line 6, field 'dearer_model': unknown model 'larg'; did you mean 'large'"):
        distill(request(folder), tmp_path / "taught.yaml")


def test_a_folder_of_something_else_is_refused(tmp_path):
    with pytest.raises(
        ResultsError, match=r"clusters\.json: no such file; `mtrouter-rl export distillation` writes it"
    ):
        distill(request(tmp_path), tmp_path / "taught.yaml")


def test_a_pool_without_kinds_of_skills_cannot_say_what_was_learned(export, tmp_path):
    flat = tmp_path / "flat.yaml"
    flat.write_text(
        "name: flat\nextends: corridor-three\ndescription: SIMULATED.\nbackend: { settings: { complementarity: 0 } }\n"
    )
    with pytest.raises(CardError, match=r"'flat', field 'backend\.settings\.complementarity': is 0"):
        distill(request(export(*RIDDLES, pool="flat"), pool=str(flat)), tmp_path / "taught.yaml")


def test_the_card_must_be_a_yaml_file(export, tmp_path):
    with pytest.raises(InvalidConfigError, match=r"--out is .*taught, must end in \.yaml"):
        distill(request(export(*RIDDLES)), tmp_path / "taught")


def test_from_log_to_card_and_back_to_a_log(tmp_path, capsys):
    """The whole loop on the corridor: the cheap model is a better one in the new log."""
    log, folder, card = (str(tmp_path / name) for name in ("log", "export", "taught.yaml"))
    collect = ["collect", "--env", "corridor", "--policy", "uniform", "--episodes", "150", "--workers", "1", "--quiet"]
    run_command([*collect, "--out", log])
    run_command(["export", "distillation", log, "--out", folder])
    capsys.readouterr()
    options = ["--env", "corridor", "--learnt", "50%", "--price-factor", "1", "--out", card]
    run_command(["lab", "distill", folder, *options, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["cheap"], found["learnt"], found["price_factor"], found["least_examples"]) == ("small", 0.5, 1.0, 5)
    assert {one["skill"] for one in found["skills"] if one["after"] > one["before"]} >= {"think", "walk"}
    run_command([*collect, "--pool", card, "--out", f"{log}-after"])
    shares = {}
    for name in (log, f"{log}-after"):
        capsys.readouterr()
        run_command(["behavior", name, "--json"])
        (row,) = json.loads(capsys.readouterr().out)["rows"]
        shares[name] = row["first_error"]["small"]["n_first_errors"]
    assert shares[f"{log}-after"] < shares[log]
