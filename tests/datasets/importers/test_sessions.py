"""What a log says of a session is put together rightly, whatever order, files and lines it is said in."""

import itertools
import json
import random

import pytest

from mtrouter_rl.datasets.importers import sessions, threads
from mtrouter_rl.datasets.importers.agents import BAD_PARENTS, LEFT_PARENT
from mtrouter_rl.datasets.importers.messages import open_conversation, read_messages
from mtrouter_rl.datasets.importers.openai_jsonl import (
    ANSWER_IN_PROMPT,
    NO_RESPONSE,
    NO_VALUE,
    NOT_BILLED,
    NUMBER_ID,
    UNKNOWN_KEY,
)
from mtrouter_rl.datasets.importers.query_table import BAD_SCORE
from mtrouter_rl.datasets.importers.score_files import NO_SCORES
from mtrouter_rl.errors import DatasetError
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, UNLIMITED_TURNS
from tests.cases.call_rows import answer, call, grown, read_paths, shown, system, user, write

THREE = [("try 0", "no 0"), ("try 1", "no 1"), ("try 2", "")]


@pytest.fixture
def read(tmp_path):
    """Imports rows of one file, or of several by name."""
    numbers = itertools.count()

    def run(*files, **options):
        paths = [write(tmp_path / f"log{next(numbers)}.jsonl", rows) for rows in files]
        return read_paths(*paths, **options)

    return run


def details(report, kind, part="rejected"):
    return [example["detail"] for example in report[part][kind]["examples"]]


# Scores and status


@pytest.mark.parametrize("value", [1, 1.0, True, "1.0", "true", 1 + 2e-16])
@pytest.mark.parametrize("place", ["first", "last", "every", "late"])
def test_a_score_counts_wherever_it_stands(read, value, place):
    rows = grown("s", 3, score=None, status=None)
    if place == "late":
        rows.append({"session_id": "s", "score": value, "status": "completed"})
    for index in {"first": [0], "last": [2], "every": [0, 1, 2], "late": []}[place]:
        rows[index] |= {"score": value, "status": "completed"}
    episodes, report = read(rows)
    assert shown(episodes["s"]) == THREE
    assert [turn.utility_gain for turn in episodes["s"].turns] == [0.0, 0.0, 1.0]
    assert (report["n_rejected"], report["notes"]) == (0, {})


def test_scores_that_differ_are_noted_and_the_last_counts(read):
    rows = grown("s", 2, score=0.25)
    rows[0]["score"] = 0.75
    episodes, report = read([*rows, {"session_id": "s", "score": 0.5}])
    assert episodes["s"].utility == 0.5
    assert details(report, sessions.TWO_SCORES, "notes") == ["0.75, 0.25, 0.5"]


def test_prompts_of_what_is_new_with_a_score_on_every_line(read):
    """With the history in the bill they are one session; else nobody can tell, and the log is told so."""
    rows = [call("s", [user(text)], f"try {text}", score=1.0, status="completed") for text in ("Fix it.", "no")]
    rows[1]["usage"] = {"prompt_tokens": 112, "completion_tokens": 10}
    assert shown(read(rows)[0]["s"]) == [("try Fix it.", "no"), ("try no", "")]
    rows[1]["usage"] = {"prompt_tokens": 99, "completion_tokens": 10}
    episodes, report = read(rows)
    assert not episodes
    assert "give each conversation an id of its own" in details(report, threads.UNCLEAR_ID)[0]
    assert report["rejected"][threads.UNCLEAR_ID]["examples"][0]["source"] == "log1.jsonl:2"


def test_a_status_of_every_call_is_not_the_end_of_the_session(read):
    rows = grown("s", 3)
    for row in rows:
        row["status"] = "completed"
    assert shown(read(rows)[0]["s"]) == THREE


def test_a_call_that_failed_before_others_is_noted(read):
    rows = grown("s", 2, status=None)
    rows[0]["status"] = "failed"
    report = read(rows)[1]
    assert report["notes"][sessions.EARLY_FAILURE]["n"] == 1


