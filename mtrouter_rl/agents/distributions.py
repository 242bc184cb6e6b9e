"""Distributions over the allowed models: the last step of every router.

A router may only be asked where at least one model is allowed: the environment truncates the episode before that.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mtrouter_rl.errors import InvalidConfigError, MaskedActionError
from mtrouter_rl.records import BoolArray, FloatArray, Observation


def action_masks(observations: Sequence[Observation], n_models: int) -> BoolArray:
    """Allowed models of a batch of observations, shape (B, M).

    Args:
        observations: The B observations.
        n_models: M of the router's pool.

    Raises:
        InvalidConfigError: If an observation's mask has another length than M.
        MaskedActionError: If an observation allows no model at all.
    """
    masks = np.zeros((len(observations), n_models), dtype=np.bool_)
    for row, observation in enumerate(observations):
        mask = np.asarray(observation["action_mask"])
        if mask.shape != (n_models,):
            raise InvalidConfigError(
                f"observation {row}: action_mask has shape {mask.shape}, must be ({n_models},) as the router's pool; "
                "use an environment with the pool that the router was made for"
            )
        masks[row] = mask > 0
    forbidden = np.flatnonzero(~masks.any(axis=1))
    if forbidden.size:
        raise MaskedActionError(
            f"observation {forbidden[0]}: action_mask allows no model, must allow one; "
            "the environment has to truncate the episode instead of asking the router"
        )
    return masks


def uniform(masks: BoolArray) -> FloatArray:
    """Equal probability for every allowed model.

    Args:
        masks: Allowed models, shape (B, M).

    Returns:
        Probabilities, shape (B, M).

    Example:
        >>> uniform(np.array([[True, False, True]]))
        array([[0.5, 0. , 0.5]])
    """
    probabilities: FloatArray = masks / masks.sum(axis=1, keepdims=True)
    return probabilities


def greedy(values: FloatArray, masks: BoolArray) -> FloatArray:
    """Probability 1 for the allowed model of highest value; the lower index wins a tie.

    Args:
        values: Value of every model, shape (B, M).
        masks: Allowed models, shape (B, M).

    Returns:
        One-hot probabilities, shape (B, M).

    Example:
        >>> greedy(np.array([[3.0, 2.0, 2.0]]), np.array([[False, True, True]]))
        array([[0., 1., 0.]])
    """
    best = np.where(masks, values, -np.inf).argmax(axis=1)
    return one_hot(best, values.shape[1])


def one_hot(actions: npt.NDArray[np.integer], n_models: int) -> FloatArray:
    """Probability 1 for one model each: actions of shape (B,) to probabilities of shape (B, M)."""
    probabilities = np.zeros((len(actions), n_models))
    probabilities[np.arange(len(actions)), actions] = 1.0
    return probabilities


def softmax(logits: FloatArray, masks: BoolArray) -> FloatArray:
    """Softmax over the allowed models only, which is the full softmax renormalised.

    Args:
        logits: Logit of every model, shape (B, M).
        masks: Allowed models, shape (B, M).

    Returns:
        Probabilities in float64, shape (B, M).
    """
    allowed = np.where(masks, logits.astype(np.float64), -np.inf)
    weights = np.exp(allowed - allowed.max(axis=1, keepdims=True))
    probabilities: FloatArray = weights / weights.sum(axis=1, keepdims=True)
    return probabilities
