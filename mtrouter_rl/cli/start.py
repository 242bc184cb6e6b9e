"""`mtrouter-rl start`: from a log to a verdict, a report and a router, by the ordinary commands, each of them shown."""

import argparse
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mtrouter_rl.errors import InvalidConfigError
from mtrouter_rl.files import write_atomically
from mtrouter_rl.options import Command, Group, Option, Output, shared

if TYPE_CHECKING:
    from mtrouter_rl.ope.verdict import Verdict
    from mtrouter_rl.workflows.log_advice import LogAdvice

AGENT = "fitted-q"
"""What is trained where routers choose before every call."""
_ASKED = "start.json"
_USE = """\
from mtrouter_rl.serving import load_router

router = load_router("{router}")
models = []  # which model gave every answer so far
decision = router.choose(messages, models=models)  # your chat messages, as you would send them
print(decision.model, decision.reason)
# ... call decision.model, append its answer and the result of its tools to messages, then:
models.append(decision.model)"""


@dataclass
class _Path:
    """The steps so far, and how the next is taken."""

    args: argparse.Namespace
    output: Output
    done: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        folder: Path = self.args.out
        return folder

    def step(self, why: str, words: Sequence[str | Path], *, makes: Path) -> None:
        """Run one command, unless what it makes is there already."""
        from mtrouter_rl.cli.program import run_command
        from mtrouter_rl.files.locks import locked

        line = f"mtrouter-rl {shlex.join(map(str, words))}"
        self.done.append(line)
        self.output.say(f"\n== {why}\n$ {line}")
        if makes.exists():
            with locked(makes.parent):  # takes away the lock file that a killed step may have left
                self.output.say(f"(done before: {makes})")
            return
        quiet = ["--quiet"] if self.output.is_quiet or self.output.is_json else []
        with _stdout_to_stderr(self.output.is_json):
            run_command([*map(str, words), *quiet])


class _stdout_to_stderr:  # noqa: N801
    """While it lasts, what commands print goes to stderr, so that stdout holds one JSON document alone."""

    def __init__(self, is_on: bool) -> None:
        import contextlib
        import sys

        self._redirect = contextlib.redirect_stdout(sys.stderr) if is_on else contextlib.nullcontext()

    def __enter__(self) -> None:
        self._redirect.__enter__()

    def __exit__(self, *error: object) -> None:
        self._redirect.__exit__(None, None, None)


def _run(args: argparse.Namespace, output: Output) -> None:
    from mtrouter_rl.datasets.importers.run import check_left_out, read_report
    from mtrouter_rl.datasets.info import INFO_FILE
    from mtrouter_rl.datasets.store import Dataset
    from mtrouter_rl.workflows.log_advice import advise

    path = _Path(args, output)
    log_format = args.format or _recognized(args, output)
    _claim(path, log_format)
    pool = args.pool or str(_new_pool(path, log_format))
    log = path.out / "log"
    words = ["import", log_format, *args.paths, "--pool", pool, "--out", log, *_options(args)]
    scores = [word for file in args.scores for word in ("--scores", file)]
    # The share is checked below, so that it is checked as well where the log was imported before.
    path.step("import the log", [*words, *scores, "--max-left-out", "1"], makes=log / INFO_FILE)
    check_left_out(read_report(log), max_share=args.max_left_out, out=log)
    advice = advise(Dataset.load(log))
    output.say("\n== what the log can tell")
    output.tell(
        "\n".join([*(f"- {text}" for text in advice.tells), *(f"- cannot tell: {text}" for text in advice.lacks)])
    )
    if advice.level == "none":
        _too_few(path, advice)
        return
    verdict, router, report = _by_turn(path, log, advice) if advice.level == "turn" else _by_task(path, log, advice)
    verdict = _kept(verdict, router)
    output.say("\n== verdict\n" + "\n".join(verdict.lines))
    if verdict.word != "better":
        output.say(
            f"Until more is known, calling {verdict.baseline or 'the best single model'} throughout is the safe choice."
        )
    output.say(f"\nreport: {report}\n\n== use the router in your agent\n{_USE.format(router=router)}")
    output.show(
        "",
        {"verdict": verdict, "advice": advice, "router": router, "report": report, "commands": path.done},
    )


