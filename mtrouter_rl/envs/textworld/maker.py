"""The process that makes TextWorld games: reads one request a line from stdin, answers each with a line on stdout.

It is a process of its own for two reasons. TextWorld writes parts of a game in the order of sets of texts, so the same
game comes out everywhere only under one fixed hash seed; and its grammars take seconds to read, which is then done once.
"""

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GAME_SUFFIX = ".z8"
_MAX_TRIES = 50
_SEED_STEP = 1_000_003
_N_SEEDS = 2**32


def make_game(*, challenge: str, options: Mapping[str, Any], seed: int, path: Path) -> None:
    """Generate and compile one game.

    Args:
        challenge: "coin_collector", "treasure_hunter" or "cooking".
        options: Settings of the challenge, by TextWorld's names.
        seed: Decides everything that the settings leave open.
        path: Where the game goes; its description goes beside it, with suffix ".json".

    A map that has no room for a quest of the wanted length is thrown away, and the next seed in a fixed row is tried.
    """
    from textworld.generator import QuestGenerationError, compile_game

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        target = Path(folder) / path.name
        for attempt in range(_MAX_TRIES):
            try:
                game, game_options = _generate(challenge, options, (seed + attempt * _SEED_STEP) % _N_SEEDS, target)
                break
            except QuestGenerationError:
                if attempt == _MAX_TRIES - 1:
                    raise
        made = Path(compile_game(game, game_options))
        made.with_suffix(".json").replace(path.with_suffix(".json"))
        made.replace(path)  # last: where the game is, its description is


def _generate(challenge: str, options: Mapping[str, Any], seed: int, target: Path) -> tuple[Any, Any]:
    """A game of TextWorld and the options that it is compiled with."""
    import textworld
    from textworld.challenges import CHALLENGES

    _, make, _ = CHALLENGES[f"tw-{challenge}"]
    game_options = textworld.GameOptions()
    game_options.seeds = seed
    game_options.path = str(target)
    game_options.grammar.only_last_action = True  # the objective names the goal, not every step to it
    return make({**options, "recipe_seed": seed, "split": None}, game_options), game_options


def main() -> None:
    """Answer requests until stdin ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever else is printed must not pass for an answer
    for line in sys.stdin:
        request = json.loads(line)
        answer = {"error": ""}
        try:
            make_game(**request | {"path": Path(request["path"])})
        except Exception as error:  # told to the process that asked, which raises it
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
