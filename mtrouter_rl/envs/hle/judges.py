"""Judges: whether an answer is right. Rules for texts, numbers and multiple choice; `llm_judge` asks a model instead."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Protocol

from mtrouter_rl.envs.hle.questions import Question
from mtrouter_rl.records import JsonValue

_LATEX_WRAPPER = re.compile(r"\\(?:boxed|text|textbf|textit|mathrm|mathbf|mathit|operatorname|mbox)\s{0,9}\{([^{}]*)\}")
_LATEX_FRACTION = re.compile(r"(\d?)\\[dt]?frac\s{0,9}\{([^{}]*)\}\s{0,9}\{([^{}]*)\}")
_LATEX_SPACE = re.compile(r"\\(?:left|right|displaystyle)\b|\\[,;:! ]|~")
_LATEX_DELIMITER = re.compile(r"\$+|\\[()\[\]]")
_MAX_NESTED = 8  # wrappers within each other; whoever writes more gives no answer
_CHARACTERS = str.maketrans(
    {"−": "-", "–": "-", "×": "*", "·": "*", "⋅": "*", "⁄": "/", "“": '"', "”": '"', "‘": "'", "’": "'", "µ": "μ"}
)
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"
_SUPERSCRIPT = re.compile(f"[{_SUPERSCRIPTS}]+")
_SUBSCRIPT_OF_DIGIT = re.compile("(?<=[0-9])[₀₁₂₃₄₅₆₇₈₉]+")
_PLAIN_DIGITS = str.maketrans(_SUPERSCRIPTS + "₀₁₂₃₄₅₆₇₈₉", "0123456789+-0123456789")
_LEAD = re.compile(r"(?:the )?(?:final |correct )?answer(?: is|:)\s?:?\s?", re.IGNORECASE)
_FACTORIAL = re.compile(r"[-+]?(?:[\d,. ]{0,99}\d|\w|\([^()]{1,99}\))!+")
_PLAIN_PART = re.compile(r"[\w.]*")
_DECIMAL = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.?\d*|\.\d+"
_EXPONENT = r"\{?(?P<%s>[+-]?\d{1,9})\}?"
_FACTOR = r"(?:[^\W\d_]+|[°Ω€$£¢Å]+[^\W\d_]*)(?:\^?\{?[+-]?\d{1,2}\}?)?"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s?(?:(?P<whole>\d+)\s(?=\d+\s?/))?(?P<mantissa>{_DECIMAL})"
    rf"(?:\s?/\s?(?P<divisor>\d+(?:\.\d+)?)|[eE](?P<e>[+-]?\d{{1,9}})|\s?[*xX]\s?10\s?\^\s?{_EXPONENT % 'ten'}"
    rf"|\s?\^\s?{_EXPONENT % 'power'})?"
    rf"\s?(?P<unit>%|{_FACTOR}(?:[*/](?:{_FACTOR}|\({_FACTOR}(?:[*/]{_FACTOR})*\)))*)?"
)
_AROUND_OPERATOR = re.compile(r"\s?([*/^])\s?")
_IN_BRACKETS = re.compile(r"\(([^()\d]+)\)")
_UNIT_FACTOR = re.compile(r"[^\W\d_]+")
_MAX_CHARACTERS = 300  # no number that is meant as an answer is longer
_MAX_EXPONENT = 300
_SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12, "mio": 6, "bn": 9}
_NO_UNITS = frozenset({"x", "y", "z", "i", "pi", "π", "or", "and", "to", "not", "no", "none", "but", "if", "by"}) | {
    *("plus", "minus", "times", "squared", "cubed", "factorial", "dozen", "inf")
}
"""What may stand behind a number and changes it, or tells of another: the text is then no number with a unit."""
_CASE_TELLS = frozenset("mpyz")
"""Prefixes that another case makes another size: milli and mega, pico and peta, yocto and yotta, zepto and zetta."""
_LONGEST_WITH_PREFIX = 4
_LETTER = re.compile(r"\(?([a-z])\)?(?:$|[.):,\s].*)")
_OTHER_LETTER = re.compile(r"^[a-z]$|(?:^|\W)(?:or|and|[b-hj-z])(?:\W|$)")


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

    The time it takes grows with the length of the text alone.

    Example:
        >>> normalize(r"The answer is $\boxed{\text{ Blue  Whale}}$.")
        'blue whale'
        >>> normalize(r"\frac{3}{4}"), normalize("10³")
        ('3/4', '10^3')
    """
    return _clean(text).casefold()


