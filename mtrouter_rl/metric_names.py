"""The one table of metric names: `group/name_unit`, with what each means.

Training writes the names of `TRAINING`; evaluation writes those of `EVALUATION`, whose templates are filled in by
`evaluation_name`. `TensorBoardSink` accepts nothing that is not here.
"""

import re
from collections.abc import Mapping

from mtrouter_rl.errors import unknown_name

TD_LOSS = "train/td_loss"
IMITATION_LOSS = "train/imitation_loss"
Q_MEAN = "train/q_mean"
BELLMAN_RESIDUAL = "train/bellman_residual"
LEARNING_RATE = "train/learning_rate"
STEPS_PER_SECOND = "train/steps_per_second"

TRAINING: Mapping[str, str] = {
    TD_LOSS: "loss of the action values against their targets, as the algorithm defines both",
    IMITATION_LOSS: "mean negative log-probability of the logged actions, nats",
    Q_MEAN: "mean action value over a fixed sample of logged states",
    BELLMAN_RESIDUAL: "mean distance between action values and their one-step targets over a fixed sample of the log",
    LEARNING_RATE: "step size of the optimizer",
    STEPS_PER_SECOND: "gradient steps per second of wall-clock time",
}
"""Name -> meaning of the curves of a training; the step is the number of gradient steps."""

EVALUATION: Mapping[str, str] = {
    "eval/{split}/score_mean": "mean score, 100 * utility",
    "eval/{split}/score_ci95_low": "lower end of its 95% interval",
    "eval/{split}/score_ci95_high": "upper end of its 95% interval",
    "eval/{split}/utility_mean": "mean utility at the end of an episode",
    "eval/{split}/cost_usd_mean": "mean cost of an episode, USD",
    "eval/{split}/cost_usd_ci95_low": "lower end of its 95% interval, USD",
    "eval/{split}/cost_usd_ci95_high": "upper end of its 95% interval, USD",
    "eval/{split}/cost_usd_total": "cost of all episodes, USD",
    "eval/{split}/return_mean": "mean return: utility minus weighted cost",
    "eval/{split}/return_ci95_low": "lower end of its 95% interval",
    "eval/{split}/return_ci95_high": "upper end of its 95% interval",
    "eval/{split}/turns_mean": "mean number of turns",
    "eval/{split}/switches_mean": "mean number of changes of model",
    "eval/{split}/stay_after_error": "share of errors after which the same model was called again",
    "eval/{split}/hull_gain": "score above the single models' cost-score hull at the same cost",
    "eval/{split}/cost_saved_share": "share of the strongest single model's cost that is saved",
    "eval/{split}/budget_violations": "episodes that spent more than their budget",
    "eval/{split}/n_failed": "episodes that broke for outside reasons",
    "eval/{split}/n_episodes": "completed episodes",
    "eval/{split}/model_share/{name}": "share of turns for which a model was called",
    "eval/{split}/return_difference/{name}": "paired mean difference of return to a baseline",
    "eval/{split}/by_turn/score_mean": "mean score so far, by turn (the step); ended episodes keep theirs",
    "eval/{split}/by_turn/cost_usd_mean": "mean cost so far, by turn (the step), USD",
    "eval/{split}/by_turn/running_share": "share of episodes that take a turn, by turn (the step)",
}
"""Template -> meaning of what evaluation writes; `{split}` and `{name}` (a model or policy) are filled in."""

_TEMPLATES = tuple(
    re.compile(re.escape(template).replace(r"\{split\}", "[a-z]+").replace(r"\{name\}", "[^/]+"))
    for template in EVALUATION
)


def evaluation_name(field: str, *, split: str, name: str = "") -> str:
    """Name of an evaluation metric.

    Args:
        field: What follows `eval/{split}/` in `EVALUATION`, such as "score_mean" or "model_share/{name}".
        split: Split.
        name: Model or policy, for templates with `{name}`; a "/" in it becomes "_", as it would open a group.

    Raises:
        UnknownNameError: If the table has no such metric.

    Example:
        >>> evaluation_name("score_mean", split="test")
        'eval/test/score_mean'
    """
    template = f"eval/{{split}}/{field}"
    if template not in EVALUATION:
        raise unknown_name("evaluation metric", field, [key.removeprefix("eval/{split}/") for key in EVALUATION])
    return template.format(split=split, name=name.replace("/", "_"))


def check_name(metric: str) -> None:
    """Refuse a name that the table does not have.

    Raises:
        UnknownNameError: Lists the valid names and suggests the nearest.
    """
    if metric in TRAINING or any(template.fullmatch(metric) for template in _TEMPLATES):
        return
    raise unknown_name("metric", metric, [*TRAINING, *EVALUATION], fix="Add it to mtrouter_rl.metric_names")
