"""Plug in a text task of your own without touching the package, and route one episode of it at random.

Shows the task protocol (`reset`, `step`, `close`, and an expert for simulated models), an environment card made in
Python, and what a logged episode holds. Run it with: python examples/custom_environment.py
"""

from collections.abc import Mapping, Sequence

from mtrouter_rl.agents.rules.heuristics import UniformRouter
from mtrouter_rl.cards import EnvCard, load_pool_card
from mtrouter_rl.envs.routing import EpisodeLimits, RoutingEnv
from mtrouter_rl.pools.simulated.backend import make_backend
from mtrouter_rl.protocols import TaskStart, TaskStep
from mtrouter_rl.records import EpisodeSpec
from mtrouter_rl.rollout import run_episode


class SafeTask:
    """Open a safe: press the digits of its code, each given as a sum. The alarm ends the task at -100."""

    max_score = 100.0

    def reset(self, task: str, variation: int, seed: int) -> TaskStart:
        """Start an episode; the variation decides the code."""
        self._code = [(variation * 7 + digit * 3) % 10 for digit in range(4)]
        self._n_pressed = 0
        return TaskStart(task_text=f"Open the {task}.", observation=self._show())

    def step(self, action_text: str) -> TaskStep:
        """Press a button. What is not understood is an error kind, never an exception."""
        if action_text == "kick safe":
            return TaskStep(observation="The alarm goes off.", score=-100.0, ending="failed")
        is_button = action_text in {f"press {digit}" for digit in range(10)}
        if action_text == self.expert_action():
            self._n_pressed += 1
        score = 100.0 * self._n_pressed / len(self._code)
        if self._n_pressed == len(self._code):
            return TaskStep(observation="The safe opens.", score=score, ending="solved")
        return TaskStep(observation=self._show(), score=score, error="" if is_button else "unknown_action")

    def expert_action(self) -> str:
        """What an expert would do now; simulated models imitate it."""
        return f"press {self._code[self._n_pressed]}"

    def mistakes(self) -> Mapping[str, Sequence[str]]:
        """Wrong actions by kind: "idle" loses a turn, "fatal" the game."""
        return {"idle": [f"press {(self._code[self._n_pressed] + 1) % 10}"], "fatal": ["kick safe"]}

    def close(self) -> None:
        """Nothing to release."""

    def _show(self) -> str:
        digit = self._code[self._n_pressed]
        return f"Digit {self._n_pressed + 1} is {digit // 2} plus {digit - digit // 2}."


CARD = EnvCard.model_validate(
    {
        "name": "safe",
        "description": "Four sums open a safe.",
        "family": "safe",
        "pool": "corridor-three",
        "system_prompt": "Open the safe. Reply with one action.",
        "train_tasks": {"safe": 10},
        "splits": {"variations_per_task": 10, "train": 0.6, "validation": 0.2, "seed": 42},
        "limits": {"max_turns": 12, "budget_usd": 0.1, "max_output_tokens": 512},
        "reward": {"cost_weight": 0.5, "cost_unit_usd": 0.01},
    }
)


def make_task(card: EnvCard) -> SafeTask:
    """What an entry point of group `mtrouter_rl.envs` names, so that cards with `family: safe` find the task."""
    return SafeTask()


def main() -> None:
    """Run one episode with a uniform router and print it."""
    pool = load_pool_card(CARD.pool)
    spec = EpisodeSpec(task="safe", variation=3, seed=1, split="train")
    env = RoutingEnv(
        task=make_task(CARD),
        backend=make_backend(pool, CARD),
        pool=pool,
        specs=[spec],
        system_prompt=CARD.system_prompt,
        limits=EpisodeLimits(**CARD.limits.model_dump()),
        reward=CARD.reward,
    )
    episode = run_episode(env, UniformRouter(name="uniform", model_names=pool.model_names), spec).episode
    env.close()
    print(f"{episode.task_text} {episode.first_observation}")
    for turn in episode.turns:
        print(f"  [{turn.model}, {turn.cost_usd:.6f} USD] {turn.action_text} -> {turn.observation_text}")
    print(f"utility {episode.utility:.2f} after {len(episode.turns)} turns for {episode.cost_usd:.6f} USD")


if __name__ == "__main__":
    main()
