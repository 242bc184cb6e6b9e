"""A log without one of its models: what a router can learn of the others, as if that model had not been in the pool."""

import dataclasses
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.records import Frozen

if TYPE_CHECKING:
    from mtrouter_rl.transitions.arrays import Transitions

HeldOutHistory = Literal["keep", "cut"]
"""What becomes of the turns that follow a turn of the held-out model in a logged episode.

"keep": they are learned from. Where an episode goes from a state does not depend on who led there, so an off-policy target
stays right; but their histories tell of the model, and no episode of a pool without it would.
"cut": an episode is learned from up to the first turn of the model, and the value of the state before that turn is
bootstrapped. Under uniform routing that is a log of the pool without the model, whose episodes are stopped at random, and
nothing of the model is left in it. The price: with M models a turn t is still there with probability (1 - 1/M)^t, so late turns
are all but gone from long episodes.
"""


class HoldOut(Frozen):
    """Which model is held out of a training, and how.

    Attributes:
        model: Its name.
        n_episodes: Logged episodes, drawn at random, in which its turns are learned from all the same; with 0 it is left out
            altogether, and no target may call it.
        seed: Of that draw. A larger draw of the same seed holds the smaller one.
        history: See `HeldOutHistory`; the drawn episodes are always whole.
    """

    model: str
    n_episodes: Annotated[int, Field(ge=0)] = 0
    seed: Annotated[int, Field(ge=0)] = 0
    history: HeldOutHistory = "keep"

    def opened(self, n_logged: int) -> npt.NDArray[np.bool_]:
        """In which of the logged episodes, completed and with a turn, the model's turns are learned from; shape (n_logged,).

        Raises:
            InvalidConfigError: If the log has fewer episodes than are to be drawn.
        """
        if self.n_episodes > n_logged:
            raise InvalidConfigError(
                f"model '{self.model}' is to be learned from in {self.n_episodes} episodes, and the log has {n_logged}; ask "
                "for fewer episodes"
            )
        chosen = np.zeros(n_logged, dtype=np.bool_)
        chosen[np.random.default_rng(self.seed).permutation(n_logged)[: self.n_episodes]] = True
        return chosen


def hold_out(transitions: "Transitions", held_out: HoldOut, *, index: int) -> "Transitions":
    """Transitions without those of a model, or with those of few episodes.

    With no episode opened, the model is masked in every state: targets take the maximum over the others, its row of the
    network gets no gradient, and its residual stays 0. A state that only the held-out model could act in ends the episode, as
    the environment does in a pool without it. With opened episodes the masks stay: the router is for the whole pool, so the
    model counts in every target, learned from few turns.

    Logged returns are left as they are. They hold what the model did later in its episodes, and they are what the first
    iterations regress where there is a warm start; fitted-Q iteration replaces them step by step.

    Args:
        transitions: The whole log.
        held_out: The model, and how.
        index: Action of the model.

    Raises:
        InvalidConfigError: If the log has no turn of the model, nothing is left without it, or it has too few episodes.
    """
    is_its_own = transitions.actions == index
    if not is_its_own.any():
        raise InvalidConfigError(
            f"the log has no turn of model '{held_out.model}', so holding it out changes nothing; name another model"
        )
    n_logged = int(transitions.episodes.max()) + 1
    is_open = held_out.opened(n_logged)[transitions.episodes]
    is_left_out = is_its_own if held_out.history == "keep" else _from_first_on(transitions, is_its_own)
    keep = is_open | ~is_left_out
    if not keep.any():
        raise InvalidConfigError(f"nothing is left of the log without model '{held_out.model}'; collect a longer one")
    rest = transitions if held_out.n_episodes else _masked(transitions, index)
    return rest.where(keep)


def _from_first_on(transitions: "Transitions", chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Whether a transition is chosen or follows a chosen one of its episode; transitions lie in the order of their turns."""
    before = np.cumsum(chosen)
    at_start: npt.NDArray[np.int64] = (before - chosen)[transitions.turns == 0][transitions.episodes]
    from_first: npt.NDArray[np.bool_] = before > at_start
    return from_first


def _masked(transitions: "Transitions", index: int) -> "Transitions":
    """The same with the model forbidden everywhere.

    The row after an episode's last turn allows everything, which is told by bits that are all 0; without the model it has to
    name the others, since a target may bootstrap from it.
    """
    bits = transitions.allowed_bits.astype(np.uint8)
    is_last = ~bits.any(axis=1)
    bits[is_last] = 1
    bits[:, index] = 0
    is_stuck: npt.NDArray[np.bool_] = np.asarray(~bits.any(axis=1))
    terminals = np.maximum(transitions.terminals, is_stuck[transitions.rows + 1].astype(np.float32))
    return dataclasses.replace(transitions.with_allowed(bits), terminals=terminals)
