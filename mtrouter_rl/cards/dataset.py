"""The dataset card: how a log is collected."""

from typing import Annotated, Literal

from pydantic import Field

from mtrouter_rl.records import Frozen


class DatasetCard(Frozen):
    """How a log is collected.

    Attributes:
        name: Name of the card; the dataset id is `name-vN`.
        description: What it is for.
        version: N of the dataset id.
        env: Environment card, name or path.
        pool: Pool card, name or path; None takes the environment's.
        policy: Behaviour policy, as `mtrouter-rl collect --policy` takes it.
        split: Which split the episodes are drawn from.
        n_episodes: How many.
        seed: Seed of the collection.
    """

    name: str
    description: str
    version: Annotated[int, Field(ge=1)] = 1
    env: str
    pool: str | None = None
    policy: str
    split: Literal["train", "validation", "test", "ood"] = "train"
    n_episodes: Annotated[int, Field(gt=0)]
    seed: int = 0
