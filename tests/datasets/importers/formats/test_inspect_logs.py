import io
import json
import zipfile

import pyarrow as pa
import pytest

from mtrouter_rl.datasets.importers.formats import inspect_logs
from mtrouter_rl.errors import InvalidConfigError
from tests.cases import agent_logs as logs


def one(read, **fields):
    (episode,), report = read("inspect", {"a.json": logs.inspect_log(logs.inspect_sample(**fields))})
    return episode, report


def test_a_sample_is_an_episode_and_its_epoch_the_seed(read):
    samples = [logs.inspect_sample(), logs.inspect_sample(epoch=2, scores={"match": {"value": "I"}})]
    episodes, report = read("inspect", {"a.json": logs.inspect_log(*samples)})
    assert [(episode.seed, episode.utility) for episode in episodes] == [(1, 1.0), (2, 0.0)]
    assert len({episode.variation for episode in episodes}) == 1
    assert [turn.propensity for turn in episodes[0].turns] == [1.0, None]
    assert report.read.n_prompt == 600


@pytest.mark.parametrize(("value", "utility"), [("P", 0.5), (0.25, 0.25), (True, 1.0), ("N", 0.0), ("1", 1.0)])
def test_values_of_scores(read, value, utility):
    assert one(read, scores={"match": {"value": value}})[0].utility == utility


def test_several_scorers_need_a_name(read):
    scores = {"match": {"value": "C"}, "judge": {"value": {"style": 0.5, "truth": 1}}}
    log = logs.inspect_log(logs.inspect_sample(scores=scores))
    with pytest.raises(InvalidConfigError, match=r"scorer=\.\.\. \(judge\.style, judge\.truth, match\)"):
        read("inspect", {"a.json": log})
    (episode,), _ = read("inspect", {"a.json": log}, scorer="judge.style")
    assert episode.utility == 0.5
    episodes, report = read("inspect", {"a.json": log}, scorer="other")
    assert episodes == []
    assert "no score of 'other'" in str(report)


def test_endings(read):
    assert one(read, limit={"type": "token", "limit": 100})[0].turns[-1].truncated
    broke, _ = one(read, error={"message": "docker is gone"}, scores=None)
    assert (broke.status, broke.status_detail) == ("failed", "docker is gone")


def test_calls_of_graders_are_counted_and_no_turns(read):
    events = [
        *logs.inspect_sample()["events"],
        {"event": "span_begin", "id": "sp", "type": "scorers", "name": "scorers"},
        {"event": "span_begin", "id": "sq", "parent_id": "sp", "type": "scorer", "name": "judge"},
        logs.model_event(1, [logs.TASK], logs.DONE, uuid="e8", span_id="sq"),
        logs.model_event(0, [logs.TASK], logs.DONE, uuid="e9", role="grader"),
    ]
    episode, report = one(read, events=events)
    assert len(episode.turns) == 2
    assert (report.left_out.n_calls, report.left_out.n_prompt, report.left_out.n_output) == (2, 300, 30)


def test_prompts_that_point_into_a_pool_of_messages(read):
    sample = logs.inspect_sample()
    pool = sample["events"][1]["input"]
    for event, refs in zip(sample["events"], ([[0, 2]], [[0, 3], [3, 4]]), strict=True):
        event |= {"input": [], "input_refs": refs}
    episode, _ = one(read, events=sample["events"], events_data={"messages": pool, "calls": []})
    assert [turn.observation_text for turn in episode.turns] == ["bin etc", ""]


def test_answers_of_the_frameworks_cache_cost_nothing(read):
    sample = logs.inspect_sample()
    sample["events"][1]["cache"] = "read"
    episode, report = one(read, events=sample["events"])
    assert episode.turns[1].cost_usd == 0.0
    assert inspect_logs.CACHED_ANSWER in report.to_json()["notes"]


def test_a_sample_without_events(read):
    output = logs.model_event(0, [], logs.DONE)["output"]
    episode, _ = one(read, events=[], messages=[logs.TASK, logs.DONE], output=output)
    assert (len(episode.turns), episode.turns[0].usage.n_output) == (1, 10)
    sample = logs.inspect_sample(
        events=[], messages=[logs.TASK, logs.LOOK, logs.FOUND, logs.DONE], model_usage={"cheap": output["usage"]}
    )
    episodes, report = read("inspect", {"b.json": logs.inspect_log(sample)}, "b.json")
    assert episodes == []
    assert list(report.to_json()["rejected"]) == [inspect_logs.NO_EVENTS]
    assert report.left_out.n_prompt == 100


def test_samples_that_were_retried_or_marked_invalid(read):
    retries = [{"message": "x", "traceback": "", "events": logs.inspect_sample()["events"][:1]}]
    log = logs.inspect_log(
        logs.inspect_sample(error_retries=retries), logs.inspect_sample(id="q2", invalidation={"reason": "leak"})
    )
    episodes, report = read("inspect", {"a.json": log})
    assert len(episodes) == 1
    assert {inspect_logs.RETRIED, inspect_logs.INVALID} <= report.to_json()["passed_over"].keys()
    assert report.left_out.n_prompt == 100


def zstandard(data):
    """A .eval file whose members are packed with Zstandard, as newer versions write it."""
    plain = io.BytesIO(data)
    out = io.BytesIO()
    with zipfile.ZipFile(plain) as read_from, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:
        packed = {}
        for name in read_from.namelist():
            content = read_from.read(name)
            packed[name] = (content, pa.compress(content, codec="zstd", asbytes=True))
            archive.writestr(name, packed[name][1])
        for name, (content, small) in packed.items():
            info = archive.getinfo(name)
            info.compress_type, info.file_size, info.compress_size = 93, len(content), len(small)
    return out.getvalue()


def test_members_packed_with_zstandard(read):
    (episode,), _ = read("inspect", {"a.eval": zstandard(logs.inspect_zip())})
    assert len(episode.turns) == 2


def test_a_zip_that_is_no_log_or_broken(read):
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("x.txt", "x")
    files = {"a.json": logs.inspect_log(), "b.eval": other.getvalue(), "c.eval": logs.inspect_zip()[:200]}
    episodes, report = read("inspect", files)
    assert len(episodes) == 1
    assert set(report.to_json()["rejected"]) == {inspect_logs.NOT_AN_EVAL, inspect_logs.BROKEN_ZIP}


def test_a_broken_sample_in_a_zip_is_counted_and_the_rest_is_read(read):
    data = io.BytesIO(logs.inspect_zip())
    with zipfile.ZipFile(data, "a") as archive:
        archive.writestr("samples/9_epoch_1.json", json.dumps(logs.inspect_sample())[:50])
    episodes, report = read("inspect", {"a.eval": data.getvalue()})
    assert (len(episodes), report.n_rejected) == (1, 1)
