"""The known way to an answer, and the expert that goes it: what is done is skipped, what failed or is missing is done."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from mtrouter_rl.envs.hle.actions import Tool


@dataclass(frozen=True, kw_only=True)
class PlanStep:
    """One tool call of a plan.

    Attributes:
        tool: Its tool.
        action: The text of the call.
        evidence: What shows that the step is done: the id of a document that was found or opened, or the output of a program.
        needs: Indices of the steps that have to be done before.
    """

    tool: Tool
    action: str
    evidence: str
    needs: tuple[int, ...] = ()

    def is_shown_by(self, tool: Tool, observation: str) -> bool:
        """Whether an answer of a tool shows that the step is done, whoever called it and however."""
        if tool != self.tool:
            return False
        if tool in ("search", "browse"):
            return f"[{self.evidence}]" in observation
        return self.evidence in observation.splitlines()


@dataclass(kw_only=True)
class Progress:
    """How far a plan is done in one episode.

    Attributes:
        steps: The plan; its last step is what the answer rests on.
        answer: The action that hands in the right answer.
        done: Indices of the steps that are done.
    """

    steps: Sequence[PlanStep]
    answer: str
    done: set[int] = field(default_factory=set)

    def record(self, tool: Tool, observation: str) -> None:
        """Learn what a tool answered to a call that it understood."""
        self.done |= {index for index, step in enumerate(self.steps) if step.is_shown_by(tool, observation)}

    def next_action(self) -> str:
        """What the expert does now: the first step that is still missing below the answer, else the answer.

        A step whose result is there already makes the steps that only lead to it unnecessary.
        """
        missing = self._missing(len(self.steps) - 1)
        return self.answer if missing is None else self.steps[missing].action

    def actions_left(self) -> tuple[str, ...]:
        """What the expert still does, the answer last, if every call shows what its step is there for."""
        ahead = Progress(steps=self.steps, answer=self.answer, done=set(self.done))
        actions = []
        while (missing := ahead._missing(len(self.steps) - 1)) is not None:
            actions.append(self.steps[missing].action)
            ahead.done.add(missing)
        return (*actions, self.answer)

    def _missing(self, index: int) -> int | None:
        if index in self.done:
            return None
        for need in self.steps[index].needs:
            missing = self._missing(need)
            if missing is not None:
                return missing
        return index
