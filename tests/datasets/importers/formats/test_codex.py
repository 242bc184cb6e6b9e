from mtrouter_rl.datasets.importers.formats import codex
from tests.cases import agent_logs as logs


def test_the_session_id_is_that_of_the_file_s_head(read):
    (episode,), report = read("codex", {"2026/rollout-x.jsonl": logs.CODEX}, scores={"s1": 1})
    assert episode.episode_id == "s1"
    assert (report.read.n_calls, report.read.n_prompt, report.read.n_output) == (2, 300, 30)


def test_a_count_without_the_last_call_is_the_difference_of_two_totals(read):
    rows = [line | {"payload": line["payload"] | _without_last(line["payload"])} for line in logs.CODEX]
    (episode,), _ = read("codex", {"rollout-x.jsonl": rows}, scores={"s1": 1})
    assert [(turn.usage.n_prompt, turn.usage.n_cached, turn.usage.n_output) for turn in episode.turns] == [
        (100, 40, 10),
        (200, 80, 20),
    ]


def _without_last(payload):
    info = payload.get("info")
    return {} if info is None else {"info": {key: value for key, value in info.items() if key != "last_token_usage"}}


def test_what_a_tool_gave_back_before_the_count_belongs_to_the_next_call(read):
    rows = list(logs.CODEX)
    rows[5], rows[7] = rows[7], rows[5]
    (episode,), _ = read("codex", {"rollout-x.jsonl": rows}, scores={"s1": 1})
    assert [turn.observation_text for turn in episode.turns] == ["bin etc", ""]


def test_an_answer_that_was_stopped_before_its_count_is_noted(read):
    again = logs.codex_line(
        "response_item", 6, type="message", role="user", content=[{"type": "input_text", "text": "Stop."}]
    )
    half = logs.codex_line(
        "response_item", 6, type="message", role="assistant", content=[{"type": "output_text", "text": "Hm"}]
    )
    rows = [*logs.CODEX[:8], half, again, *logs.CODEX[8:]]
    (episode,), report = read("codex", {"rollout-x.jsonl": rows}, scores={"s1": 1})
    assert [turn.observation_text for turn in episode.turns] == ["bin etc\n\nStop.", ""]
    assert report.to_json()["notes"][codex.CUT_OFF]["n"] == 1


def test_a_call_whose_answer_is_not_logged_is_billed(read):
    rows = [*logs.CODEX, logs.codex_count(12, (50, 0, 5, 0, 55), (350, 120, 35, 4, 385))]
    (episode,), report = read("codex", {"rollout-x.jsonl": rows}, scores={"s1": 1})
    assert [turn.action_text for turn in episode.turns][-1] == ""
    assert report.read.n_prompt == 350
    assert report.to_json()["notes"][codex.NO_ITEMS]["n"] == 1
