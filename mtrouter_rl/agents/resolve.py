"""From what a user writes (a name, a policy, a folder) to a router, in this process or in a worker."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pydantic import ValidationError

from mtrouter_rl.agents.base import Algorithm, TrainingContext, check_router
from mtrouter_rl.agents.loading import load_router
from mtrouter_rl.agents.rules.behavior_policies import parse_policy
from mtrouter_rl.agents.saving import RECORD_FILE, digest, read_record
from mtrouter_rl.cards import AgentCard, list_cards, load_agent_card
from mtrouter_rl.cards.policy import AT, POLICY_FORMS, REFERENCE, PolicyRef, split_name_at
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.embeddings.encoders import make_encoder
from mtrouter_rl.errors import InvalidConfigError, RouterError, unknown_name
from mtrouter_rl.protocols import PricedRouter, Router, TextEncoder
from mtrouter_rl.records import JsonValue
from mtrouter_rl.registry import ALGORITHMS

if TYPE_CHECKING:
    from mtrouter_rl.embeddings.history import HistoryFeatures
    from mtrouter_rl.envs.factory import EnvConfig


EncoderMaker = Callable[[str, Path | None], TextEncoder]
"""From the name of a text encoder and the folder of the cache to the encoder, as `make_encoder` does it."""


def load_algorithm(card: AgentCard) -> Algorithm:
    """Algorithm of an agent card, its parameters checked.

    Raises:
        UnknownNameError: If the algorithm is not registered.
        CardError: If a parameter breaks its rule.
    """
    algorithm = cast("type[Algorithm]", ALGORITHMS.load(card.algorithm))
    return algorithm.from_card(card)


def known_algorithm(card: AgentCard) -> Algorithm | None:
    """As `load_algorithm`; None for a card that cannot be read here: of another version, or of a plug-in that is not there."""
    try:
        return load_algorithm(card)
    except InvalidConfigError:
        return None


def make_features(
    config: Mapping[str, JsonValue], pool: PoolCard, cache: Path | None, encoders: EncoderMaker = make_encoder
) -> "HistoryFeatures":
    """History features from the `to_config()` of those that a router was trained on.

    Raises:
        RouterError: If the configuration is incomplete, or breaks a rule.
        UnknownNameError: If there is no such encoder.
    """
    from mtrouter_rl.embeddings.history import HistoryFeatures, HistoryFeaturesConfig

    try:
        name, settings = str(config["encoder"]), config["config"]
    except KeyError as error:
        raise RouterError(f"features of the saved router have no field {error}; train the router again") from error
    try:
        checked = HistoryFeaturesConfig.model_validate(settings)
    except ValidationError as error:
        raise RouterError(f"features of the saved router break their rules: {error}; train the router again") from error
    return HistoryFeatures(encoder=encoders(name, cache), pool=pool, config=checked)


def is_router_folder(text: str) -> bool:
    """Whether a text names the folder of a saved router."""
    return (Path(text) / RECORD_FILE).is_file()


def split_cost_weight(text: str) -> tuple[str, float | None]:
    """Folder and cost weight of `FOLDER@WEIGHT`; any other text comes back as it is, with None.

    Raises:
        InvalidConfigError: If what follows the folder is no number.
    """
    folder, number = split_name_at(text)
    if number is None or is_router_folder(text) or not is_router_folder(folder):
        return text, None
    try:
        return folder, float(number)
    except ValueError as error:
        raise InvalidConfigError(
            f"router '{text}': the cost weight after '{AT}' is '{number}', must be a number, such as {folder}{AT}0.4"
        ) from error


def _load(text: str, pool: PoolCard, cache: Path | None, encoders: EncoderMaker) -> Router:
    """A saved router, at the cost weight that follows its folder, if one does."""
    folder, cost_weight = split_cost_weight(text)
    router = load_router(
        Path(folder), pool=pool, make_features=lambda config: make_features(config, pool, cache, encoders)
    )
    if cost_weight is None:
        return router
    if not isinstance(router, PricedRouter):
        raise InvalidConfigError(
            f"router '{text}': '{router.name}' was not trained to be told a cost weight; leave out {AT}{cost_weight:g}, or "
            "train an agent that can be, such as factored-q-recurrent or fitted-q-frontier"
        )
    return router.at(cost_weight)


def resolve_router(
    text: str, pool: PoolCard, *, cache: Path | None = None, encoders: EncoderMaker = make_encoder
) -> Router:
    """Router from what a user wrote.

    Args:
        text: A folder of a saved router, `FOLDER@WEIGHT` for one that can be told a cost weight; a policy such as
            `uniform`, `sticky:0.3`, `single:MODEL`, `mixed:0.375` or `epsilon-greedy:0.2:FOLDER`; or the name of an agent card
            that needs no training (`random`, `cheapest`).
        pool: The pool that it acts on.
        cache: Folder of the embedding cache.
        encoders: Makes the text encoder of a saved router.

    Raises:
        UnknownNameError: If it is none of these; lists what there is.
        InvalidConfigError: If the agent has to be trained first, a router cannot act at the cost weight, or the text asks for a
            reference policy, which is no router.
        RouterError: If the saved router cannot be read.
        PoolMismatchError: If it was made for another pool.
    """
    if is_router_folder(split_cost_weight(text)[0]):
        return _load(text, pool, cache, encoders)
    if PolicyRef.parse(text).form == REFERENCE:
        raise InvalidConfigError(
            f"'{text}' is no router: it sees the simulator's hidden state; only the commands evaluate, study and headroom run "
            "it, to show what could be gained"
        )
    if PolicyRef.parse(text).form in POLICY_FORMS:
        return parse_policy(
            text, pool=pool, load_router=lambda folder: resolve_router(folder, pool, cache=cache, encoders=encoders)
        )
    if text in list_cards("agents") or Path(text).suffix == ".yaml":
        return _untrained(text, pool)
    if Path(text).is_dir():
        raise RouterError(f"folder {text} holds no {RECORD_FILE}: it is no saved router; give the --out of a training")
    raise unknown_name(
        "router", text, {*list_cards("agents"), *POLICY_FORMS}, fix="The folder of a trained router is taken as well"
    )


def _untrained(text: str, pool: PoolCard) -> Router:
    card = load_agent_card(text)
    algorithm = load_algorithm(card)
    if algorithm.needs_dataset or algorithm.needs_validation:
        raise InvalidConfigError(
            f"router '{card.name}' has to be trained first: run "
            f"'mtrouter-rl train --agent {card.name} --dataset LOG --out FOLDER' and give that FOLDER"
        )
    # These agents maximise nothing, so the reward of the context is not read.
    from mtrouter_rl.cards import RewardCard

    context = TrainingContext(pool=pool, reward=RewardCard(cost_weight=0.0, cost_unit_usd=1.0), seed=0)
    return check_router(algorithm.train(context))


@dataclass(frozen=True, kw_only=True)
class RouterRef:
    """A router by its text: small and picklable, made into the router where it is needed.

    Attributes:
        text: See `resolve_router`.
        cache: Folder of the embedding cache.
        key: Distinguishes routers in a worker: text, and the contents of its folder if it is one.
    """

    text: str
    cache: str | None = None
    key: str = ""

    @classmethod
    def of(cls, text: str, cache: Path | None = None) -> "RouterRef":
        """Reference with the fingerprint of the router's files as part of its key."""
        return cls(text=text, cache=None if cache is None else str(cache), key=f"{text}#{fingerprint(text)}")

    @property
    def name(self) -> str:
        """What tells routers apart inside a worker."""
        return self.key or self.text

    def __call__(self, config: "EnvConfig") -> Router:
        """Make the router for an environment's pool."""
        return resolve_router(self.text, config.pool, cache=None if self.cache is None else Path(self.cache))


def envs_of_router(text: str) -> tuple[str, ...]:
    """Environments that a saved router was trained for; none for a policy, and where nobody wrote it down.

    Raises:
        RouterError: If the saved router cannot be read.
    """
    folder = Path(split_cost_weight(PolicyRef.parse(text).source)[0])
    if not (folder / RECORD_FILE).is_file():
        return ()
    made = read_record(folder).provenance
    return () if made is None else made.envs


def fingerprint(text: str) -> str:
    """Hash of a router's files, 16 hexadecimal digits; empty if the text names no folder.

    It is kept beside every episode that a router ran, so that results of an older training are never taken for those of
    a newer one.
    """
    return digest(Path(split_cost_weight(PolicyRef.parse(text).source)[0]))
