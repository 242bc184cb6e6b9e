"""Five hundred answers that are made by rule: what is right or wrong about each follows from how it was made."""

import itertools
import time
from fractions import Fraction

import pytest

from mtrouter_rl.envs.hle.judges import RuleJudge, normalize, parse_number
from mtrouter_rl.envs.hle.questions import Question

JUDGE = RuleJudge(relative_tolerance=0.001)
WHOLE = ("5", "42", "103", "1024", "-17", "20000", "9007199254740993")
DECIMALS = ("42.5", "0.125", "-2.75", "3.14159", "1234.5")
UNITS = ("kg", "m/s^2", "MW", "J/(mol*K)", "°C")
WORDS = ("Blue whale", "x^2 + 1", "Noether's theorem", "H2O", "Kyiv")
CHOICES = "Which?\nAnswer Choices:\nA. red\nB. dark blue\nC. 42\nD. a mixture"


def with_separators(text):
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    return f"{sign}{int(digits):,}"


def of_whole_numbers():
    for right in WHOLE:
        number = int(right)
        yield from (
            (right, answer, True)
            for answer in (
                right,
                f" {right} ",
                f"${right}$",
                rf"\boxed{{{right}}}",
                rf"\boxed{{\text{{{right}}}}}",
                f"The answer is {right}.",
                f"Final answer: {right}",
                f"**{right}**",
                right.replace("-", "−"),
                f"{right}.0",
                with_separators(right),
                f"{right}/1",
                rf"\frac{{{2 * number}}}{{2}}" if number > 0 else right,
                f"{right} kg",
                f"{right}^1",
                f"{right}e0",
            )
        )
        yield from (
            (right, answer, False)
            for answer in (
                str(number + 1),
                str(-number),
                f"{right}.01",
                f"{right} or {number + 1}",
                f"{right} kg or {number + 1} kg",
                f"{right}, {number + 1}",
                f"{right} and {number + 1}",
                f"{right}%",
                f"{right}!",
                f"{right}²",
                f"±{right}",
                f"{right} million",
                f"not {right}",
                f"{right} - 1",
                f"{right}i",
                f"{right}½",
                f"{right} squared",
                f"<{right}",
                f"{right}/2",
                f"{right} 1/2",
                "9" * 280 + "e300",
                f"{right}e999999999",
                f"{right}^999999999",
                "",
            )
        )


def of_decimals():
    for right in DECIMALS:
        value = Fraction(right)
        exact = f"{value.numerator}/{value.denominator}"
        yield from (
            (right, answer, True)
            for answer in (
                right,
                exact,
                f"{float(value * 1000)!r}e-3",
                rf"{float(value / 100)!r} \times 10^{{2}}",
                f"{float(value / 100)!r} x 10²",
                f"{float(value * 100)!r}%",
                f"{float(value) * 1.0001:.9f}",
                f"${right}$.",
            )
        )
        yield from (
            (right, answer, False)
            for answer in (
                f"{float(value) * 1.01:.9f}",
                f"{right} or {float(value) * 2}",
                f"{right}; {float(value) * 2}",
                f"{right} x",
                f"{right}π",
                f"{right} × 10³",
                f"{right}e3",
                f"between {right} and {float(value) * 2}",
            )
        )


def of_units():
    for right, other in itertools.permutations(UNITS, 2):
        yield f"2.5 {right}", f"2.5 {other}", False
    for unit in UNITS:
        right = f"2.5 {unit}"
        yield from (
            (right, answer, True)
            for answer in (f"2.5{unit}", f"2.501 {unit}", "2.5", rf"2.5\ \mathrm{{{unit}}}", f"{right}.")
        )
        yield from (
            (right, answer, False)
            for answer in (f"2.6 {unit}", f"{right} or 3.5 {unit}", f"{right}, 2.6 {unit}", f"-2.5 {unit}")
        )
    yield from (
        ("9.81 m/s²", "9.81 m/s^2", True),
        ("9.81 m / s^2", "9.81 m/s²", True),
        ("8.314 J/(mol K)", "8.314 J / (mol*K)", True),
        ("5 mW", "5 MW", False),
        ("5 MPa", "5 mPa", False),
        ("5 kg", "5 KG", True),
        ("5 meters", "5 Meters", True),
        ("10³", "1000", True),
        ("10³", "103", False),
        ("103", "10³", False),
        ("42", "4²", False),
        ("16", "4²", True),
        ("2^10", "1024", True),
        ("5 billion", "5000000000", True),
        ("5 billion", "5", False),
        ("4.5", "4½", True),
        ("4.5", r"4\frac{1}{2}", True),
        ("20.5", "4½", False),
        (r"\frac{a+b}{c}", "a+b/c", False),
        (r"\frac{a+b}{c}", "(a+b)/c", True),
        ("10000000000000001", "10000000000000000", False),
        ("1012", "101₂", False),
    )


