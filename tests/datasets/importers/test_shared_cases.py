"""The cases beside the checkout, where they are: each has an input and says what is right, which is checked here."""

import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError
from tests.cases.call_rows import shown

CASES = Path(__file__).resolve().parents[4] / "shared" / "cases"


@dataclass
class Found:
    """What an import gave: episodes by id, report, and the error if there was one."""

    episodes: dict = field(default_factory=dict)
    report: dict = field(default_factory=dict)
    error: str = ""

    def only(self, name="t"):
        assert name in self.episodes, (list(self.episodes), self.error, self.report.get("rejected"))
        return self.episodes[name]

    def says(self, *texts):
        said = self.error + repr(self.report)
        assert all(text in said for text in texts), said
        return True


def run(name, tmp_path):
    folder = CASES / name
    words = shlex.split(re.search(r"mtrouter-rl import (.*)", (folder / "expected.txt").read_text("utf-8"))[1])
    paths = tuple(folder / word for word in words[1:] if word.startswith("input"))
    pool = load_pool_card(str(CASES / "pool.yaml"))
    request = ImportRequest(format=words[0], paths=paths, pool=pool, out=tmp_path / "out")
    found = Found()
    try:
        found.report = dict(import_log(request, show_progress=False).to_json())
        found.episodes = {episode.episode_id: episode for episode in Dataset.load(tmp_path / "out").episodes}
    except DatasetError as error:
        found.error = str(error)
    return found


def usage_of(found, name="t"):
    usage = found.only(name).turns[0].usage
    return usage.n_fresh, usage.n_cached, usage.n_written, usage.n_output


def turns_are(*expected, name="t"):
    return lambda found: shown(found.only(name)) == list(expected)


def ids_are(*names):
    return lambda found: sorted(found.episodes) == sorted(names)


def tokens_are(*expected, usd=None):
    def check(found):
        return usage_of(found) == expected and (usd is None or found.only().cost_usd == pytest.approx(usd))

    return check


def rejected(*texts, kept=("ok-1",)):
    return lambda found: sorted(found.episodes) == sorted(kept) and found.says(*texts)


def error(*texts):
    return lambda found: not found.episodes and found.says(*texts)


def _balrog(found):
    (episode,) = found.episodes.values()
    prompts = [turn.usage.n_prompt for turn in episode.turns]
    return sum(prompts) == 100_000 and max(prompts) < 10_000 and min(prompts) > 0 and found.says("were billed")


def _agents(found):
    texts = " ".join(turn.observation_text for turn in found.only().turns)
    return "Lay bricks." not in texts and len(found.only().turns) == 2 and found.report["left_out"]["n_calls"] == 1


