"""How a policy is written: one value with a text, for all that build such a text or take it apart.

uniform                     a behaviour policy without an argument
sticky:0.3, mixed:0.375     behaviour policies with a number
single:MODEL                one model throughout
epsilon-greedy:0.2:ROUTER   a router, with a share of uniform draws
reference:hidden            a reference that sees the simulator's hidden state; no router
NAME, FOLDER                an agent card, or the folder of a trained router
FOLDER@0.4                  a router that is told its cost weight
"""

from dataclasses import dataclass

COLON, AT = ":", "@"
SINGLE, REFERENCE, EPSILON_GREEDY = "single", "reference", "epsilon-greedy"

POLICY_FORMS = {
    "uniform": "uniform",
    "sticky": "sticky:P_SWITCH, such as sticky:0.3",
    SINGLE: "single:MODEL",
    "mixed": "mixed:SHARE_SINGLE, such as mixed:0.375",
    EPSILON_GREEDY: "epsilon-greedy:EPSILON:ROUTER, such as epsilon-greedy:0.2:runs/fitted-q",
}
"""How behaviour policies are written, by their first word."""


@dataclass(frozen=True)
class PolicyRef:
    """A policy as it is written; `str()` of it is the text.

    Attributes:
        form: First word, such as "single"; None for a card or a folder.
        argument: What follows the first word and its colon: a model, a number, a kind of reference; else the card or folder.
        router: The router of an epsilon-greedy policy.
    """

    form: str | None
    argument: str
    router: str | None = None

    @classmethod
    def parse(cls, text: str) -> "PolicyRef":
        """The policy of a text. Whether it exists is not asked.

        Example:
            >>> PolicyRef.parse("epsilon-greedy:0.2:runs/a")
            PolicyRef(form='epsilon-greedy', argument='0.2', router='runs/a')
            >>> PolicyRef.parse("runs/a@0.4")
            PolicyRef(form=None, argument='runs/a@0.4', router=None)
        """
        form, _, rest = text.partition(COLON)
        if form == EPSILON_GREEDY:
            argument, _, router = rest.partition(COLON)
            return cls(form, argument, router)
        if form in POLICY_FORMS or (form == REFERENCE and rest):
            return cls(form, rest)
        return cls(None, text)

    @classmethod
    def single(cls, model: str) -> "PolicyRef":
        """One model throughout."""
        return cls(SINGLE, model)

    @classmethod
    def reference(cls, kind: str) -> "PolicyRef":
        """A reference that sees the hidden state."""
        return cls(REFERENCE, kind)

    @property
    def model(self) -> str | None:
        """The model of a policy that calls one throughout; None of any other."""
        return self.argument if self.form == SINGLE else None

    @property
    def source(self) -> str:
        """Text of the router that decides: that of an epsilon-greedy policy, else the policy's own."""
        return self.router if self.router is not None else str(self)

    def __str__(self) -> str:
        """The text."""
        parts = (self.form, self.argument, self.router)
        return COLON.join(part for part in parts if part) if self.form else self.argument


def single_policy(model: str) -> str:
    """Text of the policy that calls one model throughout."""
    return str(PolicyRef.single(model))


def reference_policy(kind: str) -> str:
    """Text of a reference that sees the hidden state."""
    return str(PolicyRef.reference(kind))


def single_model(text: str) -> str | None:
    """The model of a policy that calls one throughout; None of any other."""
    return PolicyRef.parse(text).model


def name_at(name: str, cost_weight: float) -> str:
    """Name of a router at a cost weight; different weights give different names.

    Example:
        >>> name_at("frontier", 0.4), name_at("frontier", 3.0)
        ('frontier@0.4', 'frontier@3')
    """
    return f"{name}{AT}{float(cost_weight)!r}".removesuffix(".0")


def split_name_at(text: str) -> tuple[str, str | None]:
    """Name or folder and what is written after the last `@`; None without one.

    Example:
        >>> split_name_at("frontier@0.4"), split_name_at("frontier")
        (('frontier', '0.4'), ('frontier', None))
    """
    name, at, weight = text.rpartition(AT)
    return (name, weight) if at else (text, None)
