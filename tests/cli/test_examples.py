"""The example in the help of every command is run, on the toy corridor; those that take long are parsed alone."""

import json
import shlex
import shutil

import pytest
import yaml

from mtrouter_rl.cards import find_card, load_pool_card
from mtrouter_rl.cli.commands import all_commands
from mtrouter_rl.cli.program import build_parser, main
from mtrouter_rl.datasets.importers.base import ImportReport, ImportSource
from mtrouter_rl.datasets.importers.query_table import Answer, OneTurnBuilder, Query
from mtrouter_rl.datasets.info import DatasetInfo
from mtrouter_rl.datasets.rewrite import write_dataset
from mtrouter_rl.exporters.base import export_dataset
from mtrouter_rl.records import TokenUsage, TracedEpisode
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.workflows import (
    CollectRequest,
    EvaluateRequest,
    TrainRequest,
    collect_dataset,
    evaluate_routers,
    load_agent,
    train_router,
)
from tests.cases.replay_suites import write_table

SMALL = {"n_iterations": 3, "steps_per_iteration": 8, "batch_size": 32, "n_warm_start": 1, "keep_last": 1}
ROUTERS = [
    ("fitted-q", "fitted-q", 0.5),
    ("fitted-q-w0", "fitted-q", 0.0),
    ("fitted-q-w1", "fitted-q", 1.0),
    ("frontier", "fitted-q-frontier", 0.5),
]
CALLS = [
    {
        "session_id": f"s{number}",
        "messages": [{"role": "user", "content": "Go to the door."}],
        "response": "north",
        "model": "small",
        "usage": {"prompt_tokens": 100, "completion_tokens": 10},
        "score": 1.0,
    }
    for number in range(3)
]

EXAMPLES = [f"{command.full_name} {words}" for command in all_commands() for words in command.examples]

