"""How far the models of a log, or of a simulated pool, complement each other, and the setting of a pool that matches a log."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

from mtrouter_rl.cards.policy import single_policy
from mtrouter_rl.cards.splits import evaluation_specs
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.studies.pool_calibration.card import with_complementarity
from mtrouter_rl.studies.pool_calibration.oracle_gap import HindsightGap, ModelScores, hindsight_gap, played_alone
from mtrouter_rl.studies.pool_calibration.plays import Plays
from mtrouter_rl.workers.executors import Workers


@dataclass(frozen=True, kw_only=True)
class GapRequest:
    """What of a simulated pool is played.

    Attributes:
        config: Environment and pool. Abilities stay as they are whatever the complementarity.
        complementarities: Values to play; None takes the card's.
        n_seeds: Seeds of every train variation.
        seed: Seed of splits and bootstrap.
        n_workers: Worker processes.
        folder: Where episodes are kept; None keeps none.
    """

    config: EnvConfig
    complementarities: tuple[float, ...] | None
    n_seeds: int
    seed: int = 0
    n_workers: Workers = 1
    folder: Path | None = None

    def __post_init__(self) -> None:
        """Check that there is something to set."""
        if self.config.pool.backend.kind != "simulated":
            raise InvalidConfigError(
                f"pool '{self.config.pool.name}' has the backend '{self.config.pool.backend.kind}'; a complementarity has "
                "only a simulated pool; give the log of a real one instead"
            )


def gap_of_log(folder: Path, *, seed: int, kind: str = ".*") -> tuple[HindsightGap, int]:
    """Gap of the episodes of a dataset that one model played alone, and how many others it holds; `kind` as `played_alone`.

    Raises:
        DatasetError: If the dataset breaks its rules.
        InvalidConfigError: If the log cannot tell.
    """
    rows, n_left_out = played_alone(Dataset.load(folder).episodes, kind=kind)
    return hindsight_gap(ModelScores.of(rows), seed=seed), n_left_out


def gaps_of_pool(request: GapRequest) -> Iterator[tuple[float, HindsightGap]]:
    """Complementarity and gap, one after the other: every single model plays every train variation."""
    config = request.config
    own = cast(float, config.pool.backend.settings["complementarity"])
    specs = evaluation_specs(config.card, "train", request.n_seeds)
    with Plays(config, n_workers=request.n_workers, folder=request.folder, show_progress=True) as plays:
        for complementarity in (own,) if request.complementarities is None else request.complementarities:
            pool = with_complementarity(config.pool, complementarity)
            rows = [
                (task, variation, model, float(utility))
                for model in pool.model_names
                for played in [plays.play(pool, single_policy(model), specs)]
                for (task, variation), utility in zip(played.clusters, played.utilities, strict=True)
            ]
            yield complementarity, hindsight_gap(ModelScores.of(rows), seed=request.seed)


def matching(gaps: Mapping[float, HindsightGap], target: float) -> float | None:
    """Complementarity at which the split-half gap is a target, by linear interpolation; None outside what was played."""
    points = sorted((complementarity, gap.split_half) for complementarity, gap in gaps.items())
    for (low, below), (high, above) in pairwise(points):
        if min(below, above) <= target <= max(below, above) and below != above:
            return low + (high - low) * (target - below) / (above - below)
    return None
