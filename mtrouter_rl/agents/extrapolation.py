"""Models of a router that no logged turn stands behind: it judges them by the features of their cards alone."""

from collections.abc import Collection, Sequence

from mtrouter_rl.embeddings.models import MODEL_FEATURE_NAMES
from mtrouter_rl.records import Frozen

_TOLERANCE = 1e-6  # features are float32


class FeatureOutside(Frozen):
    """A feature of a model that lies outside the range of the models that were learned from.

    Attributes:
        feature: Its name, one of `MODEL_FEATURE_NAMES`.
        value: Of the model.
        low: Lowest value of the learned models.
        high: Their highest value.
    """

    feature: str
    value: float
    low: float
    high: float


class Extrapolation(Frozen):
    """A model whose values are extrapolated from the features of its card.

    Attributes:
        model: Its name.
        outside: Features that lie outside the range of the learned models. With none, the values are an extrapolation all
            the same: a handful of models says little about a space of as many features.
    """

    model: str
    outside: tuple[FeatureOutside, ...]

    @property
    def sentence(self) -> str:
        """What a reader must know, as one sentence."""
        parts = [f"{one.feature} {one.value:.3g} (theirs: {one.low:.3g} to {one.high:.3g})" for one in self.outside]
        where = (
            f"outside the range of the models learned from in {', '.join(parts)}"
            if parts
            else "in the range of the others"
        )
        return (
            f"every value of model '{self.model}' is an extrapolation from the features of its card, no turn of it was learned "
            f"from; its features are {where}."
        )


def extrapolations(
    model_features: Sequence[Sequence[float]], model_names: Sequence[str], *, unknown: Collection[str]
) -> tuple[Extrapolation, ...]:
    """The unknown models of a pool, each with its features outside the range of the known ones.

    Args:
        model_features: Shape (M, F), columns as in `MODEL_FEATURE_NAMES`.
        model_names: Length M.
        unknown: Names of the models that no logged turn stands behind; at least one model is none of them.
    """
    known = [row for name, row in zip(model_names, model_features, strict=True) if name not in unknown]
    ranges = [(min(column), max(column)) for column in zip(*known, strict=True)]
    return tuple(
        Extrapolation(model=name, outside=_outside(row, ranges))
        for name, row in zip(model_names, model_features, strict=True)
        if name in unknown
    )


def _outside(row: Sequence[float], ranges: Sequence[tuple[float, float]]) -> tuple[FeatureOutside, ...]:
    return tuple(
        FeatureOutside(feature=feature, value=value, low=low, high=high)
        for feature, value, (low, high) in zip(MODEL_FEATURE_NAMES, row, ranges, strict=True)
        if value < low - _TOLERANCE or value > high + _TOLERANCE
    )
