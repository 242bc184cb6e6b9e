"""Cases and real trajectories beside the checkout, where they are. The counts share no code with the importers."""

import gzip
import io
import json
import re
import shlex
import tarfile
from pathlib import Path

import pytest

from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError

SHARED = Path(__file__).resolve().parents[5] / "shared"
CASES, SWEBENCH = SHARED / "cases", SHARED / "data" / "swebench"
NOT_THERE = "it is not beside this checkout"


def imported(tmp_path, name, *, as_format=None, **given):
    """Episodes and report of a case, or the error."""
    folder = CASES / name
    if not folder.is_dir():
        pytest.skip(NOT_THERE)
    words = shlex.split(re.search(r"mtrouter-rl import (.*)", (folder / "expected.txt").read_text("utf-8"))[1])
    paths = tuple(folder / word for word in words[1:] if word.startswith("input"))
    pool = load_pool_card(str(CASES / "pool.yaml"))
    out = tmp_path / "out"
    try:
        report = import_log(
            ImportRequest(format=as_format or words[0], paths=paths, pool=pool, out=out, **given), show_progress=False
        )
    except DatasetError as error:
        return [], str(error)
    return list(Dataset.load(out).episodes), str(report)


def scores(tmp_path, **values):
    path = tmp_path / "scores.csv"
    path.write_text("session_id,score\n" + "".join(f"{name},{value}\n" for name, value in values.items()))
    return (path,)


ERRORS = {
    "format_claude_code": "looks like format 'claude-code'",
    "format_mini_old_list": "m.traj.json: is a list of messages without 'info'",
    "format_openai_batch": "looks like format 'openai-pairs'",
    "format_sweagent_traj": "is a .traj of SWE-agent itself",
    "format_taubench_v1": "as the first version of tau-bench writes it: it has no tokens",
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_log_of_another_format_is_told_which_it_is(tmp_path, name):
    episodes, told = imported(tmp_path, name)
    assert episodes == []
    assert ERRORS[name] in told


def test_a_session_of_claude_code(tmp_path):
    (episode,), _ = imported(tmp_path, "format_claude_code", as_format="claude-code", scores=scores(tmp_path, s1=1))
    (turn,) = episode.turns
    assert (turn.usage.n_fresh, turn.usage.n_cached, turn.usage.n_written, turn.usage.n_output) == (3, 900, 100, 25)
    assert turn.observation_text == "a b"


def test_the_output_of_a_batch_alone_is_not_guessed_at(tmp_path):
    episodes, told = imported(tmp_path, "format_openai_batch", as_format="openai-pairs")
    assert episodes == []
    assert "give the batch's input file as a further PATH" in told


def test_tokens_of_sweagent_are_reconstructed(tmp_path):
    (episode,), _ = imported(
        tmp_path, "format_sweagent_traj", as_format="sweagent", scores=scores(tmp_path, x=1), options={"model": "small"}
    )
    assert [(turn.usage.n_prompt, turn.usage.n_output) for turn in episode.turns] == [(1000, 10)]


def test_endings_and_lost_answers_of_mini_swe_agent(tmp_path):
    (episode,), _ = imported(tmp_path, "mini2_repeated_format_error")
    assert (episode.status, episode.utility, len(episode.turns)) == ("completed", 0.0, 3)
    assert (episode.turns[-1].terminated, episode.cost_usd) == (True, pytest.approx(0.0022))


def test_a_run_out_of_time(tmp_path):
    (episode,), _ = imported(tmp_path, "mini2_time_exceeded")
    assert (episode.status, episode.turns[-1].truncated, episode.utility) == ("completed", True, 0.0)


def test_an_answer_whose_tokens_are_lost(tmp_path):
    (episode,), told = imported(tmp_path, "mini2_repr_response")
    assert (episode.utility, episode.cost_usd) == (1.0, pytest.approx(0.00024))
    assert "messages.4.extra.response is \"ModelResponse(id='r')\"" in told


def test_reports_of_swebench(tmp_path):
    (episode,), _ = imported(tmp_path, "swebench_instance_reports")
    assert episode.utility == 1.0


def test_reports_of_two_models(tmp_path):
    episodes, _ = imported(tmp_path, "swebench_two_models_two_reports")
    assert {episode.models[0]: episode.utility for episode in episodes} == {"small": 0.0, "big": 1.0}


@pytest.mark.parametrize("name", ["tau2_dir_format", "tau2_json_format"])
def test_both_forms_of_tau2(tmp_path, name):
    (episode,), _ = imported(tmp_path, name)
    assert (len(episode.turns), episode.utility) == (2, 1.0)


def counted(archive):
    """Sums over every answer of the trajectories in an archive, by hand."""
    sums = {"runs": 0, "calls": 0, "prompt": 0, "cached": 0, "output": 0, "usd": 0.0}
    with tarfile.open(archive) as packed:
        for member in packed:
            if not member.name.endswith(".traj.json"):
                continue
            run = json.load(io.TextIOWrapper(packed.extractfile(member), "utf-8"))
            sums["runs"] += 1
            for message in run["messages"]:
                usage = ((message.get("extra") or {}).get("response") or {}).get("usage")
                if usage:
                    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
                    fresh, output = usage["prompt_tokens"] - cached, usage["completion_tokens"]
                    sums["calls"] += 1
                    sums["prompt"] += usage["prompt_tokens"]
                    sums["cached"] += cached
                    sums["output"] += output
                    sums["usd"] += (fresh * 2.0 + cached * 0.2 + output * 12.0) / 1e6
    return sums


def gemini():
    names = ["google/gemini-3-pro-preview", "@google/gemini-3-pro-preview", "Gemini 3 Pro Preview (2025-11-18)"]
    model = {
        "name": "gemini-3-pro",
        "aliases": names,
        "prices": {"input": 2.0, "cached_input": 0.2, "output": 12.0},
        "context_tokens": 1_000_000,
        "max_output_tokens": 64_000,
        "knowledge_cutoff": "2025-01-31",
    }
    card = {"name": "g", "description": "x", "models": [model], "token_counter": {"kind": "utf8_bytes"}}
    return PoolCard.model_validate_json(json.dumps(card | {"backend": {"kind": "none"}}))


def test_real_trajectories_import_with_the_totals_of_an_independent_count(tmp_path):
    archive, outcomes = SWEBENCH / "gemini-3-pro-trajectories.tar.xz", SWEBENCH / "outcomes.csv.gz"
    if not archive.is_file():
        pytest.skip(NOT_THERE)
    expected = counted(archive)
    request = ImportRequest(format="mtrouter", paths=(archive, outcomes), pool=gemini(), out=tmp_path / "out")
    report = import_log(request, show_progress=False)
    assert (report.n_episodes, report.n_turns, report.n_rejected) == (expected["runs"], expected["calls"], 0)
    assert (report.read.n_prompt, report.read.n_output) == (expected["prompt"], expected["output"])
    assert report.read.usd == pytest.approx(expected["usd"])
    with gzip.open(outcomes, "rt") as table:
        solved = sum(line.startswith("Gemini 3 Pro") and line.split(",")[4] == "1" for line in table)
    episodes = Dataset.load(tmp_path / "out").episodes
    assert sum(episode.utility for episode in episodes) == solved
    assert sum(turn.usage.n_cached for episode in episodes for turn in episode.turns) == expected["cached"]
