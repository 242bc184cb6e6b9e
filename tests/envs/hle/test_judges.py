import pytest

from mtrouter_rl.envs.hle.judges import RuleJudge, normalize, parse_number
from mtrouter_rl.envs.hle.questions import Question

JUDGE = RuleJudge(relative_tolerance=0.001)
CHOICES = "Which color?\nAnswer Choices:\nA. red\nB. dark blue\nC. 42\nD. A mixture"


def verdict(right, answer, *, kind="exactMatch", text="?"):
    question = Question(id="q", text=text, answer=right, answer_type=kind, category="Math")
    return JUDGE.judge(question, answer)


@pytest.mark.parametrize(
    ("right", "answer"),
    [
        ("Blue whale", "  blue   WHALE. "),
        ("Blue whale", "The answer is: blue whale"),
        ("Blue whale", r"$\boxed{\text{Blue whale}}$"),
        ("x^2", r"\(x^2\)"),
        ("naïve", "nai\u0308ve"),
        ("ﬁnal", "final"),
        ("a-b", "a−b"),
        ("'quoted'", "quoted"),
        ("x_1", "x_1"),
        ("*", "*"),
    ],
)
def test_texts_that_are_the_same(right, answer):
    assert verdict(right, answer).is_right
    assert verdict(right, answer).method == "exact"


@pytest.mark.parametrize(
    ("right", "answer"),
    [("Blue whale", "Blue whales"), ("Blue whale", "blue whale or grey whale"), ("x^2", "x^3"), ("a", "")],
)
def test_texts_that_differ(right, answer):
    assert not verdict(right, answer).is_right


@pytest.mark.parametrize(
    ("right", "answer"),
    [
        ("42", "42"),
        ("42", "42.0"),
        ("42", r"\boxed{42}"),
        ("-3", "−3"),
        ("1234567", "1,234,567"),
        ("0.3333", "1/3"),
        ("3/4", r"\frac{3}{4}"),
        ("3/4", "75%"),
        ("0.125", r"12.5\%"),
        ("6.02e23", r"6.022 \times 10^{23}"),
        ("1.5e-3", "0.0015"),
        ("2.5 km", "2.5"),
        ("2.5", "2.5 km"),
        ("2.5 km", "2.501 km"),
        ("9.81 m/s^2", r"9.81\ \mathrm{m/s^2}"),
        ("1500 kg", "1.5 * 10^3 kg"),
        ("50 percent", "1/2"),
    ],
)
def test_numbers_that_are_the_same(right, answer):
    assert verdict(right, answer) == verdict(right, answer)
    assert verdict(right, answer).is_right
    assert verdict(right, answer).method == "numeric"


@pytest.mark.parametrize(
    ("right", "answer"),
    [
        ("42", "43"),
        ("42", "42.01"),  # a whole number is right exactly
        ("10000", "10001"),
        ("2.5 km", "2.5 m"),
        ("2.5 km", "2.6 km"),
        ("50%", "50"),
        ("3", "-3"),
        ("1/3", "1/0"),
        ("7", "9" * 6000),
        ("7", "1e999999999"),
    ],
)
def test_numbers_that_differ(right, answer):
    assert not verdict(right, answer).is_right


@pytest.mark.parametrize("text", ["", "three", "x = 3", "3 or 4", "1/0", "1e400", "2024-01-05", "9" * 400])
def test_no_numbers(text):
    assert parse_number(text) is None or parse_number(text).unit


@pytest.mark.parametrize(
    "answer", ["B", "b", "(B)", "B.", "B) dark blue", "B. dark blue", "Dark Blue", "The answer is B."]
)
def test_choices_that_are_right(answer):
    assert verdict("B", answer, kind="multipleChoice", text=CHOICES).is_right
    assert verdict("dark blue", answer, kind="multipleChoice", text=CHOICES).is_right
    assert verdict("B", answer, kind="multipleChoice", text=CHOICES).method == "choice"


@pytest.mark.parametrize("answer", ["A", "C", "42", "B or C", "BC", "blue", "", "B. red", "E"])
def test_choices_that_are_wrong(answer):
    assert not verdict("B", answer, kind="multipleChoice", text=CHOICES).is_right


def test_an_option_that_begins_with_a_letter_is_not_that_letter():
    assert verdict("D", "a mixture", kind="multipleChoice", text=CHOICES).is_right
    assert not verdict("A", "a mixture", kind="multipleChoice", text=CHOICES).is_right


def test_a_letter_without_listed_options():
    assert verdict("C", "(c)", kind="multipleChoice").is_right
    assert not verdict("C", "D", kind="multipleChoice").is_right


def test_normalizing_twice_changes_nothing():
    for text in (r"$\boxed{\frac{1}{2}}$", "The answer is 4.", "“so”", "A", "."):
        assert normalize(normalize(text)) == normalize(text)
