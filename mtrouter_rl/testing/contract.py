"""The contract kit: every rule that an environment has to keep, run against it, with messages that say what to mend.

    from mtrouter_rl.testing.contract import check_environment

    def test_contract():
        check_environment("my-env").raise_if_failed()

`mtrouter-rl check-env` prints the same report.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from mtrouter_rl.cards import EnvCard
from mtrouter_rl.envs.factory import EnvConfig, resolve_card, resolve_env
from mtrouter_rl.errors import ContractError, InvalidConfigError
from mtrouter_rl.records import JsonValue
from mtrouter_rl.testing.env_checks import check_budget, check_gymnasium, check_limits
from mtrouter_rl.testing.expert_checks import check_expert, check_mistakes, check_queries, check_replanning
from mtrouter_rl.testing.subject import SkippedCheck, Subject
from mtrouter_rl.testing.task_checks import (
    check_close,
    check_endings,
    check_fresh_process,
    check_members,
    check_protocol,
    check_scores,
    check_seeding,
    check_splits,
    check_texts,
    check_variations,
)

Status = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One rule.

    Attributes:
        name: Name in reports.
        run: Looks at the subject; gives a sentence on what was seen, or raises `ContractError` or `SkippedCheck`.
        needs: Checks without which this one has nothing to say; it is skipped if one of them failed.
    """

    name: str
    run: Callable[[Subject], str]
    needs: tuple[str, ...] = ()


CHECKS: tuple[Check, ...] = (
    Check(name="splits", run=check_splits),
    Check(name="members", run=check_members, needs=("splits",)),
    Check(name="variations", run=check_variations, needs=("members",)),
    Check(name="protocol", run=check_protocol, needs=("variations",)),
    Check(name="texts", run=check_texts, needs=("protocol",)),
    Check(name="scores", run=check_scores, needs=("protocol",)),
    Check(name="endings", run=check_endings, needs=("protocol",)),
    Check(name="seeding", run=check_seeding, needs=("protocol",)),
    Check(name="queries", run=check_queries, needs=("seeding",)),
    Check(name="fresh_process", run=check_fresh_process, needs=("queries",)),
    Check(name="close", run=check_close, needs=("protocol",)),
    Check(name="expert", run=check_expert, needs=("protocol",)),
    Check(name="mistakes", run=check_mistakes, needs=("protocol",)),
    Check(name="replanning", run=check_replanning, needs=("expert", "mistakes")),
    Check(name="gymnasium", run=check_gymnasium, needs=("texts", "scores", "seeding", "mistakes")),
    Check(name="limits", run=check_limits, needs=("gymnasium",)),
    Check(name="budget", run=check_budget, needs=("gymnasium",)),
)
"""All rules, in the order in which they are tried."""


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What came of one check.

    Attributes:
        name: Which check.
        status: "passed", "failed" or "skipped".
        detail: What was seen; if it failed, the rule and the fix; if it was skipped, why.
    """

    name: str
    status: Status
    detail: str


@dataclass(frozen=True, kw_only=True)
class ContractReport:
    """What came of all checks.

    Attributes:
        env: Name of the environment card.
        results: One result for every check, in order.
    """

    env: str
    results: tuple[CheckResult, ...]

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The checks that failed."""
        return tuple(result for result in self.results if result.status == "failed")

    @property
    def is_passed(self) -> bool:
        """Whether none failed."""
        return not self.failures

    def status(self, name: str) -> Status:
        """Status of a check by its name."""
        return next(result.status for result in self.results if result.name == name)

    def raise_if_failed(self) -> None:
        """Raise what failed.

        Raises:
            ContractError: Names every failed check with what was seen, the rule and the fix.
        """
        if not self.is_passed:
            lines = [f"  {result.name}: {result.detail}" for result in self.failures]
            raise ContractError(f"environment '{self.env}' breaks its contract:\n" + "\n".join(lines))

    def as_json(self) -> dict[str, JsonValue]:
        """The report as plain JSON."""
        results: list[JsonValue] = [asdict(result) for result in self.results]
        return {"env": self.env, "is_passed": self.is_passed, "results": results}

    def __str__(self) -> str:
        """A line per check, then the count."""
        width = max(len(result.name) for result in self.results)
        lines = [f"{result.status:<8}{result.name:<{width}}  {result.detail}" for result in self.results]
        n_skipped = sum(result.status == "skipped" for result in self.results)
        n_passed = len(self.results) - len(self.failures) - n_skipped
        lines.append(f"{self.env}: {n_passed} passed, {len(self.failures)} failed, {n_skipped} skipped")
        return "\n".join(lines)