def of_words():
    for right in WORDS:
        yield from (
            (right, answer, True)
            for answer in (
                right,
                right.upper(),
                f"  {right}. ",
                rf"\text{{{right}}}",
                rf"$\boxed{{\text{{{right}}}}}$",
                f"The final answer is: {right}",
                f'"{right}"',
                right.replace(" ", "  "),
                right.replace("^2", "²"),
            )
        )
        yield from ((right, answer, False) for answer in (f"{right} or {other}" for other in WORDS if other != right))
        yield from ((right, other, False) for other in WORDS if other != right)
        yield from (
            (right, answer, False)
            for answer in (
                f"not {right}",
                "",
                f"{right} {right}",
                right[:-1],
                r"\boxed{" * 40 + right + "}" * 40,
                "yes",
            )
        )


def of_choices():
    options = {"A": "red", "B": "dark blue", "C": "42", "D": "a mixture"}
    for (letter, text), (other, other_text) in itertools.permutations(options.items(), 2):
        yield letter, letter, True
        yield letter, f"({letter.lower()}) {text}", True
        yield letter, text, True
        yield letter, other, False
        yield letter, f"{letter} or {other}", False
        yield letter, f"{letter}. {other_text}", False
    yield from (("C", answer, False) for answer in ("BC", "A, B, C", "all", "C, D", "C D", ""))


EXACT = [("exactMatch", *one) for make in (of_whole_numbers, of_decimals, of_units, of_words) for one in make()]
CASES = list(dict.fromkeys([*EXACT, *(("multipleChoice", *one) for one in of_choices())]))


def test_there_are_five_hundred():
    assert len(CASES) >= 500
    assert sum(is_right for *_, is_right in CASES) >= 150


def test_none_is_judged_wrong():
    wrong = []
    for kind, right, answer, is_right in CASES:
        text = CHOICES if kind == "multipleChoice" else "?"
        question = Question(id="q", text=text, answer=right, answer_type=kind, category="Math")
        if JUDGE.judge(question, answer).is_right != is_right:
            wrong.append((kind, right, answer, is_right))
    assert not wrong


@pytest.mark.parametrize("answer", ["C, D", "C or D", "C, A", "C. 42 or D"])
def test_two_letters_are_none_where_no_options_are_listed(answer):
    question = Question(id="q", text="?", answer="C", answer_type="multipleChoice", category="Math")
    assert not JUDGE.judge(question, answer).is_right
    assert JUDGE.judge(question, "C. because it is blue").is_right


@pytest.mark.parametrize(
    "hostile",
    [
        r"\boxed{" * 5000,
        r"\boxed{" * 5000 + "}" * 5000,
        r"\frac{1}" * 5000,
        r"\frac " * 5000,
        " " * 40_000 + "5",
        "answer is " * 4000,
        "9" * 40_000,
        "$" * 40_000,
        "²" * 40_000,
        "½" * 20_000,
        "\ufdfa" * 10_000,
        "kg*" * 10_000,
        "(" * 40_000,
    ],
    ids=lambda text: text[:8].strip() or "blanks",
)
def test_a_long_answer_takes_no_time(hostile):
    start = time.process_time()
    assert parse_number(hostile) is None
    normalize(hostile)
    question = Question(id="q", text="?", answer="5", answer_type="exactMatch", category="Math")
    JUDGE.judge(question, hostile)
    assert time.process_time() - start < 0.5
