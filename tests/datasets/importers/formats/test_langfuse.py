import pytest

from mtrouter_rl.datasets.importers.base import UnusableEpisodeError
from mtrouter_rl.datasets.importers.formats import langfuse
from mtrouter_rl.datasets.importers.formats.langfuse import usage_of
from mtrouter_rl.errors import InvalidConfigError
from tests.cases import agent_logs as logs


def snake(row):
    return {"".join(f"_{one.lower()}" if one.isupper() else one for one in key): value for key, value in row.items()}


def score(name="solved", value=1, **fields):
    return {"id": name, "name": name, "value": value, "dataType": "NUMERIC", "traceId": "t1"} | fields


def test_exports_in_files_of_their_own(read):
    """The export to a store has a file for each table and names with underscores."""
    trace = logs.langfuse()
    files = {
        "observations/1.jsonl": [snake(row) for row in trace["observations"]],
        "scores/1.jsonl": [snake(score())],
        "traces/1.jsonl": [{"id": "t1", "session_id": "s1", "timestamp": "2026-01-01"}],
    }
    (episode,), report = read("langfuse", files)
    assert (episode.episode_id, episode.utility) == ("s1", 1.0)
    assert [turn.usage.n_cached for turn in episode.turns] == [0, 80]
    assert (report.read.n_prompt, report.read.n_output) == (300, 30)


def test_an_answer_of_the_api_in_pages(read):
    (episode,), _ = read("langfuse", {"page.json": {"data": [logs.langfuse()], "meta": {"page": 1}}})
    assert len(episode.turns) == 2


def test_several_scores_need_a_name(read):
    trace = logs.langfuse() | {"scores": [score(), score("polite", 0), score("solved", 0, observationId="g0")]}
    with pytest.raises(InvalidConfigError, match=r"score_name=\.\.\. \(polite, solved\)"):
        read("langfuse", {"a.json": trace})
    (episode,), report = read("langfuse", {"a.json": trace}, score_name="solved")
    assert episode.utility == 1.0
    assert report.to_json()["notes"][langfuse.OTHER_SCORE]["n"] == 2


@pytest.mark.parametrize(
    ("fields", "utility"),
    [({"value": 1, "dataType": "BOOLEAN"}, 1.0), ({"value": None, "stringValue": "True"}, 1.0), ({"value": 40}, 0.4)],
)
def test_values_of_scores(read, fields, utility):
    trace = logs.langfuse() | {"scores": [score() | fields]}
    options = {"max_score": 100.0} if utility == 0.4 else {}
    (episode,), _ = read("langfuse", {"a.json": trace}, **options)
    assert episode.utility == utility


def test_a_score_that_is_no_number_is_noted_and_the_session_left_out_with_its_money(read):
    trace = logs.langfuse() | {"scores": [score(value="good", dataType="CATEGORICAL")]}
    episodes, report = read("langfuse", {"a.json": trace})
    assert episodes == []
    assert "'good'" in report.to_json()["notes"][langfuse.BAD_SCORE_ROW]["examples"][0]["detail"]
    assert report.left_out.n_prompt == 300


def test_the_total_says_whether_the_buckets_are_part_of_the_input():
    apart = usage_of({"input": 20, "input_cached_tokens": 80, "output": 6, "output_reasoning_tokens": 4, "total": 110})
    inside = usage_of(
        {"input": 100, "input_cached_tokens": 80, "output": 10, "output_reasoning_tokens": 4, "total": 110}
    )
    assert apart == inside
    with pytest.raises(UnusableEpisodeError, match="usageDetails has parts and no total"):
        usage_of({"input": 20, "input_cached_tokens": 80, "output": 6})
    assert usage_of({"input": 20, "output": 6, "characters": 9})["characters"] == 9


def test_the_calls_of_an_agent_inside_another_one_are_no_turns(read):
    trace = logs.langfuse()
    trace["observations"] += [
        {"id": "a", "type": "AGENT", "traceId": "t1"},
        {"id": "b", "type": "AGENT", "traceId": "t1", "parentObservationId": "a"},
        logs.generation(0, [{"role": "user", "content": "Lay bricks."}], logs.DONE, id="g9", parentObservationId="b"),
    ]
    (episode,), report = read("langfuse", {"a.json": trace})
    assert (len(episode.turns), episode.extra["sub_agent_calls"]) == (2, 1)
    assert report.left_out.n_prompt == 100
    (whole,), report = read("langfuse", {"a.json": trace}, sub_agents="turns")
    assert (len(whole.turns), report.left_out.n_prompt) == (3, 0)
    mason = whole.extra["turn_agents"].index("b")
    assert whole.parents[mason] == ((0,) if mason else ())
    assert mason in whole.parents[2]


def test_a_prompt_that_is_no_messages_names_its_field(read):
    trace = logs.langfuse()
    trace["observations"][1]["input"] = {"question": "x"}
    episodes, report = read("langfuse", {"a.json": trace})
    assert episodes == []
    assert "log the messages of the prompt" in str(report)
