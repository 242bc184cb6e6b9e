"""What the synthetic questions are made of: per category a kind of invented thing with quantities, and formulas over them.

Every number is drawn by a generator and every thing is invented; nothing here is from any benchmark. A formula is a short
program that sets `result`; it is what the expert runs, and what the right answer is worked out with.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A property that a document states.

    Attributes:
        name: In words.
        unit: In words or as a symbol; empty for a plain number.
        low: Smallest whole number that is drawn.
        high: Largest.
    """

    name: str
    unit: str
    low: int
    high: int


@dataclass(frozen=True, kw_only=True)
class Formula:
    """A question that is answered by one program over quantities of one or two things, or by two programs over none.

    Attributes:
        ask: Question; `{a}`, `{b}` are names of things, `{n}`, `{m}`, `{k}` numbers.
        program: Sets `result` from the variables `a_QUANTITY`, `b_QUANTITY` (index of the quantity), `n`, `m`, `k`.
        second: Second program, which finds the result of the first as `first`; empty if there is none.
        ranges: Smallest and largest value of the numbers.
        unit: Of the result, for the question.
    """

    ask: str
    program: str
    second: str = ""
    ranges: Mapping[str, tuple[int, int]]
    unit: str = ""


@dataclass(frozen=True, kw_only=True)
class Topic:
    """What a category asks about.

    Attributes:
        thing: Kind of invented thing.
        quantities: What its documents state.
        about_one: Formula over one thing.
        about_two: Formula over two things.
        computed: Formula of two programs over no thing.
        shapes: Shapes of question in turn: "computed", "stated", "about_one", "about_two" or "choice".
    """

    thing: str
    quantities: tuple[Quantity, Quantity, Quantity]
    about_one: Formula
    about_two: Formula
    computed: Formula
    shapes: tuple[str, ...]


_CALCULATING = ("computed", "about_one", "about_two", "computed", "choice")
_BALANCED = ("about_two", "computed", "choice", "about_one", "stated")
_READING = ("stated", "about_two", "choice", "stated", "about_one", "computed")