CHECKS = {
    "answer_anthropic_blocks": turns_are(
        ('Let me look.\n[{"name": "ls", "arguments": {"path": "/"}}]', "bin etc"), ("There are bin and etc.", "")
    ),
    "answer_custom_tool": lambda found: (
        turns_are(('[{"name": "bash", "arguments": "ls"}]', ""))(found) and "ok-1" in found.episodes
    ),
    "answer_empty": turns_are(("", "?"), ("A", "")),
    "answer_function_call_legacy": turns_are(
        ('[{"name": "weather", "arguments": {"at": "Ulm"}}]', "rain"), ("It rains.", "")
    ),
    "answer_half_emoji": lambda found: turns_are(("ok \ufffd", ""))(found) and found.says("U+FFFD"),
    "answer_response_wrong_field": rejected("response.tool_calls.0.function.name: Field required", "a.jsonl:1"),
    "balrog_empty_calls_billed": _balrog,
    "cost_per_1k": lambda found: (
        found.only().cost_usd == pytest.approx(0.0012)
        and found.says("logged 1.2 USD, computed 0.0012 USD", "1000 times")
    ),
    "episode_consecutive_answers": lambda found: (
        turns_are(("I think.", ""), ("I act.", "ok"))(found) and found.says("answer to which nothing came back")
    ),
    "episode_top_level_model": lambda found: turns_are(("A", ""))(found) and ids_are("t", "ok-1")(found),
    "file_bom_crlf": ids_are("ok-1"),
    "file_concatenated": ids_are("ok-1", "ok-2"),
    "file_gz_in_zip": ids_are("in-a", "in-b"),
    "file_json_array": ids_are("ok-1", "ok-2"),
    "file_latin1": error("a.jsonl:1", "is not UTF-8", "Latin-1"),
    "file_line_separator": turns_are(("a\u2028b\x85c\x0cd", ""), name="ok-1"),
    "file_line_separator_zip": turns_are(("a\u2028b\x85c\x0cd\x1ce", ""), name="ok-1"),
    "file_nan": lambda found: (
        ids_are("t", "ok-1")(found)
        and found.only().turns[0].latency_s is None
        and found.says("latency_s is 'NaN'", "score: must be a number", "a.jsonl:2")
    ),
    "file_rotated": ids_are("old", "oldest", "new"),
    "file_uppercase": ids_are("up", "low"),
    "file_zst": error("a.jsonl.zst", ".zst is not read", "unpack it"),
    "llmrouterbench_bom_gz": lambda found: len(found.episodes) == 1 and found.says("'n_rejected': 0"),
    "llmrouterbench_failed_generation": lambda found: (
        len(found.episodes) == 1 and found.report["n_rejected"] == 1 and found.says("prompt_tokens is 0", "record 1")
    ),
    "model_case": rejected("did you mean 'vendor/small'?", "a.jsonl:1", kept=("ok-2",)),
    "model_served_alias": lambda found: (
        [(turn.model, turn.served_model, turn.cost_usd) for turn in found.only("ok-1").turns]
        == [("small", "big", pytest.approx(0.0012))]
    ),
    "multimodal_base64": lambda found: found.only().task_text == "What is it?" and found.says("no text, left out"),
    "propensity_logprob": rejected("propensity: must be a probability in (0, 1]", "(is -0.69)", kept=("ok-2",)),
    "propensity_percent": rejected("propensity: must be a probability in (0, 1]", "(is 50)", kept=("ok-2",)),
    "role_developer": lambda found: found.only().extra["system_prompt"] == "Be brief.",
    "routerbench_csv_bom": lambda found: (
        {one.turns[0].model: one.utility for one in found.episodes.values()} == {"small": 1.0, "big": 0.0}
    ),
    "score_bool": lambda found: found.only("ok-1").utility == 1.0,
    "score_float_eps": lambda found: found.only().utility == 1.0 and "ok-1" in found.episodes,
    "score_other_session_reused_id": ids_are("1", "1#2"),
    "score_percent": error("score: must be a number in [-1, 1]", "(is 85)", "a.jsonl:1"),
    "session_answer_null": lambda found: (
        turns_are(("", "?"), ("A", ""))(found) and found.only().turns[0].cost_usd == pytest.approx(0.00012)
    ),
    "session_compaction": lambda found: (
        turns_are(("a1", "o1"), ("a2", "Summary of what was done: a1, a2.\n\no2"), ("a3", ""))(found)
        and found.says("history that was rewritten")
    ),
    "session_duplicate_line": lambda found: (
        turns_are(("A", "more"), ("B", ""))(found) and found.only().cost_usd == pytest.approx(0.00024)
    ),
    "session_id_missing": rejected("session_id is None", "'trace_id' may be what is meant", "a.jsonl:1"),
    "session_id_number": ids_are("42"),
    "session_late_score": lambda found: found.only().utility == 1.0,
    "session_latency_negative": lambda found: (
        found.only().turns[0].latency_s is None and found.says("latency_s is -0.002") and "ok-1" in found.episodes
    ),
    "session_over_budget": lambda found: (
        found.only().budget_usd == pytest.approx(0.00012)
        and found.says("limit 0.0001 USD, spent 0.00012 USD")
        and "ok-1" in found.episodes
    ),
    "session_parallel_branches": lambda found: (
        turns_are(("A1", ""), ("A2", "go on"), ("B", ""))(found)
        and found.only().cost_usd == pytest.approx(0.00144)
        and found.says("sent again")
    ),
    "session_response_null": lambda found: turns_are(("", ""), ("A", ""))(found) and found.says("whose answer is null"),
    "session_score_on_every_delta": error("a.jsonl:2", "give each conversation an id of its own"),
    "session_score_on_every_line": lambda found: (
        len(found.only().turns) == 3
        and [turn.utility_gain for turn in found.only().turns] == [0.0, 0.0, 1.0]
        and found.only().cost_usd == pytest.approx(0.00264)
    ),
    "session_status_per_call": lambda found: len(found.only().turns) == 2 and found.only().utility == 1.0,
    "session_status_success": rejected("status: Input should be 'completed', 'truncated' or 'failed'", "a.jsonl:1"),
    "session_subagents_interleaved": _agents,
    "time_mixed_kinds": ids_are("e1", "e2", "e3", "e4"),
    "usage_byok_cost_zero": lambda found: found.only().cost_usd == pytest.approx(0.0012) and not found.report["notes"],
    "usage_cache_read_toplevel": tokens_are(1000, 9000, 0, 10, usd=0.00192),
    "usage_deepseek_hit_miss": tokens_are(1000, 9000, 0, 10, usd=0.00192),
    "usage_float_integral": tokens_are(100, 0, 0, 10),
    "usage_negative": rejected("is -1, must be a whole number", "a.jsonl:1", "usage."),
    "usage_null": rejected("usage: ", "a.jsonl:1"),
    "usage_reasoning_outside": tokens_are(100, 0, 0, 1010, usd=0.00212),
    "usage_reasoning_over_completion": lambda found: tokens_are(100, 0, 0, 10)(found) and found.says("12 reasoning"),
    "usage_responses_api_names": tokens_are(100, 0, 0, 10),
    "usage_write_in_details": tokens_are(2000, 0, 8000, 10, usd=0.01202),
    "usage_zero_output_only": lambda found: found.says("0 output tokens") and "ok-1" in found.episodes,
}
"""What is right, by case; a case that is not here belongs to a format with tests of its own."""


@pytest.mark.parametrize("name", CHECKS)
def test_every_case_gives_its_right_value_or_a_clear_error(name, tmp_path):
    if not (CASES / name).is_dir():
        pytest.skip("the case is not beside this checkout")
    assert CHECKS[name](run(name, tmp_path))


@pytest.mark.parametrize("name", sorted(path.name for path in CASES.glob("*") if path.is_dir()))
def test_no_case_ends_in_a_traceback(name, tmp_path):
    run(name, tmp_path)