def _clean(text: str) -> str:
    """As `normalize`, the case kept, which tells units apart."""
    text = _SUPERSCRIPT.sub(lambda found: "^" + found[0].translate(_PLAIN_DIGITS), text)
    text = _SUBSCRIPT_OF_DIGIT.sub(lambda found: "_" + found[0].translate(_PLAIN_DIGITS), text)
    text = "".join(_written_fraction(character) for character in text) if not text.isascii() else text
    text = unicodedata.normalize("NFKC", text).translate(_CHARACTERS)
    text = _LATEX_SPACE.sub(" ", _LATEX_DELIMITER.sub(" ", text))
    text = text.replace("\\times", "*").replace("\\cdot", "*").replace("\\%", "%").replace("^\\circ", "°")
    for _ in range(_MAX_NESTED):
        before = text
        text = _LATEX_WRAPPER.sub(r"\1", _LATEX_FRACTION.sub(_plain_fraction, text))
        if before == text:
            break
    text = " ".join(text.split())
    lead = _LEAD.match(text)
    text = text[lead.end() :] if lead else text
    if len(text) < 2:
        return text
    is_factorial = _FACTORIAL.fullmatch(text) is not None
    return text.strip(" .,;:?'\"`*_") if is_factorial else text.strip(" .,;:!?'\"`*_")


def _written_fraction(character: str) -> str:
    """A character that is a fraction, set apart from a whole number before it."""
    if unicodedata.decomposition(character).startswith("<fraction>"):
        return " " + unicodedata.normalize("NFKC", character)
    return character


def _plain_fraction(found: re.Match[str]) -> str:
    """A LaTeX fraction on one line; brackets keep what stands above and below the line together."""
    before, above, below = found[1], *(part.strip() for part in found.groups()[1:])
    parts = (part if _PLAIN_PART.fullmatch(part) else f"({part})" for part in (above, below))
    return f"{before}{' ' if before else ''}{'/'.join(parts)}"


@dataclass(frozen=True, kw_only=True)
class Number:
    """A number that an answer consists of.

    Attributes:
        value: Its value, exact; a percentage is divided by 100.
        unit: What follows it, without spaces; empty if nothing does.
        is_integer: Whether it is written as a whole number.
    """

    value: Fraction
    unit: str
    is_integer: bool


def parse_number(text: str) -> Number | None:
    """The number that a text is, with one unit behind it or none; None if it is anything else, such as two numbers.

    Example:
        >>> parse_number("1.5 * 10^3 kg")
        Number(value=Fraction(1500, 1), unit='kg', is_integer=False)
        >>> parse_number("three") is None, parse_number("5 kg or 6 kg") is None
        (True, True)
    """
    if len(text) > _MAX_CHARACTERS:
        return None
    found = _NUMBER.fullmatch(_one_token(_clean(text)))
    if found is None:
        return None
    parts = found.groupdict()
    value = _value(parts)
    if value is None:
        return None
    unit = parts["unit"] or ""
    factors = {factor.casefold() for factor in _UNIT_FACTOR.findall(unit)}
    if factors & _NO_UNITS:
        return None
    is_integer = value.denominator == 1 and not any(parts[kind] for kind in ("divisor", "e", "ten", "power"))
    is_integer = is_integer and "." not in parts["mantissa"]
    if unit == "%" or unit.casefold() in ("percent", "percentage"):
        value, unit, is_integer = value / 100, "", is_integer and value % 100 == 0
    elif unit.casefold() in _SCALES:
        value, unit = value * 10 ** _SCALES[unit.casefold()], ""
    return Number(value=-value if parts["sign"] == "-" else value, unit=unit, is_integer=is_integer)


def _one_token(text: str) -> str:
    """The text with a unit such as "J / (mol K)" drawn together."""
    text = _IN_BRACKETS.sub(lambda found: "(" + "*".join(found[1].split()) + ")", text[: 2 * _MAX_CHARACTERS])
    return _AROUND_OPERATOR.sub(r"\1", text)


def _value(parts: Mapping[str, str | None]) -> Fraction | None:
    """Value of what `_NUMBER` found, without its sign; None if there is none, or it is beyond all that is measured."""
    value = Fraction((parts["mantissa"] or "").replace(",", ""))
    if parts["divisor"]:
        divisor = Fraction(parts["divisor"])
        if divisor == 0:
            return None
        value /= divisor
    if parts["whole"]:
        return value + int(parts["whole"]) if parts["divisor"] else None
    power, exponent = int(parts["power"] or 1), int(parts["e"] or parts["ten"] or 0)
    if max(abs(power), abs(exponent)) > _MAX_EXPONENT or (value == 0 and power < 0):
        return None
    return value**power * Fraction(10) ** exponent


def _same_unit(one: str, other: str) -> bool:
    """Whether two units are the same. Case does not count, except where it tells a prefix: mW is not MW."""
    one, other = (unit.translate(str.maketrans("", "", "^{}")) for unit in (one, other))
    if one.casefold() != other.casefold():
        return False
    pairs = zip(_UNIT_FACTOR.findall(one), _UNIT_FACTOR.findall(other), strict=True)
    return all(
        mine[0] == theirs[0]
        or len(mine) > _LONGEST_WITH_PREFIX
        or len(mine) == 1
        or mine[0].casefold() not in _CASE_TELLS
        for mine, theirs in pairs
    )


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
        if given.unit and right.unit and not _same_unit(given.unit, right.unit):
            return False
        tolerance = Fraction(0) if right.is_integer else Fraction(self._tolerance)
        return abs(given.value - right.value) <= tolerance * max(abs(given.value), abs(right.value))


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
        if not rest or rest == options.get(letter[1], rest if not options and not _OTHER_LETTER.search(rest) else None):
            return letter[1]
    return text
