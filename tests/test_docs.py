"""What README and docs name is there: linked files, cards, agents, encoders, commands; their code blocks are valid."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlparse

import pytest
import yaml

from mtrouter_rl.cards import AgentCard, EnvCard, list_cards, load_agent_card, load_env_card, load_pool_card
from mtrouter_rl.cards.policy import POLICY_FORMS
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.cli.commands import all_commands
from mtrouter_rl.cli.program import build_parser
from mtrouter_rl.evaluation.hidden_reference import REFERENCE_TEXTS
from mtrouter_rl.evaluation.query_router import STATE_COLUMNS
from mtrouter_rl.metric_names import EVALUATION, OFF_POLICY, TRAINING
from mtrouter_rl.registry import ENCODERS
from mtrouter_rl.workflows.quick_study import expand_agents

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_COMMAND = re.compile(r"(?:\.venv/bin/)?mtrouter-rl +(.*)")


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def blocks(language):
    """(page, code) of every block of a language."""
    found = [(page, match) for page in PAGES for match in _BLOCK.finditer(page.read_text(encoding="utf-8"))]
    return [(name_of(page), match[2]) for page, match in found if match[1] == language]


def shell_lines():
    return [(page, line.strip()) for page, code in blocks("bash") for line in code.splitlines() if line.strip()]


def commands():
    """(page, arguments) of every call of mtrouter-rl in a bash block, without the file that its output goes to."""
    found = [(page, _COMMAND.fullmatch(line)) for page, line in shell_lines()]
    return [(page, match[1].partition(" > ")[0]) for page, match in found if match]


def relative_links():
    found = [(name_of(page), link) for page in PAGES for link in _LINK.findall(page.read_text(encoding="utf-8"))]
    return [(page, link) for page, link in found if not urlparse(link).scheme and not link.startswith("#")]


def names_in_yaml_blocks():
    """Cards that the pages themselves tell the reader to write."""
    return {yaml.safe_load(code)["name"] for _, code in blocks("yaml")}


def names_of_new_plugins():
    """Environments that the pages themselves tell the reader to make."""
    return {arguments.split()[1] for _, arguments in commands() if arguments.startswith("new-env ")}


def is_card(kind, name):
    known = {*list_cards(kind), *names_in_yaml_blocks(), *names_of_new_plugins()}
    return name.endswith(".yaml") or name in known


def check_policy(policy, args):
    kind, _, rest = policy.partition(":")
    if "/" in policy and kind not in POLICY_FORMS:
        return  # the folder of a trained router
    if policy in REFERENCE_TEXTS and args.command == "evaluate":
        return
    assert kind in POLICY_FORMS or is_card("agents", policy), f"no such router or policy: {policy}"
    if kind == "single":
        load_pool_card(args.pool or load_env_card(args.env).pool).index(rest)


@pytest.mark.parametrize(("page", "link"), relative_links())
def test_relative_links_resolve(page, link):
    assert ((ROOT / page).parent / link.partition("#")[0]).exists()


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_parse_and_name_what_exists(page, line):
    args = build_parser().parse_args(shlex.split(line, comments=True))
    given = vars(args)
    envs = given.get("env") or given.get("envs") or []
    assert all(is_card("envs", env) for env in ([envs] if isinstance(envs, str) else envs))
    assert given.get("pool") is None or is_card("pools", given["pool"])
    assert given.get("encoder") is None or given["encoder"] in ENCODERS.targets()
    named = given.get("agent") or []
    agents = [named] if isinstance(named, str) else [*named, *expand_agents(given.get("agents") or [])]
    for agent in agents:
        assert is_card("agents", agent.partition(":")[0])
    policies = [*([given["policy"]] if given.get("policy") else []), *given.get("router", [])]
    for policy in policies:
        check_policy(policy, args)


def test_every_command_is_shown_somewhere():
    shown = {" ".join(shlex.split(line)[: 2 if line.startswith("lab ") else 1]) for _, line in commands()}
    assert shown == {command.full_name for command in all_commands()}


@pytest.mark.parametrize(("page", "line"), shell_lines())
def test_scripts_and_examples_that_are_called_exist(page, line):
    words = shlex.split(line, comments=True)
    own = [word for word in words if word.startswith(("./scripts/", "examples/"))]
    assert all((ROOT / word).is_file() for word in own)


def test_every_metric_and_column_of_tensorboard_is_explained():
    named = set(re.findall(r"`([^`\n]+)`", (ROOT / "docs" / "read-the-tensorboard.md").read_text(encoding="utf-8")))
    evaluation = [
        re.sub(r"/\{name\}", "", name).removeprefix("eval/{split}/").removeprefix("behavior/") for name in EVALUATION
    ]
    named |= {name.rpartition("/")[0] for name in named if name.rpartition("/")[2].isupper()}
    assert not {*TRAINING, *OFF_POLICY, *evaluation, *STATE_COLUMNS} - named


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_blocks_compile(page, code):
    compile(code, page, "exec")


@pytest.mark.parametrize(("page", "code"), blocks("yaml"))
def test_yaml_blocks_are_valid_cards(page, code, tmp_path):
    card = yaml.safe_load(code)
    if "extends" in card:
        path = tmp_path / "card.yaml"
        path.write_text(code, encoding="utf-8")
        load = load_agent_card if "parameters" in card else load_pool_card
        load(path)
        return
    model = EnvCard if "family" in card else PoolCard if "models" in card else AgentCard
    model.model_validate(card)


def test_the_card_of_a_talking_environment_is_the_shipped_one():
    page = (ROOT / "docs" / "prompts-and-actions.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    card = (ROOT / "examples" / "cards" / "corridor-talk.yaml").read_text(encoding="utf-8")
    assert card.partition("\n")[2] == shown


def test_tables_are_those_of_the_results_files():
    checked = subprocess.run(
        [sys.executable, "scripts/site/tables.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "<!-- table: docs/results/quick-results.json test -->" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 200
