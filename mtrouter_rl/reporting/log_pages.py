"""Pages about what is no run: estimates from a log, a log itself, a saved router."""

import json
from pathlib import Path

from mtrouter_rl.agents.deployment import DEPLOYMENT_FILE, Deployment, load_deployment
from mtrouter_rl.agents.saving import RECORD_FILE, digest, read_record
from mtrouter_rl.datasets.info import INFO_FILE
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.datasets.summary import format_summary, summarize
from mtrouter_rl.evaluation.shown_episodes import TRANSCRIPTS_FILE, Transcripts
from mtrouter_rl.ope.record import OPE_FILE, OpeReport, load_report
from mtrouter_rl.ope.verdict import load_verdict
from mtrouter_rl.reporting.document import Block, Bullets, Code, Contents, Heading, Interactive, Paragraph
from mtrouter_rl.reporting.interactive import estimates_html, viewer_html
from mtrouter_rl.reporting.ope_section import SELECTION_TITLES, estimates_table, refusal_words
from mtrouter_rl.reporting.tables import Table, format_number

_UNITS = {"utility": "score", "cost_usd": "USD per episode"}
SIMULATED = " (simulated models: no money was spent)"
"""Behind every amount of money of a log whose models were simulated."""


def log_page(folder: Path) -> tuple[str, list[Block]] | None:
    """Title and contents of the page about a folder; None if it holds none of these.

    Raises:
        MTRouterError: If a file in it breaks its schema.
    """
    if (folder / OPE_FILE).is_file():
        return _of_estimates(load_report(folder / OPE_FILE), folder / TRANSCRIPTS_FILE)
    if (folder / RECORD_FILE).is_file():
        return _of_router(folder)
    if (folder / INFO_FILE).is_file():
        return _of_log(Dataset.load(folder))
    return None


def _of_estimates(report: OpeReport, transcripts: Path) -> tuple[str, list[Block]]:
    title = f"{report.dataset_id}: what routers would earn, estimated from the log"
    blocks: list[Block] = [
        Heading(text=title, level=1),
        Paragraph(
            text=f"Nothing was run: {report.n_episodes} episodes with {report.n_turns} turns of the log speak of "
            f"{len(report.policies)} policies. What the log itself earned: score "
            f"{format_number(100 * report.logged['utility'], decimals=1)}, return {report.logged['return']:.3f}, where "
            f"return = utility - {report.cost_weight:g} x cost / {report.cost_unit_usd:g} USD."
        ),
    ]
    blocks += [Paragraph(text=f"{note[0].upper()}{note[1:]}.", is_note=True) for note in report.notes]
    blocks.append(Contents())
    if any(one.headline for one in report.policies):
        text = "Estimated score against estimated cost, with 95% intervals: point at a policy for its numbers."
        blocks += [
            Heading(text="Estimates"),
            Interactive(markup=estimates_html(report), text=text, needs_plotly=True),
        ]
    blocks.append(_estimates(report))
    if report.differences:
        blocks += [Heading(text="Differences of return"), _differences(report)]
    refusals = refusal_words(report)
    if refusals:
        blocks += [Heading(text="What the log cannot tell"), Bullets(items=refusals)]
    if transcripts.is_file():
        shown = Transcripts.load(transcripts)
        text = "Logged episodes, turn by turn: who was called, and how the router values every model there."
        blocks += [Heading(text="Episodes, turn by turn"), Interactive(markup=viewer_html(shown), text=text)]
    return title, blocks


def _estimates(report: OpeReport) -> Table:
    cells = [[row[:3] for row in estimates_table(report, None, quantity).rows] for quantity in SELECTION_TITLES]
    titles = [_UNITS.get(quantity, title) for quantity, title in SELECTION_TITLES.items()]
    return Table(
        caption="Estimates of the headline estimator with 95% intervals. (1) trained on this very log. (2) with estimated "
        "propensities.",
        header=("policy", "by", *titles),
        rows=tuple((*rows[0], *(row[2] for row in rows[1:])) for rows in zip(*cells, strict=True)),
    )


def _differences(report: OpeReport) -> Table:
    return Table(
        caption="Differences of return by the same estimator, on shared resamples, with 95% intervals. p, Holm: adjusted for "
        "all rows of this table.",
        header=("policy - other", "by", "return", "p", "p, Holm"),
        rows=tuple(
            (
                f"{one.policy} - {one.other}",
                one.estimator.upper(),
                f"{one.difference.value:+.3f} [{one.difference.low:+.3f}, {one.difference.high:+.3f}]",
                f"{one.p_value:.3f}",
                f"{one.p_value_holm:.3f}",
            )
            for one in report.differences
        ),
    )


def _of_log(dataset: Dataset) -> tuple[str, list[Block]]:
    info = dataset.info
    title = f"{info.dataset_id}: a log"
    blocks: list[Block] = [
        Heading(text=title, level=1),
        Code(text=format_summary(summarize(dataset))),
        Paragraph(text="Train a router on it with `mtrouter-rl train`; see docs/train-on-my-logs.md."),
    ]
    if info.is_simulated:
        blocks.insert(1, Paragraph(text=f"**The models are simulated**{SIMULATED}.", is_note=True))
    return title, blocks


def _of_router(folder: Path) -> tuple[str, list[Block]]:
    record = read_record(folder)
    saved = load_deployment(folder) if (folder / DEPLOYMENT_FILE).is_file() else None
    title = f"{record.name}: a saved router"
    made = record.provenance
    facts = [("kind", record.kind), ("models", ", ".join(record.model_names)), ("mtrouter_rl", record.package_version)]
    if made is not None:
        facts += [
            ("agent card", made.card.name),
            ("seed", str(made.seed)),
            ("logs", ", ".join(made.dataset_ids) or "none"),
        ]
    if saved is not None:
        facts += _deployment_facts(saved)
    blocks: list[Block] = [
        Heading(text=title, level=1),
        Table(caption="What it is.", header=("field", "value"), rows=tuple(facts), is_prose=True),
        Paragraph(text="Ask it from an agent:"),
        Code(
            text=f'from mtrouter_rl.serving import load_router\n\nrouter = load_router("{folder}")\n'
            "decision = router.choose(messages, models=models)"
        ),
        *_verdict(folder),
        Paragraph(text="What it earns is told by `mtrouter-rl evaluate`, or `mtrouter-rl ope` on a log."),
    ]
    if made is not None:
        blocks += [Heading(text="Parameters"), Code(text=json.dumps(made.card.parameters, indent=2, sort_keys=True))]
    return title, blocks


def _verdict(folder: Path) -> list[Block]:
    """What its log says of it, or that nobody asked."""
    found = load_verdict(folder, digest(folder))
    if found is None:
        told = (
            "It has not been compared with the best single model of its log; `mtrouter-rl train --verdict` does that."
        )
        return [Paragraph(text=told, is_note=True)]
    return [Heading(text="Against the best single model"), Bullets(items=tuple(found.lines))]


def _deployment_facts(saved: Deployment) -> list[tuple[str, str]]:
    simulated = SIMULATED if saved.is_simulated else ""
    prices = "; ".join(
        f"{model.name} {model.prices.input:g} in, {model.prices.output:g} out" for model in saved.pool.models
    )
    return [
        ("environment", saved.env),
        ("pool", f"{saved.pool.name}{simulated}"),
        ("prices, USD per million tokens", prices),
        ("reward", f"utility - {saved.reward.cost_weight:g} x cost / {saved.reward.cost_unit_usd:g} USD"),
        ("turn limit", str(saved.max_turns)),
    ]
