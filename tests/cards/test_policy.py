import pytest

from mtrouter_rl.cards.policy import PolicyRef, name_at, single_model, single_policy, split_name_at

TEXTS = [
    ("uniform", PolicyRef("uniform", "")),
    ("sticky:0.3", PolicyRef("sticky", "0.3")),
    ("single:vendor/model:free", PolicyRef("single", "vendor/model:free")),
    ("epsilon-greedy:0.2:runs/a:b", PolicyRef("epsilon-greedy", "0.2", "runs/a:b")),
    ("reference:hidden", PolicyRef("reference", "hidden")),
    ("fitted-q", PolicyRef(None, "fitted-q")),
    ("C:/runs/a@0.4", PolicyRef(None, "C:/runs/a@0.4")),
]


@pytest.mark.parametrize(("text", "ref"), TEXTS)
def test_a_text_and_its_policy_are_the_same(text, ref):
    assert PolicyRef.parse(text) == ref
    assert str(ref) == text


def test_what_a_policy_is_made_of():
    assert PolicyRef.parse("epsilon-greedy:0.2:runs/a").source == "runs/a"
    assert PolicyRef.parse("runs/a").source == "runs/a"
    assert [single_model(text) for text in (single_policy("m"), "uniform", "singles")] == ["m", None, None]
    assert split_name_at(name_at("runs/a@b", 0.25)) == ("runs/a@b", "0.25")
