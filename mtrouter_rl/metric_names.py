"""The one table of metric names: `group/name_unit`, with what each means.

Training writes the names of `TRAINING`; evaluation writes those of `EVALUATION`, whose templates are filled in by
`evaluation_name`, and those of `OFF_POLICY`. `TensorBoardSink` accepts nothing that is not here.
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
VALIDATION_SCORE_MEAN = "validation/score_mean"
VALIDATION_COST_USD_MEAN = "validation/cost_usd_mean"
VALIDATION_RETURN_MEAN = "validation/return_mean"
VALIDATION_N_FAILED = "validation/n_failed"

TRAINING: Mapping[str, str] = {
    TD_LOSS: "loss of the action values against their targets, as the algorithm defines both",
    IMITATION_LOSS: "mean negative log-probability of the logged actions, nats",
    Q_MEAN: "the best model's action value, mean over a fixed sample of the logged episodes' first states",
    BELLMAN_RESIDUAL: "mean distance between action values and their one-step targets over a fixed sample of the log",
    LEARNING_RATE: "step size of the optimizer",
    STEPS_PER_SECOND: "gradient steps per second of wall-clock time",
    VALIDATION_SCORE_MEAN: "mean score of the router so far on fixed validation episodes, 100 * utility",
    VALIDATION_COST_USD_MEAN: "mean cost of an episode of the same run, USD",
    VALIDATION_RETURN_MEAN: "mean return of the same run: utility minus weighted cost",
    VALIDATION_N_FAILED: "episodes of the same run that broke for outside reasons; no mean holds them",
}
"""Name -> meaning of the curves of a training; the step is the number of gradient steps."""

OFF_POLICY: Mapping[str, str] = {
    "ope/score_value": "score estimated from a log, 100 * utility",
    "ope/score_low": "lower end of its 95% interval",
    "ope/score_high": "upper end of its 95% interval",
    "ope/cost_usd_value": "cost of an episode estimated from a log, USD",
    "ope/cost_usd_low": "lower end of its 95% interval, USD",
    "ope/cost_usd_high": "upper end of its 95% interval, USD",
    "ope/return_value": "return estimated from a log",
    "ope/return_low": "lower end of its 95% interval",
    "ope/return_high": "upper end of its 95% interval",
    "ope/effective_sample_size": "logged episodes that the whole-episode weights leave, Kish's",
    "ope/largest_weight_share": "share of the largest of these weights",
    "ope/unsupported_share": "share of the policy's choices that the logging policy hardly ever makes there",
}
"""Name -> meaning of what an off-policy evaluation says of a policy; one point, at step 0."""

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
    "eval/{split}/behavior/budget_used_by_turn": "mean share of the budget spent so far, by turn (the step)",
    "eval/{split}/behavior/budget_used_mean": "mean share of the budget spent by the end",
    "eval/{split}/behavior/usage_entropy_bits": "entropy of the models' shares of all turns, bits",
    "eval/{split}/behavior/usage_entropy_within_episode_bits": "the same within an episode, mean over episodes, bits",
    "eval/{split}/behavior/run_length_mean": "turns until the model changes or the episode ends, mean over runs",
    "eval/{split}/behavior/error_share": "share of turns with an error",
    "eval/{split}/behavior/stay_after_transient": "share of first errors in a row after which the model is kept",
    "eval/{split}/behavior/stay_after_transient_ci95_low": "lower end of its 95% interval",
    "eval/{split}/behavior/stay_after_transient_ci95_high": "upper end of its 95% interval",
    "eval/{split}/behavior/stay_after_persistent": "share of further errors in a row after which the model is kept",
    "eval/{split}/behavior/stay_after_persistent_ci95_low": "lower end of its 95% interval",
    "eval/{split}/behavior/stay_after_persistent_ci95_high": "upper end of its 95% interval",
    "eval/{split}/behavior/recovery_after_transient": "share of first errors in a row that an error-free turn follows",
    "eval/{split}/behavior/recovery_after_persistent": "share of further errors in a row that an error-free turn follows",
    "eval/{split}/behavior/recovery_by_staying": "share of kept models whose next turn is error-free, after errors",
    "eval/{split}/behavior/recovery_by_switching": "share of new models whose turn is error-free, after errors",
    "eval/{split}/behavior/turns_to_recovery_mean": "mean length of the series of errors that an error-free turn ended",
    "eval/{split}/behavior/cost_share/{name}": "share of all money that was spent on a model",
    "eval/{split}/behavior/mutual_information_bits/{name}": "what the called model tells of a label, corrected, bits",
    "eval/{split}/behavior/mutual_information_ci95_low/{name}": "lower end of its 95% interval, bits",
    "eval/{split}/behavior/mutual_information_ci95_high/{name}": "upper end of its 95% interval, bits",
    "eval/{split}/q/overestimation_mean": "predicted minus achieved return-to-go, mean over turns",
    "eval/{split}/q/overestimation_ci95_low": "lower end of its 95% interval",
    "eval/{split}/q/overestimation_ci95_high": "upper end of its 95% interval",
    "eval/{split}/q/calibration_error": "mean distance of prediction and achievement over bins of the prediction",
}
"""Template -> meaning of what evaluation writes; `{split}` and `{name}` (a model, policy or label) are filled in."""

_TEMPLATES = tuple(
    re.compile(re.escape(template).replace(r"\{split\}", "[a-z]+").replace(r"\{name\}", "[^/]+"))
    for template in EVALUATION
)


def evaluation_name(field: str, *, split: str, name: str = "") -> str:
    """Name of an evaluation metric.

    Args:
        field: What follows `eval/{split}/` in `EVALUATION`, such as "score_mean" or "model_share/{name}".
        split: Split.
        name: Model, policy or label, for templates with `{name}`; a "/" in it becomes "_", as it would open a group.

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
    if metric in TRAINING or metric in OFF_POLICY or any(template.fullmatch(metric) for template in _TEMPLATES):
        return
    raise unknown_name(
        "metric", metric, [*TRAINING, *OFF_POLICY, *EVALUATION], fix="Add it to mtrouter_rl.metric_names"
    )
