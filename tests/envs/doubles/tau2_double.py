"""Double of tau2's AgentGymEnv: text in and out, reward at the end, policy and tools in the info, no truncation."""

import re
from typing import Any, ClassVar

import gymnasium

ORDERS = {"0": "A1", "1": "B2", "2": "C3", "3": "D4", "4": "E5"}


class AgentGymEnv(gymnasium.Env[str, str]):
    """A customer wants one order cancelled and thanks for it; anything else that is said is asked again."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, domain, task_id, max_steps=100, solo_mode=False, user_llm=None, user_llm_args=None):
        if domain not in ("retail", "airline") or task_id not in ORDERS:
            raise ValueError(f"No task found with id {task_id} for domain {domain}")
        self._domain, self._task_id, self._max_steps = domain, task_id, max_steps

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self._cancelled, self._n_steps, self._is_done = set(), 0, False
        return f"user: Please cancel order {ORDERS[self._task_id]}.", self._get_info()

    def step(self, action):
        if self._is_done:
            return "", 0.0, True, False, self._get_info()
        self._n_steps += 1
        if action.startswith("{"):
            return "Invalid action with error: no tool call", 0.0, False, False, self._get_info()
        call = re.fullmatch(r"cancel_order\(order_id='(\w+)'\)", action)
        if call:
            self._cancelled.add(call[1])
            text = "tool: cancelled"
        else:
            self._is_done = "anything else" in action
            text = "user: No, thanks. ###STOP###" if self._is_done else "user: Just cancel it."
        self._is_done |= self._n_steps >= self._max_steps
        reward = float(self._is_done and self._cancelled == {ORDERS[self._task_id]})
        return text, reward, self._is_done, False, self._get_info()

    def _get_info(self):
        return {
            "task": object(),
            "simulation_run": "{}" if self._is_done else {},
            "tools": [],
            "policy": f"You serve customers of the {self._domain} domain.",
        }
