"""An agent that asks a router before every call, and learns from its own log: train, route, log, import, train again.

The agent is a loop in the manner of small coding agents: a model answers with a command, the command is run, its output is the
next message. Here `call_model` and `run_command` only pretend, so that the example needs no key. Run it with:
python examples/agent_session.py
"""

import random
import sys
import tempfile
from pathlib import Path

from mtrouter_rl.cards import load_agent_card, load_pool_card
from mtrouter_rl.datasets.importers.run import ImportRequest, import_log
from mtrouter_rl.datasets.logged import logged_env
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.serving import RoutingSession, load_router
from mtrouter_rl.workflows import TrainRequest, train_router

sys.path.insert(0, str(Path(__file__).parent))
from make_agent_log import write_log


def call_model(model: str, messages: list[dict[str, str]]) -> tuple[str, dict[str, int]]:
    """Stands for your client, such as `client.chat.completions.create(model=model, messages=messages)`."""
    n_prompt = sum(len(message["content"]) for message in messages) // 4
    return f"sed -i s/teh/the/ src/part_{len(messages)}.py", {"prompt_tokens": n_prompt, "completion_tokens": 20}


def run_command(command: str, rng: random.Random) -> str:
    """Stands for running the command."""
    return "ok: tests of this step pass" if rng.random() < 0.7 else f"error: exit code 1 after {command}"


def agent(session: RoutingSession, task: str, rng: random.Random) -> None:
    """One task: four steps that must pass, nine calls at most."""
    messages = [{"role": "system", "content": "You are a coding agent."}, {"role": "user", "content": task}]
    n_done = 0
    for _ in range(9):
        decision = session.choose(messages)
        command, usage = call_model(decision.model, messages)
        session.record(usage, answer=command)
        output = run_command(command, rng)
        n_done += output.startswith("ok")
        if n_done == 4:
            break
        messages += [{"role": "assistant", "content": command}, {"role": "user", "content": output}]
    session.finish(score=float(n_done == 4))


def train(log: Path, out: Path, policy: str) -> Path:
    """A router from an imported log."""
    config = logged_env(Dataset.load(log).info, cost_weight=0.4, cost_unit_usd=0.01)
    card = load_agent_card(policy)
    return train_router(TrainRequest(agent=card, config=config, seed=0, out=out, dataset=log), show_progress=False)


def main() -> None:
    """Train on a made-up log, route ten tasks, and train on what was routed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_log(folder, n_sessions=60)
        pool = load_pool_card(folder / "my-pool.yaml")
        first = ImportRequest(
            format="openai-pairs",
            paths=(folder / "calls.jsonl",),
            scores=(folder / "scores.csv",),
            pool=pool,
            out=folder / "log",
        )
        import_log(first, show_progress=False)
        router = load_router(train(folder / "log", folder / "router", "turn-ridge"), explore=0.3)
        rng = random.Random(0)
        for number in range(10):
            session = RoutingSession(router, budget_usd=0.05, log=folder / "routed.jsonl", session_id=f"task-{number}")
            agent(session, f"Issue {number}: fix the typo in the parser.", rng)
        print(f"last session: {', '.join(session.models)} for {session.spent_usd:.6f} USD (made-up prices)")
        routed = ImportRequest(
            format="openai-jsonl",
            paths=(folder / "routed.jsonl",),
            pool=pool,
            out=folder / "routed",
            options={"propensities": "exact"},
        )
        report = import_log(routed, show_progress=False)
        print(f"routed log: {report.n_episodes} episodes with {report.n_turns} calls, {report.n_rejected} left out")
        again = train(folder / "routed", folder / "again", "turn-ridge")
        print(f"trained again: {load_router(again).name}")


if __name__ == "__main__":
    main()
