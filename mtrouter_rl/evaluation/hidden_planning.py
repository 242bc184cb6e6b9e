"""Planning ahead with the simulator's hidden state: values of a plan by dynamic programming, one turn left after the other.

The value of standing before action i of the expert's plan with t turns left is that of the best model,

    V(i, t) = max over m of  -price(m, t) + s(i, m) [gain(i) + V(i + 1, t - 1)]
                             + f(i, m) . [what each kind of failure leaves, with t - 1 turns left]

with V = 0 at the end of the plan and without turns. Source: Bellman, Dynamic Programming (1957); finite-horizon backward
induction as in Puterman, Markov Decision Processes (1994), section 4.5.

It is a model of the simulation, not the simulation. What it takes to be simpler than it is:

* A success moves one action ahead on the plan of now, and brings what that action brings on the way that the expert knows.
  Where nobody knows what actions bring, all that is missing to full success is spread evenly over the plan.
* A malformed or an idle failure loses its turn and changes nothing else.
* A wandering or dropping failure loses its turn and has to be made up for by one further action, tried until it succeeds; what
  else may go wrong while doing so only loses turns.
* A fatal failure ends the task at the utility that the task names, or at the present one if it names none.
* Where only the due action is known, the plan is taken to be half as long as the turns left and to ask for the like all the
  way, with no model stuck at what comes later.
* Prompts grow by as many tokens a turn as they did so far. The next call is priced with the present prompt caches; in later
  turns the model that was called before reads all but the newest turn from its cache, and every other one reads nothing.
* Models get no more tired than they are. A burst of errors holds at the action that is due, and at no later one. Whoever is out
  of order now is left out now, and may be called from the next turn on.
* Models are stuck independently, even where a world draws it for all together; each belief is right by itself.
* The money left is not planned for: models that it forbids now are left out now.

So the policy that follows these values is good, and not the best there is: what it earns is a lower bound on what is possible.
"""

from dataclasses import dataclass

import numpy as np

from mtrouter_rl.cards import RewardCard
from mtrouter_rl.cards.pool import TOKENS_PER_PRICE_UNIT, PoolCard
from mtrouter_rl.pools.prompt_cache import billed_usage
from mtrouter_rl.protocols import HiddenState
from mtrouter_rl.records import FloatArray

_HARMLESS = ("malformed", "idle")
_UNDONE = ("wander", "drop")


@dataclass(frozen=True, kw_only=True)
class PlanningProblem:
    """What is planned over: L actions, T turns, M models, and K kinds of last model (M with a prompt cache, else 1).

    Attributes:
        success: Probability that a model does an action, shape (L, M).
        gains: Utility that an action brings, shape (L,).
        failures: Kind of failure -> its share among a model's failures at an action, shape (L, M).
        repairs: Kind of failure -> probability that a model makes up for it, shape (M,).
        fatal_gain: Utility gained by a fatal failure, usually negative, by position: shape (L,).
        prices: Price of a call in utility: entry t - 1 is that with t turns left, shape (T, K, M). The last one is that of the
            next call, whose caches are known.
    """

    success: FloatArray
    gains: FloatArray
    failures: dict[str, FloatArray]
    repairs: dict[str, FloatArray]
    fatal_gain: FloatArray
    prices: FloatArray


def action_values(problem: PlanningProblem) -> FloatArray:
    """Value of calling each model now and the best ones afterwards, shape (M,)."""
    _, n_last, n_models = problem.prices.shape
    n_actions = len(problem.gains)
    values = np.zeros((n_actions + 1, n_last))  # V(i, last) with the turns left of the loop
    undone = {kind: np.zeros((n_actions, n_last)) for kind in _UNDONE}
    called = np.arange(n_models) if n_last > 1 else np.zeros(n_models, dtype=int)
    due: FloatArray = np.zeros((n_actions, n_last, n_models))
    for price in problem.prices:
        due = _due(problem, price, values=values[:, called], undone={k: v[:, called] for k, v in undone.items()})
        undone = {
            kind: (
                -price
                + problem.repairs[kind] * values[:-1, None, called]
                + _missed(problem, kind, undone[kind][:, called])
            ).max(axis=2)
            for kind in _UNDONE
        }
        values = np.vstack([due.max(axis=2), np.zeros((1, n_last))])
    result: FloatArray = due[0, 0]
    return result


