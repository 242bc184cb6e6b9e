"""Do a pool's single models fail at the same tasks, as much as real ones do?

Plays every single model alone on the same episodes, and prints what the others solve of what the best one solves and fails.
Beside it stands the same table of real runs, if a CSV file with the columns model, instance_id and resolved (0 or 1) is given.
Episodes are kept in --out: run it again after a kill, and it goes on.

    python scripts/bench/agreement.py --env scienceworld --pool paper-scienceworld-agreeing --out runs/agreement
"""

import argparse
import csv
import dataclasses
import gzip
from collections import defaultdict
from pathlib import Path

from mtrouter_rl.cards.policy import single_policy
from mtrouter_rl.cards.pool import PoolCard
from mtrouter_rl.cards.splits import evaluation_specs
from mtrouter_rl.envs.factory import EnvConfig, resolve_env
from mtrouter_rl.evaluation.closed_loop import Contestant, EvaluationPlan, run_policies
from mtrouter_rl.records import Split
from mtrouter_rl.rollout import RolloutPool
from mtrouter_rl.studies.pool_calibration.agreement import Agreement, agreement_with_best, typical_odds_ratio

Outcomes = dict[str, dict[str, bool]]


def spread_over(pool: PoolCard, spread: float | None) -> PoolCard:
    """The pool at another `task_spread`."""
    if spread is None:
        return pool
    settings = pool.backend.settings | {"task_spread": spread}
    return pool.model_copy(update={"backend": pool.backend.model_copy(update={"settings": settings})})


def played(
    config: EnvConfig, *, split: Split, per_task: int | None, n_seeds: int, n_workers: int, folder: Path
) -> tuple[Outcomes, dict[str, float]]:
    """Who solved which episode, and the mean score of each single model."""
    contestants = [Contestant.of(single_policy(name), config, cache=None) for name in config.pool.model_names]
    specs = evaluation_specs(config.card, split, n_seeds, per_task=per_task)
    plan = EvaluationPlan(split=split, specs=specs, seed=0, folder=folder, overwrite=False)
    with RolloutPool(config, n_workers=n_workers) as pool:
        episodes = run_policies(pool, contestants, plan)
    solved: Outcomes = {}
    scores = {}
    for name, contestant in zip(config.pool.model_names, contestants, strict=True):
        done = [one for one in episodes[contestant.name] if one.status == "completed"]
        solved[name] = {f"{one.task}-{one.variation}-{one.seed}": one.utility >= 1 for one in done}
        scores[name] = 100 * sum(one.utility for one in done) / len(done)
    return solved, scores


def read_outcomes(path: Path) -> Outcomes:
    """Outcomes of real runs."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    found: Outcomes = defaultdict(dict)
    for row in csv.DictReader(text.splitlines()):
        found[row["model"]][row["instance_id"]] = row["resolved"] == "1"
    return dict(found)


def show(title: str, outcomes: Outcomes, scores: dict[str, float] | None = None) -> None:
    """Print the table of some outcomes."""
    best, share, rows = agreement_with_best(outcomes)
    print(f"\n{title}: the best model is {best}, which solves {share:.1%}")
    print(
        f"{'model':42s} {'solves':>7s} {'of its solved':>14s} {'of its failed':>14s} {'odds ratio':>11s} {'score':>7s}"
    )
    for row in rows:
        score = "" if scores is None else f"{scores[row.model]:7.1f}"
        shares = f"{row.solved:7.1%} {_percent(row.of_solved)} {_percent(row.of_failed)}"
        print(f"{row.model:42s} {shares} {row.odds_ratio:11.1f} {score}")
    told = "" if scores is None else f"; score of the best {scores[best]:.1f}"
    print(
        f"geometric mean of the odds ratios {typical_odds_ratio(rows):.1f}, of the first five {_first(rows):.1f}{told}"
    )


def _first(rows: list[Agreement]) -> float:
    return typical_odds_ratio(rows[:5])


def _percent(share: float | None) -> str:
    return f"{'-' if share is None else f'{share:.1%}':>14s}"


def main() -> None:
    """Parse the options, play and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="scienceworld", help="environment card")
    parser.add_argument("--pool", default=None, help="simulated pool card (default: the environment's)")
    parser.add_argument(
        "--task-spread", type=float, default=None, help="play at this task_spread instead of the card's"
    )
    parser.add_argument("--split", choices=("train", "validation", "test"), default="validation")
    parser.add_argument("--per-task", type=int, default=None, help="variations of a task at most")
    parser.add_argument("--seeds", type=int, default=1, help="episodes of a variation")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True, help="folder in which episodes are kept")
    parser.add_argument("--outcomes", type=Path, default=None, help="CSV file of real outcomes to show beside it")
    args = parser.parse_args()
    config = resolve_env(args.env, args.pool)
    config = dataclasses.replace(config, pool=spread_over(config.pool, args.task_spread))
    if args.outcomes is not None:
        show(f"real runs ({args.outcomes.name})", read_outcomes(args.outcomes))
    outcomes, scores = played(
        config,
        split=args.split,
        per_task=args.per_task,
        n_seeds=args.seeds,
        n_workers=args.workers,
        folder=args.out,
    )
    show(f"{config.pool.name}, {args.split}", outcomes, scores)


if __name__ == "__main__":
    main()
