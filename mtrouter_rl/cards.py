"""Finds, loads and validates the YAML cards: environments, pools, agents and datasets.

A card is given by name or by path. Names are looked up in the card folders of the checkout or, after an installation, in
the copy that travels inside the wheel; a third party adds folders through the entry-point group `mtrouter_rl.cards`.
"""

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from mtrouter_rl.errors import CardError, unknown_name
from mtrouter_rl.pools.card import Frozen, PoolCard
from mtrouter_rl.records import FloatArray

CardKind = Literal["envs", "pools", "agents", "datasets"]
_FOLDERS: dict[CardKind, str] = {"envs": "envs", "pools": "envs/pools", "agents": "agents", "datasets": "datasets"}
_PACKAGE_ROOT = Path(__file__).resolve().parent
ENTRY_POINT_GROUP = "mtrouter_rl.cards"
EXTENDS = "extends"
"""Field of a pool or agent card that names the card it changes."""

CardT = TypeVar("CardT", bound=Frozen)
NumberT = TypeVar("NumberT", float, FloatArray)


def _number_or_all(value: object) -> object:
    is_number = isinstance(value, int) and not isinstance(value, bool) and value > 0
    if not is_number and value != "all":
        raise ValueError("must be a whole number above 0, or 'all' where the family counts its variations itself")
    return value


NVariations = Annotated[int | Literal["all"], BeforeValidator(_number_or_all)]
"""How many variations a task has; "all" where the family can count them, see `mtrouter_rl.registry.CARD_COMPLETERS`."""


class SplitCard(Frozen):
    """How the variations of every task are split.

    Attributes:
        variations_per_task: At most this many variations of a task are used.
        train: Share of the variations of a training task that goes to the train split.
        validation: Share that goes to validation; the rest is test.
        seed: Seed of the draw.
    """

    variations_per_task: Annotated[int, Field(gt=0)]
    train: Annotated[float, Field(gt=0, lt=1)]
    validation: Annotated[float, Field(ge=0, lt=1)]
    seed: int

    @model_validator(mode="after")
    def _leaves_a_test_split(self) -> "SplitCard":
        if self.train + self.validation >= 1:
            raise ValueError(
                f"train + validation is {self.train + self.validation}, must be below 1 to leave a test split"
            )
        return self


class RewardCard(Frozen):
    """Reward of a turn: utility gained - cost_weight * cost_usd / cost_unit_usd.

    Attributes:
        cost_weight: Price of one cost unit in utility, no unit.
        cost_unit_usd: USD of one cost unit, such as what the strongest model spends on an episode.
    """

    cost_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    cost_unit_usd: Annotated[float, Field(gt=0, allow_inf_nan=False)]

    def reward(self, utility_gain: NumberT, cost_usd: NumberT) -> NumberT:
        """Reward of one turn, or of each of many: `utility_gain` and `cost_usd` are numbers or arrays of one shape.

        Example:
            >>> RewardCard(cost_weight=0.5, cost_unit_usd=2.0).reward(1.0, 0.4)
            0.9
        """
        return utility_gain - cost_usd * (self.cost_weight / self.cost_unit_usd)


class LimitsCard(Frozen):
    """Limits outside the task.

    Attributes:
        max_turns: Turns of an episode, after which it is truncated.
        budget_usd: Money of an episode, USD; no call that could exceed it is ever made.
        max_output_tokens: Output limit asked for in every call, on top of the model's own.
    """

    max_turns: Annotated[int, Field(gt=0)]
    budget_usd: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    max_output_tokens: Annotated[int, Field(gt=0)]


