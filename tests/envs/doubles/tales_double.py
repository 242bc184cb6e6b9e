"""Double of the interface of TALES' TextWorld environments: four values from step(), score and walkthrough in the info."""

from typing import Any, ClassVar

import gymnasium

ROOMS = ("kitchen", "pantry", "garden")


class CookingDouble(gymnasium.Env[str, str]):
    """Take some ingredients, then prepare the meal; the seed chooses the game, as in TALES."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, level, admissible_commands=False):
        self._level = level
        self._lists_commands = admissible_commands

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._walkthrough = [f"take item {(seed or 0) % 7 + i}" for i in range(self._level)] + ["prepare meal"]
        self._n_done, self._n_moves = 0, 0
        feedback = "You are hungry! Check the cookbook and prepare a meal.\n\n-= Kitchen =-"
        return feedback, self._infos(feedback)

    def step(self, command):
        self._n_moves += 1
        if self._n_done < len(self._walkthrough) and command == self._walkthrough[self._n_done]:
            self._n_done += 1
            feedback = "Your score has just gone up by one point."
        elif command in ("look", "inventory"):
            feedback = "-= Kitchen =-"
        else:
            feedback = "That's not a verb I recognise."
        infos = self._infos(feedback)
        return feedback, infos["score"], infos["won"] or infos["lost"], infos

    def _infos(self, feedback):
        infos = {
            "score": self._n_done,
            "max_score": len(self._walkthrough),
            "won": self._n_done == len(self._walkthrough),
            "lost": False,
            "feedback": feedback,
            "moves": self._n_moves,
            "extra.walkthrough": list(self._walkthrough),
        }
        if self._lists_commands:
            infos["admissible_commands"] = sorted({*self._walkthrough, "look", "inventory"})
        return infos


for number in range(1, 11):
    gymnasium.register(
        id=f"tales_double/TWCookingLevel{number}-v0",
        entry_point="tales_double:CookingDouble",
        kwargs={"level": number},
    )
