"""Judges: whether an answer is right. Rules for texts, numbers and multiple choice; `llm_judge` asks a model instead."""

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

from mtrouter_rl.envs.hle.questions import Question
from mtrouter_rl.records import JsonValue

_LATEX_WRAPPER = re.compile(r"\\(?:boxed|text|textbf|textit|mathrm|mathbf|mathit|operatorname|mbox)\s*\{([^{}]*)\}")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_LATEX_SPACE = re.compile(r"\\(?:left|right|displaystyle)\b|\\[,;:! ]|~")
_LATEX_DELIMITER = re.compile(r"\$+|\\[()\[\]]")
_CHARACTERS = str.maketrans({"−": "-", "–": "-", "×": "*", "·": "*", "“": '"', "”": '"', "‘": "'", "’": "'"})
_LEAD = re.compile(r"^(?:the )?(?:final |correct )?answer(?: is|:)\s*:?\s*")
_NUMBER = re.compile(
    r"(?P<sign>[+-]?)\s*(?P<mantissa>\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.?\d*|\.\d+)"
    r"(?:\s*/\s*(?P<divisor>\d+(?:\.\d+)?)|e(?P<e>[+-]?\d+)|\s*\*\s*10\s*\^\s*\{?(?P<ten>[+-]?\d+)\}?)?"
    r"\s*(?P<unit>%|[^\d\s(].*)?"
)
_MAX_CHARACTERS = 300  # no number that is meant as an answer is longer
_LETTER = re.compile(r"\(?([a-z])\)?(?:$|[.):,\s].*)")


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a judge says.

    Attributes:
        is_right: Whether the answer is right.
        method: How that was found: "exact", "numeric", "choice" or "llm".
        hidden: What else is known, such as the judge's own tokens and cost; logged apart, and never the episode's cost.
    """

    is_right: bool
    method: str
    hidden: Mapping[str, JsonValue] = field(default_factory=dict)


class Judge(Protocol):
    """Whoever judges."""

    def judge(self, question: Question, answer: str) -> Verdict:
        """Judge an answer.

        Raises:
            SimulatorError: If the judge cannot say; the episode is then failed and not scored, never wrong.
        """


def normalize(text: str) -> str:
    r"""Text for comparison: Unicode form, case, white space, LaTeX wrappers, quotes and punctuation at the end.

    Example:
        >>> normalize(r"The answer is $\boxed{\text{ Blue  Whale}}$.")
        'blue whale'
        >>> normalize(r"\frac{3}{4}")
        '3/4'
    """
    text = unicodedata.normalize("NFKC", text).translate(_CHARACTERS)
    text = _LATEX_SPACE.sub(" ", _LATEX_DELIMITER.sub(" ", text))
    text = text.replace("\\times", "*").replace("\\cdot", "*").replace("\\%", "%")
    before = ""
    while before != text:
        before = text
        text = _LATEX_WRAPPER.sub(r"\1", _LATEX_FRACTION.sub(r"\1/\2", text))
    text = " ".join(text.casefold().split())
    text = _LEAD.sub("", text)
    return text.strip(" .,;:!?'\"`*_") if len(text) > 1 else text


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number that an answer consists of.

    Attributes:
        value: Its value; a percentage is divided by 100.
        unit: What follows it, without spaces; empty if nothing does.
        is_integer: Whether it is written as a whole number.
    """

    value: float
    unit: str
    is_integer: bool


def parse_number(text: str) -> Number | None:
    """The number that a text is, with a unit behind it or none; None if it is anything else.

    Example:
        >>> parse_number("1.5 * 10^3 kg")
        Number(value=1500.0, unit='kg', is_integer=False)
        >>> parse_number("three") is None
        True
    """
    found = _NUMBER.fullmatch(normalize(text)) if len(text) <= _MAX_CHARACTERS else None
    if found is None:
        return None
    parts = found.groupdict()
    value = Fraction(parts["mantissa"].replace(",", ""))
    if parts["divisor"]:
        divisor = Fraction(parts["divisor"])
        if divisor == 0:
            return None
        value /= divisor
    exponent = int(parts["e"] or parts["ten"] or 0)
    if abs(exponent) > 300:
        return None
    value *= Fraction(10) ** exponent
    unit = "".join((parts["unit"] or "").split())
    if unit.startswith("%") or unit in ("percent", "percentage"):
        value, unit = value / 100, ""
    is_integer = "." not in parts["mantissa"] and not parts["divisor"] and exponent == 0 and value.denominator == 1
    return Number(value=float(-value if parts["sign"] == "-" else value), unit=unit, is_integer=is_integer)


class RuleJudge:
    """Judges without a model: multiple choice, then numbers, then texts."""

    def __init__(self, *, relative_tolerance: float) -> None:
        """Create the judge; the tolerance is for numbers that are not written as whole ones."""
        self._tolerance = relative_tolerance

    def judge(self, question: Question, answer: str) -> Verdict:
        """Judge an answer; see `Judge.judge`."""
        if question.answer_type == "multipleChoice":
            return Verdict(is_right=_choice(answer, question) == _choice(question.answer, question), method="choice")
        given, right = parse_number(answer), parse_number(question.answer)
        if given is not None and right is not None:
            return Verdict(is_right=self._are_equal(given, right), method="numeric")
        return Verdict(is_right=normalize(answer) == normalize(question.answer), method="exact")

    def _are_equal(self, given: Number, right: Number) -> bool:
        """A unit that one of them leaves out is taken for the other's; a whole number is right exactly or not at all."""
        if given.unit and right.unit and given.unit != right.unit:
            return False
        tolerance = 0.0 if right.is_integer else self._tolerance
        return math.isclose(given.value, right.value, rel_tol=tolerance, abs_tol=0.0)


def _choice(answer: str, question: Question) -> str:
    """Letter of an option, given by letter or by its text; the normalized text if it is none."""
    text = normalize(answer)
    options = {letter.casefold(): normalize(option) for letter, option in question.options.items()}
    by_text = [letter for letter, option in options.items() if option == text]
    if by_text:
        return by_text[0]
    letter = _LETTER.fullmatch(text)
    if letter and (not options or letter[1] in options):
        rest = normalize(text[letter.end(1) :].lstrip(" ).:,"))
        if not rest or rest == options.get(letter[1], rest):
            return letter[1]
    return text
