"""Studentised bootstrap within cells, for logs of one model per episode.

Units (episodes of one instance) are drawn within their cells, the units of one stratum that the same models played, since the
strata's sizes and the models' shares in them are held fixed. Estimates are sums over strata of ratios of sums, so each unit has
an influence z on the estimate, and its variance is V = sum over cells of n / (n - 1) times the sum of squared deviations of z
from the cell's mean, s = sqrt(V). As in `mtrouter_rl.statistics.studentized`, to which this adds the cells,

    draw = v - a c s (v* - v) / s*,

with v* and s* of a resample. Cells are often tiny, so that:

* one unit fewer is drawn than there are, weighted up for it (Rao and Wu, Resampling Inference with Complex Survey Data, 1988),
  else a resample would show too little spread. s* corrects every cell's sum of squares for that, so that its square is V
  on average; a cell of two keeps its own V, since one unit drawn has no spread;
* a cell of one unit shows no spread. It is taken to have that of the others by weight: a is the root of the sum of squared
  weights over all units, against that over units in larger cells;
* c = t_nu(0.975) / z(0.975), nu = 2 V^2 / (sum over cells of the variance of its V) (Satterthwaite, 1946), that variance being
  the larger one of what a normal distribution and the squared deviations' own spread give.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array  # type: ignore[import-untyped]

from mtrouter_rl.records import FloatArray
from mtrouter_rl.statistics.studentized import distances, t_widening

_STREAM = 8
"""Keeps the draws apart from others of the same seed."""
_RESAMPLES_PER_BLOCK = 500


@dataclass(frozen=True, kw_only=True)
class StratifiedRatio:
    """sum_g shares_g (sum_i numerators_i) / (sum_i denominators_i), i over the episodes of group g, for K quantities.

    A group whose denominators are all 0 counts for nothing, and the others for more. In the estimate itself that is refused;
    in a resample it happens where few episodes carry all the weight.

    Attributes:
        numerators: Shape (N, K).
        denominators: At least 0, shape (N,).
        groups: Group of every episode, shape (N,).
        shares: Share of every group, shape (G,).
    """

    numerators: FloatArray
    denominators: FloatArray
    groups: npt.NDArray[np.int64]
    shares: FloatArray


@dataclass(frozen=True, kw_only=True)
class CellResamples:
    """Resamples of units within cells; units are in the order of their cells.

    Attributes:
        unit_of: Unit of every episode, shape (N,).
        sizes: Units of every cell, shape (C,).
        counts: How often every unit is drawn, shape (R, U).
    """

    unit_of: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    counts: npt.NDArray[np.float32]

    @classmethod
    def of(cls, cells: list[list[npt.NDArray[np.int64]]], *, seed: int, n_resamples: int) -> "CellResamples":
        """Draw from cells of units, every unit as the indices of its episodes; equal seeds give equal resamples."""
        rng = np.random.default_rng([_STREAM, seed])
        units = [unit for cell in cells for unit in cell]
        unit_of = np.zeros(sum(len(unit) for unit in units), dtype=np.int64)
        for number, unit in enumerate(units):
            unit_of[unit] = number
        drawn = []
        for n in map(len, cells):
            is_drawn = n > 1
            drawn.append(
                rng.multinomial(n - 1, np.full(n, 1 / n), size=n_resamples) if is_drawn else np.ones((n_resamples, n))
            )
        return cls(
            unit_of=unit_of,
            sizes=np.array([len(cell) for cell in cells], dtype=np.int64),
            counts=np.concatenate(drawn, axis=1, dtype=np.float32, casting="unsafe"),
        )

    def draws(self, ratio: StratifiedRatio, estimate: FloatArray) -> FloatArray:
        """Studentised draws, laid off from an estimate of shape (K,), which is what `ratio` comes to; shape (R, K)."""
        units = _Units.of(ratio, self.unit_of, self.sizes)
        value, influences = units.influences()
        by_cell = units.variances(influences)
        error = np.sqrt(by_cell.sum(axis=0))
        scale = units.imputed * units.widening(influences, by_cell) * error
        draws = []
        for start in range(0, len(self.counts), _RESAMPLES_PER_BLOCK):
            drawn, errors = units.of_resamples(self.counts[start : start + _RESAMPLES_PER_BLOCK], by_cell)
            draws.append(estimate - scale * distances(drawn - value, errors, error))
        return np.concatenate(draws)


@dataclass(frozen=True, kw_only=True)
class _Units:
    """A stratified ratio by units, in the order of their cells; a cell lies in one group.

    Attributes:
        numerators: Shape (U, K).
        denominators: Shape (U,).
        groups: Group of every cell, shape (C,).
        shares: Shape (G,).
        cells: Cell of every unit, shape (U,).
        sizes: Shape (C,).
    """

    numerators: FloatArray
    denominators: FloatArray
    groups: npt.NDArray[np.int64]
    shares: FloatArray
    cells: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, ratio: StratifiedRatio, unit_of: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> "_Units":
        n_units = int(sizes.sum())
        numerators = np.zeros((n_units, ratio.numerators.shape[1]))
        np.add.at(numerators, unit_of, ratio.numerators)
        cells = np.repeat(np.arange(len(sizes)), sizes)
        groups = np.zeros(len(sizes), dtype=np.int64)
        groups[cells[unit_of]] = ratio.groups
        return cls(
            numerators=numerators,
            denominators=np.asarray(
                np.bincount(unit_of, weights=ratio.denominators, minlength=n_units), dtype=np.float64
            ),
            groups=groups,
            shares=ratio.shares,
            cells=cells,
            sizes=sizes,
        )

    @property
    def imputed(self) -> float:
        """Factor of the standard error for cells of one unit."""
        groups = self.groups[self.cells]
        sums = np.bincount(groups, weights=self.denominators, minlength=len(self.shares))
        weights = self.denominators * np.divide(self.shares, sums, out=np.zeros_like(sums), where=sums > 0)[groups]
        seen = float((weights**2)[self.sizes[self.cells] > 1].sum())
        return float(np.sqrt((weights**2).sum() / seen)) if seen > 0 else 1.0

    def influences(self) -> tuple[FloatArray, FloatArray]:
        """The estimate, shape (K,), and the influence of every unit, shape (U, K)."""
        cell_sums = self._cell_sums(np.ones((len(self.cells), 1)))
        value, ratios, factors = self._values(cell_sums[0], cell_sums[2])
        groups = self.groups[self.cells]
        surplus = self.numerators - self.denominators[:, None] * ratios[:, 0, groups].T
        return value[0], factors[0, groups, None] * surplus

    def variances(self, influences: FloatArray) -> FloatArray:
        """V of every cell, for influences of shape (U, K); shape (C, K)."""
        squares = np.add.reduceat(self._deviations(influences) ** 2, self._starts)
        variances: FloatArray = squares * (self.sizes / np.maximum(self.sizes - 1, 1))[:, None]
        return variances

    def widening(self, influences: FloatArray, by_cell: FloatArray) -> FloatArray:
        """Factor c, shape (K,); influences of shape (U, K), variances by cell of shape (C, K)."""
        sizes = self.sizes[:, None]
        factor = sizes / np.maximum(sizes - 1, 1)
        deviations = self._deviations(influences)
        fourth = np.add.reduceat(deviations**4, self._starts)
        own = factor**2 * (fourth - np.add.reduceat(deviations**2, self._starts) ** 2 / sizes)
        normal = 2 * by_cell**2 / np.maximum(sizes - 1, 1)
        chance = np.maximum(own, normal).sum(axis=0)
        total = by_cell.sum(axis=0) ** 2
        return t_widening(np.divide(2 * total, chance, out=np.full_like(total, np.inf), where=chance > 0))

    def of_resamples(self, counts: npt.NDArray[np.float32], by_cell: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Values and standard errors of resamples, shape (R, K) each; counts of shape (R, U).

        Within a cell the influences are f (x - q y), f and q being the cell's group's, so that their sums and the sums of
        their squares follow from those of x, y and their products.
        """
        y, y_squared, x, x_squared, product = self._cell_sums(np.ascontiguousarray(counts.T, dtype=np.float64))
        sizes = self.sizes.astype(np.float64)
        n_drawn = np.maximum(sizes - 1, 1)
        raised = (sizes / n_drawn)[:, None]
        values, ratios, factors = self._values(y * raised, x * raised)
        q, f = ratios[..., self.groups].transpose(0, 2, 1), factors[:, self.groups].T  # (K, C, R) and (C, R)
        first = x - q * y
        second = x_squared - 2 * q * product + q**2 * y_squared
        squares = np.maximum(second - first**2 / n_drawn[:, None], 0.0) * f**2
        correction = np.where(self.sizes > 2, sizes**2 / n_drawn / np.maximum(sizes - 2, 1), 0.0)
        totals = np.einsum("c,kcr->rk", correction, squares) + by_cell[self.sizes == 2].sum(axis=0)
        return values, np.sqrt(totals)

    def _cell_sums(self, counts: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
        """Sums over the units of each cell of y, y^2, x, x^2 and x y, for counts of shape (U, R).

        The first two have shape (C, R), the others (K, C, R).
        """
        places = (self.cells, np.arange(len(self.cells)))

        def sums(values: FloatArray) -> FloatArray:
            total: FloatArray = csr_array((values, places), shape=(len(self.sizes), len(values))) @ counts
            return total

        x, y = self.numerators.T, self.denominators
        by_column = [np.stack([sums(column) for column in columns]) for columns in (x, x**2, x * y)]
        return sums(y), sums(y**2), by_column[0], by_column[1], by_column[2]

    def _values(self, y: FloatArray, x: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Estimates, ratios by group, and the share of every group over its denominator.

        Args:
            y: Weighted denominators by cell, shape (C, R).
            x: Weighted numerators by cell, shape (K, C, R).

        Returns:
            Shapes (R, K), (K, R, G) and (R, G).
        """
        places = (self.groups, np.arange(len(self.groups)))
        gather = csr_array((np.ones(len(self.groups)), places), shape=(len(self.shares), len(self.groups)))
        totals = (gather @ y).T
        inverse = np.divide(1.0, totals, out=np.zeros_like(totals), where=totals > 0)
        ratios = np.stack([(gather @ column).T * inverse for column in x])
        shares = self.shares * (totals > 0)
        total = shares.sum(axis=1, keepdims=True)
        shares = np.divide(shares, total, out=np.zeros_like(shares), where=total > 0)
        return np.einsum("rg,krg->rk", shares, ratios), ratios, shares * inverse

    @property
    def _starts(self) -> npt.NDArray[np.int64]:
        starts: npt.NDArray[np.int64] = np.append(0, np.cumsum(self.sizes)[:-1])
        return starts

    def _deviations(self, influences: FloatArray) -> FloatArray:
        means = np.add.reduceat(influences, self._starts) / self.sizes[:, None]
        deviations: FloatArray = influences - means[self.cells]
        return deviations
