"""Training time of every router that learns from a log, against fitted-q, on one log.

Texts are encoded first and timed apart, since all routers share them. What is timed then is a training from the log in
memory to a router in memory, by the clock and by the processor time of all threads, which other work on the machine changes
less. The steps of fitted-q are set by its card, not by the log. Rules learn nothing and are left out; the cascade takes the
dearest model for the strongest, so that no validation is run.

    python scripts/bench/training_time.py --dataset datasets/scienceworld-uniform-v2
"""

import argparse
import time
from pathlib import Path

import torch
from threadpoolctl import threadpool_limits

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.resolve import load_algorithm
from mtrouter_rl.cards import load_agent_card
from mtrouter_rl.datasets.store import Dataset
from mtrouter_rl.embeddings.encoders import make_encoder
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.envs.factory import resolve_env
from mtrouter_rl.registry import DEFAULT_ENCODER
from mtrouter_rl.workflows.quick_study import AGENT_SETS, expand_agents

REFERENCE = "fitted-q"


def dearest_is_strongest(routers):
    """Stands for closed-loop validation; routers of single models come in the order of their price."""
    return [float(rank) for rank in range(len(routers))]


def make_context(args):
    """The log in memory, its texts encoded; prints how long that took."""
    dataset = Dataset.load(args.dataset)
    config = resolve_env(dataset.info.env)
    features = HistoryFeatures(encoder=make_encoder(args.encoder, None), pool=config.pool)
    start = time.perf_counter()
    features.encode_log(dataset.completed, show_progress=False)
    print(f"texts encoded with {args.encoder}: {time.perf_counter() - start:.1f} s")
    return TrainingContext(
        pool=config.pool,
        reward=config.reward,
        seed=0,
        dataset=dataset,
        features=features,
        validate=dearest_is_strongest,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", type=Path, default=Path("datasets/scienceworld-uniform-v2"), metavar="DIR")
    parser.add_argument("--agents", nargs="+", default=["all"], metavar="AGENT", help="agent cards, or sets of them")
    parser.add_argument("--encoder", default=DEFAULT_ENCODER, help="registered text encoder")
    parser.add_argument("--threads", type=int, default=1, help="threads of a training (default: 1, as `train` has)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    agents = [agent for agent in expand_agents([REFERENCE, *args.agents]) if agent not in AGENT_SETS["rules"]]
    seconds: dict[str, float] = {}
    cpu_s: dict[str, float] = {}
    with threadpool_limits(args.threads):
        context = make_context(args)
        n_turns = sum(len(episode.turns) for episode in context.dataset.completed)
        print(f"log: {len(context.dataset.completed)} episodes, {n_turns} turns; {args.threads} threads\n")
        print(f"{'agent':20} {'seconds':>8} {'CPU s':>8} {'CPU / ' + REFERENCE:>15}")
        for agent in agents:
            algorithm = load_algorithm(load_agent_card(agent))
            start, cpu_start = time.perf_counter(), time.process_time()
            algorithm.train(context)
            seconds[agent], cpu_s[agent] = time.perf_counter() - start, time.process_time() - cpu_start
            share = cpu_s[agent] / cpu_s[REFERENCE]
            print(f"{agent:20} {seconds[agent]:8.1f} {cpu_s[agent]:8.1f} {share:15.3f}", flush=True)
    per_10_000 = [one[REFERENCE] / n_turns * 10_000 for one in (seconds, cpu_s)]
    print(f"\n{REFERENCE} per 10,000 turns: {per_10_000[0]:.1f} s, {per_10_000[1]:.1f} CPU s")


if __name__ == "__main__":
    main()