TOPICS: dict[str, Topic] = {
    "Math": Topic(
        thing="recurrence",
        quantities=(
            Quantity(name="first term", unit="", low=3, high=99),
            Quantity(name="multiplier", unit="", low=3, high=60),
            Quantity(name="modulus", unit="", low=101, high=997),
        ),
        about_one=Formula(
            ask="The recurrence {a} starts at its first term; each further term is the one before times the "
            "multiplier plus {k}, "
            "reduced by the modulus. What is the term {n} steps after the first?",
            program="x = a_0\nfor _ in range(n):\n    x = (x * a_1 + k) % a_2\nresult = x",
            ranges={"n": (20, 400), "k": (1, 50)},
        ),
        about_two=Formula(
            ask="How many integers from 1 to {n} are divisible by the multiplier of the recurrence {a} or by "
            "that of the "
            "recurrence {b}?",
            program="result = sum(i % a_1 == 0 or i % b_1 == 0 for i in range(1, n + 1))",
            ranges={"n": (500, 4000)},
        ),
        computed=Formula(
            ask="Let p be the smallest prime above {n}. What is the smallest k > 0 for which {m} to the power k "
            "leaves the "
            "remainder 1 when divided by p?",
            program="p = n + 1\nwhile any(p % d == 0 for d in range(2, int(p ** 0.5) + 1)):\n    p += 1\nresult = p",
            second="k, x = 1, m % first\nwhile x != 1:\n    k, x = k + 1, x * m % first\nresult = k",
            ranges={"n": (200, 1500), "m": (2, 90)},
        ),
        shapes=_CALCULATING,
    ),
    "Computer Science/AI": Topic(
        thing="processor",
        quantities=(
            Quantity(name="clock rate", unit="MHz", low=120, high=900),
            Quantity(name="cost of a multiplication", unit="cycles", low=3, high=40),
            Quantity(name="cost of a branch", unit="cycles", low=2, high=25),
        ),
        about_one=Formula(
            ask="A loop on the processor {a} runs {n} times; each pass has {m} multiplications and one branch. "
            "How long does it "
            "take?",
            program="result = n * (m * a_1 + a_2) / a_0",
            ranges={"n": (1000, 90000), "m": (2, 30)},
            unit="microseconds",
        ),
        about_two=Formula(
            ask="{n} multiplications and {m} branches run on the processors {a} and {b}. How many times as long "
            "as {b} does {a} "
            "need?",
            program="result = (n * a_1 + m * a_2) / a_0 / ((n * b_1 + m * b_2) / b_0)",
            ranges={"n": (10, 900), "m": (10, 900)},
        ),
        computed=Formula(
            ask="A 16-bit register starts at {n} and is {k} times replaced by (75 r + {m}) mod 65536. Starting "
            "from the last value "
            "plus 1, how many steps does the Collatz iteration need to reach 1?",
            program="r = n\nfor _ in range(k):\n    r = (75 * r + m) % 65536\nresult = r",
            second="x, steps = first + 1, 0\nwhile x != 1:\n    x, steps = (x // 2 if x % 2 == 0 else 3 * x + 1), "
            "steps + 1\n"
            "result = steps",
            ranges={"n": (1, 60000), "m": (1, 999), "k": (20, 300)},
        ),
        shapes=_CALCULATING,
    ),
    "Physics": Topic(
        thing="alloy",
        quantities=(
            Quantity(name="density", unit="kg/m^3", low=2000, high=12000),
            Quantity(name="specific heat capacity", unit="J/(kg K)", low=200, high=950),
            Quantity(name="speed of sound", unit="m/s", low=1500, high=6500),
        ),
        about_one=Formula(
            ask="How much heat warms a cube of the alloy {a} with an edge of {n} cm by {m} K?",
            program="result = a_0 * (n / 100) ** 3 * a_1 * m / 1000",
            ranges={"n": (3, 30), "m": (5, 90)},
            unit="kJ",
        ),
        about_two=Formula(
            ask="A rod is {n} m of the alloy {a} followed by {m} m of the alloy {b}. How long does sound take "
            "from end to end?",
            program="result = 1000 * (n / a_2 + m / b_2)",
            ranges={"n": (2, 80), "m": (2, 80)},
            unit="ms",
        ),
        computed=Formula(
            ask="A body of {m} kg falls from rest with the drag force k v^2, k = {k} g/m, and g = 9.81 m/s^2. "
            "What is the ratio of "
            "its kinetic energy after {n} s to that at its terminal speed?",
            program="import math\nresult = math.sqrt(m * 9.81 / (k / 1000))",
            second="import math\nresult = math.tanh(9.81 * n / first) ** 2",
            ranges={"n": (1, 9), "m": (2, 90), "k": (20, 900)},
        ),
        shapes=_BALANCED,
    ),
    "Biology/Medicine": Topic(
        thing="bacterium",
        quantities=(
            Quantity(name="doubling time", unit="minutes", low=15, high=95),
            Quantity(name="genome length", unit="kilobases", low=900, high=8000),
            Quantity(name="mutation rate", unit="mutations per gigabase and division", low=1, high=80),
        ),
        about_one=Formula(
            ask="A culture of the bacterium {a} starts with {n} cells and grows without limit. How many "
            "mutations does one cell "
            "line gather on average in {m} hours?",
            program="result = m * 60 / a_0 * a_1 * a_2 / 1e6",
            ranges={"n": (10, 900), "m": (20, 400)},
        ),
        about_two=Formula(
            ask="Cultures of the bacteria {a} and {b} start with {n} and {m} cells. After how many minutes "
            "would exponential "
            "growth make them equally large (negative if that was before the start)?",
            program="import math\nresult = math.log2(m / n) / (1 / a_0 - 1 / b_0)",
            ranges={"n": (10, 900), "m": (1000, 90000)},
            unit="minutes",
        ),
        computed=Formula(
            ask="A recessive lethal allele has the frequency {n} per thousand. What is its frequency after {m} "
            "generations of "
            "random mating, and how many carriers per {k} people does that make? Give the number of carriers.",
            program="q = n / 1000\nfor _ in range(m):\n    q = q / (1 + q)\nresult = q",
            second="result = k * 2 * first * (1 - first) / (1 - first ** 2)",
            ranges={"n": (10, 400), "m": (2, 40), "k": (1000, 90000)},
        ),
        shapes=_BALANCED,
    ),
    "Chemistry": Topic(
        thing="compound",
        quantities=(
            Quantity(name="molar mass", unit="g/mol", low=40, high=480),
            Quantity(name="solubility in water", unit="g/L", low=2, high=900),
            Quantity(name="enthalpy of fusion", unit="kJ/mol", low=3, high=60),
        ),
        about_one=Formula(
            ask="How much heat melts the mass of the compound {a} that saturates {n} mL of water?",
            program="result = n / 1000 * a_1 / a_0 * a_2",
            ranges={"n": (50, 5000)},
            unit="kJ",
        ),
        about_two=Formula(
            ask="{n} g of the compound {a} and {m} g of the compound {b} are mixed. What is the mole fraction of {a}?",
            program="result = (n / a_0) / (n / a_0 + m / b_0)",
            ranges={"n": (5, 400), "m": (5, 400)},
        ),
        computed=Formula(
            ask="A weak acid has the dissociation constant {n}e-6. Which percentage of it is dissociated in a "
            "{m} millimolar "
            "solution?",
            program="import math\nc = m / 1000\nka = n * 1e-6\nresult = (-ka + math.sqrt(ka * ka + 4 * ka * c)) / 2",
            second="result = 100 * first / (m / 1000)",
            ranges={"n": (2, 900), "m": (5, 900)},
            unit="percent",
        ),
        shapes=_BALANCED,
    ),
    "Engineering": Topic(
        thing="motor",
        quantities=(
            Quantity(name="winding resistance", unit="milliohm", low=20, high=900),
            Quantity(name="torque constant", unit="mN m/A", low=15, high=300),
            Quantity(name="rated speed", unit="rpm", low=600, high=9000),
        ),
        about_one=Formula(
            ask="Which power does the winding of the motor {a} turn into heat while it gives a torque of {n} mN m?",
            program="result = (n / a_1) ** 2 * a_0 / 1000",
            ranges={"n": (200, 9000)},
            unit="W",
        ),
        about_two=Formula(
            ask="The motors {a} and {b} drive one shaft through gears that let each run at its rated speed; "
            "each takes {n} A. Which "
            "mechanical power do they give together?",
            program="import math\nresult = n / 1000 * (a_1 * a_2 + b_1 * b_2) * 2 * math.pi / 60",
            ranges={"n": (2, 60)},
            unit="W",
        ),
        computed=Formula(
            ask="A steel beam (E = 210 GPa, I = {k} cm^4) of {m} m on two supports carries {n} kg at its "
            "middle. What is its lowest "
            "natural frequency by the static deflection, with g = 9.81 m/s^2?",
            program="result = n * 9.81 * m ** 3 / (48 * 210e9 * k * 1e-8)",
            second="import math\nresult = math.sqrt(9.81 / first) / (2 * math.pi)",
            ranges={"n": (20, 900), "m": (2, 9), "k": (80, 2500)},
            unit="Hz",
        ),
        shapes=_BALANCED,
    ),
    "Humanities/Social Science": Topic(
        thing="dynasty",
        quantities=(
            Quantity(name="founding year", unit="", low=210, high=1480),
            Quantity(name="number of rulers", unit="", low=4, high=31),
            Quantity(name="mean length of a reign", unit="years", low=6, high=29),
        ),
        about_one=Formula(
            ask="In which year did the reign of the last ruler of the {a} dynasty end, if {n} years of vacancy "
            "are added?",
            program="result = a_0 + a_1 * a_2 + n",
            ranges={"n": (1, 40)},
        ),
        about_two=Formula(
            ask="How many years lie between the founding of the {a} and the {b} dynasty?",
            program="result = abs(a_0 - b_0)",
            ranges={},
        ),
        computed=Formula(
            ask="A calendar has {m} months of {k} days and weeks of 9 days. Day 1 of year 1 is the first day of "
            "a week. Which day of "
            "the week (1 to 9) is day 1 of year {n}?",
            program="result = (n - 1) * m * k",
            second="result = first % 9 + 1",
            ranges={"n": (20, 1900), "m": (7, 15), "k": (19, 40)},
        ),
        shapes=_READING,
    ),
    "Other": Topic(
        thing="board game",
        quantities=(
            Quantity(name="number of tiles", unit="", low=24, high=240),
            Quantity(name="value of a tile", unit="points", low=2, high=19),
            Quantity(name="number of rounds", unit="", low=3, high=18),
        ),
        about_one=Formula(
            ask="What is the highest score in the board game {a} if all tiles count in every round and {n} "
            "points are taken off?",
            program="result = a_0 * a_1 * a_2 - n",
            ranges={"n": (1, 90)},
        ),
        about_two=Formula(
            ask="By how much do the numbers of tiles of the board games {a} and {b} differ?",
            program="result = abs(a_0 - b_0)",
            ranges={},
        ),
        computed=Formula(
            ask="How likely is a sum of at least {n} with {m} fair dice of {k} sides?",
            program="ways = {0: 1}\nfor _ in range(m):\n    new = {}\n    for total, count in ways.items():\n"
            "        for side in range(1, k + 1):\n            new[total + side] = new.get(total + side, 0) "
            "+ count\n    ways = new\n"
            "result = sum(count for total, count in ways.items() if total >= n)",
            second="result = 100 * first / k ** m",
            ranges={"n": (8, 18), "m": (3, 5), "k": (5, 9)},
            unit="percent",
        ),
        shapes=_READING,
    ),
}
"""Category -> what its synthetic questions are made of."""