def check_environment(
    card_or_name: str | Path | EnvCard | EnvConfig,
    *,
    n_episodes: int = 20,
    seed: int = 0,
    expert_threshold: float | None = None,
    replan_threshold: float = 0.8,
) -> ContractReport:
    """Run every check against an environment.

    Args:
        card_or_name: Environment card by name or path, a card, or cards that are resolved already.
        n_episodes: How many episodes are sampled over all splits, tasks in turn.
        seed: Seed of the sample and of the episodes.
        expert_threshold: Share of the sampled episodes that the expert must solve, in [0, 1]; None takes what the card says.
        replan_threshold: Share of those that it must solve in spite of injected mistakes, in [0, 1].

    Raises:
        InvalidConfigError: If an argument is out of range, or a card breaks its rules.
    """
    if n_episodes < 1:
        raise InvalidConfigError(f"n_episodes is {n_episodes}, must be at least 1")
    for name, share in (("expert_threshold", expert_threshold), ("replan_threshold", replan_threshold)):
        if share is not None and not 0 <= share <= 1:
            raise InvalidConfigError(f"{name} is {share}, must be a share in [0, 1]")
    subject = Subject(
        _resolve(card_or_name),
        n_episodes=n_episodes,
        seed=seed,
        expert_threshold=expert_threshold,
        replan_threshold=replan_threshold,
    )
    try:
        return ContractReport(env=subject.card.name, results=run_checks(subject))
    finally:
        subject.close()


def _resolve(card_or_name: str | Path | EnvCard | EnvConfig) -> EnvConfig:
    if isinstance(card_or_name, EnvConfig):
        return card_or_name
    return resolve_card(card_or_name) if isinstance(card_or_name, EnvCard) else resolve_env(card_or_name)


def run_checks(subject: Subject, checks: Sequence[Check] = CHECKS) -> tuple[CheckResult, ...]:
    """Results of the checks, in order; one whose needs failed is skipped."""
    blocked: set[str] = set()
    results: list[CheckResult] = []
    for check in checks:
        missing = [name for name in check.needs if name in blocked]
        if missing:  # what failed is told once: whatever needs it has nothing to add
            detail = f"needs '{missing[0]}', which failed or was not tried"
            results.append(CheckResult(name=check.name, status="skipped", detail=detail))
        else:
            results.append(run_check(check, subject))
        if missing or results[-1].status == "failed":
            blocked.add(check.name)
    return tuple(results)


def run_check(check: Check, subject: Subject) -> CheckResult:
    """Result of one check; whatever else the environment raises is a failure of the check, too."""
    try:
        return CheckResult(name=check.name, status="passed", detail=check.run(subject))
    except SkippedCheck as reason:
        return CheckResult(name=check.name, status="skipped", detail=str(reason))
    except ContractError as error:
        return CheckResult(name=check.name, status="failed", detail=str(error))
    except Exception as error:
        place = _place_of(error)
        detail = f"it raised {type(error).__name__}: {error} ({place}); fix: mend what raises it"
        return CheckResult(name=check.name, status="failed", detail=detail)


def _place_of(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "no traceback" if trace is None else f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