PARSED_ONLY = {
    "serve runs/router --pool pool.yaml": "it serves until it is ended",
    "serve runs/router --pool pool.yaml --explore 0.1 --session-budget 0.50 --fallback small": "the same",
    "serve runs/router --pool pool.yaml --canary 0.1 --default big --store postgresql://router@127.0.0.1/served": "the same",
    "study --env corridor --out runs/quick": "minutes: every router is trained",
    "evaluate --env corridor --router random cheapest --budgets 0.1x 0.5x --out runs/budgets": "three reports are drawn",
    "train --agent fitted-q --dataset logs/corridor --seed 0 --out routers/fitted-q": "a training of full size",
    "train --agent fitted-q --dataset logs/corridor --safe --out routers/fitted-q-safe": "four trainings of full size",
    "ope routers/fitted-q random --dataset logs/corridor --out runs/ope": "fitted values of full size",
    "lab ablate --env corridor --dataset logs/corridor --out runs/ablations": "a dozen trainings",
    "lab study-cross --envs babyai hle --out runs/cross": "minutes, and needs the extra babyai",
    "lab leave-one-out --env corridor --dataset logs/corridor --out runs/leave-one-out": "nine trainings",
    "lab calibrate --env hle --target envs/calibration/paper-hle.yaml --out runs/calibration": "hours",
    "lab hindsight-gap logs/balrog --kind 'babaisai|.*'": "a log that does not ship",
    "lab hindsight-gap --env scienceworld --complementarity 0 1 2 --match 0.1 --out runs/gap": "needs Java",
    "fake-llm --env corridor --write-pool doubles.yaml": "serves until it is ended",
    "fake-llm --env corridor --port 8090 --faults 500=0.1 429_retry_after=0.05 --ledger billed.jsonl": "the same",
    "local-llm --port 8080 --slots 2": "the same",
    "lab local --out runs/local": "minutes, and needs the extras local-llm and serve",
    "lab one-turn logs/suite-test --router runs/suite/fitted-q": "a router of a suite",
}
"""Examples that are not run, each with the reason."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, corridor_log, corridor_config):
    """A folder with what the examples read: logs, routers, runs, cards."""
    folder = tmp_path_factory.mktemp("examples")
    shutil.copytree(corridor_log, folder / "logs" / "corridor")
    shutil.copytree(write_suite(folder / "suite"), folder / "logs" / "suite")
    export_dataset("jsonl", corridor_log, folder / "exports" / "corridor.jsonl", {})
    export_dataset("distillation", corridor_log, folder / "exports" / "distillation", {})
    (folder / "calls.jsonl").write_text("".join(f"{json.dumps(call)}\n" for call in CALLS), encoding="utf-8")
    names = sorted({call["session_id"] for call in CALLS})
    (folder / "scores.csv").write_text(
        "\n".join(["session_id,score", *(f"{name},1" for name in names)]), encoding="utf-8"
    )
    outcomes = write_table(folder / "outcomes.csv", n_tasks=20)
    tasks = sorted({line.split(",")[0] for line in outcomes.read_text(encoding="utf-8").splitlines()[1:]})
    rows = (json.dumps({"task": task, "text": f"Mend {task}."}) + "\n" for task in tasks)
    (folder / "tasks.jsonl").write_text("".join(rows), encoding="utf-8")
    card = yaml.safe_load(find_card("pools", "corridor-three").read_text(encoding="utf-8"))
    (folder / "my-pool.yaml").write_text(yaml.safe_dump(card | {"name": "my-pool"}), encoding="utf-8")
    more = [*card["models"], card["models"][0] | {"name": "newcomer", "aliases": []}]
    (folder / "new-pool.yaml").write_text(yaml.safe_dump(card | {"name": "new-pool", "models": more}), encoding="utf-8")
    with RolloutPool(corridor_config, n_workers=1) as pool:
        mixed = CollectRequest(policy="mixed:1", n_episodes=120, seed=0, out=folder / "logs" / "mixed")
        collect_dataset(pool, mixed, show_progress=False)
        for name, agent, weight in ROUTERS:
            card = load_agent(agent)
            request = TrainRequest(
                agent=card.model_copy(update={"name": name, "parameters": card.parameters | SMALL}),
                config=corridor_config.at_cost_weight(weight),
                seed=0,
                out=folder / "routers" / name,
                dataset=corridor_log,
            )
            train_router(request, show_progress=False)
        for name in ("mine", "seed0", "seed1"):
            routers = (str(folder / "routers" / "fitted-q"), "random")
            evaluate_routers(
                pool,
                EvaluateRequest(routers=routers, split="test", n_seeds=1, out=folder / "runs" / name),
                show_progress=False,
            )
    return folder


def write_suite(folder):
    """A table of 12 queries that all models have answered."""
    pool = load_pool_card("corridor-three").model_copy(update={"prompt_cache": None})
    builder = OneTurnBuilder(ImportSource(paths=(), pool=pool, report=ImportReport(format="test")))
    queries = [Query(task="sums", query_id=str(n), variation=n, text=f"What is {n} + {n}?") for n in range(12)]
    answers = [
        Answer(
            model=model,
            response="",
            score=float(n % 3 <= index),
            usage=TokenUsage(n_fresh=1, n_output=10),
            usage_source="logged",
            logged_cost_usd=None,
        )
        for n in range(12)
        for index, model in enumerate(pool.model_names)
    ]
    episodes = [
        builder.episode(query, answer)
        for query, answer in zip([query for query in queries for _ in pool.model_names], answers, strict=True)
    ]
    info = DatasetInfo(
        dataset_id="suite-v1",
        env="suite",
        pool_name=pool.name,
        models=pool.models,
        prompt_cache=None,
        behavior_policy="mixed",
        split="train",
        seed=0,
        n_episodes_planned=len(episodes),
        max_turns=1,
        budget_usd=1.0,
        is_simulated=False,
        package_version="0",
        created_by={},
        origin="imported",
    )
    write_dataset(folder, info, (TracedEpisode(episode=episode) for episode in episodes))
    return folder


@pytest.fixture
def workplace(prepared, tmp_path, monkeypatch):
    """The same folder, where nothing that an earlier example wrote lies."""
    shutil.copytree(prepared, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(example, *more):
    args = build_parser().parse_args(shlex.split(example))
    out = getattr(args, "out", None)
    if out is not None and out.exists():  # a user who calls the examples one after another has none
        shutil.rmtree(out) if out.is_dir() else out.unlink()
    one_process = ("--workers", "1") if hasattr(args, "workers") else ()
    return main([*shlex.split(example), *one_process, *more])


@pytest.mark.parametrize("example", [one for one in EXAMPLES if one not in PARSED_ONLY])
def test_example_runs_and_its_json_is_one_document(example, workplace, capfd):
    assert run(example, "--json") == 0, capfd.readouterr().err
    printed = capfd.readouterr()
    assert json.loads(printed.out) is not None
    assert not list(workplace.glob("embeddings"))


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_parses(example):
    build_parser().parse_args(shlex.split(example))


def test_the_list_of_those_that_are_not_run_is_of_examples():
    assert set(PARSED_ONLY) <= set(EXAMPLES)


@pytest.mark.parametrize("command", all_commands(), ids=lambda command: command.full_name)
def test_help_ends_with_the_examples(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        build_parser().parse_args([*command.full_name.split(), "--help"])
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    examples = [f"example: mtrouter-rl {command.full_name} {words}" for words in command.examples]
    assert lines[-len(examples) :] == examples
    assert all(len(line) <= 100 for line in lines if not line.startswith("example"))
    assert not any("%%" in line for line in lines)
