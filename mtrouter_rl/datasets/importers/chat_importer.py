"""What the importers of logged conversations share: their options, and what they say of the log."""

from typing import ClassVar, Generic, Literal, TypeVar

from mtrouter_rl.records import Frozen


class ChatOptions(Frozen):
    """What every such format can be asked.

    Attributes:
        propensities: "exact" leaves an episode out in which the propensity of a turn is not known, "unknown" keeps it.
    """

    propensities: Literal["exact", "unknown"]


ChatOptionsT = TypeVar("ChatOptionsT", bound=ChatOptions)


class ChatImporter(Generic[ChatOptionsT]):
    """Base of the importers of logged conversations; a subclass is an `Importer`, with `episodes` of its own."""

    options_model: ClassVar[type[Frozen]]
    takes_scores: ClassVar[bool] = False
    """Whether the importer reads `ImportSource.scores`; those that use `SessionAssembler` do."""
    env: str
    is_simulated: bool = False
    assumptions: tuple[str, ...]

    def __init__(self, options: Frozen) -> None:
        """Take the checked options."""
        checked: ChatOptionsT = self.options_model.model_validate(options.model_dump())  # type: ignore[assignment]
        self._options = checked
        self.propensities: Literal["exact", "estimated", "unknown"] = checked.propensities
