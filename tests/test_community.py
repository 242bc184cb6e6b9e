"""What people need to join holds together: licence, citation, metadata, hooks, forms, and the lists in CONTRIBUTING."""

import re
import subprocess
import sys
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest
import yaml

import mtrouter_rl

ROOT = Path(__file__).parents[1]
SETS_UP_OR_TESTS = ("source ", "exec .venv/bin/python -m pytest")  # lines of scripts/test that are no linter
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    build = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(out)], cwd=ROOT, check=True, capture_output=True, timeout=120)
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built)


@pytest.fixture(scope="module")
def metadata(wheel) -> Message:
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode("utf-8"))


def test_the_licence_is_in_the_wheel_and_named_in_its_metadata(wheel, metadata):
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_all("License-File") == ["LICENSE"]
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/licenses/LICENSE")]
    licence = wheel.read(name).decode("utf-8")
    assert licence == text_of("LICENSE")
    assert "Apache License\n                           Version 2.0, January 2004" in licence
    assert "END OF TERMS AND CONDITIONS" in licence


def test_the_metadata_names_version_contributors_and_no_address(metadata):
    assert metadata["Version"] == mtrouter_rl.__version__
    assert metadata["Author"] == "mtrouter_rl contributors"
    assert metadata["Author-email"] is None
    assert metadata.get_all("Project-URL") is None
    listed = metadata.get_all("Classifier")
    assert "Typing :: Typed" in listed
    assert not [classifier for classifier in listed if classifier.startswith("License ::")], "the expression says it"


def test_what_builds_and_what_the_tests_need_to_build_are_of_one_version():
    project = tomllib.loads(text_of("pyproject.toml"))
    (requirement,) = project["build-system"]["requires"]
    assert any(extra.startswith(requirement) for extra in project["project"]["optional-dependencies"]["dev"])


def test_the_citation_is_of_this_version_and_cites_the_paper():
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == mtrouter_rl.__version__
    assert citation["license"] == "Apache-2.0"
    assert citation["authors"] == [{"name": "mtrouter_rl contributors"}]
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert [identifier["value"] for identifier in paper["identifiers"]] == ["arXiv:2604.23530"]
    assert paper["title"] in text_of("README.md")


def test_the_changelog_has_what_is_unreleased_and_this_version():
    headings = re.findall(r"^## (.+)$", text_of("CHANGELOG.md"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert mtrouter_rl.__version__ in {heading.split(" ")[0] for heading in headings}


def test_the_hooks_run_the_very_commands_of_the_test_script():
    lines = [line for line in text_of("scripts/test").splitlines() if line and not line.startswith("#")]
    linters = [line for line in lines if not line.startswith(SETS_UP_OR_TESTS)]
    (repo,) = yaml.safe_load(text_of(".pre-commit-config.yaml"))["repos"]
    assert repo["repo"] == "local"
    assert [hook["entry"] for hook in repo["hooks"]] == linters
    for hook in repo["hooks"]:
        assert hook["language"] == "system"
        assert hook["pass_filenames"] is False, "else a hook would look at fewer files than the script"


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_forms_are_complete(form):
    read = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(read)
    asked = [part for part in read["body"] if part["type"] != "markdown"]
    names = [part["id"] for part in asked]
    assert len(set(names)) == len(names)
    assert all(part["attributes"]["label"] for part in asked if part["type"] != "checkboxes")
    assert any(part.get("validations", {}).get("required") for part in asked)


def test_there_are_forms_for_bugs_features_and_logs():
    assert [form.stem for form in FORMS] == ["bug", "feature", "my-log-does-not-import"]


def test_contributing_names_every_test_folder_and_no_other():
    named = set(re.findall(r"`tests/(\w+)/`", text_of("CONTRIBUTING.md")))
    assert named == {path.name for path in (ROOT / "tests").iterdir() if any(path.rglob("*.py"))}


def test_contributing_names_every_room_of_the_package_and_no_other():
    house = text_of("CONTRIBUTING.md").partition("## The house")[2].partition("\n## ")[0]
    rows = [line.split(" | ")[0] for line in house.splitlines() if line.startswith("| `")]
    named = {name.split("/")[0] for row in rows for name in re.findall(r"`([\w./]+)`", row)}
    package = ROOT / "mtrouter_rl"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    assert named == rooms | {path.name for path in package.glob("*.py")} - {"__init__.py"}