@pytest.mark.parametrize(
    ("last", "reason", "detail"),
    [
        ({"score": 85}, BAD_SCORE, "score: must be a number in [-1, 1]; divide it by its maximum (is 85)"),
        ({"score": "85%"}, BAD_SCORE, "(is '85%')"),
        ({"score": float("nan")}, BAD_SCORE, "(is 'NaN')"),
        ({"score": "pass"}, BAD_SCORE, "(is 'pass')"),
        ({"score": {"value": 1}}, BAD_SCORE, "(is {'value': 1})"),
        ({"score": None, "status": "completed"}, BAD_SCORE, "score is missing"),
        ({"score": None, "status": None}, sessions.NO_END, "give --scores FILE"),
        (
            {"status": "success"},
            "field that is missing or breaks its rule",
            "status: Input should be 'completed', 'truncated' or 'failed' (is 'success')",
        ),
    ],
)
def test_a_bad_end_names_the_line_and_the_rule(read, last, reason, detail):
    episodes, report = read([*grown("bad", 2, **last), *grown("ok", 1)])
    assert list(episodes) == ["ok"]
    found = report["rejected"][reason]["examples"][0]
    assert found["source"] in ("log0.jsonl:1", "log0.jsonl:2")
    assert detail in found["detail"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("scores.csv", "session_id,score\na,1\nb,0.5\nc,\n"),
        ("scores.csv", "\ufeffSession_ID;Resolved\r\na;TRUE\r\nb;0.5\r\n"),
        ("scores.tsv", "trace_id\tvalue\na\t1.0\nb\t.5\n"),
        ("scores.jsonl", '{"session_id": "a", "score": true}\n{"trace_id": "b", "reward": 0.5}\n'),
        ("scores.json", '[{"session_id": "a", "score": 1}, {"session_id": "b", "score": 0.5}]'),
        ("scores.json", '{"a": 1, "b": 0.5}'),
    ],
)
def test_scores_from_a_file_of_their_own(tmp_path, name, text):
    log = write(tmp_path / "log.jsonl", [row | {"score": None, "status": None} for s in "ab" for row in grown(s, 2)])
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    episodes, report = read_paths(log, scores=[tmp_path / name])
    assert {name: episode.utility for name, episode in episodes.items()} == {"a": 1.0, "b": 0.5}
    assert report["n_rejected"] == 0


def test_a_csv_beside_the_log_is_a_file_of_scores_and_one_by_trace_id_is_found(tmp_path):
    rows = [row | {"score": None, "status": None, "trace_id": "t-9"} for row in grown("s", 2)]
    log = write(tmp_path / "log.jsonl", rows)
    (tmp_path / "scores.csv").write_text("trace_id,score\nt-9,1\nt-10,0\n", encoding="utf-8")
    episodes, report = read_paths(log, tmp_path / "scores.csv")
    assert episodes["s"].utility == 1.0
    assert details(report, sessions.LONELY_SCORE, "notes") == ["session 't-10'"]


def test_late_lines_that_give_scores_by_trace_id(read):
    rows = [row | {"score": None, "status": None, "trace_id": "t-9"} for row in grown("s", 2)]
    late = [{"trace_id": "t-9", "score": 0.5}, {"trace_id": "t-9", "score": 85}, {"trace_id": "t-8", "score": 1}]
    episodes, report = read([*rows, *late])
    assert episodes["s"].utility == 0.5
    assert report["notes"][BAD_SCORE]["examples"][0]["source"] == "log0.jsonl:4"
    assert details(report, sessions.LONELY_SCORE, "notes") == ["session 't-8'"]


def test_files_of_scores_that_disagree_are_an_error(tmp_path):
    log = write(tmp_path / "log.jsonl", grown("s", 2))
    for name, score in (("a.csv", 0), ("b.csv", 1)):
        (tmp_path / name).write_text(f"session_id,score\ns,{score}\n", encoding="utf-8")
    episodes, report = read_paths(log, scores=[tmp_path / "a.csv", tmp_path / "b.csv"])
    assert not episodes
    assert details(report, BAD_SCORE) == ["two files of scores disagree on 's': 0 in a.csv:2 and 1 in b.csv:2"]


