"""A coding agent in the manner of mini-swe-agent, routed: a model answers with a shell command, its output is the next message.

Three lines are what routing adds: `session.choose`, `session.record` and `session.finish`. The agent really runs the commands,
in an empty folder; a scripted double answers, so that the example needs no key. Run it with: python examples/mini_agent.py
"""

import re
import subprocess
import tempfile
from pathlib import Path

from openai import OpenAI

from mtrouter_rl.agents.resolve import resolve_router
from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.serving import LiveRouter, RoutingSession
from mtrouter_rl.testing.fake_llm import FakeLLM, FakeSettings

DONE = "COMPLETE_TASK"
SYSTEM = f"You solve tasks in a shell. Reply with one command in a bash block. When all is done: echo {DONE}"
SCRIPT = (
    "First I look.\n```bash\nls\n```",
    "Now I write it.\n```bash\necho 'print(40 + 2)' > answer.py && python3 answer.py\n```",
    "I check once more, with a slip.\n```bash\npython3 anwser.py\n```",
    f"All done.\n```bash\necho {DONE}\n```",
)


class Agent:
    """One task: ask, run, tell, until it is done or the turns are over."""

    def __init__(self, client: OpenAI, session: RoutingSession, folder: Path) -> None:
        """Take a client, a routing session, and the folder to work in."""
        self.client, self.session, self.folder = client, session, folder
        self.messages: list[dict[str, str]] = [{"role": "system", "content": SYSTEM}]

    def run(self, task: str, *, max_turns: int = 10) -> bool:
        """Whether it says that it is done."""
        self.messages.append({"role": "user", "content": task})
        for _ in range(max_turns):
            output = self.step()
            if output.startswith(DONE):
                return True
            self.messages.append({"role": "user", "content": output})
        return False

    def step(self) -> str:
        """Ask for a command and run it; gives its output."""
        decision = self.session.choose(self.messages)
        reply = self.client.chat.completions.create(model=decision.model, messages=self.messages)  # type: ignore[arg-type]
        answer = reply.choices[0].message.content or ""
        output = self.execute(answer)
        error = "failed_command" if output.startswith("exit code") else ""
        self.session.record(reply.usage.model_dump(), answer=answer, error=error)  # type: ignore[union-attr]
        print(decision.reason)
        self.messages.append({"role": "assistant", "content": answer})
        return output

    def execute(self, answer: str) -> str:
        """Output of the command in an answer."""
        commands = re.findall(r"```bash\n(.*?)\n```", answer, re.DOTALL)
        if len(commands) != 1:
            return "Reply with one command in a bash block."
        done = subprocess.run(
            commands[0], shell=True, cwd=self.folder, capture_output=True, text=True, timeout=30, check=False
        )
        return done.stdout if done.returncode == 0 else f"exit code {done.returncode}\n{done.stderr[-500:]}"


def main() -> None:
    """One task, in an empty folder."""
    pool = load_pool_card("corridor-three")
    router = LiveRouter(resolve_router("random", pool), pool, seed=0)
    with tempfile.TemporaryDirectory() as name, FakeLLM(FakeSettings(pool=pool, script=SCRIPT)) as double:
        client = OpenAI(base_url=double.base_url, api_key="none", max_retries=0)
        folder = Path(name)
        session = RoutingSession(router, budget_usd=0.05, max_turns=10, log=folder / "routed.jsonl")
        is_done = Agent(client, session, folder).run("Write a program that prints the answer.")
        session.finish(score=float(is_done))
        n_lines = len((folder / "routed.jsonl").read_text(encoding="utf-8").splitlines())
        print(f"done: {is_done}; {len(session.models)} calls, {session.spent_usd:.6f} USD, {n_lines} lines of log")


if __name__ == "__main__":
    main()
