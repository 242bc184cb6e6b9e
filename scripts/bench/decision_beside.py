"""One routing decision beside encoding the history again: its last 512 tokens, or all of it, with the same weights.

Every text of an episode is new, as in `decision_time.py`. "again" is MiniLM by sentence-transformers in float32 on the
joined history, cut to its last 512 tokens, or in pieces of 512 tokens. Ours is the encoder that is
named, in float32 or bfloat16, on what the last turn added. All are timed in one run, by turns. Median and 99th
percentile; ratios of medians with the range of the middle half of the paired ratios.

    python scripts/bench/decision_beside.py --encoder minilm
"""

import argparse
import time

import numpy as np
import torch
from decision_time import SyntheticEpisodes, decision_s, make_q_function
from sentence_transformers import SentenceTransformer

from mtrouter_rl.cards import load_pool_card
from mtrouter_rl.embeddings.cache import CachedEncoder
from mtrouter_rl.embeddings.encoders import minilm_path
from mtrouter_rl.embeddings.history import HistoryFeatures
from mtrouter_rl.records import Observation
from mtrouter_rl.registry import ENCODERS

MOST_TOKENS = 512


class Again:
    """The whole conversation as one text, encoded anew at every decision."""

    def __init__(self) -> None:
        self._model = SentenceTransformer(str(minilm_path()), device="cpu", local_files_only=True)
        self._model.max_seq_length = MOST_TOKENS

    def seconds(self, observation: Observation, *, is_whole: bool) -> float:
        """Time of encoding the last tokens of a history, or all of them in pieces."""
        start = time.perf_counter()
        turns = [f"{turn['action']}\n{turn['observation']}" for turn in observation["history"]]
        text = "\n".join([observation["task"], observation["first_observation"], *turns])
        words = self._model.tokenizer.encode(text, add_special_tokens=False, verbose=False)
        size = MOST_TOKENS - 2
        kept = words if is_whole else words[-size:]
        pieces = [self._model.tokenizer.decode(kept[at : at + size]) for at in range(0, len(kept), size)]
        self._model.encode(pieces, batch_size=1, show_progress_bar=False).mean(axis=0)
        return time.perf_counter() - start


def of_batch_s(features: HistoryFeatures, q_values, episodes: SyntheticEpisodes, *, turn: int, n: int) -> float:
    """Seconds of `n` decisions asked for at once, each in an episode of its own."""
    several = [episodes.observations(turn) for _ in range(n)]
    for index in range(len(several[0]) - 1):
        features.of_observations([observations[index] for observations in several])
    start = time.perf_counter()
    q_values(features.of_observations([observations[-1] for observations in several]))
    return time.perf_counter() - start


def ratio(theirs: np.ndarray, ours: np.ndarray) -> str:
    """Ratio of medians, with the middle half of the paired ratios."""
    low, high = np.quantile(theirs / ours, (0.25, 0.75))
    return f"{np.median(theirs) / np.median(ours):6.1f} ({low:.1f} to {high:.1f})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--encoder", default="minilm", help="registered text encoder of our decisions")
    parser.add_argument("--turns", type=int, nargs="+", default=[0, 1, 2, 5, 20, 50])
    parser.add_argument("--n-decisions", type=int, default=15, help="measured decisions per turn")
    parser.add_argument("--n-words", type=int, default=40, help="words of an observation")
    parser.add_argument("--batch", type=int, default=256, help="decisions asked for at once; 0 leaves this out")
    args = parser.parse_args()
    torch.set_num_threads(1)

    pool = load_pool_card("paper-scienceworld")
    features = HistoryFeatures(encoder=CachedEncoder(ENCODERS.load(args.encoder)(), None), pool=pool)
    q_values = make_q_function(features.dim, len(pool.models))
    episodes = SyntheticEpisodes(n_models=len(pool.models), n_words=args.n_words, seed=0)
    again = Again()
    decision_s(features, q_values, episodes.observations(1))
    again.seconds(episodes.observations(1)[-1], is_whole=False)
    print(f"{args.encoder}, {args.n_words} words an observation; ms, median / 99th percentile")
    is_ahead = True
    for turn in args.turns:
        times = np.empty((args.n_decisions, 3))
        for row in times:
            observations = episodes.observations(turn)
            row[0] = decision_s(features, q_values, observations)
            row[1] = again.seconds(observations[-1], is_whole=False)
            row[2] = again.seconds(observations[-1], is_whole=True)
        cells = [f"{np.median(one):.1f} / {np.quantile(one, 0.99):.1f}" for one in 1000 * times.T]
        ratios = [ratio(times[:, column], times[:, 0]) for column in (1, 2)]
        print(
            f"turn {turn:3d}: ours {cells[0]}, last 512 tokens {cells[1]}, whole {cells[2]}; x {ratios[0]}, x {ratios[1]}"
        )
        is_ahead &= bool(np.median(times[:, 1]) > np.median(times[:, 0]))
    if args.batch:
        took = of_batch_s(features, q_values, episodes, turn=2, n=args.batch)
        print(f"turn   2: {args.batch} decisions at once {took:.2f} s, {1000 * took / args.batch:.1f} ms each")
    return int(not is_ahead)


if __name__ == "__main__":
    raise SystemExit(main())