def _regular_expression(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from error
    return pattern


RegularExpression = Annotated[str, AfterValidator(_regular_expression)]
"""Text that `re.compile` takes."""


class SkillPattern(Frozen):
    """A kind of action, read off an action text by a regular expression (searched from the start, first match wins)."""

    skill: str
    pattern: RegularExpression


EXPERT_SOLVES = 0.95
"""Share of episodes that an expert is to solve if the card says nothing."""


class FullStudyCard(Frozen):
    """What is an environment's own in the full study.

    Attributes:
        sizes: Sizes where the usual ones do not fit: fields of `mtrouter_rl.full_study_request.FullSize`.
        compares_encoders: Whether its ablations hold the other text encoders; a transformer takes longer, and is an extra.
        complementarities: Pool cards whose headroom is shown beside that of the environment's own pool.
        markets: Pool cards on which the study is repeated, small and without tuning.
    """

    sizes: dict[str, Annotated[int, Field(gt=0)]] = Field(default_factory=dict)
    compares_encoders: bool = False
    complementarities: tuple[str, ...] = ()
    markets: tuple[str, ...] = ()


class EnvCard(Frozen):
    """An environment: which tasks, splits, limits, reward and pool.

    Attributes:
        name: Name of the card, and of the environment in logs.
        description: What it is.
        family: Registered name of the text task behind it, such as "scienceworld".
        pool: Default pool card, name or path.
        system_prompt: First message of every conversation; the task text follows it.
        train_tasks: Task -> number of its variations (or "all", where the family counts them), split into train, validation
            and test.
        ood_tasks: Held-out task types, likewise; all their variations are the "ood" split.
        splits: How variations are split.
        limits: Turns, budget, output.
        reward: Utility minus cost.
        skills: Patterns that tell the skill of an action, in order.
        topics: Topic of every task, such as "heat"; tasks may share topics.
        settings: Checked by the family.
        study: Sizes of the quick study where the usual ones do not fit: fields of `mtrouter_rl.study.StudySize`.
        full_study: What is the environment's own in the full study.
        agents: Parameters of agent cards that are others in this environment, by name; also of the cards that extend these.
        expert_solves: Share of episodes that the expert is to solve within the turn limit; `check-env` holds it to that. Say
            so where paths are longer than the limit. From `EXPERT_SOLVES` on it is to solve some of every task as well.
    """

    name: str
    description: str
    family: str
    pool: str
    system_prompt: str
    train_tasks: Annotated[dict[str, NVariations], Field(min_length=1)]
    ood_tasks: dict[str, NVariations] = Field(default_factory=dict)
    splits: SplitCard
    limits: LimitsCard
    reward: RewardCard
    skills: tuple[SkillPattern, ...] = ()
    topics: dict[str, str] = Field(default_factory=dict)
    settings: dict[str, object] = Field(default_factory=dict)
    study: dict[str, Annotated[int, Field(gt=0)]] = Field(default_factory=dict)
    full_study: FullStudyCard = Field(default_factory=lambda: FullStudyCard())
    agents: dict[str, dict[str, object]] = Field(default_factory=dict)
    expert_solves: Annotated[float, Field(ge=0, le=1)] = EXPERT_SOLVES

    @model_validator(mode="after")
    def _tasks_are_unique(self) -> "EnvCard":
        repeated = sorted(set(self.train_tasks) & set(self.ood_tasks))
        if repeated:
            raise ValueError(
                f"task(s) {repeated} are both in train_tasks and ood_tasks; a held-out task must not be trained on"
            )
        return self

    def counted_tasks(self, *, is_ood: bool | None = None) -> dict[str, int]:
        """Tasks with their numbers of variations: the training ones, the held-out ones, or, by default, both.

        Raises:
            CardError: If one is "all" still: only the family can tell how many that is.
        """
        kinds = {True: self.ood_tasks, False: self.train_tasks, None: self.train_tasks | self.ood_tasks}
        counted: dict[str, int] = {}
        for task, number in kinds[is_ood].items():
            if not isinstance(number, int):
                raise CardError(
                    f"card '{self.name}': task '{task}' has 'all' variations, which family '{self.family}' has not counted; "
                    "resolve the card with mtrouter_rl.envs.factory.resolve_env, or write the number"
                )
            counted[task] = number
        return counted


class AgentCard(Frozen):
    """A router: which algorithm, which hyper-parameters.

    Attributes:
        name: Name of the card, and of the router in tables.
        description: One sentence for the user who chooses.
        algorithm: Registered name of the algorithm.
        parameters: Checked by the algorithm.
    """

    name: str
    description: str
    algorithm: str
    parameters: dict[str, object] = Field(default_factory=dict)


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


_MODELS: dict[CardKind, type[Frozen]] = {
    "envs": EnvCard,
    "pools": PoolCard,
    "agents": AgentCard,
    "datasets": DatasetCard,
}


def card_root() -> Path:
    """Folder that holds `envs/`, `agents/` and `datasets/`: inside the installed package, or the checkout around it.

    Raises:
        CardError: If neither is there, which means a broken installation.
    """
    for root in (_PACKAGE_ROOT / "_cards", _PACKAGE_ROOT.parent):
        if (root / "envs" / "pools").is_dir():
            return root
    raise CardError(f"no card folders beside or inside {_PACKAGE_ROOT}; reinstall mtrouter_rl")


def _plugin_roots() -> Iterable[Path]:
    for entry in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            spec = importlib.util.find_spec(entry.value)
        except ImportError:  # a package above it is missing or broken
            spec = None
        if spec is None or not spec.submodule_search_locations:
            raise CardError(
                f"entry point '{entry.name}' of group {ENTRY_POINT_GROUP}: no package '{entry.value}'; "
                "name the package that holds envs/, agents/ or datasets/, or reinstall the plug-in"
            )
        yield from (Path(location) for location in spec.submodule_search_locations)


def card_roots() -> tuple[Path, ...]:
    """Every folder that holds card folders: the project's own, then those of plug-ins."""
    return (card_root(), *_plugin_roots())


def list_cards(kind: CardKind) -> dict[str, Path]:
    """Every card of a kind that can be named, with its file; the project's own cards first."""
    found: dict[str, Path] = {}
    for root in card_roots():
        for path in sorted((root / _FOLDERS[kind]).glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def find_card(kind: CardKind, name_or_path: str | Path) -> Path:
    """File of a card.

    Args:
        kind: Which kind of card.
        name_or_path: A name as `list_cards` gives it, or a path to a YAML file.

    Raises:
        UnknownNameError: If it is neither; lists the names and suggests the nearest.
    """
    text = str(name_or_path)
    known = list_cards(kind)
    if text in known:
        return known[text]
    path = Path(text)
    if path.suffix in {".yaml", ".yml"} or path.is_file():
        if path.is_file():
            return path
        raise CardError(f"{kind} card '{path}': no such file; give a path to a YAML file or one of: {', '.join(known)}")
    raise unknown_name(f"{kind.removesuffix('s')} card", text, known, fix="A path to a YAML file is taken as well")


def _explain(card: str, error: ValidationError, *, inside: tuple[str, ...] = ()) -> CardError:
    lines = []
    for issue in error.errors():
        where = ".".join(str(part) for part in (*inside, *issue["loc"])) or "(card)"
        value = "" if issue["type"] == "missing" else f": got {issue['input']!r}"[:120]
        fix = {
            "missing": "add it; there is no default",
            "extra_forbidden": "remove it or correct its spelling",
        }.get(issue["type"], issue["msg"])
        lines.append(f"  field '{where}'{value}: {issue['msg'].rstrip('.')}; {fix}")
    return CardError(f"card {card} breaks its rules:\n" + "\n".join(lines))


def parse_settings(card: EnvCard, model: type[CardT]) -> CardT:
    """Settings of an environment card, as its family wants them.

    Raises:
        CardError: If a setting is missing, unknown or out of range; names every one.
    """
    try:
        return model.model_validate(card.settings)
    except ValidationError as error:
        raise _explain(f"'{card.name}'", error, inside=("settings",)) from error


def parse_card(path: Path, model: type[CardT]) -> CardT:
    """Read one YAML file into its model.

    Raises:
        CardError: If the file is no YAML mapping, or a field is missing, unknown or out of range; names every one.
    """
    return _validated(path, _read_mapping(path), model)


def _read_mapping(path: Path) -> dict[str, object]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CardError(f"card {path} is not valid YAML: {error}") from error
    if not isinstance(data, dict):
        raise CardError(f"card {path} holds {type(data).__name__}, must be a mapping of fields to values")
    return data


def _validated(path: Path, data: dict[str, object], model: type[CardT]) -> CardT:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _explain(str(path), error) from error


def _card_data(
    kind: CardKind, path: Path, *, changes: Mapping[str, Mapping[str, object]], extended_by: tuple[Path, ...] = ()
) -> dict[str, object]:
    """Fields of a card; one that `extends` another states only what differs, see `load_pool_card`.

    `changes` are made to the cards that are extended, by their names.
    """
    data = _read_mapping(path)
    if EXTENDS not in data:
        return data
    base = data.pop(EXTENDS)
    one = {"agents": "an agent"}.get(kind, f"a {kind.removesuffix('s')}")
    if not isinstance(base, str):
        raise CardError(f"card {path}, field '{EXTENDS}': is {base!r}, must be the name or path of {one} card")
    if path.resolve() in extended_by:
        raise CardError(
            f"card {path}, field '{EXTENDS}': it extends itself, by way of '{base}'; let one card stand alone"
        )
    for field in ("name", "description"):
        if field not in data:
            raise CardError(
                f"card {path} extends '{base}' and has no '{field}'; a card that differs says so itself: add it"
            )
    beside = path.parent / base
    base_path = beside if beside.is_file() else find_card(kind, base)
    extended = _card_data(kind, base_path, changes=changes, extended_by=(*extended_by, path.resolve()))
    return _merged(_merged(extended, changes.get(base, {}), card=base_path), data, card=path)


def _merged(base: Mapping[str, object], changes: Mapping[str, object], *, card: Path) -> dict[str, object]:
    """Fields of a card with changes: mappings go key by key, the list of models model by model, anything else is replaced."""
    result = dict(base)
    for key, change in changes.items():
        there = result.get(key)
        if isinstance(there, dict) and isinstance(change, dict):
            result[key] = _merged(there, change, card=card)
        elif key == "models" and isinstance(there, list) and isinstance(change, list):
            result[key] = _merged_models(there, change, card=card)
        else:
            result[key] = change
    return result


def _merged_models(base: list[object], changes: list[object], *, card: Path) -> list[object]:
    by_name = {str(model["name"]): model for model in base if isinstance(model, dict) and "name" in model}
    for change in changes:
        name = change.get("name") if isinstance(change, dict) else None
        if not isinstance(change, dict) or name not in by_name:
            unknown = unknown_name("model of the card that is extended", str(name), by_name)
            raise CardError(f"card {card}, field 'models': {unknown}; changes are told by the model's name")
        by_name[str(name)] = _merged(by_name[str(name)], change, card=card)
    return list(by_name.values())


def load_env_card(name_or_path: str | Path) -> EnvCard:
    """Environment card by name or path. Raises `CardError` or `UnknownNameError`."""
    return parse_card(find_card("envs", name_or_path), EnvCard)


def load_pool_card(name_or_path: str | Path) -> PoolCard:
    """Pool card by name or path.

    A card may extend another one (`extends: NAME`, or a file beside it) and then states its own name and description, and what
    differs: mappings are merged key by key, `models` by the models' names, anything else is replaced. The result is checked as
    a whole, so a misspelt field is an error there as well.

    Raises:
        CardError: If a card breaks its rules, or extends itself.
        UnknownNameError: If there is no card of that name.
    """
    path = find_card("pools", name_or_path)
    return _validated(path, _card_data("pools", path, changes={}), PoolCard)


def load_agent_card(
    name_or_path: str | Path, *, changed: Mapping[str, Mapping[str, object]] | None = None
) -> AgentCard:
    """Agent card by name or path; a card may extend another one, as a pool card may.

    Args:
        name_or_path: The card.
        changed: Parameters that differ, by the name of an agent; they hold for the cards that extend it as well, as far as
            these say nothing else.

    Raises:
        CardError: If a card breaks its rules, or extends itself.
        UnknownNameError: If there is no card of that name.
    """
    path = find_card("agents", name_or_path)
    changes = {name: {"parameters": dict(parameters)} for name, parameters in (changed or {}).items()}
    data = _card_data("agents", path, changes=changes)
    return _validated(path, _merged(data, changes.get(str(name_or_path), {}), card=path), AgentCard)


def load_dataset_card(name_or_path: str | Path) -> DatasetCard:
    """Dataset card by name or path. Raises `CardError` or `UnknownNameError`."""
    return parse_card(find_card("datasets", name_or_path), DatasetCard)
