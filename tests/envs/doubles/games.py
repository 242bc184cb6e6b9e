"""A small Gymnasium game in text, with every way to tell things apart that the adapter reads, and faults on demand."""

from typing import Any, ClassVar

import gymnasium
from gymnasium import spaces


class Ladder(gymnasium.Env[dict[str, Any], str]):
    """Climb a ladder: "up" and "down" move, "jump" is the end. The level (seed, option or argument) is the height - 2."""

    observation_space = spaces.Dict({"text": spaces.Text(100), "mission": spaces.Text(100)})
    action_space = spaces.Text(100)
    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, level=None, fault="", crashing_levels=(), limit=None, shape="dict"):
        self._level, self._fault, self._crashing, self._limit, self._shape = level, fault, crashing_levels, limit, shape
        if fault == "constructor":
            raise RuntimeError("no display")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self._fault == "reset":
            raise RuntimeError("server is down")
        self.level = next(one for one in ((options or {}).get("level"), self._level, seed) if one is not None)
        self._height, self._place, self._n_steps = 2 + int(self.level) % 5, 0, 0
        return self._observation("You stand below a ladder."), self._info("")

    def step(self, action):
        self._n_steps += 1
        if self._fault == "step" or (self.level in self._crashing and self._n_steps == 2):
            raise RuntimeError("the ladder breaks")
        moves = {"up": 1, "down": -1, "jump": 0}
        before = self._place
        self._place = max(self._place + moves.get(action, 0), 0)
        is_top, is_jump = self._place == self._height, action == "jump"
        text = "You are at the top." if is_top else "You fall." if is_jump else f"You are on rung {self._place}."
        if action not in moves:
            text = f"I don't know how to {action[:20]!r}. {text}"
        truncated = self._limit is not None and self._n_steps >= self._limit
        info = self._info(action)
        if self._fault == "four":
            return self._observation(text), 0.0, is_top or is_jump, info
        if self._fault == "three":
            return self._observation(text), 0.0, info
        reward = (self._place - before) / self._height
        return self._observation(text), reward, is_top or is_jump, truncated, info

    def _observation(self, text):
        if self._fault == "bytes":
            return text.encode()
        return text if self._shape == "text" else {"text": text, "mission": "Climb the ladder."}

    def _info(self, action):
        info = {
            "score": self._place,
            "max_score": self._height,
            "won": self._place == self._height,
            "invalid": action not in ("", "up", "down", "jump"),
            "policy_commands": ["up"] * (self._height - self._place),
            "walkthrough": ["up"] * self._height,
            "fatal": ["jump"],
            "goal": "Reach the top.",
            "nothing": None,
        }
        return {key: value for key, value in info.items() if key != self._fault}


gymnasium.register(id="games/Ladder-v0", entry_point="games:Ladder", max_episode_steps=1)