def test_a_file_of_scores_that_cannot_be_used(tmp_path):
    log = write(tmp_path / "log.jsonl", grown("s", 2))
    (tmp_path / "a.csv").write_text("session_id,score\ns,85\nx,y\n,1\ns,1\n", encoding="utf-8")
    report = read_paths(log, scores=[tmp_path / "a.csv"])[1]
    assert report["notes"][NO_SCORES]["n"] == 3
    assert "score must be a number in [-1, 1]" in details(report, NO_SCORES, "notes")[0]
    (tmp_path / "b.csv").write_text("name,points\ns,1\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"b.csv: no scores in it; give CSV or JSON Lines with a column"):
        read_paths(log, scores=[tmp_path / "b.csv"])
    (tmp_path / "c.csv").write_bytes("session_id,score\nStraße,1\n".encode("latin-1"))
    with pytest.raises(DatasetError, match=r"c.csv: is not UTF-8"):
        read_paths(log, scores=[tmp_path / "c.csv"])


# Doubles, order, files


@pytest.mark.parametrize("n_copies", [2, 5])
@pytest.mark.parametrize("key", [{"request_id": "r"}, {"id": "chatcmpl-7"}, {}])
def test_a_line_that_is_there_twice_is_one_call(read, key, n_copies):
    rows = grown("s", 2)
    rows[0] |= key
    episodes, report = read([*[rows[0]] * n_copies, rows[1]])
    assert len(episodes["s"].turns) == 2
    assert report["passed_over"][threads.DOUBLED]["n"] == n_copies - 1
    assert report["left_out"]["n_prompt"] == 100 * (n_copies - 1)


def test_a_line_of_the_same_id_with_another_time_is_one_call_and_what_it_says_of_the_session_counts(read):
    rows = grown("s", 2, score=None, status=None)
    rows[1] |= {"request_id": "r", "timestamp": 1.0}
    again = rows[1] | {"timestamp": 2.0, "score": 1.0}
    episodes, report = read([*rows, again])
    assert (len(episodes["s"].turns), episodes["s"].utility) == (2, 1.0)
    assert report["passed_over"][threads.DOUBLED]["n"] == 1


def test_of_a_call_that_is_logged_in_pieces_the_fullest_counts(read):
    rows = grown("s", 1)
    piece = rows[0] | {"request_id": "r", "response": "tr", "usage": {"prompt_tokens": 100, "completion_tokens": 2}}
    episodes, report = read([piece, rows[0] | {"request_id": "r"}])
    assert shown(episodes["s"]) == [("try 0", "")]
    assert report["passed_over"][threads.IN_PIECES]["n"] == 1


def test_an_id_that_is_that_of_the_session_drops_nothing(read):
    rows = [row | {"id": "conversation-1"} for row in grown("s", 3)]
    assert shown(read(rows)[0]["s"]) == THREE


@pytest.mark.parametrize("times", [[1, 2, 3], ["2025-01-01T00:00:01Z", "2025-01-01T02:00:02+02:00", 1735689603000]])
def test_calls_are_ordered_by_time(read, times):
    rows = [row | {"timestamp": time} for row, time in zip(grown("s", 3), times, strict=True)]
    rows[-1] |= {"score": None, "status": None}
    rows[0] |= {"score": 1.0}
    episodes, report = read([rows[2], rows[0], rows[1]])
    assert shown(episodes["s"]) == THREE
    assert report["notes"][threads.REORDERED]["n"] == 1


def test_calls_without_a_time_are_ordered_by_prompts_that_grow(read):
    rows = grown("s", 3)
    episodes, report = read([rows[1], rows[2], rows[0]])
    assert shown(episodes["s"]) == THREE
    assert report["notes"][threads.REGROWN]["n"] == 1


def test_times_that_contradict_the_prompts_do_not_count(read):
    rows = [row | {"timestamp": time} for row, time in zip(grown("s", 3), (3, 1, 2), strict=True)]
    episodes, report = read(rows)
    assert shown(episodes["s"]) == THREE
    assert report["notes"][threads.ODD_TIMES]["n"] == 1


def test_times_of_which_some_have_no_zone_are_not_compared(read):
    times = ("2025-01-01 12:00:00", "2025-01-01T11:00:00Z", "2025-01-01T13:00:00Z")
    rows = [row | {"timestamp": time} for row, time in zip(grown("s", 3), times, strict=True)]
    assert shown(read(rows)[0]["s"]) == THREE


def test_a_session_in_two_files(read):
    rows = grown("s", 3)
    assert shown(read(rows[:1], rows[1:])[0]["s"]) == THREE
    episodes, report = read(rows[1:], rows[:1])
    assert shown(episodes["s"]) == THREE
    assert report["notes"][threads.REGROWN]["n"] == 1


def test_files_that_overlap_of_which_one_has_the_score(read):
    rows = grown("s", 3)
    bare = [{key: value for key, value in row.items() if key not in ("score", "status")} for row in rows]
    episodes, report = read(bare[:3], rows[1:])
    assert shown(episodes["s"]) == THREE
    assert report["passed_over"][threads.DOUBLED]["n"] == 2


def test_an_id_that_is_used_again_in_another_file_is_another_session(read):
    monday = [call("1", [user("Say hi.")], "Monday", score=1.0)]
    tuesday = [call("1", [user("Another.")], "Tuesday", score=0.0)]
    episodes, report = read(monday, tuesday)
    assert {name: episode.utility for name, episode in episodes.items()} == {"1": 1.0, "1#2": 0.0}
    assert episodes["1"].variation != episodes["1#2"].variation
    assert details(report, threads.REUSED_ID, "notes") == ["'1' was used before in log0.jsonl:1"]


def test_a_whole_episode_of_an_id_that_was_used_is_another_session(read):
    def line(text):
        messages = [user(text), answer("a", model="small", usage={"prompt_tokens": 1, "completion_tokens": 1})]
        return {"session_id": "1", "messages": messages, "score": 1.0}

    assert list(read([line("one"), line("two"), line("two")])[0]) == ["1", "1#2"]


@pytest.mark.parametrize("start", [[system("Be kind.")], []])
def test_an_id_that_may_be_used_again_in_one_file_is_an_error(read, start):
    rows = [call("1", [*start, user(text)], text, score=score) for text, score in (("One.", 1.0), ("Two.", 0.0))]
    episodes, report = read(rows)
    assert not episodes
    assert report["rejected"][threads.UNCLEAR_ID]["n"] == 1
    assert report["n_rejected_turns"] == 2


def test_trials_of_one_question_under_one_id_are_an_error(read):
    rows = [call("q", [user("1+1?")], text, score=score) for text, score in (("3", 0.0), ("2", 1.0))]
    assert "has another score" in details(read(rows)[1], threads.UNCLEAR_ID)[0]


# Agents, branches, histories


def test_calls_of_another_agent_are_no_turns_of_the_main_one(read):
    boss, mason = [system("You are the boss."), user("Build.")], [system("You are the mason."), user("Lay bricks.")]
    rows = [
        call("t", boss, "I ask."),
        call("t", mason, "laid", model="big"),
        call("t", [*mason, answer("laid"), user("more")], "laid more", model="big"),
        call("t", [*boss, answer("I ask."), user("the mason says: laid")], "Done.", score=1.0),
    ]
    episodes, report = read(rows)
    assert shown(episodes["t"]) == [("I ask.", "the mason says: laid"), ("Done.", "")]
    assert episodes["t"].extra["sub_agent_calls"] == 2
    assert episodes["t"].extra["sub_agent_cost_usd"] == pytest.approx(0.0024)
    assert report["passed_over"][sessions.SUB_AGENTS]["usd"] == pytest.approx(0.0024)
    assert report["left_out"]["usd"] == pytest.approx(0.0024)
    _, report = read(rows, sub_agents="reject")
    assert "sub_agents=main" in details(report, sessions.SEVERAL_AGENTS)[0]


def in_time(*rows):
    return [row | {"timestamp": float(index)} for index, row in enumerate(rows, start=1)]


def parallel_agents():
    """The boss asks a mason and a painter at once; the mason asks a helper; the boss reads both answers, and ends."""
    boss, mason = [user("Build.")], [user("Lay bricks.")]
    return in_time(
        call("t", boss, "I ask."),
        call("t", mason, "help me", model="big", agent_id="mason", parent_id="boss"),
        call("t", [user("Paint.")], "painted", agent_id="painter", parent_id="boss"),
        call("t", [user("Carry.")], "carried", agent_id="helper", parent_id="mason", error="dropped"),
        call("t", [*mason, answer("help me"), user("carried")], "laid", agent_id="mason", parent_id="boss"),
        call("t", [*boss, answer("I ask."), user("laid, painted")], "Check.", model="big"),
        call("t", [*boss, answer("I ask."), user("laid, painted"), answer("Check."), user("ok")], "Done.", score=1.0),
    )


def test_calls_of_all_agents_as_turns_that_name_what_they_come_from(read):
    episodes, report = read(parallel_agents(), sub_agents="turns")
    episode = episodes["t"]
    assert [turn.action_text for turn in episode.turns] == [
        "I ask.",
        "help me",
        "painted",
        "carried",
        "laid",
        "Check.",
        "Done.",
    ]
    assert episode.parents == ((), (0,), (0,), (1,), (1, 3), (0, 2, 4), (5,))
    assert episode.extra["turn_agents"] == ["", "mason", "painter", "helper", "mason", "", ""]
    assert "sub_agent_calls" not in episode.extra
    assert [turn.utility_gain for turn in episode.turns] == [0.0] * 6 + [1.0]
    assert sessions.SUB_AGENTS not in report["passed_over"]
    assert report["notes"][sessions.OWN_TASK]["n"] == 3
    assert episode.cost_usd == pytest.approx(5 * 0.00012 + 2 * 0.0012)  # nothing billed is left out


def test_an_agent_that_ends_late_is_read_when_it_has_ended(read):
    boss = [user("Build.")]
    rows = in_time(
        call("t", boss, "I ask."),
        call("t", [user("Paint.")], "first coat", agent_id="painter", parent_id="boss"),
        call("t", [*boss, answer("I ask."), user("ok")], "I wait."),
        call("t", [user("Paint."), answer("first coat"), user("go on")], "second", agent_id="painter"),
        call("t", [*boss, answer("I ask."), user("ok"), answer("I wait."), user("painted")], "Done.", score=1.0),
    )
    assert read(rows, sub_agents="turns")[0]["t"].parents == ((), (0,), (0,), (1,), (2, 3))


def test_agents_that_only_prompts_tell_apart_come_from_the_main_one(read):
    boss, mason = [system("You are the boss."), user("Build.")], [system("You are the mason."), user("Lay bricks.")]
    rows = [
        call("t", boss, "I ask."),
        call("t", mason, "laid", model="big"),
        call("t", [*boss, answer("I ask."), user("the mason says: laid")], "Done.", score=1.0),
    ]
    assert read(rows, sub_agents="turns")[0]["t"].parents == ((), (0,), (0, 1))


def test_a_session_of_one_agent_is_the_same_chain_whatever_the_option_says(read):
    rows = grown("t", 3)
    assert read(rows, sub_agents="turns")[0] == read(rows)[0]
    assert [turn.parents for turn in read(rows, sub_agents="turns")[0]["t"].turns] == [None] * 3


def test_parents_that_lines_name_count(read):
    rows = [row | {"request_id": f"c{index}"} for index, row in enumerate(grown("t", 4))]
    rows[2]["parents"] = ["c0"]
    rows[3] |= {"parents": ["c2", "c1"]}
    turns = read(rows)[0]["t"].turns
    assert [turn.parents for turn in turns] == [None, None, (0,), (1, 2)]
    rows[3]["parents"] = []
    assert read(rows)[0]["t"].parents == ((), (0,), (0,), ())


def test_parents_that_lines_name_come_before_what_agents_tell(read):
    rows = [row | {"request_id": f"c{index}"} for index, row in enumerate(parallel_agents())]
    rows[5]["parents"] = ["c2"]
    assert read(rows, sub_agents="turns")[0]["t"].parents == ((), (0,), (0,), (1,), (1, 3), (2,), (5,))
    episodes, report = read(rows)
    assert [turn.parents for turn in episodes["t"].turns] == [None] * 3
    assert details(report, LEFT_PARENT, "notes") == ["'c2'"]


@pytest.mark.parametrize(
    ("parents", "what"),
    [
        (["c7"], "'c7', which is no call of the session; name earlier calls of the session by their request_id"),
        (["c1"], "'c1', which is the call itself"),
        (["c0", "c2"], "'c2', which is a later call"),
        ([""], "'', which is no call of the session"),
    ],
)
def test_a_parent_that_is_no_earlier_call_takes_its_session_with_it(read, parents, what):
    rows = [row | {"request_id": f"c{index}"} for index, row in enumerate(grown("t", 3))]
    rows[1]["parents"] = parents
    episodes, report = read(rows)
    assert not episodes
    (example,) = report["rejected"][BAD_PARENTS]["examples"]
    assert example["source"] == "log0.jsonl:2"
    assert f"parents names {what}" in example["detail"]


def test_agents_that_the_log_names(read):
    rows = grown("t", 2)
    side = [call("t", [user("Look up.")], "found", agent_id="a1", parent_id="main", timestamp=1.5)]
    rows = [row | {"timestamp": float(index)} for index, row in enumerate(rows, start=1)]
    episodes, report = read([rows[0], *side, rows[1]])
    assert len(episodes["t"].turns) == 2
    assert report["passed_over"][sessions.SUB_AGENTS]["n"] == 1


def test_a_call_beside_the_conversation_such_as_for_its_title(read):
    rows = grown("t", 2)
    title = call("t", [user("Write a title for: Fix it.")], "Fixing")
    episodes, report = read([rows[0], title, rows[1]])
    assert shown(episodes["t"]) == [("try 0", "no 0"), ("try 1", "")]
    assert report["passed_over"][sessions.SUB_AGENTS]["n"] == 1


@pytest.mark.parametrize("place", ["before", "after"])
def test_a_short_call_of_another_agent_before_or_after(read, place):
    rows = [row | {"messages": [system("S"), *row["messages"]]} for row in grown("t", 2)]
    title = call("t", [system("Make a title."), user("Fix it.")], "Fixing")
    episodes, report = read([title, *rows] if place == "before" else [*rows, title])
    assert shown(episodes["t"]) == [("try 0", "no 0"), ("try 1", "")]
    assert report["passed_over"][sessions.SUB_AGENTS]["n"] == 1


@pytest.mark.parametrize("chosen", [0, 1])
def test_of_several_answers_to_one_prompt_the_one_that_is_gone_on_from_comes_last(read, chosen):
    texts = ["A1", "A2"]
    rows = [
        call("t", [user("Q")], "A1"),
        call("t", [user("Q")], "A2", model="big"),
        call("t", [user("Q"), answer(texts[chosen]), user("go on")], "B", score=1.0),
    ]
    episodes, report = read(rows)
    assert shown(episodes["t"]) == [(texts[1 - chosen], ""), (texts[chosen], "go on"), ("B", "")]
    assert episodes["t"].cost_usd == pytest.approx(0.00144)
    assert report["notes"][threads.REPEATED]["n"] == 1
    assert (threads.OTHER_BRANCH in report["notes"]) == (chosen == 0)


def test_a_history_that_was_summarized(read):
    rows = [
        call("t", [user("Long task.")], "a1"),
        call("t", [user("Long task."), answer("a1"), user("o1")], "a2"),
        call("t", [user("Long task."), user("Summary: a1, a2."), user("o2")], "a3", score=1.0),
    ]
    episodes, report = read(rows)
    assert shown(episodes["t"]) == [("a1", "o1"), ("a2", "Summary: a1, a2.\n\no2"), ("a3", "")]
    assert report["notes"][threads.REWRITTEN]["n"] == 1


def test_a_history_that_was_cut_at_its_beginning(read):
    head = [system("S"), user("T")]
    rows = [
        call("t", head, "a1"),
        call("t", [*head, answer("a1"), user("o1")], "a2"),
        call("t", [system("S"), user("o1"), answer("a2"), user("o2")], "a3", score=1.0),
    ]
    assert shown(read(rows)[0]["t"]) == [("a1", "o1"), ("a2", "o2"), ("a3", "")]


def test_a_history_that_begins_anew_with_a_summary(read):
    rows = [
        call("t", [system("S"), user("T")], "a1"),
        call("t", [system("S"), user("T"), answer("a1"), user("o1")], "a2"),
        call("t", [system("S"), user("What was done: a1, a2. Go on.")], "a3"),
        call("t", [system("S"), user("What was done: a1, a2. Go on."), answer("a3"), user("o3")], "a4", score=1.0),
    ]
    episodes, report = read(rows)
    assert shown(episodes["t"]) == [("a1", "o1"), ("a2", "What was done: a1, a2. Go on."), ("a3", "o3"), ("a4", "")]
    assert report["notes"][threads.REWRITTEN]["n"] == 1


def test_an_answer_that_the_next_prompt_shows_in_two_messages_is_one_call(read):
    look = {"type": "function", "function": {"name": "look", "arguments": "{}"}}
    rows = [
        call("t", [user("Q")], {"role": "assistant", "content": "I look.", "tool_calls": [look]}),
        call(
            "t",
            [user("Q"), answer("I look."), answer(None, tool_calls=[look]), {"role": "tool", "content": "a door"}],
            "B",
            score=1.0,
        ),
    ]
    episodes, report = read(rows)
    assert [observation for _, observation in shown(episodes["t"])] == ["a door", ""]
    assert report["n_rejected"] == 0


def test_an_attempt_that_failed_without_usage_is_passed_over_and_one_that_was_billed_is_a_turn(read):
    rows = grown("t", 2)
    free = {key: value for key, value in rows[0].items() if key not in ("usage", "response")} | {"error": "429"}
    billed = rows[0] | {"response": None, "error": "cut off"}
    episodes, report = read([free, billed, *rows])
    assert shown(episodes["t"]) == [("", ""), ("try 0", "no 0"), ("try 1", "")]
    assert episodes["t"].turns[0].error == "cut off"
    assert report["passed_over"][NOT_BILLED]["n"] == 1
    assert report["left_out"]["n_unknown"] == 1


# What is mended, and what is not


def test_what_can_be_mended_is_mended_and_noted(read):
    odd = {"latency_s": -0.002, "seed": 3.0, "budget_usd": 0, "max_turns": 0, "timestamp": True, "error": {"code": 500}}
    row = grown("x", 1)[0] | odd | {"session_id": 42, "response": None, "task": 7}
    episodes, report = read([row])
    (episode,) = episodes.values()
    assert (episode.episode_id, episode.seed, episode.task) == ("42", 3, "7")
    assert (episode.max_turns, episode.budget_usd) == (UNLIMITED_TURNS, UNLIMITED_BUDGET_USD)
    assert episode.turns[0].error == '{"code": 500}'
    assert report["notes"][sessions.BAD_LATENCY]["examples"][0]["detail"] == "latency_s is -0.002"
    assert (report["notes"][NO_VALUE]["n"], report["notes"][NUMBER_ID]["n"]) == (3, 1)
    assert UNKNOWN_KEY not in report["notes"]


def test_limits_that_the_session_went_over(read):
    episodes, report = read(grown("s", 3, budget_usd=0.0001, max_turns=2, status="truncated"))
    assert (episodes["s"].budget_usd, episodes["s"].max_turns) == (pytest.approx(0.00036), 3)
    assert report["notes"][sessions.OVER_LIMIT]["n"] == report["notes"][sessions.OVER_TURNS]["n"] == 1


def test_a_null_answer_that_was_billed_and_one_at_the_end_of_the_prompt(read):
    rows = [call("a", [user("Q")], None, score=0.0), call("b", [user("Q"), answer("A")], None, score=1.0)]
    del rows[1]["response"]
    episodes, report = read(rows)
    assert shown(episodes["a"]) == [("", "")]
    assert shown(episodes["b"]) == [("A", "")]
    assert report["notes"][NO_RESPONSE]["n"] == report["notes"][ANSWER_IN_PROMPT]["n"] == 1


@pytest.mark.parametrize(
    "whole",
    [
        {
            "object": "chat.completion",
            "choices": [{"message": answer("A")}],
            "usage": {"prompt_tokens": 7, "completion_tokens": 1},
        },
        {
            "output": [{"type": "message", "role": "assistant", "content": "A"}],
            "usage": {"input_tokens": 7, "output_tokens": 1},
        },
        {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "A"}]},
        {"candidates": [{"content": {"role": "model", "parts": [{"text": "A"}]}}]},
    ],
)
def test_a_response_that_is_the_whole_object_of_an_endpoint(read, whole):
    row = call("s", [user("Q")], whole, score=1.0)
    if "usage" in whole:
        del row["usage"]
    episodes, _ = read([row])
    assert shown(episodes["s"]) == [("A", "")]
    assert episodes["s"].turns[0].usage.n_prompt == (7 if "usage" in whole else 100)


