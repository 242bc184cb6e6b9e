"""The environment and the pool of the study: a corridor for models that talk, one real model and two simulated ones."""

import json
from pathlib import Path

import yaml

from mtrouter_rl.cards import EnvCard, HarnessCard, load_env_card, load_pool_card
from mtrouter_rl.cards.pool import BackendCard, ModelCard, PoolCard
from mtrouter_rl.files import write_atomically
from mtrouter_rl.records import Frozen, JsonValue

REAL = "smollm2"
DOUBLES = ("middle", "large")
DOUBLES_POOL = "corridor-three"
SESSION_HEADER = "x-mtrouter-session"
CONTEXT_TOKENS = 8192
_ACTIONS = ("walk north", "open door", "take key", "solve riddle", "wait")
_GRAMMAR = "root ::= " + " | ".join(f'"{action}"' for action in _ACTIONS)


def env_card() -> EnvCard:
    """The toy corridor, with prompts that name the actions."""
    base = load_env_card("corridor")
    return base.model_copy(
        update={
            "name": "corridor-local",
            "description": "The toy corridor for models that talk, one of them real.",
            "train_tasks": {"short": 20, "middle": 20},
            "ood_tasks": {},
            "topics": {"short": "corridor", "middle": "corridor"},
            "settings": {"obstacles": {"short": 3, "middle": 5}},
            "limits": base.limits.model_copy(update={"max_turns": 12}),
            "harness": HarnessCard(
                system=f"{{{{ system_prompt }}}} The actions are: {', '.join(_ACTIONS)}. Reply with the one that fits.",
                start="{{ task }}\n{{ observation }}",
            ),
        }
    )


def pool_card(*, real_url: str, doubles_url: str) -> PoolCard:
    """SmolLM2 at the made-up price of the smallest model, and the two larger ones behind the double.

    Args:
        real_url: Address of the real model.
        doubles_url: Address of the double.
    """
    base = load_pool_card(DOUBLES_POOL)
    real = ModelCard(
        name=REAL, prices=base.models[0].prices, context_tokens=CONTEXT_TOKENS, max_output_tokens=16
    ).model_copy(update={"knowledge_cutoff": base.models[0].knowledge_cutoff})
    called: dict[str, JsonValue] = {
        # The grammar lets it say one of the actions and nothing else; which one is its own choice.
        REAL: {"base_url": real_url, "temperature": 0.0, "max_concurrent": 1, "extra_body": {"grammar": _GRAMMAR}},
        **{name: {"base_url": doubles_url} for name in DOUBLES},
    }
    return PoolCard(
        name="local",
        description=f"{REAL} is REAL (SmolLM2-135M-Instruct on this machine); the others are SIMULATED. Prices are made up.",
        models=(real, *(base.model(name) for name in DOUBLES)),
        prompt_cache=base.prompt_cache,
        backend=BackendCard(
            kind="openai_compatible", settings={"models": called, "session_header": SESSION_HEADER, "try_s": 120.0}
        ),
    )


AGENT = """\
name: fitted-q-local
description: Fitted-Q iteration in few steps; a log of some forty episodes holds no more.
extends: fitted-q
parameters: { n_iterations: 10, steps_per_iteration: 60, batch_size: 128, keep_last: 5 }
"""
"""Agent card that is trained if no other is given."""


def write_card(path: Path, card: Frozen) -> None:
    """Write a card as YAML."""
    data = json.loads(card.model_dump_json(exclude_none=True))
    write_atomically(path, yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=120).encode())
