"""Five episodes of unequal length whose measures can be worked out by hand, and one that failed."""

from tests.cases.evaluation_cases import make_episode, make_turn


def hand_episodes():
    """Models and errors (E): tiny E, tiny E, big, big E, tiny E | middle, middle E, middle | big E | nothing | tiny E, tiny.

    The first is truncated with half the utility (and a loss in its last turn), the third terminated by a loss, the second
    and the last are full successes.
    """
    return [
        make_episode(
            [
                make_turn("tiny", cost_usd=0.1, error="idle"),
                make_turn("tiny", cost_usd=0.1, error="unknown_action"),
                make_turn("big", cost_usd=0.4, gain=0.6),
                make_turn("big", cost_usd=0.4, error="idle"),
                make_turn("tiny", cost_usd=0.1, gain=-0.1, error="idle", end="truncated"),
            ],
            budget_usd=2.0,
        ),
        make_episode(
            [
                make_turn("middle", cost_usd=0.2),
                make_turn("middle", cost_usd=0.2, error="idle"),
                make_turn("middle", cost_usd=0.2, gain=1.0, end="both"),
            ],
            task="melt",
        ),
        make_episode(
            [make_turn("big", cost_usd=0.4, gain=-1.0, error="idle", end="terminated")], task="melt", variation=1
        ),
        make_episode([], task="find"),
        make_episode(
            [
                make_turn("tiny", cost_usd=0.1, error="idle"),
                make_turn("tiny", cost_usd=0.1, gain=1.0, end="terminated"),
            ],
            task="find",
            variation=1,
        ),
    ]


def failed_episode():
    return make_episode([make_turn("big", cost_usd=5.0, error="idle")], task="find", variation=2, status="failed")


def flawless_episode():
    return make_episode([make_turn("tiny"), make_turn("big", gain=1.0, end="terminated")], task="boil", variation=3)
