"""Routers that play a `LoggedWorld`, and how far what they earn there can be trusted: the estimator `am`.

A router is asked at the turns of the log. In the model it does what it did there in such states: its mean choice where task,
kind of action, model of the turn before, and useless calls of every model since the last useful turn are the same, or as
many of these as the log has at least four turns of. All routers play with the same random numbers, so that differences of
routers have less noise.

The error is worked out from the log. A tenth of the (task, variation) is left out and all is made anew without it, ten
times (a jackknife by groups): this holds the sampling of tasks and of rates. And the policy that made the log is played
too. How far it lands from what was logged, as a whole and beyond chance from task to task, is what the model does wrong.

Source: Kott, The Delete-a-Group Jackknife (2001).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mtrouter_rl.agents.factored.stuck import Stuckness
from mtrouter_rl.cards import RewardCard
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.ope.logged_turns import IntArray, WorldTurns
from mtrouter_rl.ope.logged_world import LoggedWorld, success_and_stuckness, worlds_without
from mtrouter_rl.ope.sequential import OpeEstimate
from mtrouter_rl.ope.trajectory_arrays import with_return
from mtrouter_rl.records import BoolArray, FloatArray

N_GROUPS = 10
"""Groups of (task, variation) of the jackknife, at most."""
_EPISODES, _EPISODES_PER_LOGGED, _FEWEST_A_PATH = 4000, 10, 10
_FEWEST_TURNS = 4
_MOST_WASTED = 2
_KINDS = 32
"""More than there are kinds of action; see `ActionKinds`."""
_DRAWS = 3
"""Numbers of a turn beside those of who is stuck next: which model, is the episode over, is the turn of use."""
_WORLD_STREAM, _HASH_STREAM, _NOISE_STREAM, _LEVEL_STREAM, _OWN_STREAM = 5, 6, 7, 8, 9


@dataclass(frozen=True, kw_only=True)
class Habits:
    """What a policy does in states of a log, from the most alike states to the least.

    Attributes:
        cells: For every level the sorted numbers of its cells, shape (C,).
        choices: For every level the mean probabilities there, shape (C, M).
        weights: What turns states into numbers of cells.
    """

    cells: tuple[IntArray, ...]
    choices: tuple[FloatArray, ...]
    weights: IntArray

    @classmethod
    def of(cls, log: WorldTurns, probabilities: FloatArray) -> "Habits":
        """From the probabilities of the policy at the turns of a log, shape (N, M)."""
        n_models = probabilities.shape[1]
        weights: IntArray = np.random.default_rng(_HASH_STREAM).integers(1, 2**40, size=(n_models,))
        cells, choices = list[IntArray](), list[FloatArray]()
        levels = _cells(log.tasks, log.kinds, log.wasted, log.last, weights)
        for number, level in enumerate(levels):
            found, places, counts = np.unique(level, return_inverse=True, return_counts=True)
            sums = [np.bincount(places, weights=probabilities[:, model]) for model in range(n_models)]
            keep = counts >= (_FEWEST_TURNS if number < len(levels) - 1 else 1)
            cells.append(found[keep])
            choices.append((np.stack(sums, axis=1) / counts[:, None])[keep])
        return cls(cells=tuple(cells), choices=tuple(choices), weights=weights)

    def probabilities(self, tasks: IntArray, kinds: IntArray, wasted: IntArray, last: IntArray) -> FloatArray:
        """What the policy would do in states, shape (B, M)."""
        chosen = np.empty((len(kinds), self.choices[0].shape[1]))
        is_open = np.arange(len(kinds))
        for level, cells, choices in zip(
            _cells(tasks, kinds, wasted, last, self.weights), self.cells, self.choices, strict=True
        ):
            if not len(cells):
                continue
            places = np.minimum(np.searchsorted(cells, level[is_open]), len(cells) - 1)
            is_found = cells[places] == level[is_open]
            chosen[is_open[is_found]] = choices[places[is_found]]
            is_open = is_open[~is_found]
        return chosen


def _cells(
    tasks: IntArray, kinds: IntArray, wasted: IntArray, last: IntArray, weights: IntArray
) -> tuple[IntArray, ...]:
    """Numbers of the cells of states, level by level; the last level has one cell for all."""
    n_last = wasted.shape[1] + 1
    code = (np.minimum(wasted, _MOST_WASTED) @ weights) % 2**40
    total = np.minimum(wasted.sum(axis=1), _MOST_WASTED + 1)
    by_last = (kinds * n_last + last) * 2**40
    return (
        tasks * _KINDS * n_last * 2**40 + by_last + code,
        by_last + code,
        kinds * 2**40 + code,
        by_last + total,
        kinds * 2**40 + total,
        kinds,
        np.zeros_like(kinds),
    )


@dataclass(frozen=True, kw_only=True)
class Played:
    """Mean utility and cost (USD) of a policy on every path of a world, shape (V, 2)."""

    means: FloatArray
    weights: FloatArray

    @property
    def value(self) -> FloatArray:
        """Mean over logged episodes, shape (2,)."""
        value: FloatArray = self.weights @ self.means
        return value


@dataclass(frozen=True, kw_only=True)
class Luck:
    """Uniform numbers of every path: the same, whatever else is played and whoever plays.

    Attributes:
        clusters: Numbers of the (task, variation), sorted, shape (V,).
        numbers: Of every path, episode and turn, in the last row of who is stuck at first, shape (V, n, T + 1, 3 + M + 2).
    """

    clusters: IntArray
    numbers: npt.NDArray[np.float32]

    @classmethod
    def of(cls, log: WorldTurns, *, n_turns: int, seed: int) -> "Luck":
        """Of all (task, variation) of a log: ten times as many episodes as it has, within bounds."""
        clusters = np.unique(log.clusters)
        n_episodes = min(_EPISODES, _EPISODES_PER_LOGGED * int((log.turns == 0).sum()))
        shape = (max(n_episodes // len(clusters), _FEWEST_A_PATH), n_turns + 1, _DRAWS + log.costs.shape[1] + 2)
        streams = (np.random.default_rng([_WORLD_STREAM, seed, cluster]) for cluster in clusters.tolist())
        return cls(clusters=clusters, numbers=np.stack([one.random(shape, dtype=np.float32) for one in streams]))

    def of_paths(self, clusters: IntArray) -> npt.NDArray[np.float32]:
        """Of some (task, variation), path after path, shape (B, T + 1, 3 + M + 2)."""
        chosen = self.numbers[np.searchsorted(self.clusters, clusters)]
        return chosen.reshape(-1, *chosen.shape[2:])


def who_is_stuck(stuckness: Stuckness, draws: npt.NDArray[np.float32]) -> BoolArray:
    """Who is stuck, by numbers of shape (B, M + 2): together with a probability, else each by itself; shape (B, M)."""
    prior, together = float(stuckness.prior), float(stuckness.together)
    return np.where(draws[:, -1:] < together, draws[:, -2:-1] < prior, draws[:, :-2] < prior)


def play(world: LoggedWorld, habits: Habits, luck: Luck) -> Played:
    """Let a policy play a world. Policies that play with the same luck have less noise in their differences."""
    paths = world.paths
    numbers = luck.of_paths(paths.clusters)
    n_paths, n_each = len(paths.lengths), luck.numbers.shape[1]
    path = np.repeat(np.arange(n_paths), n_each)
    state = _State.start(who_is_stuck(world.stuckness, numbers[:, -1, _DRAWS:]))
    for turn in range(world.costs.shape[1]):
        alive = np.flatnonzero(state.alive)
        if not len(alive):
            break
        _take_turn(world, habits, state, path, alive, turn=turn, draws=numbers[alive, turn])
    sums = np.stack([state.utility, state.cost], axis=1)
    return Played(means=sums.reshape(n_paths, n_each, 2).mean(axis=1), weights=paths.weights)


@dataclass(kw_only=True)
class _State:
    """Episodes that are played, B of them."""

    alive: BoolArray
    position: IntArray
    wasted: IntArray
    last: IntArray
    stuck: BoolArray
    utility: FloatArray
    cost: FloatArray

    @classmethod
    def start(cls, stuck: BoolArray) -> "_State":
        n, n_models = stuck.shape
        return cls(
            alive=np.ones(n, dtype=bool),
            position=np.zeros(n, dtype=np.int64),
            wasted=np.zeros((n, n_models), dtype=np.int64),
            last=np.full(n, n_models, dtype=np.int64),
            stuck=stuck,
            utility=np.zeros(n),
            cost=np.zeros(n),
        )


def _take_turn(
    world: LoggedWorld,
    habits: Habits,
    state: _State,
    path: IntArray,
    alive: IntArray,
    *,
    turn: int,
    draws: npt.NDArray[np.float32],
) -> None:
    """One turn of all episodes that are not over."""
    paths, at, position = world.paths, path[alive], state.position[alive]
    kinds, tasks = world.kinds[at, position], paths.tasks[at]
    chosen = habits.probabilities(tasks, kinds, state.wasted[alive], state.last[alive]).cumsum(axis=1)
    models = (draws[:, :1] * chosen[:, -1:] >= chosen).sum(axis=1).clip(max=chosen.shape[1] - 1)
    state.cost[alive] += world.costs[tasks, turn, models]
    state.last[alive] = models
    is_over = draws[:, 1] < world.ending.rates[kinds, models]
    is_useful = (draws[:, 2] < world.success[at, position, models]) & ~state.stuck[alive, models] & ~is_over
    _end(world, state, alive[is_over])
    wasted = alive[~is_useful]
    state.wasted[wasted, models[~is_useful]] += 1
    moved, moved_at = alive[is_useful], at[is_useful]
    state.utility[moved] += paths.gains[moved_at, position[is_useful]]
    state.wasted[moved] = 0
    state.stuck[moved] = who_is_stuck(world.stuckness, draws[is_useful, _DRAWS:])
    is_through = position[is_useful] + 1 >= paths.lengths[moved_at]
    state.alive[moved[is_through & paths.is_finished[moved_at]]] = False
    onward = is_useful.copy()
    onward[is_useful] = ~is_through
    state.position[alive[onward]] += 1


def _end(world: LoggedWorld, state: _State, rows: IntArray) -> None:
    ending = world.ending
    state.utility[rows] = state.utility[rows] + ending.change if ending.utility is None else ending.utility
    state.alive[rows] = False


@dataclass(frozen=True, kw_only=True)
class RolloutResult:
    """What P policies earn in the model of a log; the last axis is utility, cost (USD) and return.

    Attributes:
        names: Of the policies.
        values: Shape (P, 3).
        terms: Jackknife terms, whose squares add up to the sampling variance, shape (G, P, 3).
        gap: What the policy that logged the log earns in the model minus what was logged, shape (3,).
        gap_error: Its standard error, shape (3,).
        task_spread: Standard deviation of what the model is off by from task to task beyond chance, over the root of the
            number of tasks, shape (3,).
    """

    names: tuple[str, ...]
    values: FloatArray
    terms: FloatArray
    gap: FloatArray
    gap_error: FloatArray
    task_spread: FloatArray

    @property
    def level_spread(self) -> FloatArray:
        """Standard deviation of what the model is off by for all policies alike: the whole gap, shape (3,)."""
        return np.abs(self.gap)

    def of(self, name: str) -> FloatArray:
        """Values of a policy, shape (3,)."""
        values: FloatArray = self.values[self.names.index(name)]
        return values

    def estimate(self, name: str, *, n_resamples: int, seed: int) -> OpeEstimate:
        """The estimate of a policy, with draws of all that may be off."""
        number = self.names.index(name)
        common = np.random.default_rng([_LEVEL_STREAM, seed]).normal(size=(n_resamples, 1))
        own = np.random.default_rng([_OWN_STREAM, seed, number]).normal(size=(n_resamples, 1))
        noise = _noise(self.terms[:, number], n_resamples=n_resamples, seed=seed)
        draws = self.values[number] + noise + common * self.level_spread + own * self.task_spread
        return OpeEstimate(estimator="am", value=self.values[number], draws=draws)

    def difference(self, one: str, other: str, *, agreement: float, n_resamples: int, seed: int) -> OpeEstimate:
        """Of one policy minus another. What the model is off by belongs to the turns at which they disagree.

        Args:
            one: The one.
            other: The other.
            agreement: What their choices have in common, in [0, 1]. With spreads s of either, the difference has a spread of
                s sqrt(2 (1 - agreement)).
            n_resamples: Draws.
            seed: Of the draws.
        """
        mine, theirs = self.names.index(one), self.names.index(other)
        value = self.values[mine] - self.values[theirs]
        noise = _noise(self.terms[:, mine] - self.terms[:, theirs], n_resamples=n_resamples, seed=seed)
        own = np.random.default_rng([_OWN_STREAM, seed, mine]).normal(size=(n_resamples, 1))
        spread = self.task_spread * np.sqrt(2 * max(0.0, 1 - agreement))
        return OpeEstimate(estimator="am", value=value, draws=value + noise + own * spread)


def _noise(terms: FloatArray, *, n_resamples: int, seed: int) -> FloatArray:
    """Draws of the sampling error with jackknife terms of shape (G, 3), shape (n_resamples, 3).

    The factors are the same for all policies. They are widened to Student's t of G - 1 degrees of freedom.
    """
    n = max(len(terms) - 1, 1)
    rng = np.random.default_rng([_NOISE_STREAM, seed, len(terms)])
    factors = rng.normal(size=(n_resamples, len(terms)))
    draws: FloatArray = (factors * np.sqrt(n / rng.chisquare(n, size=(n_resamples, 1)))) @ terms
    return draws


def roll_out(
    log: WorldTurns,
    policies: Mapping[str, FloatArray],
    *,
    costs: FloatArray,
    reward: RewardCard,
    seed: int,
    n_turns: int | None = None,
) -> RolloutResult:
    """Estimate policies by playing the model of a log.

    Args:
        log: The turns.
        policies: Probabilities at its turns by name, shape (N, M) each.
        costs: What every turn cost, USD, shape (N,).
        reward: What money is worth.
        seed: Of the groups and of all chance.
        n_turns: Turns of an episode, at most; None: those of the longest one.

    Raises:
        InvalidConfigError: If the log is of one (task, variation), so that nothing tells an error.
    """
    groups = _groups(log.clusters, seed=seed)
    n_turns = int(log.turns.max()) + 1 if n_turns is None else n_turns
    logging = np.eye(log.costs.shape[1])[log.actions]
    habits = [Habits.of(log, one) for one in (*policies.values(), logging)]
    success, stuckness = success_and_stuckness(log)
    world = LoggedWorld.of(log, success, stuckness, n_turns=n_turns)
    luck = Luck.of(log, n_turns=n_turns, seed=seed)
    played = [play(world, one, luck) for one in habits]
    values = with_return(np.stack([one.value for one in played]), reward)
    without = worlds_without(log, success, stuckness, groups, n_turns=n_turns)
    left = with_return(np.stack([[play(one, habit, luck).value for habit in habits] for one in without]), reward)
    totals = with_return(_totals(log, costs), reward)
    group_of_episode = groups[log.turns == 0]
    logged = np.stack([totals[group_of_episode != group].mean(axis=0) for group in range(len(without))])
    return RolloutResult(
        names=tuple(policies),
        values=values[:-1],
        terms=_terms(left[:, :-1]),
        gap=values[-1] - totals.mean(axis=0),
        gap_error=np.sqrt((_terms(left[:, -1] - logged) ** 2).sum(axis=0)),
        task_spread=_task_spread(log, totals, world, replace(played[-1], means=with_return(played[-1].means, reward))),
    )


def joined(
    parts: Sequence[RolloutResult], shares: Sequence[float], names: Mapping[str, Sequence[str]]
) -> RolloutResult:
    """Results of parts of a log put together.

    Args:
        parts: Of every part.
        shares: Its share of the episodes.
        names: Policies by name, and the name of each in every part.
    """
    columns = [[part.names.index(places[k]) for places in names.values()] for k, part in enumerate(parts)]
    weighted = list(zip(parts, shares, columns, strict=True))
    return RolloutResult(
        names=tuple(names),
        values=np.sum([share * part.values[places] for part, share, places in weighted], axis=0),
        terms=np.concatenate([share * part.terms[:, places] for part, share, places in weighted]),
        gap=np.sum([share * part.gap for part, share, _ in weighted], axis=0),
        gap_error=np.sqrt(np.sum([(share * part.gap_error) ** 2 for part, share, _ in weighted], axis=0)),
        task_spread=np.sum([share * part.task_spread for part, share, _ in weighted], axis=0),
    )


def _terms(left: FloatArray) -> FloatArray:
    """Jackknife terms of what comes out without each of G groups, shape (G, ...)."""
    terms: FloatArray = np.sqrt((len(left) - 1) / len(left)) * (left - left.mean(axis=0))
    return terms


def _groups(clusters: IntArray, *, seed: int) -> IntArray:
    """Group of every turn; whole clusters at random, groups of equal numbers of them."""
    names = np.unique(clusters)
    if len(names) < 2:
        raise InvalidConfigError("the log is of one (task, variation), so nothing tells how far roll-outs are off")
    numbers = np.random.default_rng([_WORLD_STREAM, seed]).permutation(len(names)) % min(N_GROUPS, len(names))
    return np.asarray(numbers[np.searchsorted(names, clusters)], dtype=np.int64)


def _totals(log: WorldTurns, costs: FloatArray) -> FloatArray:
    """Utility and cost of every logged episode, shape (E, 2)."""
    numbers = np.cumsum(log.turns == 0) - 1
    return np.stack([np.bincount(numbers, weights=log.gains), np.bincount(numbers, weights=costs)], axis=1)


def _task_spread(log: WorldTurns, totals: FloatArray, world: LoggedWorld, played: Played) -> FloatArray:
    """See `RolloutResult.task_spread`; 0 where fewer than two tasks have more than one episode."""
    tasks = log.tasks[log.turns == 0]
    found: list[FloatArray] = []
    for task in np.unique(tasks).tolist():
        mine, paths = totals[tasks == task], world.paths.tasks == task
        if len(mine) < 2:
            continue
        weights = played.weights[paths] / played.weights[paths].sum()
        gap = weights @ played.means[paths] - mine.mean(axis=0)
        found.append(gap**2 - mine.var(axis=0, ddof=1) / len(mine))
    if len(found) < 2:
        return np.zeros(totals.shape[1])
    spread: FloatArray = np.sqrt(np.maximum(np.mean(found, axis=0), 0.0) / len(found))
    return spread