def _kept(verdict: "Verdict", router: Path) -> "Verdict":
    """The verdict, written beside the router, where `show` and the report find it."""
    from mtrouter_rl import __version__
    from mtrouter_rl.agents.saving import digest
    from mtrouter_rl.ope.verdict import VERDICT_FILE

    kept = verdict.model_copy(update={"router": digest(router), "package_version": __version__})
    kept.write(router / VERDICT_FILE)
    return kept


def _recognized(args: argparse.Namespace, output: Output) -> str:
    from mtrouter_rl.datasets.importers.recognize import recognize

    found = recognize(args.paths)
    others = f"; some files look like {', '.join(found.others)}" if found.others else ""
    output.say(f"log format: {found.format} ({found.why}{others})")
    return str(found.format)


def _claim(path: _Path, log_format: str) -> None:
    """A folder belongs to one question, so that steps of another are never taken for this one's.

    Raises:
        InvalidConfigError: If the folder holds the steps of other logs, or of other settings.
    """
    from mtrouter_rl.workflows.run_folder import read_setting

    args = path.args
    asked = {
        "paths": sorted(str(one.resolve()) for one in args.paths),
        "sizes": sorted(one.stat().st_size for one in args.paths if one.is_file()),
        "format": log_format,
        "pool": args.pool,
        "options": args.option,
        "scores": [str(one.resolve()) for one in args.scores],
        "cost_weight": args.cost_weight,
        "cost_unit_usd": args.cost_unit_usd,
    }
    file = path.out / _ASKED
    if file.is_file():
        there = read_setting(file)
        differing = [name for name in asked if there.get(name) != asked[name]]
        if differing:
            raise InvalidConfigError(
                f"{path.out} holds the steps of another start (differs in: {', '.join(differing)}); choose another --out"
            )
    path.out.mkdir(parents=True, exist_ok=True)
    write_atomically(file, (json.dumps(asked, indent=2) + "\n").encode())


def _options(args: argparse.Namespace) -> list[str]:
    return [word for option in args.option for word in ("--option", option)]


def _new_pool(path: _Path, log_format: str) -> Path:
    """A proposed pool card; stops where a price is missing.

    Raises:
        InvalidConfigError: If a price has to be written by hand first.
    """
    from mtrouter_rl.datasets.importers.new_pool import FILL_IN

    card = path.out / "pool.yaml"
    words = ["new-pool", *path.args.paths, "--format", log_format, "--out", card, *_options(path.args)]
    words += [word for file in path.args.scores for word in ("--scores", file)]
    path.step("propose a pool card: the models of the log, and prices looked up", words, makes=card)
    if FILL_IN in card.read_text(encoding="utf-8"):
        raise InvalidConfigError(
            f"{card} has numbers that must be written by hand (marked {FILL_IN}); write them and run the same command again"
        )
    path.output.say(f"prices are looked up, not confirmed: look at {card}")
    return card


def _too_few(path: _Path, advice: "LogAdvice") -> None:
    path.output.say("\n== verdict: too few to tell; nothing was trained")
    path.output.tell("\n".join(f"- collect {text}" for text in advice.collect))
    path.output.show("", {"verdict": "too few to tell", "advice": advice, "commands": path.done})


def _money(path: _Path, advice: "LogAdvice") -> list[str]:
    args = path.args
    unit = args.cost_unit_usd if args.cost_unit_usd is not None else advice.cost_unit_usd
    path.output.say(
        f"\none cost unit is {unit:g} USD"
        + ("" if args.cost_unit_usd is not None else " (what an episode of the log costs)")
        + f"; it is held to be worth {args.cost_weight:g} of a full score: change that with --cost-weight and --cost-unit-usd"
    )
    return ["--cost-weight", f"{args.cost_weight:g}", "--cost-unit-usd", f"{unit:g}"]


