"""Single-turn router with a table: mean utility and mean cost of every model on every kind of task."""

import logging
import re
from typing import ClassVar

import numpy as np

from mtrouter_rl.agents.base import TrainingContext
from mtrouter_rl.agents.parameters import NonNegative
from mtrouter_rl.agents.regression.reward_models import Arrays
from mtrouter_rl.agents.regression.values import Blocks, TaskParameters, TaskValueAlgorithm, TaskValueSettings, key_of
from mtrouter_rl.cards import RegularExpression
from mtrouter_rl.records import Frozen
from mtrouter_rl.transitions.outcomes import TaskLog

_LOG = logging.getLogger(__name__)


class TaskTableParameters(TaskParameters):
    """Parameters of `TaskTable`.

    Attributes:
        key_pattern: Regular expression that finds the kind of task in the task text: its first group, else the whole
            match. Empty takes the whole text, so that only tasks of the very same words are alike.
        prior_weight: How many episodes the mean over all tasks counts for in every cell.
    """

    key_pattern: RegularExpression = ""
    prior_weight: NonNegative = 0.0


class TaskTable(TaskValueAlgorithm[TaskTableParameters]):
    """Looks the kind of task up. The baseline that every learned single-turn router has to beat."""

    parameters_model: ClassVar[type[Frozen]] = TaskTableParameters

    def fit(self, log: TaskLog, context: TrainingContext, blocks: Blocks) -> tuple[TaskValueSettings, Arrays]:
        """Average within every kind of task; a kind (or a cell) without episodes gets the mean over all."""
        pattern, overall = self.parameters.key_pattern, log.overall()
        if pattern and not any(re.search(pattern, text) for text in log.texts):
            _LOG.warning(
                "agent '%s': key_pattern '%s' matches no task text, so every text is a kind of its own; correct the card",
                self.card.name,
                pattern,
            )
        keys = np.array([key_of(pattern, text) for text in log.texts])
        known = tuple(sorted(set(keys.tolist())))
        rows = [log.means(keys == key, prior=overall, prior_weight=self.parameters.prior_weight) for key in known]
        table = np.stack([*rows, overall])
        settings = TaskValueSettings(form="table", reward=context.reward, key_pattern=pattern, keys=known)
        return settings, {"utility": table[..., 0].copy(), "cost": table[..., 1].copy()}
