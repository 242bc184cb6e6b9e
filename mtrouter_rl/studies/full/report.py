"""`claims.json` for people: a table of claims, and one of the comparisons behind those that have several."""

from pathlib import Path

from mtrouter_rl.files import write_atomically
from mtrouter_rl.reporting.document import Block, Bullets, Heading, Paragraph, render_markdown
from mtrouter_rl.reporting.tables import ABSENT, Table, format_number, format_percent, to_plain
from mtrouter_rl.studies.full.claims import CLAIMS_FILE, Claim, Claims, Goal, Measured, SplitClaims, Unit

CLAIMS_PAGE = "claims.md"
_DECIMALS: dict[Unit, int] = {"points": 1, "USD": 4, "return": 3, "switches": 2, "bits": 3, "episodes": 0}
_NO_NUMBER = "no number"


def save_claims(claims: Claims, folder: Path) -> tuple[Path, Path]:
    """Write `claims.json` and `claims.md` into a folder; gives both paths."""
    claims.write(folder / CLAIMS_FILE)
    page = folder / CLAIMS_PAGE
    write_atomically(page, claims_markdown(claims).encode())
    return folder / CLAIMS_FILE, page


def claims_markdown(claims: Claims) -> str:
    """The page: how to read it, and the claims of every split."""
    blocks: list[Block] = [Heading(text=f"What the study of {claims.env} shows", level=1)]
    blocks.append(Paragraph(text=_setting(claims), is_note=claims.is_simulated))
    blocks.append(Paragraph(text=_HOW_TO_READ))
    for split in claims.splits:
        blocks += _blocks(split)
    return render_markdown(blocks, folder=Path())


def claims_text(claims: Claims) -> str:
    """The tables as aligned plain text for a terminal, with short names of the claims."""
    tables = [
        table for split in claims.splits for table in (_short_table(split), parts_table(split)) if table is not None
    ]
    return "\n\n".join([_setting(claims).replace("**", ""), *map(to_plain, tables)])


def claims_table(split: SplitClaims) -> Table:
    """The claims of a split in words."""
    return Table(
        caption=_caption(split),
        header=("claim", *_HEADER),
        rows=tuple((claim.text, *_cells(claim)) for claim in split.claims),
        is_prose=True,
    )


def parts_table(split: SplitClaims) -> Table | None:
    """The comparisons behind claims that have several; None if none has."""
    rows: list[tuple[str, ...]] = []
    groups = set()
    for claim in split.claims:
        groups.add(len(rows))
        for part in claim.parts:
            measured = format_measured(part.measured, claim.unit)
            rows.append((claim.key, part.name, measured, _word(part.is_reached), part.verdict))
    if not rows:
        return None
    return Table(
        caption=f"What claims of several comparisons are made of, {split.split} split.",
        header=("claim", "with", "measured (95% CI)", "target reached", "verdict"),
        rows=tuple(rows),
        groups=frozenset(groups - {len(rows)}),
    )


def format_measured(measured: Measured | None, unit: Unit) -> str:
    """A number with its interval and unit.

    Example:
        >>> format_measured(Measured(value=5.61, low=1.2, high=None, n_episodes=8, n_clusters=4), "points")
        '+5.6 [+1.2, unbounded] points'
    """
    if measured is None:
        return ABSENT
    value = _NO_NUMBER if measured.value is None else _number(measured.value, unit)
    ends = ["unbounded" if end is None else _number(end, unit) for end in (measured.low, measured.high)]
    interval = "" if measured.n_clusters is None else f" [{', '.join(ends)}]"
    return f"{value}{interval}{'' if unit == 'share' else f' {unit}'}"


def format_goal(goal: Goal, unit: Unit) -> str:
    """A goal with its unit.

    Example:
        >>> format_goal(Goal(kind="at least", target=0.7), "share")
        'at least 70.0%'
    """
    return f"{goal.kind} {_number(goal.target, unit)}{'' if unit == 'share' else f' {unit}'}"


_HEADER = ("target", "measured (95% CI)", "episodes", "target reached", "verdict")
_HOW_TO_READ = (
    "**holds**: the whole 95% interval reaches the target; **does not hold**: none of it does; **not distinguishable**: part "
    "of it does. *Target reached* looks at the measured number alone, without its interval. A claim of several comparisons "
    "shows the one that is farthest from the target; it holds if each holds, and does not hold if one does not. "
    "**not measured**: something that it needs was not run. *No number*: out of reach (a score that a frontier never has, a "
    "cost below all its points) or not defined (a share of no errors). What equal cost, equal score and area are: "
    "`docs/compare-frontiers.md`. Intervals are over (task, variation); every router was trained once, and what another "
    "training would change is in none of them."
)


def _setting(claims: Claims) -> str:
    models = "**Simulated models: no LLM was called.** " if claims.is_simulated else "Real models. "
    return (
        f"{models}Environment {claims.env}, pool {claims.pool}; return = utility - {claims.cost_weight:g} x cost / "
        f"{claims.cost_unit_usd:g} USD; bootstrap seed {claims.seed}; mtrouter_rl {claims.package_version}."
    )


def _caption(split: SplitClaims) -> str:
    left_out = (
        f" {split.n_left_out} (task, variation) left out, since all episodes of a policy failed there."
        if split.n_left_out
        else ""
    )
    return (
        f"{split.split} split: {split.n_clusters} (task, variation), each counted once.{left_out} Intervals are paired, from "
        f"{split.n_resamples} bootstrap resamples of (task, variation). Episodes: of the policy that has fewest."
    )


def _blocks(split: SplitClaims) -> list[Block]:
    blocks: list[Block] = [Heading(text=f"The {split.split} split"), claims_table(split)]
    notes = tuple(f"`{claim.key}`: {' '.join(claim.notes)}" for claim in split.claims if claim.notes)
    if notes:
        blocks += [Heading(text=f"Notes, {split.split}", level=3), Bullets(items=notes)]
    parts = parts_table(split)
    return blocks if parts is None else [*blocks, Heading(text=f"Single comparisons, {split.split}", level=3), parts]


def _short_table(split: SplitClaims) -> Table:
    return Table(
        caption=_caption(split),
        header=("claim", *_HEADER),
        rows=tuple((claim.key, *_cells(claim)) for claim in split.claims),
    )


def _cells(claim: Claim) -> tuple[str, ...]:
    measured = claim.measured
    episodes = ABSENT if measured is None or measured.n_episodes is None else str(measured.n_episodes)
    return (
        format_goal(claim.goal, claim.unit),
        format_measured(measured, claim.unit),
        episodes,
        _word(claim.is_reached),
        claim.verdict,
    )


def _word(is_reached: bool | None) -> str:
    return ABSENT if is_reached is None else "yes" if is_reached else "no"


def _number(value: float, unit: Unit) -> str:
    return format_percent(value) if unit == "share" else format_number(value, decimals=_DECIMALS[unit], sign=True)