def _by_turn(path: _Path, log: Path, advice: "LogAdvice") -> "tuple[Verdict, Path, Path]":
    """Routers that choose before every call: trained on one part of the log, estimated on the other."""
    from mtrouter_rl.agents.saving import RECORD_FILE
    from mtrouter_rl.cards.policy import single_policy
    from mtrouter_rl.ope.record import OPE_FILE, load_report
    from mtrouter_rl.ope.verdict import verdict_of_estimates
    from mtrouter_rl.workflows.log_advice import JUDGING_SHARE

    parts, router, ope = path.out / "parts", path.out / "routers" / AGENT, path.out / "ope"
    path.step(
        "split: train on one part, judge on the other; no instance is in both",
        ["split", log, "--by", "variation", "--shares", f"{1 - JUDGING_SHARE:g},0,{JUDGING_SHARE:g}", "--out", parts],
        makes=parts / "test",
    )
    money = _money(path, advice)
    path.step(
        "train a router that chooses before every call",
        ["train", "--agent", AGENT, "--dataset", parts / "train", *money, "--out", router],
        makes=router / RECORD_FILE,
    )
    singles = [single_policy(name) for name in advice.models]
    path.step(
        "estimate from the other part what it and every single model would earn",
        ["ope", router, *singles, "--dataset", parts / "test", *money, "--out", ope],
        makes=ope / OPE_FILE,
    )
    report = path.out / "report.html"
    path.step("write the report", ["report", ope, "--out", report], makes=report)
    return verdict_of_estimates(load_report(ope / OPE_FILE), AGENT), router, report


def _by_task(path: _Path, log: Path, advice: "LogAdvice") -> "tuple[Verdict, Path, Path]":
    """Routers that choose once for each task, since every logged episode kept its model."""
    from mtrouter_rl.agents.saving import RECORD_FILE
    from mtrouter_rl.evaluation.results import Results
    from mtrouter_rl.workflows import RESULTS_FILE
    from mtrouter_rl.workflows.log_advice import verdict_of_results

    study = path.out / "study"
    money = _money(path, advice)
    path.step(
        "train and judge routers that choose once for each task, on parts that they were not trained on",
        ["study-log", log, *money, "--out", study],
        makes=study / RESULTS_FILE,
    )
    results = Results.load(study / RESULTS_FILE)
    learned = [
        row
        for row in results.split_rows(results.splits[0])
        if row.policy in results.roles.learned and "@" not in row.policy
    ]
    best = max(learned, key=lambda row: row.return_mean).policy
    router = path.out / "routers" / best
    path.step(
        "train the one with the highest return on the whole log",
        ["train", "--agent", best, "--dataset", log, *money, "--out", router],
        makes=router / RECORD_FILE,
    )
    return verdict_of_results(results, best), router, study / "report.html"


COMMAND = Command(
    name="start",
    group=Group.LOGS,
    summary="from a log to a verdict, a report and a router, step by step",
    description=(
        "Tells the format of the log, proposes a pool card with prices that were looked up (or takes --pool), imports, says "
        "what the log can and cannot tell, trains the routers that it supports, estimates what they would earn on a part that "
        "they were not trained on, writes a report, and prints the lines of Python that use the router. Every step is an "
        "ordinary command, and is shown. The same command again goes on where it stopped. A log that is too small is told "
        "so before anything is trained, with what to collect."
    ),
    examples=("calls.jsonl --pool my-pool.yaml --out runs/start",),
    options=(
        Option("paths", "files, folders or archives of the log, and tables of scores", Path, "LOG", nargs="+"),
        Option("--pool", "model-pool card with the prices (default: one is proposed)", metavar="NAME|PATH"),
        Option("--format", "log format (default: what the log looks like)", metavar="FORMAT"),
        shared.FORMAT_OPTION,
        shared.SCORES,
        shared.MAX_LEFT_OUT,
        Option("--cost-weight", "what one cost unit is worth, in full scores", float, "W", default=0.4),
        Option("--cost-unit-usd", "a cost unit (default: what an episode of the log costs)", float, "USD"),
        shared.out("folder of everything", required=False, default=Path("runs/start")),
    ),
    run=_run,
)
"""The command."""