@pytest.mark.parametrize(
    ("response", "detail"),
    [
        (7, "response: must be a text, a message, or a list of its parts (is 7)"),
        ({"choices": [{}, {}]}, "response has 2 choices, must have one"),
        ({"message": "x"}, "has message and no content: a whole response"),
        ([answer("A"), answer("B")], "must be one answer, is 2 messages"),
    ],
)
def test_a_response_that_is_none(read, response, detail):
    assert detail in str(read([call("s", [user("Q")], response, score=1.0)])[1]["rejected"])


def test_a_call_that_cannot_be_read_takes_its_session_with_its_money(read):
    rows = grown("bad", 3)
    del rows[1]["model"]
    episodes, report = read([*rows, *grown("ok", 1)])
    assert list(episodes) == ["ok"]
    assert report["left_out"] == {
        "n_calls": 3,
        "n_unknown": 1,
        "n_prompt": 300,
        "n_output": 30,
        "usd": pytest.approx(0.00024),
    }


def test_remedies_come_with_the_money_that_they_bring_back(read):
    rows = [
        *grown("a", 1, score=None, status=None),
        *[row | {"model": "other", "usage": row["usage"] | {"cost": 5.0}} for row in grown("b", 2)],
    ]
    report = read(rows)[1]
    assert [(one["reason"], one["n"], one["usd"]) for one in report["remedies"]] == [
        ("model that the pool does not have", 1, pytest.approx(10.0)),
        (sessions.NO_END, 1, pytest.approx(0.00012)),
    ]
    assert report["remedies"][0]["fix"].startswith("add the model")


