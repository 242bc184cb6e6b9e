"""What every training loop does alike: set the learning rate of an iteration, and refuse a loss that is no number."""

import math

from torch.optim import Optimizer

from mtrouter_rl.agents.parameters import LoopParameters
from mtrouter_rl.errors import InvalidConfigError


def set_learning_rate(optimizer: Optimizer, loop: LoopParameters, iteration: int) -> float:
    """Set the learning rate of an iteration, counted from 0; returns it."""
    learning_rate = loop.learning_rate_at(iteration)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    return learning_rate


def check_loss(loss: float, loop: LoopParameters, iteration: int) -> None:
    """Refuse to go on from a loss that is not finite.

    Raises:
        InvalidConfigError: If it is not.
    """
    if not math.isfinite(loss):
        raise InvalidConfigError(
            f"iteration {iteration}: the loss is {loss}, must be finite; the training diverges: lower learning_rate "
            f"(now {loop.learning_rate})"
        )
