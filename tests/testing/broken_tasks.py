"""The toy corridor with one fault each; cards name it as family "broken_tasks:make_task"."""

import itertools
from dataclasses import replace

from mtrouter_rl.envs.corridor import CorridorTask
from mtrouter_rl.errors import CallOrderError, InvalidConfigError
from mtrouter_rl.protocols import TaskStep

OBSTACLES = {"short": 3, "middle": 6, "long": 9}
PIT = "jump into pit"


class Unseeded(CorridorTask):
    _numbers = itertools.count()

    def reset(self, task, variation, seed):
        start = super().reset(task, variation, seed)
        return replace(start, observation=f"{start.observation} {next(self._numbers)}")


class Leaking(CorridorTask):
    n_steps = 0

    def step(self, action_text):
        self.n_steps += 1
        step = super().step(action_text)
        return replace(step, observation=f"{step.observation} Step {self.n_steps}.")


class Hashed(CorridorTask):
    def reset(self, task, variation, seed):
        start = super().reset(task, variation, seed)
        return replace(start, observation=f"{start.observation} {hash('door')}")


class Nan(CorridorTask):
    def step(self, action_text):
        step = super().step(action_text)
        return step if step.ending else replace(step, score=float("nan"))


class AboveMax(CorridorTask):
    def step(self, action_text):
        step = super().step(action_text)
        return replace(step, score=150.0) if step.ending == "solved" else step


class Won(CorridorTask):
    def step(self, action_text):
        step = super().step(action_text)
        return replace(step, ending="won") if step.ending == "solved" else step


class GoesOn(CorridorTask):
    def step(self, action_text):
        if self._is_over and self._plan:
            return TaskStep(observation="The corridor is behind you.", score=0.0, ending="failed")
        return super().step(action_text)


class StartsItself(CorridorTask):
    def step(self, action_text):
        if not self._plan:
            self.reset("short", 0, 0)
        return super().step(action_text)


class IndexErrorBefore(CorridorTask):
    def step(self, action_text):
        _ = self._plan[0]
        return super().step(action_text)


class Strict(CorridorTask):
    def step(self, action_text):
        self._refuse_if_over()
        if action_text != "wait":
            _, _ = action_text.split(" ", 1)
        return super().step(action_text)


class NoNul(CorridorTask):
    def step(self, action_text):
        if "\0" in action_text:
            raise ValueError("embedded null byte")
        return super().step(action_text)


class Wordy(CorridorTask):
    def step(self, action_text):
        step = super().step(action_text)
        return replace(step, error="You cannot do that!" if step.error else "")


class Dictionary(CorridorTask):
    def step(self, action_text):
        return vars(super().step(action_text))


class Bytes(CorridorTask):
    def step(self, action_text):
        step = super().step(action_text)
        return replace(step, observation=step.observation.encode())


class Surrogate(CorridorTask):
    def reset(self, task, variation, seed):
        return replace(super().reset(task, variation, seed), task_text="walk \ud800")


class NoScale(CorridorTask):
    max_score = 0.0


class NoClose:
    max_score = 100.0
    reset = CorridorTask.reset
    step = CorridorTask.step

    def __init__(self, obstacles):
        pass


class Crashing(CorridorTask):
    def step(self, action_text):
        raise ZeroDivisionError("division by zero")


class Lazy(CorridorTask):
    def reset(self, task, variation, seed):
        self._is_odd = variation % 2 == 1
        return super().reset(task, variation, seed)

    def expert_action(self):
        due = super().expert_action()
        return "wait" if self._is_odd else due


class NoExpert:
    max_score = 100.0

    def __init__(self, obstacles):
        self._task = CorridorTask(obstacles)
        self.reset, self.step, self.close = self._task.reset, self._task.step, self._task.close


class Stubborn(CorridorTask):
    _n_steps = 0

    def reset(self, task, variation, seed):
        self._n_steps = 0
        return super().reset(task, variation, seed)

    def step(self, action_text):
        self._n_steps += 1
        return super().step(action_text)

    def expert_action(self):
        super().expert_action()
        return self._plan[self._n_steps] if self._n_steps < len(self._plan) else "wait"


class Confused(CorridorTask):
    def step(self, action_text):
        self._is_confused = action_text == "wait"
        return super().step(action_text)

    def reset(self, task, variation, seed):
        self._is_confused = False
        return super().reset(task, variation, seed)

    def expert_action(self):
        if self._is_confused:
            raise LookupError("no plan for this state")
        return super().expert_action()

    def mistakes(self):
        return {} if self._is_confused else super().mistakes()


class Advancing(CorridorTask):
    def reset(self, task, variation, seed):
        self._n_asked = 0
        return super().reset(task, variation, seed)

    def mistakes(self):
        self._n_asked += 1
        return super().mistakes()

    def step(self, action_text):
        step = super().step(action_text)
        return replace(step, observation=f"{step.observation} {self._n_asked}")


class Silly(CorridorTask):
    def mistakes(self):
        return super().mistakes() | {"silly": ("wait",)}


class EmptyKind(CorridorTask):
    def mistakes(self):
        return super().mistakes() | {"drop": ()}


class DeadlyIdle(CorridorTask):
    def mistakes(self):
        return {"idle": (PIT,)}


class ClosesOnce(CorridorTask):
    is_open = True

    def close(self):
        if not self.is_open:
            raise OSError("already closed")
        self.is_open = False


class ClosesForGood(CorridorTask):
    is_open = True

    def reset(self, task, variation, seed):
        if not self.is_open:
            raise CallOrderError("it was closed")
        return super().reset(task, variation, seed)

    def close(self):
        self.is_open = False


class FewVariations(CorridorTask):
    def reset(self, task, variation, seed):
        if variation > 12:
            raise InvalidConfigError(f"no variation {variation}")
        return super().reset(task, variation, seed)


class TooLong(CorridorTask):
    def reset(self, task, variation, seed):
        start = super().reset(task, variation, seed)
        return replace(start, observation=start.observation + "x" * 1_000_000)


def make_task(card):
    """Task with the fault that the card's settings name."""
    return globals()[card.settings["fault"]](OBSTACLES)
