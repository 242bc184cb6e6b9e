"""Time of one routing decision early and late in an episode: encoding of the new texts, features, Q-values.

No text of the measured decisions has been seen before, so none comes from a cache. The work should not grow with the
number of turns: the ratio of the two medians is printed, and the exit status is 1 if it is above the limit.

    python scripts/bench/decision_time.py --encoder minilm --pool paper-scienceworld
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.embeddings.cache import CachedEncoder
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.records import Observation, TurnView
from mtrouter_rl.registry import ENCODERS

VOCABULARY = "you see a table door apple lighter kitchen hallway open closed pick up move to focus on use the metal pot"


class SyntheticEpisodes:
    """Observations of episodes whose every text is new and of one length, so that only the turn index differs."""

    def __init__(self, *, n_models: int, n_words: int, seed: int) -> None:
        self.n_models = n_models
        self.n_words = n_words
        self.rng = np.random.default_rng(seed)

    def text(self, n_words: int) -> str:
        return " ".join(self.rng.choice(VOCABULARY.split(), n_words))

    def observations(self, turn: int) -> list[Observation]:
        """Observations before turns `turn` - 2, `turn` - 1 and `turn` of a new episode."""
        history = tuple(
            TurnView(
                model=int(self.rng.integers(self.n_models)),
                action=self.text(5),
                observation=self.text(self.n_words),
                error="unknown_action" if self.rng.random() < 0.2 else "",
            )
            for _ in range(turn)
        )
        task, first = self.text(40), self.text(self.n_words)
        return [self._observe(task, first, history[:length]) for length in range(max(turn - 2, 0), turn + 1)]

    def _observe(self, task: str, first: str, history: tuple[TurnView, ...]) -> Observation:
        return Observation(
            task=task,
            first_observation=first,
            history=history,
            turn=np.int64(len(history)),
            max_turns=np.int64(50),
            budget_left_usd=np.array([1.0], dtype=np.float32),
            budget_usd=np.array([2.0], dtype=np.float32),
            warm=np.zeros(self.n_models, dtype=np.int8),
            action_mask=np.ones(self.n_models, dtype=np.int8),
        )


def make_q_function(dim: int, n_models: int) -> Callable[[np.ndarray], np.ndarray]:
    """A network of the usual size that stands for a router's Q-function: D -> 256 -> 256 -> M."""
    layers = [torch.nn.Linear(dim, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(256, n_models))

    def q_values(rows: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(rows)).numpy()

    return q_values


def decision_s(features: HistoryFeatures, q_values: Callable, observations: list[Observation]) -> float:
    """Seconds of the last decision, right after the ones before it."""
    *before, now = observations
    for observation in before:
        features.of_observations([observation])
    start = time.perf_counter()
    q_values(features.of_observations([now])).argmax()
    return time.perf_counter() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="minilm", help="registered text encoder")
    parser.add_argument("--pool", default="paper-scienceworld", help="pool card, name or path")
    parser.add_argument("--turns", type=int, nargs=2, default=(2, 50), metavar=("EARLY", "LATE"))
    parser.add_argument("--n-decisions", type=int, default=100, help="measured decisions per turn")
    parser.add_argument("--n-words", type=int, default=40, help="words of an observation")
    parser.add_argument("--q-function", choices=("mlp", "none"), default="mlp", help="what follows the features")
    parser.add_argument("--max-ratio", type=float, default=1.3, help="late to early, above which the status is 1")
    args = parser.parse_args()
    torch.set_num_threads(1)

    pool = load_pool_card(args.pool)
    features = HistoryFeatures(encoder=CachedEncoder(ENCODERS.load(args.encoder)(), None), pool=pool)
    n_models = len(pool.models)
    q_values = make_q_function(features.dim, n_models) if args.q_function == "mlp" else lambda rows: rows
    episodes = SyntheticEpisodes(n_models=n_models, n_words=args.n_words, seed=0)
    prepared = [(turn, episodes.observations(turn)) for _ in range(args.n_decisions) for turn in args.turns]
    times: dict[int, list[float]] = {turn: [] for turn in args.turns}
    decision_s(features, q_values, episodes.observations(1))  # loads the weights
    # Early and late take turns, so that a machine that slows down slows down both.
    for turn, observations in prepared:
        times[turn].append(decision_s(features, q_values, observations))
    medians = {turn: statistics.median(measured) for turn, measured in times.items()}
    for turn, median in medians.items():
        print(f"turn {turn:3d}: {1000 * median:.2f} ms, median of {args.n_decisions} decisions")
    early, late = args.turns
    ratio = medians[late] / medians[early]
    print(f"ratio: {ratio:.3f} (limit {args.max_ratio})")
    return int(ratio > args.max_ratio)


if __name__ == "__main__":
    raise SystemExit(main())
