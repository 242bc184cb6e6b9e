"""From tables "query x model" to one-turn episodes: what the importers of one-turn suites share.

Every answer of a model to a query is an episode of one turn. All answers to one query share (task, variation, seed), so
that the outcome of every choice is known and counterfactuals need no estimate.
"""

import hashlib
import math
from dataclasses import dataclass, field

from mtrouter_rl.cards.policy import single_policy
from mtrouter_rl.datasets.importers.base import ImportReport, ImportSource, ModelNames, UnusableEpisodeError, cut
from mtrouter_rl.records import UNLIMITED_BUDGET_USD, Episode, JsonValue, TokenUsage, Turn, UsageSource

BAD_SCORE = "score that is missing or out of range"
BAD_COUNT = "token count that is missing or invalid"
BAD_COST = "cost that is missing or invalid"
BAD_TEXT = "text that is missing or no text"
UNKNOWN_MODEL = "model that the pool does not have"
OTHER_QUERY = "another text under the same query id"
COST_NOTE = "cost by tokens and the pool's prices, against the logged cost"
NO_LOGGED_COST = "answer whose logged cost is missing"

_VARIATION_BYTES = 6
_MAX_COUNT = 2**63
_DIGEST_BYTES = 16
_TRUTH = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, kw_only=True)
class Query:
    """A question that was put to every model.

    Attributes:
        task: Data set (or evaluation) that it is from.
        query_id: Name within the task.
        variation: Number within the task, >= 0; the same whatever else is imported.
        text: What the models were sent.
    """

    task: str
    query_id: str
    variation: int
    text: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What one model made of a query.

    Attributes:
        model: Name in the pool.
        response: Its text; empty if it was not published.
        score: In [-1, 1]; 1 is full success.
        usage: Tokens of the call.
        usage_source: Whether the tokens were logged.
        logged_cost_usd: Price of the call by the log, USD; None if it does not say. It is kept and compared, and the
            episode's cost is tokens times the pool's prices.
        extra: What else the log says.
    """

    model: str
    response: str
    score: float
    usage: TokenUsage
    usage_source: UsageSource
    logged_cost_usd: float | None
    extra: dict[str, JsonValue] = field(default_factory=dict)


def stable_variation(query_id: str) -> int:
    """Number of a query that has a name only: a hash, so that it depends on neither order nor choice of rows.

    Returns:
        In [0, 2^48), which a float holds exactly.

    Example:
        >>> stable_variation("mbpp.dev.325") == stable_variation("mbpp.dev.325")
        True
    """
    digest = hashlib.blake2b(query_id.encode("utf-8", errors="surrogatepass"), digest_size=_VARIATION_BYTES).digest()
    return int.from_bytes(digest, "big")


def read_score(value: object) -> float:
    """Score of an answer.

    Args:
        value: Number, truth value, or the text of one as CSV has it.

    Raises:
        UnusableEpisodeError: If it is missing, no number, or outside [-1, 1].

    Example:
        >>> read_score("True"), read_score(0.25)
        (1.0, 0.25)
    """
    number = _number(value)
    if number is None or not -1 <= number <= 1:
        raise UnusableEpisodeError(BAD_SCORE, f"score is {cut(repr(value))}, must be a number in [-1, 1]")
    return number


def read_count(value: object, name: str) -> int:
    """Number of tokens.

    Raises:
        UnusableEpisodeError: If it is missing or no whole number >= 0.
    """
    number = None if isinstance(value, bool | str) else _number(value)
    if number is None or not 0 <= number < _MAX_COUNT or number != math.floor(number):
        raise UnusableEpisodeError(BAD_COUNT, f"{name} is {cut(repr(value))}, must be a whole number >= 0")
    return value if isinstance(value, int) else int(number)


def read_cost(value: object) -> float | None:
    """Logged cost, USD; None if it is missing (no value, empty text or NaN).

    Raises:
        UnusableEpisodeError: If it is there and no finite number >= 0.
    """
    if is_missing(value):
        return None
    number = None if isinstance(value, bool) else _number(value)
    if number is None or number < 0:
        raise UnusableEpisodeError(BAD_COST, f"cost is {cut(repr(value))}, must be a finite number >= 0")
    return number


def read_text(value: object, name: str) -> str:
    """Text that has to be there.

    Raises:
        UnusableEpisodeError: If it is missing, empty or no text.
    """
    if not isinstance(value, str) or not value:
        raise UnusableEpisodeError(BAD_TEXT, f"{name} is {cut(repr(value))}, must be a text that is not empty")
    return value


def is_missing(value: object) -> bool:
    """Whether a cell of a table holds nothing: no value, empty text, or NaN."""
    if isinstance(value, str):
        return value.strip().lower() in {"", "nan", "none", "null"}
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(value: object) -> float | None:
    if isinstance(value, str):
        if value.strip().lower() in _TRUTH:
            return _TRUTH[value.strip().lower()]
        try:
            value = float(value)
        except ValueError:
            return None
    if not isinstance(value, bool | int | float):
        return None
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None
    return number if math.isfinite(number) else None


class OneTurnBuilder:
    """Makes episodes of answers, and keeps account of costs and of the text of every query.

    Memory: a few hundred bytes for every query, two sums for every model; nothing for an answer.
    """

    def __init__(self, source: ImportSource) -> None:
        self.report: ImportReport = source.report
        self._pool = source.pool
        self._names = ModelNames(source.pool)
        self._prices = {model.name: model.prices for model in source.pool.models}
        self._checked: Query | None = None
        self._texts: dict[tuple[str, int], bytes] = {}
        self._costs: dict[str, tuple[float, float]] = {}

    def model(self, *candidates: str) -> str:
        """Name in the pool of a model of the log.

        Raises:
            UnusableEpisodeError: If the pool has none of these names.
        """
        found = self._names.find(*candidates)
        if found is None:
            raise UnusableEpisodeError(UNKNOWN_MODEL, self._names.explain(candidates[0]))
        return found

    def check_query(self, query: Query) -> None:
        """See that a query has one text only.

        Raises:
            UnusableEpisodeError: If another text came under the same task and variation before.
        """
        if query is self._checked:  # the next model of the same row
            return
        digest = hashlib.blake2b(query.text.encode("utf-8", errors="surrogatepass"), digest_size=_DIGEST_BYTES).digest()
        if self._texts.setdefault((query.task, query.variation), digest) != digest:
            raise UnusableEpisodeError(
                OTHER_QUERY, f"query '{query.query_id}' of task '{query.task}' begins with {cut(query.text)!r} here"
            )
        self._checked = query

    def episode(self, query: Query, answer: Answer) -> Episode:
        """One-turn episode of an answer; its cost is tokens times the pool's prices.

        Raises:
            UnusableEpisodeError: As `check_query`.
        """
        self.check_query(query)
        cost_usd = self._prices[answer.model].cost_usd(answer.usage)
        episode_id = f"{query.task}/{query.query_id}/{answer.model}"
        self._account(answer, cost_usd, source=episode_id)
        return Episode(
            episode_id=episode_id,
            task=query.task,
            variation=query.variation,
            seed=0,
            split="train",
            task_text=query.text,
            first_observation="",
            behavior_policy=single_policy(answer.model),
            budget_usd=UNLIMITED_BUDGET_USD,
            max_turns=1,
            turns=(self._turn(answer, cost_usd),),
            usage_source=answer.usage_source,
            extra={"query_id": query.query_id, "logged_cost_usd": answer.logged_cost_usd, **answer.extra},
        )

    def _turn(self, answer: Answer, cost_usd: float) -> Turn:
        n_models = len(self._pool.models)
        return Turn(
            model=answer.model,
            served_model=answer.model,
            action_text=answer.response,
            observation_text="",
            usage=answer.usage,
            cost_usd=cost_usd,
            utility_gain=answer.score,
            propensity=1.0,
            action_mask=(True,) * n_models,
            warm=(False,) * n_models,
            error="",
            latency_s=None,
            terminated=True,
            truncated=False,
        )

    def _account(self, answer: Answer, cost_usd: float, *, source: str) -> None:
        if answer.logged_cost_usd is None:
            self.report.note(NO_LOGGED_COST, source=source)
            return
        computed, logged = self._costs.get(answer.model, (0.0, 0.0))
        self._costs[answer.model] = computed + cost_usd, logged + answer.logged_cost_usd

    def note_costs(self) -> None:
        """Write into the report, per model, how far its cost is from the logged one, over the answers that have both."""
        for model in (name for name in self._pool.model_names if name in self._costs):
            computed, logged = self._costs[model]
            share = f"{computed / logged - 1:+.1%}" if logged > 0 else "no percentage of nothing"
            detail = f"computed {computed:.6g} USD, logged {logged:.6g} USD: {share}"
            self.report.note(COST_NOTE, source=model, detail=detail)