def _due(
    problem: PlanningProblem, price: FloatArray, *, values: FloatArray, undone: dict[str, FloatArray]
) -> FloatArray:
    """Value of each model before each action, shape (L, K, M); `values` (L + 1, M) are those of the state after the call."""
    after_failure = problem.failures["fatal"] * problem.fatal_gain[:, None]
    for kind in _HARMLESS:
        after_failure = after_failure + problem.failures[kind] * values[:-1]
    for kind in _UNDONE:
        after_failure = after_failure + problem.failures[kind] * undone[kind]
    after_success = problem.gains[:, None] + values[1:]
    expected = problem.success * after_success + (1 - problem.success) * after_failure
    result: FloatArray = expected[:, None, :] - price
    return result


def _missed(problem: PlanningProblem, kind: str, undone: FloatArray) -> FloatArray:
    """What a repair that fails leaves, shape (L, 1, M)."""
    result: FloatArray = ((1 - problem.repairs[kind]) * undone)[:, None, :]
    return result


def problem_of(
    hidden: HiddenState, *, turns_left: int, growth: float, pool: PoolCard, reward: RewardCard
) -> PlanningProblem:
    """Planning problem of a hidden state.

    Args:
        hidden: The state.
        turns_left: Turns left, the present one included, at least 1.
        growth: Tokens by which the prompt grows a turn.
        pool: Prices and prompt caches.
        reward: Cost weight and unit.
    """
    n_actions = len(hidden.actions) if hidden.is_whole_plan else max(1, -(-turns_left // 2))
    n_kept = min(n_actions, turns_left)  # what lies further ahead cannot be reached
    missing = max(1.0 - hidden.utility, 0.0)
    gains = np.full(n_actions, missing / n_actions) if hidden.gains is None else hidden.gains
    rows = np.minimum(np.arange(n_kept), len(hidden.actions) - 1)
    is_stuck = hidden.stuck[rows]
    is_stuck[len(hidden.actions) :] = False
    fatal = np.zeros(n_kept)
    if hidden.fatal_utility is not None:
        so_far = hidden.utility + np.concatenate([[0.0], np.cumsum(gains)])[:n_kept]
        fatal = hidden.fatal_utility - so_far
    return PlanningProblem(
        success=np.where(is_stuck, 0.0, hidden.success[rows]),
        gains=np.asarray(gains)[:n_kept],
        failures={kind: shares[rows] for kind, shares in hidden.failures.items()},
        repairs=dict(hidden.repairs),
        fatal_gain=fatal,
        prices=_prices(hidden, turns_left=turns_left, growth=growth, pool=pool)
        * (reward.cost_weight / reward.cost_unit_usd),
    )


def _prices(hidden: HiddenState, *, turns_left: int, growth: float, pool: PoolCard) -> FloatArray:
    """Expected price of a call in USD, shape (T, K, M): entry t - 1 is that with t turns left."""
    n_models = len(pool.models)
    n_last = n_models if pool.prompt_cache is not None else 1
    prices = np.empty((turns_left, n_last, n_models))
    for left in range(1, turns_left + 1):
        n_prompt = hidden.n_prompt_tokens + round(growth * (turns_left - left))
        for model in range(n_models):
            cold = _price(pool, model, hidden=hidden, n_prompt=n_prompt, n_cached=0)
            prices[left - 1, :, model] = cold
            if left == turns_left:
                n_cached = int(hidden.n_cached_tokens[model])
                prices[left - 1, :, model] = _price(pool, model, hidden=hidden, n_prompt=n_prompt, n_cached=n_cached)
            elif n_last > 1 and _is_cacheable(pool, n_prompt - round(growth)):
                n_cached = n_prompt - round(growth)
                prices[left - 1, model, model] = _price(
                    pool, model, hidden=hidden, n_prompt=n_prompt, n_cached=n_cached
                )
    return prices


def _is_cacheable(pool: PoolCard, n_tokens: int) -> bool:
    return pool.prompt_cache is not None and n_tokens >= pool.prompt_cache.min_tokens


def _price(pool: PoolCard, model: int, *, hidden: HiddenState, n_prompt: int, n_cached: int) -> float:
    prices = pool.models[model].prices
    usage = billed_usage(pool.prompt_cache, prices, n_prompt=n_prompt, n_cached=n_cached, n_output=0)
    return prices.cost_usd(usage) + float(hidden.n_output_tokens[model]) * prices.output / TOKENS_PER_PRICE_UNIT
