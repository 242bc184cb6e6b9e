"""The card of a pool after distillation: what the cheap model is assumed to have learned, kind of action by kind of action.

Nothing is trained here. The simulated cheap model gains a share of the dearer models' edge, where the distillation set has
examples. How much a real model would gain, nobody knows before it was tuned. So the share and the price are given by the user,
and the card says that they were assumed.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from mtrouter_rl.cards import EnvCard, load_pool_card
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.envs.factory import EnvConfig
from mtrouter_rl.errors import CardError, DatasetError, InvalidConfigError, UnknownNameError, unknown_name
from mtrouter_rl.exporters.distillation import CLUSTERS_FILE, EXAMPLES_FILE, DistillationTable
from mtrouter_rl.files import parse_json, write_atomically
from mtrouter_rl.pools.simulated.backend import SimulationCard, make_backend
from mtrouter_rl.pools.simulated.luck import logistic
from mtrouter_rl.records import Count, FiniteRecord

LEAST_EXAMPLES = 5
"""With fewer examples of a kind of action, nothing is taken to be learned of it."""
_DIGITS = 6
_PRICES = ("input", "cached_input", "cache_write", "output")


@dataclass(frozen=True, kw_only=True)
class DistillationRequest:
    """What to assume.

    Attributes:
        folder: Folder that `mtrouter-rl export distillation` wrote.
        config: Environment, and the simulated pool that the log was collected with.
        pool: The pool card as the user named it; None for the environment's own.
        learnt: Share of the dearer models' edge that the cheap model gains, in [0, 1].
        price_factor: Its prices after distillation over those before, above 0.
        least_examples: Examples below which nothing is learned of a kind of action.
    """

    folder: Path
    config: EnvConfig
    pool: str | None
    learnt: float
    price_factor: float
    least_examples: int = LEAST_EXAMPLES


class LearntSkill(FiniteRecord):
    """What is assumed of one kind of action.

    Attributes:
        skill: The kind, by the environment card's patterns.
        n_examples: Examples of it.
        n_better: Those of models that are better at it than the cheap one: from the others nothing is learned.
        before: Success probability of the cheap model, where it is not stuck, on no topic.
        better: The same of the better models, at the mean logit over their examples; None if there are none.
        after: The same of the cheap model after distillation.
        strength: Its strength in the new card.
    """

    skill: str
    n_examples: Count
    n_better: Count
    before: float
    better: float | None
    after: float
    strength: float


class DistilledPool(FiniteRecord):
    """A pool after distillation.

    Attributes:
        cheap: The model that learned.
        dataset_id: Log that the examples are of.
        n_examples: All examples.
        learnt: Share of the edge that was assumed.
        price_factor: Factor of its prices that was assumed.
        least_examples: Examples below which nothing was learned of a kind.
        skills: Kinds of action of the examples, those with most examples first.
    """

    cheap: str
    dataset_id: str
    n_examples: Count
    learnt: float
    price_factor: float
    least_examples: Count
    skills: tuple[LearntSkill, ...]


def distill(request: DistillationRequest, out: Path) -> DistilledPool:
    """Work out the card and write it to `out`.

    Raises:
        InvalidConfigError: If the share or the factor is out of range, or the pool is not simulated.
        ResultsError: If `clusters.json` is missing or broken.
        DatasetError: If the examples do not fit it, or are of another environment or pool.
        CardError: If nothing is learned, or the new card breaks a rule.
    """
    _check(request, out)
    env, pool = request.config.card, request.config.pool
    table = DistillationTable.load(request.folder / CLUSTERS_FILE)
    _check_source(table, env, pool)
    backend = make_backend(pool, env)
    simulation = SimulationCard.model_validate(pool.backend.settings)
    if simulation.complementarity == 0:
        raise CardError(
            f"pool card '{pool.name}', field 'backend.settings.complementarity': is 0, so no model is better at some kind of "
            "action than at others, and a card cannot say what was learned; give a pool with a complementarity above 0"
        )
    dearer = _dearer_by_skill(request.folder, table, backend.skill_of, pool)
    skills = tuple(
        _learnt(skill, models, simulation, table.cheap, request)
        for skill, models in sorted(dearer.items(), key=lambda item: (-len(item[1]), item[0]))
    )
    if all(one.after == one.before for one in skills):
        raise CardError(
            f"nothing is learned: of no kind of action there are {request.least_examples} examples of models that are better "
            "at it; give a larger log, or fewer --least-examples"
        )
    found = DistilledPool(
        cheap=table.cheap,
        dataset_id=table.dataset_id,
        n_examples=sum(one.n_examples for one in skills),
        learnt=request.learnt,
        price_factor=request.price_factor,
        least_examples=request.least_examples,
        skills=skills,
    )
    write_atomically(out, distilled_card(found, pool, name=out.stem, extends=_extends(request, out)).encode())
    make_backend(load_pool_card(out), env)
    return found


def _check(request: DistillationRequest, out: Path) -> None:
    if not 0 < request.learnt <= 1:
        raise InvalidConfigError(
            f"--learnt is {request.learnt:g}, must be in (0, 1]: the share of the dearer models' edge that is learned"
        )
    if not 0 < request.price_factor < float("inf"):
        raise InvalidConfigError(
            f"--price-factor is {request.price_factor:g}, must be above 0: prices of the tuned model over those before"
        )
    if request.least_examples < 1:
        raise InvalidConfigError(f"--least-examples is {request.least_examples}, must be at least 1")
    if request.config.pool.backend.kind != "simulated":
        raise InvalidConfigError(
            f"pool '{request.config.pool.name}' has backend '{request.config.pool.backend.kind}', must be 'simulated': what a "
            "real model learned is known only after it was tuned; then collect a log with it"
        )
    if out.suffix not in (".yaml", ".yml"):
        raise InvalidConfigError(f"--out is {out}, must end in .yaml: it is the card, and is named by its file")


def _check_source(table: DistillationTable, env: EnvCard, pool: PoolCard) -> None:
    for name, there, here in (("env", table.env, env.name), ("pool", table.pool, pool.name)):
        if there != here:
            raise DatasetError(
                f"{CLUSTERS_FILE}, field '{name}': is '{there}', must be '{here}', for which the card is made; give --{name} "
                f"{there}, or export a log of '{here}'"
            )
    if table.cheap not in pool.model_names:
        raise DatasetError(f"{CLUSTERS_FILE}, field 'cheap': {unknown_name('model', table.cheap, pool.model_names)}")


def _dearer_by_skill(
    folder: Path, table: DistillationTable, skill_of: Callable[[str], str], pool: PoolCard
) -> dict[str, list[str]]:
    """The dearer model of every example, by kind of its action."""
    path = folder / EXAMPLES_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read: {error}; export the log anew") from error
    n = sum(one.n for one in table.clusters)
    if len(lines) != n:
        raise DatasetError(
            f"{path} has {len(lines)} lines, must have {n}, as {CLUSTERS_FILE} says; export the log anew"
        )
    found: dict[str, list[str]] = {}
    for number, line in enumerate(lines, start=1):
        action, model = _example(line, where=f"{path}, line {number}", pool=pool)
        found.setdefault(skill_of(action), []).append(model)
    return found


def _example(line: str, *, where: str, pool: PoolCard) -> tuple[str, str]:
    """What the dearer model did, and which one it was."""
    try:
        row = parse_json(line)
        action, model = row["messages"][-1]["content"], row["dearer_model"]  # type: ignore[index,call-overload]
    except (ValueError, LookupError, TypeError) as error:
        raise DatasetError(f"{where} holds no example ({error}); export the log anew") from error
    if not isinstance(action, str) or model not in pool.model_names:
        problem: UnknownNameError = unknown_name("model", str(model), pool.model_names)
        raise DatasetError(f"{where}, field 'dearer_model': {problem}")
    return action, str(model)


def _learnt(
    skill: str, dearer: Sequence[str], simulation: SimulationCard, cheap: str, request: DistillationRequest
) -> LearntSkill:
    """What the cheap model gains at a kind of action: a share of the mean edge of the examples of better models."""

    def logit(model: str) -> float:
        one = simulation.models[model]
        strength = simulation.complementarity * one.skills.get(skill, 0.0)
        return one.ability - simulation.difficulty.get(skill, 0.0) + strength

    own = logit(cheap)
    better = [logit(model) for model in dearer if logit(model) > own]
    gain = request.learnt * (float(np.mean(better)) - own) if len(better) >= request.least_examples else 0.0
    strength = simulation.models[cheap].skills.get(skill, 0.0) + gain / simulation.complementarity
    return LearntSkill(
        skill=skill,
        n_examples=len(dearer),
        n_better=len(better),
        before=logistic(own),
        better=logistic(float(np.mean(better))) if better else None,
        after=logistic(own + gain),
        strength=round(strength, _DIGITS),
    )


def _extends(request: DistillationRequest, out: Path) -> str:
    """How the new card names the one that it extends: by name, or by its path from there."""
    given = request.pool
    if given is not None and Path(given).is_file():
        return os.path.relpath(Path(given).resolve(), out.resolve().parent)
    return request.config.pool.name if given is None else given


def distilled_card(found: DistilledPool, pool: PoolCard, *, name: str, extends: str) -> str:
    """Text of the card.

    Args:
        found: What was learned.
        pool: The pool that it extends.
        name: Name of the card.
        extends: How the card names that pool.
    """
    taught = {one.skill: one.strength for one in found.skills if one.after != one.before}
    prices = pool.model(found.cheap).prices
    dearer = {kind: getattr(prices, kind) for kind in _PRICES if getattr(prices, kind) is not None}
    kinds = ", ".join(f"{one.skill} ({one.n_better})" for one in found.skills if one.skill in taught)
    description = (
        f"SIMULATED AND ASSUMED: '{pool.name}' with '{found.cheap}' after distillation. It is assumed to have gained "
        f"{found.learnt:g} of the dearer models' edge (logit) at the kinds of action of which log '{found.dataset_id}' has "
        f"{found.least_examples} examples of better models at least: {kinds}, of {found.n_examples} escalation failures in "
        f"all. Its prices are assumed to be {found.price_factor:g} times those before. How often it is stuck, what it does "
        "when it fails, and how long its replies are, stay. No model was trained, and no real model was called."
    )
    card: Mapping[str, object] = {
        "name": name,
        "extends": extends,
        "description": description,
        "models": [
            {
                "name": found.cheap,
                "prices": {kind: round(price * found.price_factor, 9) for kind, price in dearer.items()},
            }
        ],
        "backend": {"settings": {"models": {found.cheap: {"skills": taught}}}},
    }
    told = "\n".join(f"# {line}" for line in format_distilled(found).splitlines())
    body: str = yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=120)
    return f"# Made by mtrouter-rl lab distill.\n{told}\n{body}"


def format_distilled(found: DistilledPool) -> str:
    """What was assumed, for a reader."""
    rows = [
        f"{one.skill:12}  {one.n_examples:8d}  {one.n_better:15d}  {one.before:6.1%}  "
        f"{'-' if one.better is None else f'{one.better:.1%}':>6}  {one.after:6.1%}"
        + ("" if one.after != one.before else "  nothing learned")
        for one in found.skills
    ]
    return "\n".join(
        [
            f"'{found.cheap}' gains {found.learnt:g} of the edge, at {found.price_factor:g} times its prices (both ASSUMED); "
            f"{found.n_examples} examples of log '{found.dataset_id}'",
            "success where it is not stuck, without topics:",
            "kind          examples  of better models  before  better   after",
            *rows,
        ]
    )
