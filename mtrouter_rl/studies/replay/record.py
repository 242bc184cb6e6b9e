"""What a replay study found: the file `results.json` of its folder."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from mtrouter_rl.envs.replay.layout import Layout, Shape
from mtrouter_rl.files import ResultFile
from mtrouter_rl.records import Count, FiniteRecord, Share
from mtrouter_rl.statistics.estimate import Estimate
from mtrouter_rl.studies.replay.crossval import Goal, Scheme

RESULTS_FILE = "results.json"
Answer = Literal["shown", "not shown", "too few to tell", "excluded", "abstained"]
"""`shown`: the target is met and its interval lies above 0, corrected for all comparisons. `excluded`: the whole interval lies
below the target. `too few to tell`: neither, and so many tasks could not have shown it. `not shown`: neither, though they could
have. `abstained`: the family found nothing on the training tasks to bet on, and did what the best single model does."""


class ModelRow(FiniteRecord):
    """A single model on all tasks.

    Attributes:
        model: Its name.
        score: Mean score, 100 is full success.
        cost_usd: Mean cost of a run, USD.
        n_turns: Mean turns of a run.
        n_known: Runs that are known turn by turn.
    """

    model: str
    score: Estimate
    cost_usd: Estimate
    n_turns: float
    n_known: Count


class ReferenceRow(FiniteRecord):
    """What nobody can reach without knowing the outcomes, on all tasks; no router.

    Attributes:
        name: What it is.
        score: Mean score.
        cost_usd: Mean cost.
        told: In words.
    """

    name: str
    score: Estimate
    cost_usd: Estimate
    told: str


class OverlapRow(FiniteRecord):
    """How far two models solve the same tasks.

    Attributes:
        model: The other model.
        of_failed: Share of the tasks that the best model fails and this one solves; None where it fails none.
        of_solved: Share of the tasks that it solves and this one solves, too; None where it solves none.
    """

    model: str
    of_failed: Share | None
    of_solved: Share | None


class Point(FiniteRecord):
    """A family at one price of money, on held-out tasks.

    Attributes:
        price: Score that the mean cost of the best single model is worth.
        score: Mean score.
        cost_usd: Mean cost, USD.
    """

    price: float
    score: float
    cost_usd: float


class Move(FiniteRecord):
    """From which model to which it was restarted.

    Attributes:
        first: The model that was left.
        second: The model that was started; empty where the task was given up.
        n_tasks: On how many held-out tasks.
        median_turn: Median turn at which.
        median_usd: Median cost of what was left, USD.
    """

    first: str
    second: str
    n_tasks: Count
    median_turn: float
    median_usd: float


class Comparison(FiniteRecord):
    """A family at what a goal chose, on held-out tasks, against the single models on the same tasks.

    Attributes:
        scheme: What was held out.
        family: Its name.
        goal: What chose the price on the training tasks.
        score: Mean score.
        cost_usd: Mean cost, USD.
        hull_gain: Score above blind mixing of the single models at equal cost. The hull is that of the held-out tasks, so it
            knows more than any choice on training tasks could.
        saving: Share of cost below blind mixing at equal score; above the best single model's score, below that model's cost.
        score_difference: Score minus that of the best single model, chosen on the training tasks.
        cost_saving: Share of that model's cost that is saved.
        p_value: Of "hull_gain is 0" for goal "gain", of "saving is 0" for goal "save"; None with too few tasks.
        p_adjusted: The same, corrected for all comparisons of the study (Holm).
        detectable: Smallest true hull_gain (points) or saving (share) that so many tasks show with 80% power, corrected.
        n_needed: Tasks that could show the target (2 points, 25%) with 80% power; None where the spread is 0.
        answer: Whether the target is met.
        told: What the policy of each fold does, in words.
        moves: Restarts on held-out tasks, the most frequent first.
        share_restarted: Share of held-out tasks that were restarted or given up.
    """

    scheme: Scheme
    family: str
    goal: Goal
    score: Estimate
    cost_usd: Estimate
    hull_gain: Estimate
    saving: Estimate
    score_difference: Estimate
    cost_saving: Estimate
    p_value: float | None
    p_adjusted: float | None
    detectable: float
    n_needed: Count | None
    answer: Answer
    told: tuple[str, ...]
    moves: tuple[Move, ...]
    share_restarted: Share


class FamilyRow(FiniteRecord):
    """What a family reaches at every price, on held-out tasks.

    Attributes:
        scheme: What was held out.
        family: Its name.
        points: One per price.
    """

    scheme: Scheme
    family: str
    points: tuple[Point, ...]


class LayoutRow(FiniteRecord):
    """A family of which something hangs on how costs are laid out, under another rule.

    Attributes:
        shape: The rule.
        family: Its name.
        goal: Its goal.
        score: Mean score on held-out groups.
        cost_usd: Mean cost.
        hull_gain: Points above the hull at equal cost.
    """

    shape: Shape
    family: str
    goal: Goal
    score: float
    cost_usd: float
    hull_gain: float


class TransferRow(FiniteRecord):
    """The learned router when no regression has seen a model's runs.

    Attributes:
        model: The model.
        unseen: Mean return on held-out groups: score / 100 minus price, in the study's middle price.
        seen: The same when it was seen.
        without: The same when the model is not in the pool.
        share_started: Share of tasks in which the router that had not seen it called it.
    """

    model: str
    unseen: float
    seen: float
    without: float
    share_started: Share


class Held(FiniteRecord):
    """How tasks were held out.

    Attributes:
        scheme: By groups or by time.
        n_tasks: Tasks that were held out once.
        fold_sizes: Of each fold.
    """

    scheme: Scheme
    n_tasks: Count
    fold_sizes: tuple[int, ...]


class ReplayResults(ResultFile):
    """A replay study.

    Attributes:
        schema_version: Version of this layout.
        fingerprint: Of the suite.
        n_tasks: Tasks.
        n_groups: Groups.
        layout: How costs are laid out where only totals are known.
        layout_source: Whether its rate was fitted, given or assumed.
        layout_error: Root mean square error of the share spent, where it was fitted.
        notes: How the suite was read.
        left_out: What was not studied and why, a sentence each.
        seed: Of folds and bootstrap.
        models: Single models.
        references: What knows the outcomes.
        best_model: The best single model on all tasks.
        overlap: How far the others solve the same tasks as it.
        held: How tasks were held out.
        families: What each family reaches.
        comparisons: Families against single models.
        layouts: The same under other rules of laying out.
        transfer: Unseen models.
        answers: What came of the two targets, in a sentence each.
    """

    SOURCE: ClassVar[str] = "`mtrouter-rl lab replay` writes it"
    FIX: ClassVar[str] = "run the study again"

    schema_version: Literal[1] = 1
    fingerprint: str
    n_tasks: Count
    n_groups: Count
    layout: Layout
    layout_source: str
    layout_error: Annotated[float, Field(ge=0)] | None
    notes: tuple[str, ...]
    left_out: tuple[str, ...]
    seed: int
    models: tuple[ModelRow, ...]
    references: tuple[ReferenceRow, ...]
    best_model: str
    overlap: tuple[OverlapRow, ...]
    held: tuple[Held, ...]
    families: tuple[FamilyRow, ...]
    comparisons: tuple[Comparison, ...]
    layouts: tuple[LayoutRow, ...]
    transfer: tuple[TransferRow, ...]
    answers: tuple[str, ...]
