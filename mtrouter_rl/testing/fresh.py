"""The other process of `check_fresh_process`: reads a card and actions from stdin, writes what was seen to stdout."""

import json
import sys
from collections.abc import Callable
from typing import cast

from mtrouter_rl.cards import EnvCard
from mtrouter_rl.protocols import TextTask
from mtrouter_rl.records import EpisodeSpec
from mtrouter_rl.registry import TASK_FAMILIES
from mtrouter_rl.testing.subject import replay_actions
from mtrouter_rl.testing.task_checks import transcript


def main() -> None:
    """Play every episode of the request."""
    request = json.load(sys.stdin)
    card = EnvCard.model_validate(request["card"])
    task = cast(Callable[[EnvCard], TextTask], TASK_FAMILIES.load(card.family))(card)
    seen: list[list[str]] = []
    for episode in request["episodes"]:
        spec = EpisodeSpec(**episode["spec"])
        seen.append(transcript(replay_actions(task, spec, episode["actions"])))
    task.close()
    json.dump(seen, sys.stdout)


if __name__ == "__main__":
    main()
