"""Turns of a log as a model of its world is made of them: what was due before each, and what came of it."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.factored.kinds import agreement
from mtrouter_rl.cards import load_agent_card
from mtrouter_rl.ope.inputs import OpeLog
from mtrouter_rl.records import BoolArray, FloatArray

IntArray = npt.NDArray[np.int64]

_CARD = "factored-q"
_USEFUL = 0.5


@dataclass(frozen=True, kw_only=True)
class WorldTurns:
    """N turns of a log, episode after episode, as a model of its world is made of them.

    Attributes:
        due: Probability of every kind before the turn, shape (N, K).
        use: How far the turn did what was due, in [0, 1], shape (N,).
        actions: Model that was called, shape (N,).
        gains: Utility gained, shape (N,).
        costs: Expected cost of a call of every model, USD, shape (N, M).
        turns: Turn index, shape (N,).
        ended: Whether the task itself ended with the turn, shape (N,).
        tasks: Number of the task, shape (N,).
        clusters: Number of the (task, variation), shape (N,).
        wasted: Calls of every model since the last useful turn, shape (N, M).
        last: Model of the turn before, M at the first turn, shape (N,).
    """

    due: FloatArray
    use: FloatArray
    actions: IntArray
    gains: FloatArray
    costs: FloatArray
    turns: IntArray
    ended: BoolArray
    tasks: IntArray
    clusters: IntArray
    wasted: IntArray
    last: IntArray

    @classmethod
    def of(
        cls,
        *,
        due: FloatArray,
        kinds: IntArray,
        is_error: BoolArray,
        actions: IntArray,
        gains: FloatArray,
        costs: FloatArray,
        turns: IntArray,
        ended: BoolArray,
        tasks: IntArray,
        clusters: IntArray,
    ) -> "WorldTurns":
        """From what was logged; `kinds` is the kind that was done and `is_error` whether it was an error, shape (N,)."""
        use = agreement(due, kinds, is_error)
        wasted, last = _run_through(actions, use > _USEFUL, turns == 0, n_models=costs.shape[1])
        return cls(
            due=due,
            use=use,
            actions=actions,
            gains=gains,
            costs=costs,
            turns=turns,
            ended=ended,
            tasks=tasks,
            clusters=clusters,
            wasted=wasted,
            last=last,
        )

    @property
    def is_useful(self) -> BoolArray:
        """Whether the turn rather did what was due than not, shape (N,)."""
        return np.asarray(self.use > _USEFUL)

    @property
    def kinds(self) -> IntArray:
        """The kind that was most likely due, shape (N,)."""
        return np.asarray(self.due.argmax(axis=1), dtype=np.int64)

    def where(self, keep: BoolArray) -> "WorldTurns":
        """Some turns: whole episodes."""
        return dataclasses.replace(
            self, **{one.name: getattr(self, one.name)[keep] for one in dataclasses.fields(self)}
        )


def _run_through(
    actions: IntArray, useful: BoolArray, starts: BoolArray, *, n_models: int
) -> tuple[IntArray, IntArray]:
    """Calls of every model since the last useful turn, and the model of the turn before."""
    wasted = np.zeros((len(actions), n_models), dtype=np.int64)
    last = np.full(len(actions), n_models, dtype=np.int64)
    for turn in range(1, len(actions)):
        if starts[turn]:
            continue
        last[turn] = actions[turn - 1]
        if not useful[turn - 1]:
            wasted[turn] = wasted[turn - 1]
            wasted[turn, actions[turn - 1]] += 1
    return wasted, last


def turns_of_log(run: OpeLog, *, say: Callable[[str], None], show_progress: bool) -> WorldTurns:
    """Learn what was due before every turn of a log, and gather the rest.

    Raises:
        InvalidConfigError: If the log has no token counts, which expected costs are made of.
    """
    from mtrouter_rl.agents.factored.factored_q import FactoredQ

    context = TrainingContext(
        pool=run.request.pool,
        reward=run.request.reward,
        seed=run.request.seed,
        dataset=run.dataset,
        features=run.features,
        show_progress=show_progress,
    )
    judged = FactoredQ.from_card(load_agent_card(_CARD)).judged(context, run.transitions, say=say)
    columns, transitions = judged.log, judged.transitions
    return WorldTurns.of(
        due=judged.due,
        kinds=judged.kinds.of_log(columns.words),
        is_error=columns.is_error,
        actions=transitions.actions,
        gains=transitions.utility_gains.astype(np.float64),
        costs=judged.tokens.costs_usd(columns.sizes, columns.warm.astype(np.float64), run.request.pool),
        turns=transitions.turns,
        ended=columns.terminated,
        tasks=run.strata[transitions.episodes],
        clusters=run.clusters[transitions.episodes],
    )
