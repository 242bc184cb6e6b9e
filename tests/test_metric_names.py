import re

import pytest

from mtrouter_rl.errors import UnknownNameError
from mtrouter_rl.metric_names import EVALUATION, TRAINING, check_name, evaluation_name


def test_every_name_is_group_and_name():
    assert all(re.fullmatch(r"[a-z]+(/[a-z0-9_{}]+)+", name) for name in (*TRAINING, *EVALUATION))


def test_names_of_the_table_are_known():
    for name in (*TRAINING, "eval/ood/hull_gain", "eval/test/model_share/gpt-5", "eval/test/by_turn/score_mean"):
        check_name(name)


def test_filled_in_names():
    assert evaluation_name("cost_usd_mean", split="ood") == "eval/ood/cost_usd_mean"
    assert evaluation_name("model_share/{name}", split="test", name="org/gpt") == "eval/test/model_share/org_gpt"


@pytest.mark.parametrize("name", ["train/td_los", "eval/test/score", "eval/test/model_share/a/b", "loss", ""])
def test_other_names_are_refused(name):
    with pytest.raises(UnknownNameError, match="unknown metric"):
        check_name(name)


def test_suggestions():
    with pytest.raises(UnknownNameError, match="did you mean 'train/td_loss'"):
        check_name("train/td_los")
    with pytest.raises(UnknownNameError, match="did you mean 'score_mean'"):
        evaluation_name("score_men", split="test")