# The same words live


@pytest.mark.parametrize(
    "answers",
    [
        ["plain", "words"],
        [{"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a": 1}'}}, "done"],
        [
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "t"}, {"type": "tool_use", "name": "f", "input": {}}],
            },
            "d",
        ],
        [{"role": "assistant", "content": None, "refusal": "I will not."}, "d"],
    ],
)
def test_a_prompt_read_live_says_what_its_import_says(read, answers):
    messages, rows = [system("S"), user("T"), user("first")], []
    for index, text in enumerate(answers):
        rows.append(call("s", list(messages), text))
        messages += [answer(text) if isinstance(text, str) else text, user(f"o{index}")]
    rows[-1]["score"] = 1.0
    episode = read(rows)[0]["s"]
    talk = open_conversation(read_messages(rows[-1]["messages"]))
    assert (talk.system_text, talk.task_text, talk.first_observation) == (
        "S",
        episode.task_text,
        episode.first_observation,
    )
    assert [(one.action_text, one.observation_text) for one in talk.answers] == shown(episode)[:-1]


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_lines_and_files_changes_nothing(tmp_path, seed):
    rng = random.Random(seed)
    rows = [row | {"timestamp": index} for s in "abc" for index, row in enumerate(grown(s, rng.randint(1, 5)))]
    expected = read_paths(write(tmp_path / "in.jsonl", rows))[0]
    rng.shuffle(rows)
    cut = rng.randint(0, len(rows))
    parts = [write(tmp_path / name, part) for name, part in (("a.jsonl", rows[:cut]), ("b.jsonl", rows[cut:])) if part]
    found = read_paths(*parts)[0]
    assert json.dumps({k: shown(v) for k, v in sorted(found.items())}) == json.dumps(
        {k: shown(v) for k, v in sorted(expected.items())}
    )
